//! The log's first format: records as WebSocket frames, and answers as the JSON they had. Read only, to
//! bring a log of it to today's.
//!
//! Everything moves in steps that are whole on disk, from the old keyspaces into the new ones, so it goes
//! on where it was if it is interrupted.

use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use pushflo_protocol::time::parse_iso8601;
use pushflo_protocol::{Epoch, MessageId, Offset, Parts, Receipt, Record};
use rkyv::Archive;
use rkyv::rancor::Error as ArchiveError;
use serde::Deserialize;

use super::record::{self, Totals};
use super::store::{LEAP, answer_value, parse_answer_key, parse_record_key, record_key, shared};
use super::{LogError, StoredAnswer};
use crate::ids::LogId;

/// The keyspaces of this format.
const RECORDS: &str = "records";
const ANSWERS: &str = "answers";
const LEAPS: &str = "leaps";
const STATE: &str = "state";
/// Those that move as they are; the state last, as with it all has moved.
const UNCHANGED: [&str; 5] = ["channels", LEAPS, "generations", "usage", STATE];

/// Bytes of old entries in a step.
const STEP_BYTES: usize = 8 * 1024 * 1024;

/// What an entry costs beside its value.
const ENTRY_BYTES: usize = 128;

/// Records between two lines about how far it is.
const TOLD_EVERY: u64 = 100_000;

#[derive(Archive)]
#[expect(dead_code, reason = "only what it is archived as is read, and bytes are counted anew")]
struct OldRecord {
    prev: u64,
    first: u64,
    messages_before: u64,
    bytes_before: u64,
    entries: Vec<OldEntry>,
    frames: Vec<u8>,
}

#[derive(Archive)]
struct OldEntry {
    id: u128,
    timestamp_ms: u64,
    /// Where its frame ends among the frames.
    end: u32,
    /// Start and end of event type, client id and content in its frame, the first two as JSON.
    layout: [u32; 6],
}

/// Brings what is of this format to today's, in the keyspaces that `today` opens by their old names.
///
/// # Errors
/// The disk, or damage; what was moved stays moved.
pub(super) fn convert(
    database: &Database,
    today: impl Fn(&str) -> Result<Keyspace, LogError>,
) -> Result<(), LogError> {
    let mut old = Vec::new();
    for name in [RECORDS, ANSWERS].into_iter().chain(UNCHANGED) {
        if database.keyspace_exists(name) {
            old.push((name, database.keyspace(name, KeyspaceCreateOptions::default)?));
        }
    }
    if old.is_empty() {
        return Ok(());
    }
    if today(STATE)?.is_empty()? {
        tracing::info!("the log is of an earlier version: it is written anew");
        for (name, old) in &old {
            match *name {
                RECORDS => convert_records(database, old, &today(RECORDS)?, &today(LEAPS)?)?,
                ANSWERS => convert_each(database, old, &today(ANSWERS)?, |key, value| {
                    // One that cannot be read is as good as forgotten: it is kept for minutes only.
                    read_answer(key, value).map(|answer| answer_value(&answer))
                })?,
                name => {
                    convert_each(database, old, &today(name)?, |_, value| Some(value.to_vec()))?;
                }
            }
        }
        database.persist(PersistMode::SyncAll)?;
        tracing::info!("the log is of this version now");
    }
    for (name, old) in old {
        if old.is_empty()? {
            database.delete_keyspace(old)?;
        } else {
            tracing::warn!(
                keyspace = name,
                "an earlier version of the server has written to this log after a later one had brought \
                 it to its own format; what it wrote is left there and not read"
            );
        }
    }
    Ok(())
}

fn convert_records(
    database: &Database,
    old: &Keyspace,
    new: &Keyspace,
    leaps: &Keyspace,
) -> Result<(), LogError> {
    let (mut count, mut channel) = (0u64, None);
    let mut step = Step::new(database);
    for guard in old.iter() {
        let (key, value) = guard.into_inner()?;
        let (log, first) = parse_record_key(&key)
            .ok_or_else(|| LogError::Damaged("the key of a record".into()))?;
        // Bytes are counted anew, from the first record that is kept; an earlier start may have moved
        // some of the channel.
        let bytes_before = match channel {
            Some((known, bytes)) if known == log => bytes,
            _ => bytes_moved(new, log)?,
        };
        match read(&value) {
            Some((messages_before, run)) => {
                let before = Totals { messages: messages_before, bytes: bytes_before };
                step.batch.insert(new, record_key(log, first), record::encode(before, &run)?);
                channel = Some((log, before.with(&run).bytes));
            }
            None => {
                // It may have been the last: none of its offsets may be given again.
                step.batch.insert(leaps, log.0.to_be_bytes(), (first.0 + LEAP).to_be_bytes());
                tracing::error!(
                    log = log.0,
                    offset = first.0,
                    "a record of the log cannot be read; its messages are lost"
                );
            }
        }
        step.remove(old, key, value.len())?;
        count += 1;
        if count.is_multiple_of(TOLD_EVERY) {
            tracing::info!(records = count, "still writing the log anew");
        }
    }
    step.commit()
}

