//! The thread that changes apps, keys and channels' metadata: it writes a change to disk, tells every
//! shard, and answers then. One thread makes all changes, so they have one order.
//!
//! What waits is written as a group, with one change of the store: calls about keys first, then those
//! of the apps in turn. Calls of a group see what those before them change; if the group cannot be
//! written, none of them changes anything.
//!
//! It also writes down once a second what apps used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, never, select};
use pushflo_protocol::time::Month;
use pushflo_protocol::{ErrorCode, Refusal};

use super::app::{App, AppRecord, AppSettings, SettingsChange};
use super::changes::Changes;
use super::channel::ChannelMeta;
use super::keys::{Key, KeyId, Role};
use super::plan::{PLAN_DEFAULT, Plan, Plans};
use super::queue::Queue;
use super::replica::Replica;
use super::store::{DirectoryError, DirectoryStore, OpenedDirectory};
use super::usage::{Usage, Usages};
use crate::after_all::AfterAll;
use crate::bucket::BucketHandle;
use crate::clock::{self, Clock};
use crate::hash::HashMap;
use crate::ids::{AppId, ChannelKey, LogId, RequestId, ShardId};
use crate::port::Port;
use crate::retention::{Durability, Retentions};

/// Calls that wait, of those about keys and of the others, on their way and in the queue each; a shard
/// keeps what does not fit.
const CALLS_MAX: usize = 1024;

/// Most calls of a group: with the longest metadata each, they and what it takes to undo them have a
/// few MiB.
const GROUP_CALLS_MAX: usize = 256;

/// Most apps: each is known to every shard.
const APPS_MAX: usize = 100_000;

/// Most keys of an app: enough to rotate each role many times over.
const KEYS_PER_APP_MAX: usize = 100;

/// How often usage is written down.
const TICK: Duration = Duration::from_millis(1000);

/// What a shard asks for.
#[derive(Clone, Debug)]
pub enum AccountsCall {
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
    /// [`News::ChannelStored`].
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

impl AccountsCall {
    /// Whether it goes before what changes apps and channels: a key that is revoked must not work for
    /// long.
    pub fn is_urgent(&self) -> bool {
        matches!(self, Self::CreateKey { .. } | Self::RevokeKey { .. } | Self::DeleteApp { .. })
    }

    /// In whose turn it is done; new apps are made in that of the operator.
    pub(super) fn app(&self) -> AppId {
        match self {
            Self::CreateApp { .. } => AppId::DEFAULT,
            Self::ChangeApp { app, .. }
            | Self::DeleteApp { app, .. }
            | Self::CreateKey { app, .. }
            | Self::RevokeKey { app, .. } => *app,
            Self::StoreChannel { channel, .. } => channel.app,
        }
    }
}

/// What the accounts tell a shard.
#[derive(Clone, Debug)]
pub enum News {
    /// An app as it is now.
    App(Box<App>),
    /// An app was deleted.
    AppGone(AppId),
    /// What became of a call.
    Done(Box<Done>),
    /// What became of a call that changed what every shard knows: sent to all of them behind the change,
    /// and told when all got here.
    DoneByAll(Arc<AfterAll<Done>>),
    /// What became of a change of a channel.
    ChannelStored(Box<ChannelStored>),
}

/// What became of a call.
#[derive(Clone, Debug)]
pub struct Done {
    /// Who waits for it.
    pub request: RequestId,
    /// What was done, or why it was refused.
    pub outcome: Result<Changed, Refusal>,
}

/// What the accounts did.
#[derive(Clone, Debug)]
pub enum Changed {
    /// Made an app, with these keys.
    AppCreated(Box<App>, Vec<NewKey>),
    /// Changed an app.
    App(Box<App>),
    /// Made a key.
    KeyCreated(Box<NewKey>),
    /// Deleted an app, or revoked a key.
    Deleted,
}

impl Changed {
    /// Bytes it keeps in memory besides itself, its app not counted: that is known to every shard.
    pub fn kept_bytes(&self) -> usize {
        match self {
            Self::AppCreated(_, keys) => {
                size_of::<App>() + keys.iter().map(NewKey::kept_bytes).sum::<usize>()
            }
            Self::App(_) => size_of::<App>(),
            Self::KeyCreated(key) => key.kept_bytes(),
            Self::Deleted => 0,
        }
    }
}

/// A key that was made just now.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// What is kept of it.
    pub key: Key,
    /// The key itself, which is shown this once.
    pub text: String,
}

