//! Who is behind a WebSocket connection, and what that allows.

use pushflo_protocol::ChannelSlug;

use crate::accounts::{Access, Client, Grant, KeyId, Role};
use crate::ids::AppId;

/// What a WebSocket connection keeps of the key or the token it came with.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// The app.
    pub(crate) app: AppId,
    /// The role of the key, or of the one behind the token.
    pub(crate) role: Role,
    /// That key: when it is revoked, the connection is closed.
    pub(crate) key: KeyId,
    client: Client,
    /// What the token grants; none for a key.
    pub(crate) grant: Option<Box<TokenGrant>>,
}

/// A token's grant while its connection is open.
#[derive(Clone, Debug)]
pub(crate) struct TokenGrant {
    pub(crate) grant: Grant,
    /// The tick at which the client is asked for a fresh token.
    pub(crate) warn_tick: u32,
    /// The tick at which it ends.
    pub(crate) end_tick: u32,
    /// The client was asked.
    pub(crate) is_warned: bool,
}

impl Session {
    pub(crate) fn new(access: &Access, client: Client, grant: Option<Box<TokenGrant>>) -> Self {
        Self::of(access.app.id, access.role, access.key, client, grant)
    }

    pub(super) fn of(
        app: AppId,
        role: Role,
        key: KeyId,
        client: Client,
        grant: Option<Box<TokenGrant>>,
    ) -> Self {
        Self { app, role, key, client, grant }
    }

    /// Goes on with a fresh token; the client stays who it is.
    pub(crate) fn renew(&mut self, access: &Access, grant: TokenGrant) {
        self.role = access.role;
        self.key = access.key;
        self.grant = Some(Box::new(grant));
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether it may subscribe to the channel, if that is not private.
    pub(crate) fn may_subscribe(&self, channel: &ChannelSlug) -> bool {
        let channels = self.grant.as_ref().and_then(|token| token.grant.channels.as_ref());
        channels.is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(channel)))
    }

    /// Whether it may subscribe to the channel even if that is private.
    pub(crate) fn may_subscribe_private(&self, channel: &ChannelSlug) -> bool {
        let is_named = self.grant.as_ref().is_none_or(|token| token.grant.channels.is_some());
        self.role >= Role::Secret && is_named && self.may_subscribe(channel)
    }

    /// Whether it may publish to the channel; `client_publish` says whether tokens of its app may
    /// at all.
    pub(crate) fn may_publish(&self, channel: &ChannelSlug, client_publish: bool) -> bool {
        match &self.grant {
            None => self.role >= Role::Secret,
            Some(token) => client_publish && token.grant.may_publish(channel),
        }
    }
}
