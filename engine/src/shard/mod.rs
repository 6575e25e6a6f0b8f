//! The core of a shard: a state machine without I/O, clock or randomness of its own.
//!
//! Bytes, envelopes and time come in through [`Shard::received`], [`Shard::apply`] and
//! [`Shard::advance`]; writes, envelopes and closings are asked for with [`Shard::next_write`],
//! [`Shard::outbox`] and [`Shard::next_closing`]. The same calls in the same order give the same
//! results, which is what lets a simulation replay a run from its seed.
//!
//! * `home`: channels whose home is here
//! * `publish`, `join`: their offsets, who gets what, who comes from where
//! * `channels`, `presence`, `idempotency`: their metadata, their members, who publishes twice
//! * `apps`: apps that change or go
//! * `subscribe`: subscriptions of this shard's connections
//! * `stored`: what it begins with
//! * `logging`: messages on their way to the log, and reads of it
//! * `tail`, `batch`, `flush`: recent frames, cursors, one write per connection and turn
//! * `timer`, `drain`: time-outs, leaving in good order
//!
//! What connections say is handled in [`crate::connection`] and [`crate::ingress`].

mod apps;
mod batch;
mod channels;
mod drain;
mod envelope;
mod flush;
mod home;
mod id;
mod idempotency;
mod join;
mod logging;
mod outbox;
mod presence;
mod proxies;
mod publish;
mod settings;
mod share;
mod stored;
mod subscribe;
mod subscription;
mod tail;
mod timer;

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use pushflo_protocol::time::Month;
use pushflo_protocol::{ChannelSlug, Refusal};
use slotmap::SlotMap;

pub use batch::Batch;
pub use envelope::{
    AnswerAfterAll, Asker, BatchRequest, BatchResults, ChannelCall, ChannelChange, ChannelKey,
    ChannelRequest, DescribeRequest, Descriptions, Envelope, ListRequest, NewMessage, Outcome,
    PublishRequest, ReplyTo, RequestId, StoredMeta, Subscribed,
};
pub use id::{
    BatchKey, ConnectionKey, HomeKey, ListKey, ReadKey, ShardId, SubscriptionKey, TailKey,
};
pub use outbox::Outbox;
pub use proxies::{Network, ProxyProtocol, TrustedProxies};
pub(crate) use publish::{Draft, no_room};
pub use settings::{AddressSlot, AllowedOrigins, EpochSlot, Settings, Shared};
pub use stored::Stored;
pub(crate) use subscribe::over_rate;

use crate::auth::{AppId, CHANGES_PER_SECOND_MAX, ClerkCall, Directory, Rate};
use crate::clock::Now;
use crate::connection::Connection;
use crate::hash::HashMap;
use crate::history::Recent;
use crate::ingress::{PendingBatch, PendingList};
use crate::metrics::ShardMetrics;
use drain::Drain;
use home::HomeChannel;
use idempotency::Idempotency;
use logging::Logging;
use subscription::Subscription;
use tail::Tail;
use timer::TimerWheel;

