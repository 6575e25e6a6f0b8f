//! Apps, keys, channels' metadata and usage on disk: a small fjall database beside the log. Values
//! are JSON, since they are few and people may want to read them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use pushflo_protocol::ChannelSlug;
use thiserror::Error;

use super::app::{App, AppRecord, AppSettings};
use super::channel::ChannelMeta;
use super::keys::{AppId, Key, Role};
use super::plan::{PLAN_DEFAULT, Plans};
use super::usage::Usage;
use crate::clock;
use crate::history::log::LogId;
use crate::shard::ChannelKey;

/// Why apps and keys cannot be read or written.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The disk or the database.
    #[error("{0}")]
    Store(String),
    /// What is stored is not what was written.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// Which entry.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An app has a plan that is not configured any more.
    #[error("the app {app} has the plan {plan}, which is not among those configured: {known}")]
    Plan {
        /// The app.
        app: AppId,
        /// Its plan.
        plan: Box<str>,
        /// The plans there are.
        known: String,
    },
}

impl From<fjall::Error> for DirectoryError {
    fn from(error: fjall::Error) -> Self {
        Self::Store(error.to_string())
    }
}

/// The database.
pub struct Store {
    database: Database,
    apps: Keyspace,
    channels: Keyspace,
    usage: Keyspace,
    /// Places in the log of channels that were deleted.
    deleted: Keyspace,
    state: Keyspace,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// What was found when it was opened.
#[derive(Debug)]
pub struct Opened {
    /// The database.
    pub store: Store,
    /// All apps.
    pub apps: BTreeMap<AppId, App>,
    /// Channels with metadata.
    pub channels: Vec<(ChannelKey, ChannelMeta)>,
    /// Keys that were made just now, for the default app.
    pub generated: Vec<(Role, String)>,
    /// How often a channel was deleted; goes into epochs.
    pub deletions: u64,
    /// Places in the log of channels that were deleted.
    pub deleted: BTreeSet<LogId>,
}

/// Memory for tables that are not on disk yet; there is little to keep.
const MEMTABLE_BYTES: u64 = 4 * 1024 * 1024;

/// Opens the directory in `path`, or makes it. The default app is made if it is not there;
/// `configured` are its keys from the configuration, and roles without any key get a generated one.
///
/// # Errors
/// [`DirectoryError`] with the cause.
pub fn open(
    path: &Path,
    plans: &Plans,
    configured: &[(Role, String)],
) -> Result<Opened, DirectoryError> {
    let store = Store::open(path)?;
    let now_ms = clock::unix_ms();
    let mut records = store.load_apps()?;
    let default = records.entry(AppId::DEFAULT).or_insert_with(|| {
        AppRecord::new("default", PLAN_DEFAULT, AppSettings::default(), Vec::new(), now_ms)
    });
    for (role, key) in configured {
        let key = Key { is_configured: true, ..Key::new(key, *role, None, now_ms) };
        default.keys.retain(|other| other.id() != key.id());
        default.keys.push(key);
    }
    let mut generated = Vec::new();
    for role in Role::ALL {
        if !default.keys.iter().any(|key| key.role == role) {
            let (key, text) = Key::generate(role, None, now_ms);
            default.keys.push(key);
            generated.push((role, text));
        }
    }
    store.put_app(AppId::DEFAULT, default)?;
    let mut apps = BTreeMap::new();
    for (id, record) in records {
        let plan = plans.find(&record.plan).ok_or_else(|| DirectoryError::Plan {
            app: id,
            plan: record.plan.clone(),
            known: plans.names(),
        })?;
        let usage = Usage::default();
        if let Some((month, messages)) = store.usage(id)? {
            usage.restore(month, messages);
        }
        apps.insert(id, App { id, record, plan, usage: Arc::new(usage) });
    }
    let channels = store.load_channels()?;
    let deletions = store.number("deletions")?.unwrap_or_default();
    let deleted = store.load_deleted()?;
    Ok(Opened { store, apps, channels, generated, deletions, deleted })
}

impl Opened {
    /// Makes a key of an app and returns it.
    ///
    /// # Errors
    /// [`DirectoryError`] with the cause.
    pub fn add_key(&self, app: AppId, role: Role) -> Result<String, DirectoryError> {
        let found = self.apps.get(&app);
        let found = found.ok_or_else(|| DirectoryError::Store("there is no such app".into()))?;
        let (key, text) = Key::generate(role, None, clock::unix_ms());
        let mut record = found.record.clone();
        record.keys.push(key);
        self.store.put_app(app, &record)?;
        Ok(text)
    }
}

impl Store {
    /// Opens the database, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, DirectoryError> {
        // What tokens are signed with is for nobody else to read.
        let private = DirBuilder::new().recursive(true).mode(0o700).create(path);
        private.map_err(|error| DirectoryError::Store(error.to_string()))?;
        let database =
            Database::builder(path).worker_threads(1).max_journaling_size(64 << 20).open()?;
        let keyspace = |name: &str| {
            database.keyspace(name, || {
                KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
            })
        };
        let (apps, channels) = (keyspace("apps")?, keyspace("channels")?);
        let (usage, deleted, state) =
            (keyspace("usage")?, keyspace("deleted")?, keyspace("state")?);
        Ok(Self { apps, channels, usage, deleted, state, database })
    }

