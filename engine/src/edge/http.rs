//! A connection that speaks HTTP: requests in, answers out in the same order.

use std::cell::Cell;

use bytes::Bytes;
use pushflo_protocol::http::{CONTINUE, Progress, Request, RequestReader, Response};
use pushflo_protocol::origin::AllowedOrigins;
use pushflo_protocol::{ErrorCode, Refusal};

use super::Edge;
use super::connection::{Phase, cost};
use crate::api::{self, Action, Awaited, Call, Peer, Reply};
use crate::bug::bug;
use crate::context::Context;
use crate::ids::{AppId, ConnectionKey, RequestId};
use crate::mail::{Answered, no_room};

/// The answer to one request, and what it must know of the request.
#[derive(Debug, Default)]
pub(super) struct PendingAnswer {
    /// The encoded answer; `None` while somebody works on it.
    bytes: Option<Bytes>,
    /// What it must know when it is there.
    awaited: Awaited,
    /// It may be large, and is one of those that the connection has few of.
    is_large: bool,
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
enum AllowOrigin {
    /// Nothing: the request did not come from a browser's script, or not from an allowed origin.
    #[default]
    None,
    /// All origins.
    Any,
    /// This header line.
    One(String),
}

impl PendingAnswer {
    /// Whether it is there.
    pub(super) fn is_ready(&self) -> bool {
        self.bytes.is_some()
    }

