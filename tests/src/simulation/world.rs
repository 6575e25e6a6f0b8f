//! The world around the shards: everything that can happen, happens in an order the seed decides.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use fastrand::Rng;
use pushflo_engine::accounts::{App, AppRecord, AppSettings, Key, Plan, Role, Usage};
use pushflo_engine::clock::{Now, TICK_MS};
use pushflo_engine::ids::AppId;
use pushflo_engine::ids::{ConnectionKey, ShardId};
use pushflo_engine::log::LoadedChannel;
use pushflo_engine::proxies::TrustedProxies;
use pushflo_engine::retention::{Durability, Retention};
use pushflo_engine::settings::{
    AllowedOrigins, HistoryLimits, Limits, PresenceTimes, Settings, Timeouts,
};
use pushflo_engine::shard::{Closing, Envelope, Shard, Write};
use pushflo_engine::shared::Shared;

use super::client::{Link, Publisher, Subscriber, Tally, ViewState};
use super::log::ModelLog;
use super::oracle::Oracle;
use crate::server::{PUBLISH_KEY, SECRET_KEY};

/// Things that happen in one run before the world comes to rest.
const STEPS: usize = 1_500;

/// Rounds in which everything must come to rest.
const REST_ROUNDS: usize = 20_000;

struct World {
    random: Rng,
    now: Now,
    settings: Arc<Settings>,
    /// The one app there is.
    app: App,
    /// Decides where channels live, and their epochs.
    placement: u64,
    log: ModelLog,
    crashes: u64,
    shards: Vec<Shard>,
    mailboxes: Vec<VecDeque<Envelope>>,
    mailbox_max: usize,
    /// Writes under way.
    writes: BTreeMap<(usize, ConnectionKey), Write>,
    subscribers: Vec<Subscriber>,
    publishers: Vec<Publisher>,
    channels: usize,
    /// How many bytes the network holds for a client before it takes no more.
    window: usize,
    may_forget: bool,
    next_content: u64,
    oracle: Oracle,
}

