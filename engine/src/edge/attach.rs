//! Tails whose channel has moved to another home, or whose home was out of reach: their subscribers are made
//! known to it, and what they missed is read for all of them at once.

use pushflo_protocol::{Offset, Record};

use super::Edge;
use super::close::CloseReason;
use super::subscribe::Leaver;
use super::subscription::SubscriptionState;
use super::tail::{Attachedness, Tail};
use super::window::WINDOW_BYTES;
use crate::context::Context;
use crate::ids::{NodeSlot, ShardId, SlotId, TailKey};
use crate::mail::{
    Attach, Attached, Membership, NoWindow, ReadWindow, ToHome, Unsubscribe, WindowOf, WindowReader,
};

/// Windows that a tail reads to meet its channel's head. Whoever missed more comes back as one who was away.
const WINDOWS_MAX: u32 = 64;

/// How often tails whose home is another node are counted, in milliseconds.
const ATTACHMENTS_MS: u64 = 1_000;

/// Tails that ask to be attached in a tick.
const ATTACHES_MAX: usize = 4096;

impl Edge {
    /// A slot has another owner, or none.
    pub(crate) fn slot_moved(&mut self, slot: SlotId) {
        self.detach_where(|tail_slot| tail_slot == slot);
    }

    /// A node cannot be reached any more.
    pub(crate) fn node_gone(&mut self, cx: &Context, node: NodeSlot) {
        let Some(owners) = &cx.shared.owners else { return };
        self.detach_where(|slot| owners.of(slot).node() == node);
    }

    fn detach_where(&mut self, is_concerned: impl Fn(SlotId) -> bool) {
        let concerned =
            self.tails.iter().filter(|(_, tail)| is_concerned(SlotId::of(&tail.channel)));
        let concerned: Vec<TailKey> = concerned.map(|(key, _)| key).collect();
        concerned.into_iter().for_each(|key| self.tail_moved(key));
    }

    /// The subscribers of a tail are to be made known to the home of its channel anew.
    pub(super) fn tail_moved(&mut self, key: TailKey) {
        let Some(tail) = self.tails.get_mut(key) else { return };
        tail.home = None;
        match &mut tail.attached {
            Attachedness::Settled | Attachedness::Reading { .. } => {
                tail.attached = Attachedness::Wanted;
                self.detached.push(key);
            }
            Attachedness::Asked { has_moved, .. } => *has_moved = true,
            Attachedness::Wanted => {}
        }
    }

    /// Has tails be attached whose home can be asked. To be called once a tick.
    pub(crate) fn attach_tails(&mut self, cx: &mut Context) {
        let mut left = ATTACHES_MAX;
        for key in std::mem::take(&mut self.detached) {
            let Some(tail) = self.tails.get_mut(key) else { continue };
            match tail.attached {
                Attachedness::Settled | Attachedness::Asked { .. } => continue,
                Attachedness::Reading { is_asked: true, .. } => {
                    self.detached.push(key);
                    continue;
                }
                Attachedness::Reading { .. } => {
                    self.read_on(cx, key);
                    self.detached.push(key);
                    continue;
                }
                Attachedness::Wanted => {}
            }
            let home = cx.shared.home_shard(&tail.channel);
            let is_waiting = tail.pending > 0 || left == 0 || home == ShardId::NOBODY;
            if is_waiting || cx.is_way_full(home) {
                self.detached.push(key);
                continue;
            }
            left -= 1;
            let (shard, channel) = (cx.shard, tail.channel.clone());
            let is_live = |key: &&_| {
                let found = self.subscriptions.get(**key);
                found.is_some_and(|found| found.state == SubscriptionState::Live)
            };
            let live: Vec<_> = tail.subscribers.iter().filter(is_live).copied().collect();
            if live.is_empty() {
                // Whoever is leaving needs no home.
                tail.attached = Attachedness::Settled;
                continue;
            }
            let clients = live.iter().filter_map(|key| {
                let connection = self.subscriptions.get(*key)?.connection;
                Some(self.connections.get(connection)?.session()?.client().clone())
            });
            let clients = clients.collect();
            tail.attached = Attachedness::Asked { left: Vec::new(), has_moved: false };
            tail.pending += 1;
            let subscribers = live.len() as u32;
            let attach = Attach { shard, tail: key, channel, subscribers, clients };
            cx.post_home(home, ToHome::Attach(Box::new(attach)));
        }
    }

    /// Counts tails whose home is another node, once a second: all are looked at.
    pub(super) fn count_attachments(&mut self, cx: &Context) {
        if !cx.is_cluster() || cx.now.elapsed_ms < self.attachments_due_ms {
            return;
        }
        self.attachments_due_ms = cx.now.elapsed_ms + ATTACHMENTS_MS;
        let is_abroad = |tail: &&Tail| {
            let home = cx.home_shard(&tail.channel);
            home != ShardId::NOBODY && home.node() != NodeSlot::OWN
        };
        let abroad = self.tails.values().filter(is_abroad).count();
        cx.metrics().attachments.set(abroad as u64);
    }

