//! The core of a shard: a state machine without I/O, clock or randomness of its own.
//!
//! Bytes, envelopes and time come in through [`Shard::received`], [`Shard::apply`] and
//! [`Shard::advance`]; writes, envelopes and closings are asked for with [`Shard::next_write`],
//! [`Shard::outbox`] and [`Shard::next_closing`]. The same calls in the same order give the same
//! results, which is what lets a simulation replay a run from its seed.
//!
//! * `home`: channels whose home is here: offsets, history, who gets what
//! * `subscribe`: subscriptions of this shard's connections
//! * `logging`: messages on their way to the log, and reads of it
//! * `tail`, `batch`, `flush`: recent frames, cursors, one write per connection and turn
//! * `timer`, `drain`: time-outs, leaving in good order
//!
//! What connections say is handled in [`crate::connection`] and [`crate::ingress`].

mod batch;
mod drain;
mod envelope;
mod flush;
mod home;
mod id;
mod logging;
mod outbox;
mod settings;
mod subscribe;
mod subscription;
mod tail;
mod timer;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use slotmap::SlotMap;

pub use batch::Batch;
pub use envelope::{
    Asker, BatchRequest, BatchResults, ChannelKey, Envelope, NewMessage, Outcome, PublishRequest,
    ReplyTo, RequestId, Subscribed,
};
pub(crate) use home::{Draft, no_room};
pub use id::{BatchKey, ConnectionKey, HomeKey, ReadKey, ShardId, SubscriptionKey, TailKey};
pub use outbox::{Outbox, OutboxLimits};
pub use settings::{AddressSlot, AllowedOrigins, Limits, Settings, Shared, Timeouts};

use crate::clock::Now;
use crate::connection::Connection;
use crate::hash::HashMap;
use crate::history::Recent;
use crate::ingress::PendingBatch;
use crate::metrics::ShardMetrics;
use drain::Drain;
use home::HomeChannel;
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
    recent: Recent,
    logging: Logging,
    /// Envelopes from this shard to itself, applied before the current call returns.
    local: VecDeque<Envelope>,
    outboxes: Vec<Outbox>,
    /// Batches of publishes that wait for results of other shards.
    pub(crate) batches: SlotMap<BatchKey, PendingBatch>,
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
            recent: Recent::new(settings.retention),
            logging: Logging::default(),
            local: VecDeque::new(),
            outboxes,
            batches: SlotMap::with_key(),
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

    /// Tells the time and does what is due by then.
    pub fn advance(&mut self, now: Now) {
        let ticked = now.tick > self.now.tick;
        self.now = now;
        if !ticked {
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
        self.recent.expire(now.unix_ms);
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
        let slot = self.shared.admit(peer, &self.settings.limits).inspect_err(|_| {
            self.metrics().connections_refused_total.increment();
        })?;
        let connection = self.connections.insert(Connection::new(slot, self.now.tick));
        self.metrics().connections.increment();
        self.metrics().connections_accepted_total.increment();
        self.arm(connection, self.settings.timeouts.head);
        Ok(connection)
    }

    /// Bytes came from a connection. `bytes` is scratch space: frames are unmasked in it.
    pub fn received(&mut self, connection: ConnectionKey, bytes: &mut [u8]) {
        self.metrics().bytes_received_total.add(bytes.len() as u64);
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

    /// Whether bytes of a connection are wanted now. If not, [`Shard::next_resumed`] tells when.
    pub fn wants_bytes(&mut self, connection: ConnectionKey) -> bool {
        let limits = &self.settings.limits;
        self.connections.get_mut(connection).is_some_and(|c| c.wants_bytes(limits))
    }

    /// A connection whose bytes are wanted again. Those that it already has are read first.
    pub fn next_resumed(&mut self) -> Option<ConnectionKey> {
        let connection = self.resumed.pop()?;
        self.read_connection(connection, &mut []);
        self.settle();
        Some(connection)
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

    /// The shard that gives a channel's offsets.
    pub(crate) fn home_shard(&self, channel: &ChannelKey) -> ShardId {
        self.shared.home_shard(channel)
    }

    /// Whether a publish that needs the way to `shard` must be refused.
    pub(crate) fn is_way_full(&self, shard: ShardId) -> bool {
        let outbox = self.outboxes.get(shard.index());
        shard != self.id && outbox.is_none_or(|outbox| outbox.is_full(self.settings.outbox))
    }

    /// Sends an envelope, also to this shard itself.
    pub(crate) fn post(&mut self, to: ShardId, envelope: Envelope) {
        if to == self.id {
            self.local.push_back(envelope);
        } else if let Some(outbox) = self.outboxes.get_mut(to.index()) {
            outbox.push(envelope);
        }
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
            Envelope::Subscribe { asker, channel, start } => {
                self.home_subscribe(asker, &channel, start);
            }
            Envelope::Logged(outcome) => self.logged(outcome),
            Envelope::Read(read) => self.read_answered(read.0, read.1),
            Envelope::Unsubscribe { shard, tail, home, subscription } => {
                self.home_unsubscribe(shard, tail, home);
                if let Some(subscription) = subscription {
                    self.post(shard, Envelope::Unsubscribed { subscription });
                }
            }
            Envelope::Answer(answer) => {
                let (request, outcome) = *answer;
                self.answer(request.connection, request.sequence, outcome);
            }
            Envelope::BatchAnswer(answer) => self.batch_answer(answer.0, answer.1),
            Envelope::Subscribed { subscription, tail, outcome } => {
                self.subscribed(subscription, tail, outcome);
            }
            Envelope::Unsubscribed { subscription } => self.unsubscribed(subscription),
            Envelope::Message { tail, frame, head } => self.tail_push(tail, frame, head),
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
