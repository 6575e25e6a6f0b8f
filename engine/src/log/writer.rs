//! The thread that writes: everything that waits goes to the disk as one group.
//!
//! It also trims what no limit keeps, a little at a time, and syncs in the background what nobody
//! waits for. When the disk fails it refuses everything and tries again and again; what is there can
//! be read meanwhile. Damage that anybody meets has it make the damaged tables anew, which takes as
//! long as reading the log; nothing is refused for that but what does not fit into the queue.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use pushflo_protocol::time::Month;
use pushflo_protocol::{Epoch, Offset, Record};

use super::keep::Keep;
use super::record::Totals;
use super::store::{Found, Group, LogStore, NewRun, Oldest, TrimChannel};
use super::{
    Append, AppendEntry, Contents, LoadedChannel, LogAnswer, LogError, LogFailure, LogPlan,
    LogStatus, Logged, NewChannel, SharedStore, StoredAnswer, repair,
};
use crate::clock::Clock;
use crate::database_files::{self, FilesError};
use crate::hash::HashMap;
use crate::ids::{AppId, ChannelKey, LogId, ShardId};
use crate::retention::SLACK;

/// Most messages of a group. More wait for the next, so that a group does not take too long.
const GROUP_MESSAGES_MAX: usize = 16 * 1024;

/// With the append that goes past so many bytes, a group ends: it is in memory several times over while it
/// is written.
const GROUP_BYTES_MAX: usize = 2 * 1024 * 1024;

/// How often it looks after what has become too old, and syncs.
const TICK: Duration = Duration::from_millis(1000);

/// How often it looks whether there is room again.
const SHORT_TICK: Duration = Duration::from_millis(2);

/// How long the writer waits for a store to come to rest.
const CLOSE_PATIENCE: Duration = Duration::from_millis(1000);

/// Free room without which a full disk is not tried again: enough for the store to open its tables and
/// journals, and little beside what it grows by.
const ROOM_BYTES: usize = 1024 * 1024;

/// Records dropped at a time.
const TRIM_RECORDS_MAX: usize = 256;

/// Channels looked at in a tick.
const TRIM_CHANNELS_MAX: usize = 256;

/// Channels with more than this share over a limit are trimmed before their turn: twice what readers are
/// left.
const OVER: u64 = SLACK as u64 / 2;

/// What the writer knows of a channel.
struct Known {
    channel: ChannelKey,
    epoch: Epoch,
    totals: Totals,
    /// The oldest record on disk, as far as it is known.
    oldest: Option<Oldest>,
    /// Whether there are records.
    is_stored: bool,
    /// Part of it cannot be read, whatever is tried: it is not trimmed any more.
    is_damaged: bool,
}

impl Known {
    fn new(channel: ChannelKey, epoch: Epoch, totals: Totals) -> Self {
        Self { channel, epoch, totals, oldest: None, is_stored: true, is_damaged: false }
    }
}

/// How long a repair that failed is left alone: it reads all of the log.
const REPAIR_PAUSE: Duration = Duration::from_secs(60);

/// Answers dropped in a tick.
const ANSWERS_MAX: usize = 16 * 1024;

pub(super) struct Writer {
    clock: Clock,
    shelf: SharedStore,
    plan: LogPlan,
    status: Arc<LogStatus>,
    known: HashMap<LogId, Known>,
    /// Month number and messages logged in it, by app.
    usage: HashMap<AppId, (u16, u64)>,
    /// Whose turn it is to be looked at for what has become too old.
    round: Vec<LogId>,
    /// Channels that are over a limit, each once.
    over: BTreeSet<LogId>,
    /// By shard: appends of this term or an earlier one are refused.
    refused_terms: HashMap<u16, u32>,
    /// Why writing fails, while it does.
    failure: Option<LogFailure>,
    /// Tables may be damaged, which is to be looked after when the log is opened again.
    is_suspect: bool,
    /// When it was last tried again, in milliseconds after the start of the clock.
    tried_ms: u64,
    is_synced: bool,
    /// The shards were told that room is short.
    is_short: bool,
    /// Answers that were kept until then, in Unix milliseconds, are dropped already.
    answers_from_ms: u64,
    /// Damage was met among answers, and the log repaired since as far as that goes.
    are_answers_damaged: bool,
}

