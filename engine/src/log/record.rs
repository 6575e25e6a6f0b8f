//! Runs of consecutive records of one channel as the log stores them, archived with rkyv and read in
//! place.
//!
//! The parts of a run lie behind each other, so that a record that is read is a slice of what came from
//! disk. Each run carries how many messages and bytes the channel had before it, so that totals and
//! limits need two look-ups and no counting.

use std::ops::Range;

use bytes::Bytes;
use pushflo_protocol::{MessageId, Offset, Parts, Record};
use rkyv::rancor::Error as ArchiveError;
use rkyv::{Archive, Serialize};

use super::LogError;

/// Consecutive records of one channel.
#[derive(Archive, Serialize)]
struct EncodedRun {
    /// The offset before the first; it is one less than that, but for a leap.
    prev: u64,
    first: u64,
    /// Messages and bytes of the channel before this run, kept or not.
    messages_before: u64,
    bytes_before: u64,
    entries: Vec<IndexEntry>,
    parts: Vec<u8>,
}

#[derive(Archive, Serialize)]
struct IndexEntry {
    id: u128,
    timestamp_ms: u64,
    /// Where its parts end among all.
    end: u32,
    event_type_bytes: u8,
    /// [`NO_CLIENT_ID`] where the publisher said none.
    client_id_bytes: u8,
}

/// Longer than any client id.
const NO_CLIENT_ID: u8 = u8::MAX;

const _: () = assert!(pushflo_protocol::limits::CLIENT_ID_BYTES_MAX < NO_CLIENT_ID as usize);

/// Counts of a channel's messages up to some place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many messages.
    pub messages: u64,
    /// Bytes of their parts.
    pub bytes: u64,
}

impl Totals {
    /// What there is with these records behind it.
    pub(super) fn with(self, records: &[Record]) -> Self {
        let bytes: usize = records.iter().map(|record| record.parts.as_bytes().len()).sum();
        Self { messages: self.messages + records.len() as u64, bytes: self.bytes + bytes as u64 }
    }
}

/// Encodes records whose offsets follow each other, but for a leap before the first.
pub(super) fn encode(before: Totals, records: &[Record]) -> Result<Vec<u8>, LogError> {
    debug_assert!(
        records.windows(2).all(|pair| matches!(pair, [a, b] if b.offset == a.offset.next())),
        "a leap within a run"
    );
    let bytes = records.iter().map(|record| record.parts.as_bytes().len()).sum();
    let mut parts = Vec::with_capacity(bytes);
    let entries = records.iter().map(|record| {
        parts.extend_from_slice(record.parts.as_bytes());
        IndexEntry {
            id: record.id.0,
            timestamp_ms: record.timestamp_ms,
            end: parts.len() as u32,
            event_type_bytes: record.parts.event_type_bytes(),
            client_id_bytes: record.parts.client_id_bytes().unwrap_or(NO_CLIENT_ID),
        }
    });
    let run = EncodedRun {
        prev: records.first().map_or(0, |record| record.prev.0),
        first: records.first().map_or(0, |record| record.offset.0),
        messages_before: before.messages,
        bytes_before: before.bytes,
        entries: entries.collect(),
        parts,
    };
    rkyv::to_bytes::<ArchiveError>(&run)
        .map(|bytes| bytes.to_vec())
        .map_err(|error| LogError::Damaged(format!("a record cannot be encoded: {error}")))
}

/// A run as it was read.
#[derive(Clone, Debug)]
pub(super) struct StoredRun {
    /// The offset before its first record.
    pub(super) prev: Offset,
    /// Its first offset.
    pub(super) first: Offset,
    /// Its last offset.
    pub(super) last: Offset,
    /// When its last record got its offset.
    pub(super) last_ms: u64,
    /// What came before it.
    pub(super) before: Totals,
    /// What there is with it.
    pub(super) after: Totals,
    bytes: Bytes,
}