/// Moves what `convert` makes of each entry, under the same key; what it makes nothing of goes.
fn convert_each(
    database: &Database,
    old: &Keyspace,
    new: &Keyspace,
    convert: impl Fn(&[u8], &[u8]) -> Option<Vec<u8>>,
) -> Result<(), LogError> {
    let mut step = Step::new(database);
    for guard in old.iter() {
        let (key, value) = guard.into_inner()?;
        // What is there already was found in a record.
        if !new.contains_key(&key)?
            && let Some(value) = convert(&key, &value)
        {
            step.batch.insert(new, key.clone(), value);
        }
        step.remove(old, key, value.len())?;
    }
    step.commit()
}

/// What moves at once.
struct Step<'a> {
    database: &'a Database,
    batch: OwnedWriteBatch,
    bytes: usize,
}

impl<'a> Step<'a> {
    fn new(database: &'a Database) -> Self {
        let batch = database.batch().durability(Some(PersistMode::Buffer));
        Self { database, batch, bytes: 0 }
    }

    /// An entry has moved.
    fn remove(&mut self, old: &Keyspace, key: fjall::Slice, bytes: usize) -> Result<(), LogError> {
        self.batch.remove(old, key);
        self.bytes += bytes + ENTRY_BYTES;
        if self.bytes >= STEP_BYTES {
            std::mem::replace(self, Self::new(self.database)).commit()?;
        }
        Ok(())
    }

    fn commit(self) -> Result<(), LogError> {
        Ok(self.batch.commit()?)
    }
}

/// Bytes of a channel that are moved already.
fn bytes_moved(new: &Keyspace, log: LogId) -> Result<u64, LogError> {
    let last =
        new.range(record_key(log, Offset(0))..=record_key(log, Offset(u64::MAX))).next_back();
    let Some(guard) = last else { return Ok(0) };
    Ok(record::StoredRun::parse(shared(guard.into_inner()?.1))?.after.bytes)
}

/// How many messages came before a record, and those that it has.
fn read(value: &[u8]) -> Option<(u64, Vec<Record>)> {
    let old = rkyv::access::<ArchivedOldRecord, ArchiveError>(value).ok()?;
    let (mut start, mut records) = (0, Vec::new());
    for (offset, entry) in (old.first.to_native()..).zip(old.entries.iter()) {
        let end = entry.end.to_native() as usize;
        let frame = old.frames.as_slice().get(start..end)?;
        let [a, b, c, d, e, f] = entry.layout.map(|at| at.to_native() as usize);
        let event_type: String = serde_json::from_slice(frame.get(a..b)?).ok()?;
        let client_id: Option<String> = serde_json::from_slice(frame.get(c..d)?).ok()?;
        let content = str::from_utf8(frame.get(e..f)?).ok()?;
        let prev = if records.is_empty() { old.prev.to_native() } else { offset - 1 };
        records.push(Record {
            id: MessageId(entry.id.to_native()),
            offset: Offset(offset),
            prev: Offset(prev),
            timestamp_ms: entry.timestamp_ms.to_native(),
            parts: Parts::new(&event_type, client_id.as_deref(), content),
        });
        start = end;
    }
    (!records.is_empty()).then_some((old.messages_before.to_native(), records))
}

fn read_answer(key: &[u8], value: &[u8]) -> Option<StoredAnswer> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        data: Data<'a>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Data<'a> {
        id: &'a str,
        created_at: &'a str,
        offset: u64,
        epoch: &'a str,
    }
    let (until_ms, _, key) = parse_answer_key(key)?;
    let (content, value) = value.split_first_chunk()?;
    let (_, body) = value.split_first_chunk::<8>()?;
    let Body { data: Data { id, created_at, offset, epoch } } =
        serde_json::from_slice(body).ok()?;
    let receipt = Receipt {
        id: MessageId::parse(id)?,
        offset: Offset(offset),
        epoch: Epoch::parse(epoch)?,
        timestamp_ms: parse_iso8601(created_at)?,
        delivered: 0,
    };
    let content = u64::from_be_bytes(*content);
    Some(StoredAnswer { key: key.into(), content, until_ms, receipt })
}
