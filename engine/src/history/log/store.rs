//! The log on disk: a fjall database with one keyspace of records and one of channels.
//!
//! A record's key is its channel's log id and its first offset, both big-endian, so that a channel's
//! records lie in their order behind each other. A channel's own entry has what must be known of it
//! when none of its records is kept any more.

use std::ops::RangeInclusive;
use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use pushflo_protocol::{ChannelSlug, Epoch, Message, Offset};
use rkyv::rancor::Error as ArchiveError;
use rkyv::{Archive, Deserialize, Serialize};

use super::record::{self, Stored, Totals};
use super::{LoadedAnswer, LoadedChannel, LogError, LogId, NewChannel, StoredAnswer};
use crate::auth::AppId;
use crate::clock;
use crate::history::{PageQuery, Retention};
use crate::shard::ChannelKey;

/// Journals larger than this make fjall write its tables; it is also what a start after a crash
/// reads again.
const JOURNAL_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Blocks of tables kept in memory.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// The log on disk.
pub(super) struct Store {
    database: Database,
    records: Keyspace,
    channels: Keyspace,
    answers: Keyspace,
    usage: Keyspace,
    state: Keyspace,
}

/// What was found when the log was opened.
pub(super) struct Found {
    /// Names this incarnation of the log; it goes into epochs.
    pub(super) incarnation: u64,
    /// The channels.
    pub(super) channels: Vec<LoadedChannel>,
    /// The machine went down without warning since the log was last closed.
    pub(super) after_power_loss: bool,
    /// The first log id that is free.
    pub(super) next_log: u64,
    /// Answers for publishers who ask again.
    pub(super) answers: Vec<LoadedAnswer>,
    /// Month number and messages logged in it, by app.
    pub(super) usage: Vec<(AppId, u16, u64)>,
}

/// What is kept of a channel whose records may all be gone.
#[derive(Archive, Serialize, Deserialize)]
struct ChannelEntry {
    log: u64,
    epoch: u64,
    /// The last offset when no record is kept.
    head: u64,
    last_ms: u64,
    messages: u64,
    bytes: u64,
    created_ms: u64,
}

impl ChannelEntry {
    /// That of a channel without messages.
    fn new(log: LogId, epoch: Epoch, created_ms: u64) -> Self {
        let (log, epoch) = (log.0, epoch.0);
        Self { log, epoch, head: 0, last_ms: 0, messages: 0, bytes: 0, created_ms }
    }
}

/// A run of messages on its way to the log.
pub(super) struct Run<'a> {
    pub(super) log: LogId,
    pub(super) prev: Offset,
    pub(super) before: Totals,
    pub(super) messages: &'a [Message],
    /// The channel, with its first messages.
    pub(super) new: Option<&'a NewChannel>,
    /// What their publishers are told if they ask again.
    pub(super) answers: &'a [StoredAnswer],
}

/// All that a group changes.
pub(super) struct Group<'a> {
    pub(super) runs: &'a [Run<'a>],
    pub(super) deletes: &'a [(LogId, ChannelKey)],
    /// Month number and messages logged in it by now, by app.
    pub(super) usage: &'a [(AppId, (u16, u64))],
    /// Whether it is to reach the disk at once.
    pub(super) sync: bool,
}

/// Messages that were read: their frames, and where they end.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Frames behind each other, oldest first.
    pub frames: Vec<Bytes>,
    /// How many they are.
    pub messages: u64,
}

impl Store {
    /// Opens the log in `path`, or makes it. `seed` names it if it is new.
    pub(super) fn open(path: &Path, seed: u64) -> Result<(Self, Found), LogError> {
        let database = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(1)
            .open()?;
        let store = Self {
            records: database.keyspace("records", KeyspaceCreateOptions::default)?,
            channels: database.keyspace("channels", KeyspaceCreateOptions::default)?,
            answers: database.keyspace("answers", KeyspaceCreateOptions::default)?,
            usage: database.keyspace("usage", KeyspaceCreateOptions::default)?,
            state: database.keyspace("state", KeyspaceCreateOptions::default)?,
            database,
        };
        let stored = store.state.get("incarnation")?;
        let stored =
            stored.and_then(|bytes| bytes.as_ref().try_into().ok().map(u64::from_be_bytes));
        if stored.is_none() {
            store.state.insert("incarnation", seed.to_be_bytes())?;
        }
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let opened_in = store.state.get("open")?;
        let after_power_loss = opened_in.is_some_and(|earlier| earlier.as_ref() != boot);
        let (channels, next_log) = store.load(seed)?;
        let (answers, usage) = (store.load_answers()?, store.load_usage()?);
        store.state.insert("open", &boot)?;
        store.database.persist(PersistMode::SyncAll)?;
        let incarnation = stored.unwrap_or(seed);
        let found = Found { incarnation, channels, after_power_loss, next_log, answers, usage };
        Ok((store, found))
    }