/// One shard.
#[derive(Debug)]
pub struct Shard {
    pub(crate) id: ShardId,
    pub(crate) settings: Arc<Settings>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) now: Now,
    pub(crate) connections: SlotMap<ConnectionKey, Connection>,
    pub(crate) random: fastrand::Rng,
    subscriptions: SlotMap<SubscriptionKey, Subscription>,
    tails: SlotMap<TailKey, Tail>,
    tail_of: HashMap<ChannelKey, TailKey>,
    homes: SlotMap<HomeKey, HomeChannel>,
    home_of: HashMap<ChannelKey, HomeKey>,
    /// The slugs of `home_of` by app, in order.
    slugs: HashMap<AppId, BTreeSet<ChannelSlug>>,
    /// Home channels to be looked at for being forgotten, the next one last.
    old_homes: Vec<HomeKey>,
    /// Home channels whose presence has something to tell, now or later.
    presences: Vec<HomeKey>,
    idempotency: Idempotency,
    /// Apps and keys.
    pub(crate) directory: Directory,
    /// Calls that were not handed over to the clerk yet, urgent ones first, at most [`CLERK_CALLS_MAX`]
    /// of either kind.
    clerk_calls: VecDeque<ClerkCall>,
    /// Wrong keys by address, in slots.
    pub(crate) wrong_keys: Box<[Rate]>,
    /// The month that messages are counted in.
    month: Month,
    recent: Recent,
    logging: Logging,
    /// Envelopes from this shard to itself, applied before the current call returns.
    local: VecDeque<Envelope>,
    outboxes: Vec<Outbox>,
    /// Batches of publishes that wait for results of other shards.
    pub(crate) batches: SlotMap<BatchKey, PendingBatch>,
    /// Lists of channels that wait for other shards.
    pub(crate) lists: SlotMap<ListKey, PendingList>,
    /// Results for batches of other shards that go back when this call returns.
    batch_results: Vec<(ShardId, BatchKey, BatchResults)>,
    /// Tails with something new.
    dirty: Vec<TailKey>,
    /// Connections with something to write and no write in flight.
    due: VecDeque<ConnectionKey>,
    pub(crate) closings: VecDeque<Closing>,
    /// Connections whose bytes may be read again.
    pub(crate) resumed: Vec<ConnectionKey>,
    wheel: TimerWheel,
    drain: Option<Drain>,
    /// The `Date` header's value, and the second it is for.
    date: (u64, String),
}

/// Most urgent calls, and most others, that wait for room at the clerk; those of connections that are
/// gone wait too.
const CLERK_CALLS_MAX: usize = 1024;

/// Slots for addresses that came with wrong keys; addresses that fall on one share its rate.
const WRONG_KEY_SLOTS: usize = 4096;

/// What is to be done to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Send FIN; what the peer still sends is read and dropped.
    HalfClose(ConnectionKey),
    /// Close it, at once and for good. The connection is forgotten already.
    Close(ConnectionKey),
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many connections as the server takes.
    Full,
    /// As many connections as one address may have.
    Address,
    /// The server is going away.
    Draining,
}

impl Shard {
    /// A shard without connections. `seed` decides everything that is random in it.
    pub fn new(
        id: ShardId,
        settings: Arc<Settings>,
        shared: Arc<Shared>,
        seed: u64,
        now: Now,
    ) -> Self {
        let outboxes = (0..shared.metrics.len()).map(|_| Outbox::default()).collect();
        Self {
            id,
            now,
            connections: SlotMap::with_key(),
            random: fastrand::Rng::with_seed(seed),
            subscriptions: SlotMap::with_key(),
            tails: SlotMap::with_key(),
            tail_of: HashMap::default(),
            homes: SlotMap::with_key(),
            home_of: HashMap::default(),
            slugs: HashMap::default(),
            old_homes: Vec::new(),
            presences: Vec::new(),
            idempotency: Idempotency::new(settings.limits.idempotency_keys_max),
            directory: Directory::default(),
            clerk_calls: VecDeque::new(),
            wrong_keys: (0..WRONG_KEY_SLOTS).map(|_| Rate::default()).collect(),
            month: Month::of(now.steady_ms),
            recent: Recent::new(settings.history.recent_bytes_max),
            logging: Logging::default(),
            local: VecDeque::new(),
            outboxes,
            batches: SlotMap::with_key(),
            lists: SlotMap::with_key(),
            batch_results: Vec::new(),
            dirty: Vec::new(),
            due: VecDeque::new(),
            closings: VecDeque::new(),
            resumed: Vec::new(),
            wheel: TimerWheel::new(now.tick),
            drain: None,
            date: (u64::MAX, String::new()),
            settings,
            shared,
        }
    }

