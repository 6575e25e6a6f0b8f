//! What an app uses: plain atomic counters that all shards share, so that a limit is hit at exactly
//! its number however many shards count at once. In a cluster a node counts against what others have lent it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};

use pushflo_protocol::time::Month;

use super::lent::{ByResource, COUNT_MASK, Lent, Resource, Taken, count_in, pack};
use super::plan::UNLIMITED;
use crate::clock;
use crate::ids::AppId;
use crate::metrics::metrics;

/// Counters of one app.
#[derive(Debug, Default)]
pub struct Usage {
    connections: AtomicU64,
    channels: AtomicU64,
    /// By the month's number, even or odd: the month in the upper 16 bits, the messages published in
    /// it below. So a shard that is a moment behind still counts in the month that ends, and a month
    /// that a clock only touched takes nothing from another.
    messages: [AtomicU64; 2],
    publishes: Rate,
    subscribes: Rate,
    changes: Rate,
    /// What there is only in a cluster.
    shared: Option<Box<SharedUsage>>,
}

/// What an app uses of what all nodes of a cluster have in common.
#[derive(Debug, Default)]
struct SharedUsage {
    lent: ByResource<Lent>,
    /// Messages published on all nodes, as of `Usage::messages`, which are counted in no other place then.
    messages: [AtomicU64; 2],
    /// Connections on other nodes.
    connections: AtomicU64,
    /// This node's parts of the rates of publishes and subscribes.
    publishes: RatePart,
    subscribes: RatePart,
}

/// A part of a rate.
#[derive(Debug, Default)]
struct RatePart {
    /// How many were asked for since this was looked at last.
    tried: AtomicU64,
    /// How much of the rate others have, in parts of [`WHOLE`].
    of_others: AtomicU64,
}

/// All of a rate.
pub(crate) const WHOLE: u64 = 1_000_000;

impl RatePart {
    fn of(&self, per_second: u64) -> u64 {
        if per_second == UNLIMITED {
            return per_second;
        }
        self.tried.fetch_add(1, Relaxed);
        let part = WHOLE.saturating_sub(self.of_others.load(Relaxed));
        (u128::from(per_second) * u128::from(part) / u128::from(WHOLE)) as u64
    }
}

/// Changes of itself, its keys and its channels that an app may ask for in a second, and at once: each
/// is written to disk, and those of others wait behind it.
pub(crate) const CHANGES_PER_SECOND_MAX: u64 = 200;

impl Usage {
    /// That of an app of a cluster.
    pub(crate) fn shared() -> Self {
        Self { shared: Some(Box::default()), ..Self::default() }
    }

    /// Counts a connection, unless there are `most` already.
    pub fn take_connection(&self, most: u64) -> Taken {
        self.take(Resource::Connections, &self.connections, most)
    }

    /// What would come of [`Usage::take_connection`].
    pub fn look_at_connections(&self, most: u64) -> Taken {
        self.look(Resource::Connections, 0, most)
    }