/// Runs the world of one seed and panics where something does not hold.
pub fn run(seed: u64) -> Tally {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
        world.check_shards();
    }
    world.come_to_rest();
    world.check();
    world.drain();
    let oracle = &world.oracle;
    Tally::from([
        ("deliveries", oracle.deliveries),
        ("refusals", oracle.refusals),
        ("recoveries", oracle.recoveries),
        ("gaps", oracle.gaps),
        ("too slow", oracle.too_slow),
        ("crashes", world.crashes),
    ])
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let shards = random.usize(1..=4);
        let may_forget = random.u8(..) < 64;
        let has_log = random.bool();
        let settings = Arc::new(Settings {
            origins: AllowedOrigins::All,
            limits: Limits {
                tail_bytes_max: random.u64(2_000..20_000),
                pipelined_requests_max: random.usize(1..20),
                out_bytes_max: random.usize(500..50_000),
                outbox_envelopes_max: random.usize(1..10),
                outbox_bytes_max: 5_000,
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
            age_ms_max: 1_000_000_000,
            messages_max: if may_forget { 5 } else { 1_000_000 },
            channel_bytes_max: 1_000_000_000,
        };
        let durability = if has_log { Durability::Os } else { Durability::Memory };
        let keys = [(PUBLISH_KEY, Role::Publish), (SECRET_KEY, Role::Secret)];
        let keys = keys.map(|(key, role)| Key::new(key, role, None, 0)).into();
        let app = App {
            id: AppId::DEFAULT,
            record: AppRecord::new("default", "unlimited", AppSettings::default(), keys, 0),
            plan: Plan::unlimited(retention, durability),
            usage: Arc::new(Usage::default()),
        };
        let now = Now::start(1_700_000_000_000);
        let placement = random.u64(..);
        let log = ModelLog::new(if may_forget { 5 } else { usize::MAX });
        let channels = random.usize(1..=3);
        let mut world = Self {
            now,
            settings,
            app,
            placement,
            log,
            crashes: 0,
            shards: Vec::new(),
            mailboxes: Vec::new(),
            mailbox_max: random.usize(1..8),
            writes: BTreeMap::new(),
            subscribers: (0..random.usize(1..=5)).map(|_| Subscriber::new(channels)).collect(),
            publishers: (0..random.usize(1..=3)).map(|_| Publisher::default()).collect(),
            channels,
            window: random.usize(200..40_000),
            may_forget,
            next_content: 0,
            oracle: Oracle::default(),
            random,
        };
        world.start(shards, Vec::new());
        world
    }

    /// New shards, with what the log has.
    fn start(&mut self, shards: usize, loaded: Vec<LoadedChannel>) {
        let shared = Shared::new(shards, self.placement).with_log(
            Arc::default(),
            self.placement,
            self.log.next_log(),
        );
        let shared = Arc::new(shared);
        self.shards = (0..shards)
            .map(|id| {
                let (settings, shared) = (Arc::clone(&self.settings), Arc::clone(&shared));
                let seed = self.random.u64(..);
                let mut shard = Shard::new(ShardId(id as u16), settings, shared, seed, self.now);
                shard.load_app(self.app.clone());
                shard
            })
            .collect();
        for channel in loaded {
            let home = shared.home_shard(&channel.channel);
            self.shards[home.index()].load(channel);
        }
        for (channel, answer) in self.log.answers() {
            let home = shared.home_shard(&channel);
            self.shards[home.index()].load_answer(&channel, answer);
        }
        self.mailboxes = (0..shards).map(|_| VecDeque::new()).collect();
    }

    fn check_shards(&self) {
        let mut census = pushflo_engine::shard::Census::default();
        for shard in &self.shards {
            shard.check(&mut census);
        }
    }

    fn has_log(&self) -> bool {
        self.settings.has_log
    }

    /// The machine goes down and comes back, on as many shards as the seed says.
    fn crash(&mut self) {
        self.crashes += 1;
        self.writes.clear();
        self.subscribers.iter_mut().for_each(|subscriber| subscriber.link = None);
        self.publishers.iter_mut().for_each(|publisher| publisher.link = None);
        let leap = if self.random.bool() { 0 } else { 1 << 24 };
        let loaded = self.log.crash(leap);
        let shards = self.random.usize(1..=4);
        self.start(shards, loaded);
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
                self.log_answers();
            }
        }
    }

    fn log_answers(&mut self) -> bool {
        let Some((shard, envelope)) = self.log.act(&mut self.random) else { return false };
        self.mailboxes[shard.index()].push_back(envelope);
        true
    }

    fn step(&mut self) {
        match self.random.u8(0..23) {
            0..=2 => self.subscriber_acts(),
            3..=5 => self.publisher_acts(),
            6..=9 => self.bytes_arrive(),
            10..=11 => self.mail_arrives(),
            12..=14 => self.shard_turns(),
            15..=16 => self.write_ends(),
            17..=18 => self.client_reads(),
            19..=21 => self.log_acts(),
            _ => self.time_passes(),
        }
    }

    fn subscriber_acts(&mut self) {
        let (index, channel) =
            (self.random.usize(..self.subscribers.len()), self.random.usize(..self.channels));
        let mask = self.random.u32(..).to_ne_bytes();
        if self.subscribers[index].link.is_none() {
            if let Some(link) = self.connect() {
                self.subscribers[index].begin(link);
            }
            return;
        }
        let recover = self.random.u8(..) < 200;
        let action = self.random.u8(0..40);
        let subscriber = &mut self.subscribers[index];
        if !subscriber.is_connected {
            return;
        }
        match action {
            0..=27 => subscriber.subscribe(channel, recover, mask),
            28..=33 => subscriber.unsubscribe(channel, mask),
            34..=36 => subscriber.ping(mask),
            37 => {
                let link = subscriber.link.take().unwrap();
                self.cut(&link);
            }
            _ => subscriber.link.as_mut().unwrap().client_done = true,
        }
    }

    fn publisher_acts(&mut self) {
        let (index, channel) =
            (self.random.usize(..self.publishers.len()), self.random.usize(..self.channels));
        if self.publishers[index].link.is_none() {
            if let Some(link) = self.connect() {
                self.publishers[index].begin(link);
            }
            return;
        }
        if self.random.u8(..) < 4 {
            let link = self.publishers[index].link.take().unwrap();
            self.cut(&link);
            return;
        }
        if self.random.bool() {
            self.publishers[index].repeat();
        }
        for _ in 0..self.random.usize(1..6) {
            self.next_content += 1;
            let padding = if self.random.u8(..) < 20 { 1_500 } else { self.random.usize(0..80) };
            let chunked = self.random.bool();
            let keyed = self.random.bool();
            self.publishers[index].publish(channel, self.next_content, padding, chunked, keyed);
        }
    }

    fn connect(&mut self) -> Option<Link> {
        let shard = self.random.usize(..self.shards.len());
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let connection = self.shards[shard].accept(peer).ok()?;
        Some(Link::new(shard, connection))
    }

    /// The client is gone without a word.
    fn cut(&mut self, link: &Link) {
        self.writes.remove(&(link.shard, link.connection));
        self.shards[link.shard].failed(link.connection);
        self.closings(link.shard);
    }

    fn bytes_arrive(&mut self) {
        let which = self.random.usize(..self.subscribers.len() + self.publishers.len());
        let most = match self.random.u8(0..4) {
            0 => 1,
            1 => self.random.usize(1..100),
            _ => 64 * 1024,
        };
        self.deliver(which, most);
    }

    fn deliver(&mut self, which: usize, most: usize) -> bool {
        let subscribers = self.subscribers.len();
        let link = match which.checked_sub(subscribers) {
            None => self.subscribers[which].link.as_mut(),
            Some(index) => self.publishers[index].link.as_mut(),
        };
        let Some(link) = link else { return false };
        let (shard, connection) = (link.shard, link.connection);
        if !link.to_server.is_empty() {
            if !self.shards[shard].may_read(connection) {
                return false;
            }
            let most = most.min(link.to_server.len());
            let mut bytes: Vec<u8> = link.to_server.drain(..most).collect();
            self.shards[shard].received(connection, &mut bytes);
        } else if link.client_done && !link.end_told {
            link.end_told = true;
            self.shards[shard].end_of_input(connection);
        } else {
            return false;
        }
        self.closings(shard);
        true
    }

    fn mail_arrives(&mut self) {
        let shard = self.random.usize(..self.shards.len());
        for _ in 0..self.random.usize(1..6) {
            if let Some(envelope) = self.mailboxes[shard].pop_front() {
                self.shards[shard].apply(envelope);
            }
        }
        self.closings(shard);
    }

    fn shard_turns(&mut self) {
        let shard = self.random.usize(..self.shards.len());
        self.turn(shard);
    }

    fn turn(&mut self, shard: usize) -> bool {
        let mut moved = false;
        while self.shards[shard].next_resumed().is_some() {
            moved = true;
        }
        self.shards[shard].flush();
        while let Some((connection, batch)) = self.shards[shard].next_write() {
            assert!(!batch.is_empty());
            let before = self.writes.insert((shard, connection), batch);
            assert!(before.is_none(), "two writes at a time on one connection");
            moved = true;
        }
        for to in 0..self.shards.len() {
            let (mailbox, most) = (&mut self.mailboxes[to], self.mailbox_max);
            let outbox = self.shards[shard].outbox(ShardId(to as u16)).unwrap();
            let sent = outbox.drain(|mail| {
                if mailbox.len() >= most {
                    return Err(mail);
                }
                mailbox.push_back(Envelope::Mail(mail));
                Ok(())
            });
            moved |= sent > 0;
        }
        let log = &mut self.log;
        self.shards[shard].post_log_calls(|call| log.post(call).inspect(|()| moved = true));
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
            let batch = self.writes.remove(&key).unwrap();
            drop(batch);
            self.shards[shard].failed(connection);
            self.closings(shard);
            return true;
        };
        let room = window.saturating_sub(link.to_client.len()).min(most);
        if room == 0 {
            return false;
        }
        let batch = self.writes.remove(&key).unwrap();
        let bytes: Vec<u8> = batch.segments().concat();
        let taken = room.min(bytes.len());
        self.link(shard, connection).unwrap().to_client.extend(&bytes[..taken]);
        self.shards[shard].written(connection, batch, taken);
        self.closings(shard);
        true
    }

    fn client_reads(&mut self) {
        let which = self.random.usize(..self.subscribers.len() + self.publishers.len());
        let most = if self.random.bool() { self.random.usize(1..300) } else { usize::MAX };
        self.read(which, most);
    }

    fn read(&mut self, which: usize, most: usize) -> bool {
        let subscribers = self.subscribers.len();
        let link = match which.checked_sub(subscribers) {
            None => {
                let subscriber = &mut self.subscribers[which];
                let waiting = subscriber.link.as_ref().map_or(0, |link| link.to_client.len());
                if waiting > 0 {
                    subscriber.read(most, &mut self.oracle, self.may_forget);
                    return true;
                }
                &mut subscriber.link
            }
            Some(index) => {
                let publisher = &mut self.publishers[index];
                let waiting = publisher.link.as_ref().map_or(0, |link| link.to_client.len());
                if waiting > 0 {
                    publisher.read(most, &mut self.oracle);
                    return true;
                }
                &mut publisher.link
            }
        };
        // Everything was read and the server is done: so is the client.
        if let Some(done) = link.take_if(|link| link.server_done) {
            self.cut(&done);
            return true;
        }
        false
    }

    fn time_passes(&mut self) {
        let ticks = if self.random.u8(..) < 3 { 400 } else { self.random.u32(0..3) };
        self.advance(ticks);
    }

    fn advance(&mut self, ticks: u32) {
        self.now = self.now.after(u64::from(ticks) * TICK_MS);
        for shard in 0..self.shards.len() {
            self.shards[shard].advance(self.now);
            self.closings(shard);
        }
    }

    fn closings(&mut self, shard: usize) {
        while let Some(closing) = self.shards[shard].next_closing() {
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
        let subscribers = self.subscribers.iter_mut().filter_map(|s| s.link.as_mut());
        let publishers = self.publishers.iter_mut().filter_map(|p| p.link.as_mut());
        let mut links = subscribers.chain(publishers);
        links.find(|link| link.shard == shard && link.connection == connection)
    }

    /// Lets everything under way arrive.
    fn come_to_rest(&mut self) {
        self.log.is_failing = false;
        for _ in 0..REST_ROUNDS {
            let mut moved = self.log_answers();
            for which in 0..self.subscribers.len() + self.publishers.len() {
                moved |= self.deliver(which, usize::MAX);
                moved |= self.read(which, usize::MAX);
            }
            for shard in 0..self.shards.len() {
                while let Some(envelope) = self.mailboxes[shard].pop_front() {
                    self.shards[shard].apply(envelope);
                    moved = true;
                }
                moved |= self.turn(shard);
            }
            let writes: Vec<_> = self.writes.keys().copied().collect();
            for key in writes {
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

    fn check(&mut self) {
        let mut heads = Vec::new();
        for channel in 0..self.channels {
            let mut fresh = Subscriber::new(self.channels);
            let link = self.connect().expect("room for one more");
            fresh.begin(link);
            self.subscribers.push(fresh);
            self.come_to_rest();
            let last = self.subscribers.len() - 1;
            assert!(self.subscribers[last].is_connected);
            self.subscribers[last].subscribe(channel, false, [1, 2, 3, 4]);
            self.come_to_rest();
            heads.push(self.subscribers[last].live_offset(channel).expect("subscribed"));
        }
        self.oracle.check(&heads);
        for subscriber in &self.subscribers {
            for (channel, &head) in heads.iter().enumerate() {
                if let Some(offset) = subscriber.live_offset(channel) {
                    assert_eq!(offset, head, "messages of channel {channel} did not arrive");
                }
                let state = subscriber.views[channel].state;
                let waits = matches!(state, ViewState::Asked { .. } | ViewState::Leaving);
                assert!(subscriber.link.is_none() || !waits, "{state:?} was never answered");
            }
        }
        for publisher in &self.publishers {
            assert!(publisher.link.is_none() || publisher.waiting() == 0, "an answer is missing");
        }
    }

    /// Everybody leaves, and nothing is left behind.
    fn drain(&mut self) {
        for shard in 0..self.shards.len() {
            self.shards[shard].drain(1_000);
            self.closings(shard);
        }
        for _ in 0..400 {
            self.advance(1);
            self.come_to_rest();
            if self.shards.iter().all(Shard::is_drained) {
                break;
            }
        }
        self.advance(1);
        for shard in &self.shards {
            assert!(shard.is_drained(), "{} connections are left", shard.connection_count());
            let metrics = shard.metrics();
            assert_eq!(metrics.connections.value(), 0);
            assert_eq!(metrics.websocket_connections.value(), 0);
            assert_eq!(metrics.subscriptions.value(), 0);
            assert_eq!(metrics.tail_bytes.value(), 0);
            assert_eq!(metrics.outbox_depth.value(), 0);
        }
    }
}
