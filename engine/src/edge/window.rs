//! Subscribers that are behind their tail: they read windows of the log until they have met it.
//!
//! A connection has few windows under way or held at a time, whatever it is subscribed to; the next is
//! asked for when one was handed to its socket. So what it costs is bounded, and it goes at its own pace.

use bytes::Bytes;
use pushflo_protocol::{Offset, Record};

use super::Edge;
use super::close::CloseReason;
use super::connection::{Connection, HeldWindow};
use super::subscription::{Place, SubscriptionState};
use crate::bug::bug;
use crate::context::Context;
use crate::ids::{ConnectionKey, SubscriptionKey};
use crate::mail::{NoWindow, ReadWindow, ToHome, Window, WindowOf, WindowReader};

/// With the message that goes past so many bytes, a window ends.
pub(super) const WINDOW_BYTES: usize = 64 * 1024;

/// After so many windows in a row the next ones are twice as large, up to four times over: a channel
/// with much traffic must not move on faster than it is read.
const WINDOWS_UNTIL_LARGER: u8 = 8;
const DOUBLINGS_MAX: u8 = 4;

impl Edge {
    /// Has the next window of a subscription be read as soon as its connection has room for it.
    pub(super) fn want_window(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        key: SubscriptionKey,
    ) {
        if let Some(c) = self.connections.get_mut(connection) {
            c.active().wanting.push_back(key);
        }
        self.ask_for_windows(cx, connection);
    }

    /// Asks for the windows that a connection has room for.
    pub(super) fn ask_for_windows(&mut self, cx: &mut Context, connection: ConnectionKey) {
        while let Some(c) = self.connections.get_mut(connection)
            && c.active.as_ref().is_some_and(|active| !active.wanting.is_empty())
            && c.begin_window()
        {
            let key = c.active().wanting.pop_front();
            let asked = key.and_then(|key| Some((key, self.subscriptions.get_mut(key)?)));
            let is_detached = |tail| self.tails.get(tail).is_some_and(|tail| tail.home.is_none());
            if let Some((key, subscription)) = &asked
                && is_detached(subscription.tail)
            {
                self.windows_later.push((connection, *key));
            }
            let read = asked.and_then(|(key, subscription)| {
                let Place::Behind(after) = subscription.place else { return None };
                if subscription.state == SubscriptionState::Ending {
                    return None;
                }
                let tail = self.tails.get(subscription.tail)?;
                let doublings = (subscription.windows / WINDOWS_UNTIL_LARGER).min(DOUBLINGS_MAX);
                subscription.windows = subscription.windows.saturating_add(1);
                let of = WindowOf::Subscription(connection, key);
                let reader = WindowReader { shard: cx.shard, of };
                let bytes_max = WINDOW_BYTES << doublings;
                let read = ReadWindow { reader, home: tail.home?, after, bytes_max };
                Some((cx.home_shard(&tail.channel), read))
            });
            match read {
                Some((home, read)) => cx.post_home(home, ToHome::ReadWindow(read)),
                None => {
                    // It was counted just now.
                    self.connections.get_mut(connection).map(Connection::end_window);
                }
            }
        }
    }

    /// A window that was under way for a connection is there, or will not come.
    pub(super) fn window_ended(&mut self, cx: &mut Context, connection: ConnectionKey) {
        let Some(c) = self.connections.get_mut(connection) else { return };
        if !c.end_window() {
            bug!(cx, "a window that nobody counted");
        }
        self.ask_for_windows(cx, connection);
    }

    /// The home's answer to a request for a window.
    pub(super) fn window(&mut self, cx: &mut Context, window: Window) {
        let Window { reader, after, records } = window;
        let (connection, key) = match reader.of {
            WindowOf::Subscription(connection, key) => (connection, key),
            WindowOf::Tail(tail) => {
                let records = records.as_deref().map_err(|error| *error);
                return self.tail_window(cx, tail, after, records);
            }
        };
        let is_wanted = self.subscriptions.get(key).is_some_and(|subscription| {
            subscription.place == Place::Behind(after)
                && subscription.state != SubscriptionState::Ending
        });
        match records {
            Ok(records) if is_wanted && !is_run(after, &records) => {
                bug!(cx, "a window that does not follow {after:?}");
                self.close_websocket(cx, connection, CloseReason::LEFT_BEHIND);
            }
            Ok(records) if is_wanted && !records.is_empty() => {
                self.take_window(connection, key, &records);
            }
            Ok(_) if is_wanted => self.want_window(cx, connection, key),
            Err(NoWindow::NotNow) if is_wanted => self.windows_later.push((connection, key)),
            // It may come back, and is told then that there is a gap.
            Err(NoWindow::Gone) if is_wanted => {
                cx.metrics().slow_consumers_total.increment();
                self.close_websocket(cx, connection, CloseReason::LEFT_BEHIND);
            }
            _ => {}
        }
        self.window_ended(cx, connection);
    }

