//! The world around the shards: everything that can happen, happens in an order the seed decides.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fastrand::Rng;
use pushflo_engine::accounts::{Plan, Role};
use pushflo_engine::clock::{Now, TICK_MS};
use pushflo_engine::handover::{ChannelState, SharedState};
use pushflo_engine::ids::{AppId, ChannelKey, ConnectionKey, LogId, ShardId};
use pushflo_engine::log::{LoadedChannel, LogCall};
use pushflo_engine::proxies::TrustedProxies;
use pushflo_engine::retention::{Durability, Retention};
use pushflo_engine::settings::{
    AllowedOrigins, HistoryLimits, Limits, PresenceTimes, Settings, Timeouts,
};
use pushflo_engine::shard::{Census, Closing, Envelope, Shard, Stored, Write};
use pushflo_engine::shared::Shared;

use super::accounts::ModelAccounts;
use super::backend::{Backend, Call};
use super::client::{Client, Identity, Past};
use super::log::ModelLog;
use super::network::Link;
use super::oracle::{AppTruth, Change, Content, KeyTruth, Meta, Moment, Oracle, Taken};
use super::tally::{Tally, kind};
use super::trace::say;
use crate::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY};

/// Things that happen in one run before the world comes to rest.
const STEPS: u64 = 1_500;

/// Rounds in which everything must come to rest.
const REST_ROUNDS: usize = 20_000;

pub struct World {
    pub(super) random: Rng,
    pub(super) now: Now,
    settings: Arc<Settings>,
    pub(super) shared: Arc<Shared>,
    /// Decides where channels live, and their epochs.
    placement: u64,
    pub(super) log: ModelLog,
    pub(super) accounts: ModelAccounts,
    pub(super) shards: Vec<Shard>,
    mailboxes: Vec<VecDeque<Envelope>>,
    mailbox_max: usize,
    /// Writes under way.
    pub(super) writes: BTreeMap<(usize, ConnectionKey), Write>,
    pub(super) clients: Vec<Client>,
    pub(super) backends: Vec<Backend>,
    pub(super) channels: usize,
    /// How many bytes the network holds for a client before it takes no more.
    window: usize,
    next_content: u64,
    /// Publishes have idempotency keys, which keep their channels from being forgotten.
    has_keys: bool,
    pub(super) oracle: Oracle,
}