    /// Writes what is still on its way to the disk and notes that all is there.
    pub(super) fn close(self) -> Result<(), LogError> {
        self.state.remove("open")?;
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }

    fn load(&self, seed: u64) -> Result<(Vec<LoadedChannel>, u64), LogError> {
        let (mut channels, mut next_log, mut lost) = (Vec::new(), 1, Vec::new());
        for guard in self.channels.iter() {
            let (key, value) = guard.into_inner()?;
            let entry = rkyv::from_bytes::<ChannelEntry, ArchiveError>(&value)
                .map_err(|error| LogError::Damaged(format!("a channel: {error}")))?;
            let channel = parse_channel(&key)?;
            let (log, epoch) = (LogId(entry.log), Epoch(entry.epoch));
            next_log = next_log.max(entry.log + 1);
            let (head, last_ms, totals) = match self.edge(log, true) {
                Ok(Some(record)) => (record.last, record.last_ms, record.after),
                Ok(None) => {
                    let totals = Totals { messages: entry.messages, bytes: entry.bytes };
                    (Offset(entry.head), entry.last_ms, totals)
                }
                Err(LogError::Damaged(reason)) => {
                    lost.push((channel, epoch, reason));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let next = head.next();
            let created_ms = entry.created_ms;
            channels.push(LoadedChannel {
                channel,
                log,
                epoch,
                head,
                next,
                last_ms,
                totals,
                created_ms,
            });
        }
        for (channel, epoch, reason) in lost {
            channels.push(self.begin_anew(channel, epoch, LogId(next_log), seed, &reason)?);
            next_log += 1;
        }
        Ok((channels, next_log))
    }

    /// A channel whose end cannot be read: nobody knows what was said last, so it begins again, in
    /// another epoch.
    fn begin_anew(
        &self,
        channel: ChannelKey,
        epoch: Epoch,
        log: LogId,
        seed: u64,
        reason: &str,
    ) -> Result<LoadedChannel, LogError> {
        tracing::error!(
            channel = channel.slug.as_str(),
            reason,
            "a channel's history cannot be read and is lost; it begins a new epoch"
        );
        let epoch = Epoch(epoch.0.wrapping_add(seed | 1));
        let created_ms = clock::unix_ms();
        let entry = ChannelEntry::new(log, epoch, created_ms);
        self.channels.insert(channel_key(&channel), encode(&entry)?)?;
        let (head, next, totals) = (Offset(0), Offset(1), Totals::default());
        Ok(LoadedChannel { channel, log, epoch, head, next, last_ms: 0, totals, created_ms })
    }

    /// Makes the changes of a group, all or none of them.
    pub(super) fn write(&self, group: &Group<'_>) -> Result<(), LogError> {
        let mode = if group.sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.database.batch().durability(Some(mode));
        for run in group.runs {
            let Some(first) = run.messages.first() else { continue };
            if let Some(NewChannel { channel, epoch, created_ms }) = run.new {
                let entry = ChannelEntry::new(run.log, *epoch, *created_ms);
                batch.insert(&self.channels, channel_key(channel), encode(&entry)?);
            }
            let value = record::encode(run.prev, run.before, run.messages)?;
            batch.insert(&self.records, record_key(run.log, first.offset), value);
            for answer in run.answers {
                let key = answer_key(answer.until_ms, run.log, &answer.key);
                batch.insert(&self.answers, key, answer_value(answer));
            }
        }
        for (log, channel) in group.deletes {
            // Only its own entry: a channel of the same name may have been made since.
            if self.entry(channel)?.is_some_and(|entry| entry.log == log.0) {
                batch.remove(&self.channels, channel_key(channel));
            }
            for guard in self.records.range(range(*log, Offset(0))) {
                batch.remove(&self.records, guard.key()?);
            }
        }
        for (app, (month, messages)) in group.usage {
            let value = [&month.to_be_bytes()[..], &messages.to_be_bytes()].concat();
            batch.insert(&self.usage, app.0.to_be_bytes(), value);
        }
        Ok(batch.commit()?)
    }

    fn entry(&self, channel: &ChannelKey) -> Result<Option<ChannelEntry>, LogError> {
        let Some(value) = self.channels.get(channel_key(channel))? else { return Ok(None) };
        let entry = rkyv::from_bytes::<ChannelEntry, ArchiveError>(&value);
        entry.map(Some).map_err(|error| LogError::Damaged(format!("a channel: {error}")))
    }

    fn load_answers(&self) -> Result<Vec<LoadedAnswer>, LogError> {
        let mut answers = Vec::new();
        for guard in self.answers.range(clock::unix_ms().to_be_bytes().to_vec()..) {
            let (key, value) = guard.into_inner()?;
            // One that is damaged is as good as forgotten.
            answers.extend(parse_answer(&key, &value));
        }
        Ok(answers)
    }

    fn load_usage(&self) -> Result<Vec<(AppId, u16, u64)>, LogError> {
        let mut usage = Vec::new();
        for guard in self.usage.iter() {
            let (key, value) = guard.into_inner()?;
            let app = key.as_ref().try_into().map(u32::from_be_bytes).map(AppId).ok();
            let count = value.split_first_chunk().and_then(|(month, messages)| {
                Some((u16::from_be_bytes(*month), u64::from_be_bytes(messages.try_into().ok()?)))
            });
            usage.extend(app.zip(count).map(|(app, (month, messages))| (app, month, messages)));
        }
        Ok(usage)
    }

    /// Drops answers that nobody can ask for any more.
    pub(super) fn forget_answers(&self, now_ms: u64, most: usize) -> Result<(), LogError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        for guard in self.answers.range(..now_ms.to_be_bytes().to_vec()).take(most) {
            batch.remove(&self.answers, guard.key()?);
        }
        Ok(batch.commit()?)
    }

    /// Has what was written so far reach the disk.
    pub(super) fn sync(&self) -> Result<(), LogError> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    /// The messages after `offset` up to `until`; `None` if any of them is not kept, or if `offset`
    /// is none of the channel's, or if no limit keeps so many.
    pub(super) fn after(
        &self,
        log: LogId,
        offset: Offset,
        until: Offset,
        keep: &Keep,
    ) -> Result<Option<Past>, LogError> {
        let (mut past, mut last, mut bytes) = (Past::default(), offset, 0);
        let mut oldest_ms = u64::MAX;
        let mut from = offset.next();
        // The place is inside a record, or at its end.
        if let Some(record) = self.at(log, offset)?.filter(|record| record.last >= offset) {
            let skip = offset.0 - record.first.0;
            let wanted = |index, ms| {
                let wanted = index > skip;
                oldest_ms = if wanted { ms } else { u64::MAX };
                wanted
            };
            past.push(&record, wanted, until)?;
            last = record.last;
            from = last.next();
        }
        for guard in self.records.range(range(log, from)) {
            if last >= until {
                break;
            }
            let record = Stored::parse(guard.into_inner()?.1.into())?;
            // Behind a hole the past would be a part that looks whole.
            if record.prev != last {
                return Ok(None);
            }
            let wanted = |_, ms| {
                oldest_ms = oldest_ms.min(ms);
                true
            };
            past.push(&record, wanted, until)?;
            last = record.last;
            bytes += record.after.bytes - record.before.bytes;
            if bytes > keep.bytes_max || past.messages > keep.messages_max {
                return Ok(None);
            }
        }
        Ok((last >= until && oldest_ms >= keep.since_ms).then_some(past))
    }

    /// What is kept since a time up to `until`, at most the last `messages_max` messages.
    pub(super) fn recent(
        &self,
        log: LogId,
        since_ms: u64,
        messages_max: u64,
        until: Offset,
        keep: &Keep,
    ) -> Result<Past, LogError> {
        let (since_ms, messages_max) =
            (since_ms.max(keep.since_ms), messages_max.min(keep.messages_max));
        let mut records = Vec::new();
        let (mut messages, mut bytes) = (0, 0);
        let all = record_key(log, Offset(0))..=record_key(log, until);
        for guard in self.records.range(all).rev() {
            let record = Stored::parse(guard.into_inner()?.1.into())?;
            bytes += record.after.bytes - record.before.bytes;
            if record.last_ms < since_ms || messages >= messages_max || bytes > keep.bytes_max {
                break;
            }
            messages += record.last.0.min(until.0) - record.first.0 + 1;
            records.push(record);
        }
        let mut skip = messages.saturating_sub(messages_max);
        let mut past = Past::default();
        for record in records.iter().rev() {
            let wanted = |_, ms| {
                let wanted = skip == 0 && ms >= since_ms;
                skip = skip.saturating_sub(1);
                wanted
            };
            past.push(record, wanted, until)?;
        }
        Ok(past)
    }

    /// The messages of a page, newest first, and how many match in all.
    pub(super) fn page(
        &self,
        log: LogId,
        query: &PageQuery,
        keep: &Keep,
    ) -> Result<(Vec<Message>, u64), LogError> {
        let wanted = query.event_type.as_deref().and_then(|t| serde_json::to_string(t).ok());
        let matches = |message: &Message| {
            wanted.as_ref().is_none_or(|wanted| message.event_type_json() == wanted.as_bytes())
                && message.timestamp_ms >= keep.since_ms
                && query.after_ms.is_none_or(|after| message.timestamp_ms > after)
                && query.before_ms.is_none_or(|before| message.timestamp_ms < before)
        };
        let skip = (query.page - 1).saturating_mul(query.page_size);
        let (mut items, mut total, mut seen) = (Vec::new(), 0, 0u64);
        for guard in self.records.range(range(log, Offset(0))).rev() {
            let record = Stored::parse(guard.into_inner()?.1.into())?;
            if record.last_ms < keep.since_ms.max(query.after_ms.unwrap_or(0)) {
                break;
            }
            for message in record.messages()?.into_iter().rev() {
                seen += 1;
                if seen > keep.messages_max {
                    return Ok((items, total));
                }
                if !matches(&message) {
                    continue;
                }
                if total >= skip && (items.len() as u64) < query.page_size {
                    items.push(message);
                }
                total += 1;
            }
        }
        Ok((items, total))
    }

    /// Drops up to `records_max` records that no limit keeps.
    pub(super) fn trim(
        &self,
        channel: &TrimChannel<'_>,
        keep: &Keep,
        records_max: usize,
    ) -> Result<Trimmed, LogError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        let (mut oldest, mut dropped) = (None, 0);
        let mut last_dropped = None;
        for guard in self.records.range(range(channel.log, Offset(0))) {
            let (key, value) = guard.into_inner()?;
            let record = Stored::parse(value.into())?;
            if keep.wants(&record, channel.totals) || dropped >= records_max {
                oldest = Some(Oldest { before: record.before, last_ms: record.last_ms });
                break;
            }
            batch.remove(&self.records, key);
            dropped += 1;
            last_dropped = Some(record);
        }
        if let (None, Some(record)) = (oldest, &last_dropped) {
            // Nothing is left to tell where the channel stands.
            let entry = ChannelEntry {
                log: channel.log.0,
                epoch: channel.epoch.0,
                head: record.last.0,
                last_ms: record.last_ms,
                messages: record.after.messages,
                bytes: record.after.bytes,
                created_ms: self.entry(channel.channel)?.map_or(0, |entry| entry.created_ms),
            };
            batch.insert(&self.channels, channel_key(channel.channel), encode(&entry)?);
        }
        batch.commit()?;
        Ok(Trimmed { oldest, dropped, more: dropped >= records_max })
    }

