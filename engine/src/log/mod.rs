//! The log on disk, behind two threads: one writes in groups, one reads.
//!
//! A shard hands a [`LogCall`] over and is answered through its mailbox. A message is sent to
//! subscribers when the log has it, so nobody ever sees one that a crash takes back; its publisher
//! is answered then too.
//!
//! Invariant: the answers to a shard's appends come in the order of the appends. If one fails, all
//! that the shard sent before it knew fail too ([`Append::term`]): a record never follows one that
//! is missing.

mod frames;
pub(crate) mod jetstream;
mod keep;
#[cfg(test)]
mod model;
mod page;
mod reader;
mod record;
mod repair;
mod slots;
mod store;
mod window;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, TrySendError, bounded};
use pushflo_protocol::{Epoch, Offset, Receipt, Record, Refusal};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use record::Totals;
pub use slots::{
    Delete, Life, MetaNews, MetaStored, Names, NamesDone, Open, Opened, OpenedChannel, SlotEvent,
    SlotNews, Store, StoreMeta, StoredMeta,
};

use self::keep::Keep;
use crate::database_files::FilesError;
use crate::hash::HashMap;
use crate::host::Host;
use crate::ids::{AppId, ChannelKey, EpochSlot, LogId, ReadKey, RequestId, ShardId};
use crate::metrics::metrics;
use crate::port::Port;
use crate::retention::{Retention, Retentions};
use store::LogStore;

/// How long the answer to a publish with an idempotency key is kept, in milliseconds.
pub(crate) const KEY_WINDOW_MS: u64 = 5 * 60_000;

/// Calls that wait for either thread; a shard keeps what does not fit.
const CALLS_MAX: usize = 1024;

/// Why the log does not do what it is asked.
#[derive(Debug, Error)]
pub enum LogError {
    /// The store cannot read or write.
    #[error("{0}")]
    Store(String),
    /// A later version of the server has written it.
    #[error(
        "it has format {format}, which this version does not know; start the version that wrote it"
    )]
    Newer {
        /// Its format.
        format: u32,
    },
    /// What is stored is not what was written.
    #[error("the log is damaged: {0}")]
    Damaged(String),
    /// The store has stopped. Its worker met a disk that failed or a damaged table; it does not say
    /// which.
    #[error("the store has stopped: its disk failed, or a table of it is damaged")]
    Stopped,
}

impl From<fjall::Error> for LogError {
    fn from(error: fjall::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return Self::from_io(io);
            }
            cause = error.source();
        }
        match error {
            fjall::Error::Io(io) => Self::from_io(&io),
            fjall::Error::Poisoned => Self::Stopped,
            fjall::Error::Locked => Self::Store("another process has it open".into()),
            other => Self::Damaged(format!("{other:?}")),
        }
    }
}

impl From<FilesError> for LogError {
    fn from(error: FilesError) -> Self {
        match error {
            FilesError::Disk(error) => Self::Store(error.to_string()),
            FilesError::Damaged { .. } => Self::Damaged(error.to_string()),
        }
    }
}

impl LogError {
    /// What the kernel refuses is the disk's fault; a file that is missing, too short or not what
    /// was written is damage. So is a place in a file that cannot be: it was read from another file.
    fn from_io(error: &std::io::Error) -> Self {
        let is_damage = |code| matches!(code, libc::ENOENT | libc::EINVAL | libc::EOVERFLOW);
        match error.raw_os_error() {
            Some(code) if !is_damage(code) => Self::Store(error.to_string()),
            _ => Self::Damaged(error.to_string()),
        }
    }
}

/// A channel as the log has it at the start.
#[derive(Clone, Debug)]
pub struct LoadedChannel {
    /// Its name.
    pub channel: ChannelKey,
    /// Its place in the log.
    pub log: LogId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its last offset.
    pub head: Offset,
    /// The next one to give; behind a leap if the machine went down without warning.
    pub next: Offset,
    /// When the last message got its offset.
    pub last_ms: u64,
    /// All it ever had.
    pub totals: Totals,
    /// When the log got to know it, in Unix milliseconds.
    pub created_ms: u64,
}

