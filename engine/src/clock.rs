//! The only place that reads clocks. The shards are told the time.
#![allow(clippy::disallowed_methods, reason = "this is the clock module")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Length of a tick in milliseconds: the grain of every time-out.
pub const TICK_MS: u64 = 250;

/// A moment, as a shard is told it. Which clock is read depends on what for: a time of day for people,
/// the length of a time by what never jumps, the age of what is stored by what nobody sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Unix time in milliseconds, for people, messages and tokens. The administrator may set it, an
    /// hour or a year, forward or back.
    pub unix_ms: u64,
    /// Unix time in milliseconds for the age of what is stored, and for the month that is counted in:
    /// see [`SteadyTime`].
    pub steady_ms: u64,
    /// Milliseconds since the server started, for durations. Never goes back.
    pub elapsed_ms: u64,
    /// Ticks since the server started, for time-outs. Never goes back.
    pub tick: u32,
}

impl Now {
    /// The start of a server at a time of day.
    pub fn start(unix_ms: u64) -> Self {
        Self { unix_ms, steady_ms: unix_ms, elapsed_ms: 0, tick: 0 }
    }

    /// So many milliseconds later by all clocks.
    pub fn after(self, ms: u64) -> Self {
        let elapsed_ms = self.elapsed_ms + ms;
        let tick = (elapsed_ms / TICK_MS) as u32;
        Self { unix_ms: self.unix_ms + ms, steady_ms: self.steady_ms + ms, elapsed_ms, tick }
    }
}

/// Reads the clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    steady: SteadyTime,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { start: Instant::now(), steady: SteadyTime::start(unix_ms()) }
    }

    /// The current moment.
    pub fn now(&mut self) -> Now {
        let (elapsed_ms, unix_ms) = (self.elapsed_ms(), unix_ms());
        let steady_ms = self.steady.read(elapsed_ms, unix_ms);
        Now { unix_ms, steady_ms, elapsed_ms, tick: (elapsed_ms / TICK_MS) as u32 }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Milliseconds since the start.
    pub fn elapsed_ms(&self) -> u64 {
        self.elapsed().as_millis() as u64
    }
}

/// The time of day as it would be had nobody set the clock of the machine forward: what is deleted
/// because it is old must not go because somebody mistyped a year.
///
/// A clock that is set back is followed at once, since that only keeps things longer. One that is set
/// forward is followed when it has stood there for an hour.
#[derive(Clone, Copy, Debug)]
pub struct SteadyTime {
    /// Unix time at the start, as far as is believed now.
    start_unix_ms: u64,
    /// Since when, in milliseconds after the start, the clock is ahead.
    ahead_since_ms: Option<u64>,
}

/// How long a clock that jumped ahead must stand there before it is believed.
const TRUSTED_AFTER_MS: u64 = 3_600_000;

/// Steps forward that are believed at once: what a time server corrects.
const STEP_MS_MAX: u64 = 2_000;

impl SteadyTime {
    /// One that believes what the clock says at the start.
    pub fn start(unix_ms: u64) -> Self {
        Self { start_unix_ms: unix_ms, ahead_since_ms: None }
    }

    /// The time `elapsed_ms` after the start, when the clock says `unix_ms`.
    pub fn read(&mut self, elapsed_ms: u64, unix_ms: u64) -> u64 {
        let steady_ms = self.start_unix_ms.saturating_add(elapsed_ms);
        let is_believed = unix_ms <= steady_ms.saturating_add(STEP_MS_MAX) || {
            let since_ms = *self.ahead_since_ms.get_or_insert(elapsed_ms);
            elapsed_ms.saturating_sub(since_ms) >= TRUSTED_AFTER_MS
        };
        if !is_believed {
            return steady_ms;
        }
        self.ahead_since_ms = None;
        self.start_unix_ms = unix_ms.saturating_sub(elapsed_ms);
        unix_ms
    }
}

/// Unix time in milliseconds; 0 if the machine's clock is before 1970.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Whole ticks in `ms`, at least one.
pub const fn ticks(ms: u64) -> u32 {
    match ms.div_ceil(TICK_MS) {
        0 => 1,
        ticks if ticks > u32::MAX as u64 => u32::MAX,
        ticks => ticks as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn a_jump_ahead_is_believed_after_an_hour_and_one_back_at_once() {
        let start = 1_800_000_000_000;
        let mut steady = SteadyTime::start(start);
        assert_eq!(steady.read(1_000, start + 1_000), start + 1_000);
        // A day ahead, for a moment, and back again.
        assert_eq!(steady.read(2_000, start + 25 * HOUR), start + 2_000);
        assert_eq!(steady.read(9_000, start + 25 * HOUR), start + 9_000);
        assert_eq!(steady.read(10_000, start + 10_000), start + 10_000);
        // A time server's correction.
        assert_eq!(steady.read(11_000, start + 12_500), start + 12_500);
        // Back by an hour.
        assert_eq!(steady.read(12_000, start + 12_000 - HOUR), start + 12_000 - HOUR);
        assert_eq!(steady.read(13_000, start + 13_000 - HOUR), start + 13_000 - HOUR);
        // Ahead for good.
        let late = |elapsed: u64| start + elapsed + HOUR;
        assert_eq!(steady.read(20_000, late(20_000)), start + 20_000 - HOUR);
        assert_eq!(steady.read(HOUR, late(HOUR)), start);
        assert_eq!(steady.read(HOUR + 20_000, late(HOUR + 20_000)), late(HOUR + 20_000));
        assert_eq!(steady.read(HOUR + 21_000, late(HOUR + 21_000)), late(HOUR + 21_000));
        // The machine begins in 1970 and learns the time a little later.
        let mut steady = SteadyTime::start(0);
        assert_eq!(steady.read(5_000, start), 5_000);
        assert_eq!(steady.read(5_000 + HOUR, start + HOUR), start + HOUR);
    }
}