impl NewKey {
    fn kept_bytes(&self) -> usize {
        size_of::<Self>() + self.text.len() + self.key.name.as_ref().map_or(0, |name| name.len())
    }
}

/// What became of a change of a channel.
#[derive(Clone, Debug)]
pub struct ChannelStored {
    /// What was changed.
    pub channel: ChannelKey,
    /// The metadata that are kept now, none of a channel that is deleted; or why they are not.
    pub result: Result<Option<Arc<ChannelMeta>>, Refusal>,
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

/// The accounts as the server holds it.
#[derive(Debug)]
pub struct Accounts {
    calls: AccountsHandle,
    thread: JoinHandle<()>,
    /// What apps use.
    pub usages: Arc<Usages>,
    /// Keys of the default app that were made while the server runs, as the first node of a cluster does.
    pub made_keys: Receiver<Vec<(Role, String)>>,
}

/// A shard's way to the accounts.
#[derive(Clone, Debug)]
pub struct AccountsHandle {
    urgent: Sender<AccountsCall>,
    others: Sender<AccountsCall>,
}

/// The writer's end of it.
struct Calls {
    urgent: Receiver<AccountsCall>,
    others: Receiver<AccountsCall>,
}

/// What a group of calls changes, before it is written.
#[derive(Default)]
pub(super) struct ChangeGroup {
    pub(super) changes: Changes,
    /// Apps as they were, of those that are others in [`Writer::apps`] by now.
    before: BTreeMap<AppId, Option<App>>,
    /// Apps that were changed, made or deleted, in this order.
    touched: Vec<AppId>,
    pub(super) replies: Vec<ChangeReply>,
}

/// What is told when a group is written.
pub(super) enum ChangeReply {
    Request(RequestId, Result<Changed, Refusal>),
    /// To the home shard.
    Channel(ShardId, ChannelKey, Result<Option<Arc<ChannelMeta>>, Refusal>),
}

impl ChangeReply {
    /// To the same, that nothing was done.
    pub(super) fn refused(self, refusal: &Refusal) -> Self {
        match self {
            Self::Request(request, _) => Self::Request(request, Err(refusal.clone())),
            Self::Channel(shard, channel, _) => Self::Channel(shard, channel, Err(refusal.clone())),
        }
    }
}

pub(super) struct Writer {
    store: DirectoryStore,
    pub(super) apps: BTreeMap<AppId, App>,
    pub(super) plans: Plans,
    /// How often a channel or an app was deleted, as the shards see it.
    told_deletions: Arc<AtomicU64>,
    ports: Vec<Port<News>>,
    retentions: Arc<Retentions>,
    usages: Arc<Usages>,
    /// What was written down of usage.
    written: HashMap<AppId, (u16, u64)>,
    pub(super) group: ChangeGroup,
    /// The number of the next app.
    pub(super) next_app: u64,
    /// How often a channel or an app was deleted.
    deletions: u64,
    /// Apps that are deleted whose channels' metadata are still to be removed.
    unswept: BTreeSet<AppId>,
    /// What all nodes have in common, in a cluster.
    pub(super) replica: Option<Replica>,
}

impl Accounts {
    /// Starts the thread. In a cluster, `bucket` has what all nodes have in common.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub fn start(
        opened: OpenedDirectory,
        plans: Plans,
        deletions: Arc<AtomicU64>,
        ports: Vec<Port<News>>,
        retentions: Arc<Retentions>,
        usages: Arc<Usages>,
        bucket: Option<BucketHandle>,
    ) -> std::io::Result<Self> {
        let OpenedDirectory { store, apps, next_app, deletions: deleted, unswept, .. } = opened;
        let (making_keys, made_keys) = bounded(1);
        let configured = opened.configured;
        let replica = bucket.map(|bucket| Replica::new(bucket, configured, making_keys));
        let ((urgent, urgent_calls), (others, other_calls)) =
            (bounded(CALLS_MAX), bounded(CALLS_MAX));
        let calls = AccountsHandle { urgent, others };
        let waiting = Calls { urgent: urgent_calls, others: other_calls };
        let written = HashMap::default();
        for (id, app) in &apps {
            usages.set(*id, Arc::clone(&app.usage));
            retentions.set(*id, app.plan.retention);
        }
        let told = Arc::clone(&usages);
        let mut writer = Writer {
            store,
            apps,
            plans,
            told_deletions: deletions,
            ports,
            retentions,
            usages,
            written,
            group: ChangeGroup::default(),
            next_app,
            deletions: deleted,
            unswept,
            replica,
        };
        let thread = std::thread::Builder::new()
            .name("accounts".into())
            .spawn(move || writer.run(&waiting))?;
        Ok(Self { calls, thread, usages: told, made_keys })
    }

