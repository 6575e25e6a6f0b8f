//! A connection that speaks WebSocket: commands in, events out.

use std::borrow::Cow;

use bytes::Bytes;
use pushflo_protocol::dialect::pushflo::{Command, RefusedCommand, event};
use pushflo_protocol::http::Response;
use pushflo_protocol::limits::client_message_bytes_max;
use pushflo_protocol::position::Start;
use pushflo_protocol::publish::Publish;
use pushflo_protocol::websocket::{CloseCode, Received, pong_frame};
use pushflo_protocol::{ChannelSlug, ErrorCode, MessageId, Refusal};

use super::Edge;
use super::close::CloseReason;
use super::connection::Phase;
use super::session::{Session, TokenGrant};
use crate::accounts::plan::limit;
use crate::accounts::token::{self, CLOCK_LEEWAY_MS};
use crate::accounts::{Access, Client, Grant, Role, Taken};
use crate::api::{self, Admitted, Upgrade};
use crate::bug::bug;
use crate::clock::ticks;
use crate::context::Context;
use crate::ids::{AppId, ChannelKey, ConnectionKey, RequestId};
use crate::mail::{self, Answer, NewMessage, Outcome, ReplyTo, ToHome, no_room, not_now};

/// A publish of the client's that waits for its answer.
#[derive(Debug)]
pub(super) struct PendingPublish {
    channel: ChannelSlug,
    reference: Option<Box<str>>,
    /// The event that answers it, once it is there.
    answer: Option<Bytes>,
}

impl PendingPublish {
    /// Whether its answer is there.
    pub(super) fn is_ready(&self) -> bool {
        self.answer.is_some()
    }
}

/// How long a token still holds.
pub(super) enum TokenTime {
    /// It has ended, and with it the connection.
    Ended,
    /// Ticks until something is due on it; the most there are without a token.
    Left(u32),
}

/// A client is asked for a fresh token so long before the old one ends, in milliseconds, or at two
/// thirds of its life if that is later.
const WARNING_MS: u64 = 30_000;

impl Edge {
    /// Makes a connection a WebSocket.
    ///
    /// # Errors
    /// `RATE_LIMITED` where the address behind a proxy has as many connections as it may.
    pub(super) fn upgrade(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        upgrade: Upgrade,
    ) -> Result<(), Refusal> {
        let Upgrade { accept, client, admitted } = upgrade;
        if client.is_some_and(|client| !self.count_client(cx, connection, client)) {
            let most = cx.settings.limits.connections_per_address_max;
            let text = format!("the address has {most} connections, as many as it may");
            return Err(Refusal::limit(ErrorCode::RateLimited, "connectionsPerAddress", 5, text));
        }
        let accept = format!("Sec-WebSocket-Accept: {accept}");
        let mut response = Vec::new();
        Response {
            status: 101,
            content_type: None,
            headers: &["Upgrade: websocket", "Connection: Upgrade", &accept],
            body: &[],
            keep_alive: true,
            head_only: false,
        }
        .encode(self.date(cx), &mut response);
        self.open_websocket(cx, connection, response.into(), admitted);
        Ok(())
    }

    /// Begins to speak WebSocket: `response` is the 101.
    fn open_websocket(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        response: Bytes,
        access: Admitted,
    ) {
        let now_ms = cx.now.unix_ms;
        let generated = MessageId::new(now_ms, cx.random.u128(..));
        let Some(c) = self.connections.get_mut(connection) else { return };
        // The request's own answer is the 101.
        c.active().answers.pop_back();
        self.send(connection, response);
        let access = access.and_then(|(access, grant)| match take_connection(&access) {
            Ok(()) => Ok((access, grant)),
            Err(refusal) => Err((refusal, CloseCode::OverQuota)),
        });
        match access {
            Ok((access, grant)) => {
                let client = match &grant {
                    Some(grant) => {
                        Client::Named(grant.identity(access.role, || generated.to_string()))
                    }
                    None => Client::generated(generated),
                };
                let grant = grant.map(|grant| Box::new(self.token_grant(cx, grant)));
                let connected = event::connected(&client.id(), now_ms);
                let Some(c) = self.connections.get_mut(connection) else { return };
                let due = grant.as_ref().map(|grant| grant.warn_tick);
                c.session = Some(Session::new(&access, client, grant));
                c.phase = Phase::Open { pinged: false };
                c.heard_tick = cx.now.tick;
                cx.metrics().websocket_connections.increment();
                self.send(connection, connected);
                let ping = cx.settings.timeouts.ping;
                let due = due.map_or(ping, |tick| tick.saturating_sub(cx.now.tick).min(ping));
                self.arm(cx, connection, due);
            }
            Err((refusal, code)) => {
                self.refused(cx, connection, &refusal, None);
                self.send(connection, event::error(&refusal, None, None));
                let frame =
                    pushflo_protocol::websocket::close_frame(code.value(), &refusal.message);
                self.close_after(cx, connection, frame);
            }
        }
    }

