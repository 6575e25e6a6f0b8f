//! Leaving in good order: requests under way are answered, subscribers are closed with 1001, spread
//! over a time so that they do not all come to the next server at once.

use super::CloseReason;
use super::Edge;
use crate::clock::ticks;
use crate::context::Context;
use crate::ids::ConnectionKey;

/// Ticks that connections may take to end after the spread at most: with the default spread all is done
/// before the ten seconds after which containers are killed.
const DRAIN_LINGER_MAX: u32 = ticks(2_000);

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    /// Subscribers still to be told.
    waiting: Vec<ConnectionKey>,
    /// The tick by which all have been told.
    until: u32,
    /// The tick at which whoever is still there is cut off.
    deadline: u32,
    /// How long clients are to wait at most before they come back.
    spread_ms: u64,
}

impl Edge {
    /// Takes no more connections and closes those there are within `spread_ms`. The shard is done
    /// when [`Edge::is_drained`]; whoever has not left two seconds after the spread is cut off.
    pub(crate) fn drain(&mut self, cx: &mut Context, spread_ms: u64) {
        if self.drain.is_some() {
            return;
        }
        let mut waiting: Vec<ConnectionKey> = Vec::new();
        let mut idle: Vec<ConnectionKey> = Vec::new();
        for (key, connection) in &self.connections {
            if connection.is_websocket() {
                waiting.push(key);
            } else if connection.is_quiet() {
                idle.push(key);
            }
        }
        for connection in idle {
            self.half_close(cx, connection, "the server drains");
        }
        cx.random.shuffle(&mut waiting);
        let until = cx.now.tick.saturating_add(if spread_ms == 0 { 0 } else { ticks(spread_ms) });
        let linger = cx.settings.timeouts.linger.min(DRAIN_LINGER_MAX);
        let deadline = until.saturating_add(linger);
        self.drain = Some(Drain { waiting, until, deadline, spread_ms });
        self.continue_drain(cx);
    }

    /// Whether a drain has ended: every connection is gone.
    pub(crate) fn is_drained(&self) -> bool {
        self.drain.is_some() && self.connections.is_empty()
    }

    /// Whether a drain has begun.
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    pub(super) fn continue_drain(&mut self, cx: &mut Context) {
        let Some(drain) = &mut self.drain else { return };
        let ticks_left = drain.until.saturating_sub(cx.now.tick) as usize;
        let share = drain.waiting.len().div_ceil(ticks_left.max(1));
        let rest = drain.waiting.len().saturating_sub(share);
        let now: Vec<ConnectionKey> = drain.waiting.drain(rest..).collect();
        let spread_ms = drain.spread_ms;
        let overdue: Vec<ConnectionKey> = if cx.now.tick >= drain.deadline {
            self.connections.keys().collect()
        } else {
            Vec::new()
        };
        for connection in now {
            // Clients come back at different times, the later the more of them there were.
            let retry_ms = cx.random.u64(0..=spread_ms.max(1_000));
            self.close_websocket(cx, connection, CloseReason::going_away(retry_ms));
        }
        for connection in overdue {
            self.forget_connection(
                cx,
                connection,
                "the server drains, and it did not leave in time",
            );
        }
    }
}
