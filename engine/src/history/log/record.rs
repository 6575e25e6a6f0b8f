//! Records of the log: runs of consecutive messages of one channel, archived with rkyv and read in
//! place.
//!
//! The frames of a record lie behind each other as they are sent, so that a subscriber who comes
//! back gets a slice of what was read from disk: nothing is parsed or encoded for it. Each record
//! carries how many messages and bytes the channel had before it, so that totals and limits need
//! two look-ups and no counting.

use bytes::Bytes;
use pushflo_protocol::message::{Layout, MessageId};
use pushflo_protocol::{Message, Offset};
use rkyv::rancor::Error as ArchiveError;
use rkyv::{Archive, Serialize};

use super::LogError;

/// Consecutive messages of one channel.
#[derive(Archive, Serialize)]
struct Record {
    /// The offset before the first; it is one less than that, but for a leap.
    prev: u64,
    first: u64,
    /// Messages and bytes of the channel before this record, kept or not.
    messages_before: u64,
    bytes_before: u64,
    entries: Vec<Entry>,
    frames: Vec<u8>,
}

#[derive(Archive, Serialize)]
struct Entry {
    id: u128,
    timestamp_ms: u64,
    /// Where its frame ends among the frames.
    end: u32,
    /// Start and end of event type, client id and content in its frame.
    layout: [u32; 6],
}

/// Counts of a channel's messages up to some place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages.
    pub messages: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// Encodes a record of messages whose offsets follow each other; `prev` is the offset before them.
pub(super) fn encode(
    prev: Offset,
    before: Totals,
    messages: &[Message],
) -> Result<Vec<u8>, LogError> {
    let mut frames = Vec::with_capacity(messages.iter().map(|m| m.frame.len()).sum());
    let entries = messages.iter().map(|message| {
        frames.extend_from_slice(&message.frame);
        let Layout { event_type, client_id, content } = &message.layout;
        Entry {
            id: message.id.0,
            timestamp_ms: message.timestamp_ms,
            end: frames.len() as u32,
            layout: [
                event_type.start,
                event_type.end,
                client_id.start,
                client_id.end,
                content.start,
                content.end,
            ],
        }
    });
    let record = Record {
        prev: prev.0,
        first: messages.first().map_or(0, |message| message.offset.0),
        messages_before: before.messages,
        bytes_before: before.bytes,
        entries: entries.collect(),
        frames,
    };
    rkyv::to_bytes::<ArchiveError>(&record)
        .map(|bytes| bytes.to_vec())
        .map_err(|error| LogError::Damaged(format!("a record cannot be encoded: {error}")))
}

/// A record as it was read.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// The offset before its first message.
    pub(super) prev: Offset,
    /// Its first offset.
    pub(super) first: Offset,
    /// Its last offset.
    pub(super) last: Offset,
    /// When its last message got its offset.
    pub(super) last_ms: u64,
    /// What came before it.
    pub(super) before: Totals,
    /// What there is with it.
    pub(super) after: Totals,
    bytes: Bytes,
}

impl Stored {
    /// Reads a record, checking all of it.
    pub(super) fn parse(bytes: Bytes) -> Result<Self, LogError> {
        let record = access(&bytes)?;
        let (first, count) = (record.first.to_native(), record.entries.len() as u64);
        let before = Totals {
            messages: record.messages_before.to_native(),
            bytes: record.bytes_before.to_native(),
        };
        let Some(last) = record.entries.last() else {
            return Err(LogError::Damaged("a record without messages".into()));
        };
        let mut start = 0;
        for entry in record.entries.iter() {
            let end = entry.end.to_native();
            let frame_bytes = end.checked_sub(start);
            let fits =
                frame_bytes.is_some_and(|n| entry.layout.iter().all(|at| at.to_native() <= n));
            if !fits || end as usize > record.frames.len() {
                return Err(LogError::Damaged("a record whose parts do not fit".into()));
            }
            start = end;
        }
        Ok(Self {
            prev: Offset(record.prev.to_native()),
            first: Offset(first),
            last: Offset(first.saturating_add(count - 1)),
            last_ms: last.timestamp_ms.to_native(),
            before,
            after: Totals {
                messages: before.messages + count,
                bytes: before.bytes + record.frames.len() as u64,
            },
            bytes,
        })
    }