/// An answer that a publisher who asks again is to get, as the log has it at the start.
#[derive(Clone, Debug)]
pub struct LoadedAnswer {
    /// The channel's place in the log.
    pub log: LogId,
    /// The answer.
    pub answer: StoredAnswer,
}

/// What is kept of a publish with an idempotency key.
#[derive(Clone, Debug)]
pub struct StoredAnswer {
    /// The key.
    pub key: Box<str>,
    /// A digest of what was published.
    pub content: u64,
    /// Until when it is kept, in Unix milliseconds.
    pub until_ms: u64,
    /// What its publisher was told. To how many it was delivered is not kept.
    pub receipt: Receipt,
}

/// What a shard asks of the log.
#[derive(Debug)]
pub enum LogCall {
    /// Append messages; answered with [`LogAnswer::Logged`].
    Append(Append),
    /// Find where a subscription starts; answered with [`LogAnswer::Located`].
    Locate(Locate),
    /// Read a window of a channel; answered with [`LogAnswer::Read`].
    Read(Read),
    /// Read a page; answered with [`LogAnswer::Page`].
    Page(Box<PageCall>),
    /// Find a channel in the stream of its slot; answered with [`LogAnswer::Opened`].
    Open(Box<Open>),
    /// Append a message to the stream of a slot; answered with [`LogAnswer::Slot`].
    Store(Box<Store>),
    /// Delete a channel in the stream of a slot, with its metadata; answered as a message of this id.
    Delete(Delete),
    /// Have a channel of a slot have other metadata; answered with [`LogAnswer::MetaStored`].
    StoreMeta(Box<StoreMeta>),
    /// Name channels in the streams of slots; answered with [`LogAnswer::Names`].
    Names(Names),
    /// A channel will not be asked for by this name any more.
    Forget(LogId),
}

impl LogCall {
    /// Whether all of a channel's history may have to be looked at.
    pub fn is_scan(&self) -> bool {
        matches!(self, Self::Page(page) if page.query.is_scan())
    }
}

/// Messages of one turn of a shard, or some of them.
#[derive(Debug)]
pub struct Append {
    /// Whose they are.
    pub shard: ShardId,
    /// Raised by the shard when it learns that an append failed. Appends of a term in which one
    /// failed all fail.
    pub term: u32,
    /// The messages, those of a channel in their order.
    pub entries: Vec<AppendEntry>,
    /// Channels that are deleted, with all that came before.
    pub deletes: Vec<(LogId, ChannelKey)>,
    /// Slots of epochs and the generations that they are in with these deletions.
    pub generations: Vec<(EpochSlot, u32)>,
    /// Whether it is to reach the disk before it is answered.
    pub sync: bool,
}

impl Append {
    /// What its messages keep in memory.
    fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.record.kept_bytes()).sum()
    }
}

/// One message on its way to the log.
#[derive(Debug)]
pub struct AppendEntry {
    /// The channel's place in the log.
    pub log: LogId,
    /// The message.
    pub record: Record,
    /// The channel, where the log may not know it yet.
    pub new: Option<Box<NewChannel>>,
    /// What its publisher is told if it asks again.
    pub answer: Option<Box<StoredAnswer>>,
}

/// A channel that the log gets to know.
#[derive(Clone, Debug)]
pub struct NewChannel {
    /// Its name.
    pub channel: ChannelKey,
    /// Its epoch.
    pub epoch: Epoch,
    /// When it was made, in Unix milliseconds.
    pub created_ms: u64,
}

/// A question where in a channel a subscription starts.
#[derive(Clone, Copy, Debug)]
pub struct Locate {
    /// Who asks.
    pub shard: ShardId,
    /// For what.
    pub read: ReadKey,
    /// The channel.
    pub log: LogId,
    /// From where on.
    pub from: ReadFrom,
    /// Up to which offset; the log has it.
    pub until: Offset,
    /// What is kept of the channel.
    pub retention: Retention,
}

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// The offset before the first message that is wanted.
    pub after: Offset,
    /// How many messages follow, up to the offset that was asked for.
    pub messages: u64,
}

