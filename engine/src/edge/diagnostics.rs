//! What the debug log has of connections: what each was refused, where it broke a protocol, and how it
//! ended. A line names the connection, the app that pays for it, and the channel where there is one.

use pushflo_protocol::{ChannelSlug, Refusal};
use tracing::field::{DisplayValue, display};
use tracing::{debug, trace};

use super::Edge;
use super::close::CloseReason;
use super::connection::Connection;
use crate::context::Context;
use crate::ids::{AppId, ConnectionKey, RequestId};

impl Edge {
    /// Counts what a connection was refused.
    pub(super) fn refused(
        &self,
        cx: &Context,
        connection: ConnectionKey,
        refusal: &Refusal,
        channel: Option<&ChannelSlug>,
    ) {
        cx.metrics().refused(refusal.code);
        let (shard, app) = (cx.shard.0, self.app_of(connection));
        let (channel, code) = (channel.map(ChannelSlug::as_str), refusal.code.as_str());
        debug!(shard, ?connection, app, channel, code, "refused: {}", refusal.message);
    }

    /// Counts that a peer broke the protocol that it speaks.
    pub(super) fn protocol_error(&self, cx: &Context, connection: ConnectionKey, reason: &str) {
        cx.metrics().protocol_errors_total.increment();
        let (shard, app) = (cx.shard.0, self.app_of(connection));
        debug!(shard, ?connection, app, "protocol error: {reason}");
    }

    /// A WebSocket is to end, after its last words.
    pub(super) fn note_close_frame(
        &self,
        cx: &Context,
        connection: ConnectionKey,
        why: &CloseReason,
    ) {
        let (shard, app) = (cx.shard.0, self.app_of(connection));
        debug!(shard, ?connection, app, code = why.code, "closing: {}", why.reason);
    }

    /// A connection is to end, after its last answers.
    pub(super) fn note_closing(&self, cx: &Context, connection: ConnectionKey, why: &str) {
        let (shard, app) = (cx.shard.0, self.app_of(connection));
        debug!(shard, ?connection, app, "closing: {why}");
    }

    /// A connection has ended.
    pub(super) fn note_end(&self, cx: &Context, connection: ConnectionKey, why: &str) {
        let (shard, app) = (cx.shard.0, self.app_of(connection));
        debug!(shard, ?connection, app, "ended: {why}");
    }

    /// A request was read. What else is said of it names its connection and sequence number.
    pub(super) fn note_request(&self, cx: &Context, id: RequestId, method: &str, path: &str) {
        let RequestId { connection, sequence, .. } = id;
        trace!(shard = cx.shard.0, ?connection, sequence, method, path, "request");
    }

    fn app_of(&self, connection: ConnectionKey) -> Option<DisplayValue<AppId>> {
        self.connections.get(connection).and_then(Connection::payer).map(display)
    }
}
