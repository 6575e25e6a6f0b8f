//! What shards tell of things that only all of them together know, for tests that drive several.

use std::collections::BTreeMap;

use crate::ids::{AppId, ShardId, TailKey};

/// What shards tell of things that only all of them together know. Each adds its part when it is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// WebSocket connections of apps.
    pub sessions: BTreeMap<AppId, u64>,
    /// Channels that count in the plans of apps.
    pub channels: BTreeMap<AppId, u64>,
    /// Subscribers of tails as the homes count them.
    pub counted: BTreeMap<(ShardId, TailKey), u64>,
    /// Subscribers of tails as their edges hold them. While mail is under way, they differ.
    pub held: BTreeMap<(ShardId, TailKey), u64>,
}