    /// Drops the records behind the first `messages` messages of a channel: those of a group that
    /// was refused and is there all the same.
    pub(super) fn cut(&self, log: LogId, messages: u64) -> Result<(), LogError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        for guard in self.records.range(range(log, Offset(0))).rev() {
            let (key, value) = guard.into_inner()?;
            if Stored::parse(value.into())?.before.messages < messages {
                break;
            }
            batch.remove(&self.records, key);
        }
        Ok(batch.commit()?)
    }

    /// Bytes on disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.database.disk_space().unwrap_or(0)
    }

    /// The first or last record of a channel.
    fn edge(&self, log: LogId, last: bool) -> Result<Option<Stored>, LogError> {
        let mut records = self.records.range(range(log, Offset(0)));
        let guard = if last { records.next_back() } else { records.next() };
        guard.map(|guard| Stored::parse(guard.into_inner()?.1.into())).transpose()
    }

    /// The record with the last first offset that is not after `offset`.
    fn at(&self, log: LogId, offset: Offset) -> Result<Option<Stored>, LogError> {
        let to = record_key(log, offset);
        let guard = self.records.range(record_key(log, Offset(0))..=to).next_back();
        guard.map(|guard| Stored::parse(guard.into_inner()?.1.into())).transpose()
    }
}