impl StoredRun {
    /// Reads a run, checking all of it but its texts.
    pub(super) fn parse(bytes: Bytes) -> Result<Self, LogError> {
        let run = access(&bytes)?;
        let (first, count) = (run.first.to_native(), run.entries.len() as u64);
        let before = Totals {
            messages: run.messages_before.to_native(),
            bytes: run.bytes_before.to_native(),
        };
        let Some(last) = run.entries.last() else {
            return Err(LogError::Damaged("a record without messages".into()));
        };
        let mut start = 0;
        for entry in run.entries.iter() {
            let end = entry.end.to_native();
            let fits = end.checked_sub(start).is_some_and(|bytes| {
                u32::from(entry.event_type_bytes)
                    + u32::from(entry.client_id_bytes().unwrap_or_default())
                    <= bytes
            });
            if !fits || end as usize > run.parts.len() {
                return Err(LogError::Damaged("a record whose parts do not fit".into()));
            }
            start = end;
        }
        Ok(Self {
            prev: Offset(run.prev.to_native()),
            first: Offset(first),
            last: Offset(first.saturating_add(count - 1)),
            last_ms: last.timestamp_ms.to_native(),
            before,
            after: Totals {
                messages: before.messages + count,
                bytes: before.bytes + run.parts.len() as u64,
            },
            bytes,
        })
    }

    /// Bytes that it takes.
    pub(super) fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// What there is up to the record at `offset`, itself included.
    pub(super) fn totals_at(&self, offset: Offset) -> Result<Totals, LogError> {
        let Some(position) = offset.0.checked_sub(self.first.0) else { return Ok(self.before) };
        let run = access(&self.bytes)?;
        let Some(entry) = usize::try_from(position).ok().and_then(|at| run.entries.get(at)) else {
            return Ok(self.after);
        };
        Ok(Totals {
            messages: self.before.messages + position + 1,
            bytes: self.before.bytes + u64::from(entry.end.to_native()),
        })
    }

    /// The number of its first record for which `is_wanted` says so, or of the one behind its last.
    /// `is_wanted` is given what came before a record, and its time.
    pub(super) fn number_of(
        &self,
        is_wanted: impl Fn(Totals, u64) -> bool,
    ) -> Result<u64, LogError> {
        let run = access(&self.bytes)?;
        let mut before = self.before;
        for entry in run.entries.iter() {
            if is_wanted(before, entry.timestamp_ms.to_native()) {
                break;
            }
            before.messages += 1;
            before.bytes = self.before.bytes + u64::from(entry.end.to_native());
        }
        Ok(before.messages)
    }

    /// The positions of its records that have these numbers.
    pub(super) fn positions(&self, numbers: &Range<u64>) -> Range<u64> {
        let position = |number: u64| {
            number.clamp(self.before.messages, self.after.messages) - self.before.messages
        };
        position(numbers.start)..position(numbers.end)
    }

    /// The positions of its records behind the first `skip` up to the offset `until`.
    pub(super) fn positions_until(&self, skip: u64, until: Offset) -> Range<u64> {
        let count = self.after.messages - self.before.messages;
        let end = until.0.checked_sub(self.first.0).map_or(0, |last| (last + 1).min(count));
        skip.min(end)..end
    }

    /// Those of the positions at which records of one type are.
    pub(super) fn of_type(
        &self,
        positions: Range<u64>,
        event_type: &str,
    ) -> Result<Vec<u64>, LogError> {
        let run = access(&self.bytes)?;
        let is_of_type = |position: &u64| {
            run.parts(*position).is_some_and(|(parts, entry)| {
                parts.get(..entry.event_type_bytes.into()) == Some(event_type.as_bytes())
            })
        };
        Ok(positions.filter(is_of_type).collect())
    }

