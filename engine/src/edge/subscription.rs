//! One connection's subscription to one channel: a cursor in the shard's tail, or a place behind it.

use pushflo_protocol::Offset;

use crate::ids::{ConnectionKey, TailKey};

/// A subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Whose it is.
    pub(super) connection: ConnectionKey,
    /// Where it reads.
    pub(super) tail: TailKey,
    /// What it has.
    pub(super) place: Place,
    /// Its place among the tail's subscribers.
    pub(super) slot: u32,
    /// Windows that it has read in a row, without meeting the tail.
    pub(super) windows: u8,
    /// Whether it stands in its connection's list of those with something to send.
    pub(super) is_behind: bool,
    /// Whether it is told who else is there.
    pub(super) wants_presence: bool,
    /// Which time presence was switched on, if it counts as a member of the channel.
    pub(super) roster: Option<u32>,
    /// Where it is between asking and leaving.
    pub(super) state: SubscriptionState,
}

/// What a subscription has of its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// All up to this block of the tail, which is to be sent next.
    Tail(u64),
    /// All up to this offset; what follows is not in the tail and comes in windows.
    Behind(Offset),
}

/// The life of a subscription. A command about a channel whose subscription is not [`Live`] waits, and
/// with it all that its connection says behind it, until that is over: so each command has its answer,
/// in their order.
///
/// [`Live`]: SubscriptionState::Live
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SubscriptionState {
    /// The home was asked.
    Pending {
        /// Room is kept for a first window, which may come with the home's answer.
        has_room: bool,
    },
    /// Gets messages.
    Live,
    /// The home was told; messages may still come until it answers.
    Leaving,
    /// What came before its end is still to be sent, and then the last word on it.
    Ending,
}

impl SubscriptionState {
    /// Whether the home has not answered yet.
    pub(super) fn is_pending(self) -> bool {
        matches!(self, Self::Pending { .. })
    }
}

impl Subscription {
    /// Whether its tail must keep what it has not got yet.
    pub(super) fn holds(&self) -> Option<u64> {
        match self.place {
            Place::Tail(block) => Some(block),
            Place::Behind(_) => None,
        }
    }
}
