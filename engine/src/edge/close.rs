//! Ends of connections, and the time-outs that bring them about.
//!
//! A connection that is closed with a last word lingers: the last bytes are written, FIN is sent,
//! and what the peer still sends is dropped until it closes too or a time is over. Closing at once
//! would make the kernel send RST, which can destroy the last word on its way.

use std::borrow::Cow;

use bytes::Bytes;
use pushflo_protocol::websocket::{CloseCode, close_frame, ping_frame};

use super::connection::Phase;
use super::http;
use super::websocket::TokenTime;
use crate::clock::TICK_MS;
use crate::context::Context;
use crate::edge::{Closing, Edge};
use crate::ids::ConnectionKey;

/// Code and reason of a WebSocket close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloseReason {
    /// The code; 0 for a close without one.
    pub code: u16,
    /// A few words.
    pub reason: Cow<'static, str>,
}

impl CloseReason {
    /// The subscriber fell too far behind.
    pub(crate) const TOO_SLOW: Self = Self {
        code: CloseCode::TooSlow as u16,
        reason: Cow::Borrowed("too slow: reconnect and recover"),
    };

    /// What follows for a subscriber is not kept any more.
    pub(super) const LEFT_BEHIND: Self = Self {
        code: CloseCode::TooSlow as u16,
        reason: Cow::Borrowed("history moved on: reconnect and recover"),
    };

    /// The server goes away; the client is to wait before it comes back.
    pub(crate) fn going_away(retry_ms: u64) -> Self {
        let reason = format!(r#"{{"retryAfterMs":{retry_ms}}}"#).into();
        Self { code: CloseCode::GoingAway.value(), reason }
    }

    pub(crate) fn new(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code: code.value(), reason: reason.into() }
    }
}

impl Edge {
    /// Sends a close frame after what is on its way, and lingers. Its subscriptions end now.
    pub(crate) fn close_websocket(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        reason: CloseReason,
    ) {
        let Some(c) = self.connections.get_mut(connection) else { return };
        if !c.is_websocket() {
            return;
        }
        self.note_close_frame(cx, connection, &reason);
        self.end_session(cx, connection);
        self.close_after(cx, connection, close_frame(reason.code, &reason.reason));
    }

    /// Writes `last` after what is on its way, and lingers.
    pub(crate) fn close_after(&mut self, cx: &mut Context, connection: ConnectionKey, last: Bytes) {
        let until = cx.now.tick.saturating_add(cx.settings.timeouts.linger);
        let Some(c) = self.connections.get_mut(connection) else { return };
        if matches!(c.phase, Phase::Closing { .. }) {
            return;
        }
        c.phase = Phase::Closing { until, half_closed: false };
        if let Some(active) = &mut c.active {
            active.inbound = Vec::new();
            active.deferred = None;
            active.behind.clear();
            active.windows.clear();
            active.window_bytes = 0;
            active.wanting.clear();
            active.farewells.clear();
            if std::mem::take(&mut active.is_paused) {
                self.resumed.push_back(connection);
            }
        }
        if !last.is_empty() {
            self.send(connection, last);
        }
        self.arm(cx, connection, cx.settings.timeouts.linger);
        self.after_write(cx, connection);
    }

    /// Closes a quiet HTTP connection.
    pub(super) fn half_close(&mut self, cx: &mut Context, connection: ConnectionKey, why: &str) {
        self.note_closing(cx, connection, why);
        self.close_after(cx, connection, Bytes::new());
    }

    /// The peer sent its close frame, which is answered with the same code. The server closes the
    /// connection first (RFC 6455 section 7.1.1).
    pub(super) fn close_echo(&mut self, cx: &mut Context, connection: ConnectionKey, code: u16) {
        let why = CloseReason { code, reason: "the peer said so".into() };
        self.note_close_frame(cx, connection, &why);
        self.end_session(cx, connection);
        self.close_after(cx, connection, close_frame(code, ""));
        self.peer_is_done(cx, connection);
    }

    /// The peer sends nothing more. What it asked for before is still answered.
    pub(crate) fn input_ended(&mut self, cx: &mut Context, connection: ConnectionKey) {
        let Some(c) = self.connections.get_mut(connection) else { return };
        match c.phase {
            Phase::Closing { .. } => self.peer_is_done(cx, connection),
            Phase::Open { .. } | Phase::Proxy => {
                self.forget_connection(cx, connection, "the peer closed it");
            }
            Phase::Http => {
                c.peer_done = true;
                match c.active.as_mut().and_then(|active| active.answers.back_mut()) {
                    Some(answer) => answer.last = true,
                    None => self.half_close(cx, connection, "the peer closed it"),
                }
            }
        }
    }

    fn peer_is_done(&mut self, cx: &mut Context, connection: ConnectionKey) {
        if let Some(c) = self.connections.get_mut(connection) {
            c.peer_done = true;
        }
        self.after_write(cx, connection);
    }

