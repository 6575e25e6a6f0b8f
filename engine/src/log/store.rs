//! The log on disk: a fjall database with one keyspace of runs of records and one of channels.
//!
//! A record's key is its channel's log id and its first offset, both big-endian, so that a channel's
//! records lie in their order behind each other. A channel's own entry has what must be known of it
//! when none of its records is kept any more.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, UserValue};
use lsm_tree::AbstractTree as _;
use pushflo_protocol::{ChannelSlug, Epoch, MessageId, Offset, Receipt, Record};
use rkyv::rancor::Error as ArchiveError;
use rkyv::{Archive, Deserialize, Serialize};

use super::frames;
use super::keep::Keep;
use super::record::{self, StoredRun, Totals};
use super::{LoadedAnswer, LoadedChannel, LogError, LogFolder, NewChannel, StoredAnswer};
use crate::clock;
use crate::hash::HashMap;
use crate::ids::{AppId, ChannelKey, EpochSlot, LogId};

/// What the keyspaces hold, and the end of their names: `channels-2`. So no version reads what another has
/// written as its own. The first format had names without it: see [`frames`].
const FORMAT: u32 = 2;

/// Journals larger than this make fjall write its tables; it is also what a start after a crash
/// reads again.
const JOURNAL_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Offsets that are passed over when some may have been lost: more than can be given between two
/// syncs.
pub(super) const LEAP: u64 = 1 << 24;

/// The part of the log's memory that has blocks of tables.
const CACHE_PARTS: u64 = 8;

/// The part of the log's memory that a keyspace takes before what was written goes into a table.
const MEMTABLE_PARTS: u64 = 8;

/// How many such parts wait to be tables before writing does. With one more the database itself waits, in
/// long steps.
const SEALED_MAX: usize = 3;

/// How long writing waits at a time, and how often at most: the worker may have ended, which writing tells.
const STEP: Duration = Duration::from_millis(1);
const STEPS_MAX: usize = 10_000;

/// The log on disk.
pub(super) struct LogStore {
    pub(super) records: Keyspace,
    channels: Keyspace,
    /// Answers for publishers who ask again, by the time until which they are kept.
    answers: Keyspace,
    /// By app: what it logged this month.
    usage: Keyspace,
    /// By log id: the lowest offset that a channel may give next, where that is behind a leap.
    leaps: Keyspace,
    /// By slot of epochs: the generation that it is in.
    generations: Keyspace,
    state: Keyspace,
    oldest: OldestOffsets,
    /// By channel: messages before this offset are cut off from the later ones by a hole that a reader
    /// met.
    holes: OldestOffsets,
    memtable_bytes: u64,
    /// Last, so that its lock is held until nothing has the journal open any more.
    database: Database,
}

/// By channel: no record that is still there begins before this offset. What was removed leaves
/// marks until the store compacts them away, and walking over them takes as long as over records.
#[expect(clippy::disallowed_types, reason = "the log's own threads share it, no shard does")]
type OldestOffsets = std::sync::Mutex<HashMap<LogId, Offset>>;

/// What was found when the log was opened.
pub(super) struct Found {
    /// Names this incarnation of the log; it goes into epochs.
    pub(super) incarnation: u64,
    /// The channels.
    pub(super) channels: Vec<LoadedChannel>,
    /// Channels whose end cannot be read. They are none of the above.
    pub(super) unreadable: Vec<Unreadable>,
    /// The machine went down without warning since the log was last closed.
    pub(super) after_power_loss: bool,
    /// The first log id that is free.
    pub(super) next_log: u64,
    /// Answers for publishers who ask again.
    pub(super) answers: Vec<LoadedAnswer>,
    /// Month number and messages logged in it, by app.
    pub(super) usage: Vec<(AppId, u16, u64)>,
}

/// A channel whose end cannot be read.
pub(super) struct Unreadable {
    pub(super) channel: ChannelKey,
    pub(super) epoch: Epoch,
    pub(super) reason: String,
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
pub(super) struct NewRun<'a> {
    pub(super) log: LogId,
    pub(super) before: Totals,
    pub(super) records: &'a [Record],
    /// The channel, with its first messages.
    pub(super) new: Option<&'a NewChannel>,
    /// What their publishers are told if they ask again.
    pub(super) answers: &'a [StoredAnswer],
}

