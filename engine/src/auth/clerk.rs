//! The thread that changes apps, keys and channels' metadata: it writes a change to disk, tells every
//! shard, and answers then. One thread makes all changes, so they have one order.
//!
//! It also writes down once a second what apps used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use pushflo_protocol::{ErrorCode, Refusal};

use super::app::{App, AppRecord, AppSettings, SettingsChange};
use super::changes::Changes;
use super::channel::ChannelMeta;
use super::keys::{AppId, Key, KeyId, Role};
use super::plan::{PLAN_DEFAULT, Plan, Plans};
use super::store::{DirectoryError, Opened, Store};
use super::usage::{Usage, Usages};
use crate::clock;
use crate::hash::HashMap;
use crate::history::Durability;
use crate::history::log::{LogId, Retentions};
use crate::runtime::mailbox::{Mailbox, post_and_wait};
use crate::shard::{ChannelKey, Envelope, Outcome, RequestId, ShardId, Shared};

/// Calls that wait; a shard keeps what does not fit.
const CALLS_MAX: usize = 1024;

/// Most apps: each is known to every shard.
const APPS_MAX: usize = 100_000;

/// Most keys of an app: enough to rotate each role many times over.
const KEYS_PER_APP_MAX: usize = 100;

/// How often usage is written down.
const TICK: Duration = Duration::from_millis(1000);

/// What a shard asks for.
#[derive(Debug)]
pub enum ClerkCall {
    /// Make an app with a key of each role.
    CreateApp {
        /// Who waits for it.
        request: RequestId,
        /// What is given; the name is there.
        change: AppChange,
    },
    /// Change an app.
    ChangeApp {
        /// Who waits for it.
        request: RequestId,
        /// The app.
        app: AppId,
        /// What is given.
        change: AppChange,
    },
    /// Delete an app with all it has.
    DeleteApp {
        /// Who waits for it.
        request: RequestId,
        /// The app.
        app: AppId,
    },
    /// Make a key.
    CreateKey {
        /// Who waits for it.
        request: RequestId,
        /// The app.
        app: AppId,
        /// What it may do.
        role: Role,
        /// What its owner calls it.
        name: Option<Box<str>>,
    },
    /// Revoke a key.
    RevokeKey {
        /// Who waits for it.
        request: RequestId,
        /// The app.
        app: AppId,
        /// The key.
        key: KeyId,
    },
    /// Keep a channel's metadata, or forget it; its home shard is told by
    /// [`Envelope::ChannelStored`].
    StoreChannel {
        /// The home shard.
        shard: ShardId,
        /// The channel.
        channel: ChannelKey,
        /// `None`: the channel is deleted.
        meta: Option<Arc<ChannelMeta>>,
        /// Its place in the log.
        log: Option<LogId>,
    },
}

/// What is changed of an app; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct AppChange {
    /// What its owner calls it.
    pub name: Option<Box<str>>,
    /// The name of its plan.
    pub plan: Option<Box<str>>,
    /// What its owner set.
    pub settings: SettingsChange,
}

/// The clerk as the server holds it.
#[derive(Debug)]
pub struct Clerk {
    calls: Sender<ClerkCall>,
    thread: JoinHandle<()>,
    /// What apps use.
    pub usages: Arc<Usages>,
}

/// A shard's way to the clerk.
#[derive(Clone, Debug)]
pub struct ClerkHandle(Sender<ClerkCall>);

struct Desk {
    store: Store,
    apps: BTreeMap<AppId, App>,
    plans: Plans,
    shared: Arc<Shared>,
    mailboxes: Vec<Mailbox>,
    retentions: Arc<Retentions>,
    usages: Arc<Usages>,
    /// What was written down of usage.
    written: HashMap<AppId, (u16, u64)>,
    /// The number of the next app.
    next_app: u64,
    /// Apps that are deleted whose channels' metadata are still to be removed.
    unswept: BTreeSet<AppId>,
}

