//! What an app uses: plain atomic counters that all shards share, so that a limit is hit at exactly
//! its number however many shards count at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};

use pushflo_protocol::time::Month;

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
}

/// Changes of itself, its keys and its channels that an app may ask for in a second, and at once: each
/// is written to disk, and those of others wait behind it.
pub(crate) const CHANGES_PER_SECOND_MAX: u64 = 200;

/// Bits of the count of messages; 2^48 messages a month are a hundred million a second.
const COUNT_BITS: u32 = 48;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

impl Usage {
    /// Counts a connection, unless there are `most` already.
    pub fn take_connection(&self, most: u64) -> bool {
        take(&self.connections, most)
    }

    /// A counted connection is gone.
    pub fn leave_connection(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    /// Connections now.
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Counts a channel, unless there are `most` already.
    pub fn take_channel(&self, most: u64) -> bool {
        take(&self.channels, most)
    }

    /// A counted channel is gone.
    pub fn leave_channel(&self) {
        self.channels.fetch_sub(1, Relaxed);
    }

    /// Channels now.
    pub fn channels(&self) -> u64 {
        self.channels.load(Relaxed)
    }

    /// Counts a message of `month`, unless there are `most` in it already.
    pub fn take_message(&self, month: Month, most: u64) -> bool {
        let next = |packed| {
            let count = count_in(packed, month.number);
            (count < most.min(COUNT_MASK)).then(|| pack(month.number, count + 1))
        };
        self.of_month(month.number).fetch_update(Relaxed, Relaxed, next).is_ok()
    }

    /// A counted message was not published after all.
    pub fn return_message(&self, month: Month) {
        let next = |packed| {
            let count = count_in(packed, month.number);
            (count > 0).then(|| pack(month.number, count - 1))
        };
        // None is there to take back when another month took its place.
        let _ = self.of_month(month.number).fetch_update(Relaxed, Relaxed, next);
    }

    /// Messages of `month` so far.
    pub fn messages(&self, month: Month) -> u64 {
        count_in(self.of_month(month.number).load(Relaxed), month.number)
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
        self.of_month(month).fetch_max(pack(month, messages.min(COUNT_MASK)), Relaxed);
    }

    fn of_month(&self, number: u16) -> &AtomicU64 {
        let [even, odd] = &self.messages;
        if number.is_multiple_of(2) { even } else { odd }
    }

    /// Takes a publish from the rate `per_second`, or says after how many milliseconds to try again.
    pub fn take_publish(&self, now_ms: u64, per_second: u64) -> Result<(), u64> {
        self.publishes.take(now_ms, per_second)
    }

    /// Takes a change from [`CHANGES_PER_SECOND_MAX`], or says after how many milliseconds to try
    /// again.
    pub(crate) fn take_change(&self, now_ms: u64) -> Result<(), u64> {
        self.changes.take(now_ms, CHANGES_PER_SECOND_MAX)
    }

    /// Takes a subscription from the rate `per_second`, or says after how many milliseconds to try
    /// again.
    pub fn take_subscribe(&self, now_ms: u64, per_second: u64) -> Result<(), u64> {
        self.subscribes.take(now_ms, per_second)
    }
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
        /// Channels of the app.
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
    reason = "the accounts' writer and the metrics thread share it, no shard does"
)]
type UsageByApp = std::sync::Mutex<BTreeMap<AppId, Arc<Usage>>>;

impl Usages {
    pub(super) fn set(&self, app: AppId, usage: Arc<Usage>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(app, usage);
    }

    pub(super) fn forget(&self, app: AppId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&app);
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

fn pack(month: u16, count: u64) -> u64 {
    u64::from(month) << COUNT_BITS | count
}

fn count_in(packed: u64, month: u16) -> u64 {
    if packed >> COUNT_BITS == u64::from(month) { packed & COUNT_MASK } else { 0 }
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
        let month = Month { number: 7, end_ms: 0 };
        let taken: usize = std::thread::scope(|scope| {
            let thread = || {
                let taken = (0..1_000)
                    .filter(|_| usage.take_connection(1_234) & usage.take_message(month, 1_234));
                taken.count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(thread)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(taken <= 1_234);
        assert_eq!((usage.connections(), usage.messages(month)), (1_234, 1_234));
        usage.return_message(month);
        assert!(usage.take_message(month, 1_234) && !usage.take_message(month, 1_234));
        // Another month begins; one that is late counts in the one that ends.
        let next = Month { number: 8, end_ms: 0 };
        assert!(usage.take_message(next, 1) && !usage.take_message(next, 1));
        assert!(!usage.take_message(month, 1_234) && usage.take_message(month, 1_235));
        assert_eq!((usage.messages(month), usage.messages(next)), (1_235, 1));
        // A clock that was a year ahead for a moment leaves nothing that is in the way.
        let year_ahead = Month { number: 20, end_ms: 0 };
        assert!(usage.take_message(year_ahead, 1));
        assert!(usage.take_message(next, 1) && !usage.take_message(next, 1));
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
