//! A node among others: what the cluster's thread does.

mod status;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use bytes::{BufMut as _, Bytes, BytesMut};
use crossbeam_channel::TrySendError;
use futures_util::StreamExt as _;
use pushflo_protocol::answer::NodeNumbers;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, interval, sleep};

use status::Asked;

use super::connection::connect;
use super::deleted_apps::DeletedApps;
use super::demand::{self, Demand};
use super::lending::{Done, Lending, View};
use super::{ClusterPlan, Control, FromCluster, Posted, Queues, ShardWays, owners};
use crate::accounts::{Usages, Want, is_of_accounts};
use crate::bucket::{self, Bucket, BucketPlan, News};
use crate::ids::{AppId, NodeSlot, RequestId, ShardId, SlotId};
use crate::link::{Link, LinkEvent};
use crate::log::jetstream::{Streams, StreamsPlan};
use crate::mail::{ClusterNews, wire};
use crate::shared::Shared;

/// How often a node tells that it is there, and after what silence it is gone.
const BEAT: Duration = Duration::from_millis(500);
const SILENCE: Duration = Duration::from_secs(3);

/// After what silence of NATS a node sends its subscribers away, and within what time.
const GIVEN_UP: Duration = Duration::from_secs(10);
const SEND_AWAY_MS: u64 = 5_000;

/// How often what is due by time is done.
const TICK: Duration = Duration::from_millis(50);

/// How long a node listens to who is there before it takes slots, and before slots move to one that came.
const SETTLE: Duration = Duration::from_secs(2);

/// Slots that move to a better owner with a beat: each is without an owner for a moment.
const MOVES_MAX: usize = 8;

/// How long a node that ends waits for others to take its slots.
const LEAVE: Duration = Duration::from_secs(5);

/// Between two attempts at something that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// Mail that is taken from shards before links are flushed.
const MAIL_AT_A_TIME: usize = 1024;

/// What keys of slots in the bucket begin with.
const SLOT: &str = "slot.";

/// Slots and owners, as they stand in the bucket.
type Claims = Vec<Option<Claim>>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    /// The name of the owner; empty where it was given up.
    owner: String,
    revision: u64,
}

/// What a node tells of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Beat {
    name: String,
    /// When it started: another one of that name is another node.
    incarnation: u64,
    /// It goes away and takes no slots.
    #[serde(default)]
    is_leaving: bool,
    #[serde(flatten)]
    numbers: NodeNumbers,
}

/// Another node.
struct Peer {
    slot: NodeSlot,
    incarnation: u64,
    numbers: NodeNumbers,
    is_leaving: bool,
    heard: Instant,
    is_there: bool,
    link: Link,
    subject: String,
    /// Messages that came and wait for room in mailboxes.
    came: VecDeque<Bytes>,
}

pub(super) struct Node {
    plan: ClusterPlan,
    shared: Arc<Shared>,
    shards: Vec<ShardWays>,
    client: Client,
    bucket: Rc<Bucket>,
    /// News of the bucket that wait for the accounts.
    for_accounts: VecDeque<News>,
    accounts: crossbeam_channel::Sender<News>,
    deleted_apps: DeletedApps,
    lending: Lending,
    demand: Demand,
    usages: Arc<Usages>,
    next_round: Instant,
    asked: Asked,
    streams: Streams,
    incarnation: u64,
    began: Instant,
    peers: BTreeMap<String, Peer>,
    /// The place that was given to a node last.
    last_slot: NodeSlot,
    claims: Claims,
    /// Since when it is clear who is there.
    settled: Instant,
    /// When its own beat came back last.
    own_heard: Instant,
    is_cut_off: bool,
    /// Its subscribers were told to go to a node that is not cut off.
    has_sent_away: bool,
    is_leaving: bool,
    next_beat: Instant,
    /// Slots whose streams were lost to another, and when to try again.
    lost: Rc<RefCell<Vec<SlotId>>>,
    again: Vec<(Instant, SlotId)>,
    /// News that found no room, by shard.
    unposted: Vec<VecDeque<FromCluster>>,
    /// Shards that have sent mail to nodes that cannot be reached.
    undelivered: BTreeSet<(usize, NodeSlot)>,
}

