//! Dialects: how commands, events and records are bytes for one kind of client.
//!
//! A dialect turns bytes into commands, and events and records into bytes. It knows no shard and no log.

pub mod pushflo;

use crate::channel::ChannelSlug;
use crate::record::Record;

/// How the records of a channel become bytes. A record is encoded once for each encoding that somebody
/// on a shard listens in, never once for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// PushFlo's own: a WebSocket text frame with a `message` event.
    PushFlo,
}

impl Encoding {
    /// Appends a record of a channel.
    pub fn push_record(self, channel: &ChannelSlug, record: &Record, out: &mut Vec<u8>) {
        match self {
            Self::PushFlo => pushflo::push_message(channel, record, out),
        }
    }

    /// Room for all of a record but its parts.
    pub fn record_bytes_hint(self) -> usize {
        match self {
            Self::PushFlo => pushflo::MESSAGE_BYTES_HINT,
        }
    }
}
