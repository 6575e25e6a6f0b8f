//! The little that all shards share: plain atomic numbers, and things that never change.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed,
};

use pushflo_protocol::Epoch;
use thiserror::Error;

use crate::handover::SharedState;
use crate::hash::Placement;
use crate::ids::{ChannelKey, EpochSlot, LogId, NodeSlot, ShardId, SlotId};
use crate::log::LogStatus;
use crate::metrics::{ClusterMetrics, ShardMetrics};
use crate::settings::Limits;

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// As many connections as the server takes.
    #[error("the server has as many as it takes")]
    Full,
    /// As many connections as one address may have.
    #[error("the address has as many as it may")]
    Address,
    /// The server is going away.
    #[error("the server drains")]
    Draining,
}

/// What all shards share: plain atomic numbers, and things that never change.
#[derive(Debug)]
pub struct Shared {
    seed: u64,
    /// One set of numbers per shard.
    pub metrics: Box<[ShardMetrics]>,
    /// Numbers of no shard; never shown.
    pub stray: ShardMetrics,
    /// Places channels on shards.
    pub placement: Placement,
    /// Who owns the slots of channels, in a cluster.
    pub owners: Option<Owners>,
    /// What the node counts of its cluster.
    pub cluster: Arc<ClusterMetrics>,
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
    pub deletions: Arc<AtomicU64>,
    /// The server is going away.
    pub draining: AtomicBool,
    connections: AtomicUsize,
    /// Connections by address, in slots: addresses that fall on one slot share its limit, which is
    /// why the slots are many. Exact per address would need a lock or an owner.
    addresses: Box<[AtomicU32]>,
}

/// Who owns the slots of a cluster's channels, as far as this node knows.
#[derive(Debug)]
pub struct Owners {
    shards: Box<[AtomicU16]>,
    /// The cluster can be reached.
    is_reached: AtomicBool,
    /// What all nodes have in common is known.
    pub is_informed: Arc<AtomicBool>,
}

impl Default for Owners {
    fn default() -> Self {
        let shards = SlotId::all().map(|_| AtomicU16::new(ShardId::NOBODY.0)).collect();
        Self { shards, is_reached: AtomicBool::new(false), is_informed: Arc::default() }
    }
}

impl Owners {
    /// The shard that owns a slot.
    pub fn of(&self, slot: SlotId) -> ShardId {
        ShardId(
            self.shards.get(slot.index()).map_or(ShardId::NOBODY.0, |owner| owner.load(Relaxed)),
        )
    }

    /// Whether the cluster can be reached.
    pub fn is_reached(&self) -> bool {
        self.is_reached.load(Relaxed)
    }

    /// The cluster can be reached, or not any more.
    pub fn set_reached(&self, is_reached: bool) {
        self.is_reached.store(is_reached, Relaxed);
    }

    /// Whether this node owns a slot.
    pub fn owns_some(&self) -> bool {
        self.shards.iter().any(|owner| ShardId(owner.load(Relaxed)).node() == NodeSlot::OWN)
    }

    /// Whether no slot has an owner, as before the first node of a cluster has taken one.
    pub fn is_ownerless(&self) -> bool {
        self.shards.iter().all(|owner| owner.load(Relaxed) == ShardId::NOBODY.0)
    }

    /// Whether what all nodes have in common, as apps and keys, was learned since the start.
    pub fn is_informed(&self) -> bool {
        self.is_informed.load(Relaxed)
    }

    /// A slot has another owner. Shards are to be told too, since they have asked the one before.
    pub fn set(&self, slot: SlotId, owner: ShardId) {
        if let Some(known) = self.shards.get(slot.index()) {
            known.store(owner.0, Relaxed);
        }
    }
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
    /// A slot by its number.
    pub(crate) fn from_number(number: u16) -> Self {
        Self(number)
    }

    /// Its number.
    pub(crate) fn number(self) -> u16 {
        self.0
    }

    /// The slot as an index.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Shared {
    /// For so many shards; `seed` decides the placement of channels, and their epochs.
    pub fn new(shards: usize, seed: u64) -> Self {
        Self {
            seed,
            metrics: (0..shards).map(|_| ShardMetrics::default()).collect(),
            stray: ShardMetrics::default(),
            placement: Placement::new(seed),
            owners: None,
            cluster: Arc::default(),
            epochs: Placement::new(seed.rotate_left(32)),
            process_epochs: Placement::new(seed.rotate_left(16)),
            generations: (0..EPOCH_SLOTS).map(|_| AtomicU32::new(0)).collect(),
            log: None,
            next_log: AtomicU64::new(1),
            deletions: Arc::default(),
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

    /// What another process is to know that takes the place of this one.
    pub fn state(&self) -> SharedState {
        SharedState {
            seed: self.seed,
            deletions: self.deletions.load(Relaxed),
            generations: self.generations.iter().map(|known| known.load(Relaxed)).collect(),
            next_log: self.next_log.load(Relaxed),
        }
    }

    /// Takes over what the process before knew, whose seed this was made with.
    pub fn take_over(&self, state: &SharedState) {
        self.deletions.fetch_max(state.deletions, Relaxed);
        for (known, generation) in self.generations.iter().zip(&state.generations) {
            known.fetch_max(*generation, Relaxed);
        }
        self.next_log.fetch_max(state.next_log, Relaxed);
    }

    /// The shard that gives a channel's offsets.
    pub fn home_shard(&self, channel: &ChannelKey) -> ShardId {
        if let Some(owners) = &self.owners {
            return owners.of(SlotId::of(channel));
        }
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
    pub(crate) fn renew_epoch(&self, channel: &ChannelKey) {
        if let Some(generation) = self.generations.get(usize::from(self.epoch_slot(channel).0)) {
            generation.fetch_add(1, Relaxed);
        }
    }

    /// The generation that a channel's slot is in.
    pub(crate) fn generation(&self, channel: &ChannelKey) -> (EpochSlot, u32) {
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
    pub(crate) fn epoch(&self, channel: &ChannelKey, is_logged: bool) -> Epoch {
        let epochs = if is_logged { &self.epochs } else { &self.process_epochs };
        let (_, generation) = self.generation(channel);
        Epoch(epochs.hash((channel, self.deletions.load(Relaxed), generation)))
    }

    /// A log id that no channel has.
    pub(crate) fn new_log(&self) -> LogId {
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
    pub(crate) fn admit(&self, slot: Option<AddressSlot>, limits: &Limits) -> Result<(), Refused> {
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

    /// Counts a connection that was admitted by the process before this one.
    pub(crate) fn find_connection(&self, slot: Option<AddressSlot>) {
        self.connections.fetch_add(1, Relaxed);
        let count = slot.and_then(|slot| self.addresses.get(slot.index()));
        if let Some(count) = count {
            count.fetch_add(1, Relaxed);
        }
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
