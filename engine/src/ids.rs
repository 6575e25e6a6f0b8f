//! Identities: of apps and channels, and of what there is inside one process. Keys carry a generation:
//! one that outlived its thing finds nothing, never something else.

use std::fmt;

use pushflo_protocol::ChannelSlug;
use serde::{Deserialize, Serialize};

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

/// A node of a cluster, by its place in this node's list of them; 0 is this one. A node whose link was lost has
/// another place from then on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeSlot(pub u8);

impl NodeSlot {
    /// This node.
    pub const OWN: Self = Self(0);

    /// Most nodes, this one included.
    pub const COUNT_MAX: usize = 64;

    /// The place as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A shard: its node, and its position on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardId(pub u16);

impl ShardId {
    /// No shard: the slot of a channel has no owner for the moment.
    pub const NOBODY: Self = Self(u16::MAX);

    /// Most shards of a node.
    pub const COUNT_MAX: usize = 1 << Self::INDEX_BITS;

    const INDEX_BITS: u32 = 10;

    /// A shard of a node.
    pub fn of(node: NodeSlot, index: u16) -> Self {
        debug_assert!(node.index() < NodeSlot::COUNT_MAX && usize::from(index) < Self::COUNT_MAX);
        Self(u16::from(node.0) << Self::INDEX_BITS | index)
    }

    /// The node that it is on.
    pub fn node(self) -> NodeSlot {
        NodeSlot((self.0 >> Self::INDEX_BITS) as u8)
    }

    /// Where it stands among the shards of its node, as an index.
    pub fn index(self) -> usize {
        usize::from(self.0) % Self::COUNT_MAX
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.index().fmt(f)
    }
}

/// A tenant. `AppId(0)` is the app `default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AppId(pub u32);

impl AppId {
    /// The app that exists from the start; its `mgmt_` keys administer the server.
    pub const DEFAULT: Self = Self(0);

    /// Reads the form that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "default" {
            return Some(Self::DEFAULT);
        }
        let number = text.strip_prefix("app_")?.parse().ok()?;
        Some(Self(number)).filter(|app| *app != Self::DEFAULT && app.to_string() == text)
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::DEFAULT => f.write_str("default"),
            Self(number) => write!(f, "app_{number}"),
        }
    }
}

/// A channel's full name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChannelKey {
    /// The tenant.
    pub app: AppId,
    /// The name within it.
    pub slug: ChannelSlug,
}

/// A request of an HTTP connection that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId {
    /// The shard that holds the connection.
    pub shard: ShardId,
    /// What the shard knows it by.
    pub connection: ConnectionKey,
    /// Its position among the connection's requests.
    pub sequence: u32,
}

/// A channel's place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub u64);

/// A slot of a cluster's channels, which have one owner and one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotId(pub u8);

impl SlotId {
    /// How many there are, in every cluster: enough for many nodes, few enough for one stream each.
    pub const COUNT: u8 = 128;

    /// The slot of a channel: in every process the same, for ever.
    pub fn of(channel: &ChannelKey) -> Self {
        // FNV-1a, which is written down and does not change.
        let app = channel.app.0.to_le_bytes();
        let bytes = app.iter().chain(channel.slug.as_str().as_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        // Its high bits are mixed better than the low ones.
        Self(((hash ^ hash >> 32) % u64::from(Self::COUNT)) as u8)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    /// The slot as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Some of the slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotSet(u128);

impl SlotSet {
    /// All slots.
    pub const ALL: Self = Self(u128::MAX);

    /// These with those of another set; `None` where one is in both.
    pub fn with_others(self, others: Self) -> Option<Self> {
        (self.0 & others.0 == 0).then_some(Self(self.0 | others.0))
    }
}

impl FromIterator<SlotId> for SlotSet {
    fn from_iter<T: IntoIterator<Item = SlotId>>(slots: T) -> Self {
        Self(slots.into_iter().fold(0, |set, slot| set | 1 << slot.0))
    }
}

/// A slot of names, whose epochs change together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EpochSlot(pub u16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_slots_are_joined_where_they_have_nothing_in_common() {
        let (even, odd): (Vec<_>, Vec<_>) = SlotId::all().partition(|slot| slot.0 % 2 == 0);
        let even = even.into_iter().collect::<SlotSet>();
        assert_eq!(even.with_others(odd.into_iter().collect()), Some(SlotSet::ALL));
        assert_eq!(even.with_others([SlotId(126)].into_iter().collect()), None);
    }

    #[test]
    fn apps_are_read_as_they_are_written() {
        for app in [AppId(0), AppId(1), AppId(u32::MAX)] {
            assert_eq!(AppId::parse(&app.to_string()), Some(app));
        }
        for bad in ["", "app_", "app_0", "app_01", "app_-1", "app_4294967296", "Default", "self"] {
            assert_eq!(AppId::parse(bad), None, "{bad}");
        }
    }
}
