//! What must hold of an edge's tables between two calls: connections, subscriptions and tails agree about
//! each other, whatever is to be done stands in the list of those that get it done, and whatever waits
//! waits for something.

use std::collections::BTreeSet;
use std::hash::Hash;

use super::Edge;
use super::connection::{Active, Connection, Phase, WINDOWS_MAX, cost};
use super::http::PendingAnswer;
use super::subscription::{Place, Subscription, SubscriptionState};
use super::tail::Tail;
use crate::census::Census;
use crate::context::Context;
use crate::ids::{ConnectionKey, SubscriptionKey, TailKey};

impl Edge {
    /// Checks all tables, and adds what is here to `census`.
    ///
    /// # Panics
    /// Something does not hold.
    pub(crate) fn check(&self, cx: &Context, census: &mut Census) {
        for (key, connection) in &self.connections {
            self.check_connection(cx, key, connection);
            if let Some(session) = connection.session() {
                *census.sessions.entry(session.app).or_default() += 1;
            }
        }
        for (key, subscription) in &self.subscriptions {
            self.check_subscription(key, subscription);
        }
        for (key, tail) in &self.tails {
            self.check_tail(key, tail);
            let held = tail.subscribers.iter().filter(|key| {
                let state = self.subscriptions.get(**key).map(|found| found.state);
                matches!(state, Some(SubscriptionState::Live | SubscriptionState::Leaving))
            });
            let held = held.count() as u64;
            if held > 0 {
                census.held.insert((cx.shard, key), held);
            }
        }
        self.check_lists(cx);
    }

    fn check_lists(&self, cx: &Context) {
        assert_eq!(self.tail_of.len(), self.tails.len(), "tails and their names");
        for (channel, key) in &self.tail_of {
            assert_eq!(self.tails.get(*key).map(|tail| &tail.channel), Some(channel));
        }
        assert_each_once("dirty tails", &self.dirty);
        for key in &self.dirty {
            // One that was dropped meanwhile is passed over.
            assert!(self.tails.get(*key).is_none_or(|tail| tail.is_dirty), "a clean tail is dirty");
        }
        assert_each_once("tails with something shared", &self.shared);
        assert_each_once("connections that are due", &self.due);
        for (_, batch) in &self.batches {
            batch.check();
        }
        for (_, list) in &self.lists {
            list.check();
        }
        self.ledger.check(self.connections.iter());
        let metrics = cx.metrics();
        let sessions = self.connections.values().filter(|c| c.session.is_some()).count() as u64;
        assert_eq!(metrics.connections.value(), self.connections.len() as u64);
        assert_eq!(metrics.websocket_connections.value(), sessions);
        let tail_bytes: u64 = self.tails.values().map(|tail| tail.counted_bytes).sum();
        assert_eq!(metrics.tail_bytes.value(), tail_bytes);
    }

    fn check_connection(&self, cx: &Context, key: ConnectionKey, connection: &Connection) {
        let is_open = matches!(connection.phase, Phase::Open { .. });
        assert_eq!(connection.session.is_some(), is_open, "a session is that of a WebSocket");
        assert!(is_open || connection.subscriptions.is_empty(), "who is no client subscribes");
        let tail = |key: &SubscriptionKey| self.subscriptions.get(*key).map(|found| found.tail);
        let tails: Vec<_> = connection.subscriptions.iter().map(tail).collect();
        assert!(tails.is_sorted_by(|one, next| one < next), "subscriptions out of order");
        for subscription in &connection.subscriptions {
            let found = self.subscriptions.get(*subscription);
            assert_eq!(found.map(|found| found.connection), Some(key), "of another connection");
        }
        assert_ne!(connection.timer_tick, u32::MAX, "a connection without a time-out");
        let is_set = self.wheel.has(key, connection.timer_tick);
        assert!(is_set, "a time-out that does not come up");
        match &connection.active {
            Some(active) => self.check_active(cx, key, connection, active),
            None => {
                let is_behind = |key: &SubscriptionKey| {
                    self.subscriptions.get(*key).is_some_and(|found| found.is_behind)
                };
                assert!(!connection.subscriptions.iter().any(is_behind), "behind, and at rest");
                assert!(!self.due.contains(&key), "due without anything to write");
            }
        }
    }