impl Clerk {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub fn start(
        opened: Opened,
        plans: Plans,
        shared: Arc<Shared>,
        mailboxes: Vec<Mailbox>,
        retentions: Arc<Retentions>,
    ) -> std::io::Result<Self> {
        let Opened { store, apps, next_app, unswept, .. } = opened;
        let (calls, waiting) = bounded(CALLS_MAX);
        let (written, usages) = (HashMap::default(), Arc::new(Usages::default()));
        for (id, app) in &apps {
            usages.set(*id, Arc::clone(&app.usage));
            retentions.set(*id, app.plan.retention);
        }
        let told = Arc::clone(&usages);
        let mut desk = Desk {
            store,
            apps,
            plans,
            shared,
            mailboxes,
            retentions,
            usages,
            written,
            next_app,
            unswept,
        };
        let thread =
            std::thread::Builder::new().name("clerk".into()).spawn(move || desk.run(&waiting))?;
        Ok(Self { calls, thread, usages: told })
    }

    /// A way to the clerk.
    pub fn handle(&self) -> ClerkHandle {
        ClerkHandle(self.calls.clone())
    }

    /// Does what is left and writes everything down. All handles must be gone.
    pub fn close(self) {
        drop(self.calls);
        // A panic of the thread was told when it happened.
        let _ = self.thread.join();
    }
}