/// A question for a window of a channel: messages that follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// Who asks.
    pub shard: ShardId,
    /// For what.
    pub read: ReadKey,
    /// The channel.
    pub log: LogId,
    /// Behind which offset.
    pub after: Offset,
    /// Up to which offset at most; the log has it.
    pub until: Offset,
    /// With the message that has it go past so many bytes, the window ends.
    pub bytes_max: usize,
    /// What is kept of the channel.
    pub retention: Retention,
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadFrom {
    /// Behind this offset, all or nothing.
    After(Offset),
    /// With the first message of this time or later that is kept, but no more than so many.
    Recent {
        /// Unix milliseconds.
        since_ms: u64,
        /// Most messages.
        messages_max: u64,
    },
}

/// A request for a page, newest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PageQuery {
    /// Which page, from 1.
    pub page: u64,
    /// Messages on a page, 1 to 100.
    pub page_size: u64,
    /// Only this event type.
    pub event_type: Option<String>,
    /// Only messages later than this, in Unix milliseconds.
    pub after_ms: Option<u64>,
    /// Only messages earlier than this, in Unix milliseconds.
    pub before_ms: Option<u64>,
}

impl PageQuery {
    /// Whether all of a channel's history may have to be looked at.
    pub fn is_scan(&self) -> bool {
        self.event_type.is_some()
    }
}

/// A page of a channel's history.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Page {
    /// Its messages, newest first.
    pub records: Vec<Record>,
    /// How many match in all.
    pub total: u64,
}

/// A request for a page.
#[derive(Debug)]
pub struct PageCall {
    /// Who asks.
    pub shard: ShardId,
    /// Who waits for it.
    pub request: RequestId,
    /// The channel.
    pub log: LogId,
    /// Which page.
    pub query: PageQuery,
    /// The channel's head; the log has it.
    pub until: Offset,
    /// What is kept of the channel.
    pub retention: Retention,
}

/// An answer to a call.
#[derive(Clone, Debug)]
pub enum LogAnswer {
    /// What became of the oldest append that was not answered yet.
    Logged(Logged),
    /// Where a subscription starts.
    Located(LocateDone),
    /// A window that was read.
    Read(Box<ReadDone>),
    /// A page.
    Page(Box<PageDone>),
    /// What a stream has of a channel.
    Opened(Box<Opened>),
    /// What has happened to a slot.
    Slot(SlotNews),
    /// A channel has other metadata, by whomever. Nobody asked.
    Meta(Box<MetaNews>),
    /// What became of metadata that were to be stored.
    MetaStored(Box<MetaStored>),
    /// Channels of an app.
    Names(Box<NamesDone>),
    /// Whether room is short from now on: much was written, and what takes it up is late. Who has much to
    /// write is to wait then, so that others need not. Nobody asked.
    Short(bool),
}

/// Where a subscription starts.
#[derive(Clone, Debug)]
pub struct LocateDone {
    /// For what.
    pub read: ReadKey,
    /// Where; `None` if any of what was asked for is not kept any more.
    pub answer: Result<Option<Located>, LogFailure>,
}

/// A window that was read.
#[derive(Clone, Debug)]
pub struct ReadDone {
    /// For what.
    pub read: ReadKey,
    /// What it is.
    pub answer: ReadAnswer,
}

/// A page that was read.
#[derive(Clone, Debug)]
pub struct PageDone {
    /// Who waits for it.
    pub request: RequestId,
    /// The page, or why it cannot be read.
    pub outcome: Result<Page, Refusal>,
    /// It was looked for in all of the history.
    pub is_scan: bool,
}

/// What became of an append.
pub type Logged = Result<(), LogFailure>;

/// Why the log did not do what it was asked: a sentence for whoever asked.
#[derive(Clone, Debug)]
pub struct LogFailure(pub Arc<str>);

/// An answer to [`Read`]: `None` if the first of it is not kept any more.
pub type ReadAnswer = Result<Option<Vec<Record>>, LogFailure>;