    /// The records at these positions, in that order.
    pub(super) fn pick(
        &self,
        positions: impl Iterator<Item = u64>,
    ) -> Result<Vec<Record>, LogError> {
        let run = access(&self.bytes)?;
        let record = |position: u64| {
            let (parts, entry) = run.parts(position)?;
            let bytes = self.bytes.slice_ref(parts);
            let parts = Parts::from_stored(bytes, entry.event_type_bytes, entry.client_id_bytes())?;
            let offset = self.first.0 + position;
            Some(Record {
                id: MessageId(entry.id.to_native()),
                offset: Offset(offset),
                prev: if position == 0 { self.prev } else { Offset(offset - 1) },
                timestamp_ms: entry.timestamp_ms.to_native(),
                parts,
            })
        };
        let damaged = || LogError::Damaged("a record whose parts are no text".into());
        positions.map(|position| record(position).ok_or_else(damaged)).collect()
    }
}

impl ArchivedIndexEntry {
    fn client_id_bytes(&self) -> Option<u8> {
        Some(self.client_id_bytes).filter(|bytes| *bytes != NO_CLIENT_ID)
    }
}

impl ArchivedEncodedRun {
    /// The parts and the entry of the record at a position.
    fn parts(&self, position: u64) -> Option<(&[u8], &ArchivedIndexEntry)> {
        let position = usize::try_from(position).ok()?;
        let entry = self.entries.get(position)?;
        let before = position.checked_sub(1).and_then(|before| self.entries.get(before));
        let start = before.map_or(0, |before| before.end.to_native() as usize);
        let parts = self.parts.as_slice().get(start..entry.end.to_native() as usize)?;
        Some((parts, entry))
    }
}

fn access(bytes: &[u8]) -> Result<&ArchivedEncodedRun, LogError> {
    rkyv::access::<ArchivedEncodedRun, ArchiveError>(bytes)
        .map_err(|error| LogError::Damaged(format!("a record cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(prev: u64, offsets: Range<u64>) -> Vec<Record> {
        let record = |offset| Record {
            id: MessageId(u128::from(offset) << 70),
            offset: Offset(offset),
            prev: if offset == offsets.start { Offset(prev) } else { Offset(offset - 1) },
            timestamp_ms: 1_000 + offset,
            parts: Parts::new(
                "e",
                Some("me").filter(|_| offset % 2 == 0),
                &format!("{{\"n\":{offset}}}"),
            ),
        };
        offsets.clone().map(record).collect()
    }

    #[test]
    fn records_come_back_as_they_went_in() {
        let all = records(4, 7..12);
        let before = Totals { messages: 3, bytes: 100 };
        let encoded = encode(before, &all).unwrap();
        // Read from an odd address, as from the middle of a block.
        let odd = Bytes::from([&[0u8][..], &encoded].concat()).slice(1..);
        let stored = StoredRun::parse(odd).unwrap();
        assert_eq!((stored.prev, stored.first, stored.last), (Offset(4), Offset(7), Offset(11)));
        assert_eq!((stored.before, stored.after), (before, before.with(&all)));
        assert_eq!((stored.after.messages, stored.last_ms), (8, 1_011));
        assert_eq!(stored.pick(0..5).unwrap(), all);
        assert_eq!(stored.positions_until(3, Offset(99)), 3..5);
        assert_eq!(stored.positions_until(2, Offset(10)), 2..4);
        assert!(stored.positions_until(5, Offset(99)).is_empty());
        assert!(stored.positions_until(0, Offset(6)).is_empty());
        assert_eq!(stored.of_type(1..4, "e").unwrap(), [1, 2, 3]);
        assert!(stored.of_type(1..4, "f").unwrap().is_empty());
    }

    #[test]
    fn no_damage_makes_a_reader_panic() {
        let encoded = encode(Totals::default(), &records(0, 1..5)).unwrap();
        for at in 0..encoded.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = encoded.clone();
                damaged[at] ^= flip;
                if let Ok(stored) = StoredRun::parse(damaged.into()) {
                    let all = stored.pick(0..4).unwrap_or_default();
                    let _ = all.iter().map(|r| r.parts.content().len()).sum::<usize>();
                    let _ = stored.of_type(0..4, "e");
                    let _ = stored.totals_at(stored.last);
                }
            }
            assert!(StoredRun::parse(encoded[..at].to_vec().into()).is_err() || at == 0);
        }
    }
}
