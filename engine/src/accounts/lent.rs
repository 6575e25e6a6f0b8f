//! What an app of a cluster may use on one node: parts of its limits, which the nodes lend each other. A shard
//! takes from them without asking anybody, and asks for more where none is left; only the cluster's thread adds
//! to them and takes back what is not used.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// What comes of an attempt to use something that an app's plan limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It may be used.
    Yes,
    /// The app uses as much as its plan has.
    No,
    /// This node has none left; others may have some.
    Ask,
    /// The others cannot be asked.
    NotNow,
}

impl Taken {
    pub(super) fn of(is_taken: bool) -> Self {
        if is_taken { Self::Yes } else { Self::No }
    }
}

/// What a plan limits over all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    /// Connections at a time.
    Connections,
    /// Channels at a time.
    Channels,
    /// Messages of a month.
    Messages,
}

impl Resource {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Connections, Self::Channels, Self::Messages];
}

/// Something of each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ByResource<T>([T; 3]);

impl<T> ByResource<T> {
    /// That of one.
    pub(crate) fn of(&self, resource: Resource) -> &T {
        let [connections, channels, messages] = &self.0;
        match resource {
            Resource::Connections => connections,
            Resource::Channels => channels,
            Resource::Messages => messages,
        }
    }

    /// That of one, to be changed.
    pub(crate) fn of_mut(&mut self, resource: Resource) -> &mut T {
        let [connections, channels, messages] = &mut self.0;
        match resource {
            Resource::Connections => connections,
            Resource::Channels => channels,
            Resource::Messages => messages,
        }
    }

    /// All of them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut()
    }
}

/// What those are told who find none left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Supply {
    /// To ask for more.
    Open,
    /// That there is no more.
    Exhausted,
    /// That it is not known.
    Unknown,
}

/// A part of a limit, to be used here.
#[derive(Debug)]
pub(crate) struct Lent {
    /// How many may still be taken, and of which period; see [`pack`].
    left: AtomicU64,
    /// The limit that it is a part of; none was told where it is 0.
    limit: AtomicU64,
    supply: AtomicU8,
    /// Somebody wanted one since this was looked at last.
    is_wanted: AtomicBool,
    /// Somebody has asked for more, and was not heard yet.
    is_asked: AtomicBool,
}

/// Bits of a count beside its period; 2^48 messages a month are a hundred million a second.
const COUNT_BITS: u32 = 48;
pub(super) const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// A count of a period, such as a month: the period in the upper 16 bits, the count below.
pub(super) fn pack(period: u16, count: u64) -> u64 {
    u64::from(period) << COUNT_BITS | count.min(COUNT_MASK)
}

/// The count of a period; 0 where another one was packed.
pub(super) fn count_in(packed: u64, period: u16) -> u64 {
    if packed >> COUNT_BITS == u64::from(period) { packed & COUNT_MASK } else { 0 }
}

impl Default for Lent {
    fn default() -> Self {
        Self {
            left: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            supply: AtomicU8::new(Supply::Open as u8),
            is_wanted: AtomicBool::new(false),
            is_asked: AtomicBool::new(false),
        }
    }
}

impl Lent {
    /// Takes one of `period`, as a month or 0 for what has none, where `limit` is the plan's.
    pub(super) fn take(&self, period: u16, limit: u64) -> Taken {
        let taken = self.look(period, limit);
        let next = |packed| {
            let left = count_in(packed, period);
            (left > 0).then(|| pack(period, left.saturating_sub(1)))
        };
        match taken {
            Taken::Yes if self.left.fetch_update(Relaxed, Relaxed, next).is_err() => {
                self.is_wanted.store(true, Relaxed);
                self.none_left()
            }
            taken => taken,
        }
    }

    /// What would come of [`Lent::take`].
    pub(super) fn look(&self, period: u16, limit: u64) -> Taken {
        if self.limit.load(Relaxed) != limit {
            self.is_wanted.store(true, Relaxed);
            return Taken::Ask;
        }
        if count_in(self.left.load(Relaxed), period) > 0 {
            return Taken::Yes;
        }
        self.is_wanted.store(true, Relaxed);
        self.none_left()
    }

