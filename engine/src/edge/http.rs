//! A connection that speaks HTTP: requests in, answers out in the same order.

use std::net::IpAddr;

use bytes::Bytes;
use pushflo_protocol::http::{CONTINUE, Progress, Request, Response};
use pushflo_protocol::proxy::{self, Prefix};
use pushflo_protocol::{ErrorCode, Refusal};

use super::connection::Phase;
use crate::context::Context;
use crate::edge::Edge;
use crate::ids::{ConnectionKey, RequestId};
use crate::mail::Answer;

/// The answer to one request, and what it must know of the request.
#[derive(Debug, Default)]
pub(super) struct PendingAnswer {
    /// The encoded answer; `None` while somebody works on it.
    bytes: Option<Bytes>,
    /// Whether the connection ends with it.
    pub(super) last: bool,
    head_only: bool,
    /// Whether it says that the connection goes on: clients of HTTP/1.0 expect its end otherwise
    /// (RFC 9112 appendix C.2.2).
    announces_keep_alive: bool,
    origin: AllowOrigin,
}

/// What `Access-Control-Allow-Origin` is to say.
#[derive(Debug, Default)]
pub(crate) enum AllowOrigin {
    /// Nothing: the request did not come from a browser's script, or not from an allowed origin.
    #[default]
    None,
    /// All origins.
    Any,
    /// This header line.
    One(String),
}

/// How a request is answered.
#[derive(Debug)]
pub(crate) enum Answering {
    /// Now.
    Now(Reply),
    /// By another shard, later.
    Later,
    /// The connection became a WebSocket.
    Upgraded,
}

/// An answer before it is encoded.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: Option<&'static str>,
    pub(crate) body: Bytes,
    /// Further header lines.
    pub(crate) headers: Vec<String>,
}

impl Reply {
    /// A JSON answer.
    pub(crate) fn json(status: u16, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let content_type = (!body.is_empty()).then_some("application/json");
        Self { status, content_type, body, headers: Vec::new() }
    }

    /// A refusal as JSON.
    pub(crate) fn refusal(refusal: &Refusal) -> Self {
        let mut reply = Self::json(refusal.code.status(), refusal.to_json());
        if let Some(seconds) = refusal.retry_after_s {
            reply.headers.push(format!("Retry-After: {seconds}"));
        }
        if refusal.code == ErrorCode::Unauthorized {
            reply.headers.push("WWW-Authenticate: Bearer".into());
        }
        if refusal.code == ErrorCode::UpgradeRequired {
            // RFC 9110 section 15.5.22 and RFC 6455 section 4.4.
            reply.headers.push("Connection: Upgrade".into());
            reply.headers.push("Upgrade: websocket".into());
            reply.headers.push("Sec-WebSocket-Version: 13".into());
        }
        reply
    }
}

impl Edge {
    /// Bytes of a connection, whatever it speaks.
    pub(crate) fn read_connection(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        bytes: &mut [u8],
    ) {
        let now = cx.now.tick;
        let Some(c) = self.connections.get_mut(connection) else { return };
        let mut held =
            c.active.as_mut().map(|a| std::mem::take(&mut a.inbound)).unwrap_or_default();
        // While a request is unfinished, the time runs from its first byte.
        if held.is_empty() || c.is_websocket() {
            c.heard_tick = now;
        }
        let input = if held.is_empty() {
            &mut *bytes
        } else {
            held.extend_from_slice(bytes);
            held.as_mut_slice()
        };
        let mut taken = 0;
        loop {
            let rest = input.get_mut(taken..).unwrap_or_default();
            let phase = self.connections.get(connection).map(|c| c.phase);
            let step = match phase {
                Some(Phase::Proxy) => self.read_proxy(cx, connection, rest),
                Some(Phase::Http) => self.read_request(cx, connection, rest),
                Some(Phase::Open { .. }) => self.read_frame(cx, connection, rest),
                Some(Phase::Closing { .. }) | None => return,
            };
            match step {
                Some(bytes) => taken += bytes,
                None => break,
            }
        }
        if !matches!(
            self.connections.get(connection).map(|c| c.phase),
            Some(Phase::Proxy | Phase::Http | Phase::Open { .. })
        ) {
            return;
        }
        if taken >= input.len() {
            if let Some(c) = self.connections.get_mut(connection) {
                c.shrink();
            }
            return;
        }
        // What was held before stays in its buffer: a large request is not copied at every read.
        let rest = if held.is_empty() {
            bytes.get(taken..).unwrap_or_default().to_vec()
        } else {
            held.drain(..taken);
            held
        };
        let Some(c) = self.connections.get_mut(connection) else { return };
        if taken > 0 {
            c.heard_tick = now;
        }
        c.active().inbound = rest;
        if matches!(c.phase, Phase::Proxy | Phase::Http) {
            self.arm(cx, connection, cx.settings.timeouts.head);
        }
    }