/// What the limits keep of a channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// Nothing older than this.
    pub(super) since_ms: u64,
    pub(super) messages_max: u64,
    pub(super) bytes_max: u64,
}

impl Keep {
    pub(super) fn new(retention: &Retention, now_ms: u64) -> Self {
        Self {
            since_ms: retention.since_ms(now_ms),
            messages_max: retention.messages_max as u64,
            bytes_max: retention.channel_bytes_max as u64,
        }
    }

    fn wants(&self, record: &Stored, totals: Totals) -> bool {
        record.last_ms >= self.since_ms
            && totals.messages.saturating_sub(record.after.messages) < self.messages_max
            && totals.bytes.saturating_sub(record.after.bytes) < self.bytes_max
    }
}

/// A channel whose records are to be trimmed.
pub(super) struct TrimChannel<'a> {
    pub(super) channel: &'a ChannelKey,
    pub(super) log: LogId,
    pub(super) epoch: Epoch,
    pub(super) totals: Totals,
}

/// What a trim did.
pub(super) struct Trimmed {
    /// The oldest record left.
    pub(super) oldest: Option<Oldest>,
    /// Records dropped.
    pub(super) dropped: usize,
    /// There may be more to drop.
    pub(super) more: bool,
}

/// The oldest record that is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Oldest {
    pub(super) before: Totals,
    pub(super) last_ms: u64,
}

