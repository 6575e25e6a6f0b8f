//! A node among others: what the cluster's thread does.

mod peers;
mod slots;
mod status;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use crossbeam_channel::TrySendError;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::unconstrained;
use tokio::time::{Instant, interval, sleep};

use peers::Peer;
use slots::{Claims, SETTLE, slot_of};
use status::Asked;

use super::connection::connect;
use super::deleted_apps::DeletedApps;
use super::demand::{self, Demand};
use super::lending::{Done, Lending, View};
use super::{ClusterPlan, Control, FromCluster, Posted, Queues, ShardWays};
use crate::accounts::{Usages, Want, is_of_accounts};
use crate::bucket::{self, Bucket, BucketPlan, News};
use crate::ids::{AppId, NodeSlot, RequestId, SlotId};
use crate::log::jetstream::{Streams, StreamsPlan};
use crate::mail::ClusterNews;
use crate::shared::Shared;

/// How often a node tells that it is there.
const BEAT: Duration = Duration::from_millis(500);

/// How often what is due by time is done.
const TICK: Duration = Duration::from_millis(50);

/// How long a node that ends waits for others to take its slots.
const LEAVE: Duration = Duration::from_secs(5);

/// Between two attempts at something that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// Mail that is taken from shards before links are flushed.
const MAIL_AT_A_TIME: usize = 1024;

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
    /// Slots whose owners are being written.
    claiming: Rc<RefCell<BTreeSet<SlotId>>>,
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
                    node.tick();
                    if stops_at.is_some_and(|at| at <= Instant::now() || node.has_left()) {
                        let _ = node.client.flush().await;
                        return;
                    }
                }
                Event::Control(Control::Leave) => node.leave(),
                Event::Control(Control::Stop) => {
                    stops_at = stops_at.or(Some(Instant::now() + LEAVE));
                    node.leave();
                }
            }
            node.hand_over();
            node.send_frames();
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
            let counted = Box::new(move |app, month, messages| {
                if let Some(usage) = usages.of(app) {
                    usage.set_messages(month, messages);
                }
            });
            let streams =
                Streams::new(client.clone(), bucket, plan_of_streams, counted, ended).await;
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
            claiming: Rc::default(),
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

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
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
        let (is_cut_off, has_given_up) = (self.is_cut_off, self.has_sent_away);
        let view = View { silence: &silence, is_cut_off, has_given_up };
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

    fn tick(&mut self) {
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
        self.tell_others();
        if now >= self.next_round {
            self.next_round = now + demand::ROUND;
            self.tell_demand();
        }
        self.look_for_the_silent(now);
        if !self.is_cut_off && now.duration_since(self.began) > SETTLE {
            self.share_slots(now);
            let first = self.claims.first().and_then(Option::as_ref);
            if first.is_some_and(|claim| claim.owner == self.plan.node) {
                self.deleted_apps.go_on(&self.bucket, &self.streams);
            }
        }
    }

    /// Tells what apps do here, and has them know what they do elsewhere.
    fn tell_demand(&mut self) {
        for (name, peer) in &self.peers {
            if !peer.is_there {
                self.demand.forget(name);
            }
        }
        for message in self.demand.tell(&self.plan.node, &self.usages) {
            // What is lost is told again in a moment.
            let subject = demand_subject(&self.plan.prefix);
            try_publish(&self.client, subject, message.into());
        }
        self.demand.apply(&self.usages);
    }
}

/// Waits until it is to end: before it is part of the cluster, it has nothing to leave.
async fn until_stop(control: &mut tokio::sync::mpsc::Receiver<Control>) {
    while control.recv().await.is_some_and(|control| control != Control::Stop) {}
}

/// Where all nodes tell what apps do on them.
fn demand_subject(prefix: &str) -> String {
    format!("{prefix}.usage")
}

/// What a process of a node is called where nodes lend each other something.
fn lender(node: &str, incarnation: u64) -> String {
    format!("{node}:{incarnation}")
}

/// Sends something that may be lost, if there is room for it: whoever waited for a NATS server that does not read
/// would do nothing else meanwhile.
fn try_publish(client: &Client, subject: String, payload: Bytes) {
    let _ = unconstrained(client.publish(subject, payload)).now_or_never();
}

/// Where frames for a node go.
fn node_subject(prefix: &str, node: &str) -> String {
    format!("{prefix}.node.{node}")
}
