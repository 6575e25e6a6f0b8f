//! Fan-out: one write per connection and turn, of all bytes between its cursors and the heads.
//!
//! Per subscriber this reads a cursor and clones a reference to a block; it parses, formats and
//! copies nothing. A connection is in `due` at most once and never while a write is in flight.

use super::Edge;
use super::Write;
use crate::context::Context;
use crate::edge::CloseReason;
use crate::ids::{ConnectionKey, TailKey};

impl Edge {
    /// Seals what the turn brought and finds out who is to get it. To be called once a turn, after
    /// everything that waited was applied and before [`Shard::next_write`].
    pub(crate) fn flush(&mut self, cx: &mut Context) {
        for key in std::mem::take(&mut self.dirty) {
            self.flush_tail(cx, key);
        }
    }

    /// The next write: all of the write, in order. [`Shard::written`] must follow.
    pub(crate) fn next_write(&mut self, cx: &mut Context) -> Option<(ConnectionKey, Write)> {
        while let Some(connection) = self.due.pop_front() {
            if let Some(write) = self.gather(cx, connection) {
                return Some((connection, write));
            }
        }
        None
    }

    /// The socket took `written` bytes of a write; what it did not take is sent again.
    pub(crate) fn written(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        mut write: Write,
        written: usize,
    ) {
        cx.metrics().bytes_sent_total.add(written as u64);
        let Some(c) = self.connections.get_mut(connection) else { return };
        write.advance(written);
        c.write_done((!write.is_empty()).then_some(write));
        self.mark_due(connection);
        self.after_write(cx, connection);
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
    pub(super) fn caught_up(&mut self, cx: &mut Context, key: TailKey) {
        let Some(tail) = self.tails.get_mut(key) else { return };
        tail.behind = tail.behind.saturating_sub(1);
        if tail.behind == 0 && !tail.is_dirty {
            tail.trim(tail.end());
            self.count_tail_bytes(cx, key);
        }
    }

    fn flush_tail(&mut self, cx: &mut Context, key: TailKey) {
        let tail_bytes_max = cx.settings.limits.tail_bytes_max;
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
        self.count_tail_bytes(cx, key);
        for connection in too_slow {
            cx.metrics().slow_consumers_total.increment();
            self.close_websocket(cx, connection, CloseReason::TOO_SLOW);
        }
    }

    /// One write: first what was begun, then the connection's own bytes, then its channels in turn.
    fn gather(&mut self, cx: &mut Context, connection: ConnectionKey) -> Option<Write> {
        let (now, write_timeout) = (cx.now.tick, cx.settings.timeouts.write);
        let c = self.connections.get_mut(connection)?;
        let mut write = c.begin_write(now);
        let mut messages = 0u64;
        let mut caught_up = Vec::new();
        while !write.is_full() && !c.has_out() {
            let Some(key) = c.pop_behind() else { break };
            let Some(subscription) = self.subscriptions.get_mut(key) else { continue };
            let Some(tail) = self.tails.get(subscription.tail) else { continue };
            while !write.is_full()
                && let Some((bytes, frames)) = tail.block(subscription.cursor)
            {
                write.push(bytes.clone());
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
        let nothing = write.is_empty();
        if nothing {
            c.write_done(None);
        }
        for tail in caught_up {
            self.caught_up(cx, tail);
        }
        if nothing {
            return None;
        }
        // A write that is stuck is found in time; as a rule the time-out that is set already will do.
        self.arm(cx, connection, write_timeout);
        let metrics = cx.metrics();
        if messages > 0 {
            metrics.flushes_total.increment();
            metrics.deliveries_total.add(messages);
        }
        Some(write)
    }

    /// Brings the metric up to what the tail holds.
    fn count_tail_bytes(&mut self, cx: &mut Context, key: TailKey) {
        let Some(tail) = self.tails.get_mut(key) else { return };
        let change = tail.bytes().wrapping_sub(tail.counted_bytes);
        tail.counted_bytes = tail.bytes();
        cx.metrics().tail_bytes.add(change);
    }
}
