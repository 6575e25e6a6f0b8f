//! Apps: the tenants. What is kept of one, and what every shard knows of it.

use std::sync::Arc;

use pushflo_protocol::origin::AllowedOrigins;
use serde::{Deserialize, Serialize};

use super::keys::{Key, KeyId, Role, SigningKey, random_bytes};
use super::plan::{PLAN_DEFAULT, Plan};
use super::usage::Usage;
use crate::clock;
use crate::ids::AppId;

/// What is kept of an app.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AppRecord {
    /// What its owner calls it.
    pub name: Box<str>,
    /// The name of its plan.
    pub plan: Box<str>,
    /// What its owner set.
    pub settings: AppSettings,
    /// Keys that are not revoked.
    pub keys: Vec<Key>,
    /// What the server signs connection tokens of the app with.
    pub token_secret: SigningKey,
    /// When it was made, in Unix milliseconds.
    pub created_ms: u64,
    /// When it was last changed.
    pub updated_ms: u64,
}

impl AppRecord {
    /// A new app, with a token secret of its own.
    pub fn new(name: &str, plan: &str, settings: AppSettings, keys: Vec<Key>, now_ms: u64) -> Self {
        Self {
            name: name.into(),
            plan: plan.into(),
            settings,
            keys,
            token_secret: SigningKey(random_bytes()),
            created_ms: now_ms,
            updated_ms: now_ms,
        }
    }

    /// The app that is there from the start, without keys.
    pub(super) fn of_default(now_ms: u64) -> Self {
        Self::new("default", PLAN_DEFAULT, AppSettings::default(), Vec::new(), now_ms)
    }

    /// Whether it has a key of a role.
    pub(super) fn has(&self, role: Role) -> bool {
        self.keys.iter().any(|key| key.role == role)
    }

    /// As it is kept: keys of the configuration stay out of it.
    ///
    /// # Errors
    /// It has no form, which cannot be.
    pub(super) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let mut record = self.clone();
        record.keys.retain(|key| !key.is_configured);
        serde_json::to_vec(&record)
    }

    /// A key that stands in the configuration is one of the app's.
    pub(super) fn put_configured(&mut self, role: Role, key: &str) {
        let key = Key { is_configured: true, ..Key::new(key, role, None, clock::unix_ms()) };
        self.keys.retain(|other| other.id() != key.id());
        self.keys.push(key);
    }
}

/// What the owner of an app sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AppSettings {
    /// Browsers' origins that may connect and call.
    pub allowed_origins: AllowedOrigins,
    /// Channels must be created through the API before they are used.
    pub require_channels: bool,
    /// Clients may publish over their WebSocket where their token grants it.
    pub client_publish: bool,
}

/// What is changed of settings; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct SettingsChange {
    /// Origins that may connect and call.
    pub allowed_origins: Option<AllowedOrigins>,
    /// Whether channels must be created first.
    pub require_channels: Option<bool>,
    /// Whether clients may publish.
    pub client_publish: Option<bool>,
}

impl AppSettings {
    /// Makes a change.
    pub(super) fn change(&mut self, change: SettingsChange) {
        if let Some(origins) = change.allowed_origins {
            self.allowed_origins = origins;
        }
        self.require_channels = change.require_channels.unwrap_or(self.require_channels);
        self.client_publish = change.client_publish.unwrap_or(self.client_publish);
    }
}

/// An app as a shard knows it.
#[derive(Clone, Debug)]
pub struct App {
    /// Its identity.
    pub id: AppId,
    /// What is kept of it.
    pub record: AppRecord,
    /// What it may use, by the plan that its record names.
    pub plan: Plan,
    /// What it uses, counted by all shards.
    pub usage: Arc<Usage>,
}

impl App {
    /// One of its keys.
    pub fn key(&self, id: KeyId) -> Option<&Key> {
        self.record.keys.iter().find(|key| key.id() == id)
    }
}