    /// Writes an app; keys of the configuration stay out of it.
    pub(super) fn put_app(&self, id: AppId, record: &AppRecord) -> Result<(), DirectoryError> {
        let mut record = record.clone();
        record.keys.retain(|key| !key.is_configured);
        self.apps.insert(id.0.to_be_bytes(), to_json(&record)?)?;
        self.sync()
    }

    /// Forgets an app with its channels. Its number is not given again.
    pub(super) fn remove_app(&self, id: AppId, deletions: u64) -> Result<(), DirectoryError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.remove(&self.apps, id.0.to_be_bytes());
        batch.remove(&self.usage, id.0.to_be_bytes());
        batch.insert(&self.state, "deletions", deletions.to_be_bytes());
        for guard in self.channels.prefix(id.0.to_be_bytes()) {
            batch.remove(&self.channels, guard.key()?);
        }
        Ok(batch.commit()?)
    }

    /// A number for a new app.
    pub(super) fn new_app(&self) -> Result<AppId, DirectoryError> {
        let next = self.number("next_app")?.unwrap_or(1);
        self.state.insert("next_app", (next + 1).to_be_bytes())?;
        u32::try_from(next)
            .map(AppId)
            .map_err(|_| DirectoryError::Store("no number is left".into()))
    }

    /// Writes a channel's metadata.
    pub(super) fn put_channel(
        &self,
        channel: &ChannelKey,
        meta: &ChannelMeta,
    ) -> Result<(), DirectoryError> {
        self.channels.insert(channel_key(channel), to_json(meta)?)?;
        self.sync()
    }

    /// Forgets a channel's metadata, if it has any, and counts the deletion. Its place in the log is
    /// noted: should its history still be there at the next start, it is deleted then, and not taken
    /// for that of a channel that is open to all.
    pub(super) fn remove_channel(
        &self,
        channel: &ChannelKey,
        log: Option<LogId>,
        deletions: u64,
    ) -> Result<(), DirectoryError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.remove(&self.channels, channel_key(channel));
        if let Some(log) = log {
            batch.insert(&self.deleted, log.0.to_be_bytes(), []);
        }
        batch.insert(&self.state, "deletions", deletions.to_be_bytes());
        Ok(batch.commit()?)
    }

    /// Notes what apps used; it reaches the disk with the next sync.
    pub(super) fn put_usage(
        &self,
        usage: impl Iterator<Item = (AppId, (u16, u64))>,
    ) -> Result<(), DirectoryError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        for (app, (month, messages)) in usage {
            let value = [&month.to_be_bytes()[..], &messages.to_be_bytes()].concat();
            batch.insert(&self.usage, app.0.to_be_bytes(), value);
        }
        Ok(batch.commit()?)
    }

    /// Has everything reach the disk.
    pub(super) fn sync(&self) -> Result<(), DirectoryError> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }

    fn load_apps(&self) -> Result<BTreeMap<AppId, AppRecord>, DirectoryError> {
        let mut apps = BTreeMap::new();
        for guard in self.apps.iter() {
            let (key, value) = guard.into_inner()?;
            let id = key.as_ref().try_into().map(u32::from_be_bytes).map(AppId);
            let id = id.map_err(|_| damaged("the number of an app", &"it has not 4 bytes"))?;
            let record = serde_json::from_slice(&value);
            apps.insert(id, record.map_err(|error| damaged(&format!("the app {id}"), &error))?);
        }
        Ok(apps)
    }

    fn load_channels(&self) -> Result<Vec<(ChannelKey, ChannelMeta)>, DirectoryError> {
        let mut channels = Vec::new();
        for guard in self.channels.iter() {
            let (key, value) = guard.into_inner()?;
            let parsed = key.split_first_chunk().and_then(|(app, slug)| {
                let slug = ChannelSlug::from_stored(str::from_utf8(slug).ok()?).ok()?;
                Some(ChannelKey { app: AppId(u32::from_be_bytes(*app)), slug })
            });
            let channel = parsed.ok_or_else(|| damaged("the name of a channel", &"it is none"))?;
            let meta = serde_json::from_slice(&value)
                .map_err(|error| damaged(&format!("the channel {}", channel.slug), &error))?;
            channels.push((channel, meta));
        }
        Ok(channels)
    }

    fn load_deleted(&self) -> Result<BTreeSet<LogId>, DirectoryError> {
        let mut deleted = BTreeSet::new();
        for guard in self.deleted.iter() {
            let log = guard.key()?.as_ref().try_into().ok().map(u64::from_be_bytes);
            deleted.extend(log.map(LogId));
        }
        Ok(deleted)
    }

    /// The log has nothing of these deleted channels any more.
    ///
    /// # Errors
    /// [`DirectoryError`] with the cause.
    pub fn forget_deleted(&self, logs: impl Iterator<Item = LogId>) -> Result<(), DirectoryError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        for log in logs {
            batch.remove(&self.deleted, log.0.to_be_bytes());
        }
        Ok(batch.commit()?)
    }

    fn usage(&self, app: AppId) -> Result<Option<(u16, u64)>, DirectoryError> {
        let Some(value) = self.usage.get(app.0.to_be_bytes())? else { return Ok(None) };
        let parsed = value.split_first_chunk().and_then(|(month, messages)| {
            Some((u16::from_be_bytes(*month), u64::from_be_bytes(messages.try_into().ok()?)))
        });
        let what = || damaged(&format!("the usage of the app {app}"), &"it has not 10 bytes");
        parsed.map(Some).ok_or_else(what)
    }

    fn number(&self, name: &str) -> Result<Option<u64>, DirectoryError> {
        let value = self.state.get(name)?;
        Ok(value.and_then(|bytes| bytes.as_ref().try_into().ok().map(u64::from_be_bytes)))
    }
}

fn channel_key(channel: &ChannelKey) -> Vec<u8> {
    [&channel.app.0.to_be_bytes(), channel.slug.as_str().as_bytes()].concat()
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>, DirectoryError> {
    serde_json::to_vec(value).map_err(|error| DirectoryError::Store(error.to_string()))
}

fn damaged(what: &str, reason: &dyn std::fmt::Display) -> DirectoryError {
    DirectoryError::Damaged { what: what.into(), reason: reason.to_string() }
}