/// What comes from other nodes.
struct Heard {
    beats: Subscriber,
    frames: Subscriber,
    demand: Subscriber,
}

/// What the thread does next.
enum Event {
    Mail(Option<Posted>),
    Call(Option<crate::log::LogCall>),
    Beat(Option<Message>),
    Frame(Option<Message>),
    Demand(Option<Message>),
    News(Option<News>),
    Write(Option<bucket::Write>),
    Want(Option<Want>),
    Lent(Option<Done>),
    Tick,
    Question(Option<RequestId>),
    Control(Control),
}

impl Node {
    /// Joins the cluster and goes on until it is told to stop.
    pub(super) async fn run(
        plan: ClusterPlan,
        shared: Arc<Shared>,
        shards: Vec<ShardWays>,
        accounts: crossbeam_channel::Sender<News>,
        usages: Arc<Usages>,
        now_ms: fn() -> u64,
        mut queues: Queues,
    ) {
        let (mut node, mut heard, mut lent) = tokio::select! {
            node = Self::join(plan, shared, shards, accounts, usages, now_ms) => node,
            _ = until_stop(&mut queues.control) => return,
        };
        let mut news = node.bucket.follow();
        let mut ticks = interval(TICK);
        let (mut stops_at, mut has_accounts) = (None, true);
        loop {
            let event = tokio::select! {
                biased;
                control = queues.control.recv() => Event::Control(control.unwrap_or(Control::Stop)),
                message = heard.beats.next() => Event::Beat(message),
                message = heard.frames.next() => Event::Frame(message),
                message = heard.demand.next() => Event::Demand(message),
                news = news.recv() => Event::News(news),
                write = queues.writes.recv(), if has_accounts => Event::Write(write),
                call = queues.calls.recv() => Event::Call(call),
                posted = queues.mail.recv() => Event::Mail(posted),
                question = queues.questions.recv() => Event::Question(question),
                want = queues.wants.recv() => Event::Want(want),
                done = lent.recv() => Event::Lent(done),
                _ = ticks.tick() => Event::Tick,
            };
            match event {
                Event::Mail(None)
                | Event::Call(None)
                | Event::Beat(None)
                | Event::Frame(None)
                | Event::Demand(None)
                | Event::News(None)
                | Event::Want(None)
                | Event::Lent(None)
                | Event::Question(None) => return,
                Event::Want(Some(want)) => node.want(want),
                Event::Lent(Some(done)) => node.lend(|lending, view| lending.take(done, view)),
                Event::Question(Some(request)) => node.asked.ask(request),
                Event::Mail(Some(posted)) => {
                    node.post(posted);
                    for _ in 1..MAIL_AT_A_TIME {
                        let Ok(posted) = queues.mail.try_recv() else { break };
                        node.post(posted);
                    }
                }
                Event::Call(Some(call)) => node.streams.call(call),
                Event::Beat(Some(message)) => node.beat(&message),
                Event::Frame(Some(message)) => node.frame(&message),
                Event::Demand(Some(message)) => {
                    node.demand.hear(&node.plan.node, &message.payload);
                }
                Event::News(Some(news)) => node.learn(news),
                Event::Write(Some(write)) => node.write(write),
                Event::Write(None) => has_accounts = false,
                Event::Tick => {
                    node.tick().await;
                    if stops_at.is_some_and(|at| at <= Instant::now() || node.has_left()) {
                        let _ = node.client.flush().await;
                        return;
                    }
                }
                Event::Control(Control::Leave) => node.leave().await,
                Event::Control(Control::Stop) => {
                    stops_at = stops_at.or(Some(Instant::now() + LEAVE));
                    node.leave().await;
                }
            }
            node.hand_over();
            node.send_frames().await;
        }
    }