    /// Counts a connection that was counted by the process before this one.
    pub(crate) fn find_connection(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// A counted connection is gone.
    pub fn leave_connection(&self) {
        self.give_back(Resource::Connections, 0);
        self.connections.fetch_sub(1, Relaxed);
    }

    /// Connections now, on all nodes.
    pub fn connections(&self) -> u64 {
        let others = self.shared.as_ref().map_or(0, |shared| shared.connections.load(Relaxed));
        self.connections.load(Relaxed) + others
    }

    /// Connections now, on this node.
    pub(crate) fn own_connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Counts a channel, unless there are `most` already.
    pub fn take_channel(&self, most: u64) -> Taken {
        self.take(Resource::Channels, &self.channels, most)
    }

    /// What would come of [`Usage::take_channel`].
    pub fn look_at_channels(&self, most: u64) -> Taken {
        self.look(Resource::Channels, 0, most)
    }

    /// Counts a channel that was counted before, and is found again.
    pub(crate) fn find_channel(&self) {
        self.channels.fetch_add(1, Relaxed);
    }

    /// A counted channel is gone, or is not here any more. In a cluster, that there is one less shows when they
    /// are counted again, as it does of those that expire.
    pub fn leave_channel(&self) {
        self.channels.fetch_sub(1, Relaxed);
    }

    /// A channel was counted that did not come about.
    pub fn return_channel(&self) {
        self.give_back(Resource::Channels, 0);
        self.leave_channel();
    }

    /// Channels now: on a node of a cluster, those that it has opened.
    pub fn channels(&self) -> u64 {
        self.channels.load(Relaxed)
    }

    /// Counts a message of `month`, unless there are `most` in it already.
    pub fn take_message(&self, month: Month, most: u64) -> Taken {
        if let Some(shared) = &self.shared {
            return shared.take(Resource::Messages, month.number, most);
        }
        let next = |packed| {
            let count = count_in(packed, month.number);
            (count < most.min(COUNT_MASK)).then(|| pack(month.number, count + 1))
        };
        Taken::of(self.of_month(month.number).fetch_update(Relaxed, Relaxed, next).is_ok())
    }

    /// What would come of [`Usage::take_message`] in a cluster; alone, only that tells.
    pub fn look_at_messages(&self, month: Month, most: u64) -> Taken {
        self.look(Resource::Messages, month.number, most)
    }

    /// A counted message was not published after all.
    pub fn return_message(&self, month: Month) {
        if self.shared.is_some() {
            return self.give_back(Resource::Messages, month.number);
        }
        let next = |packed| {
            let count = count_in(packed, month.number);
            (count > 0).then(|| pack(month.number, count - 1))
        };
        // None is there to take back when another month took its place.
        let _ = self.of_month(month.number).fetch_update(Relaxed, Relaxed, next);
    }

    /// Whether whoever needs more of a resource than this node has is the first to ask for it.
    pub(crate) fn ask(&self, resource: Resource) -> bool {
        self.lent(resource).is_some_and(Lent::ask)
    }

    /// What this node may use of a resource, in a cluster.
    pub(crate) fn lent(&self, resource: Resource) -> Option<&Lent> {
        Some(self.shared.as_ref()?.lent.of(resource))
    }

    fn take(&self, resource: Resource, count: &AtomicU64, most: u64) -> Taken {
        let taken = match &self.shared {
            Some(shared) => shared.take(resource, 0, most),
            None => return Taken::of(take(count, most)),
        };
        if taken == Taken::Yes {
            count.fetch_add(1, Relaxed);
        }
        taken
    }

    fn look(&self, resource: Resource, period: u16, most: u64) -> Taken {
        let lent = self.lent(resource).filter(|_| most != UNLIMITED);
        lent.map_or(Taken::Yes, |lent| lent.look(period, most))
    }

    fn give_back(&self, resource: Resource, period: u16) {
        if let Some(lent) = self.lent(resource) {
            lent.give_back(period);
        }
    }

    /// How many messages of a month all nodes of a cluster have published, as far as is known.
    pub(crate) fn set_messages(&self, month: u16, messages: u64) {
        let Some(shared) = &self.shared else { return };
        of_month(&shared.messages, month).store(pack(month, messages), Relaxed);
    }

    /// How many connections other nodes of a cluster have, and which parts of the rates of publishes and of
    /// subscribes, of [`WHOLE`].
    pub(crate) fn set_others(&self, connections: u64, publishes: u64, subscribes: u64) {
        let Some(shared) = &self.shared else { return };
        shared.connections.store(connections, Relaxed);
        shared.publishes.of_others.store(publishes, Relaxed);
        shared.subscribes.of_others.store(subscribes, Relaxed);
    }

    /// How many publishes and subscribes were asked for since the last time, where their rate is limited.
    pub(crate) fn tried(&self) -> (u64, u64) {
        let Some(shared) = &self.shared else { return (0, 0) };
        let of = |part: &RatePart| match part.tried.load(Relaxed) {
            0 => 0,
            _ => part.tried.swap(0, Relaxed),
        };
        (of(&shared.publishes), of(&shared.subscribes))
    }

    /// Messages of `month` so far, on all nodes.
    pub fn messages(&self, month: Month) -> u64 {
        let messages = self.shared.as_ref().map_or(&self.messages, |shared| &shared.messages);
        count_in(of_month(messages, month.number).load(Relaxed), month.number)
    }

    /// All of it as it is now, in `month`.
    pub fn numbers(&self, month: Month) -> AppNumbers {
        AppNumbers {
            connections: self.connections(),
            channels: self.channels(),
            messages_this_month: self.messages(month),
        }
    }

    /// Takes over what was kept of a month; the larger count wins. One that has not begun was counted
    /// by a clock that was ahead, and must not hide what was counted by the right one.
    pub fn restore(&self, month: u16, messages: u64) {
        if month > Month::of(clock::unix_ms()).number {
            return;
        }
        self.of_month(month).fetch_max(pack(month, messages), Relaxed);
    }

    fn of_month(&self, number: u16) -> &AtomicU64 {
        of_month(&self.messages, number)
    }

    /// Takes a publish from the rate `per_second`, or says after how many milliseconds to try again.
    pub fn take_publish(&self, now_ms: u64, per_second: u64) -> Result<(), u64> {
        let part = self.shared.as_ref().map(|shared| shared.publishes.of(per_second));
        self.publishes.take(now_ms, part.unwrap_or(per_second))
    }

    /// Takes a change from [`CHANGES_PER_SECOND_MAX`], or says after how many milliseconds to try
    /// again.
    pub(crate) fn take_change(&self, now_ms: u64) -> Result<(), u64> {
        self.changes.take(now_ms, CHANGES_PER_SECOND_MAX)
    }

    /// Takes a subscription from the rate `per_second`, or says after how many milliseconds to try
    /// again.
    pub fn take_subscribe(&self, now_ms: u64, per_second: u64) -> Result<(), u64> {
        let part = self.shared.as_ref().map(|shared| shared.subscribes.of(per_second));
        self.subscribes.take(now_ms, part.unwrap_or(per_second))
    }
}

impl SharedUsage {
    fn take(&self, resource: Resource, period: u16, most: u64) -> Taken {
        let lent = self.lent.of(resource);
        match most {
            UNLIMITED => {
                lent.forget_limit();
                Taken::Yes
            }
            _ => lent.take(period, most),
        }
    }
}

fn of_month(messages: &[AtomicU64; 2], number: u16) -> &AtomicU64 {
    let [even, odd] = messages;
    if number.is_multiple_of(2) { even } else { odd }
}

/// A shard has none left of a resource and wants more.
#[derive(Clone, Debug)]
pub struct Want {
    /// Whose limit it is.
    pub(crate) app: AppId,
    /// What the app uses here.
    pub(crate) usage: Arc<Usage>,
    /// Of what.
    pub(crate) resource: Resource,
    /// What the app's plan has.
    pub(crate) limit: u64,
}

/// What an app uses at a moment.
#[derive(Clone, Copy, Debug)]
pub struct AppNumbers {
    connections: u64,
    channels: u64,
    messages_this_month: u64,
}

metrics! {
    /// What is told of each app.
    pub const APP_METRICS of AppNumbers {
        /// WebSocket connections of the app.
        gauge app_connections = |app| app.connections;
        /// Channels of the app; on a node of a cluster, those that it has opened.
        gauge app_channels = |app| app.channels;
        /// Messages the app published this month (UTC).
        gauge app_messages_this_month = |app| app.messages_this_month;
    }
}

/// The counters of all apps, for those who are no shard: the writer keeps them, metrics read them.
#[derive(Debug, Default)]
pub struct Usages(UsageByApp);

#[expect(
    clippy::disallowed_types,
    reason = "the accounts' writer, the metrics and the cluster's thread share it, no shard does"
)]
type UsageByApp = std::sync::Mutex<BTreeMap<AppId, Arc<Usage>>>;

