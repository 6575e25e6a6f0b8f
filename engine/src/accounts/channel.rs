//! What the API adds to a channel: its name, whether it is private, and the like.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Metadata of a channel that was created through the API.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChannelMeta {
    /// What people call it.
    pub name: Box<str>,
    /// What it is for.
    pub description: Option<Box<str>>,
    /// Whether subscribing needs a token that grants it.
    pub is_private: bool,
    /// Whether its members are known to each other.
    pub presence: bool,
    /// A JSON object, as it was given.
    #[serde(with = "crate::raw_json")]
    pub metadata: Option<Box<RawValue>>,
    /// When it was created, in Unix milliseconds.
    pub created_ms: u64,
    /// When it was last changed.
    pub updated_ms: u64,
}

impl ChannelMeta {
    /// Those of a channel of which nobody knows what it has: it is closed to all who have no grant.
    pub(crate) fn closed() -> Self {
        Self {
            name: "".into(),
            description: None,
            is_private: true,
            presence: false,
            metadata: None,
            created_ms: 0,
            updated_ms: 0,
        }
    }

    /// Bytes it keeps in memory.
    pub fn kept_bytes(&self) -> usize {
        let Self { name, description, metadata, .. } = self;
        size_of::<Self>()
            + name.len()
            + description.as_ref().map_or(0, |text| text.len())
            + metadata.as_ref().map_or(0, |json| json.get().len())
    }
}
