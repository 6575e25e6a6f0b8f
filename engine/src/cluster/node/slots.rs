//! Who owns which slot: what stands in the bucket, and what this node changes there.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::Instant;

use super::Node;
use crate::bucket;
use crate::cluster::owners;
use crate::ids::{NodeSlot, ShardId, SlotId};
use crate::mail::ClusterNews;

/// How long a node listens to who is there before it takes slots, and before slots move to one that came.
pub(super) const SETTLE: Duration = Duration::from_secs(2);

/// Slots that move to a better owner with a beat: each is without an owner for a moment.
const MOVES_MAX: usize = 8;

/// What keys of slots in the bucket begin with.
const SLOT: &str = "slot.";

/// Slots and owners, as they stand in the bucket.
pub(super) type Claims = Vec<Option<Claim>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// The name of the owner; empty where it was given up.
    pub(super) owner: String,
    pub(super) revision: u64,
}

impl Node {
    /// What the bucket says of a slot.
    pub(super) fn claimed(&mut self, slot: SlotId, entry: &bucket::Entry) {
        let owner = entry.value.as_deref().unwrap_or_default();
        let owner = String::from_utf8_lossy(owner).into_owned();
        let Some(claim) = self.claims.get_mut(slot.index()) else { return };
        if claim.as_ref().is_some_and(|claim| claim.revision >= entry.revision) {
            return;
        }
        *claim = Some(Claim { owner, revision: entry.revision });
        self.point(slot);
    }

    pub(super) fn point_all(&mut self) {
        SlotId::all().for_each(|slot| self.point(slot));
    }

    /// Has mail for a slot go to its owner, and its stream be this node's or not.
    pub(super) fn point(&mut self, slot: SlotId) {
        let claim = self.claims.get(slot.index()).and_then(Option::as_ref);
        let owner = claim.map_or("", |claim| &*claim.owner);
        let is_own = owner == self.plan.node && !self.is_cut_off;
        let shard = match self.peers.get(owner) {
            _ if is_own => ShardId::of(NodeSlot::OWN, self.streams.shard(slot) as u16),
            Some(peer) if peer.is_there && peer.numbers.shards > 0 => {
                ShardId::of(peer.slot, slot.index() as u16 % peer.numbers.shards)
            }
            _ => ShardId::NOBODY,
        };
        match is_own {
            true => self.streams.take_over(slot),
            false => self.streams.release(slot),
        }
        let Some(known) = &self.shared.owners else { return };
        if known.of(slot) != shard {
            known.set(slot, shard);
            self.tell_all(ClusterNews::SlotMoved(slot));
        }
    }

    /// Takes slots that nobody has, and gives slots to those who are to have them.
    pub(super) fn share_slots(&mut self, now: Instant) {
        let is_calm = now.duration_since(self.settled) > SETTLE;
        let mut moves = MOVES_MAX;
        let there = self.peers.iter().filter(|(_, peer)| peer.is_there && !peer.is_leaving);
        let others = there.map(|(name, _)| name.as_str());
        let own = (!self.is_leaving).then_some(self.plan.node.as_str());
        let nodes: Vec<&str> = others.chain(own).collect();
        if nodes.is_empty() {
            return;
        }
        for (slot, wanted) in SlotId::all().zip(owners::owners(&nodes)) {
            let claim = self.claims.get(slot.index()).cloned().flatten();
            let owner = claim.as_ref().map_or("", |claim| &*claim.owner);
            let is_owned =
                owner == self.plan.node || self.peers.get(owner).is_some_and(|peer| peer.is_there);
            let is_to_take = !is_owned && wanted == self.plan.node;
            let is_to_give = owner == self.plan.node
                && wanted != self.plan.node
                && (is_calm || self.is_leaving)
                && moves > 0;
            if !is_to_take && !is_to_give {
                continue;
            }
            if is_to_give && !self.is_leaving {
                moves -= 1;
            }
            self.claim(slot, claim, wanted);
        }
    }

    /// Has it be written who owns a slot, unless somebody else has written since. That it is so is told by the
    /// bucket; where it failed, it tells why.
    fn claim(&mut self, slot: SlotId, before: Option<Claim>, owner: String) {
        if !self.claiming.borrow_mut().insert(slot) {
            return;
        }
        let (bucket, claiming) = (Rc::clone(&self.bucket), Rc::clone(&self.claiming));
        let before = before.map_or(0, |claim| claim.revision);
        spawn_local(async move {
            let _ = bucket.write(&format!("{SLOT}{slot}"), Some(owner.into()), before).await;
            claiming.borrow_mut().remove(&slot);
        });
    }

    /// Gives all slots to others, who take them at once.
    pub(super) fn leave(&mut self) {
        if std::mem::replace(&mut self.is_leaving, true) {
            return;
        }
        self.tell_others();
        self.share_slots(Instant::now());
        self.lending.leave();
    }

    /// Whether nothing is left to give, or nobody to give it to.
    pub(super) fn has_left(&self) -> bool {
        let is_own = |claim: &&Option<Claim>| {
            claim.as_ref().is_some_and(|claim| claim.owner == self.plan.node)
        };
        let is_alone = !self.peers.values().any(|peer| peer.is_there && !peer.is_leaving);
        is_alone || self.is_cut_off || !self.claims.iter().any(|claim| is_own(&claim))
    }
}

/// The slot of an entry of the bucket that tells who owns it.
pub(super) fn slot_of(key: &str) -> Option<SlotId> {
    let number = key.strip_prefix(SLOT)?.parse().ok();
    number.filter(|number| *number < SlotId::COUNT).map(SlotId)
}