    /// The frames of its messages from the first for which `wanted` says so up to `until`, and how
    /// many they are. `wanted` is given a message's position in the record and its time.
    pub(super) fn frames(
        &self,
        mut wanted: impl FnMut(u64, u64) -> bool,
        until: Offset,
    ) -> Result<Option<(Bytes, u64)>, LogError> {
        let record = access(&self.bytes)?;
        let (mut start, mut end, mut count) = (0usize, 0usize, 0);
        for (index, entry) in (0u64..).zip(record.entries.iter()) {
            if self.first.0 + index > until.0 {
                break;
            }
            if count == 0 && !wanted(index, entry.timestamp_ms.to_native()) {
                start = entry.end.to_native() as usize;
                continue;
            }
            end = entry.end.to_native() as usize;
            count += 1;
        }
        if count == 0 {
            return Ok(None);
        }
        let frames = record.frames.as_slice().get(start..end).unwrap_or_default();
        Ok(Some((self.bytes.slice_ref(frames), count)))
    }

    /// Its messages, oldest first.
    pub(super) fn messages(&self) -> Result<Vec<Message>, LogError> {
        let record = access(&self.bytes)?;
        let mut start = 0usize;
        let message = |(index, entry): (usize, &ArchivedEntry)| {
            let end = entry.end.to_native() as usize;
            let frame = record.frames.as_slice().get(start..end).unwrap_or_default();
            start = end;
            let [a, b, c, d, e, f] = entry.layout.map(|at| at.to_native());
            Message {
                frame: self.bytes.slice_ref(frame),
                id: MessageId(entry.id.to_native()),
                offset: Offset(self.first.0 + index as u64),
                timestamp_ms: entry.timestamp_ms.to_native(),
                layout: Layout { event_type: a..b, client_id: c..d, content: e..f },
            }
        };
        Ok(record.entries.iter().enumerate().map(message).collect())
    }
}

fn access(bytes: &[u8]) -> Result<&ArchivedRecord, LogError> {
    rkyv::access::<ArchivedRecord, ArchiveError>(bytes)
        .map_err(|error| LogError::Damaged(format!("a record cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pushflo_protocol::ChannelSlug;
    use pushflo_protocol::message::Parts;

    fn messages(offsets: std::ops::Range<u64>) -> Vec<Message> {
        let message = |offset| {
            Message::encode(Parts {
                channel: &ChannelSlug::parse("c").unwrap(),
                id: MessageId(u128::from(offset) << 70),
                offset: Offset(offset),
                prev: None,
                timestamp_ms: 1_000 + offset,
                event_type: "e",
                client_id: Some("me"),
                content: &format!("{{\"n\":{offset}}}"),
            })
        };
        offsets.map(message).collect()
    }

    #[test]
    fn records_come_back_as_they_went_in() {
        let all = messages(7..12);
        let before = Totals { messages: 3, bytes: 100 };
        let encoded = encode(Offset(4), before, &all).unwrap();
        // Read from an odd address, as from the middle of a block.
        let odd = Bytes::from([&[0u8][..], &encoded].concat()).slice(1..);
        let stored = Stored::parse(odd).unwrap();
        assert_eq!((stored.prev, stored.first, stored.last), (Offset(4), Offset(7), Offset(11)));
        assert_eq!((stored.before, stored.after.messages, stored.last_ms), (before, 8, 1_011));
        let again = stored.messages().unwrap();
        for (a, b) in all.iter().zip(&again) {
            assert_eq!((&a.frame, a.id, a.offset), (&b.frame, b.id, b.offset));
            assert_eq!(
                (a.content(), a.timestamp_ms, &a.layout),
                (b.content(), b.timestamp_ms, &b.layout)
            );
        }
        let end = Offset(99);
        let (frames, count) = stored.frames(|index, _| index == 3, end).unwrap().unwrap();
        assert_eq!((count, frames), (2, Bytes::from([&all[3].frame[..], &all[4].frame].concat())));
        let (frames, count) = stored.frames(|_, ms| ms > 1_008, Offset(10)).unwrap().unwrap();
        assert_eq!((count, frames), (2, Bytes::from([&all[2].frame[..], &all[3].frame].concat())));
        assert!(stored.frames(|_, ms| ms > 2_000, end).unwrap().is_none());
        assert!(stored.frames(|_, _| true, Offset(6)).unwrap().is_none());
    }

    #[test]
    fn no_damage_makes_a_reader_panic() {
        let encoded = encode(Offset(0), Totals::default(), &messages(1..5)).unwrap();
        for at in 0..encoded.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = encoded.clone();
                damaged[at] ^= flip;
                if let Ok(stored) = Stored::parse(damaged.into()) {
                    let _ = stored
                        .messages()
                        .map(|all| all.iter().map(|m| m.content().len()).sum::<usize>());
                }
            }
            assert!(Stored::parse(encoded[..at].to_vec().into()).is_err() || at == 0);
        }
    }
}
