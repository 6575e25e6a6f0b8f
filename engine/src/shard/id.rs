//! Identities inside one process. Keys carry a generation: one that outlived its thing finds
//! nothing, never something else.

use std::fmt;

slotmap::new_key_type! {
    /// A connection of a shard.
    pub struct ConnectionKey;
    /// A subscription of a shard.
    pub struct SubscriptionKey;
    /// A shard's tail of a channel.
    pub struct TailKey;
    /// A batch of publishes that waits for results.
    pub struct BatchKey;
    /// A list of channels that is being put together.
    pub struct ListKey;
    /// A read of the log under way.
    pub struct ReadKey;
    /// A channel at its home shard.
    pub struct HomeKey;
}

/// A shard, by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The position as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
