//! Fan-out: one write per connection and turn, of all bytes between its cursors and the heads.
//!
//! Per subscriber this reads a cursor and clones a reference to a block; it parses, formats and
//! copies nothing. A connection is in `due` at most once and never while a write is in flight.

use super::Shard;
use super::batch::Batch;
use crate::edge::CloseReason;
use crate::ids::{ConnectionKey, TailKey};

impl Shard {
    /// Seals what the turn brought and finds out who is to get it. To be called once a turn, after
    /// everything that waited was applied and before [`Shard::next_write`].
    pub fn flush(&mut self) {
        self.seal_append();
        for key in std::mem::take(&mut self.dirty) {
            self.flush_tail(key);
        }
        self.settle();
    }

    /// The next write: all of the batch, in order. [`Shard::written`] must follow.
    pub fn next_write(&mut self) -> Option<(ConnectionKey, Batch)> {
        while let Some(connection) = self.due.pop_front() {
            if let Some(batch) = self.gather(connection) {
                return Some((connection, batch));
            }
        }
        None
    }

    /// The socket took `written` bytes of a batch; what it did not take is sent again.
    pub fn written(&mut self, connection: ConnectionKey, mut batch: Batch, written: usize) {
        self.metrics().bytes_sent_total.add(written as u64);
        let Some(c) = self.connections.get_mut(connection) else { return };
        batch.advance(written);
        c.write_done((!batch.is_empty()).then_some(batch));
        self.mark_due(connection);
        self.after_write(connection);
        self.settle();
    }

    /// Puts a connection in line for a write if it has something to send and none in flight.
    pub(crate) fn mark_due(&mut self, connection: ConnectionKey) {
        if let Some(c) = self.connections.get_mut(connection)
            && c.take_due()
        {
            self.due.push_back(connection);
        }
    }

    /// A subscriber of the tail has nothing more to send.
    pub(super) fn caught_up(&mut self, key: TailKey) {
        let Some(tail) = self.tails.get_mut(key) else { return };
        tail.behind = tail.behind.saturating_sub(1);
        if tail.behind == 0 && !tail.is_dirty {
            tail.trim(tail.end());
            self.count_tail_bytes(key);
        }
    }

    fn flush_tail(&mut self, key: TailKey) {
        let tail_bytes_max = self.settings.limits.tail_bytes_max;
        let Some(tail) = self.tails.get_mut(key) else { return };
        tail.is_dirty = false;
        tail.seal();
        let end = tail.end();
        let mut slowest = end;
        let mut too_slow: Vec<ConnectionKey> = Vec::new();
        for &subscriber in &tail.subscribers {
            let Some(subscription) = self.subscriptions.get_mut(subscriber) else { continue };
            slowest = slowest.min(subscription.cursor);
            if subscription.is_behind {
                if tail.bytes_behind(subscription.cursor) > tail_bytes_max {
                    too_slow.push(subscription.connection);
                }
            } else if subscription.cursor < end {
                subscription.is_behind = true;
                tail.behind += 1;
                let Some(c) = self.connections.get_mut(subscription.connection) else { continue };
                c.push_behind(subscriber);
                if c.take_due() {
                    self.due.push_back(subscription.connection);
                }
            }
        }
        tail.trim(slowest);
        self.count_tail_bytes(key);
        for connection in too_slow {
            self.metrics().slow_consumers_total.increment();
            self.close_websocket(connection, CloseReason::TOO_SLOW);
        }
    }

    /// One batch: first what was begun, then the connection's own bytes, then its channels in turn.
    fn gather(&mut self, connection: ConnectionKey) -> Option<Batch> {
        let (now, write_timeout) = (self.now.tick, self.settings.timeouts.write);
        let c = self.connections.get_mut(connection)?;
        let mut batch = c.begin_write(now);
        let mut messages = 0u64;
        let mut caught_up = Vec::new();
        while !batch.is_full() && !c.has_out() {
            let Some(key) = c.pop_behind() else { break };
            let Some(subscription) = self.subscriptions.get_mut(key) else { continue };
            let Some(tail) = self.tails.get(subscription.tail) else { continue };
            while !batch.is_full()
                && let Some((bytes, frames)) = tail.block(subscription.cursor)
            {
                batch.push(bytes.clone());
                messages += u64::from(frames);
                subscription.cursor += 1;
            }
            if subscription.cursor >= tail.end() {
                subscription.is_behind = false;
                caught_up.push(subscription.tail);
            } else {
                c.push_behind(key);
            }
        }
        let nothing = batch.is_empty();
        if nothing {
            c.write_done(None);
        }
        for tail in caught_up {
            self.caught_up(tail);
        }
        if nothing {
            return None;
        }
        // A write that is stuck is found in time; as a rule the time-out that is set already will do.
        self.arm(connection, write_timeout);
        let metrics = self.metrics();
        if messages > 0 {
            metrics.flushes_total.increment();
            metrics.deliveries_total.add(messages);
        }
        Some(batch)
    }

    /// Brings the metric up to what the tail holds.
    fn count_tail_bytes(&mut self, key: TailKey) {
        let Some(tail) = self.tails.get_mut(key) else { return };
        let change = tail.bytes().wrapping_sub(tail.counted_bytes);
        tail.counted_bytes = tail.bytes();
        self.metrics().tail_bytes.add(change);
    }
}
