//! A model of the accounts: what the shards may ask of the real ones, answered from tables in memory that
//! outlive them. It takes what waits in groups, tells every shard what a group changed, and answers
//! then; it is slow when the seed says so, and fails when it is told to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use fastrand::Rng;
use pushflo_engine::accounts::{
    AccountsCall, App, AppChange, AppRecord, AppSettings, Changed, ChannelMeta, ChannelStored,
    Done, Key, KeyId, NewKey, News, Plan, Role, SigningKey, Usage,
};
use pushflo_engine::after_all::AfterAll;
use pushflo_engine::ids::{AppId, ChannelKey, LogId, RequestId, ShardId};
use pushflo_protocol::{ErrorCode, Refusal};

/// Calls of each kind that wait at most; the shards keep the rest.
const CALLS_MAX: usize = 3;

#[derive(Debug)]
pub struct ModelAccounts {
    pub apps: BTreeMap<AppId, App>,
    pub metas: Vec<(ChannelKey, ChannelMeta)>,
    /// How often a channel or an app was deleted.
    pub deletions: u64,
    /// Places in the log of channels that were deleted and may be there still.
    pub deleted: BTreeSet<LogId>,
    pub is_failing: bool,
    plan: Plan,
    urgent: VecDeque<AccountsCall>,
    others: VecDeque<AccountsCall>,
    next_app: u32,
}

enum Reply {
    Request(RequestId, Result<Changed, Refusal>),
    Channel(ShardId, ChannelKey, Result<Option<Arc<ChannelMeta>>, Refusal>),
}

impl ModelAccounts {
    /// With the app `default`, which has these keys.
    pub fn new(plan: Plan, keys: [&str; 3]) -> Self {
        let keys = Role::ALL
            .into_iter()
            .zip(keys)
            .map(|(role, text)| Key { is_configured: true, ..Key::new(text, role, None, 0) });
        let settings = AppSettings { client_publish: true, ..AppSettings::default() };
        let mut accounts = Self {
            apps: BTreeMap::new(),
            metas: Vec::new(),
            deletions: 0,
            deleted: BTreeSet::new(),
            is_failing: false,
            plan,
            urgent: VecDeque::new(),
            others: VecDeque::new(),
            next_app: 1,
        };
        accounts.keep(AppId::DEFAULT, "default", settings, keys.collect());
        accounts
    }

    pub fn post(&mut self, call: AccountsCall) -> Result<(), AccountsCall> {
        let queue = if call.is_urgent() { &mut self.urgent } else { &mut self.others };
        if queue.len() >= CALLS_MAX {
            return Err(call);
        }
        queue.push_back(call);
        Ok(())
    }

    /// Whether nothing waits.
    pub fn is_idle(&self) -> bool {
        self.urgent.is_empty() && self.others.is_empty()
    }

    /// What is kept of a channel.
    pub fn meta(&self, app: AppId, slug: &str) -> Option<&ChannelMeta> {
        let meta = self.metas.iter().find(|(key, _)| key.app == app && key.slug.as_str() == slug);
        meta.map(|(_, meta)| meta)
    }

    /// Does some of what waits as one group. Returns what is told to which shard of so many.
    pub fn act(&mut self, random: &mut Rng, now_ms: u64, shards: usize) -> Vec<(ShardId, News)> {
        let (mut touched, mut replies, mut news) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..random.usize(1..=3) {
            let Some(call) = self.urgent.pop_front().or_else(|| self.others.pop_front()) else {
                break;
            };
            replies.push(self.act_on(call, random, now_ms, &mut touched));
        }
        let all = || (0..shards).map(|index| ShardId(index as u16));
        for app in &touched {
            for shard in all() {
                news.push((
                    shard,
                    match self.apps.get(app) {
                        Some(app) => News::App(Box::new(app.clone())),
                        None => News::AppGone(*app),
                    },
                ));
            }
        }
        for reply in replies {
            match reply {
                Reply::Request(request, Ok(done)) if !touched.is_empty() => {
                    let done = AfterAll::new(shards, Done { request, outcome: Ok(done) });
                    news.extend(all().map(|shard| (shard, News::DoneByAll(Arc::clone(&done)))));
                }
                Reply::Request(request, outcome) => {
                    news.push((request.shard, News::Done(Box::new(Done { request, outcome }))));
                }
                Reply::Channel(shard, channel, result) => {
                    let stored = ChannelStored { channel, result };
                    news.push((shard, News::ChannelStored(Box::new(stored))));
                }
            }
        }
        news
    }

