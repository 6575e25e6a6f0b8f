//! Other nodes: who is there, and mail to them and from them.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::Message;
use bytes::{BufMut as _, Bytes, BytesMut};
use pushflo_protocol::answer::NodeNumbers;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Node, node_subject, try_publish};
use crate::cluster::{FromCluster, Posted};
use crate::ids::NodeSlot;
use crate::link::{Link, LinkEvent};
use crate::mail::{ClusterNews, wire};

/// After what silence a node is gone.
const SILENCE: Duration = Duration::from_secs(3);

/// After what silence of NATS a node sends its subscribers away, and within what time.
const GIVEN_UP: Duration = Duration::from_secs(10);
const SEND_AWAY_MS: u64 = 5_000;

/// What a node tells of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Beat {
    name: String,
    /// When it started: another one of that name is another node.
    incarnation: u64,
    /// It goes away and takes no slots.
    #[serde(default)]
    is_leaving: bool,
    #[serde(flatten)]
    numbers: NodeNumbers,
}

/// Another node.
pub(super) struct Peer {
    pub(super) slot: NodeSlot,
    pub(super) incarnation: u64,
    pub(super) numbers: NodeNumbers,
    pub(super) is_leaving: bool,
    pub(super) heard: Instant,
    pub(super) is_there: bool,
    pub(super) link: Link,
    pub(super) subject: String,
    /// Messages that came and wait for room in mailboxes.
    pub(super) came: VecDeque<Bytes>,
}

impl Node {
    /// A place that no other node has and that none had for as long as can be.
    pub(super) fn free_slot(&mut self) -> Option<NodeSlot> {
        let most = NodeSlot::COUNT_MAX as u8 - 2;
        for _ in 0..most {
            self.last_slot = NodeSlot(self.last_slot.0 % most + 1);
            if self.peers.values().all(|peer| peer.slot != self.last_slot) {
                return Some(self.last_slot);
            }
        }
        None
    }

    /// Mail of a shard of this node for one of another.
    pub(super) fn post(&mut self, posted: Posted) {
        let Posted { from, to, mail } = posted;
        let now_ms = self.now_ms();
        let peer = self.peers.values_mut().find(|peer| peer.slot == to.node());
        let is_sent = peer.filter(|peer| peer.link.is_up()).is_some_and(|peer| {
            let bytes = wire::encode(peer.slot, from, to, mail);
            bytes.is_some_and(|bytes| {
                self.shared.cluster.cluster_mail_total.increment();
                peer.link.send(&bytes.into(), now_ms);
                true
            })
        });
        if !is_sent {
            self.undelivered.insert((from.index(), to.node()));
        }
    }

    /// A node tells that it is there.
    pub(super) fn beat(&mut self, message: &Message) {
        let Ok(beat) = serde_json::from_slice::<Beat>(&message.payload) else { return };
        let now = Instant::now();
        if beat.name == self.plan.node {
            if beat.incarnation == self.incarnation {
                self.own_heard = now;
                if let Some(owners) = self.shared.owners.as_ref().filter(|_| !self.is_cut_off) {
                    owners.set_reached(true);
                }
            } else if beat.incarnation > self.incarnation {
                tracing::error!(
                    node = beat.name,
                    "another node has this name: give each its own with cluster.node"
                );
            }
            return;
        }
        let now_ms = self.now_ms();
        let session = (self.incarnation << 16).max(1);
        let is_known = self.peers.contains_key(&beat.name);
        let free = if is_known { None } else { self.free_slot() };
        if !is_known && free.is_none() {
            return tracing::error!(
                node = beat.name,
                "the cluster has more nodes than are possible"
            );
        }
        let peer = self.peers.entry(beat.name.clone()).or_insert_with(|| Peer {
            slot: free.unwrap_or_default(),
            incarnation: beat.incarnation,
            numbers: NodeNumbers::default(),
            is_leaving: false,
            heard: now,
            is_there: false,
            link: Link::new(session, now_ms),
            subject: node_subject(&self.plan.prefix, &beat.name),
            came: VecDeque::new(),
        });
        if beat.incarnation < peer.incarnation {
            return;
        }
        let has_changed = !peer.is_there
            || peer.incarnation != beat.incarnation
            || peer.numbers.shards != beat.numbers.shards
            || peer.is_leaving != beat.is_leaving;
        peer.heard = now;
        peer.numbers = beat.numbers;
        if has_changed {
            let (node, shards) = (&beat.name, peer.numbers.shards);
            tracing::info!(node, shards, is_leaving = beat.is_leaving, "a node is there");
            peer.incarnation = beat.incarnation;
            (peer.is_leaving, peer.is_there) = (beat.is_leaving, true);
            self.settled = now;
            self.point_all();
        }
    }