    /// Tells the time. What is due by then waits for [`Shard::advance`].
    pub fn tell_time(&mut self, now: Now) {
        let is_new_tick = now.tick != self.now.tick;
        self.now = now;
        if is_new_tick {
            self.month = Month::of(now.steady_ms);
        }
    }

    /// Tells the time and does what is due by then. To be called when everything that came before
    /// was handed in: a time-out must not overtake what it waits for.
    pub fn advance(&mut self, now: Now) {
        self.tell_time(now);
        if self.wheel.tick() >= now.tick {
            return;
        }
        while let Some((tick, connections)) = self.wheel.advance(now.tick) {
            for connection in connections {
                let c = self.connections.get_mut(connection);
                if let Some(c) = c.filter(|c| c.timer_tick == tick) {
                    c.timer_tick = u32::MAX;
                    self.connection_timeout(connection);
                }
            }
        }
        self.recent.expire(now.steady_ms);
        self.idempotency.expire(now.elapsed_ms);
        self.forget_expired();
        self.retry_deletes();
        self.tell_presence();
        self.continue_drain();
        self.settle();
        self.update_gauges();
    }

    /// Takes a connection from `peer`.
    ///
    /// # Errors
    /// [`Refused`] says which limit is reached; the socket is to be closed.
    pub fn accept(&mut self, peer: IpAddr) -> Result<ConnectionKey, Refused> {
        if self.drain.is_some() {
            return Err(Refused::Draining);
        }
        let is_proxy = self.settings.proxies.trusts(peer);
        let slot = (!is_proxy).then(|| self.shared.address_slot(peer));
        self.shared.admit(slot, &self.settings.limits).inspect_err(|_| {
            self.metrics().connections_refused_total.increment();
        })?;
        let proxy = is_proxy.then_some(self.settings.proxies.protocol);
        let connection = self.connections.insert(Connection::new(slot, proxy, self.now.tick));
        self.metrics().connections.increment();
        self.metrics().connections_accepted_total.increment();
        self.arm(connection, self.settings.timeouts.head);
        Ok(connection)
    }

    /// Bytes came from a connection. `bytes` is scratch space: frames are unmasked in it.
    pub fn received(&mut self, connection: ConnectionKey, bytes: &mut [u8]) {
        self.metrics().bytes_received_total.add(bytes.len() as u64);
        if let Some(c) = self.connections.get_mut(connection) {
            c.is_heard = true;
        }
        self.read_connection(connection, bytes);
        self.settle();
    }

    /// The peer sends nothing more.
    pub fn end_of_input(&mut self, connection: ConnectionKey) {
        self.input_ended(connection);
        self.settle();
    }

    /// The socket failed.
    pub fn failed(&mut self, connection: ConnectionKey) {
        self.forget_connection(connection);
        self.settle();
    }

    /// Whether bytes of a connection may be read now. If not, [`Shard::next_resumed`] tells when.
    pub fn may_read(&mut self, connection: ConnectionKey) -> bool {
        let limits = &self.settings.limits;
        self.connections.get_mut(connection).is_some_and(|c| c.may_read(limits))
    }

    /// Whether nothing was heard from a connection yet, so that it can wait its turn.
    pub fn is_newcomer(&self, connection: ConnectionKey) -> bool {
        self.connections.get(connection).is_some_and(|c| !c.is_heard)
    }

    /// A connection whose bytes are wanted again. Those that it already has are read first.
    pub fn next_resumed(&mut self) -> Option<ConnectionKey> {
        let connection = self.resumed.pop()?;
        self.resume(connection);
        self.settle();
        Some(connection)
    }

    /// Whether [`Shard::next_resumed`] has one.
    pub fn has_resumed(&self) -> bool {
        !self.resumed.is_empty()
    }

    /// An envelope from another shard.
    pub fn apply(&mut self, envelope: Envelope) {
        self.apply_one(envelope);
        self.settle();
    }