impl Usages {
    /// Has an app's be this one.
    pub(super) fn set(&self, app: AppId, usage: Arc<Usage>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(app, usage);
    }

    pub(super) fn forget(&self, app: AppId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&app);
    }

    /// That of an app.
    pub(crate) fn of(&self, app: AppId) -> Option<Arc<Usage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&app).cloned()
    }

    /// All of them as they are now.
    pub fn all(&self) -> Vec<(AppId, Arc<Usage>)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(app, usage)| (*app, Arc::clone(usage))).collect()
    }
}

fn take(count: &AtomicU64, most: u64) -> bool {
    count.fetch_update(Relaxed, Relaxed, |count| (count < most).then_some(count + 1)).is_ok()
}

/// A rate that allows a second's worth at once and then as many as time gives back: the generic cell
/// rate algorithm (ITU-T I.371), whose only state is the time until which everything is taken.
#[derive(Debug, Default)]
pub(crate) struct Rate(AtomicU64);

impl Rate {
    /// Takes one, or says after how many milliseconds there is one.
    pub(crate) fn take(&self, now_ms: u64, per_second: u64) -> Result<(), u64> {
        if per_second >= SECOND_NS {
            return Ok(());
        }
        let now = now_ms.saturating_mul(SECOND_NS / 1000);
        let one = SECOND_NS / per_second.max(1);
        let next = |taken_until: u64| {
            let taken_until = taken_until.max(now) + one;
            (taken_until <= now + SECOND_NS).then_some(taken_until)
        };
        match self.0.fetch_update(Relaxed, Relaxed, next) {
            Ok(_) => Ok(()),
            Err(taken_until) => {
                let wait = (taken_until.max(now) + one).saturating_sub(now + SECOND_NS);
                Err(wait.div_ceil(SECOND_NS / 1000))
            }
        }
    }
}