    async fn join(
        plan: ClusterPlan,
        shared: Arc<Shared>,
        shards: Vec<ShardWays>,
        accounts: crossbeam_channel::Sender<News>,
        usages: Arc<Usages>,
        now_ms: fn() -> u64,
    ) -> (Self, Heard, UnboundedReceiver<Done>) {
        let client = connect(&plan).await;
        let bucket = Bucket::open(&client, &BucketPlan::of(&plan)).await;
        let lost: Rc<RefCell<Vec<SlotId>>> = Rc::default();
        let ports = shards.iter().map(|ways| ways.log.clone()).collect();
        let of_streams = StreamsPlan::of(&plan, ports, Arc::clone(&shared.cluster), now_ms);
        let (streams, heard) = loop {
            let for_lost = Rc::clone(&lost);
            let ended = move |slot| for_lost.borrow_mut().push(slot);
            let (client, bucket) = (client.clone(), Rc::clone(&bucket));
            let (plan_of_streams, usages) = (of_streams.clone(), Arc::clone(&usages));
            let streams =
                Streams::new(client.clone(), bucket, plan_of_streams, usages, ended).await;
            let beats = client.subscribe(format!("{}.beat", plan.prefix)).await;
            let frames = client.subscribe(node_subject(&plan.prefix, &plan.node)).await;
            let demand = client.subscribe(demand_subject(&plan.prefix)).await;
            match (streams, beats, frames, demand) {
                (Ok(streams), Ok(beats), Ok(frames), Ok(demand)) => {
                    break (streams, Heard { beats, frames, demand });
                }
                _ => sleep(PAUSE).await,
            }
        };
        let now = Instant::now();
        let unposted = shards.iter().map(|_| VecDeque::new()).collect();
        tracing::info!(node = plan.node, prefix = plan.prefix, "this node is part of the cluster");
        let incarnation = now_ms();
        let lender = lender(&plan.node, incarnation);
        let (lending, lent) = Lending::new(&lender, Rc::clone(&bucket), streams.clone(), now_ms);
        let node = Self {
            plan,
            shared,
            shards,
            client,
            bucket,
            for_accounts: VecDeque::new(),
            accounts,
            deleted_apps: DeletedApps::default(),
            lending,
            demand: Demand::default(),
            usages,
            next_round: now,
            asked: Asked::default(),
            streams,
            incarnation,
            began: now,
            peers: BTreeMap::new(),
            last_slot: NodeSlot::OWN,
            claims: SlotId::all().map(|_| None).collect(),
            settled: now,
            own_heard: now,
            is_cut_off: false,
            has_sent_away: false,
            is_leaving: false,
            next_beat: now,
            lost,
            again: Vec::new(),
            unposted,
            undelivered: BTreeSet::new(),
        };
        (node, heard, lent)
    }