/// What the log tells the rest of the server, as plain numbers.
#[derive(Debug, Default)]
pub struct LogStatus {
    /// Writing fails for the moment.
    pub is_failing: AtomicBool,
    /// Bytes on disk.
    pub disk_bytes: AtomicU64,
    /// Records written.
    pub records_total: AtomicU64,
    /// Groups written.
    pub groups_total: AtomicU64,
    /// Writes that failed.
    pub failures_total: AtomicU64,
    /// Records dropped because no limit keeps them.
    pub expired_total: AtomicU64,
    /// Tables and channels that were found damaged.
    pub damaged_total: AtomicU64,
}

/// The log as the server holds it.
#[derive(Debug)]
pub struct Log {
    writer: Sender<Append>,
    reader: Sender<ReaderCall>,
    threads: Vec<JoinHandle<()>>,
    /// What it tells.
    pub status: Arc<LogStatus>,
}

/// A shard's way to the log.
#[derive(Clone, Debug)]
pub struct LogHandle(Way);

#[derive(Clone, Debug)]
enum Way {
    /// To the threads of the log on disk.
    Disk { writer: Sender<Append>, reader: Sender<ReaderCall> },
    /// To the streams of a cluster.
    Streams(tokio::sync::mpsc::Sender<LogCall>),
}

#[derive(Debug)]
enum ReaderCall {
    Locate(Locate),
    Read(Read),
    Page(Box<PageCall>),
}

/// What the log begins with.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Names this incarnation of the log; it goes into epochs.
    pub incarnation: u64,
    /// The first log id that is free.
    pub next_log: u64,
    /// The channels.
    pub channels: Vec<LoadedChannel>,
    /// Answers for publishers who ask again.
    pub answers: Vec<LoadedAnswer>,
    /// Month number and messages logged in it, by app.
    pub usage: Vec<(AppId, u16, u64)>,
    /// Slots of epochs and the generations that they are in.
    pub generations: Vec<(EpochSlot, u32)>,
    /// Tables and channels that were found damaged.
    pub damaged: u64,
}

/// A log that was opened and does not run yet.
#[derive(Debug)]
pub struct OpenedLog {
    /// What it begins with.
    pub contents: Contents,
    store: SharedStore,
}

impl OpenedLog {
    /// Behind which offset the messages of a channel are that are kept, and how many they are.
    pub(crate) fn kept(&self, loaded: &LoadedChannel) -> Result<(Offset, u64), LogError> {
        let all = ReadFrom::Recent { since_ms: 0, messages_max: u64::MAX };
        let keep = Keep::new(&Retention::EVERYTHING, 0);
        let located = self.store.with(|store| store.locate(loaded.log, all, loaded.head, &keep))?;
        Ok(located.map_or((loaded.head, 0), |located| (located.after, located.messages)))
    }

    /// Messages of a channel behind an offset: some, or none where there are no more.
    pub(crate) fn window(
        &self,
        loaded: &LoadedChannel,
        after: Offset,
    ) -> Result<Vec<Record>, LogError> {
        let keep = Keep::new(&Retention::EVERYTHING, 0);
        let read = self
            .store
            .with(|store| store.window(loaded.log, after, loaded.head, WINDOW_BYTES, &keep));
        Ok(read?.unwrap_or_default())
    }
}

/// Bytes that are read at a time of a channel that is read as a whole.
const WINDOW_BYTES: usize = 1 << 20;

/// The store, which the writer takes away for the moment in which it is opened anew.
#[derive(Clone)]
struct SharedStore(Arc<StoreState>);

#[expect(clippy::disallowed_types, reason = "the log's own threads share it, no shard does")]
struct StoreState {
    store: std::sync::RwLock<Option<LogStore>>,
    /// Channels in which somebody met damage, and whether all that helps was tried since. There are
    /// at most as many as channels.
    damaged: std::sync::Mutex<HashMap<LogId, bool>>,
}

impl std::fmt::Debug for SharedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedStore")
    }
}

impl SharedStore {
    #[expect(clippy::disallowed_types, reason = "as above")]
    fn new(store: LogStore) -> Self {
        let store = std::sync::RwLock::new(Some(store));
        Self(Arc::new(StoreState { store, damaged: std::sync::Mutex::default() }))
    }

