//! What a stream has under a subject, as bytes.

use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};
use pushflo_protocol::{MessageId, Parts};
use serde::{Deserialize, Serialize};

use super::appender::Sequence;
use crate::log::Life;

/// The format; a record of another one is not read.
const FORMAT: u8 = 1;

/// Bytes of the format, the term and the number.
const TERM_END: usize = 1 + size_of::<Sequence>();
const HEAD_BYTES: usize = TERM_END + size_of::<u64>();

/// What a stream has in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// Tells it from all others.
    pub(super) id: MessageId,
    /// The sequence of the record that began the term in which it was written; 0 where it begins one.
    pub(super) term: Sequence,
    /// What it is.
    pub(super) content: Content,
}

/// What is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Content {
    /// An owner begins a term.
    Term {
        /// Who it is, for people.
        node: Box<str>,
    },
    /// A message of the channel whose subject it is.
    Message(StoredMessage),
    /// The channel was deleted: nothing before it is there, and its epoch is another.
    Deleted,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredMessage {
    /// When it got its place, in Unix milliseconds.
    pub(super) timestamp_ms: u64,
    /// What its channel's life is.
    pub(super) life: Life,
    /// How many messages its channel had had in this life, with this one: those that follow each other differ by
    /// one.
    #[serde(skip)]
    pub(super) number: u64,
    /// What its publisher gave.
    pub(super) parts: Parts,
    /// The idempotency key, and a digest of what was published with it.
    pub(super) key: Option<(Box<str>, u64)>,
    /// When a message of the channel was published with a key last, in Unix milliseconds; 0 for never.
    pub(super) keyed_ms: u64,
}

impl Stored {
    /// As it is stored.
    pub(super) fn encode(&self) -> Bytes {
        let Self { id, term, content } = self;
        // Into memory, of types that have a form: it cannot fail.
        let rest = postcard::to_allocvec(&(id, content)).unwrap_or_default();
        debug_assert!(!rest.is_empty(), "it has a form");
        let mut encoded = BytesMut::with_capacity(HEAD_BYTES + rest.len());
        encoded.put_u8(FORMAT);
        encoded.put_u64_le(*term);
        encoded.put_u64_le(match content {
            Content::Message(message) => message.number,
            Content::Term { .. } | Content::Deleted => 0,
        });
        encoded.put_slice(&rest);
        encoded.freeze()
    }

    /// What was encoded, as of another term.
    pub(super) fn with_term(encoded: &[u8], term: Sequence) -> Bytes {
        Self::with_head(encoded, 1..TERM_END, term)
    }

    /// What was encoded, with another number.
    pub(super) fn with_number(encoded: &[u8], number: u64) -> Bytes {
        Self::with_head(encoded, TERM_END..HEAD_BYTES, number)
    }

    fn with_head(encoded: &[u8], place: Range<usize>, value: u64) -> Bytes {
        let mut bytes = BytesMut::from(encoded);
        if let Some(place) = bytes.get_mut(place) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes.freeze()
    }

    /// Reads what [`Stored::encode`] wrote; `None` for anything else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let (&FORMAT, head) = head.split_first()? else { return None };
        let (term, number) = head.split_at_checked(size_of::<Sequence>())?;
        let of = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
        let (term, number) = (of(term)?, of(number)?);
        let (id, mut content) = postcard::from_bytes(rest).ok()?;
        if let Content::Message(message) = &mut content {
            message.number = number;
        }
        Some(Self { id, term, content })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_again() {
        let parts = Parts::new("order.placed", Some("ann"), r#"{"a":1}"#);
        let message = StoredMessage {
            timestamp_ms: 1_700_000_000_000,
            life: Life { after: 3, created_ms: 5 },
            number: 7,
            parts,
            key: Some(("k".into(), 9)),
            keyed_ms: 1_700_000_000_000,
        };
        for content in
            [Content::Term { node: "a".into() }, Content::Message(message), Content::Deleted]
        {
            let stored = Stored { id: MessageId(1 << 90), term: 3, content };
            let bytes = stored.encode();
            assert_eq!(Stored::decode(&bytes).as_ref(), Some(&stored));
            let other = Stored { term: 9, ..stored };
            assert_eq!(Stored::decode(&Stored::with_term(&bytes, 9)), Some(other));
            let numbered = Stored::decode(&Stored::with_number(&bytes, 8));
            if let Some(Content::Message(message)) = numbered.map(|stored| stored.content) {
                assert_eq!(message.number, 8);
            }
            for cut in 0..bytes.len() {
                assert_eq!(Stored::decode(&bytes[..cut]), None, "{cut} bytes");
            }
        }
        assert_eq!(Stored::decode(b"\x02hello"), None);
    }
}