const SECOND_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_stop_exactly_at_their_limit_under_concurrency() {
        let usage = Usage::default();
        let month = Month { number: 7, end_ms: 0, start_ms: 0 };
        let taken: usize = std::thread::scope(|scope| {
            let thread = || {
                let taken = (0..1_000).filter(|_| {
                    let taken = usage.take_connection(1_234);
                    usage.take_message(month, 1_234) == Taken::Yes && taken == Taken::Yes
                });
                taken.count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(thread)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(taken <= 1_234);
        assert_eq!((usage.connections(), usage.messages(month)), (1_234, 1_234));
        let takes = |month, most| usage.take_message(month, most) == Taken::Yes;
        usage.return_message(month);
        assert!(takes(month, 1_234) && !takes(month, 1_234));
        // Another month begins; one that is late counts in the one that ends.
        let next = Month { number: 8, end_ms: 0, start_ms: 0 };
        assert!(takes(next, 1) && !takes(next, 1));
        assert!(!takes(month, 1_234) && takes(month, 1_235));
        assert_eq!((usage.messages(month), usage.messages(next)), (1_235, 1));
        // A clock that was a year ahead for a moment leaves nothing that is in the way.
        let year_ahead = Month { number: 20, end_ms: 0, start_ms: 0 };
        assert!(takes(year_ahead, 1));
        assert!(takes(next, 1) && !takes(next, 1));
        usage.restore(8, 5);
        usage.restore(8, 3);
        assert_eq!(usage.messages(next), 5);
    }

    #[test]
    fn a_rate_gives_a_second_at_once_and_then_what_time_gives_back() {
        let rate = Rate::default();
        let take = |now| rate.take(now, 10);
        assert_eq!((0..20).filter(|_| take(5_000).is_ok()).count(), 10);
        assert_eq!(take(5_000), Err(100));
        assert_eq!(take(5_099), Err(1));
        assert_eq!((take(5_100), take(5_100)), (Ok(()), Err(100)));
        assert_eq!((0..20).filter(|_| take(9_000).is_ok()).count(), 10);
        assert!((0..1_000).all(|_| rate.take(0, super::super::plan::UNLIMITED).is_ok()));
    }
}
