//! Fan-out: one write per connection and turn, of all bytes between its cursors and the heads.
//!
//! Per subscriber this reads a cursor and clones a reference to a block; it parses, formats and
//! copies nothing. A connection is in `due` at most once and never while a write is in flight.

use super::Edge;
use super::Write;
use super::subscription::{Place, SubscriptionState};
use crate::bug::bug;
use crate::context::Context;
use crate::edge::CloseReason;
use crate::ids::{ConnectionKey, SubscriptionKey, TailKey};

/// What subscriptions of a connection came to in a write.
#[derive(Default)]
struct Reached {
    ends_of_tails: Vec<TailKey>,
    ends_of_windows: Vec<SubscriptionKey>,
    /// Their own.
    ends: Vec<SubscriptionKey>,
    /// A window that was held is on its way, so another one may come.
    has_room: bool,
}

impl Edge {
    /// Seals what the turn brought and finds out who is to get it. To be called once a turn, after
    /// everything that waited was applied and before [`Edge::next_write`].
    pub(crate) fn flush(&mut self, cx: &mut Context) {
        for key in std::mem::take(&mut self.dirty) {
            self.flush_tail(cx, key);
        }
    }

    /// The next write: all of the write, in order. [`Edge::written`] must follow.
    pub(crate) fn next_write(&mut self, cx: &mut Context) -> Option<(ConnectionKey, Write)> {
        while let Some(connection) = self.due.pop_front() {
            if let Some(write) = self.gather(cx, connection) {
                return Some((connection, write));
            }
        }
        None
    }

    /// Whether some connection is in line for a write.
    pub(crate) fn has_writes(&self) -> bool {
        !self.due.is_empty()
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
        self.ledger.changed(connection);
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
        if tail.behind == 0 {
            bug!(cx, "a subscriber that was not behind has caught up");
        }
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
            // Who is further behind than the tail reads windows.
            let Some(block) = subscription.holds() else { continue };
            slowest = slowest.min(block);
            let Some(c) = self.connections.get_mut(subscription.connection) else { continue };
            if block < end {
                c.active().tail_bytes += tail.uncharged_bytes(block);
            }
            if subscription.is_behind {
                self.ledger.changed(subscription.connection);
                if tail.bytes_behind(block) > tail_bytes_max {
                    too_slow.push(subscription.connection);
                }
            } else if block < end {
                subscription.is_behind = true;
                tail.behind += 1;
                c.push_behind(subscriber);
                if c.take_due() {
                    self.due.push_back(subscription.connection);
                }
            }
        }
        tail.charge();
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
        let mut reached = Reached::default();
        let mut paid = 0;
        while !write.is_full() && !c.has_out() {
            let Some(key) = c.pop_behind() else { break };
            let Some(subscription) = self.subscriptions.get_mut(key) else { continue };
            let Some(tail) = self.tails.get(subscription.tail) else { continue };
            if let Some(window) = c.take_window(key) {
                reached.has_room = true;
                messages += window.frames;
                write.push(window.bytes);
            }
            let end = match subscription.state {
                SubscriptionState::Ending => c.farewell(key).map_or(0, |farewell| farewell.until),
                _ => tail.end(),
            };
            let is_done = match &mut subscription.place {
                Place::Behind(_) => true,
                Place::Tail(next) => {
                    while !write.is_full()
                        && *next < end
                        && let Some((bytes, frames)) = tail.block(*next)
                    {
                        if tail.is_charged(*next) {
                            paid += bytes.len();
                        }
                        write.push(bytes.clone());
                        messages += u64::from(frames);
                        *next += 1;
                    }
                    *next >= end
                }
            };
            if !is_done {
                c.push_behind(key);
                continue;
            }
            match (subscription.state, subscription.place) {
                (SubscriptionState::Ending, _) => reached.ends.push(key),
                (_, Place::Behind(_)) => {
                    subscription.is_behind = false;
                    reached.ends_of_windows.push(key);
                }
                (_, Place::Tail(_)) => {
                    subscription.is_behind = false;
                    reached.ends_of_tails.push(subscription.tail);
                }
            }
        }
        let nothing = write.is_empty();
        if !nothing {
            let active = c.active();
            debug_assert!(active.tail_bytes >= paid, "more is given back than was charged");
            active.tail_bytes -= paid;
            active.writing_bytes = write.len();
        } else {
            c.write_done(None);
        }
        self.ledger.changed(connection);
        for tail in reached.ends_of_tails {
            self.caught_up(cx, tail);
        }
        for key in reached.ends_of_windows {
            self.want_window(cx, connection, key);
        }
        for key in reached.ends {
            self.finish(cx, key, true);
        }
        if reached.has_room {
            self.ask_for_windows(cx, connection);
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
