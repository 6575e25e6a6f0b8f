//! Apps that change or go: whose connections end with that.

use pushflo_protocol::websocket::CloseCode;

use super::Edge;
use super::close::CloseReason;
use super::session::Session;
use crate::accounts::KeyId;
use crate::context::Context;
use crate::ids::{AppId, ConnectionKey};

/// Why connections are closed whose key was revoked.
const KEY_GONE: &str = "the key was revoked";

impl Edge {
    /// Keys of an app were revoked: connections that came with one of them are closed.
    pub(crate) fn keys_gone(&mut self, cx: &mut Context, app: AppId, keys: &[KeyId]) {
        let is_gone = |session: &Session| session.app == app && keys.contains(&session.key);
        self.close_sessions(cx, app, is_gone, KEY_GONE);
    }

    /// The key that a connection came with is not in force any more.
    pub(super) fn key_gone(&mut self, cx: &mut Context, connection: ConnectionKey) {
        let reason = CloseReason::new(CloseCode::Unauthorized, KEY_GONE);
        self.close_websocket(cx, connection, reason);
    }

    /// An app was deleted: its connections are closed.
    pub(crate) fn app_gone(&mut self, cx: &mut Context, app: AppId) {
        self.close_sessions(cx, app, |session| session.app == app, "the app was deleted");
    }

    fn close_sessions(
        &mut self,
        cx: &mut Context,
        app: AppId,
        wanted: impl Fn(&Session) -> bool,
        reason: &'static str,
    ) {
        if cx.directory.app(app).is_none_or(|app| app.usage.connections() == 0) {
            return;
        }
        // How often this may be is bounded by the app's rate of changes.
        let found = self.connections.iter().filter_map(|(key, connection)| {
            connection.session().is_some_and(&wanted).then_some(key)
        });
        let connections: Vec<ConnectionKey> = found.collect();
        for connection in connections {
            let reason = CloseReason::new(CloseCode::Unauthorized, reason);
            self.close_websocket(cx, connection, reason);
        }
    }
}