    /// What waits to go to another shard.
    pub fn outbox(&mut self, to: ShardId) -> Option<&mut Outbox> {
        self.outboxes.get_mut(to.index())
    }

    /// What is to be done to sockets.
    pub fn next_closing(&mut self) -> Option<Closing> {
        self.closings.pop_front()
    }

    /// How many connections there are.
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// This shard's numbers.
    pub fn metrics(&self) -> &ShardMetrics {
        self.shared.metrics.get(self.id.index()).unwrap_or(&self.shared.stray)
    }

    /// All shards.
    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.outboxes.len()).map(|index| ShardId(index as u16))
    }

    /// The shard that gives a channel's offsets.
    pub(crate) fn home_shard(&self, channel: &ChannelKey) -> ShardId {
        self.shared.home_shard(channel)
    }

    /// Whether a publish that needs the way to `shard` must be refused.
    pub(crate) fn is_way_full(&self, shard: ShardId) -> bool {
        let outbox = self.outboxes.get(shard.index());
        shard != self.id && outbox.is_none_or(|outbox| outbox.is_full(&self.settings.limits))
    }

    /// Sends an envelope, also to this shard itself.
    pub(crate) fn post(&mut self, to: ShardId, envelope: Envelope) {
        if to == self.id {
            self.local.push_back(envelope);
        } else if let Some(outbox) = self.outboxes.get_mut(to.index()) {
            outbox.push(envelope);
        }
    }

    /// Hands calls over to the clerk, as far as `post` takes them. Returns whether some are left.
    pub fn post_clerk_calls(
        &mut self,
        mut post: impl FnMut(ClerkCall) -> Result<(), ClerkCall>,
    ) -> bool {
        while let Some(call) = self.clerk_calls.pop_front() {
            if let Err(call) = post(call) {
                self.clerk_calls.push_front(call);
                break;
            }
        }
        !self.clerk_calls.is_empty()
    }

    /// Has the clerk change something in the name of an app.
    ///
    /// # Errors
    /// `OVERLOADED` where too much waits for it, `RATE_LIMITED` where the app asks too often; nothing
    /// is changed then.
    pub(crate) fn ask_clerk(&mut self, app: AppId, call: ClerkCall) -> Result<(), Refusal> {
        let usage = &self.directory.require(app)?.usage;
        if let Err(wait_ms) = usage.take_change(self.now.elapsed_ms) {
            let text = format!("an app may ask for {CHANGES_PER_SECOND_MAX} changes a second");
            return Err(over_rate("changesPerSecond", wait_ms, text));
        }
        // Urgent ones stand before the others and have room of their own.
        let urgent = self.clerk_calls.iter().take_while(|call| call.is_urgent()).count();
        let (at, waiting) = match call.is_urgent() {
            true => (urgent, urgent),
            false => (self.clerk_calls.len(), self.clerk_calls.len() - urgent),
        };
        if waiting >= CLERK_CALLS_MAX {
            return Err(no_room());
        }
        self.clerk_calls.insert(at, call);
        Ok(())
    }

    /// The month that messages are counted in.
    pub(crate) fn month(&self) -> Month {
        self.month
    }

    /// The current `Date` header's value.
    pub(crate) fn date(&mut self) -> &str {
        let second = self.now.unix_ms / 1000;
        if self.date.0 != second {
            self.date = (second, pushflo_protocol::http::date(second));
        }
        &self.date.1
    }

    fn apply_one(&mut self, envelope: Envelope) {
        match envelope {
            Envelope::Publish(publish) => self.home_publish_request(&publish),
            Envelope::PublishBatch(batch) => self.home_publish_batch(&batch),
            Envelope::Page(page) => {
                let (request, channel, query) = *page;
                self.home_page(request, channel, query);
            }
            Envelope::Subscribe { asker, channel, start, wants_presence } => {
                self.home_subscribe(asker, &channel, start, wants_presence);
            }
            Envelope::Channel(request) => self.home_channel_request(*request),
            Envelope::ChannelStored(stored) => self.channel_stored(&stored.0, stored.1),
            Envelope::ListChannels(request) => self.list_channels_here(*request),
            Envelope::ChannelList(list) => self.channel_list(list.0, list.1, list.2),
            Envelope::DescribeChannels(request) => self.describe_channels(*request),
            Envelope::ChannelsDescribed(list) => self.channels_described(list.0, list.1),
            Envelope::App(app) => self.learn(*app),
            Envelope::AppGone(app) => self.app_gone(app),
            Envelope::Made(answer) => self.made(&answer),
            Envelope::Closed { tail } => self.tail_closed(tail),
            Envelope::Privacy { tail, is_private, answer } => {
                self.tail_privacy(tail, is_private);
                self.made(&answer);
            }
            Envelope::Roster { tail, home, presence } => self.tail_roster(tail, home, presence),
            Envelope::Members(members) => self.home_members(members.0, members.1, &members.2),
            Envelope::WantPresence { asker, home } => self.home_want_presence(&asker, home),
            Envelope::PresenceSnapshot { subscription, frame } => {
                self.presence_snapshot(subscription, frame);
            }
            Envelope::Presence { tail, frame } => self.tail_presence(tail, &frame),
            Envelope::Logged(outcome) => self.logged(outcome),
            Envelope::Read(read) => self.read_answered(read.0, read.1),
            Envelope::Unsubscribe { shard, tail, home, subscription, member } => {
                self.home_unsubscribe(shard, tail, home, member.as_ref());
                if let Some(subscription) = subscription {
                    self.post(shard, Envelope::Unsubscribed { subscription });
                }
            }
            Envelope::Answer(answer) => {
                let (request, outcome) = *answer;
                self.answer(request.connection, request.sequence, outcome);
            }
            Envelope::BatchAnswer(answer) => self.batch_answer(answer.0, answer.1),
            Envelope::Subscribed { asker, outcome } => self.subscribed(&asker, outcome),
            Envelope::Unsubscribed { subscription } => self.unsubscribed(subscription),
            Envelope::Message { tail, frame, head } => self.tail_push(tail, frame, head),
        }
    }

    /// This shard has made a change that somebody waits for on all shards.
    fn made(&mut self, answer: &AnswerAfterAll) {
        if let Some((request, outcome)) = answer.made() {
            self.answer_request(request, outcome);
        }
    }

    /// Applies what this shard said to itself.
    fn settle(&mut self) {
        while let Some(envelope) = self.local.pop_front() {
            self.apply_one(envelope);
        }
        for (shard, batch, results) in std::mem::take(&mut self.batch_results) {
            self.post(shard, Envelope::BatchAnswer(Box::new((batch, results))));
        }
    }

    /// Sets a connection's time-out `ticks` from now, unless an earlier one is set.
    pub(crate) fn arm(&mut self, connection: ConnectionKey, ticks: u32) {
        let tick = self.now.tick.saturating_add(ticks);
        if let Some(c) = self.connections.get_mut(connection)
            && c.timer_tick > tick
        {
            c.timer_tick = self.wheel.set(connection, tick);
        }
    }

    fn update_gauges(&self) {
        let metrics = self.metrics();
        metrics.history_bytes.set(self.recent.bytes() as u64);
        metrics.idempotency_keys.set(self.idempotency.len() as u64);
        metrics.channels.set(self.homes.len() as u64);
        metrics.subscriptions.set(self.subscriptions.len() as u64);
        metrics.outbox_depth.set(self.outboxes.iter().map(|o| o.len() as u64).sum());
    }

    /// Queues bytes of the connection's own: answers, events, control frames.
    pub(crate) fn send(&mut self, connection: ConnectionKey, bytes: Bytes) {
        if let Some(c) = self.connections.get_mut(connection) {
            c.push_out(bytes);
            self.mark_due(connection);
        }
    }
}
