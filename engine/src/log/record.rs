//! Records of the log: runs of consecutive messages of one channel, archived with rkyv and read in
//! place.
//!
//! The frames of a record lie behind each other as they are sent, so that a subscriber who comes
//! back gets a slice of what was read from disk: nothing is parsed or encoded for it. Each record
//! carries how many messages and bytes the channel had before it, so that totals and limits need
//! two look-ups and no counting.

use std::ops::Range;

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

    /// The frames of its messages behind the first `skip` up to `until`, and how many they are.
    pub(super) fn frames(
        &self,
        skip: u64,
        until: Offset,
    ) -> Result<Option<(Bytes, u64)>, LogError> {
        let Some(last) = until.0.min(self.last.0).checked_sub(self.first.0) else {
            return Ok(None);
        };
        let record = access(&self.bytes)?;
        let end_of = |position: u64| {
            let entry = usize::try_from(position).ok().and_then(|at| record.entries.get(at));
            entry.map(|entry| entry.end.to_native() as usize)
        };
        let start = skip.checked_sub(1).map_or(Some(0), end_of);
        let (Some(start), Some(end)) = (start, end_of(last)) else { return Ok(None) };
        if skip > last {
            return Ok(None);
        }
        let frames = record.frames.as_slice().get(start..end).unwrap_or_default();
        Ok(Some((self.bytes.slice_ref(frames), last + 1 - skip)))
    }

    /// What there is up to the message at `offset`, itself included.
    pub(super) fn totals_at(&self, offset: Offset) -> Result<Totals, LogError> {
        let Some(position) = offset.0.checked_sub(self.first.0) else { return Ok(self.before) };
        let record = access(&self.bytes)?;
        let Some(entry) = usize::try_from(position).ok().and_then(|at| record.entries.get(at))
        else {
            return Ok(self.after);
        };
        Ok(Totals {
            messages: self.before.messages + position + 1,
            bytes: self.before.bytes + u64::from(entry.end.to_native()),
        })
    }

    /// The number of its first message for which `is_wanted` says so, or of the one behind its last.
    /// `is_wanted` is given what came before a message, and its time.
    pub(super) fn number_of(
        &self,
        is_wanted: impl Fn(Totals, u64) -> bool,
    ) -> Result<u64, LogError> {
        let record = access(&self.bytes)?;
        let mut before = self.before;
        for entry in record.entries.iter() {
            if is_wanted(before, entry.timestamp_ms.to_native()) {
                break;
            }
            before.messages += 1;
            before.bytes = self.before.bytes + u64::from(entry.end.to_native());
        }
        Ok(before.messages)
    }

    /// The positions of its messages that have these numbers.
    pub(super) fn positions(&self, numbers: &Range<u64>) -> Range<u64> {
        let position = |number: u64| {
            number.clamp(self.before.messages, self.after.messages) - self.before.messages
        };
        position(numbers.start)..position(numbers.end)
    }

    /// Those of the positions at which messages of one type are, given as a JSON string.
    pub(super) fn of_type(
        &self,
        positions: Range<u64>,
        event_type: &[u8],
    ) -> Result<Vec<u64>, LogError> {
        let record = access(&self.bytes)?;
        let is_of_type = |position: &u64| {
            let parts = record.parts(*position);
            parts.is_some_and(|(frame, entry)| {
                let [from, to, ..] = entry.layout.map(|at| at.to_native() as usize);
                frame.get(from..to) == Some(event_type)
            })
        };
        Ok(positions.filter(is_of_type).collect())
    }

    /// The messages at these positions, in that order.
    pub(super) fn pick(
        &self,
        positions: impl Iterator<Item = u64>,
    ) -> Result<Vec<Message>, LogError> {
        let record = access(&self.bytes)?;
        let message = |position: u64| {
            let (frame, entry) = record.parts(position)?;
            let [a, b, c, d, e, f] = entry.layout.map(|at| at.to_native());
            Some(Message {
                frame: self.bytes.slice_ref(frame),
                id: MessageId(entry.id.to_native()),
                offset: Offset(self.first.0 + position),
                timestamp_ms: entry.timestamp_ms.to_native(),
                layout: Layout { event_type: a..b, client_id: c..d, content: e..f },
            })
        };
        Ok(positions.filter_map(message).collect())
    }
}

impl ArchivedRecord {
    /// The frame and the entry of the message at a position.
    fn parts(&self, position: u64) -> Option<(&[u8], &ArchivedEntry)> {
        let position = usize::try_from(position).ok()?;
        let entry = self.entries.get(position)?;
        let before = position.checked_sub(1).and_then(|before| self.entries.get(before));
        let start = before.map_or(0, |before| before.end.to_native() as usize);
        let frame = self.frames.as_slice().get(start..entry.end.to_native() as usize)?;
        Some((frame, entry))
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
        let again = stored.pick(0..5).unwrap();
        for (a, b) in all.iter().zip(&again) {
            assert_eq!((&a.frame, a.id, a.offset), (&b.frame, b.id, b.offset));
            assert_eq!(
                (a.content(), a.timestamp_ms, &a.layout),
                (b.content(), b.timestamp_ms, &b.layout)
            );
        }
        let end = Offset(99);
        let (frames, count) = stored.frames(3, end).unwrap().unwrap();
        assert_eq!((count, frames), (2, Bytes::from([&all[3].frame[..], &all[4].frame].concat())));
        let (frames, count) = stored.frames(2, Offset(10)).unwrap().unwrap();
        assert_eq!((count, frames), (2, Bytes::from([&all[2].frame[..], &all[3].frame].concat())));
        assert!(stored.frames(5, end).unwrap().is_none());
        assert!(stored.frames(0, Offset(6)).unwrap().is_none());
    }

    #[test]
    fn no_damage_makes_a_reader_panic() {
        let encoded = encode(Offset(0), Totals::default(), &messages(1..5)).unwrap();
        for at in 0..encoded.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = encoded.clone();
                damaged[at] ^= flip;
                if let Ok(stored) = Stored::parse(damaged.into()) {
                    let all = stored.pick(0..4).unwrap();
                    let _ = all.iter().map(|m| m.content().len()).sum::<usize>();
                    let _ = stored.of_type(0..4, b"e");
                    let _ = stored.totals_at(stored.last);
                }
            }
            assert!(Stored::parse(encoded[..at].to_vec().into()).is_err() || at == 0);
        }
    }
}
