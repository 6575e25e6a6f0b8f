//! Apps that change or go: whose connections end with that.

use pushflo_protocol::websocket::CloseCode;

use super::Edge;
use super::close::CloseReason;
use super::session::Session;
use crate::accounts::KeyId;
use crate::context::Context;
use crate::ids::{AppId, ConnectionKey};

impl Edge {
    /// Keys of an app were revoked: connections that came with one of them are closed.
    pub(crate) fn keys_gone(&mut self, cx: &mut Context, app: AppId, keys: &[KeyId]) {
        let is_gone = |session: &Session| session.app == app && keys.contains(&session.key);
        self.close_sessions(cx, app, is_gone, "the key was revoked");
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