    /// Notes damage in a channel. Returns whether it is there after all that helps was tried.
    fn is_beyond_repair(&self, log: LogId) -> bool {
        *self.damaged().entry(log).or_insert(false)
    }

    /// Whether somebody met damage since [`SharedStore::note_mended`].
    fn has_damage(&self) -> bool {
        self.damaged().values().any(|is_tried| !is_tried)
    }

    /// A channel that is deleted is damaged no more.
    fn forget_damage(&self, log: LogId) {
        self.damaged().remove(&log);
    }

    /// All that helps was tried: what is damaged now will be.
    fn note_mended(&self) {
        self.damaged().values_mut().for_each(|is_tried| *is_tried = true);
    }

    fn damaged(&self) -> std::sync::MutexGuard<'_, HashMap<LogId, bool>> {
        self.0.damaged.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Does something with the store, if it is there.
    fn with<T>(&self, act: impl FnOnce(&LogStore) -> Result<T, LogError>) -> Result<T, LogError> {
        let store = self.0.store.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        match store.as_ref() {
            Some(store) => act(store),
            None => Err(LogError::Store("the log is closed until the disk works again".into())),
        }
    }

    fn replace(&self, store: Option<LogStore>) -> Option<LogStore> {
        let mut place = self.0.store.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::replace(&mut *place, store)
    }

    /// Puts another store in the place of this one. Who wants it meanwhile waits.
    fn renew(
        &self,
        make: impl FnOnce(Option<LogStore>) -> Result<LogStore, LogError>,
    ) -> Result<(), LogError> {
        let mut place = self.0.store.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *place = Some(make(place.take())?);
        Ok(())
    }
}

/// Where a log is.
#[derive(Clone, Debug)]
pub struct LogFolder {
    /// Where its database is, which is made if it is not there.
    pub path: PathBuf,
    /// What the log may keep in memory of what was written and read lately, about.
    pub memory_bytes: u64,
}

/// Opens a log, or makes it; `seed` names a new one. A damaged log is repaired as far as that goes.
///
/// # Errors
/// [`LogError`] with the cause.
pub fn open(folder: &LogFolder, seed: u64) -> Result<OpenedLog, LogError> {
    let repair::Repaired { store, mut found, is_cut, damaged } = repair::open(folder, seed)?;
    if found.after_power_loss {
        tracing::warn!(
            "the machine went down without warning; messages of the last moments that were not \
             synced to disk may be lost"
        );
    }
    // Somebody may have seen offsets that the log has lost.
    let is_renewed = found.after_power_loss || is_cut;
    store.begin(&mut found, is_renewed.then_some(seed))?;
    let generations = store.generations()?;
    let store::Found { incarnation, channels, next_log, answers, usage, .. } = found;
    let contents =
        Contents { incarnation, next_log, channels, answers, usage, generations, damaged };
    Ok(OpenedLog { contents, store: SharedStore::new(store) })
}

/// What the log's threads are told.
#[derive(Clone, Debug)]
pub struct LogPlan {
    /// Where the log is, to open it again after a failure.
    pub folder: LogFolder,
    /// What is kept of each app's channels.
    pub retentions: Arc<Retentions>,
    /// Where answers go, by the shard that asked.
    pub ports: Vec<Port<LogAnswer>>,
    /// What it tells.
    pub status: Arc<LogStatus>,
    /// What the program does for the log.
    pub host: Host,
}

impl Log {
    /// Starts the log's threads.
    ///
    /// # Errors
    /// The kernel gives no threads.
    pub fn start(opened: OpenedLog, plan: LogPlan) -> std::io::Result<Self> {
        let status = Arc::clone(&plan.status);
        LogStatus::add(&status.damaged_total, opened.contents.damaged);
        let (writer, appends) = bounded(CALLS_MAX);
        let (reader, calls) = bounded(CALLS_MAX);
        let shelf = opened.store;
        let (ports, host) = (plan.ports.clone(), plan.host);
        let (for_reader, for_writer) = (shelf.clone(), Arc::clone(&status));
        let contents = opened.contents;
        let threads = vec![
            std::thread::Builder::new().name("log-writer".into()).spawn(move || {
                writer::Writer::new(shelf, plan, for_writer, contents).run(&appends);
            })?,
            std::thread::Builder::new().name("log-reader".into()).spawn(move || {
                reader::run(&for_reader, &ports, &calls, host);
            })?,
        ];
        Ok(Self { writer, reader, threads, status })
    }