/// Runs the world of one seed and panics where something does not hold.
pub fn run(seed: u64) -> Tally {
    let mut world = World::new(seed);
    let rest = world.random.u64(..STEPS * 2);
    for step in 0..STEPS {
        world.oracle.now.step += 1;
        world.step();
        world.check_shards();
        if step == rest {
            world.rest();
        }
    }
    world.end();
    world.oracle.tally
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let shards = random.usize(1..=4);
        let keeps_few = random.u8(..) < 64;
        let expires = random.u8(..) < 64;
        let has_log = random.bool();
        let settings = Arc::new(Settings {
            origins: AllowedOrigins::All,
            limits: Limits {
                tail_bytes_max: random.u64(2_000..20_000),
                pipelined_requests_max: random.usize(1..20),
                out_bytes_max: random.usize(500..50_000),
                outbox_envelopes_max: random.usize(1..10),
                outbox_bytes_max: 5_000,
                // Often less than what waits, and appends of a message or two.
                logging_bytes_max: random.usize(2_000..40_000),
                wrong_keys_per_second_max: u64::MAX,
                ..Limits::default()
            },
            timeouts: Timeouts::default(),
            has_log,
            history: HistoryLimits {
                // With a log, memory need not hold it all.
                recent_bytes_max: if has_log { random.usize(0..5_000) } else { 1_000_000_000 },
                ..HistoryLimits::default()
            },
            presence: PresenceTimes::default(),
            proxies: TrustedProxies::default(),
            metrics_on_main_port: true,
        });
        let retention = Retention {
            age_ms_max: if expires { random.u64(5_000..100_000) } else { 1_000_000_000 },
            messages_max: if keeps_few { random.usize(1..=5) } else { 1_000_000 },
            channel_bytes_max: 1_000_000_000,
        };
        let durability = if has_log { Durability::Os } else { Durability::Memory };
        let keys = [PUBLISH_KEY, SECRET_KEY, MANAGE_KEY];
        let truth = Role::ALL.into_iter().zip(keys).map(|(role, key)| KeyTruth::new(key, role));
        let default = AppTruth {
            id: AppId::DEFAULT,
            keys: truth.collect(),
            delete_sent: None,
            deleted: None,
        };
        let placement = random.u64(..);
        let channels = random.usize(1..=3);
        let clients = (0..random.usize(2..=6)).map(|_| {
            let slot = usize::from(random.u8(..) < 50);
            let identity = match random.u8(0..8) {
                0..=1 => Identity::Key(Role::Publish),
                2..=3 => Identity::Key(Role::Secret),
                4 => Identity::LaterKey,
                5 => Identity::Token(None),
                _ => Identity::Token(Some(random.u8(0..3))),
            };
            Client::new(slot, identity, channels)
        });
        let clients = clients.collect();
        let backends = (0..random.usize(1..=3)).map(|n| Backend::new(usize::from(n == 1)));
        let backends = backends.collect();
        let shared = Arc::new(Shared::new(shards, placement));
        let mut world = Self {
            now: Now::start(1_700_000_000_000),
            settings,
            shared,
            placement,
            log: ModelLog::default(),
            accounts: ModelAccounts::new(Plan::unlimited(retention, durability), keys),
            shards: Vec::new(),
            mailboxes: Vec::new(),
            mailbox_max: random.usize(1..8),
            writes: BTreeMap::new(),
            clients,
            backends,
            channels,
            window: random.usize(200..40_000),
            next_content: 0,
            has_keys: random.u8(..) < 200,
            oracle: Oracle::new(default, &retention, has_log),
            random,
        };
        world.start(shards, Vec::new(), Vec::new(), None);
        world
    }

    /// New shards, with what the log and the accounts have, and what those had whose place they take.
    pub(super) fn start(
        &mut self,
        shards: usize,
        channels: Vec<LoadedChannel>,
        channel_states: Vec<ChannelState>,
        before: Option<&SharedState>,
    ) {
        let shared = Shared::new(shards, self.placement)
            .with_deletions(self.accounts.deletions)
            .with_log(Arc::default(), self.placement, self.log.next_log());
        shared.begin_generations(&self.log.generations());
        if let Some(before) = before {
            shared.take_over(before);
        }
        self.shared = Arc::new(shared);
        let stored = Stored {
            apps: self.accounts.apps.values().cloned().collect(),
            metas: self.accounts.metas.clone(),
            channels,
            answers: self.log.answers(self.now.steady_ms),
            channel_states,
        };
        let stored = stored.by_shard(&self.shared, shards);
        let shards = (0..).zip(stored).map(|(id, stored)| {
            let (settings, shared) = (Arc::clone(&self.settings), Arc::clone(&self.shared));
            let seed = self.random.u64(..);
            let mut shard = Shard::new(ShardId(id), settings, shared, seed, self.now);
            shard.load_all(stored);
            shard
        });
        self.shards = shards.collect();
        self.mailboxes = self.shards.iter().map(|_| VecDeque::new()).collect();
        self.tell_oracle_time();
    }

    /// Where a channel of the first app lives.
    pub(super) fn home_of(&self, number: usize) -> usize {
        self.shared.home_shard(&self.oracle.key((0, number))).index()
    }

    fn has_log(&self) -> bool {
        self.settings.has_log
    }

    fn tell_oracle_time(&mut self) {
        self.oracle.now = Moment { step: self.oracle.now.step, ms: self.now.unix_ms };
    }

    /// The machine goes down and comes back, on as many shards as the seed says.
    fn crash(&mut self) {
        say(|| "the machine goes down".into());
        self.oracle.count("crashes");
        self.writes.clear();
        for client in &mut self.clients {
            client.link = None;
            client.lose();
        }
        for backend in &mut self.backends {
            backend.link = None;
            backend.lose(&mut self.oracle);
        }
        let leap = if self.random.bool() { 0 } else { 1 << 24 };
        self.accounts.crash();
        let accounts = &self.accounts;
        let loaded =
            self.log.crash(leap, |app| accounts.apps.contains_key(&app), &accounts.deleted);
        // They are gone from the log, which may give their places to others.
        self.accounts.deleted.clear();
        self.oracle.settle(&self.accounts);
        let shards = self.random.usize(1..=4);
        self.start(shards, loaded, Vec::new(), None);
    }

    fn log_acts(&mut self) {
        if !self.has_log() {
            return;
        }
        match self.random.u16(..) {
            // A disk that fails works again before long.
            0..10_000 if self.log.is_failing => self.log.is_failing = false,
            0..200 => self.log.is_failing = true,
            200..500 => self.crash(),
            _ => {
                self.log.is_shaky = true;
                self.log_answers();
            }
        }
    }

    pub(super) fn log_answers(&mut self) -> bool {
        let act = self.log.act(&mut self.random, self.now.steady_ms);
        let Some((shard, envelope)) = act else { return false };
        self.post(shard.index(), envelope);
        true
    }

    pub(super) fn accounts_act(&mut self) -> bool {
        let shards = self.shards.len();
        let news = self.accounts.act(&mut self.random, self.now.unix_ms, shards);
        self.shared.deletions.store(self.accounts.deletions, Ordering::Relaxed);
        let is_any = !news.is_empty();
        for (shard, news) in news {
            self.post(shard.index(), Envelope::Accounts(news));
        }
        is_any
    }

    fn post(&mut self, shard: usize, envelope: Envelope) {
        self.oracle.count(kind(&envelope));
        self.mailboxes[shard].push_back(envelope);
    }

    fn step(&mut self) {
        match self.random.u8(0..26) {
            0..=3 => self.client_acts(),
            4..=6 => self.backend_acts(),
            7..=10 => self.bytes_arrive(),
            11..=12 => self.mail_arrives(),
            13..=15 => self.shard_turns(),
            16..=17 => self.write_ends(),
            18..=19 => self.client_reads(),
            20..=22 => self.log_acts(),
            23..=24 => {
                match self.random.u8(..) {
                    0..5 => self.accounts.is_failing = true,
                    5..50 => self.accounts.is_failing = false,
                    _ => {}
                }
                self.accounts_act();
            }
            _ if self.random.u8(..) < 8 => self.upgrade(),
            _ => self.time_passes(),
        }
    }

    /// The app that is in a slot now.
    pub(super) fn app_of(&self, slot: usize) -> Option<usize> {
        if slot == 0 {
            return Some(0);
        }
        let last = self.oracle.apps.len() - 1;
        let app = &self.oracle.apps[last];
        (last > 0 && app.deleted.is_none() && app.delete_sent.is_none()).then_some(last)
    }

    fn client_acts(&mut self) {
        let index = self.random.usize(..self.clients.len());
        let channel = self.random.usize(..self.channels);
        let mask = self.random.u32(..).to_ne_bytes();
        if self.clients[index].link.is_none() {
            self.client_connects(index);
            return;
        }
        let (random, oracle) = (&mut self.random, &mut self.oracle);
        let client = &mut self.clients[index];
        if !client.is_connected {
            return;
        }
        match random.u8(0..50) {
            0..=21 => {
                let past = match random.u8(0..8) {
                    0..=3 => Past::Recover,
                    4..=5 => Past::Last(random.u64(1..20)),
                    6 => Past::Since(oracle.now.ms.saturating_sub(random.u64(..50_000))),
                    _ => Past::Nothing,
                };
                let presence = random.u8(..) < 150;
                // Most are content with one subscription.
                if client.live_position(channel).is_some() && random.u8(..) < 200 {
                    return;
                }
                client.subscribe(channel, past, presence, oracle, mask);
                // What is said in one breath is mostly read in one piece.
                if random.u8(..) < 60 {
                    self.next_content += 1;
                    client.publish(channel, self.next_content, 0, false, oracle, mask);
                }
            }
            22..=28 => client.unsubscribe(channel, mask),
            29..=36 => {
                if random.bool() {
                    client.repeat(oracle, mask);
                }
                for _ in 0..random.usize(1..4) {
                    self.next_content += 1;
                    let padding = random.usize(0..60);
                    let is_keyed = self.has_keys && random.bool();
                    let n = self.next_content;
                    client.publish(channel, n, padding, is_keyed, oracle, mask);
                }
            }
            37..=40 => client.refresh(oracle, random, mask),
            41..=44 => client.ping(mask),
            45..=47 => client.ack(mask),
            48 => {
                let link = client.link.take().unwrap();
                client.lose();
                self.cut(&link);
            }
            _ => client.link.as_mut().unwrap().client_done = true,
        }
    }

    pub(super) fn client_connects(&mut self, index: usize) -> bool {
        let app = self.app_of(self.clients[index].slot);
        app.is_some_and(|app| self.client_connects_to(index, app))
    }

    fn client_connects_to(&mut self, index: usize, app: usize) -> bool {
        let shard = self.random.usize(..self.shards.len());
        self.client_connects_on(index, app, shard)
    }

    pub(super) fn client_connects_on(&mut self, index: usize, app: usize, shard: usize) -> bool {
        let Some(key) = self.clients[index].pick_key(app, &self.oracle) else { return false };
        let Some(link) = self.connect_to(shard) else { return false };
        say(|| format!("client {index} is {}, of app {app}", link.connection_name()));
        self.clients[index].begin(link, app, key, &self.oracle, &mut self.random);
        true
    }

    fn backend_acts(&mut self) {
        let index = self.random.usize(..self.backends.len());
        if self.backends[index].link.is_none() {
            self.backend_connects(index);
            return;
        }
        if self.backends[index].is_ending() {
            return;
        }
        let is_patient = self.random.u8(..) < 200;
        if self.random.u8(..) < 4 && !(is_patient && self.backends[index].is_changing()) {
            let link = self.backends[index].link.take().unwrap();
            self.backends[index].lose(&mut self.oracle);
            self.cut(&link);
            return;
        }
        if self.random.bool() {
            self.backends[index].repeat(&mut self.oracle);
        }
        for _ in 0..self.random.usize(1..5) {
            let app = self.backends[index].app;
            let Some(call) = self.call(app) else { continue };
            let (chunked, is_last) = (self.random.bool(), self.random.u8(..) < 5);
            self.backends[index].ask(call, chunked, is_last, &mut self.oracle);
        }
    }

    pub(super) fn backend_connects(&mut self, index: usize) -> bool {
        let Some(app) = self.app_of(self.backends[index].slot) else { return false };
        let shard = self.random.usize(..self.shards.len());
        self.backend_connects_on(index, app, shard)
    }

    pub(super) fn backend_connects_on(&mut self, index: usize, app: usize, shard: usize) -> bool {
        let Some(link) = self.connect_to(shard) else { return false };
        say(|| format!("backend {index} is {}, of app {app}", link.connection_name()));
        self.backends[index].begin(link, app);
        true
    }

    /// A content that was not published yet.
    pub(super) fn content(&mut self, app: usize) -> Content {
        self.next_content += 1;
        ((app, self.random.usize(..self.channels)), self.next_content)
    }

    /// What a backend of an app asks for.
    fn call(&mut self, app: usize) -> Option<Call> {
        let content = self.content(app);
        let (channel, now_ms) = (content.0, self.now.unix_ms);
        let (channels, tenant) = (self.channels, self.app_of(1));
        let random = &mut self.random;
        Some(match random.u8(0..100) {
            0..=51 => {
                let padding = if random.u8(..) < 20 { 1_500 } else { random.usize(0..80) };
                let is_keyed = self.has_keys && random.bool();
                let is_message = random.u8(..) < 60;
                Call::Publish { content, padding, is_keyed, is_message }
            }
            52..=61 => {
                let mut contents = Vec::new();
                for _ in 0..random.usize(1..4) {
                    self.next_content += 1;
                    let first = random.usize(..channels);
                    for number in first..random.usize(first..channels) + 1 {
                        contents.push(((app, number), self.next_content));
                    }
                }
                let key = (self.has_keys && random.bool()).then_some(self.next_content);
                Call::Batch { contents, key }
            }
            62..=69 => {
                let mut time =
                    || (random.u8(..) < 40).then(|| now_ms.saturating_sub(random.u64(..50_000)));
                let (after, before) = (time(), time());
                let event = (random.u8(..) < 60).then(|| random.u64(0..2));
                let (page, page_size) = (random.u64(1..4), random.u64(1..30));
                Call::Page { channel, page, page_size, event, after, before }
            }
            70..=73 => Call::Describe { channel },
            74..=76 => Call::Members { channel },
            77..=79 => Call::List { page: random.u64(1..3), page_size: random.u64(1..4) },
            80..=89 => {
                if self.oracle.channel(channel).is_changing {
                    return None;
                }
                let change = match random.u8(0..16) {
                    0..=4 => Change::Create(Meta {
                        is_private: random.u8(..) < 80,
                        presence: random.u8(..) < 180,
                    }),
                    5..=12 => Change::Update {
                        is_private: random.bool().then(|| random.u8(..) < 100),
                        presence: random.bool().then(|| random.u8(..) < 180),
                    },
                    _ => Change::Delete,
                };
                Call::Change { channel, change }
            }
            90..=91 if app == 0 && tenant.is_none() => Call::CreateApp,
            92 if app == 0 => Call::DeleteApp { app: tenant? },
            93 => Call::RenameApp,
            94 => Call::CreateKey { role: [Role::Publish, Role::Secret][random.usize(..2)] },
            95 => {
                let keys = self.oracle.apps[app].keys.iter().enumerate().skip(3);
                let mut keys = keys.filter(|(_, key)| key.revoke_sent.is_none());
                Call::RevokeKey { key: keys.find(|(_, key)| key.revoked.is_none())?.0 }
            }
            96 => Call::Token,
            97 => Call::Usage,
            98 => Call::Health,
            99 => Call::NoSuchThing,
            _ => return None,
        })
    }

    fn connect_to(&mut self, shard: usize) -> Option<Link> {
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let connection = self.shards[shard].accept(peer).ok()?;
        Some(Link::new(shard, connection))
    }

    /// The client is gone without a word.
    pub(super) fn cut(&mut self, link: &Link) {
        say(|| format!("{} is cut", link.connection_name()));
        self.writes.remove(&(link.shard, link.connection));
        self.shards[link.shard].failed(link.connection);
        self.closings(link.shard);
    }

    /// Clients, then backends.
    pub(super) fn link_of(&mut self, which: usize) -> &mut Option<Link> {
        match which.checked_sub(self.clients.len()) {
            None => &mut self.clients[which].link,
            Some(index) => &mut self.backends[index].link,
        }
    }

    pub(super) fn links(&self) -> usize {
        self.clients.len() + self.backends.len()
    }

    fn bytes_arrive(&mut self) {
        let which = self.random.usize(..self.links());
        let most = match self.random.u8(0..4) {
            0 => 1,
            1 => self.random.usize(1..100),
            _ => 64 * 1024,
        };
        self.deliver(which, most);
    }

    fn deliver(&mut self, which: usize, most: usize) -> bool {
        let Some(link) = self.link_of(which) else { return false };
        let (shard, connection) = (link.shard, link.connection);
        if !link.to_server.is_empty() {
            let most = most.min(link.to_server.len());
            if !self.shards[shard].may_read(connection) {
                return false;
            }
            let Some(link) = self.link_of(which) else { return false };
            let mut bytes: Vec<u8> = link.to_server.drain(..most).collect();
            say(|| format!("shard {shard} reads {most} bytes of {connection:?}"));
            self.shards[shard].received(connection, &mut bytes);
        } else if link.client_done && !link.end_told {
            link.end_told = true;
            say(|| format!("shard {shard} reads the end of {connection:?}"));
            self.shards[shard].end_of_input(connection);
        } else {
            return false;
        }
        self.closings(shard);
        true
    }

    pub(super) fn apply(&mut self, shard: usize) -> bool {
        let Some(envelope) = self.mailboxes[shard].pop_front() else { return false };
        say(|| format!("shard {shard} gets {envelope:?}"));
        self.shards[shard].apply(envelope);
        true
    }

    fn mail_arrives(&mut self) {
        let shard = self.random.usize(..self.shards.len());
        for _ in 0..self.random.usize(1..6) {
            self.apply(shard);
        }
        self.closings(shard);
    }

    fn shard_turns(&mut self) {
        let shard = self.random.usize(..self.shards.len());
        say(|| format!("shard {shard} ends a turn"));
        self.turn(shard);
    }

    pub(super) fn turn(&mut self, shard: usize) -> bool {
        let mut moved = false;
        while self.shards[shard].next_resumed().is_some() {
            moved = true;
        }
        self.shards[shard].flush();
        while let Some((connection, write)) = self.shards[shard].next_write() {
            assert!(!write.is_empty());
            say(|| format!("shard {shard} writes {} bytes to {connection:?}", write.len()));
            let before = self.writes.insert((shard, connection), write);
            assert!(before.is_none(), "two writes at a time on one connection");
            moved = true;
        }
        moved |= self.exchange(shard);
        moved
    }

    /// Hands over what a shard has to say to others.
    pub(super) fn exchange(&mut self, shard: usize) -> bool {
        let mut moved = false;
        for to in 0..self.shards.len() {
            let (mailbox, most) = (&mut self.mailboxes[to], self.mailbox_max);
            let oracle = &mut self.oracle;
            let sent = self.shards[shard].post_mail(ShardId(to as u16), |mail| {
                if mailbox.len() >= most {
                    return Err(mail);
                }
                say(|| format!("shard {shard} sends shard {to} {mail:?}"));
                let envelope = Envelope::Mail(mail);
                oracle.count(kind(&envelope));
                mailbox.push_back(envelope);
                Ok(())
            });
            moved |= sent > 0;
        }
        let (log, accounts, oracle) = (&mut self.log, &mut self.accounts, &mut self.oracle);
        self.shards[shard].post_log_calls(|call| {
            say(|| format!("shard {shard} asks the log {call:?}"));
            if let LogCall::Append(append) = &call {
                // Nobody asked for it: all its messages are too old.
                let is_forgotten = |(log, channel): &&(LogId, ChannelKey)| {
                    let is_app = accounts.apps.contains_key(&channel.app);
                    is_app && !accounts.deleted.contains(log)
                };
                for _ in append.deletes.iter().filter(is_forgotten) {
                    oracle.count("channels forgotten");
                }
            }
            log.post(call).inspect(|()| moved = true)
        });
        self.shards[shard].post_accounts_calls(|call| {
            say(|| format!("shard {shard} asks the accounts {call:?}"));
            accounts.post(call).inspect(|()| moved = true)
        });
        self.closings(shard);
        moved
    }

    fn write_ends(&mut self) {
        let Some(&key) = self.writes.keys().nth(self.random.usize(..self.writes.len().max(1)))
        else {
            return;
        };
        let most = if self.random.bool() { self.random.usize(1..50) } else { usize::MAX };
        self.finish_write(key, most);
    }

    /// The socket takes what the window allows, at least one byte, or nothing for now.
    fn finish_write(&mut self, key: (usize, ConnectionKey), most: usize) -> bool {
        let (shard, connection) = key;
        let window = self.window;
        let Some(link) = self.link(shard, connection) else {
            let write = self.writes.remove(&key).unwrap();
            drop(write);
            self.shards[shard].failed(connection);
            self.closings(shard);
            return true;
        };
        let room = window.saturating_sub(link.to_client.len()).min(most);
        if room == 0 {
            return false;
        }
        let write = self.writes.remove(&key).unwrap();
        let bytes: Vec<u8> = write.segments().concat();
        let taken = room.min(bytes.len());
        say(|| format!("the socket of shard {shard} {connection:?} takes {taken} bytes"));
        self.link(shard, connection).unwrap().to_client.extend(&bytes[..taken]);
        self.shards[shard].written(connection, write, taken);
        self.closings(shard);
        true
    }

    fn client_reads(&mut self) {
        let which = self.random.usize(..self.links());
        let most = if self.random.bool() { self.random.usize(1..300) } else { usize::MAX };
        self.read(which, most);
    }

    fn read(&mut self, which: usize, most: usize) -> bool {
        let clients = self.clients.len();
        let Some(link) = self.link_of(which) else { return false };
        if !link.to_client.is_empty() {
            match which.checked_sub(clients) {
                None => self.clients[which].read(most, &mut self.oracle),
                Some(index) => self.backends[index].read(most, &mut self.oracle),
            }
            if let Some(taken) = self.oracle.taken.take() {
                self.try_what_is_taken(taken);
            }
            return true;
        }
        // Everything was read and the server is done: so is the client.
        if !link.server_done {
            return false;
        }
        let done = self.link_of(which).take().unwrap();
        match which.checked_sub(clients) {
            None => self.clients[which].lose(),
            Some(index) => self.backends[index].lose(&mut self.oracle),
        }
        self.cut(&done);
        true
    }

    /// A right was taken away, and whoever asked for that was told that it is: nobody has it any more, on
    /// no shard, whatever is still under way.
    fn try_what_is_taken(&mut self, taken: Taken) {
        self.oracle.now.step += 1;
        for index in 0..self.clients.len() {
            let mask = self.random.u32(..).to_ne_bytes();
            let client = &mut self.clients[index];
            match taken {
                Taken::Private((app, number)) if client.app == app => {
                    if client.live_position(number).is_none() {
                        continue;
                    }
                    client.subscribe(number, Past::Nothing, true, &mut self.oracle, mask);
                }
                Taken::Keys(app) if client.link.is_none() => {
                    let slot = usize::from(app > 0);
                    if client.slot != slot || !self.client_connects_to(index, app) {
                        continue;
                    }
                    self.oracle.count("taken keys tried");
                }
                _ => continue,
            }
            self.deliver(index, usize::MAX);
        }
        for index in 0..self.backends.len() {
            let backend = &mut self.backends[index];
            if matches!(taken, Taken::Keys(app) if app == backend.app)
                && backend.link.is_some()
                && !backend.is_ending()
            {
                backend.ask(Call::Token, false, false, &mut self.oracle);
                self.deliver(self.clients.len() + index, usize::MAX);
            }
        }
        // What is answered from now on comes behind it.
        self.oracle.now.step += 1;
    }

    fn time_passes(&mut self) {
        let ticks = match self.random.u8(..) {
            0..2 => 400,
            2..20 => self.random.u32(4..50),
            _ => self.random.u32(0..3),
        };
        self.advance(ticks);
    }

    pub(super) fn advance(&mut self, ticks: u32) {
        say(|| format!("{ticks} ticks pass"));
        self.now = self.now.after(u64::from(ticks) * TICK_MS);
        self.tell_oracle_time();
        for shard in 0..self.shards.len() {
            self.shards[shard].advance(self.now);
            self.closings(shard);
        }
    }

    pub(super) fn closings(&mut self, shard: usize) {
        while let Some(closing) = self.shards[shard].next_closing() {
            say(|| format!("shard {shard} does {closing:?}"));
            let (Closing::HalfClose(connection) | Closing::Close(connection)) = closing;
            if let Some(link) = self.link(shard, connection) {
                link.server_done = true;
            }
            if let Closing::Close(connection) = closing {
                self.writes.remove(&(shard, connection));
            }
        }
    }

    fn link(&mut self, shard: usize, connection: ConnectionKey) -> Option<&mut Link> {
        let clients = self.clients.iter_mut().filter_map(|client| client.link.as_mut());
        let backends = self.backends.iter_mut().filter_map(|backend| backend.link.as_mut());
        let mut links = clients.chain(backends);
        links.find(|link| link.shard == shard && link.connection == connection)
    }

    /// Checks the tables of all shards, and that apps are counted as they are used.
    pub(super) fn check_shards(&self) -> Census {
        let mut census = Census::default();
        for shard in &self.shards {
            shard.check(&mut census);
        }
        for (id, app) in &self.accounts.apps {
            let of = |counts: &BTreeMap<AppId, u64>| counts.get(id).copied().unwrap_or_default();
            assert_eq!(app.usage.connections(), of(&census.sessions), "connections of {id}");
            assert_eq!(app.usage.channels(), of(&census.channels), "channels of {id}");
        }
        census
    }

    /// Lets everything under way arrive.
    pub(super) fn come_to_rest(&mut self) {
        self.come_to_rest_without(usize::MAX);
    }

    /// Lets everything under way arrive but what a shard would have to do for it.
    pub(super) fn come_to_rest_without(&mut self, held: usize) {
        self.oracle.now.step += 1;
        self.log.is_failing = false;
        self.log.is_shaky = false;
        self.accounts.is_failing = false;
        for _ in 0..REST_ROUNDS {
            let mut moved = self.log_answers();
            moved |= self.accounts_act();
            for which in 0..self.links() {
                if self.link_of(which).as_ref().is_some_and(|link| link.shard != held) {
                    moved |= self.deliver(which, usize::MAX);
                    moved |= self.read(which, usize::MAX);
                }
            }
            for shard in (0..self.shards.len()).filter(|shard| *shard != held) {
                while self.apply(shard) {
                    moved = true;
                }
                moved |= self.turn(shard);
            }
            let writes: Vec<_> = self.writes.keys().copied().collect();
            for key in writes.into_iter().filter(|(shard, _)| *shard != held) {
                if self.writes.contains_key(&key) {
                    moved |= self.finish_write(key, usize::MAX);
                }
            }
            if !moved {
                return;
            }
        }
        panic!("the world does not come to rest");
    }
}