    fn check_active(
        &self,
        cx: &Context,
        key: ConnectionKey,
        connection: &Connection,
        active: &Active,
    ) {
        assert_eq!(active.out_bytes, active.out.iter().map(cost).sum::<usize>());
        let answer_bytes: usize = active.answers.iter().map(PendingAnswer::cost).sum();
        assert_eq!(active.answer_bytes, answer_bytes);
        let has_something =
            active.unfinished.is_some() || !active.out.is_empty() || !active.behind.is_empty();
        assert_eq!(active.is_due, self.due.contains(&key), "in the list of those that are due");
        assert!(!(active.is_due && active.is_writing), "due while a write is in flight");
        assert!(!has_something || active.is_due || active.is_writing, "it is never written");
        let mut windows = BTreeSet::new();
        for window in &active.windows {
            assert!(windows.insert(window.subscription), "two windows for one subscription");
            let found = self.subscriptions.get(window.subscription);
            assert!(found.is_some_and(|found| found.connection == key && found.is_behind));
        }
        assert!(active.windows_under_way + active.windows.len() <= WINDOWS_MAX);
        assert_each_once("subscriptions that want a window", &active.wanting);
        for wanting in &active.wanting {
            let found = self.subscriptions.get(*wanting);
            assert!(found.is_some_and(|found| found.connection == key && !found.is_behind));
        }
        let room = active.windows_under_way + active.windows.len() < WINDOWS_MAX;
        assert!(active.wanting.is_empty() || !room, "a window is wanted, and nobody asks for it");
        let mut said = BTreeSet::new();
        for farewell in &active.farewells {
            assert!(said.insert(farewell.subscription), "two last words on one subscription");
            let state = self.subscriptions.get(farewell.subscription).map(|found| found.state);
            assert_eq!(state, Some(SubscriptionState::Ending), "a last word on what goes on");
        }
        assert_each_once("subscriptions with something to send", &active.behind);
        for behind in &active.behind {
            assert!(self.subscriptions.get(*behind).is_some_and(|found| found.is_behind));
        }
        self.check_windows(key, connection, active);
        let is_settling = |key: &SubscriptionKey| {
            self.subscriptions.get(*key).is_some_and(|found| found.state != SubscriptionState::Live)
        };
        assert!(
            active.deferred.is_none()
                || self.resumed.contains(&key)
                || connection.subscriptions.iter().any(is_settling),
            "a command waits for nothing"
        );
        // A pause ends with a write that made room, or with the answer that was waited for.
        let is_resumed = self.resumed.contains(&key) || has_something || active.is_writing;
        assert!(
            !active.is_paused || is_resumed || !connection.wants_bytes(&cx.settings.limits),
            "paused for nothing"
        );
        if matches!(connection.phase, Phase::Closing { .. }) {
            assert!(active.behind.is_empty() && active.windows.is_empty());
            assert!(active.wanting.is_empty() && active.farewells.is_empty());
        } else {
            let is_ready = active.answers.front().is_some_and(|answer| answer.is_ready());
            assert!(!is_ready, "an answer whose turn it is is not sent");
            let is_ready = active.publishes.front().is_some_and(|publish| publish.is_ready());
            assert!(!is_ready, "a publish whose turn it is is not answered");
        }
    }