    /// Goes on with a closing connection once its last bytes are written, and reads on where that
    /// had to wait for the write.
    pub(crate) fn after_write(&mut self, cx: &mut Context, connection: ConnectionKey) {
        self.end_pause(cx, connection);
        let draining = self.is_draining();
        let Some(c) = self.connections.get_mut(connection) else { return };
        let idle = c.active.as_ref().is_none_or(|active| {
            !active.is_writing && active.out.is_empty() && active.unfinished.is_none()
        });
        if draining && c.phase == Phase::Http && c.is_quiet() {
            self.half_close(cx, connection, "the server drains");
            return;
        }
        let Phase::Closing { half_closed, .. } = &mut c.phase else { return };
        if idle && c.peer_done {
            self.forget_connection(cx, connection, "both sides are done");
        } else if idle && !std::mem::replace(half_closed, true) {
            self.closings.push_back(Closing::HalfClose(connection));
        }
    }

    /// Forgets a connection and has its socket closed.
    pub(crate) fn forget_connection(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        why: &str,
    ) {
        self.note_end(cx, connection, why);
        self.end_session(cx, connection);
        if let Some(c) = self.connections.remove(connection) {
            self.ledger.close(connection, c.account);
            cx.shared.leave(c.address);
            cx.metrics().connections.decrement();
            self.closings.push_back(Closing::Close(connection));
        }
    }

    /// What is due on a connection by time.
    pub(crate) fn connection_timeout(&mut self, cx: &mut Context, connection: ConnectionKey) {
        let (now, timeouts) = (cx.now.tick, cx.settings.timeouts);
        let Some(c) = self.connections.get_mut(connection) else { return };
        let mut write_left = u32::MAX;
        if let Some(active) = c.active.as_ref().filter(|active| active.is_writing) {
            write_left = timeouts.write.saturating_sub(now.saturating_sub(active.writing_since));
            if write_left == 0 {
                self.forget_connection(cx, connection, "its write was stuck");
                return;
            }
        }
        let silent = now.saturating_sub(c.heard_tick);
        let token_left = match self.token_timeout(cx, connection) {
            TokenTime::Ended => return,
            TokenTime::Left(ticks) => ticks,
        };
        let Some(c) = self.connections.get_mut(connection) else { return };
        let next = match &mut c.phase {
            Phase::Closing { until, .. } => {
                if now >= *until {
                    self.forget_connection(cx, connection, "it did not close in time");
                    return;
                }
                *until - now
            }
            Phase::Open { pinged, .. } => {
                if silent < timeouts.ping {
                    *pinged = false;
                    timeouts.ping - silent
                } else if silent >= timeouts.ping + timeouts.pong && *pinged {
                    cx.metrics().idle_closed_total.increment();
                    let seconds = u64::from(silent) * TICK_MS / 1000;
                    let reason = format!("nothing was heard for {seconds} s");
                    self.close_websocket(
                        cx,
                        connection,
                        CloseReason::new(CloseCode::GoingAway, reason),
                    );
                    return;
                } else {
                    if !std::mem::replace(pinged, true) {
                        self.send(connection, ping_frame());
                    }
                    timeouts.pong
                }
            }
            Phase::Proxy | Phase::Http if !c.is_heard => {
                if silent >= timeouts.head {
                    self.half_close(cx, connection, "nothing was heard");
                    return;
                }
                timeouts.head - silent
            }
            Phase::Proxy | Phase::Http => {
                let limit = c.active.as_ref().map_or(timeouts.keep_alive, |active| {
                    if !active.answers.is_empty() {
                        timeouts.keep_alive
                    } else if active.request_reader.is_reading_body() {
                        timeouts.body
                    } else if !active.inbound.is_empty() {
                        timeouts.head
                    } else {
                        timeouts.keep_alive
                    }
                });
                if silent >= limit {
                    self.http_timeout(cx, connection);
                    return;
                }
                limit - silent
            }
        };
        self.arm(cx, connection, next.min(token_left).min(write_left));
    }

    fn http_timeout(&mut self, cx: &mut Context, connection: ConnectionKey) {
        let Some(c) = self.connections.get_mut(connection) else { return };
        let in_request = c.active.as_ref().is_some_and(|active| !active.inbound.is_empty());
        if in_request {
            // Earlier requests are answered first; that must not last for ever either.
            self.arm(cx, connection, cx.settings.timeouts.keep_alive);
            self.refuse_request(cx, connection, http::too_late());
        } else {
            self.half_close(cx, connection, "nothing was asked for a while");
        }
    }

    /// Ends the WebSocket session, if there is one.
    fn end_session(&mut self, cx: &mut Context, connection: ConnectionKey) {
        if self.connections.get(connection).is_none_or(|c| c.session.is_none()) {
            return;
        }
        cx.metrics().websocket_connections.decrement();
        self.drop_subscriptions(cx, connection);
        let session = self.connections.get_mut(connection).and_then(|c| c.session.take());
        let app = session.and_then(|session| cx.directory.app(session.app));
        if let Some(app) = app {
            app.usage.leave_connection();
        }
    }
}
