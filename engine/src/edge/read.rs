//! Bytes of a connection, whatever it speaks: what is whole is acted upon, the rest is held.

use std::net::IpAddr;

use pushflo_protocol::proxy::{self, Prefix};

use super::Edge;
use super::connection::Phase;
use crate::context::Context;
use crate::ids::ConnectionKey;

/// Bytes that are read for one unit of work.
const BYTES_PER_WORK: usize = 2048;

impl Edge {
    /// Bytes of a connection, whatever it speaks.
    pub(super) fn read_connection(
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
                // Of what comes behind the last request nothing is done (RFC 9112 section 9.6).
                Some(Phase::Http) if self.is_last_request_read(connection) => return,
                Some(Phase::Proxy | Phase::Http) if rest.is_empty() => None,
                Some(Phase::Proxy) => self.read_proxy(cx, connection, rest),
                Some(Phase::Http) => self.read_request(cx, connection, rest),
                Some(Phase::Open { .. }) => self.read_frame(cx, connection, rest),
                Some(Phase::Closing { .. }) | None => return,
            };
            let Some(bytes) = step else { break };
            taken += bytes;
            cx.charge(1 + bytes / BYTES_PER_WORK);
            if cx.is_turn_over() && taken < input.len() {
                self.wait_a_turn(connection);
                break;
            }
        }
        if !matches!(
            self.connections.get(connection).map(|c| c.phase),
            Some(Phase::Proxy | Phase::Http | Phase::Open { .. })
        ) {
            return;
        }
        self.ledger.changed(connection);
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

    /// What a connection has said already is acted upon in the next turn, and before that it is not read.
    fn wait_a_turn(&mut self, connection: ConnectionKey) {
        if let Some(c) = self.connections.get_mut(connection)
            && !std::mem::replace(&mut c.active().is_paused, true)
        {
            self.resumed.push_back(connection);
        }
    }

    /// Ends a connection's pause if there is room for what its bytes may bring: they are read on.
    pub(super) fn end_pause(&mut self, cx: &Context, connection: ConnectionKey) {
        if let Some(c) = self.connections.get_mut(connection)
            && c.resume(&cx.settings.limits)
        {
            self.resumed.push_back(connection);
        }
    }

    /// Whether the connection ends with a request that was read already.
    fn is_last_request_read(&self, connection: ConnectionKey) -> bool {
        let active = self.connections.get(connection).and_then(|c| c.active.as_ref());
        active.and_then(|active| active.answers.back()).is_some_and(|answer| answer.last)
    }

    /// Reads what a proxy says of the connection before anything else. `None`: it is not whole, or the
    /// connection is over.
    fn read_proxy(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        bytes: &[u8],
    ) -> Option<usize> {
        let given = bytes.len();
        match proxy::read_prefix(bytes) {
            Prefix::More => None,
            Prefix::Header { client, bytes } => {
                if client.is_some_and(|client| !self.count_client(cx, connection, client)) {
                    let why = "its address has as many connections as it may";
                    self.forget_connection(cx, connection, why);
                    return None;
                }
                let c = self.connections.get_mut(connection)?;
                c.phase = Phase::Http;
                // The proxy was heard, and the client only if more came.
                c.is_heard = bytes < given;
                Some(bytes)
            }
            Prefix::Invalid => {
                self.protocol_error(cx, connection, "no header of the PROXY protocol");
                self.forget_connection(cx, connection, "a protocol error");
                None
            }
        }
    }

    /// Counts a connection through a proxy for the address of its client. False: that has as many as
    /// it may.
    pub(super) fn count_client(
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
}