    /// The home knows the subscribers of a tail, or does not have its channel.
    pub(super) fn attached(&mut self, cx: &mut Context, attached: Attached) {
        let Attached { tail: key, outcome } = attached;
        let Some(tail) = self.tails.get_mut(key) else { return };
        let Attachedness::Asked { left, has_moved } = &mut tail.attached else { return };
        let (left, has_moved) = (std::mem::take(left), *has_moved);
        tail.pending = tail.pending.saturating_sub(1);
        let Some(attachment) = outcome.filter(|_| !has_moved) else {
            tail.attached = Attachedness::Wanted;
            self.detached.push(key);
            return self.drop_tail_if_unused(cx, key);
        };
        let home_shard = cx.shared.home_shard(&tail.channel);
        tail.home = Some(attachment.home);
        for client in left {
            let (shard, home) = (cx.shard, attachment.home);
            let member = client.zip(attachment.roster);
            let member = member.map(|(client, roster)| Membership { client, roster });
            let leave = Unsubscribe { shard, tail: key, home, subscription: None, member };
            cx.post_home(home_shard, ToHome::Unsubscribe(Box::new(leave)));
        }
        for key in tail.subscribers.clone() {
            if let Some(found) = self.subscriptions.get_mut(key) {
                found.roster = attachment.roster.filter(|_| found.state == SubscriptionState::Live);
            }
        }
        self.tail_privacy(cx, key, attachment.is_private);
        let Some(tail) = self.tails.get_mut(key) else { return };
        match tail.head {
            Some(head) if head.epoch == attachment.head.epoch => {
                let until = attachment.head.offset;
                tail.attached = match head.offset < until {
                    true => Attachedness::Reading { until, windows: 0, is_asked: false },
                    false => Attachedness::Settled,
                };
                self.read_on(cx, key);
            }
            // Its log was lost or deleted meanwhile: who comes back is told.
            Some(_) => self.close_all(cx, key),
            None => {
                tail.head = Some(attachment.head);
                tail.attached = Attachedness::Settled;
            }
        }
        self.drop_tail_if_unused(cx, key);
    }

    /// Asks for the next window of a tail.
    fn read_on(&mut self, cx: &mut Context, key: TailKey) {
        let Some(tail) = self.tails.get_mut(key) else { return };
        let Attachedness::Reading { windows, is_asked, .. } = &mut tail.attached else { return };
        let (Some(home), Some(head)) = (tail.home, tail.head) else { return };
        if *is_asked {
            return;
        }
        if *windows >= WINDOWS_MAX {
            return self.close_all(cx, key);
        }
        (*is_asked, *windows) = (true, *windows + 1);
        let reader = WindowReader { shard: cx.shard, of: WindowOf::Tail(key) };
        let bytes_max = 4 * WINDOW_BYTES;
        let read = ReadWindow { reader, home, after: head.offset, bytes_max };
        let home_shard = cx.shared.home_shard(&tail.channel);
        cx.post_home(home_shard, ToHome::ReadWindow(read));
    }

    /// Messages that a tail missed.
    pub(super) fn tail_window(
        &mut self,
        cx: &mut Context,
        key: TailKey,
        after: Offset,
        records: Result<&[Record], NoWindow>,
    ) {
        let Some(tail) = self.tails.get_mut(key) else { return };
        let Attachedness::Reading { is_asked, until, .. } = &mut tail.attached else { return };
        *is_asked = false;
        let until = *until;
        if tail.head.is_none_or(|head| head.offset != after) {
            // It was asked for before the channel moved.
            return self.detached.push(key);
        }
        match records {
            Ok(records) => {
                for record in records {
                    self.append(key, None, record.clone());
                }
                let Some(tail) = self.tails.get_mut(key) else { return };
                if tail.head.is_some_and(|head| head.offset >= until) {
                    tail.attached = Attachedness::Settled;
                } else if records.is_empty() {
                    self.detached.push(key);
                } else {
                    self.read_on(cx, key);
                }
            }
            Err(NoWindow::NotNow) => self.detached.push(key),
            Err(NoWindow::Gone) => self.close_all(cx, key),
        }
    }

    /// What the subscribers of a tail missed cannot be sent to them: who comes back is told so.
    fn close_all(&mut self, cx: &mut Context, key: TailKey) {
        let Some(tail) = self.tails.get_mut(key) else { return };
        tail.attached = Attachedness::Settled;
        for subscription in tail.subscribers.clone() {
            let Some(found) = self.subscriptions.get(subscription) else { continue };
            let connection = found.connection;
            self.close_websocket(cx, connection, CloseReason::LEFT_BEHIND);
        }
    }

    /// A subscriber leaves a tail whose home does not know it yet. Returns whether it is so.
    pub(super) fn leaves_detached(&mut self, tail: TailKey, leaver: &Leaver) -> bool {
        let Some(tail) = self.tails.get_mut(tail) else { return false };
        match &mut tail.attached {
            Attachedness::Asked { left, .. } => left.push(leaver.client().cloned()),
            Attachedness::Wanted => {}
            Attachedness::Settled | Attachedness::Reading { .. } => return false,
        }
        true
    }
}