    /// A way to the accounts.
    pub fn handle(&self) -> AccountsHandle {
        self.calls.clone()
    }

    /// Does what is left and writes everything down. All handles must be gone.
    pub fn close(self) {
        drop(self.calls);
        // A panic of the thread was told when it happened.
        let _ = self.thread.join();
    }
}

impl AccountsHandle {
    /// Hands a call over, or gives it back if there is no room.
    ///
    /// # Errors
    /// The call.
    pub fn post(&self, call: AccountsCall) -> Result<(), AccountsCall> {
        let calls = if call.is_urgent() { &self.urgent } else { &self.others };
        match calls.try_send(call) {
            Err(TrySendError::Full(call)) => Err(call),
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }
}

impl Writer {
    fn run(&mut self, calls: &Calls) {
        let clock = Clock::start();
        let mut next_tick_ms = 0;
        let mut queue = Queue::default();
        let mut news = self.news();
        loop {
            let patience = if queue.is_empty() { TICK } else { Duration::ZERO };
            let first = select! {
                recv(calls.urgent) -> call => Some(call),
                recv(calls.others) -> call => Some(call),
                recv(news) -> told => {
                    match told {
                        Ok(told) => self.learn(told),
                        // The cluster is left; shards end soon, too.
                        Err(_) => news = never(),
                    }
                    None
                }
                default(patience) => None,
            };
            match first {
                // Both ways in end together.
                Some(Err(_)) => break,
                Some(Ok(call)) => queue.push(call),
                None => {}
            }
            self.act_on_all(&mut queue, calls, &clock, next_tick_ms);
            let now_ms = clock.elapsed_ms();
            if now_ms >= next_tick_ms {
                next_tick_ms = now_ms + TICK.as_millis() as u64;
                self.write_usage();
                self.sweep();
                self.open_default();
            }
        }
        self.act_on_all(&mut queue, calls, &clock, u64::MAX);
        self.write_usage();
        if let Err(error) = self.store.sync() {
            tracing::error!(%error, "usage of the last moments could not be written");
        }
    }

    /// Does what waits, group by group, and what comes meanwhile, until so many milliseconds after the
    /// start of the clock.
    fn act_on_all(&mut self, queue: &mut Queue, calls: &Calls, clock: &Clock, until_ms: u64) {
        loop {
            while queue.urgent() < CALLS_MAX
                && let Ok(call) = calls.urgent.try_recv()
            {
                queue.push(call);
            }
            while queue.others() < CALLS_MAX
                && let Ok(call) = calls.others.try_recv()
            {
                queue.push(call);
            }
            if self.replica.is_some() {
                let Some(call) = queue.pop() else { return };
                self.act_for_all(&call);
            } else {
                for _ in 0..GROUP_CALLS_MAX {
                    let Some(call) = queue.pop() else { break };
                    let reply = self.act(call);
                    self.group.replies.push(reply);
                }
                if self.group.replies.is_empty() {
                    return;
                }
                self.write_group();
            }
            if clock.elapsed_ms() >= until_ms {
                return;
            }
        }
    }

