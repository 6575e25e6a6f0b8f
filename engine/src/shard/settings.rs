//! What a shard is configured with, and the little that all shards share.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::{OutboxLimits, PresenceTimes, Refused, TrustedProxies};
use crate::clock::ticks;
use crate::hash::Placement;
use crate::ids::EpochSlot;
use crate::ids::{ChannelKey, LogId, ShardId};
use crate::log::LogStatus;
use crate::metrics::ShardMetrics;
use pushflo_protocol::Epoch;
pub use pushflo_protocol::origin::AllowedOrigins;

/// Settings that do not change while the server runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which browsers' origins may connect and call.
    pub origins: AllowedOrigins,
    /// Bounds.
    pub limits: Limits,
    /// Time-outs.
    pub timeouts: Timeouts,
    /// Whether there is a log on disk; without one all history is in memory.
    pub has_log: bool,
    /// Times of presence.
    pub presence: PresenceTimes,
    /// Which peers are proxies that tell the address of the client.
    pub proxies: TrustedProxies,
    /// Bounds on what waits between shards.
    pub outbox: OutboxLimits,
    /// Whether `/metrics` is served on the main port.
    pub metrics_on_main_port: bool,
}

/// Bounds on what connections may hold and send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most connections of the whole server.
    pub connections_max: usize,
    /// Most connections of one address (IPv6: one /64).
    pub connections_per_address_max: u32,
    /// Most subscriptions of one connection.
    pub subscriptions_per_connection_max: usize,
    /// Most channels whose home is one shard; its apps share them.
    pub channels_per_shard_max: usize,
    /// Largest content of one message in bytes.
    pub payload_bytes_max: usize,
    /// Furthest that a subscriber may fall behind, in bytes of one channel.
    pub tail_bytes_max: u64,
    /// Most messages that `replay` may ask for with `last`.
    pub replay_messages_max: u64,
    /// Most requests of one connection that are under way; more are not read until some are
    /// answered.
    pub pipelined_requests_max: usize,
    /// Bytes of answers and events a connection may have waiting before its bytes are not read
    /// any more.
    pub out_bytes_max: usize,
    /// Most bytes of recent messages that a shard keeps in memory.
    pub recent_bytes_max: usize,
    /// Most idempotency keys of the last five minutes that a shard remembers, some 900 bytes each.
    pub idempotency_keys_max: usize,
    /// Wrong keys that an address may come with in a second, and at once, before it is told to wait.
    pub wrong_keys_per_second_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1_000_000,
            connections_per_address_max: 10_000,
            subscriptions_per_connection_max: 1_000,
            channels_per_shard_max: 1_000_000,
            payload_bytes_max: pushflo_protocol::limits::PAYLOAD_BYTES_MAX,
            tail_bytes_max: 4 * 1024 * 1024,
            replay_messages_max: 10_000,
            pipelined_requests_max: 256,
            out_bytes_max: 1024 * 1024,
            recent_bytes_max: 256 * 1024 * 1024,
            idempotency_keys_max: 256 * 1024,
            wrong_keys_per_second_max: 10,
        }
    }
}

/// Time-outs in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From the first byte of a request, or from connecting, to the end of its head.
    pub head: u32,
    /// From the first byte of a request to the end of its body.
    pub body: u32,
    /// Between two requests.
    pub keep_alive: u32,
    /// Silence after which a WebSocket peer is sent a ping.
    pub ping: u32,
    /// Silence after that ping until it is given up.
    pub pong: u32,
    /// How long a write may be stuck.
    pub write: u32,
    /// How long a closing connection may take to end.
    pub linger: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: ticks(10_000),
            body: ticks(30_000),
            keep_alive: ticks(75_000),
            ping: ticks(55_000),
            pong: ticks(25_000),
            write: ticks(30_000),
            linger: ticks(5_000),
        }
    }
}

/// What all shards share: plain atomic numbers, and things that never change.
#[derive(Debug)]
pub struct Shared {
    /// One set of numbers per shard.
    pub metrics: Box<[ShardMetrics]>,
    /// Numbers of no shard; never shown.
    pub stray: ShardMetrics,
    /// Places channels on shards.
    pub placement: Placement,
    /// Gives channels their epochs: others for each incarnation of the log.
    pub epochs: Placement,
    /// Gives their epochs to channels that are not logged.
    process_epochs: Placement,
    /// By slot of names: how often a channel of the slot was forgotten that had had messages.
    generations: Box<[AtomicU32]>,
    /// What the log tells; `None` without one.
    pub log: Option<Arc<LogStatus>>,
    next_log: AtomicU64,
    /// How often a channel was deleted: what is made of the same name later has another epoch.
    pub deletions: AtomicU64,
    /// The server is going away.
    pub draining: AtomicBool,
    connections: AtomicUsize,
    /// Connections by address, in slots: addresses that fall on one slot share its limit, which is
    /// why the slots are many. Exact per address would need a lock or an owner.
    addresses: Box<[AtomicU32]>,
}

/// Slots of names whose epochs change together: enough that one channel that is forgotten changes those
/// of few others, few enough to be kept.
const EPOCH_SLOTS: usize = 4096;

/// Gives names their slots, in all processes the same.
const EPOCH_SLOT_SEED: u64 = 0x6570_6f63_6873_6c6f;

/// Slots for addresses.
const ADDRESS_SLOTS: usize = 1 << 16;