/// All that a group changes.
#[derive(Default)]
pub(super) struct Group<'a> {
    pub(super) runs: &'a [NewRun<'a>],
    pub(super) deletes: &'a [(LogId, ChannelKey)],
    /// Slots of epochs and their generations.
    pub(super) generations: &'a [(EpochSlot, u32)],
    /// Month number and messages logged in it by now, by app.
    pub(super) usage: &'a [(AppId, (u16, u64))],
    /// Whether it is to reach the disk at once.
    pub(super) sync: bool,
}

impl LogStore {
    /// Opens the log, or makes it. `seed` names it if it is new.
    pub(super) fn open(folder: &LogFolder, seed: u64) -> Result<(Self, Found), LogError> {
        Self::of(open_database(folder)?, folder, seed)
    }

    /// The log that is in a database.
    pub(super) fn of(
        database: Database,
        folder: &LogFolder,
        seed: u64,
    ) -> Result<(Self, Found), LogError> {
        check_format(&database)?;
        let keyspace = |name: &str| -> Result<Keyspace, LogError> {
            let name = format!("{name}-{FORMAT}");
            Ok(database.keyspace(&name, KeyspaceCreateOptions::default)?)
        };
        frames::convert(&database, keyspace)?;
        let store = Self {
            records: keyspace("records")?,
            channels: keyspace("channels")?,
            answers: keyspace("answers")?,
            usage: keyspace("usage")?,
            leaps: keyspace("leaps")?,
            generations: keyspace("generations")?,
            state: keyspace("state")?,
            oldest: OldestOffsets::default(),
            holes: OldestOffsets::default(),
            memtable_bytes: folder.memory_bytes / MEMTABLE_PARTS,
            database,
        };
        let stored = store.state.get("incarnation")?;
        let stored =
            stored.and_then(|bytes| bytes.as_ref().try_into().ok().map(u64::from_be_bytes));
        let opened_in = store.state.get("open")?;
        let after_power_loss = opened_in.is_some_and(|earlier| earlier.as_ref() != boot());
        let (channels, unreadable, next_log) = store.load()?;
        let (answers, usage) = (store.load_answers()?, store.load_usage()?);
        let incarnation = stored.unwrap_or(seed);
        let found =
            Found { incarnation, channels, unreadable, after_power_loss, next_log, answers, usage };
        Ok((store, found))
    }