    fn act_on(
        &mut self,
        call: AccountsCall,
        random: &mut Rng,
        now_ms: u64,
        touched: &mut Vec<AppId>,
    ) -> Reply {
        let no_app = || Refusal::new(ErrorCode::NotFound, "there is no such app");
        if self.is_failing && random.bool() {
            let refusal = Refusal::new(ErrorCode::Overloaded, "it could not be written");
            return match call {
                AccountsCall::StoreChannel { shard, channel, .. } => {
                    Reply::Channel(shard, channel, Err(refusal))
                }
                AccountsCall::CreateApp { request, .. }
                | AccountsCall::ChangeApp { request, .. }
                | AccountsCall::DeleteApp { request, .. }
                | AccountsCall::CreateKey { request, .. }
                | AccountsCall::RevokeKey { request, .. } => Reply::Request(request, Err(refusal)),
            };
        }
        match call {
            AccountsCall::CreateApp { request, change } => {
                let id = AppId(self.next_app);
                self.next_app += 1;
                let made = Role::ALL.map(|role| new_key(role, random));
                let keys = made.iter().map(|made| made.key.clone()).collect();
                let client_publish = change.settings.client_publish.unwrap_or_default();
                let settings = AppSettings { client_publish, ..AppSettings::default() };
                let app = self.keep(id, &change.name.unwrap_or_default(), settings, keys);
                touched.push(id);
                Reply::Request(request, Ok(Changed::AppCreated(Box::new(app), made.into())))
            }
            AccountsCall::ChangeApp { request, app, change } => {
                let AppChange { name, .. } = change;
                let changed = self.apps.get_mut(&app).map(|app| {
                    app.record.name = name.unwrap_or(app.record.name.clone());
                    app.record.updated_ms = now_ms;
                    touched.push(app.id);
                    Changed::App(Box::new(app.clone()))
                });
                Reply::Request(request, changed.ok_or_else(no_app))
            }
            AccountsCall::DeleteApp { request, app } => {
                let gone = self.apps.remove(&app).map(|_| {
                    self.metas.retain(|(channel, _)| channel.app != app);
                    self.deletions += 1;
                    touched.push(app);
                    Changed::Deleted
                });
                Reply::Request(request, gone.ok_or_else(no_app))
            }
            AccountsCall::CreateKey { request, app, role, .. } => {
                let made = self.apps.get_mut(&app).map(|app| {
                    let made = new_key(role, random);
                    app.record.keys.push(made.key.clone());
                    touched.push(app.id);
                    Changed::KeyCreated(Box::new(made))
                });
                Reply::Request(request, made.ok_or_else(no_app))
            }
            AccountsCall::RevokeKey { request, app, key } => {
                let revoked = self.apps.get_mut(&app).ok_or_else(no_app).and_then(|app| {
                    let known = app.record.keys.iter().any(|known| known.id() == key);
                    app.record.keys.retain(|known| known.id() != key);
                    touched.extend(known.then_some(app.id));
                    let no_key = || Refusal::new(ErrorCode::NotFound, "the app has no such key");
                    known.then_some(Changed::Deleted).ok_or_else(no_key)
                });
                Reply::Request(request, revoked)
            }
            AccountsCall::StoreChannel { shard, channel, meta, log } => {
                if !self.apps.contains_key(&channel.app) {
                    return Reply::Channel(shard, channel, Err(no_app()));
                }
                self.metas.retain(|(known, _)| *known != channel);
                match &meta {
                    Some(meta) => self.metas.push((channel.clone(), ChannelMeta::clone(meta))),
                    None => {
                        self.deletions += 1;
                        self.deleted.extend(log);
                    }
                }
                Reply::Channel(shard, channel, Ok(meta))
            }
        }
    }

    fn keep(&mut self, id: AppId, name: &str, settings: AppSettings, keys: Vec<Key>) -> App {
        let mut record = AppRecord::new(name, "unlimited", settings, keys, 0);
        // What is random there must come from the seed.
        record.token_secret = SigningKey([id.0 as u8; 32]);
        let app = App { id, record, plan: self.plan, usage: Arc::new(Usage::default()) };
        self.apps.insert(id, app.clone());
        app
    }

    /// Whether an app has a key.
    pub fn has_key(&self, app: AppId, key: KeyId) -> bool {
        self.apps.get(&app).is_some_and(|app| app.key(key).is_some())
    }

    /// The machine goes down: what was not done is not, and nobody is connected any more.
    pub fn crash(&mut self) {
        self.urgent.clear();
        self.others.clear();
        for app in self.apps.values_mut() {
            app.usage = Arc::new(Usage::default());
        }
    }
}

fn new_key(role: Role, random: &mut Rng) -> NewKey {
    let text = format!("{}{:032x}", role.prefix(), random.u128(..));
    NewKey { key: Key::new(&text, role, None, 0), text }
}