/// Where a connection is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSlot(u16);

impl AddressSlot {
    /// The slot as an index.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Shared {
    /// For so many shards; `seed` decides the placement of channels, and their epochs.
    pub fn new(shards: usize, seed: u64) -> Self {
        Self {
            metrics: (0..shards).map(|_| ShardMetrics::default()).collect(),
            stray: ShardMetrics::default(),
            placement: Placement::new(seed),
            epochs: Placement::new(seed.rotate_left(32)),
            process_epochs: Placement::new(seed.rotate_left(16)),
            generations: (0..EPOCH_SLOTS).map(|_| AtomicU32::new(0)).collect(),
            log: None,
            next_log: AtomicU64::new(1),
            deletions: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            addresses: (0..ADDRESS_SLOTS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// With a log that names itself `incarnation` and whose first free id is `next_log`.
    pub fn with_log(mut self, status: Arc<LogStatus>, incarnation: u64, next_log: u64) -> Self {
        self.log = Some(status);
        self.epochs = Placement::new(incarnation);
        self.next_log = AtomicU64::new(next_log);
        self
    }

    /// After so many deletions of channels.
    pub fn with_deletions(self, deletions: u64) -> Self {
        self.deletions.store(deletions, Relaxed);
        self
    }

    /// The shard that gives a channel's offsets.
    pub fn home_shard(&self, channel: &ChannelKey) -> ShardId {
        ShardId((self.placement.hash(channel) % self.metrics.len().max(1) as u64) as u16)
    }

    /// With the generations that slots of epochs are in.
    pub fn begin_generations(&self, generations: &[(EpochSlot, u32)]) {
        for (slot, generation) in generations {
            if let Some(known) = self.generations.get(usize::from(slot.0)) {
                known.fetch_max(*generation, Relaxed);
            }
        }
    }

    /// Has a channel that is made anew get an epoch that it never had. Others of its slot that are not
    /// there get other epochs too.
    pub(super) fn renew_epoch(&self, channel: &ChannelKey) {
        if let Some(generation) = self.generations.get(usize::from(self.epoch_slot(channel).0)) {
            generation.fetch_add(1, Relaxed);
        }
    }

    /// The generation that a channel's slot is in.
    pub(super) fn generation(&self, channel: &ChannelKey) -> (EpochSlot, u32) {
        let slot = self.epoch_slot(channel);
        let generation = self.generations.get(usize::from(slot.0));
        (slot, generation.map_or(0, |generation| generation.load(Relaxed)))
    }

    fn epoch_slot(&self, channel: &ChannelKey) -> EpochSlot {
        // Not by the placement of this process: it is kept over restarts.
        EpochSlot((Placement::new(EPOCH_SLOT_SEED).hash(channel) % EPOCH_SLOTS as u64) as u16)
    }

    /// The epoch of a channel that is made now: the same each time, until some channel is deleted or
    /// one of its slot forgotten. One that is not logged ends with the process, and its epoch with it.
    pub(super) fn epoch(&self, channel: &ChannelKey, is_logged: bool) -> Epoch {
        let epochs = if is_logged { &self.epochs } else { &self.process_epochs };
        let (_, generation) = self.generation(channel);
        Epoch(epochs.hash((channel, self.deletions.load(Relaxed), generation)))
    }

    /// A log id that no channel has.
    pub(super) fn new_log(&self) -> LogId {
        LogId(self.next_log.fetch_add(1, Relaxed))
    }

    /// Whether the server is going away.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Connections of all shards.
    pub fn connection_count(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Where an address is counted.
    pub(crate) fn address_slot(&self, address: IpAddr) -> AddressSlot {
        AddressSlot(match address.to_canonical() {
            IpAddr::V4(address) => self.placement.hash(address),
            IpAddr::V6(address) => self.placement.hash(address.to_bits() >> 64),
        } as u16)
    }

    /// Counts a connection, unless it is over a limit. One of a trusted proxy counts for no address
    /// until that of its client is known.
    pub(super) fn admit(&self, slot: Option<AddressSlot>, limits: &Limits) -> Result<(), Refused> {
        // Added first and taken back if it was one too many: two shards may come at once.
        if self.connections.fetch_add(1, Relaxed) >= limits.connections_max {
            self.connections.fetch_sub(1, Relaxed);
            return Err(Refused::Full);
        }
        if slot.is_some_and(|slot| !self.admit_address(slot, limits)) {
            self.connections.fetch_sub(1, Relaxed);
            return Err(Refused::Address);
        }
        Ok(())
    }

    /// Counts a connection for its address, unless that has as many as it may.
    pub(crate) fn admit_address(&self, slot: AddressSlot, limits: &Limits) -> bool {
        let Some(count) = self.addresses.get(usize::from(slot.0)) else { return true };
        if count.fetch_add(1, Relaxed) < limits.connections_per_address_max {
            return true;
        }
        count.fetch_sub(1, Relaxed);
        false
    }

    /// A counted connection is gone.
    pub(crate) fn leave(&self, slot: Option<AddressSlot>) {
        self.connections.fetch_sub(1, Relaxed);
        if let Some(slot) = slot {
            self.leave_address(slot);
        }
    }

    /// A connection counts no more for an address.
    pub(crate) fn leave_address(&self, slot: AddressSlot) {
        if let Some(count) = self.addresses.get(usize::from(slot.0)) {
            count.fetch_sub(1, Relaxed);
        }
    }
}