    /// Reads what a proxy says of the connection before anything else. `None`: it is not whole, or the
    /// connection is over.
    fn read_proxy(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        bytes: &[u8],
    ) -> Option<usize> {
        if bytes.is_empty() {
            return None;
        }
        let given = bytes.len();
        match proxy::read_prefix(bytes) {
            Prefix::More => None,
            Prefix::Header { client, bytes } => {
                if client.is_some_and(|client| !self.count_client(cx, connection, client)) {
                    self.forget_connection(cx, connection);
                    return None;
                }
                let c = self.connections.get_mut(connection)?;
                c.phase = Phase::Http;
                // The proxy was heard, and the client only if more came.
                c.is_heard = bytes < given;
                Some(bytes)
            }
            Prefix::Invalid => {
                cx.metrics().protocol_errors_total.increment();
                self.forget_connection(cx, connection);
                None
            }
        }
    }

    /// Counts a connection through a proxy for the address of its client. False: that has as many as
    /// it may.
    pub(crate) fn count_client(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        client: IpAddr,
    ) -> bool {
        let slot = cx.shared.address_slot(client);
        let Some(c) = self.connections.get_mut(connection) else { return false };
        if c.address == Some(slot) {
            return true;
        }
        if !cx.shared.admit_address(slot, &cx.settings.limits) {
            cx.metrics().connections_refused_total.increment();
            return false;
        }
        if let Some(c) = self.connections.get_mut(connection)
            && let Some(before) = c.address.replace(slot)
        {
            cx.shared.leave_address(before);
        }
        true
    }

    /// Reads one request and sees to its answer. `None`: there is no whole one, or it must wait.
    fn read_request(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        bytes: &[u8],
    ) -> Option<usize> {
        if bytes.is_empty() {
            return None;
        }
        let limits = cx.settings.limits;
        let c = self.connections.get_mut(connection)?;
        if !c.may_read(&limits) {
            return None;
        }
        let active = c.active();
        match active.request_reader.read(bytes, |path| Self::body_bytes_max(path, &limits)) {
            Ok(Progress::More { send_continue }) => {
                if send_continue && active.answers.is_empty() {
                    self.send(connection, Bytes::from_static(CONTINUE));
                }
                None
            }
            Ok(Progress::Request(request, taken)) => {
                cx.metrics().http_requests_total.increment();
                self.take_request(cx, connection, &request);
                Some(taken)
            }
            Err(refusal) => {
                cx.metrics().protocol_errors_total.increment();
                self.refuse_request(cx, connection, refusal);
                None
            }
        }
    }

    fn take_request(&mut self, cx: &mut Context, connection: ConnectionKey, request: &Request<'_>) {
        let Some(c) = self.connections.get_mut(connection) else { return };
        let active = c.active();
        let unanswered = !active.answers.is_empty();
        let sequence = active.first_answer.wrapping_add(active.answers.len() as u32);
        let id = RequestId { shard: cx.shard, connection, sequence };
        let answer = PendingAnswer {
            bytes: None,
            last: !request.keep_alive() || self.is_draining(),
            head_only: request.method == "HEAD",
            announces_keep_alive: request.http_10,
            origin: self.allow_origin(cx, request),
        };
        if let Some(c) = self.connections.get_mut(connection) {
            c.active().answers.push_back(answer);
        }
        match self.route(cx, id, request, unanswered) {
            Answering::Now(reply) => self.reply(cx, connection, sequence, reply),
            Answering::Later | Answering::Upgraded => {}
        }
    }