    /// A place that no other node has and that none had for as long as can be.
    fn free_slot(&mut self) -> Option<NodeSlot> {
        let most = NodeSlot::COUNT_MAX as u8 - 2;
        for _ in 0..most {
            self.last_slot = NodeSlot(self.last_slot.0 % most + 1);
            if self.peers.values().all(|peer| peer.slot != self.last_slot) {
                return Some(self.last_slot);
            }
        }
        None
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Mail of a shard of this node for one of another.
    fn post(&mut self, posted: Posted) {
        let Posted { from, to, mail } = posted;
        let now_ms = self.now_ms();
        let peer = self.peers.values_mut().find(|peer| peer.slot == to.node());
        let is_sent = peer.filter(|peer| peer.link.is_up()).is_some_and(|peer| {
            let bytes = wire::encode(peer.slot, from, to, mail);
            bytes.is_some_and(|bytes| {
                self.shared.cluster.cluster_mail_total.increment();
                peer.link.send(&bytes.into(), now_ms);
                true
            })
        });
        if !is_sent {
            self.undelivered.insert((from.index(), to.node()));
        }
    }

    /// A node tells that it is there.
    fn beat(&mut self, message: &Message) {
        let Ok(beat) = serde_json::from_slice::<Beat>(&message.payload) else { return };
        let now = Instant::now();
        if beat.name == self.plan.node {
            if beat.incarnation == self.incarnation {
                self.own_heard = now;
                if let Some(owners) = self.shared.owners.as_ref().filter(|_| !self.is_cut_off) {
                    owners.set_reached(true);
                }
            } else if beat.incarnation > self.incarnation {
                tracing::error!(
                    node = beat.name,
                    "another node has this name: give each its own with cluster.node"
                );
            }
            return;
        }
        let now_ms = self.now_ms();
        let session = (self.incarnation << 16).max(1);
        let is_known = self.peers.contains_key(&beat.name);
        let free = if is_known { None } else { self.free_slot() };
        if !is_known && free.is_none() {
            return tracing::error!(
                node = beat.name,
                "the cluster has more nodes than are possible"
            );
        }
        let peer = self.peers.entry(beat.name.clone()).or_insert_with(|| Peer {
            slot: free.unwrap_or_default(),
            incarnation: beat.incarnation,
            numbers: NodeNumbers::default(),
            is_leaving: false,
            heard: now,
            is_there: false,
            link: Link::new(session, now_ms),
            subject: node_subject(&self.plan.prefix, &beat.name),
            came: VecDeque::new(),
        });
        if beat.incarnation < peer.incarnation {
            return;
        }
        let has_changed = !peer.is_there
            || peer.incarnation != beat.incarnation
            || peer.numbers.shards != beat.numbers.shards
            || peer.is_leaving != beat.is_leaving;
        peer.heard = now;
        peer.numbers = beat.numbers;
        if has_changed {
            let (node, shards) = (&beat.name, peer.numbers.shards);
            tracing::info!(node, shards, is_leaving = beat.is_leaving, "a node is there");
            peer.incarnation = beat.incarnation;
            (peer.is_leaving, peer.is_there) = (beat.is_leaving, true);
            self.settled = now;
            self.point_all();
        }
    }

    /// A frame of a link: the name of its sender, and the frame.
    fn frame(&mut self, message: &Message) {
        let mut bytes = message.payload.clone();
        let Some(&length) = bytes.first() else { return };
        if bytes.len() < 1 + usize::from(length) {
            return;
        }
        let name = bytes.split_to(1 + usize::from(length));
        let name = name.get(1..).and_then(|name| str::from_utf8(name).ok());
        let now_ms = self.now_ms();
        let Some(peer) = name.and_then(|name| self.peers.get_mut(name)) else { return };
        peer.link.receive(&bytes, now_ms);
    }

    /// What links have brought goes to the shards, as far as they have room.
    fn hand_over(&mut self) {
        let mut gone = Vec::new();
        for (name, peer) in &mut self.peers {
            while let Some(event) = peer.link.next_event() {
                match event {
                    LinkEvent::Up => tracing::info!(node = name, "the link to a node is up"),
                    LinkEvent::Message(message) => peer.came.push_back(message),
                    LinkEvent::Down => {
                        self.shared.cluster.cluster_links_lost_total.increment();
                        tracing::warn!(node = name, "the link to a node is down");
                        peer.came.clear();
                        gone.push(peer.slot);
                    }
                }
            }
        }
        if !gone.is_empty() {
            // What comes for it later is for what it was before, as an answer to a question that was given up.
            for slot in &gone {
                let free = self.free_slot();
                let peer = self.peers.values_mut().find(|peer| peer.slot == *slot);
                if let (Some(peer), Some(free)) = (peer, free) {
                    peer.slot = free;
                }
            }
            gone.into_iter().for_each(|slot| self.tell_all(ClusterNews::NodeGone(slot)));
            self.point_all();
        }
        for (shard, node) in std::mem::take(&mut self.undelivered) {
            self.tell(shard, FromCluster::News(ClusterNews::NodeGone(node)));
        }
        for shard in 0..self.shards.len() {
            self.tell_on(shard);
        }
        let shards = &self.shards;
        let unposted = &mut self.unposted;
        for peer in self.peers.values_mut() {
            let mut taken = 0;
            while let Some(message) = peer.came.front() {
                let decoded = wire::decode(peer.slot, shards.len(), message);
                let Some((from, to, mail)) = decoded else {
                    tracing::error!(
                        "mail of another node cannot be read: is it of another version?"
                    );
                    peer.came.pop_front();
                    taken += 1;
                    continue;
                };
                let at = to.index();
                let (Some(ways), Some(before)) = (shards.get(at), unposted.get_mut(at)) else {
                    break;
                };
                // Behind what was to be told before.
                if !before.is_empty() || (ways.inlet)(FromCluster::Mail(from, mail)).is_err() {
                    break;
                }
                peer.came.pop_front();
                taken += 1;
            }
            if taken > 0 {
                peer.link.taken(taken);
            }
        }
    }

    fn tell_all(&mut self, news: ClusterNews) {
        for shard in 0..self.shards.len() {
            self.tell(shard, FromCluster::News(news));
        }
    }

    fn tell(&mut self, shard: usize, news: FromCluster) {
        if let Some(unposted) = self.unposted.get_mut(shard) {
            unposted.push_back(news);
        }
        self.tell_on(shard);
    }

    /// Tells a shard what found no room before.
    fn tell_on(&mut self, shard: usize) {
        let (Some(ways), Some(unposted)) = (self.shards.get(shard), self.unposted.get_mut(shard))
        else {
            return;
        };
        while let Some(news) = unposted.pop_front() {
            if let Err(news) = (ways.inlet)(news) {
                return unposted.push_front(news);
            }
        }
    }

    async fn send_frames(&mut self) {
        let now_ms = self.now_ms();
        let name = self.plan.node.as_bytes();
        for peer in self.peers.values_mut().filter(|peer| peer.is_there) {
            peer.link.flush(now_ms);
            while let Some(frame) = peer.link.next_frame() {
                let mut bytes = BytesMut::with_capacity(1 + name.len() + frame.len());
                bytes.put_u8(name.len() as u8);
                bytes.put_slice(name);
                bytes.put_slice(&frame);
                // What is lost is sent again.
                let _ = self.client.publish(peer.subject.clone(), bytes.freeze()).await;
            }
        }
    }

    /// Something in the bucket has changed.
    fn learn(&mut self, news: News) {
        self.streams.learn(&news);
        self.deleted_apps.learn(&news);
        self.lend(|lending, view| lending.learn(&news, view));
        match &news {
            News::Entry(entry) => {
                if let Some(slot) = slot_of(&entry.key) {
                    self.claimed(slot, entry);
                }
                self.bucket.take_in(entry.revision);
                if !is_of_accounts(&entry.key) {
                    return;
                }
            }
            News::Begin | News::Complete => {}
        }
        self.for_accounts.push_back(news);
        self.tell_accounts();
    }

    /// Tells the accounts what found no room before: at most all that is the accounts' in the bucket.
    fn tell_accounts(&mut self) {
        while let Some(news) = self.for_accounts.pop_front() {
            if let Err(TrySendError::Full(news)) = self.accounts.try_send(news) {
                return self.for_accounts.push_front(news);
            }
        }
    }

    /// A shard wants some of what an app's plan limits.
    fn want(&mut self, want: Want) {
        let app = want.app;
        self.lend(|lending, view| lending.want(want, view).then_some(app));
    }

    /// Goes on with what nodes lend each other, and has shards try again that wait for some of it.
    fn lend(&mut self, act: impl FnOnce(&mut Lending, &View<'_>) -> Option<AppId>) {
        let (peers, own) = (&self.peers, &self.plan.node);
        let now = Instant::now();
        let silence = |lender: &str| {
            let (name, began) = lender.split_once(':')?;
            if name == own {
                // A process before this one.
                return Some(Duration::MAX);
            }
            let peer = peers.get(name)?;
            let is_it = peer.incarnation.to_string() == began;
            Some(if is_it { now.duration_since(peer.heard) } else { Duration::MAX })
        };
        let view = View { silence: &silence, is_cut_off: self.is_cut_off };
        if let Some(app) = act(&mut self.lending, &view) {
            self.tell_all(ClusterNews::Lent(app));
        }
    }

    /// Changes an entry of the accounts.
    fn write(&self, write: bucket::Write) {
        let bucket = Rc::clone(&self.bucket);
        tokio::task::spawn_local(async move {
            let bucket::Write { entry, done } = write;
            let written = bucket.write(&entry.key, entry.value, entry.revision).await;
            // Whoever does not wait any more does not want to know.
            let _ = done.try_send(written);
        });
    }

    /// What the bucket says of a slot.
    fn claimed(&mut self, slot: SlotId, entry: &bucket::Entry) {
        let owner = entry.value.as_deref().unwrap_or_default();
        let owner = String::from_utf8_lossy(owner).into_owned();
        let Some(claim) = self.claims.get_mut(slot.index()) else { return };
        if claim.as_ref().is_some_and(|claim| claim.revision >= entry.revision) {
            return;
        }
        *claim = Some(Claim { owner, revision: entry.revision });
        self.point(slot);
    }

    fn point_all(&mut self) {
        SlotId::all().for_each(|slot| self.point(slot));
    }

    /// Has mail for a slot go to its owner, and its stream be this node's or not.
    fn point(&mut self, slot: SlotId) {
        let claim = self.claims.get(slot.index()).and_then(Option::as_ref);
        let owner = claim.map_or("", |claim| &*claim.owner);
        let is_own = owner == self.plan.node && !self.is_cut_off;
        let shard = match self.peers.get(owner) {
            _ if is_own => ShardId::of(NodeSlot::OWN, self.streams.shard(slot) as u16),
            Some(peer) if peer.is_there && peer.numbers.shards > 0 => {
                ShardId::of(peer.slot, slot.index() as u16 % peer.numbers.shards)
            }
            _ => ShardId::NOBODY,
        };
        match is_own {
            true => self.streams.take_over(slot),
            false => self.streams.release(slot),
        }
        let Some(known) = &self.shared.owners else { return };
        if known.of(slot) != shard {
            known.set(slot, shard);
            self.tell_all(ClusterNews::SlotMoved(slot));
        }
    }

    async fn tick(&mut self) {
        let (now, now_ms) = (Instant::now(), self.now_ms());
        self.tell_accounts();
        self.answer_questions();
        self.streams.write_counts();
        let mut woken = Vec::new();
        self.lend(|lending, view| {
            woken = lending.tick(view);
            None
        });
        woken.into_iter().for_each(|app| self.tell_all(ClusterNews::Lent(app)));
        for peer in self.peers.values_mut() {
            peer.link.tick(now_ms);
        }
        for slot in self.lost.take() {
            // Not at once: the other may be the one who is to have it.
            let pause = PAUSE + Duration::from_millis(fastrand::u64(..1_000));
            self.again.push((now + pause, slot));
        }
        let (due, later) =
            std::mem::take(&mut self.again).into_iter().partition(|(at, _)| *at <= now);
        self.again = later;
        let due: Vec<(Instant, SlotId)> = due;
        for (_, slot) in due {
            self.point(slot);
        }
        if now < self.next_beat {
            return;
        }
        self.next_beat = now + BEAT;
        self.tell_metrics();
        self.tell_others().await;
        if now >= self.next_round {
            self.next_round = now + demand::ROUND;
            self.tell_demand().await;
        }
        self.look_for_the_silent(now);
        if !self.is_cut_off && now.duration_since(self.began) > SETTLE {
            self.share_slots(now).await;
            let first = self.claims.first().and_then(Option::as_ref);
            if first.is_some_and(|claim| claim.owner == self.plan.node) {
                self.deleted_apps.go_on(&self.bucket, &self.streams);
            }
        }
    }

    async fn tell_others(&self) {
        let beat = Beat {
            name: self.plan.node.clone(),
            incarnation: self.incarnation,
            is_leaving: self.is_leaving,
            numbers: self.numbers(),
        };
        let beat = serde_json::to_vec(&beat).unwrap_or_default();
        let _ = self.client.publish(format!("{}.beat", self.plan.prefix), beat.into()).await;
    }

    fn look_for_the_silent(&mut self, now: Instant) {
        let mut has_changed = false;
        for (name, peer) in &mut self.peers {
            if peer.is_there && now.duration_since(peer.heard) > SILENCE {
                tracing::warn!(node = name, "a node is not heard any more");
                peer.is_there = false;
                has_changed = true;
            }
        }
        let silence = now.duration_since(self.own_heard);
        if silence > GIVEN_UP && !std::mem::replace(&mut self.has_sent_away, true) {
            self.tell_all(ClusterNews::CutOff(SEND_AWAY_MS));
        }
        let is_cut_off = silence > SILENCE;
        if is_cut_off != self.is_cut_off {
            self.is_cut_off = is_cut_off;
            self.has_sent_away &= is_cut_off;
            if let Some(owners) = &self.shared.owners {
                owners.set_reached(!is_cut_off);
            }
            has_changed = true;
            match is_cut_off {
                true => tracing::error!(
                    "NATS cannot be reached: this node owns nothing until it is back"
                ),
                false => {
                    tracing::info!("NATS is back");
                    // What was deleted meanwhile may be told of no more.
                    self.bucket.follow_anew();
                }
            }
        }
        if has_changed {
            self.settled = now;
            self.point_all();
        }
    }

    /// Tells what apps do here, and has them know what they do elsewhere.
    async fn tell_demand(&mut self) {
        for (name, peer) in &self.peers {
            if !peer.is_there {
                self.demand.forget(name);
            }
        }
        for message in self.demand.tell(&self.plan.node, &self.usages) {
            // What is lost is told again in a moment.
            let subject = demand_subject(&self.plan.prefix);
            let _ = self.client.publish(subject, message.into()).await;
        }
        self.demand.apply(&self.usages);
    }

    /// Takes slots that nobody has, and gives slots to those who are to have them.
    async fn share_slots(&mut self, now: Instant) {
        let is_calm = now.duration_since(self.settled) > SETTLE;
        let mut moves = MOVES_MAX;
        let there = self.peers.iter().filter(|(_, peer)| peer.is_there && !peer.is_leaving);
        let others = there.map(|(name, _)| name.as_str());
        let own = (!self.is_leaving).then_some(self.plan.node.as_str());
        let nodes: Vec<&str> = others.chain(own).collect();
        if nodes.is_empty() {
            return;
        }
        for (slot, wanted) in SlotId::all().zip(owners::owners(&nodes)) {
            let claim = self.claims.get(slot.index()).cloned().flatten();
            let owner = claim.as_ref().map_or("", |claim| &*claim.owner);
            let is_owned =
                owner == self.plan.node || self.peers.get(owner).is_some_and(|peer| peer.is_there);
            let is_to_take = !is_owned && wanted == self.plan.node;
            let is_to_give = owner == self.plan.node
                && wanted != self.plan.node
                && (is_calm || self.is_leaving)
                && moves > 0;
            if !is_to_take && !is_to_give {
                continue;
            }
            if is_to_give && !self.is_leaving {
                moves -= 1;
            }
            self.claim(slot, claim, wanted).await;
        }
    }

    /// Writes who owns a slot, unless somebody else has written since.
    async fn claim(&mut self, slot: SlotId, before: Option<Claim>, owner: String) {
        let (key, value) = (format!("{SLOT}{slot}"), Bytes::from(owner.clone()));
        let before = before.map_or(0, |claim| claim.revision);
        // Where it failed, the bucket tells why.
        let Ok(revision) = self.bucket.write(&key, Some(value), before).await else { return };
        if let Some(claim) = self.claims.get_mut(slot.index())
            && claim.as_ref().is_none_or(|claim| claim.revision < revision)
        {
            *claim = Some(Claim { owner, revision });
            self.point(slot);
        }
    }

    /// Gives all slots to others, who take them at once.
    async fn leave(&mut self) {
        if std::mem::replace(&mut self.is_leaving, true) {
            return;
        }
        self.tell_others().await;
        self.share_slots(Instant::now()).await;
        self.lending.leave().await;
    }

    /// Whether nothing is left to give, or nobody to give it to.
    fn has_left(&self) -> bool {
        let is_own = |claim: &&Option<Claim>| {
            claim.as_ref().is_some_and(|claim| claim.owner == self.plan.node)
        };
        let is_alone = !self.peers.values().any(|peer| peer.is_there && !peer.is_leaving);
        is_alone || self.is_cut_off || !self.claims.iter().any(|claim| is_own(&claim))
    }
}

/// Waits until it is to end: before it is part of the cluster, it has nothing to leave.
async fn until_stop(control: &mut tokio::sync::mpsc::Receiver<Control>) {
    while control.recv().await.is_some_and(|control| control != Control::Stop) {}
}

/// The slot of an entry of the bucket that tells who owns it.
fn slot_of(key: &str) -> Option<SlotId> {
    let number = key.strip_prefix(SLOT)?.parse().ok();
    number.filter(|number| *number < SlotId::COUNT).map(SlotId)
}

/// Where all nodes tell what apps do on them.
fn demand_subject(prefix: &str) -> String {
    format!("{prefix}.usage")
}

/// What a process of a node is called where nodes lend each other something.
fn lender(node: &str, incarnation: u64) -> String {
    format!("{node}:{incarnation}")
}

/// Where frames for a node go.
fn node_subject(prefix: &str, node: &str) -> String {
    format!("{prefix}.node.{node}")
}
