//! Apps that change or go: what a shard does when the accounts tell it.

use pushflo_protocol::websocket::CloseCode;

use super::Shard;
use crate::accounts::App;
use crate::edge::{CloseReason, Session};
use crate::ids::{AppId, ConnectionKey};

impl Shard {
    /// Takes an app as it is now. Connections that came with a key it has no more are closed.
    pub fn learn(&mut self, app: App) {
        let id = app.id;
        let gone = self.directory.learn(app);
        if !gone.is_empty() {
            let is_gone = |session: &Session| session.app == id && gone.contains(&session.key);
            self.close_sessions(id, is_gone, "the key was revoked");
        }
    }

    /// An app was deleted: its connections are closed, its channels go.
    pub(super) fn app_gone(&mut self, app: AppId) {
        self.close_sessions(app, |session| session.app == app, "the app was deleted");
        for slug in self.slugs.remove(&app).unwrap_or_default() {
            let channel = super::ChannelKey { app, slug };
            if let Some(key) = self.home_of.get(&channel).copied() {
                self.close_channel(key, None);
            }
        }
        self.directory.forget(app);
    }

    fn close_sessions(
        &mut self,
        app: AppId,
        wanted: impl Fn(&Session) -> bool,
        reason: &'static str,
    ) {
        if self.directory.app(app).is_none_or(|app| app.usage.connections() == 0) {
            return;
        }
        // How often this may be is bounded by the app's rate of changes.
        let found = |(key, connection): (ConnectionKey, &crate::edge::Connection)| {
            connection.session().is_some_and(&wanted).then_some(key)
        };
        let connections: Vec<ConnectionKey> = self.connections.iter().filter_map(found).collect();
        for connection in connections {
            let reason = CloseReason::new(CloseCode::Unauthorized, reason);
            self.close_websocket(connection, reason);
        }
    }
}
