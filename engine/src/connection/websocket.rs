//! A connection that speaks WebSocket: commands in, events out.

use bytes::Bytes;
use pushflo_protocol::command::Command;
use pushflo_protocol::event;
use pushflo_protocol::message::MessageId;
use pushflo_protocol::websocket::{CloseCode, Received, pong_frame};
use pushflo_protocol::{ErrorCode, Refusal};

use super::{CloseReason, Phase};
use crate::auth::Access;
use crate::shard::{ChannelKey, ConnectionKey, Shard};

impl Shard {
    /// Makes a connection a WebSocket: `response` is the 101. `access` is what its key grants, or
    /// the refusal that it is told in a frame, since browsers do not show an HTTP answer.
    pub(crate) fn open_websocket(
        &mut self,
        connection: ConnectionKey,
        response: Bytes,
        access: Result<Access, (Refusal, CloseCode)>,
    ) {
        let now_ms = self.now.unix_ms;
        let client_id = MessageId::new(now_ms, self.random.u128(..)).to_string();
        let Some(c) = self.connections.get_mut(connection) else { return };
        // The request's own answer is the 101.
        c.active().answers.pop_back();
        self.send(connection, response);
        match access {
            Ok(access) => {
                let Some(c) = self.connections.get_mut(connection) else { return };
                c.phase = Phase::Open { access, pinged: false };
                c.heard_tick = self.now.tick;
                self.metrics().websocket_connections.increment();
                self.send(connection, event::connected(&client_id, now_ms));
                self.arm(connection, self.settings.timeouts.ping);
            }
            Err((refusal, code)) => {
                self.metrics().refused(refusal.code);
                self.send(connection, event::error(&refusal, None));
                let frame =
                    pushflo_protocol::websocket::close_frame(code.value(), &refusal.message);
                self.close_after(connection, frame);
            }
        }
    }

    /// Reads one frame and does what it says. `None`: there is no whole one.
    pub(super) fn read_frame(
        &mut self,
        connection: ConnectionKey,
        bytes: &mut [u8],
    ) -> Option<usize> {
        let limits = self.settings.limits;
        let c = self.connections.get_mut(connection)?;
        let Phase::Open { access, pinged } = &mut c.phase else { return None };
        *pinged = false;
        let access = *access;
        if bytes.is_empty() || !c.wants_bytes(&limits) {
            return None;
        }
        // The reader is taken out while its text is acted upon, and put back if it holds anything.
        let mut reader =
            c.active.as_mut().map(|a| std::mem::take(&mut a.message_reader)).unwrap_or_default();
        let taken = match reader.read(bytes) {
            Ok(Some((taken, received))) => {
                self.frame(connection, access, received);
                Some(taken)
            }
            Ok(None) => None,
            Err(error) => {
                self.metrics().protocol_errors_total.increment();
                self.close_websocket(connection, CloseReason::new(error.code, error.reason));
                return None;
            }
        };
        if !reader.is_idle()
            && let Some(c) = self.connections.get_mut(connection)
        {
            c.active().message_reader = reader;
        }
        taken
    }

    fn frame(&mut self, connection: ConnectionKey, access: Access, received: Received<'_>) {
        match received {
            Received::Text(text) => self.command(connection, access, text),
            Received::Ping(payload) => self.send(connection, pong_frame(payload)),
            Received::Fragment | Received::Pong => {}
            Received::Close { code } => self.close_echo(connection, code),
        }
    }

    fn command(&mut self, connection: ConnectionKey, access: Access, text: &str) {
        let channel_key = |slug| ChannelKey { app: access.app, slug };
        match Command::parse(text) {
            Ok(Command::Ping) => self.send(connection, event::pong()),
            Ok(Command::Ack) => self.metrics().acks_total.increment(),
            Ok(Command::Unsubscribe { channel }) => {
                self.unsubscribe(connection, &channel_key(channel));
            }
            Ok(Command::Subscribe { channel, start }) => {
                let refusal = self
                    .check_start(&start)
                    .and_then(|()| self.subscribe(connection, channel_key(channel.clone()), start));
                if let Err(refusal) = refusal {
                    self.refuse_command(connection, &refusal, Some(&channel));
                }
            }
            Err((refusal, channel)) => self.refuse_command(connection, &refusal, channel.as_ref()),
        }
    }

    fn check_start(&self, start: &pushflo_protocol::command::Start) -> Result<(), Refusal> {
        let most = self.settings.limits.replay_messages_max;
        match start {
            pushflo_protocol::command::Start::Last(count) if *count > most => {
                Err(Refusal::field("replay", format!("last may be at most {most}")))
            }
            _ => Ok(()),
        }
    }

    fn refuse_command(
        &mut self,
        connection: ConnectionKey,
        refusal: &Refusal,
        channel: Option<&pushflo_protocol::ChannelSlug>,
    ) {
        debug_assert_ne!(refusal.code, ErrorCode::ServerError);
        self.metrics().refused(refusal.code);
        self.send(connection, event::error(refusal, channel));
    }
}
