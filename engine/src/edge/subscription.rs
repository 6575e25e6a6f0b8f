//! One connection's subscription to one channel: a cursor in the shard's tail.

use crate::ids::{ConnectionKey, TailKey};

/// A subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Whose it is.
    pub(super) connection: ConnectionKey,
    /// Where it reads.
    pub(super) tail: TailKey,
    /// The next block to send.
    pub(super) cursor: u64,
    /// Its place among the tail's subscribers.
    pub(super) slot: u32,
    /// Whether it stands in its connection's list of those with something to send.
    pub(super) is_behind: bool,
    /// Whether it is told who else is there.
    pub(super) wants_presence: bool,
    /// Whether it counts as a member of the channel.
    pub(super) is_member: bool,
    /// Where it is between asking and leaving.
    pub(super) state: SubscriptionState,
}

/// The life of a subscription. A command about a channel whose subscription is not [`Live`] waits, and
/// with it all that its connection says behind it, until the home shard has answered: so each command
/// has its answer, in their order.
///
/// [`Live`]: SubscriptionState::Live
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SubscriptionState {
    /// The home shard was asked.
    Pending,
    /// Gets messages.
    Live,
    /// The home shard was told; messages may still come until it answers.
    Leaving,
}
