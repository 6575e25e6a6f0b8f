//! What whoever runs the server tells its shards beside their mail: to stand still, to hand over what they have, to
//! go on.

use std::io;

use crossbeam_channel::Sender;

use crate::accounts::AccountsHandle;
use crate::cluster::ClusterHandle;
use crate::handover::ChannelState;
use crate::log::LogHandle;

/// Ways from a shard to the threads that serve all of them.
#[derive(Debug, Default)]
pub struct Ways {
    /// To the log, if there is one.
    pub log: Option<LogHandle>,
    /// To the thread that changes apps and keys.
    pub accounts: Option<AccountsHandle>,
    /// To other nodes, if there are any.
    pub cluster: Option<ClusterHandle>,
}

/// An order, and where its answer goes.
#[derive(Debug)]
pub struct Command {
    /// What is to be done.
    pub order: Order,
    /// Where the shard says that it is done.
    pub done: Sender<Done>,
}

/// What a shard is to do.
#[derive(Debug)]
pub enum Order {
    /// Take nothing in: no connection, no byte, and no time passes. What is under way goes on; what a socket does not
    /// take at once is kept. Answered with [`Done::Still`].
    Freeze,
    /// Tell how much is still under way. Answered with [`Done::Still`].
    Report,
    /// Tell what there is of channels in memory alone, and drop the ways. Answered with [`Done::Channels`].
    LetGo,
    /// Send listeners and connections over the way whose end the uplink brings. Answered with
    /// [`Done::HandedOver`].
    HandOver,
    /// Go on, with these ways where some are given. Answered with [`Done::Thawed`].
    Thaw(Option<Ways>),
}

/// A shard's answer to an [`Order`].
#[derive(Debug)]
pub enum Done {
    /// How much is under way.
    Still(Stillness),
    /// What there is of channels in memory alone.
    Channels(Vec<ChannelState>),
    /// How many connections went, or why it cannot hand them over.
    HandedOver(io::Result<usize>),
    /// It goes on.
    Thawed,
}

/// How still a shard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stillness {
    /// Nothing is under way that it knows of.
    pub is_quiet: bool,
    /// Envelopes that it has got so far. If all shards are quiet, and still are when none has got another one
    /// since, nothing is under way between them.
    pub envelopes: u64,
}