    /// The answer to a request that somebody else worked on, or to a client's publish.
    pub(crate) fn answer(&mut self, cx: &mut Context, answer: Answer) {
        let Answer { request: RequestId { connection, sequence, .. }, outcome } = answer;
        let Some(c) = self.connections.get(connection) else { return };
        match c.phase {
            Phase::Open { .. } => return self.publish_answered(cx, connection, sequence, outcome),
            Phase::Proxy | Phase::Closing { .. } => return,
            Phase::Http => {}
        }
        let reply = match outcome {
            Ok((status, body)) => Reply::json(status, body),
            Err(refusal) => {
                cx.metrics().refused(refusal.code);
                Reply::refusal(&refusal)
            }
        };
        self.reply(cx, connection, sequence, reply);
    }

    /// Refuses what cannot be read as a request; nothing more is read from the connection.
    pub(super) fn refuse_request(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        refusal: Refusal,
    ) {
        cx.metrics().refused(refusal.code);
        let Some(c) = self.connections.get_mut(connection) else { return };
        let active = c.active();
        active.inbound = Vec::new();
        let sequence = active.first_answer.wrapping_add(active.answers.len() as u32);
        active.answers.push_back(PendingAnswer { last: true, ..PendingAnswer::default() });
        self.reply(cx, connection, sequence, Reply::refusal(&refusal));
    }

    fn reply(&mut self, cx: &mut Context, connection: ConnectionKey, sequence: u32, reply: Reply) {
        let date = self.date(cx).to_owned();
        let Some(c) = self.connections.get_mut(connection) else { return };
        let Some(active) = &mut c.active else { return };
        let index = sequence.wrapping_sub(active.first_answer) as usize;
        let Some(answer) = active.answers.get_mut(index) else { return };
        let mut headers: Vec<&str> = reply.headers.iter().map(String::as_str).collect();
        if answer.announces_keep_alive && !answer.last {
            headers.push("Connection: keep-alive");
        }
        match &answer.origin {
            AllowOrigin::None => {}
            AllowOrigin::Any => headers.push("Access-Control-Allow-Origin: *"),
            AllowOrigin::One(line) => {
                headers.push(line);
                headers.push("Vary: Origin");
            }
        }
        let response = Response {
            status: reply.status,
            content_type: reply.content_type,
            headers: &headers,
            body: &reply.body,
            keep_alive: !answer.last,
            head_only: answer.head_only,
        };
        let mut bytes = Vec::new();
        response.encode(&date, &mut bytes);
        answer.bytes = Some(bytes.into());
        self.send_answers(cx, connection);
    }

    /// Sends the answers that are ready and whose turn it is.
    fn send_answers(&mut self, cx: &mut Context, connection: ConnectionKey) {
        let Some(c) = self.connections.get_mut(connection) else { return };
        let Some(active) = &mut c.active else { return };
        let (mut ready, mut last) = (Vec::new(), false);
        while !last && active.answers.front().is_some_and(|answer| answer.bytes.is_some()) {
            let Some(answer) = active.answers.pop_front() else { break };
            active.first_answer = active.first_answer.wrapping_add(1);
            last = answer.last;
            ready.extend(answer.bytes);
        }
        for bytes in ready {
            self.send(connection, bytes);
        }
        if last {
            if let Some(active) =
                self.connections.get_mut(connection).and_then(|c| c.active.as_mut())
            {
                active.answers.clear();
            }
            self.close_after(cx, connection, Bytes::new());
        }
    }
}

/// The refusal of a request that did not arrive in time.
pub(super) fn too_late() -> Refusal {
    Refusal::new(ErrorCode::RequestTimeout, "the request did not arrive in time")
}