impl Writer {
    pub(super) fn new(
        shelf: SharedStore,
        plan: LogPlan,
        status: Arc<LogStatus>,
        contents: Contents,
    ) -> Self {
        let usage = contents.usage.into_iter();
        let known = |loaded: LoadedChannel| {
            let LoadedChannel { channel, log, epoch, totals, .. } = loaded;
            (log, Known::new(channel, epoch, totals))
        };
        Self {
            clock: Clock::start(),
            shelf,
            plan,
            status,
            known: contents.channels.into_iter().map(known).collect(),
            usage: usage.map(|(app, month, messages)| (app, (month, messages))).collect(),
            round: Vec::new(),
            over: BTreeSet::new(),
            refused_terms: HashMap::default(),
            failure: None,
            is_suspect: false,
            tried_ms: 0,
            is_synced: true,
            is_short: false,
            answers_from_ms: 0,
            are_answers_damaged: false,
        }
    }

    /// Runs until nobody can append any more, then closes the log.
    pub(super) fn run(mut self, appends: &Receiver<Append>) {
        let mut next_tick_ms = 0;
        loop {
            match appends.recv_timeout(if self.is_short { SHORT_TICK } else { TICK }) {
                Ok(first) => self.write(first, appends),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.tell_of_room();
            if self.failure.is_none()
                && let Some(log) = self.over.pop_first()
            {
                self.trim(log);
            }
            let now_ms = self.clock.elapsed_ms();
            if now_ms >= next_tick_ms {
                next_tick_ms = now_ms + TICK.as_millis() as u64;
                self.tick();
            }
        }
        let is_failing = self.failure.is_some();
        let Some(store) = self.shelf.replace(None).filter(|_| !is_failing) else { return };
        if let Err(error) = store.close() {
            tracing::error!(%error, "closing the log failed; it is checked at the next start");
        }
        if let Err(RecvTimeoutError::Timeout) = let_go(store).recv_timeout(CLOSE_PATIENCE) {
            tracing::info!("the log is left while it compacts its tables; that begins anew later");
        }
    }

    /// Tells the shards when room becomes short, and when it is not any more. Nobody is to wait for it while
    /// nothing can be written.
    fn tell_of_room(&mut self) {
        let is_short = self.failure.is_none()
            && self.shelf.with(|store| Ok(store.is_short())).unwrap_or_default();
        if std::mem::replace(&mut self.is_short, is_short) != is_short {
            self.plan.ports.iter().for_each(|port| port.send(LogAnswer::Short(is_short)));
        }
    }

    /// Writes `first` and all that waits behind it, then answers.
    fn write(&mut self, first: Append, appends: &Receiver<Append>) {
        let (mut messages, mut bytes) = (first.entries.len(), first.bytes());
        let mut group = vec![first];
        while messages < GROUP_MESSAGES_MAX
            && bytes < GROUP_BYTES_MAX
            && let Ok(append) = appends.try_recv()
        {
            messages += append.entries.len();
            bytes += append.bytes();
            group.push(append);
        }
        if self.failure.is_some() {
            self.recover();
        } else if let Err(error) = self.shelf.with(LogStore::make_room) {
            self.fail(&error);
        }
        let is_refused = |append: &Append| {
            self.refused_terms.get(&append.shard.0).is_some_and(|term| append.term <= *term)
        };
        let (refused, mut accepted): (Vec<_>, Vec<_>) = group.into_iter().partition(is_refused);
        let result = match &self.failure {
            None => self.append(&mut accepted),
            Some(failure) => Err(failure.clone()),
        };
        if result.is_err() {
            for append in &accepted {
                self.refused_terms.insert(append.shard.0, append.term);
            }
            LogStatus::add(&self.status.failures_total, accepted.len() as u64);
        }
        // What was refused came before what was accepted, shard by shard.
        let earlier = self.failure.clone();
        let earlier = earlier.unwrap_or_else(|| LogFailure("an earlier write failed".into()));
        for append in refused {
            self.answer(append.shard, Err(earlier.clone()));
        }
        for append in accepted {
            self.answer(append.shard, result.clone());
        }
    }

    fn answer(&self, shard: ShardId, outcome: Logged) {
        // What was begun before the shards run has none.
        if let Some(port) = self.plan.ports.get(shard.index()) {
            port.send(LogAnswer::Logged(outcome));
        }
    }

    fn append(&mut self, group: &mut [Append]) -> Result<(), LogFailure> {
        let sync = group.iter().any(|append| append.sync);
        let deletes: Vec<_> =
            group.iter_mut().flat_map(|append| std::mem::take(&mut append.deletes)).collect();
        let mut runs = runs(group);
        let usage = self.count_usage(&runs);
        // What was published to a channel right before it was deleted goes with it.
        let deleted: BTreeSet<LogId> = deletes.iter().map(|(log, _)| *log).collect();
        runs.retain(|run| !deleted.contains(&run.log));
        let mut batch: Vec<NewRun<'_>> = Vec::with_capacity(runs.len());
        let mut totals: HashMap<LogId, Totals> = HashMap::default();
        for run in &runs {
            let known = self.known.get(&run.log);
            let before = totals.get(&run.log).copied();
            let before = before.or(known.map(|known| known.totals)).unwrap_or_default();
            let after = before.with(&run.records);
            let is_new = known.is_none() && !totals.contains_key(&run.log);
            let new = run.new.as_deref().filter(|_| is_new);
            totals.insert(run.log, after);
            let (log, records, answers) = (run.log, &run.records, &run.answers);
            batch.push(NewRun { log, before, records, new, answers });
        }
        let generations: Vec<_> =
            group.iter().flat_map(|append| append.generations.iter().copied()).collect();
        let group = Group {
            runs: &batch,
            deletes: &deletes,
            generations: &generations,
            usage: &usage,
            sync,
        };
        if let Err(error) = self.shelf.with(|store| store.write(&group)) {
            self.fail(&error);
            if let Some(failure) = &self.failure {
                return Err(failure.clone());
            }
            // It was damage, nothing was written, and it is repaired.
            if let Err(error) = self.shelf.with(|store| store.write(&group)) {
                self.fail(&error);
                return Err(LogFailure(format!("history cannot be written: {error}").into()));
            }
        }
        self.is_synced = sync;
        self.usage.extend(usage);
        LogStatus::add(&self.status.records_total, batch.len() as u64);
        LogStatus::add(&self.status.groups_total, 1);
        for run in runs {
            if let Some(new) = run.new {
                let NewChannel { channel, epoch, .. } = *new;
                let known = || Known::new(channel, epoch, Totals::default());
                self.known.entry(run.log).or_insert_with(known);
            }
            let Some(known) = self.known.get_mut(&run.log) else { continue };
            known.totals = totals.get(&run.log).copied().unwrap_or(known.totals);
            known.is_stored = true;
            let first = Oldest { before: Totals::default(), last_ms: 0 };
            let before = known.oldest.unwrap_or(first).before;
            let retention = self.plan.retentions.of(known.channel.app);
            let (messages, bytes) =
                (retention.messages_max as u64, retention.channel_bytes_max as u64);
            let is_over = known.totals.messages - before.messages > messages + messages / OVER
                || known.totals.bytes - before.bytes > bytes + bytes / OVER;
            if is_over && !known.is_damaged {
                self.over.insert(run.log);
            }
        }
        for (log, _) in deletes {
            self.known.remove(&log);
            self.over.remove(&log);
            self.shelf.forget_damage(log);
        }
        Ok(())
    }

    /// What the apps of these runs will have logged this month with them.
    fn count_usage(&self, runs: &[OwnedRun]) -> Vec<(AppId, (u16, u64))> {
        let mut usage: HashMap<AppId, (u16, u64)> = HashMap::default();
        let mut month = Month::default();
        for run in runs {
            let known = self.known.get(&run.log).map(|known| known.channel.app);
            let Some(app) = known.or(run.new.as_ref().map(|new| new.channel.app)) else { continue };
            let before = self.usage.get(&app).copied().unwrap_or_default();
            let count = usage.entry(app).or_insert(before);
            for record in &run.records {
                // Messages of a group are of about the same time.
                if record.timestamp_ms >= month.end_ms || month.end_ms == 0 {
                    month = Month::of(record.timestamp_ms);
                }
                *count = (month.number, if count.0 == month.number { count.1 + 1 } else { 1 });
            }
        }
        usage.into_iter().collect()
    }

    /// Notes a failure. After a failed write only a new look at the disk tells what is on it; until
    /// then the store only serves readers. Where it may be damage the log is repaired at once.
    fn fail(&mut self, error: &LogError) {
        tracing::error!(%error, "writing the log failed; publishes are refused until it works");
        self.status.is_failing.store(true, Relaxed);
        self.failure = Some(LogFailure(format!("history cannot be written: {error}").into()));
        self.is_suspect |= !matches!(error, LogError::Store(_));
        if self.is_suspect {
            self.recover();
        } else {
            self.tried_ms = self.clock.elapsed_ms();
        }
    }

    /// Opens the log again, once a tick.
    fn recover(&mut self) {
        let now_ms = self.clock.elapsed_ms();
        if now_ms.saturating_sub(self.tried_ms) < TICK.as_millis() as u64 {
            return;
        }
        self.tried_ms = now_ms;
        let opened = has_room(&self.plan.folder.path).and_then(|()| {
            self.shelf.clone().renew(|store| {
                if let Some(store) = store {
                    // If that takes longer the log is still locked, and the next tick tries again.
                    let _ = let_go(store).recv_timeout(CLOSE_PATIENCE);
                }
                self.reopen()
            })
        });
        match opened {
            Ok(()) => {
                self.failure = None;
                self.status.is_failing.store(false, Relaxed);
                tracing::info!("the log can be written again");
            }
            Err(error) => {
                // Opening it may be what finds the damage.
                let is_damage = !matches!(error, LogError::Store(_));
                match is_damage && self.is_suspect {
                    // All of it was read in vain, which is not for every second.
                    true => {
                        tracing::error!(%error, "the log cannot be repaired while it runs; stop \
                            the server, and see what the next start says");
                        self.tried_ms = now_ms + REPAIR_PAUSE.as_millis() as u64;
                    }
                    false => tracing::debug!(%error, "the log cannot be opened yet"),
                }
                self.is_suspect |= is_damage;
            }
        }
    }

    fn reopen(&mut self) -> Result<LogStore, LogError> {
        let folder = &self.plan.folder;
        let (store, found) = if self.is_suspect {
            let seed = fastrand::u64(..);
            let repair::Repaired { store, mut found, damaged, .. } = repair::mend(folder, seed)?;
            LogStatus::add(&self.status.damaged_total, damaged);
            if damaged > 0 {
                self.leap(&store, &mut found, seed)?;
            }
            (store, found)
        } else {
            LogStore::open(folder, 0)?
        };
        for loaded in found.channels {
            let known = self.known.get(&loaded.log).map_or(0, |known| known.totals.messages);
            if loaded.totals.messages > known {
                store.cut(loaded.log, known)?;
            }
            if loaded.totals.messages < known && loaded.head > Offset(0) {
                tracing::error!(
                    app = loaded.channel.app.0,
                    channel = loaded.channel.slug.as_str(),
                    messages = known - loaded.totals.messages,
                    "the disk has lost messages that it had taken"
                );
            }
        }
        // Room enough to sync what is there is room enough to go on.
        store.sync()?;
        database_files::rewrite(&self.plan.folder.path).map_err(FilesError::Disk)?;
        if std::mem::take(&mut self.is_suspect) {
            self.shelf.note_mended();
        }
        Ok(store)
    }

    /// Has what was lost never be given again after the next start: that does not know the heads that
    /// the shards know.
    fn leap(&self, store: &LogStore, found: &mut Found, seed: u64) -> Result<(), LogError> {
        let there: BTreeSet<LogId> = found.channels.iter().map(|loaded| loaded.log).collect();
        let mut lost = Vec::new();
        for (&log, known) in &self.known {
            let mut unreadable = found.unreadable.iter();
            if !there.contains(&log) && !unreadable.any(|there| there.channel == known.channel) {
                lost.push(store.make(&known.channel, log, known.epoch)?);
            }
        }
        found.channels.append(&mut lost);
        store.begin(found, Some(seed))
    }

    /// Looks after damage that was met in a channel.
    fn damaged(&mut self, log: LogId, error: &LogError) {
        let channel = self.known.get(&log).map(|known| known.channel.slug.as_str());
        if self.shelf.is_beyond_repair(log) {
            tracing::error!(
                channel,
                %error,
                "a channel's history is damaged; what of it cannot be read stays until the channel \
                 is deleted"
            );
            LogStatus::add(&self.status.damaged_total, 1);
            if let Some(known) = self.known.get_mut(&log) {
                known.is_damaged = true;
            }
        } else {
            self.fail(error);
        }
    }

    fn tick(&mut self) {
        (self.plan.host.give_memory_back)();
        if self.failure.is_some() {
            self.recover();
            return;
        }
        if !self.is_synced {
            // What nobody waits for is promised all the same.
            if let Err(error) = self.shelf.with(LogStore::sync) {
                self.fail(&error);
                return;
            }
            self.is_synced = true;
        }
        if self.shelf.has_damage() {
            self.fail(&LogError::Damaged("a reader met a block that cannot be read".into()));
            return;
        }
        let disk_bytes = self.shelf.with(|store| Ok(store.disk_bytes())).unwrap_or(0);
        self.status.disk_bytes.store(disk_bytes, Relaxed);
        if self.round.is_empty() {
            self.round = self.known.keys().copied().collect();
        }
        let now_ms = self.clock.now().steady_ms;
        // A clock that was set back may find again what it had passed.
        let span = self.answers_from_ms.min(now_ms)..now_ms;
        match self.shelf.with(|store| store.forget_answers(span, ANSWERS_MAX)) {
            Ok(from_ms) => self.answers_from_ms = from_ms,
            // Those that cannot be read are as good as forgotten; looking at them would only meet the
            // same damage again.
            Err(error @ LogError::Damaged(_)) if self.are_answers_damaged => {
                tracing::error!(%error, "some answers to idempotent publishes cannot be read");
                self.answers_from_ms = now_ms;
            }
            Err(error) => {
                self.are_answers_damaged = matches!(error, LogError::Damaged(_));
                self.fail(&error);
                return;
            }
        }
        for _ in 0..TRIM_CHANNELS_MAX {
            let Some(log) = self.round.pop() else { break };
            let Some(known) = self.known.get(&log) else { continue };
            let since_ms = self.plan.retentions.of(known.channel.app).loose().since_ms(now_ms);
            let is_kept = known.is_stored && !known.is_damaged;
            if is_kept && known.oldest.is_none_or(|oldest| oldest.last_ms < since_ms) {
                self.trim(log);
            }
        }
    }

    fn trim(&mut self, log: LogId) {
        let now_ms = self.clock.now().steady_ms;
        let Some(known) = self.known.get_mut(&log) else { return };
        let retention = self.plan.retentions.of(known.channel.app);
        let keep = Keep::new(&retention.loose(), now_ms);
        let channel =
            TrimChannel { channel: &known.channel, log, epoch: known.epoch, totals: known.totals };
        match self.shelf.with(|store| store.trim(&channel, &keep, TRIM_RECORDS_MAX)) {
            Ok(trimmed) => {
                known.oldest = trimmed.oldest;
                known.is_stored = trimmed.oldest.is_some();
                LogStatus::add(&self.status.expired_total, trimmed.dropped as u64);
                if trimmed.more {
                    self.over.insert(log);
                }
            }
            Err(error @ LogError::Damaged(_)) => self.damaged(log, &error),
            Err(error) => self.fail(&error),
        }
    }
}

/// Whether the disk takes writes where the log is.
fn has_room(path: &Path) -> Result<(), LogError> {
    // The store passes over names like this one.
    let probe = path.join("room");
    let write = || {
        let mut file = File::create(&probe)?;
        file.write_all(&vec![1; ROOM_BYTES])?;
        file.sync_all()
    };
    let written = write();
    let removed = std::fs::remove_file(&probe);
    written.and(removed).map_err(|error| LogError::Store(error.to_string()))
}

/// Lets go of a store on a thread of its own, because that waits for a compaction that is under way,
/// and tells when it is done. All that was asked for is in the journal by then: what a compaction
/// that is cut short leaves behind is what a crash leaves, and goes at the next start.
fn let_go(store: LogStore) -> Receiver<()> {
    let (done, is_done) = bounded(1);
    let close = move || {
        drop(store);
        let _ = done.send(());
    };
    // Where there is no thread to be had this waits, as the store is dropped here then.
    let _ = std::thread::Builder::new().name("log-close".into()).spawn(close);
    is_done
}

/// Records of one channel whose offsets follow each other.
struct OwnedRun {
    log: LogId,
    records: Vec<Record>,
    new: Option<Box<NewChannel>>,
    answers: Vec<StoredAnswer>,
}

/// Gathers the records of a group into runs, taking them out of it.
fn runs(group: &mut [Append]) -> Vec<OwnedRun> {
    let mut runs: Vec<OwnedRun> = Vec::new();
    let mut open: HashMap<LogId, usize> = HashMap::default();
    for append in group {
        for AppendEntry { log, record, new, answer } in append.entries.drain(..) {
            if let Some(run) = open.get(&log).and_then(|&index| runs.get_mut(index))
                && run.records.last().is_some_and(|last| last.offset.next() == record.offset)
            {
                run.records.push(record);
                run.answers.extend(answer.map(|answer| *answer));
                continue;
            }
            open.insert(log, runs.len());
            let (records, answers) =
                (vec![record], answer.into_iter().map(|answer| *answer).collect());
            runs.push(OwnedRun { log, records, new, answers });
        }
    }
    runs
}