    /// Makes a call part of the group.
    pub(super) fn act(&mut self, call: AccountsCall) -> ChangeReply {
        match call {
            AccountsCall::CreateApp { request, change } => {
                ChangeReply::Request(request, self.create_app(change))
            }
            AccountsCall::ChangeApp { request, app, change } => {
                ChangeReply::Request(request, self.change_app(app, change))
            }
            AccountsCall::DeleteApp { request, app } => {
                ChangeReply::Request(request, self.delete_app(app))
            }
            AccountsCall::CreateKey { request, app, role, name } => {
                ChangeReply::Request(request, self.create_key(app, role, name))
            }
            AccountsCall::RevokeKey { request, app, key } => {
                ChangeReply::Request(request, self.revoke_key(app, key))
            }
            AccountsCall::StoreChannel { shard, channel, meta, log } => {
                let result = self.store_channel(&channel, meta.as_deref(), log);
                ChangeReply::Channel(shard, channel, result.map(|()| meta))
            }
        }
    }

    /// Writes the group to disk, tells every shard what it changed, and answers.
    pub(super) fn write_group(&mut self) {
        let ChangeGroup { changes, before, touched, mut replies } = std::mem::take(&mut self.group);
        let is_for_all = !touched.is_empty();
        let mut written = if changes.is_empty() { Ok(()) } else { self.store.commit(&changes) };
        if let (Err(error), Some(_)) = (&written, &self.replica) {
            // It is made already, and learned again at the next start.
            tracing::error!(%error, "a change of the cluster could not be kept on disk");
            written = Ok(());
        }
        match written {
            Ok(()) => {
                self.told_deletions.store(self.deletions, Relaxed);
                touched.into_iter().for_each(|id| self.tell_all(id));
            }
            Err(error) => {
                self.take_back(before);
                let refusal = failed(error);
                // What was refused may have been so for what another call of the group changed.
                replies = replies.into_iter().map(|reply| reply.refused(&refusal)).collect();
            }
        }
        for reply in replies {
            match reply {
                // Whoever was told that a key is revoked finds no shard that still takes it.
                ChangeReply::Request(request, Ok(done)) if is_for_all => {
                    let done = Done { request, outcome: Ok(done) };
                    let done = AfterAll::new(self.ports.len(), done);
                    for port in &self.ports {
                        port.send(News::DoneByAll(Arc::clone(&done)));
                    }
                }
                ChangeReply::Request(request, outcome) => {
                    self.tell(request.shard, News::Done(Box::new(Done { request, outcome })));
                }
                ChangeReply::Channel(shard, channel, result) => {
                    let stored = ChannelStored { channel, result };
                    self.tell(shard, News::ChannelStored(Box::new(stored)));
                }
            }
        }
    }

    /// Apps are as they were before a group.
    fn take_back(&mut self, before: BTreeMap<AppId, Option<App>>) {
        for (id, app) in before {
            match app {
                Some(app) => self.apps.insert(id, app),
                None => self.apps.remove(&id),
            };
        }
        self.deletions = self.told_deletions.load(Relaxed);
    }

    /// Has the group change nothing.
    pub(super) fn undo_group(&mut self) {
        let ChangeGroup { before, .. } = std::mem::take(&mut self.group);
        self.take_back(before);
    }

    /// Tells every shard of an app as it is now, or that it is gone.
    fn tell_all(&mut self, id: AppId) {
        let app = self.apps.get(&id).cloned();
        match &app {
            Some(app) => {
                self.retentions.set(id, app.plan.retention);
                self.usages.set(id, Arc::clone(&app.usage));
            }
            None => {
                self.retentions.forget(id);
                self.usages.forget(id);
                self.unswept.insert(id);
            }
        }
        for port in &self.ports {
            port.send(match &app {
                Some(app) => News::App(Box::new(app.clone())),
                None => News::AppGone(id),
            });
        }
    }

