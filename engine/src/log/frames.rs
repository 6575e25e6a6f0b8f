//! The log's first format: records as WebSocket frames, and answers as the JSON they had. Read only, to
//! bring a log of it to today's.
//!
//! Everything moves in steps that are whole on disk, from the old keyspaces into the new ones, so it goes
//! on where it was if it is interrupted.

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use pushflo_protocol::time::parse_iso8601;
use pushflo_protocol::{Epoch, MessageId, Offset, Parts, Receipt, Record};
use rkyv::Archive;
use rkyv::rancor::Error as ArchiveError;
use serde::Deserialize;

use super::record::{self, Totals};
use super::store::{answer_value, parse_answer_key, record_key};
use super::{LogError, StoredAnswer};
use crate::ids::LogId;

/// The keyspaces of this format.
const RECORDS: &str = "records";
const ANSWERS: &str = "answers";

/// Bytes of old records in a step.
const STEP_BYTES: usize = 8 * 1024 * 1024;

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

/// Whether a database has something of this format.
pub(super) fn is_there(database: &Database) -> bool {
    database.keyspace_exists(RECORDS) || database.keyspace_exists(ANSWERS)
}

/// Moves all that is of this format into the keyspaces of today's.
///
/// # Errors
/// The disk, or damage; what was moved stays moved.
pub(super) fn convert(
    database: &Database,
    records: &Keyspace,
    answers: &Keyspace,
) -> Result<(), LogError> {
    tracing::info!("the log is of an earlier version: it is written anew");
    if database.keyspace_exists(RECORDS) {
        let old = database.keyspace(RECORDS, KeyspaceCreateOptions::default)?;
        convert_records(database, &old, records)?;
        database.delete_keyspace(old)?;
    }
    if database.keyspace_exists(ANSWERS) {
        let old = database.keyspace(ANSWERS, KeyspaceCreateOptions::default)?;
        convert_answers(database, &old, answers)?;
        database.delete_keyspace(old)?;
    }
    database.persist(PersistMode::SyncAll)?;
    tracing::info!("the log is of this version now");
    Ok(())
}

fn convert_records(database: &Database, old: &Keyspace, new: &Keyspace) -> Result<(), LogError> {
    let (mut count, mut channel) = (0u64, None);
    loop {
        let mut step = database.batch().durability(Some(PersistMode::Buffer));
        let mut step_bytes = 0;
        for guard in old.iter() {
            let (key, value) = guard.into_inner()?;
            step_bytes += value.len();
            let log =
                key.first_chunk().copied().map_or(LogId(0), |log| LogId(u64::from_be_bytes(log)));
            // Bytes are counted anew, from the first record that is kept; an earlier start may have moved
            // some of the channel.
            let bytes_before = match channel {
                Some((known, bytes)) if known == log => bytes,
                _ => bytes_moved(new, log)?,
            };
            match read(&value) {
                Some((messages_before, run)) => {
                    let before = Totals { messages: messages_before, bytes: bytes_before };
                    let first = run.first().map_or(Offset(0), |record| record.offset);
                    step.insert(new, record_key(log, first), record::encode(before, &run)?);
                    channel = Some((log, before.with(&run).bytes));
                }
                None => tracing::error!(
                    log = log.0,
                    "a record of the log cannot be read; its messages are lost"
                ),
            }
            step.remove(old, key);
            count += 1;
            if count.is_multiple_of(TOLD_EVERY) {
                tracing::info!(records = count, "still writing the log anew");
            }
            if step_bytes >= STEP_BYTES {
                break;
            }
        }
        step.commit()?;
        if step_bytes == 0 {
            return Ok(());
        }
    }
}

/// Bytes of a channel that are moved already.
fn bytes_moved(new: &Keyspace, log: LogId) -> Result<u64, LogError> {
    let last =
        new.range(record_key(log, Offset(0))..=record_key(log, Offset(u64::MAX))).next_back();
    let Some(guard) = last else { return Ok(0) };
    Ok(record::Stored::parse(guard.into_inner()?.1.into())?.after.bytes)
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

fn convert_answers(database: &Database, old: &Keyspace, new: &Keyspace) -> Result<(), LogError> {
    let mut step = database.batch().durability(Some(PersistMode::Buffer));
    for guard in old.iter() {
        let (key, value) = guard.into_inner()?;
        // One that cannot be read is as good as forgotten: it is kept for minutes only.
        if let Some(answer) = read_answer(&key, &value) {
            step.insert(new, key.clone(), answer_value(&answer));
        }
        step.remove(old, key);
    }
    Ok(step.commit()?)
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