impl ClerkHandle {
    /// Hands a call over, or gives it back if there is no room.
    ///
    /// # Errors
    /// The call.
    pub fn post(&self, call: ClerkCall) -> Result<(), ClerkCall> {
        match self.0.try_send(call) {
            Err(TrySendError::Full(call)) => Err(call),
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }
}

impl Desk {
    fn run(&mut self, calls: &Receiver<ClerkCall>) {
        let mut next_tick_ms = clock::unix_ms();
        loop {
            match calls.recv_timeout(TICK) {
                Ok(call) => self.act(call),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now_ms = clock::unix_ms();
            if now_ms >= next_tick_ms {
                next_tick_ms = now_ms + TICK.as_millis() as u64;
                self.write_usage();
                self.sweep();
            }
        }
        self.write_usage();
        if let Err(error) = self.store.sync() {
            tracing::error!(%error, "usage of the last moments could not be written");
        }
    }

    fn act(&mut self, call: ClerkCall) {
        let (request, outcome) = match call {
            ClerkCall::CreateApp { request, change } => (request, self.create_app(change)),
            ClerkCall::ChangeApp { request, app, change } => {
                (request, self.change_app(app, change))
            }
            ClerkCall::DeleteApp { request, app } => (request, self.delete_app(app)),
            ClerkCall::CreateKey { request, app, role, name } => {
                (request, self.create_key(app, role, name))
            }
            ClerkCall::RevokeKey { request, app, key } => (request, self.revoke_key(app, key)),
            ClerkCall::StoreChannel { shard, channel, meta, log } => {
                let result = self.store_channel(&channel, meta.as_deref(), log);
                let envelope = Envelope::ChannelStored(Box::new((channel, result.map(|()| meta))));
                return self.tell(shard, envelope);
            }
        };
        self.tell(request.shard, Envelope::Answer(Box::new((request, outcome))));
    }

    fn create_app(&mut self, change: AppChange) -> Outcome {
        if self.apps.len() >= APPS_MAX {
            let text = format!("there are {APPS_MAX} apps already");
            return Err(Refusal::limit(ErrorCode::QuotaExceeded, "apps", 3600, text));
        }
        let number = self.next_app;
        let Ok(id) = u32::try_from(number).map(AppId) else {
            return Err(Refusal::limit(
                ErrorCode::QuotaExceeded,
                "apps",
                3600,
                "no number is left",
            ));
        };
        let now_ms = clock::unix_ms();
        let made = Role::ALL.map(|role| Key::generate(role, None, now_ms));
        let keys = made.iter().map(|(key, _)| key.clone()).collect();
        let plan = change.plan.as_deref().unwrap_or(PLAN_DEFAULT);
        let mut settings = AppSettings::default();
        settings.change(change.settings);
        let name = change.name.unwrap_or_default();
        let record = AppRecord::new(&name, plan, settings, keys, now_ms);
        let mut changes = Changes::default();
        changes.put_number("next_app", number + 1);
        let app = self.keep(changes, id, record, Arc::new(Usage::default()))?;
        self.next_app = number + 1;
        let mut body = String::from(r#"{"success":true,"data":"#);
        app.push_json_open(&mut body);
        let keys: Vec<String> = made.iter().map(|(key, text)| key.to_json(Some(text))).collect();
        body.push_str(&format!(r#","keys":[{}]}}}}"#, keys.join(",")));
        Ok((201, body.into()))
    }

    fn change_app(&mut self, id: AppId, change: AppChange) -> Outcome {
        let app = self.app(id)?;
        let (mut record, usage) = (app.record.clone(), Arc::clone(&app.usage));
        record.name = change.name.unwrap_or(record.name);
        if let Some(name) = &change.plan {
            let plan = self.plans.find(name);
            let is_kept = |plan: &Plan| plan.durability != Durability::Memory;
            let moves = plan.is_some_and(|plan| is_kept(&plan) != is_kept(&app.plan));
            if moves && app.usage.channels() > 0 {
                let text = "an app with channels cannot move between a plan whose history is in memory and one whose history is on disk";
                return Err(Refusal::new(ErrorCode::Conflict, text));
            }
        }
        record.plan = change.plan.unwrap_or(record.plan);
        record.settings.change(change.settings);
        record.updated_ms = clock::unix_ms();
        let app = self.keep(Changes::default(), id, record, usage)?;
        Ok((200, format!(r#"{{"success":true,"data":{}}}"#, app.to_json()).into()))
    }

    fn delete_app(&mut self, id: AppId) -> Outcome {
        self.app(id)?;
        let deletions = self.shared.deletions.load(Relaxed) + 1;
        let mut changes = Changes::default();
        changes.remove_app(id);
        changes.put_number("deletions", deletions);
        self.store.commit(&changes).map_err(failed)?;
        self.unswept.insert(id);
        self.shared.deletions.store(deletions, Relaxed);
        self.apps.remove(&id);
        for shard in 0..self.mailboxes.len() {
            self.tell(ShardId(shard as u16), Envelope::AppGone(id));
        }
        self.retentions.forget(id);
        self.usages.forget(id);
        Ok((204, Bytes::new()))
    }

    fn create_key(&mut self, id: AppId, role: Role, name: Option<Box<str>>) -> Outcome {
        let app = self.app(id)?;
        let (mut record, usage) = (app.record.clone(), Arc::clone(&app.usage));
        if record.keys.len() >= KEYS_PER_APP_MAX {
            let text = format!("the app has {KEYS_PER_APP_MAX} keys already; revoke one first");
            return Err(Refusal::limit(ErrorCode::QuotaExceeded, "keys", 3600, text));
        }
        let (key, text) = Key::generate(role, name, clock::unix_ms());
        record.keys.push(key.clone());
        self.keep(Changes::default(), id, record, usage)?;
        Ok((201, format!(r#"{{"success":true,"data":{}}}"#, key.to_json(Some(&text))).into()))
    }

    fn revoke_key(&mut self, id: AppId, key: KeyId) -> Outcome {
        let app = self.app(id)?;
        let (mut record, usage) = (app.record.clone(), Arc::clone(&app.usage));
        let conflict = |text: &'static str| Err(Refusal::new(ErrorCode::Conflict, text));
        match record.keys.iter().find(|known| known.id() == key) {
            None => return Err(Refusal::new(ErrorCode::NotFound, "the app has no such key")),
            Some(known) if known.is_configured => {
                return conflict(
                    "this key stands in the server's configuration; take it out there",
                );
            }
            Some(known) if known.role == Role::Manage => {
                if record.keys.iter().filter(|other| other.role == Role::Manage).count() == 1 {
                    return conflict(
                        "the app's last mgmt key cannot be revoked; make another first",
                    );
                }
            }
            Some(_) => {}
        }
        record.keys.retain(|known| known.id() != key);
        self.keep(Changes::default(), id, record, usage)?;
        Ok((204, Bytes::new()))
    }

    fn store_channel(
        &mut self,
        channel: &ChannelKey,
        meta: Option<&ChannelMeta>,
        log: Option<LogId>,
    ) -> Result<(), Refusal> {
        // Its app may have been deleted meanwhile.
        self.app(channel.app)?;
        let mut changes = Changes::default();
        let Some(meta) = meta else {
            let deletions = self.shared.deletions.load(Relaxed) + 1;
            changes.remove_channel(channel, log);
            changes.put_number("deletions", deletions);
            self.store.commit(&changes).map_err(failed)?;
            self.shared.deletions.store(deletions, Relaxed);
            return Ok(());
        };
        changes.put_channel(channel, meta).map_err(failed)?;
        self.store.commit(&changes).map_err(failed)
    }

    /// Writes an app to disk, with what else changes, and tells every shard.
    fn keep(
        &mut self,
        mut changes: Changes,
        id: AppId,
        record: AppRecord,
        usage: Arc<Usage>,
    ) -> Result<App, Refusal> {
        let Some(plan) = self.plans.find(&record.plan) else {
            let text = format!("there is no such plan; there are {}", self.plans.names());
            return Err(Refusal::field("plan", text));
        };
        changes.put_app(id, &record).map_err(failed)?;
        self.store.commit(&changes).map_err(failed)?;
        let app = App { id, record, plan, usage };
        self.apps.insert(id, app.clone());
        self.retentions.set(id, plan.retention);
        self.usages.set(id, Arc::clone(&app.usage));
        for shard in 0..self.mailboxes.len() {
            self.tell(ShardId(shard as u16), Envelope::App(Box::new(app.clone())));
        }
        Ok(app)
    }

    /// Removes some of what deleted apps have left.
    fn sweep(&mut self) {
        let Some(app) = self.unswept.first().copied() else { return };
        match self.store.sweep(app) {
            Ok(true) => {}
            Ok(false) => {
                self.unswept.remove(&app);
            }
            Err(error) => tracing::error!(%error, %app, "what a deleted app left is still there"),
        }
    }

    fn app(&self, id: AppId) -> Result<&App, Refusal> {
        self.apps.get(&id).ok_or_else(|| Refusal::new(ErrorCode::NotFound, "there is no such app"))
    }

    fn write_usage(&mut self) {
        let stored = |(id, app): (&AppId, &App)| (*id, app.usage.stored());
        let changed: Vec<_> = self
            .apps
            .iter()
            .map(stored)
            .filter(|(id, usage)| usage.1 > 0 && self.written.get(id) != Some(usage))
            .collect();
        if changed.is_empty() {
            return;
        }
        match self.store.put_usage(changed.iter().copied()) {
            Ok(()) => self.written.extend(changed),
            // It is tried again at the next tick.
            Err(error) => tracing::error!(%error, "usage could not be written"),
        }
    }

    fn tell(&self, shard: ShardId, envelope: Envelope) {
        post_and_wait(&self.mailboxes, shard, envelope);
    }
}

fn failed(error: DirectoryError) -> Refusal {
    tracing::error!(%error, "a change could not be written");
    let text = match error {
        DirectoryError::Unknown(_) => format!("it could not be written: {error}"),
        _ => format!("nothing was changed, it could not be written: {error}"),
    };
    Refusal::new(ErrorCode::Overloaded, text)
}