    /// Those of a connection that are behind their tails are on their way to them.
    fn check_windows(&self, key: ConnectionKey, connection: &Connection, active: &Active) {
        let mut under_way = 0;
        for subscription in &connection.subscriptions {
            let Some(found) = self.subscriptions.get(*subscription) else { continue };
            assert_eq!(found.is_behind, active.behind.contains(subscription), "of {key:?}");
            let has_farewell = connection.farewell(*subscription).is_some();
            let is_ending = found.state == SubscriptionState::Ending;
            assert_eq!(has_farewell, is_ending, "an end without a last word");
            under_way += match (found.state, found.place) {
                // It asked for the past, and has room for a first window kept.
                (SubscriptionState::Pending { has_room }, _) => usize::from(has_room),
                (SubscriptionState::Live | SubscriptionState::Leaving, Place::Behind(_)) => {
                    let is_later = self.windows_later.contains(&(key, *subscription));
                    let is_wanted = active.wanting.contains(subscription) || is_later;
                    usize::from(!found.is_behind && !is_wanted)
                }
                _ => 0,
            };
        }
        assert!(active.windows_under_way >= under_way, "a subscriber waits for no window");
    }

    fn check_subscription(&self, key: SubscriptionKey, subscription: &Subscription) {
        let connection = self.connections.get(subscription.connection);
        assert!(connection.is_some_and(|c| c.subscriptions.contains(&key)), "of no connection");
        let Some(tail) = self.tails.get(subscription.tail) else {
            panic!("a subscription without a tail");
        };
        let in_slot = tail.subscribers.get(subscription.slot as usize) == Some(&key);
        let state = subscription.state;
        if state.is_pending() {
            assert!(!tail.subscribers.contains(&key), "it gets messages before it may");
            assert!(!subscription.is_behind && subscription.roster.is_none());
            return;
        }
        assert!(in_slot, "a subscription is not where it stands in its tail");
        if matches!(state, SubscriptionState::Live | SubscriptionState::Leaving) {
            assert!(tail.home.is_some() && tail.head.is_some(), "live without a home");
        }
        if let Place::Tail(block) = subscription.place {
            assert!(tail.first() <= block && block <= tail.end(), "a cursor outside its tail");
            assert!(subscription.is_behind || block == tail.end() || tail.is_dirty, "forgotten");
            let farewell = connection.and_then(|c| c.farewell(key));
            assert!(farewell.is_none_or(|farewell| farewell.until <= tail.end()));
        }
    }

    fn check_tail(&self, key: TailKey, tail: &Tail) {
        let is_live = |key: &SubscriptionKey| {
            self.subscriptions.get(*key).is_some_and(|found| found.state == SubscriptionState::Live)
        };
        tail.check(tail.subscribers.iter().any(is_live));
        assert_eq!(self.tail_of.get(&tail.channel), Some(&key));
        assert!(!tail.is_unused(), "a tail that nobody needs");
        assert_eq!(tail.is_dirty, self.dirty.contains(&key), "in the list of dirty tails");
        assert!(!tail.has_shared() || self.shared.contains(&key), "never given back");
        assert_each_once("subscribers of a tail", &tail.subscribers);
        let mut behind = 0;
        for subscriber in &tail.subscribers {
            let found = self.subscriptions.get(*subscriber);
            let found = found.filter(|found| found.tail == key);
            assert!(found.is_some(), "a subscriber that is none");
            behind += u32::from(found.is_some_and(|f| f.is_behind && f.holds().is_some()));
        }
        assert_eq!(tail.behind, behind, "subscribers with something to send");
        let pending = self
            .subscriptions
            .values()
            .filter(|found| found.tail == key && found.state.is_pending());
        // The answers to those whose connection is gone are still to come.
        assert!(tail.pending as usize >= pending.count(), "an answer that nobody waits for");
        assert!(tail.is_dirty || tail.behind > 0 || tail.bytes() == 0, "kept for nobody");
    }
}

fn assert_each_once<'a, T: Eq + Hash + Ord + 'a>(
    what: &str,
    list: impl IntoIterator<Item = &'a T>,
) {
    let mut seen = BTreeSet::new();
    assert!(list.into_iter().all(|entry| seen.insert(entry)), "one twice: {what}");
}