    /// A way to the log.
    pub fn handle(&self) -> LogHandle {
        LogHandle(Way::Disk { writer: self.writer.clone(), reader: self.reader.clone() })
    }

    /// Writes what is left and closes the log. All handles must be gone.
    pub fn close(self) {
        drop((self.writer, self.reader));
        for thread in self.threads {
            // A panic of either thread was told when it happened.
            let _ = thread.join();
        }
    }
}

impl LogHandle {
    /// A way to the streams of a cluster.
    pub(crate) fn of_streams(calls: tokio::sync::mpsc::Sender<LogCall>) -> Self {
        Self(Way::Streams(calls))
    }

    /// Hands a call over, or gives it back if there is no room.
    ///
    /// # Errors
    /// The call.
    pub fn post(&self, call: LogCall) -> Result<(), LogCall> {
        use tokio::sync::mpsc::error::TrySendError as Full;
        let (writer, reader) = match &self.0 {
            Way::Disk { writer, reader } => (writer, reader),
            Way::Streams(calls) => {
                return match calls.try_send(call) {
                    Err(Full::Full(call)) => Err(call),
                    Ok(()) | Err(Full::Closed(_)) => Ok(()),
                };
            }
        };
        match call {
            LogCall::Append(append) => match writer.try_send(append) {
                Err(TrySendError::Full(append)) => Err(LogCall::Append(append)),
                Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
            },
            LogCall::Locate(locate) => post_read(reader, ReaderCall::Locate(locate)),
            LogCall::Read(read) => post_read(reader, ReaderCall::Read(read)),
            LogCall::Page(page) => post_read(reader, ReaderCall::Page(page)),
            // There is no slot without a cluster.
            LogCall::Open(_)
            | LogCall::Store(_)
            | LogCall::Delete(_)
            | LogCall::StoreMeta(_)
            | LogCall::Names(_)
            | LogCall::Forget(_) => Ok(()),
        }
    }
}

fn post_read(reader: &Sender<ReaderCall>, call: ReaderCall) -> Result<(), LogCall> {
    match reader.try_send(call) {
        Err(TrySendError::Full(ReaderCall::Locate(locate))) => Err(LogCall::Locate(locate)),
        Err(TrySendError::Full(ReaderCall::Read(read))) => Err(LogCall::Read(read)),
        Err(TrySendError::Full(ReaderCall::Page(page))) => Err(LogCall::Page(page)),
        Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
    }
}

impl LogStatus {
    /// Whether writing fails for the moment.
    pub fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    fn add(number: &AtomicU64, n: u64) {
        number.fetch_add(n, Ordering::Relaxed);
    }
}

metrics! {
    /// What is told of the log.
    pub const LOG_METRICS of LogStatus {
        /// 1 while the log cannot be written.
        gauge log_failing = |log| log.is_failing().into();
        /// Bytes of the log on disk.
        gauge log_disk_bytes = |log| log.disk_bytes.load(Ordering::Relaxed);
        /// Records written, each with consecutive messages of one channel.
        counter log_records_total = |log| log.records_total.load(Ordering::Relaxed);
        /// Groups they were written in, each with one write and, if asked for, one sync.
        counter log_groups_total = |log| log.groups_total.load(Ordering::Relaxed);
        /// Appends that failed.
        counter log_failures_total = |log| log.failures_total.load(Ordering::Relaxed);
        /// Records dropped because no limit keeps them.
        counter log_expired_total = |log| log.expired_total.load(Ordering::Relaxed);
        /// Tables and channels of the log that were found damaged; the server's log names them.
        counter log_damaged_total = |log| log.damaged_total.load(Ordering::Relaxed);
    }
}
