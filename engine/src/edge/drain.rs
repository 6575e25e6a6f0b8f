//! Leaving in good order: requests under way are answered, subscribers are closed with 1001, spread
//! over a time so that they do not all come to the next server at once.

use super::CloseReason;
use super::Edge;
use super::connection::Connection;
use crate::clock::ticks;
use crate::context::Context;
use crate::ids::ConnectionKey;

/// Ticks that connections may take to end after the spread at most: with the default spread all is done
/// before the ten seconds after which containers are killed.
const DRAIN_LINGER_MAX: u32 = ticks(2_000);

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    /// The tick at which whoever is still there is cut off.
    deadline: u32,
}

/// Subscribers that are sent away, spread over a time.
#[derive(Debug)]
pub(super) struct SendingAway {
    /// Those that are still to be told.
    waiting: Vec<ConnectionKey>,
    /// The tick by which all have been told.
    until: u32,
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
        let is_idle = |connection: &Connection| !connection.is_websocket() && connection.is_quiet();
        let idle = self.connections.iter().filter(|(_, connection)| is_idle(connection));
        let idle: Vec<ConnectionKey> = idle.map(|(key, _)| key).collect();
        for connection in idle {
            self.half_close(cx, connection, "the server drains");
        }
        let until = cx.now.tick.saturating_add(if spread_ms == 0 { 0 } else { ticks(spread_ms) });
        let linger = cx.settings.timeouts.linger.min(DRAIN_LINGER_MAX);
        self.drain = Some(Drain { deadline: until.saturating_add(linger) });
        self.send_away(cx, spread_ms);
    }

    /// Closes the subscribers that there are within `spread_ms`, so that they come back elsewhere.
    pub(crate) fn send_away(&mut self, cx: &mut Context, spread_ms: u64) {
        let subscribers = self.connections.iter().filter(|(_, c)| c.is_websocket());
        let mut waiting: Vec<ConnectionKey> = subscribers.map(|(key, _)| key).collect();
        cx.random.shuffle(&mut waiting);
        let until = cx.now.tick.saturating_add(if spread_ms == 0 { 0 } else { ticks(spread_ms) });
        self.sending_away = Some(SendingAway { waiting, until, spread_ms });
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
        if let Some(SendingAway { waiting, until, spread_ms }) = &mut self.sending_away {
            let ticks_left = until.saturating_sub(cx.now.tick) as usize;
            let share = waiting.len().div_ceil(ticks_left.max(1));
            let rest = waiting.len().saturating_sub(share);
            let now: Vec<ConnectionKey> = waiting.drain(rest..).collect();
            let spread_ms = *spread_ms;
            if waiting.is_empty() {
                self.sending_away = None;
            }
            for connection in now {
                // Clients come back at different times, the later the more of them there were.
                let retry_ms = cx.random.u64(0..=spread_ms.max(1_000));
                self.close_websocket(cx, connection, CloseReason::going_away(retry_ms));
            }
        }
        let is_overdue = self.drain.as_ref().is_some_and(|drain| cx.now.tick >= drain.deadline);
        let overdue: Vec<ConnectionKey> = match is_overdue {
            true => self.connections.keys().collect(),
            false => Vec::new(),
        };
        for connection in overdue {
            self.forget_connection(
                cx,
                connection,
                "the server drains, and it did not leave in time",
            );
        }
    }
}