    /// Reads one frame and does what it says. `None`: there is no whole one.
    pub(super) fn read_frame(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        bytes: &mut [u8],
    ) -> Option<usize> {
        let limits = cx.settings.limits;
        let c = self.connections.get(connection)?;
        let app = c.session.as_ref()?.app;
        let payload_bytes_max = api::payload_bytes_max(cx, app);
        let c = self.connections.get_mut(connection)?;
        let Phase::Open { pinged } = &mut c.phase else { return None };
        if bytes.is_empty() {
            return None;
        }
        *pinged = false;
        if !c.may_read(&limits) {
            return None;
        }
        // The reader is taken out while its text is acted upon, and put back if it holds anything.
        let mut reader =
            c.active.as_mut().map(|a| std::mem::take(&mut a.message_reader)).unwrap_or_default();
        let taken = match reader.read(bytes, client_message_bytes_max(payload_bytes_max)) {
            Ok(Some((taken, received))) => {
                self.frame(cx, connection, app, received, payload_bytes_max);
                Some(taken)
            }
            Ok(None) => None,
            Err(error) => {
                self.protocol_error(cx, connection, error.reason);
                self.close_websocket(cx, connection, CloseReason::new(error.code, error.reason));
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

    fn frame(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        app: AppId,
        received: Received<'_>,
        payload_bytes_max: usize,
    ) {
        match received {
            Received::Text(text) => self.text(cx, connection, app, text, payload_bytes_max),
            Received::Ping(payload) => self.send(connection, pong_frame(payload)),
            Received::Fragment | Received::Pong => {}
            Received::Close { code } => self.close_echo(cx, connection, code),
        }
    }

    fn text(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        app: AppId,
        text: &str,
        payload_bytes_max: usize,
    ) {
        if let Err(refused) = self.command(cx, connection, app, text, payload_bytes_max) {
            self.refuse_command(cx, connection, &refused);
        }
    }

    fn command<'a>(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        app: AppId,
        text: &'a str,
        payload_bytes_max: usize,
    ) -> Result<(), RefusedCommand<'a>> {
        let done = match Command::parse(text, payload_bytes_max)? {
            Command::Ping => {
                self.send(connection, event::pong());
                Ok(())
            }
            Command::Ack => {
                cx.metrics().acks_total.increment();
                Ok(())
            }
            Command::Unsubscribe { channel } => {
                let key = ChannelKey { app, slug: channel };
                match self.is_settling(connection, &key) {
                    true => self.defer(connection, text),
                    false => self.unsubscribe(cx, connection, &key),
                }
                Ok(())
            }
            Command::Subscribe { channel, start, presence } => {
                let key = ChannelKey { app, slug: channel };
                if self.is_settling(connection, &key) {
                    self.defer(connection, text);
                    return Ok(());
                }
                self.check_start(cx, &start)
                    .and_then(|()| self.subscribe(cx, connection, key, start, presence))
            }
            Command::Publish { publish, reference } => {
                self.client_publish(cx, connection, &publish, reference)
            }
            Command::Refresh { token } => self.refresh(cx, connection, &token),
        };
        done.map_err(|refusal| RefusedCommand::new(refusal, text))
    }

    /// Has a command wait until what was said before about its channel is answered.
    fn defer(&mut self, connection: ConnectionKey, text: &str) {
        if let Some(c) = self.connections.get_mut(connection) {
            c.defer(text);
        }
    }

    /// Goes on with a connection that waited: first with a command of its own that did.
    pub(crate) fn resume(&mut self, cx: &mut Context, connection: ConnectionKey) {
        let limits = cx.settings.limits;
        let Some(c) = self.connections.get_mut(connection) else { return };
        let app = c.session().map(|session| session.app);
        if let Some((command, app)) = c.take_deferred().zip(app) {
            self.text(cx, connection, app, &command, api::payload_bytes_max(cx, app));
        }
        let Some(c) = self.connections.get_mut(connection) else { return };
        c.resume(&limits);
        self.read_connection(cx, connection, &mut []);
    }

    fn check_start(&self, cx: &Context, start: &Start) -> Result<(), Refusal> {
        let most = cx.settings.limits.replay_messages_max;
        match start {
            Start::Last(count) if *count > most => {
                Err(Refusal::field("replay", format!("last may be at most {most}")))
            }
            _ => Ok(()),
        }
    }

    fn client_publish(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        publish: &Publish<'_>,
        reference: Option<Cow<'_, str>>,
    ) -> Result<(), Refusal> {
        let Some(c) = self.connections.get(connection) else { return Ok(()) };
        let Some(session) = &c.session else { return Ok(()) };
        let app = cx.directory.require(session.app)?.clone();
        if !session.may_publish(&publish.channel, app.record.settings.client_publish) {
            let text = "publishing to this channel over the WebSocket is not granted";
            return Err(Refusal::new(ErrorCode::Forbidden, text));
        }
        let client_id = session.client().id();
        // The keys of clients are their own: none takes one of the backend's, or of another client's.
        // Those of the API have no such character.
        let is_client = session.grant.is_some();
        let key = publish.key.as_ref().map(|key| match is_client {
            true => Cow::Owned(format!("{client_id}\0{key}")),
            false => Cow::Borrowed(&**key),
        });
        api::take_publish(cx, &app)?;
        let Some(c) = self.connections.get_mut(connection) else { return Ok(()) };
        let first = c.first_sequence;
        let active = c.active();
        let sequence = first.wrapping_add(active.publishes.len() as u32);
        let (channel, reference) = (publish.channel.clone(), reference.map(Into::into));
        active.publishes.push_back(PendingPublish { channel, reference, answer: None });
        let request = RequestId { shard: cx.shard, connection, sequence };
        let channel = ChannelKey { app: app.id, slug: publish.channel.clone() };
        let home = cx.home_shard(&channel);
        if cx.is_way_full(home) {
            self.publish_answered(cx, connection, sequence, Err(no_room()));
            return Ok(());
        }
        let parts = publish.parts(Some(&client_id));
        let key = key.map(|key| key.into_owned().into());
        let message = NewMessage { channel, parts, key };
        let publish = mail::Publish { reply_to: ReplyTo::Request(request), message };
        cx.post_home(home, ToHome::Publish(publish));
        Ok(())
    }

    /// What became of a client's publish. Clients are answered in the order in which they published.
    pub(super) fn publish_answered(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        sequence: u32,
        outcome: Outcome,
    ) {
        let Some(c) = self.connections.get_mut(connection) else { return };
        let at = sequence.wrapping_sub(c.first_sequence) as usize;
        let publish = c.active.as_mut().and_then(|active| active.publishes.get_mut(at));
        let Some(publish) = publish else {
            return bug!(cx, "an answer to a publish that nobody waits for");
        };
        let channel = outcome.is_err().then(|| publish.channel.clone());
        let reference = publish.reference.as_deref();
        publish.answer = Some(match &outcome {
            Ok(Answer::Published(receipt)) => {
                event::published(&publish.channel, receipt, reference)
            }
            Ok(other) => {
                let refusal = cx.lost(&format!("a publish was answered {other:?}"));
                event::error(&refusal, Some(&publish.channel), reference)
            }
            Err(refusal) => event::error(refusal, Some(&publish.channel), reference),
        });
        let Some(active) = &mut c.active else { return };
        let mut ready = Vec::new();
        while active.publishes.front().is_some_and(|publish| publish.answer.is_some()) {
            c.first_sequence = c.first_sequence.wrapping_add(1);
            ready.extend(active.publishes.pop_front().and_then(|publish| publish.answer));
        }
        if let Err(refusal) = outcome {
            self.refused(cx, connection, &refusal, channel.as_ref());
        }
        for event in ready {
            self.send(connection, event);
        }
    }

    /// Takes a fresh token for a connection that came with one.
    fn refresh(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        token: &str,
    ) -> Result<(), Refusal> {
        let unauthorized = |text: String| Refusal::new(ErrorCode::Unauthorized, text);
        let (access, grant) = token::verify(&cx.directory, token, cx.now.unix_ms)
            .map_err(|error| unauthorized(error.to_string()))?;
        let expires_ms = grant.expires_ms;
        let grant = self.token_grant(cx, grant);
        let Some(c) = self.connections.get_mut(connection) else { return Ok(()) };
        let Some(session) = &mut c.session else { return Ok(()) };
        if session.grant.is_none() {
            let text = "this connection came with a key, which does not expire";
            return Err(Refusal::new(ErrorCode::ValidationError, text));
        }
        let is_same =
            grant.grant.client_id.as_deref().is_none_or(|id| *id == *session.client().id());
        if access.app.id != session.app || !is_same {
            return Err(unauthorized("the token is for another app or client".into()));
        }
        // Or whoever was ann once would be for ever, in the name of a key that every browser has.
        if session.client().is_verified() && access.role < Role::Secret {
            let text = "this connection's client id needs a token of the app's backend";
            return Err(unauthorized(text.into()));
        }
        let warn_tick = grant.warn_tick;
        session.renew(&access, grant);
        self.send(connection, event::refreshed(expires_ms));
        self.drop_what_is_not_granted(cx, connection);
        self.arm(cx, connection, warn_tick.saturating_sub(cx.now.tick));
        Ok(())
    }

    fn token_grant(&self, cx: &Context, grant: Grant) -> TokenGrant {
        let left_ms = grant.expires_ms.saturating_sub(cx.now.unix_ms);
        let warn_ms = left_ms.saturating_sub(WARNING_MS.min(left_ms / 3));
        let end_ms = grant.expires_ms.saturating_add(CLOCK_LEEWAY_MS);
        let end_ms = end_ms.saturating_sub(cx.now.unix_ms);
        let tick = |ms| cx.now.tick.saturating_add(ticks(ms));
        TokenGrant { warn_tick: tick(warn_ms), end_tick: tick(end_ms), is_warned: false, grant }
    }

    /// Warns of the end of a token, or closes the connection at it.
    pub(super) fn token_timeout(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
    ) -> TokenTime {
        let now = cx.now.tick;
        let session = self.connections.get_mut(connection).and_then(|c| c.session.as_mut());
        let Some(token) = session.and_then(|session| session.grant.as_mut()) else {
            return TokenTime::Left(u32::MAX);
        };
        if now >= token.end_tick {
            let refusal = Refusal::new(ErrorCode::Unauthorized, "the token has expired");
            self.refused(cx, connection, &refusal, None);
            self.send(connection, event::error(&refusal, None, None));
            let reason = CloseReason::new(CloseCode::Unauthorized, "token expired");
            self.close_websocket(cx, connection, reason);
            return TokenTime::Ended;
        }
        let (end_tick, expires_ms) = (token.end_tick, token.grant.expires_ms);
        if now < token.warn_tick {
            return TokenTime::Left(token.warn_tick - now);
        }
        if !std::mem::replace(&mut token.is_warned, true) {
            self.send(connection, event::token_expiring(expires_ms));
        }
        TokenTime::Left(end_tick - now)
    }

    fn refuse_command(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        refused: &RefusedCommand<'_>,
    ) {
        let RefusedCommand { refusal, channel, reference } = refused;
        debug_assert_ne!(refusal.code, ErrorCode::ServerError);
        self.refused(cx, connection, refusal, channel.as_ref());
        self.send(connection, event::error(refusal, channel.as_ref(), reference.as_deref()));
    }
}

/// Counts a connection of the app, unless it has as many as its plan allows.
fn take_connection(access: &Access) -> Result<(), Refusal> {
    let most = access.app.plan.connections_max;
    match access.app.usage.take_connection(most) {
        Taken::Yes => Ok(()),
        Taken::No => {
            let text = format!("the app has {most} connections, as many as its plan has");
            Err(Refusal::limit(ErrorCode::QuotaExceeded, limit::CONNECTIONS, 60, text))
        }
        Taken::Ask | Taken::NotNow => Err(not_now(limit::CONNECTIONS)),
    }
}