    /// What it costs in memory.
    pub(super) fn cost(&self) -> usize {
        self.bytes.as_ref().map_or(0, cost)
    }
}

impl AllowOrigin {
    /// What a browser's script is told about who may read the answer.
    fn of(allowed: &AllowedOrigins, request: &Request<'_>) -> Self {
        let Some(origin) = request.header("origin").and_then(|value| str::from_utf8(value).ok())
        else {
            return Self::None;
        };
        match allowed {
            AllowedOrigins::All => Self::Any,
            list if list.allows(Some(origin.as_bytes())) => {
                Self::One(format!("Access-Control-Allow-Origin: {origin}"))
            }
            AllowedOrigins::List(_) => Self::None,
        }
    }
}

impl Edge {
    /// Reads one request and sees to its answer. `None`: there is no whole one, or it must wait.
    pub(super) fn read_request(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        bytes: &[u8],
    ) -> Option<usize> {
        let limits = cx.settings.limits;
        let c = self.connections.get_mut(connection)?;
        if !c.may_read(&limits) {
            return None;
        }
        let peer = Peer { proxy: c.proxy, address: c.address() };
        let active = c.active();
        let (mut refused, mut payer_of_body) = (None, None);
        let admit = |request: &Request<'_>, body_bytes| {
            let id = RequestId { shard: cx.shard, connection, sequence: 0 };
            let payer = Cell::default();
            let call = Call { id, peer, is_pipelined: false, request, payer };
            let admitted = api::admit_body(cx, &call, body_bytes);
            payer_of_body = call.payer.get();
            admitted.inspect_err(|_| {
                let origin = AllowOrigin::of(&cx.settings.origins, request);
                refused = Some((origin, request.method == "HEAD"));
            })
        };
        let read = active.request_reader.read(bytes, admit);
        if payer_of_body.is_some() {
            active.payer = payer_of_body;
        }
        match read {
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
                let (origin, head_only) = match refused {
                    Some(refused) => {
                        cx.metrics().http_requests_total.increment();
                        refused
                    }
                    None => {
                        self.protocol_error(cx, connection, &refusal.message);
                        (AllowOrigin::None, false)
                    }
                };
                let answer =
                    PendingAnswer { last: true, origin, head_only, ..PendingAnswer::default() };
                self.refuse(cx, connection, &refusal, answer);
                None
            }
        }
    }

    fn take_request(&mut self, cx: &mut Context, connection: ConnectionKey, request: &Request<'_>) {
        let is_draining = self.is_draining();
        let Some(c) = self.connections.get_mut(connection) else { return };
        let peer = Peer { proxy: c.proxy, address: c.address() };
        let first = c.first_sequence;
        let active = c.active();
        let is_pipelined = !active.answers.is_empty();
        let sequence = first.wrapping_add(active.answers.len() as u32);
        active.answers.push_back(PendingAnswer {
            bytes: None,
            awaited: Awaited::Nothing,
            is_large: false,
            last: !request.keep_alive() || is_draining,
            head_only: request.method == "HEAD",
            announces_keep_alive: request.http_10,
            origin: AllowOrigin::of(&cx.settings.origins, request),
        });
        let id = RequestId { shard: cx.shard, connection, sequence };
        self.note_request(cx, id, request.method, request.path);
        let call = Call { id, peer, is_pipelined, request, payer: Cell::default() };
        let action = api::route(cx, &call);
        self.set_payer(connection, call.payer.get());
        let done = action.and_then(|action| self.act(cx, id, action));
        if let Err(refusal) = done {
            self.refused(cx, connection, &refusal, None);
            self.reply(cx, connection, sequence, Reply::refusal(&refusal));
        }
    }

    /// Has an app pay for what a connection holds from now on.
    fn set_payer(&mut self, connection: ConnectionKey, payer: Option<AppId>) {
        if let (Some(payer), Some(c)) = (payer, self.connections.get_mut(connection)) {
            c.active().payer = Some(payer);
        }
    }

    /// Does what a request comes to.
    fn act(&mut self, cx: &mut Context, id: RequestId, action: Action) -> Result<(), Refusal> {
        match action {
            Action::Reply(reply) => self.reply(cx, id.connection, id.sequence, reply),
            Action::Ask { home, mail, awaited } => {
                if cx.is_way_full(home) {
                    return Err(no_room());
                }
                if awaited.is_large() {
                    self.expect_large(id);
                }
                if let Some(answer) = self.pending_answer(id.connection, id.sequence) {
                    answer.awaited = awaited;
                }
                cx.post_home(home, mail);
            }
            Action::Accounts(app, call) => cx.ask_accounts(app, call)?,
            Action::AskCluster => cx.ask_cluster(id)?,
            Action::Batch(messages) => {
                self.expect_large(id);
                self.publish_batch(cx, id, messages);
            }
            Action::List(query) => {
                self.list_channels(cx, id, query)?;
                self.expect_large(id);
            }
            Action::Upgrade(upgrade) => self.begin_upgrade(cx, id, upgrade)?,
        }
        Ok(())
    }

    /// The answer to a request that somebody else worked on, or to a client's publish.
    pub(super) fn answered(&mut self, cx: &mut Context, answered: Answered) {
        let Answered { request: RequestId { connection, sequence, .. }, outcome } = answered;
        let Some(c) = self.connections.get(connection) else { return };
        match c.phase {
            Phase::Open { .. } => return self.publish_answered(cx, connection, sequence, outcome),
            Phase::Proxy | Phase::Closing { .. } => return,
            Phase::Http => {}
        }
        let is_done = outcome.is_ok();
        let Some(answer) = self.pending_answer(connection, sequence) else {
            return bug!(cx, "an answer to a request that nobody waits for");
        };
        if let Err(refusal) = &outcome {
            let channel = answer.awaited.channel().cloned();
            self.refused(cx, connection, refusal, channel.as_ref());
        }
        let Some(answer) = self.pending_answer(connection, sequence) else { return };
        let reply = std::mem::take(&mut answer.awaited).reply(outcome);
        if is_done && reply.status >= 500 {
            bug!(cx, "an answer that is none to its request");
        }
        self.reply(cx, connection, sequence, reply);
    }

    /// A request or its answer may be large: few of a connection are under way.
    fn expect_large(&mut self, id: RequestId) {
        let Some(answer) = self.pending_answer(id.connection, id.sequence) else { return };
        answer.is_large = true;
        if let Some(c) = self.connections.get_mut(id.connection) {
            c.active().large_answers += 1;
        }
    }

    pub(super) fn pending_answer(
        &mut self,
        connection: ConnectionKey,
        sequence: u32,
    ) -> Option<&mut PendingAnswer> {
        let c = self.connections.get_mut(connection)?;
        let index = sequence.wrapping_sub(c.first_sequence) as usize;
        c.active.as_mut()?.answers.get_mut(index)
    }

    /// Refuses what cannot be read as a request; nothing more is read from the connection.
    pub(super) fn refuse_request(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        refusal: Refusal,
    ) {
        let answer = PendingAnswer { last: true, ..PendingAnswer::default() };
        self.refuse(cx, connection, &refusal, answer);
    }

    fn refuse(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        refusal: &Refusal,
        answer: PendingAnswer,
    ) {
        self.refused(cx, connection, refusal, None);
        let Some(c) = self.connections.get_mut(connection) else { return };
        let first = c.first_sequence;
        let active = c.active();
        active.inbound = Vec::new();
        active.request_reader = RequestReader::default();
        let sequence = first.wrapping_add(active.answers.len() as u32);
        active.answers.push_back(answer);
        self.reply(cx, connection, sequence, Reply::refusal(refusal));
    }

    pub(super) fn reply(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        sequence: u32,
        reply: Reply,
    ) {
        if self.connections.get(connection).is_none_or(|c| c.phase != Phase::Http) {
            return;
        }
        let date = self.date(cx).to_owned();
        let Some(answer) = self.pending_answer(connection, sequence) else { return };
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
        let bytes = Bytes::from(bytes);
        let (cost, is_large) = (cost(&bytes), std::mem::take(&mut answer.is_large));
        answer.bytes = Some(bytes);
        if let Some(active) = self.connections.get_mut(connection).and_then(|c| c.active.as_mut()) {
            active.answer_bytes += cost;
            active.large_answers -= usize::from(is_large);
        }
        self.ledger.changed(connection);
        self.send_answers(cx, connection);
        // Its turn may not have come, and there may be room for the next one all the same.
        if is_large {
            self.end_pause(cx, connection);
        }
    }

    /// Sends the answers that are ready and whose turn it is.
    fn send_answers(&mut self, cx: &mut Context, connection: ConnectionKey) {
        let Some(c) = self.connections.get_mut(connection) else { return };
        let Some(active) = &mut c.active else { return };
        let (mut ready, mut last) = (Vec::new(), false);
        while !last && active.answers.front().is_some_and(|answer| answer.bytes.is_some()) {
            let Some(answer) = active.answers.pop_front() else { break };
            c.first_sequence = c.first_sequence.wrapping_add(1);
            last = answer.last;
            active.answer_bytes -= answer.cost();
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
                active.answer_bytes = 0;
                active.large_answers = 0;
            }
            self.close_after(cx, connection, Bytes::new());
        }
    }
}

/// The refusal of a request that did not arrive in time.
pub(super) fn too_late() -> Refusal {
    Refusal::new(ErrorCode::RequestTimeout, "the request did not arrive in time")
}