    /// Notes that the log is open now, in this boot.
    ///
    /// Where messages may have been lost that somebody has seen, `renewed` names a new incarnation:
    /// the offsets of all channels go on behind a leap, and channels that the log does not know begin
    /// other epochs, as one of that name may have been lost whole. This is kept, since the next
    /// message may come after any number of restarts.
    pub(super) fn begin(&self, found: &mut Found, renewed: Option<u64>) -> Result<(), LogError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        if let Some(incarnation) = renewed {
            found.incarnation = incarnation;
            for channel in &mut found.channels {
                channel.next = Offset(channel.next.0 + LEAP);
                let next = channel.next.0.to_be_bytes();
                batch.insert(&self.leaps, channel.log.0.to_be_bytes(), next);
            }
        }
        batch.insert(&self.state, "incarnation", found.incarnation.to_be_bytes());
        batch.insert(&self.state, "open", boot());
        Ok(batch.commit()?)
    }

    /// Writes what is still on its way to the disk and notes that all is there. Nothing may be
    /// written after this.
    pub(super) fn close(&self) -> Result<(), LogError> {
        self.state.remove("open")?;
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }

    fn load(&self) -> Result<(Vec<LoadedChannel>, Vec<Unreadable>, u64), LogError> {
        let (mut channels, mut next_log, mut unreadable) = (Vec::new(), 1, Vec::new());
        for guard in self.channels.iter() {
            let (key, value) = guard.into_inner()?;
            let entry = rkyv::from_bytes::<ChannelEntry, ArchiveError>(&value)
                .map_err(|error| LogError::Damaged(format!("a channel: {error}")))?;
            let channel = parse_channel(&key)?;
            let (log, epoch) = (LogId(entry.log), Epoch(entry.epoch));
            next_log = next_log.max(entry.log + 1);
            let (head, last_ms, totals) = match self.last(log) {
                Ok(Some(record)) => (record.last, record.last_ms, record.after),
                Ok(None) => {
                    let totals = Totals { messages: entry.messages, bytes: entry.bytes };
                    (Offset(entry.head), entry.last_ms, totals)
                }
                Err(LogError::Damaged(reason)) => {
                    unreadable.push(Unreadable { channel, epoch, reason });
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
        self.load_leaps(&mut channels)?;
        // Records of a channel that was lost must not become another's.
        if let Some(guard) = self.records.last_key_value() {
            let key = guard.key()?;
            let log = key.first_chunk().copied().map_or(0, u64::from_be_bytes);
            next_log = next_log.max(log + 1);
        }
        Ok((channels, unreadable, next_log))
    }

    /// Has channels go on behind their leaps, and forgets leaps that messages have gone past.
    fn load_leaps(&self, channels: &mut [LoadedChannel]) -> Result<(), LogError> {
        let mut leaps: HashMap<LogId, Offset> = HashMap::default();
        for guard in self.leaps.iter() {
            let (log, next) = guard.into_inner()?;
            let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
            let (Some(log), Some(next)) = (number(&log), number(&next)) else {
                return Err(LogError::Damaged("a leap".into()));
            };
            leaps.insert(LogId(log), Offset(next));
        }
        for channel in channels {
            if let Some(&next) = leaps.get(&channel.log)
                && next > channel.next
            {
                channel.next = next;
                leaps.remove(&channel.log);
            }
        }
        for log in leaps.keys() {
            self.leaps.remove(log.0.to_be_bytes())?;
        }
        Ok(())
    }

    /// Channels whose end cannot be read: nobody knows what was said last, so they begin again, in
    /// other epochs.
    pub(super) fn begin_anew(&self, found: &mut Found, seed: u64) -> Result<(), LogError> {
        for Unreadable { channel, epoch, reason } in std::mem::take(&mut found.unreadable) {
            tracing::error!(
                app = channel.app.0,
                channel = channel.slug.as_str(),
                reason,
                "a channel's history cannot be read and is lost; it begins a new epoch"
            );
            let (log, epoch) = (LogId(found.next_log), Epoch(epoch.0.wrapping_add(seed | 1)));
            found.next_log += 1;
            found.channels.push(self.make(&channel, log, epoch)?);
        }
        Ok(())
    }

    /// Makes a channel without messages.
    pub(super) fn make(
        &self,
        channel: &ChannelKey,
        log: LogId,
        epoch: Epoch,
    ) -> Result<LoadedChannel, LogError> {
        let created_ms = clock::unix_ms();
        let entry = ChannelEntry::new(log, epoch, created_ms);
        self.channels.insert(channel_key(channel), encode(&entry)?)?;
        let (channel, totals) = (channel.clone(), Totals::default());
        let (head, next) = (Offset(0), Offset(1));
        Ok(LoadedChannel { channel, log, epoch, head, next, last_ms: 0, totals, created_ms })
    }

    /// The folder of the records.
    pub(super) fn records_path(&self) -> &Path {
        self.records.path()
    }

    /// Makes the changes of a group, all or none of them.
    pub(super) fn write(&self, group: &Group<'_>) -> Result<(), LogError> {
        let mode = if group.sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.database.batch().durability(Some(mode));
        // Before the runs: a channel of the same name may begin in the same group, and the last word
        // on a key counts.
        for (log, channel) in group.deletes {
            // Only its own entry: a channel of the same name may have been made before.
            if self.entry(channel)?.is_some_and(|entry| entry.log == log.0) {
                batch.remove(&self.channels, channel_key(channel));
            }
            for guard in self.records.range(range(*log, self.oldest(*log))) {
                match guard.key().map_err(LogError::from) {
                    Ok(key) => batch.remove(&self.records, key),
                    // What cannot be read is nobody's any more; what is behind it stays until the
                    // damaged table is made anew.
                    Err(LogError::Damaged(_)) => break,
                    Err(error) => return Err(error),
                }
            }
            batch.remove(&self.leaps, log.0.to_be_bytes());
            self.oldest.lock().unwrap_or_else(PoisonError::into_inner).remove(log);
            self.holes.lock().unwrap_or_else(PoisonError::into_inner).remove(log);
        }
        let mut generations: BTreeMap<EpochSlot, u32> = BTreeMap::new();
        for &(slot, generation) in group.generations {
            let latest = generations.entry(slot).or_insert(self.generation(slot)?);
            *latest = (*latest).max(generation);
        }
        for (slot, generation) in generations {
            batch.insert(&self.generations, slot.0.to_be_bytes(), generation.to_be_bytes());
        }
        for run in group.runs {
            let Some(first) = run.records.first() else { continue };
            if let Some(NewChannel { channel, epoch, created_ms }) = run.new {
                let entry = ChannelEntry::new(run.log, *epoch, *created_ms);
                batch.insert(&self.channels, channel_key(channel), encode(&entry)?);
            }
            let value = record::encode(run.before, run.records)?;
            batch.insert(&self.records, record_key(run.log, first.offset), value);
            for answer in run.answers {
                let key = answer_key(answer.until_ms, run.log, &answer.key);
                batch.insert(&self.answers, key, answer_value(answer));
            }
        }
        for (app, (month, messages)) in group.usage {
            let value = [&month.to_be_bytes()[..], &messages.to_be_bytes()].concat();
            batch.insert(&self.usage, app.0.to_be_bytes(), value);
        }
        Ok(batch.commit()?)
    }

    /// Whether there is little room for more until some of what was written is in tables.
    pub(super) fn is_short(&self) -> bool {
        let tree = &self.records.tree;
        let is_half_full = tree.active_memtable().size() > self.memtable_bytes / 2;
        is_half_full && tree.sealed_memtable_count() >= SEALED_MAX
    }

    /// Has what was written be put into tables where it is much, and waits where too much waits for that.
    /// The database does so too, but it begins late while its worker compacts, so that there is no bound,
    /// and then it waits long.
    pub(super) fn make_room(&self) -> Result<(), LogError> {
        for keyspace in [&self.records, &self.channels, &self.answers] {
            let is_full =
                |parts| keyspace.tree.active_memtable().size() > parts * self.memtable_bytes;
            let may_seal = || keyspace.tree.sealed_memtable_count() < SEALED_MAX;
            for _ in 0..STEPS_MAX {
                if may_seal() || !is_full(2) {
                    break;
                }
                std::thread::sleep(STEP);
            }
            if is_full(1) && may_seal() {
                keyspace.rotate_memtable()?;
            }
        }
        Ok(())
    }

    fn entry(&self, channel: &ChannelKey) -> Result<Option<ChannelEntry>, LogError> {
        let Some(value) = self.channels.get(channel_key(channel))? else { return Ok(None) };
        let entry = rkyv::from_bytes::<ChannelEntry, ArchiveError>(&value);
        entry.map(Some).map_err(|error| LogError::Damaged(format!("a channel: {error}")))
    }

    fn generation(&self, slot: EpochSlot) -> Result<u32, LogError> {
        let value = self.generations.get(slot.0.to_be_bytes())?;
        Ok(value.and_then(|value| value.as_ref().try_into().ok()).map_or(0, u32::from_be_bytes))
    }

    /// Slots of epochs and the generations that they are in.
    pub(super) fn generations(&self) -> Result<Vec<(EpochSlot, u32)>, LogError> {
        let mut generations = Vec::new();
        for guard in self.generations.iter() {
            let (slot, value) = guard.into_inner()?;
            let slot = slot.as_ref().try_into().ok().map(u16::from_be_bytes).map(EpochSlot);
            let generation = value.as_ref().try_into().ok().map(u32::from_be_bytes);
            generations.extend(slot.zip(generation));
        }
        Ok(generations)
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

    /// Drops up to `most` answers that were kept until a time in `span`: nobody can ask for them any
    /// more. Returns from when on there may be others; before that it need not look again.
    pub(super) fn forget_answers(&self, span: Range<u64>, most: usize) -> Result<u64, LogError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        let (from, to) = (span.start.to_be_bytes().to_vec(), span.end.to_be_bytes().to_vec());
        if from >= to {
            return Ok(span.start);
        }
        let mut dropped = 0;
        for guard in self.answers.range(from..to).take(most) {
            batch.remove(&self.answers, guard.key()?);
            dropped += 1;
        }
        batch.commit()?;
        Ok(if dropped < most { span.end } else { span.start })
    }

    /// Has what was written so far reach the disk.
    pub(super) fn sync(&self) -> Result<(), LogError> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    /// Drops up to `records_max` records that no limit keeps.
    pub(super) fn trim(
        &self,
        channel: &TrimChannel<'_>,
        keep: &Keep,
        records_max: usize,
    ) -> Result<Trimmed, LogError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        let floor = keep.floor(channel.totals);
        let (mut oldest, mut first, mut dropped) = (None, None, 0);
        let mut last_dropped = None;
        for guard in self.records.range(range(channel.log, self.oldest(channel.log))) {
            let (key, value) = guard.into_inner()?;
            let record = StoredRun::parse(shared(value))?;
            if !floor.is_above(&record) || dropped >= records_max {
                oldest = Some(Oldest { before: record.before, last_ms: record.last_ms });
                first = Some(record.first);
                break;
            }
            batch.remove(&self.records, key);
            dropped += 1;
            last_dropped = Some(record);
        }
        if let (None, Some(record)) = (oldest, &last_dropped) {
            // Nothing is left to tell where the channel stands.
            let stored = self.entry(channel.channel)?;
            let entry = ChannelEntry {
                log: channel.log.0,
                epoch: channel.epoch.0,
                head: record.last.0,
                last_ms: record.last_ms,
                messages: record.after.messages,
                bytes: record.after.bytes,
                created_ms: stored.as_ref().map_or(0, |stored| stored.created_ms),
            };
            // One of the same name may have been made since.
            if stored.is_none_or(|stored| stored.log == channel.log.0) {
                batch.insert(&self.channels, channel_key(channel.channel), encode(&entry)?);
            }
        }
        batch.commit()?;
        let first = first.or(last_dropped.map(|record| record.last.next()));
        if let Some(first) = first {
            let mut known = self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(channel.log, first);
        }
        Ok(Trimmed { oldest, dropped, more: dropped >= records_max })
    }

    /// Drops the records behind the first `messages` messages of a channel: those of a group that
    /// was refused and is there all the same.
    pub(super) fn cut(&self, log: LogId, messages: u64) -> Result<(), LogError> {
        let mut first_cut = None;
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        for guard in self.records.range(range(log, Offset(0))).rev() {
            let (key, value) = guard.into_inner()?;
            let record = StoredRun::parse(shared(value))?;
            if record.before.messages < messages {
                break;
            }
            batch.remove(&self.records, key);
            first_cut = Some(record.first);
        }
        if let Some(first_cut) = first_cut {
            // Their publishers were told that nothing was published.
            for guard in self.answers.iter() {
                let (key, value) = guard.into_inner()?;
                let is_cut = |loaded: &LoadedAnswer| {
                    loaded.log == log && loaded.answer.receipt.offset >= first_cut
                };
                if parse_answer(&key, &value).as_ref().is_some_and(is_cut) {
                    batch.remove(&self.answers, key);
                }
            }
        }
        Ok(batch.commit()?)
    }

    /// Bytes on disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.database.disk_space().unwrap_or(0)
    }

    /// The last record of a channel.
    pub(super) fn last(&self, log: LogId) -> Result<Option<StoredRun>, LogError> {
        self.at(log, Offset(u64::MAX))
    }

    /// The record with the last first offset that is not after `offset`.
    pub(super) fn at(&self, log: LogId, offset: Offset) -> Result<Option<StoredRun>, LogError> {
        self.backwards_from(log, offset).next().transpose()
    }

    /// The records that begin at `offset` or before, the last one first.
    pub(super) fn backwards_from(
        &self,
        log: LogId,
        offset: Offset,
    ) -> impl Iterator<Item = Result<StoredRun, LogError>> {
        let from = self.oldest(log).min(offset);
        let records = self.records.range(record_key(log, from)..=record_key(log, offset));
        records.rev().map(|guard| StoredRun::parse(shared(guard.into_inner()?.1)))
    }

    /// No record of a channel that is still there begins before this offset.
    pub(super) fn oldest(&self, log: LogId) -> Offset {
        let known = self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&log).copied().unwrap_or(Offset(0))
    }

    /// Where what is kept of a channel without a hole begins, as far as readers have met one.
    pub(super) fn hole(&self, log: LogId) -> Offset {
        let known = self.holes.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&log).copied().unwrap_or(Offset(0))
    }

    /// Notes a hole right before the message at `offset`.
    pub(super) fn note_hole(&self, log: LogId, offset: Offset) {
        let mut known = self.holes.lock().unwrap_or_else(PoisonError::into_inner);
        let hole = known.entry(log).or_insert(offset);
        *hole = offset.max(*hole);
    }

    /// What a channel had up to the message at `offset`, if that is still there.
    pub(super) fn totals_at(&self, log: LogId, offset: Offset) -> Result<Option<Totals>, LogError> {
        let record = self.at(log, offset)?.filter(|record| record.last >= offset);
        record.map(|record| record.totals_at(offset)).transpose()
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

/// Names the time since the machine was started.
fn boot() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Opens the database in `path`, or makes it. What is torn at the end of its journal is cut off.
pub(super) fn open_database(folder: &LogFolder) -> Result<Database, LogError> {
    let database = Database::builder(&folder.path)
        .cache_size(folder.memory_bytes / CACHE_PARTS)
        .max_journaling_size(JOURNAL_BYTES_MAX)
        .worker_threads(1)
        .open()?;
    Ok(database)
}

/// Refuses a log that a later version has written.
fn check_format(database: &Database) -> Result<(), LogError> {
    let names = database.list_keyspace_names();
    let format = |name: &str| name.rsplit_once('-')?.1.parse::<u32>().ok();
    match names.iter().filter_map(|name| format(name)).max() {
        Some(format) if format > FORMAT => Err(LogError::Newer { format }),
        _ => Ok(()),
    }
}

/// A value without a copy of it. It keeps the block that it was read of in memory.
pub(super) fn shared(value: UserValue) -> Bytes {
    Bytes::from_owner(value)
}

pub(super) fn range(log: LogId, from: Offset) -> RangeInclusive<[u8; 16]> {
    record_key(log, from)..=record_key(log, Offset(u64::MAX))
}

pub(super) fn record_key(log: LogId, offset: Offset) -> [u8; 16] {
    (u128::from(log.0) << 64 | u128::from(offset.0)).to_be_bytes()
}

pub(super) fn parse_record_key(key: &[u8]) -> Option<(LogId, Offset)> {
    let (log, first) = key.split_first_chunk()?;
    let first = first.try_into().ok().map(u64::from_be_bytes)?;
    Some((LogId(u64::from_be_bytes(*log)), Offset(first)))
}

/// By the time until which it is kept, so that those that are over lie together.
fn answer_key(until_ms: u64, log: LogId, key: &str) -> Vec<u8> {
    [&until_ms.to_be_bytes()[..], &log.0.to_be_bytes(), key.as_bytes()].concat()
}

pub(super) fn answer_value(answer: &StoredAnswer) -> Vec<u8> {
    let StoredAnswer { content, receipt, .. } = answer;
    let Receipt { id, offset, epoch, timestamp_ms, delivered: _ } = receipt;
    let numbers = [*content, offset.0, epoch.0, *timestamp_ms].map(u64::to_be_bytes);
    [&id.0.to_be_bytes()[..], numbers.as_flattened()].concat()
}

/// Until when an answer is kept, the log of its channel, and its idempotency key.
pub(super) fn parse_answer_key(key: &[u8]) -> Option<(u64, LogId, &str)> {
    let (until_ms, key) = key.split_first_chunk()?;
    let (log, key) = key.split_first_chunk()?;
    let log = LogId(u64::from_be_bytes(*log));
    Some((u64::from_be_bytes(*until_ms), log, str::from_utf8(key).ok()?))
}

fn parse_answer(key: &[u8], value: &[u8]) -> Option<LoadedAnswer> {
    let (until_ms, log, key) = parse_answer_key(key)?;
    let (id, numbers) = value.split_first_chunk()?;
    let mut numbers = numbers.chunks_exact(size_of::<u64>());
    let mut number = || Some(u64::from_be_bytes(numbers.next()?.try_into().ok()?));
    let content = number()?;
    let receipt = Receipt {
        id: MessageId(u128::from_be_bytes(*id)),
        offset: Offset(number()?),
        epoch: Epoch(number()?),
        timestamp_ms: number()?,
        delivered: 0,
    };
    Some(LoadedAnswer { log, answer: StoredAnswer { key: key.into(), content, until_ms, receipt } })
}

fn channel_key(channel: &ChannelKey) -> Vec<u8> {
    [&channel.app.0.to_be_bytes(), channel.slug.as_str().as_bytes()].concat()
}

fn parse_channel(key: &[u8]) -> Result<ChannelKey, LogError> {
    let damaged = || LogError::Damaged("the name of a channel".into());
    let (app, slug) = key.split_first_chunk().ok_or_else(damaged)?;
    let slug = str::from_utf8(slug).ok().and_then(|slug| ChannelSlug::from_stored(slug).ok());
    Ok(ChannelKey { app: AppId(u32::from_be_bytes(*app)), slug: slug.ok_or_else(damaged)? })
}

fn encode(entry: &ChannelEntry) -> Result<Vec<u8>, LogError> {
    rkyv::to_bytes::<ArchiveError>(entry)
        .map(|bytes| bytes.to_vec())
        .map_err(|error| LogError::Damaged(format!("a channel cannot be encoded: {error}")))
}