impl Past {
    fn push(
        &mut self,
        record: &Stored,
        wanted: impl FnMut(u64, u64) -> bool,
        until: Offset,
    ) -> Result<(), LogError> {
        if let Some((frames, messages)) = record.frames(wanted, until)? {
            self.frames.push(frames);
            self.messages += messages;
        }
        Ok(())
    }
}

fn range(log: LogId, from: Offset) -> RangeInclusive<[u8; 16]> {
    record_key(log, from)..=record_key(log, Offset(u64::MAX))
}

fn record_key(log: LogId, offset: Offset) -> [u8; 16] {
    (u128::from(log.0) << 64 | u128::from(offset.0)).to_be_bytes()
}

/// By the time until which it is kept, so that those that are over lie together.
fn answer_key(until_ms: u64, log: LogId, key: &str) -> Vec<u8> {
    [&until_ms.to_be_bytes()[..], &log.0.to_be_bytes(), key.as_bytes()].concat()
}

fn answer_value(answer: &StoredAnswer) -> Vec<u8> {
    [&answer.content.to_be_bytes()[..], &answer.body].concat()
}

fn parse_answer(key: &[u8], value: &[u8]) -> Option<LoadedAnswer> {
    let (until, key) = key.split_first_chunk()?;
    let (log, key) = key.split_first_chunk()?;
    let (content, body) = value.split_first_chunk()?;
    let answer = StoredAnswer {
        key: str::from_utf8(key).ok()?.into(),
        content: u64::from_be_bytes(*content),
        until_ms: u64::from_be_bytes(*until),
        body: Bytes::copy_from_slice(body),
    };
    Some(LoadedAnswer { log: LogId(u64::from_be_bytes(*log)), answer })
}

fn channel_key(channel: &ChannelKey) -> Vec<u8> {
    [&channel.app.0.to_be_bytes(), channel.slug.as_str().as_bytes()].concat()
}

fn parse_channel(key: &[u8]) -> Result<ChannelKey, LogError> {
    let damaged = || LogError::Damaged("the name of a channel".into());
    let (app, slug) = key.split_first_chunk().ok_or_else(damaged)?;
    let slug = str::from_utf8(slug).ok().and_then(|slug| ChannelSlug::parse(slug).ok());
    Ok(ChannelKey { app: AppId(u32::from_be_bytes(*app)), slug: slug.ok_or_else(damaged)? })
}

fn encode(entry: &ChannelEntry) -> Result<Vec<u8>, LogError> {
    rkyv::to_bytes::<ArchiveError>(entry)
        .map(|bytes| bytes.to_vec())
        .map_err(|error| LogError::Damaged(format!("a channel cannot be encoded: {error}")))
}
