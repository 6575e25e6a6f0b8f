//! The only place that reads clocks. The shards are told the time.
#![allow(clippy::disallowed_methods, reason = "this is the clock module")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Length of a tick in milliseconds: the grain of every time-out.
pub const TICK_MS: u64 = 250;

/// A moment, as a shard is told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Unix time in milliseconds, for people and messages. May be set back by the administrator.
    pub unix_ms: u64,
    /// Ticks since the server started, for time-outs. Never goes back.
    pub tick: u32,
}

/// Reads both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The current moment.
    pub fn now(&self) -> Now {
        let tick = self.start.elapsed().as_millis() as u64 / TICK_MS;
        Now { unix_ms: unix_ms(), tick: tick as u32 }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
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
