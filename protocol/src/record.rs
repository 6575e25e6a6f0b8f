//! Records: messages of channels, in no dialect. This is what is logged, kept in memory and sent between
//! shards; bytes for a kind of client are made of it in [`crate::dialect`].
//!
//! A record never changes, and a clone costs a reference count, so history, mail and tails share one
//! allocation.

use std::fmt;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::limits::{CLIENT_ID_BYTES_MAX, EVENT_TYPE_BYTES_MAX};
use crate::position::{Epoch, Offset};

/// A message's identity: a ULID, 26 characters on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MessageId(pub u128);

impl MessageId {
    /// An id from the time it is given at and 80 random bits.
    pub fn new(timestamp_ms: u64, random: u128) -> Self {
        Self(Ulid::from_parts(timestamp_ms, random).0)
    }

    /// Reads the form that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        Ulid::from_string(text).ok().map(|id| Self(id.0))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ulid(self.0).fmt(f)
    }
}

/// What a publisher gives: event type, client id and content, behind each other in one piece of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredParts")]
pub struct Parts {
    bytes: Bytes,
    event_type_bytes: u8,
    client_id_bytes: Option<u8>,
}

/// Parts as they are read, which may be anything.
#[derive(Deserialize)]
struct StoredParts {
    bytes: Bytes,
    event_type_bytes: u8,
    client_id_bytes: Option<u8>,
}

impl TryFrom<StoredParts> for Parts {
    type Error = &'static str;

    fn try_from(stored: StoredParts) -> Result<Self, Self::Error> {
        let StoredParts { bytes, event_type_bytes, client_id_bytes } = stored;
        Self::from_stored(bytes, event_type_bytes, client_id_bytes)
            .ok_or("not the parts of a message")
    }
}

// A length of a part fits its byte.
const _: () = assert!(EVENT_TYPE_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(CLIENT_ID_BYTES_MAX <= u8::MAX as usize);

impl Parts {
    /// Puts the parts behind each other. `event_type` has at most [`EVENT_TYPE_BYTES_MAX`] bytes,
    /// `client_id`, where the publisher said so, at most [`CLIENT_ID_BYTES_MAX`]; what is longer is cut.
    /// `content` is valid JSON, copied as it is.
    pub fn new(event_type: &str, client_id: Option<&str>, content: &str) -> Self {
        debug_assert!(event_type.len() <= EVENT_TYPE_BYTES_MAX);
        debug_assert!(client_id.is_none_or(|id| id.len() <= CLIENT_ID_BYTES_MAX));
        let event_type = cut(event_type, EVENT_TYPE_BYTES_MAX);
        let client_id = client_id.map(|id| cut(id, CLIENT_ID_BYTES_MAX));
        let of_client_id = client_id.map_or(0, str::len);
        let mut bytes = BytesMut::with_capacity(event_type.len() + of_client_id + content.len());
        bytes.put_slice(event_type.as_bytes());
        bytes.put_slice(client_id.unwrap_or_default().as_bytes());
        bytes.put_slice(content.as_bytes());
        Self {
            bytes: bytes.freeze(),
            event_type_bytes: event_type.len() as u8,
            client_id_bytes: client_id.map(|id| id.len() as u8),
        }
    }

    /// Parts that were stored: `bytes` as [`Parts::as_bytes`] gave them, with the lengths of the first
    /// two. `None` if they cannot be of any.
    pub fn from_stored(
        bytes: Bytes,
        event_type_bytes: u8,
        client_id_bytes: Option<u8>,
    ) -> Option<Self> {
        let text = str::from_utf8(&bytes).ok()?;
        let first = usize::from(event_type_bytes);
        let second = first + client_id_bytes.map_or(0, usize::from);
        (text.is_char_boundary(first) && text.is_char_boundary(second)).then_some(Self {
            bytes,
            event_type_bytes,
            client_id_bytes,
        })
    }

    /// The parts behind each other.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Length of the event type in bytes.
    pub fn event_type_bytes(&self) -> u8 {
        self.event_type_bytes
    }

    /// Length of the client id in bytes, where there is one.
    pub fn client_id_bytes(&self) -> Option<u8> {
        self.client_id_bytes
    }

    /// What its publisher calls this kind of message.
    pub fn event_type(&self) -> &str {
        self.part(0, self.event_type_bytes.into())
    }

    /// Who sent it, if it was said.
    pub fn client_id(&self) -> Option<&str> {
        let start = usize::from(self.event_type_bytes);
        self.client_id_bytes.map(|bytes| self.part(start, start + usize::from(bytes)))
    }

    /// The content, byte for byte as it was published.
    pub fn content(&self) -> &str {
        self.part(self.content_start(), self.bytes.len())
    }

    fn content_start(&self) -> usize {
        usize::from(self.event_type_bytes) + self.client_id_bytes.map_or(0, usize::from)
    }

    fn part(&self, start: usize, end: usize) -> &str {
        let bytes = self.bytes.get(start..end).unwrap_or_default();
        let text = str::from_utf8(bytes);
        debug_assert!(text.is_ok(), "parts are text");
        text.unwrap_or_default()
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or_default()
}

/// One message of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its identity.
    pub id: MessageId,
    /// Its place in the channel.
    pub offset: Offset,
    /// The offset before it in the channel: one less, but behind a leap.
    pub prev: Offset,
    /// When it got its offset, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// What its publisher gave.
    pub parts: Parts,
}

impl Record {
    /// Bytes it keeps in memory.
    pub fn kept_bytes(&self) -> usize {
        size_of::<Self>() + self.parts.bytes.len()
    }
}

/// What a publisher is told of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The message's identity.
    pub id: MessageId,
    /// Its place in the channel.
    pub offset: Offset,
    /// The incarnation of the channel's log.
    pub epoch: Epoch,
    /// When it got its offset, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// How many subscribers it was sent to.
    pub delivered: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_as_they_were_given() {
        for client_id in [None, Some(""), Some("ann")] {
            let parts = Parts::new("new \"ördér\"", client_id, r#"{"a":1}"#);
            assert_eq!(parts.event_type(), "new \"ördér\"");
            assert_eq!(parts.client_id(), client_id);
            assert_eq!(parts.content(), r#"{"a":1}"#);
            let lengths = (parts.event_type_bytes(), parts.client_id_bytes());
            let again = Parts::from_stored(parts.as_bytes().clone(), lengths.0, lengths.1);
            assert_eq!(again.as_ref(), Some(&parts));
        }
        let bytes = Bytes::from_static("ä1".as_bytes());
        assert!(Parts::from_stored(bytes.clone(), 1, None).is_none());
        assert!(Parts::from_stored(bytes.clone(), 2, Some(9)).is_none());
        assert!(Parts::from_stored(Bytes::from_static(b"\xff"), 0, None).is_none());
        assert!(Parts::from_stored(bytes, 2, Some(1)).is_some());
    }
}
