//! A coarse timer wheel: one slot a tick, re-checked when it comes up.
//!
//! Each connection has at most one entry that counts: the one whose tick the connection remembers.
//! A time-out that moves to a later time costs nothing: the entry comes up, the connection sees that
//! it is early and sets the next one.

use crate::ids::ConnectionKey;

/// Slots of the wheel; an entry further away is set for the furthest slot, and again from there.
const SLOTS: usize = 512;

/// Time-outs of a shard's connections.
#[derive(Debug)]
pub(super) struct TimerWheel {
    slots: Vec<Vec<ConnectionKey>>,
    tick: u32,
}

impl TimerWheel {
    /// An empty wheel that stands at `tick`.
    pub(super) fn new(tick: u32) -> Self {
        Self { slots: vec![Vec::new(); SLOTS], tick }
    }

    /// Where it stands.
    pub(super) fn tick(&self) -> u32 {
        self.tick
    }

    /// Sets an entry for `tick` or the nearest the wheel has, and returns that.
    pub(super) fn set(&mut self, connection: ConnectionKey, tick: u32) -> u32 {
        let ahead = tick.saturating_sub(self.tick).clamp(1, SLOTS as u32 - 1);
        let tick = self.tick.saturating_add(ahead);
        if let Some(slot) = self.slots.get_mut(tick as usize % SLOTS) {
            slot.push(connection);
        }
        tick
    }

    /// Whether an entry comes up at `tick`.
    pub(super) fn has(&self, connection: ConnectionKey, tick: u32) -> bool {
        let slot = self.slots.get(tick as usize % SLOTS);
        tick > self.tick && slot.is_some_and(|slot| slot.contains(&connection))
    }

    /// Moves on by one tick towards `now` and returns it with what comes up there; `None` once it
    /// is there.
    pub(super) fn advance(&mut self, now: u32) -> Option<(u32, Vec<ConnectionKey>)> {
        if self.tick >= now {
            return None;
        }
        self.tick += 1;
        let slot = self.slots.get_mut(self.tick as usize % SLOTS);
        Some((self.tick, slot.map(std::mem::take).unwrap_or_default()))
    }
}