    fn none_left(&self) -> Taken {
        match self.supply() {
            Supply::Open => Taken::Ask,
            Supply::Exhausted => Taken::No,
            Supply::Unknown => Taken::NotNow,
        }
    }

    /// What was taken is not used any more.
    pub(super) fn give_back(&self, period: u16) {
        let next = |packed: u64| {
            let is_of_period = packed >> COUNT_BITS == u64::from(period);
            is_of_period.then(|| pack(period, count_in(packed, period) + 1))
        };
        // What was taken of another period, or before there was a limit, is nobody's.
        if self.limit.load(Relaxed) > 0 {
            let _ = self.left.fetch_update(Relaxed, Relaxed, next);
        }
    }

    /// The plan has no limit now: what is taken meanwhile is not counted here.
    pub(super) fn forget_limit(&self) {
        if self.limit.load(Relaxed) > 0 {
            self.limit.store(0, Relaxed);
        }
    }

    /// Whether whoever asks is the first since somebody was heard.
    pub(super) fn ask(&self) -> bool {
        !self.is_asked.swap(true, Relaxed)
    }

    /// Hears those who have asked: who asks from now on is the first again.
    pub(crate) fn hear(&self) {
        self.is_asked.store(false, Relaxed);
    }

    /// Whether somebody wanted one since the last time.
    pub(crate) fn was_wanted(&self) -> bool {
        self.is_wanted.swap(false, Relaxed)
    }

    /// Whether somebody wanted one since [`Lent::was_wanted`] was asked.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Relaxed)
    }

    /// How many of `period` may still be taken.
    pub(crate) fn left(&self, period: u16) -> u64 {
        count_in(self.left.load(Relaxed), period)
    }

    /// Adds to what may be taken of `period`; what is left of another one is gone.
    pub(crate) fn add(&self, period: u16, count: u64) {
        let next = |packed| Some(pack(period, count_in(packed, period).saturating_add(count)));
        let _ = self.left.fetch_update(Relaxed, Relaxed, next);
    }

    /// Takes all of `period` back that was not taken.
    pub(crate) fn withdraw(&self, period: u16) -> u64 {
        count_in(self.left.swap(pack(period, 0), Relaxed), period)
    }

    /// The limit that it is a part of; 0 where none was told, or it does not hold any more.
    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    /// Says of which limit it is a part.
    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Relaxed);
    }

    /// What those are told who find none left.
    pub(crate) fn supply(&self) -> Supply {
        match self.supply.load(Relaxed) {
            supply if supply == Supply::Exhausted as u8 => Supply::Exhausted,
            supply if supply == Supply::Unknown as u8 => Supply::Unknown,
            _ => Supply::Open,
        }
    }

    /// Says what those are told who find none left.
    pub(crate) fn set_supply(&self, supply: Supply) {
        self.supply.store(supply as u8, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_taken_once() {
        let lent = Lent::default();
        assert_eq!(lent.take(7, 10), Taken::Ask, "nobody has told of a limit");
        assert!(lent.ask() && !lent.ask() && lent.was_wanted() && !lent.was_wanted());
        lent.set_limit(10);
        lent.add(7, 2);
        assert_eq!([lent.take(7, 10), lent.take(7, 10)], [Taken::Yes, Taken::Yes]);
        assert_eq!((lent.look(7, 10), lent.take(7, 10)), (Taken::Ask, Taken::Ask));
        lent.set_supply(Supply::Exhausted);
        assert_eq!(lent.take(7, 10), Taken::No);
        assert_eq!(lent.take(7, 20), Taken::Ask, "of another plan");
        lent.set_supply(Supply::Unknown);
        assert_eq!(lent.take(7, 10), Taken::NotNow);
        lent.give_back(7);
        lent.give_back(6);
        assert_eq!((lent.left(7), lent.left(8), lent.withdraw(7)), (1, 0, 1));
        // A month later nothing is left of the one before.
        lent.add(7, 5);
        lent.add(8, 1);
        assert_eq!((lent.left(7), lent.left(8)), (0, 1));
        lent.give_back(7);
        assert_eq!(lent.take(8, 10), Taken::Yes);
    }
}