    /// Has an app be another in the group, or none.
    pub(super) fn touch(&mut self, id: AppId, app: Option<App>) {
        let before = match app {
            Some(app) => self.apps.insert(id, app),
            None => self.apps.remove(&id),
        };
        self.group.before.entry(id).or_insert(before);
        self.group.touched.push(id);
    }

    fn create_app(&mut self, change: AppChange) -> Result<Changed, Refusal> {
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
        let app = self.keep(id, record, self.new_usage())?;
        self.group.changes.put_number("next_app", number + 1);
        self.next_app = number + 1;
        let keys = made.into_iter().map(|(key, text)| NewKey { key, text }).collect();
        Ok(Changed::AppCreated(Box::new(app), keys))
    }

    fn change_app(&mut self, id: AppId, change: AppChange) -> Result<Changed, Refusal> {
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
        let app = self.keep(id, record, usage)?;
        Ok(Changed::App(Box::new(app)))
    }

    fn delete_app(&mut self, id: AppId) -> Result<Changed, Refusal> {
        self.app(id)?;
        self.group.changes.remove_app(id);
        self.count_deletion();
        self.touch(id, None);
        Ok(Changed::Deleted)
    }

    fn create_key(
        &mut self,
        id: AppId,
        role: Role,
        name: Option<Box<str>>,
    ) -> Result<Changed, Refusal> {
        let app = self.app(id)?;
        let (mut record, usage) = (app.record.clone(), Arc::clone(&app.usage));
        if record.keys.len() >= KEYS_PER_APP_MAX {
            let text = format!("the app has {KEYS_PER_APP_MAX} keys already; revoke one first");
            return Err(Refusal::limit(ErrorCode::QuotaExceeded, "keys", 3600, text));
        }
        let (key, text) = Key::generate(role, name, clock::unix_ms());
        record.keys.push(key.clone());
        self.keep(id, record, usage)?;
        Ok(Changed::KeyCreated(Box::new(NewKey { key, text })))
    }

    fn revoke_key(&mut self, id: AppId, key: KeyId) -> Result<Changed, Refusal> {
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
        self.keep(id, record, usage)?;
        Ok(Changed::Deleted)
    }

    fn store_channel(
        &mut self,
        channel: &ChannelKey,
        meta: Option<&ChannelMeta>,
        log: Option<LogId>,
    ) -> Result<(), Refusal> {
        // Its app may have been deleted meanwhile.
        self.app(channel.app)?;
        match meta {
            Some(meta) => self.group.changes.put_channel(channel, meta).map_err(failed),
            None => {
                self.group.changes.remove_channel(channel, log);
                self.count_deletion();
                Ok(())
            }
        }
    }

    fn count_deletion(&mut self) {
        self.deletions += 1;
        self.group.changes.put_number("deletions", self.deletions);
    }

    /// Has an app be like this.
    pub(super) fn keep(
        &mut self,
        id: AppId,
        record: AppRecord,
        usage: Arc<Usage>,
    ) -> Result<App, Refusal> {
        let Some(plan) = self.plans.find(&record.plan) else {
            let text = format!("there is no such plan; there are {}", self.plans.names());
            return Err(Refusal::field("plan", text));
        };
        self.group.changes.put_app(id, &record).map_err(failed)?;
        let app = App { id, record, plan, usage };
        self.touch(id, Some(app.clone()));
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

    /// That of a new app.
    pub(super) fn new_usage(&self) -> Arc<Usage> {
        Arc::new(if self.replica.is_some() { Usage::shared() } else { Usage::default() })
    }

    fn write_usage(&mut self) {
        if self.replica.is_some() {
            // All nodes have it in common.
            return;
        }
        let month = Month::of(clock::unix_ms());
        let stored = |(id, app): (&AppId, &App)| (*id, (month.number, app.usage.messages(month)));
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

    fn tell(&self, shard: ShardId, news: News) {
        match self.ports.get(shard.index()) {
            Some(port) => port.send(news),
            None => debug_assert!(false, "there is no shard {shard}"),
        }
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