    /// Has a window be sent when what is before it is.
    fn take_window(&mut self, connection: ConnectionKey, key: SubscriptionKey, records: &[Record]) {
        let Some(bytes) = self.pass_window(key, records) else { return };
        if let Some(subscription) = self.subscriptions.get(key)
            && subscription.holds().is_some()
            && let Some(tail) = self.tails.get_mut(subscription.tail)
        {
            tail.behind += 1;
        }
        let Some(c) = self.connections.get_mut(connection) else { return };
        let frames = records.len() as u64;
        c.hold_window(HeldWindow { subscription: key, bytes, frames });
        self.ledger.changed(connection);
        self.go_behind(key);
    }

    /// Has the window that came with the answer to a subscription be sent right behind that.
    pub(super) fn begin_with_window(
        &mut self,
        cx: &mut Context,
        key: SubscriptionKey,
        records: &[Record],
    ) {
        let place = self.subscriptions.get(key).map(|subscription| subscription.place);
        if !matches!(place, Some(Place::Behind(after)) if is_run(after, records)) {
            bug!(cx, "a first window that does not follow {place:?}");
        }
        let Some(bytes) = self.pass_window(key, records) else { return };
        let Some(subscription) = self.subscriptions.get(key) else { return };
        let (connection, is_behind) = (subscription.connection, subscription.holds().is_none());
        cx.metrics().deliveries_total.add(records.len() as u64);
        self.send(connection, bytes);
        if is_behind {
            self.want_window(cx, connection, key);
        }
    }

    /// Moves a subscription on behind a window, and gives the window's bytes. One that reaches the head
    /// of its channel is in the tail from here on.
    fn pass_window(&mut self, key: SubscriptionKey, records: &[Record]) -> Option<Bytes> {
        let subscription = self.subscriptions.get_mut(key)?;
        let Place::Behind(after) = subscription.place else { return None };
        let tail = self.tails.get_mut(subscription.tail)?;
        let last = records.last()?;
        if !tail.has_shared() {
            self.shared.push(subscription.tail);
        }
        let bytes = tail.window(after, records);
        // What is behind the head is in the next block, however much came in this turn.
        tail.seal();
        let is_at_head = tail.head.is_some_and(|head| head.offset == last.offset);
        subscription.place = match is_at_head {
            true => Place::Tail(tail.end()),
            false => Place::Behind(last.offset),
        };
        if is_at_head {
            subscription.windows = 0;
        }
        Some(bytes)
    }

    /// Puts a subscription in its connection's list of those with something to send.
    pub(super) fn go_behind(&mut self, key: SubscriptionKey) {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        if std::mem::replace(&mut subscription.is_behind, true) {
            return;
        }
        let connection = subscription.connection;
        if let Some(c) = self.connections.get_mut(connection) {
            c.push_behind(key);
        }
        self.mark_due(connection);
    }

    /// Asks again for windows that could not be read.
    pub(super) fn ask_again(&mut self, cx: &mut Context) {
        for (connection, key) in std::mem::take(&mut self.windows_later) {
            if self.subscriptions.contains_key(key) {
                self.want_window(cx, connection, key);
            }
        }
    }

    /// Gives back what tails keep for many and nobody needs any more.
    pub(super) fn forget_shared(&mut self) {
        let tails = &mut self.tails;
        self.shared.retain(|key| {
            let Some(tail) = tails.get_mut(*key) else { return false };
            tail.forget_shared();
            tail.has_shared()
        });
    }
}

/// Whether the records follow `after` and each other.
fn is_run(after: Offset, records: &[Record]) -> bool {
    records.first().is_none_or(|first| first.prev == after)
        && records.is_sorted_by(|one, next| next.prev == one.offset)
}