    /// A frame of a link: the name of its sender, and the frame.
    pub(super) fn frame(&mut self, message: &Message) {
        let mut bytes = message.payload.clone();
        let Some(&length) = bytes.first() else { return };
        if bytes.len() < 1 + usize::from(length) {
            return;
        }
        let name = bytes.split_to(1 + usize::from(length));
        let name = name.get(1..).and_then(|name| str::from_utf8(name).ok());
        let now_ms = self.now_ms();
        let Some(peer) = name.and_then(|name| self.peers.get_mut(name)) else { return };
        peer.link.receive(&bytes, now_ms);
    }

    /// What links have brought goes to the shards, as far as they have room.
    pub(super) fn hand_over(&mut self) {
        let mut gone = Vec::new();
        for (name, peer) in &mut self.peers {
            while let Some(event) = peer.link.next_event() {
                match event {
                    LinkEvent::Up => tracing::info!(node = name, "the link to a node is up"),
                    LinkEvent::Message(message) => peer.came.push_back(message),
                    LinkEvent::Down => {
                        self.shared.cluster.cluster_links_lost_total.increment();
                        tracing::warn!(node = name, "the link to a node is down");
                        peer.came.clear();
                        gone.push(peer.slot);
                    }
                }
            }
        }
        if !gone.is_empty() {
            // What comes for it later is for what it was before, as an answer to a question that was given up.
            for slot in &gone {
                let free = self.free_slot();
                let peer = self.peers.values_mut().find(|peer| peer.slot == *slot);
                if let (Some(peer), Some(free)) = (peer, free) {
                    peer.slot = free;
                }
            }
            gone.into_iter().for_each(|slot| self.tell_all(ClusterNews::NodeGone(slot)));
            self.point_all();
        }
        for (shard, node) in std::mem::take(&mut self.undelivered) {
            self.tell(shard, FromCluster::News(ClusterNews::NodeGone(node)));
        }
        for shard in 0..self.shards.len() {
            self.tell_on(shard);
        }
        let shards = &self.shards;
        let unposted = &mut self.unposted;
        for peer in self.peers.values_mut() {
            let mut taken = 0;
            while let Some(message) = peer.came.front() {
                let decoded = wire::decode(peer.slot, shards.len(), message);
                let Some((from, to, mail)) = decoded else {
                    tracing::error!(
                        "mail of another node cannot be read: is it of another version?"
                    );
                    peer.came.pop_front();
                    taken += 1;
                    continue;
                };
                let at = to.index();
                let (Some(ways), Some(before)) = (shards.get(at), unposted.get_mut(at)) else {
                    break;
                };
                // Behind what was to be told before.
                if !before.is_empty() || (ways.inlet)(FromCluster::Mail(from, mail)).is_err() {
                    break;
                }
                peer.came.pop_front();
                taken += 1;
            }
            if taken > 0 {
                peer.link.taken(taken);
            }
        }
    }

    pub(super) fn send_frames(&mut self) {
        let now_ms = self.now_ms();
        let name = self.plan.node.as_bytes();
        for peer in self.peers.values_mut().filter(|peer| peer.is_there) {
            peer.link.flush(now_ms);
            while let Some(frame) = peer.link.next_frame() {
                let mut bytes = BytesMut::with_capacity(1 + name.len() + frame.len());
                bytes.put_u8(name.len() as u8);
                bytes.put_slice(name);
                bytes.put_slice(&frame);
                // What is lost is sent again.
                try_publish(&self.client, peer.subject.clone(), bytes.freeze());
            }
        }
    }

    /// Tells that this node is there.
    pub(super) fn tell_others(&self) {
        let beat = Beat {
            name: self.plan.node.clone(),
            incarnation: self.incarnation,
            is_leaving: self.is_leaving,
            numbers: self.numbers(),
        };
        let beat = serde_json::to_vec(&beat).unwrap_or_default();
        try_publish(&self.client, format!("{}.beat", self.plan.prefix), beat.into());
    }

    /// Finds out who is not there any more, and whether that is this node itself.
    pub(super) fn look_for_the_silent(&mut self, now: Instant) {
        let mut has_changed = false;
        for (name, peer) in &mut self.peers {
            if peer.is_there && now.duration_since(peer.heard) > SILENCE {
                tracing::warn!(node = name, "a node is not heard any more");
                peer.is_there = false;
                has_changed = true;
            }
        }
        let silence = now.duration_since(self.own_heard);
        if silence > GIVEN_UP && !std::mem::replace(&mut self.has_sent_away, true) {
            self.tell_all(ClusterNews::CutOff(SEND_AWAY_MS));
        }
        let is_cut_off = silence > SILENCE;
        if is_cut_off != self.is_cut_off {
            self.is_cut_off = is_cut_off;
            self.has_sent_away &= is_cut_off;
            if let Some(owners) = &self.shared.owners {
                owners.set_reached(!is_cut_off);
            }
            has_changed = true;
            match is_cut_off {
                true => tracing::error!(
                    "NATS cannot be reached: this node owns nothing until it is back"
                ),
                false => {
                    tracing::info!("NATS is back");
                    // What was deleted meanwhile may be told of no more.
                    self.bucket.follow_anew();
                }
            }
        }
        if has_changed {
            self.settled = now;
            self.point_all();
        }
    }
}
