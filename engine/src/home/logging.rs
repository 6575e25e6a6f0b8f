//! Messages on their way to the log, and what becomes of them.

use std::collections::VecDeque;

use pushflo_protocol::time::Month;
use pushflo_protocol::{ErrorCode, Record, Refusal};

use super::Home;
use super::check::OnTheirWay;
use super::idempotency::{Keyed, WINDOW_MS};
use super::slots::Slots;
use crate::bug::bug;
use crate::context::Context;
use crate::hash::HashMap;
use crate::ids::{AppId, HomeKey};
use crate::in_turn::InTurn;
use crate::log::{Append, AppendEntry, LogAnswer, LogCall, Logged, NewChannel, StoredAnswer};
use crate::mail::{Answer, ReplyTo, no_room};
use crate::retention::Durability;
use crate::share;

/// Most appends that are on their way to the log, and, with the one that goes past it, what part of the
/// bytes that may wait. Apps take turns for what comes behind, so nobody waits for more than this of
/// another app's messages.
const UNDER_WAY_MAX: usize = 64;
const UNDER_WAY_PARTS: usize = 8;

/// With the message that goes past this part of the bytes that may wait, an append ends. An app that has
/// more than this part waits where the log is short of room.
const APPEND_PARTS: usize = 64;

/// A message on its way to the log.
#[derive(Debug)]
pub(super) struct LoggedMessage {
    pub(super) home: HomeKey,
    pub(super) app: AppId,
    pub(super) record: Record,
    /// The month it was counted in.
    pub(super) month: Month,
    /// Who is told what became of it; nobody who was told that this is not known.
    pub(super) reply_to: Option<ReplyTo>,
    /// The idempotency key it holds.
    pub(super) keyed: Option<Box<Keyed>>,
}

/// A channel to be deleted from the log, behind all messages of it that are on their way.
#[derive(Clone, Copy, Debug)]
struct Deletion {
    home: HomeKey,
    app: AppId,
}

/// What waits for its turn at the log.
#[derive(Debug)]
enum Waiting {
    Message(LoggedMessage),
    Deletion(Deletion),
}

/// What a shard has at the log.
#[derive(Debug)]
pub(super) struct Logging {
    /// Most bytes of messages before publishes are refused; the apps share them.
    bytes_max: usize,
    /// What was not sent yet.
    waiting: InTurn<Waiting>,
    /// Channels whose deletion failed; it is tried again at the next tick.
    failed_deletions: Vec<Deletion>,
    /// What was sent, oldest first.
    under_way: VecDeque<UnderWay>,
    /// Bytes of its messages.
    under_way_bytes: usize,
    /// Bytes of all messages that wait or are under way, and by app.
    bytes: usize,
    bytes_of: HashMap<AppId, usize>,
    /// Raised when an append fails.
    term: u32,
    /// Appends that were not handed over yet.
    appends: VecDeque<Append>,
    /// The log is short of room.
    is_short: bool,
}

/// What became an append.
#[derive(Debug)]
struct UnderWay {
    term: u32,
    messages: Vec<LoggedMessage>,
    deletions: Vec<Deletion>,
    /// What the messages keep in memory.
    bytes: usize,
}

impl Logging {
    /// With room for messages of so many bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            waiting: InTurn::default(),
            failed_deletions: Vec::new(),
            under_way: VecDeque::new(),
            under_way_bytes: 0,
            bytes: 0,
            bytes_of: HashMap::default(),
            term: 0,
            appends: VecDeque::new(),
            is_short: false,
        }
    }

    /// Bytes of messages that wait for the log or are on their way to it.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits for the log, or is on its way to it.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty() && self.appends.is_empty()
    }

    /// A message is not on its way any more.
    pub(super) fn arrived(&mut self, app: AppId, record: &Record) {
        let bytes = record.kept_bytes();
        self.bytes -= bytes;
        if let Some(of_app) = self.bytes_of.get_mut(&app) {
            *of_app -= bytes;
            if *of_app == 0 {
                self.bytes_of.remove(&app);
            }
        }
    }

    /// What goes into the next append, if there is something and room for it.
    fn next(&mut self) -> Option<(Vec<LoggedMessage>, Vec<Deletion>)> {
        let is_room = self.under_way.len() < UNDER_WAY_MAX
            && self.under_way_bytes < self.bytes_max / UNDER_WAY_PARTS;
        if self.waiting.is_empty() || !is_room {
            return None;
        }
        let append_bytes_max = self.bytes_max / APPEND_PARTS;
        let may = |app: AppId| {
            let bytes = self.bytes_of.get(&app).copied().unwrap_or_default();
            !self.is_short || bytes <= append_bytes_max
        };
        let (mut messages, mut deletions, mut bytes) = (Vec::new(), Vec::new(), 0);
        while bytes < append_bytes_max
            && let Some(next) = self.waiting.pop_of(may)
        {
            match next {
                Waiting::Message(message) => {
                    bytes += message.record.kept_bytes();
                    messages.push(message);
                }
                Waiting::Deletion(deletion) => deletions.push(deletion),
            }
        }
        (!messages.is_empty() || !deletions.is_empty()).then_some((messages, deletions))
    }

    /// Takes back all messages that were not sent yet.
    fn take_messages(&mut self) -> Vec<LoggedMessage> {
        let mut messages = Vec::new();
        let mut waiting = std::mem::take(&mut self.waiting);
        while let Some(next) = waiting.pop() {
            match next {
                Waiting::Message(message) => messages.push(message),
                Waiting::Deletion(deletion) => self.wait_to_delete(deletion),
            }
        }
        messages
    }

    fn wait_to_delete(&mut self, deletion: Deletion) {
        self.waiting.push(deletion.app, Waiting::Deletion(deletion));
    }

    /// All messages on their way, those of a channel in their order, with the term they were sent in.
    fn messages(&self) -> impl Iterator<Item = (u32, &LoggedMessage)> {
        let under_way = self.under_way.iter();
        let under_way = under_way.flat_map(|a| a.messages.iter().map(|message| (a.term, message)));
        let waiting = self.waiting.iter().filter_map(|waiting| match waiting {
            Waiting::Message(message) => Some((self.term, message)),
            Waiting::Deletion(_) => None,
        });
        under_way.chain(waiting)
    }

    /// Checks its tables. Returns what is on its way of each channel.
    pub(super) fn check(&self, slots: &Slots) -> OnTheirWay {
        let bytes: usize = self.messages().map(|(_, logged)| logged.record.kept_bytes()).sum();
        let bytes =
            bytes + slots.messages().map(|logged| logged.record.kept_bytes()).sum::<usize>();
        assert_eq!(self.bytes, bytes, "bytes on their way to the log");
        let under_way: usize = self.under_way.iter().map(|append| append.bytes).sum();
        assert_eq!(self.under_way_bytes, under_way, "bytes of appends under way");
        assert!(self.appends.len() <= self.under_way.len(), "an append that nobody waits for");
        assert!(self.under_way.iter().is_sorted_by_key(|append| append.term));
        assert!(self.under_way.back().is_none_or(|append| append.term <= self.term));
        // What went before an append failed will fail, and has no place any more.
        let current = self.messages().filter(|(term, _)| *term == self.term);
        let mut on_their_way = OnTheirWay::new();
        for (_, LoggedMessage { home, record, .. }) in current {
            let (_, last) = on_their_way.entry(*home).or_insert((record.prev, record.prev));
            assert_eq!(*last, record.prev, "a hole in what is on its way");
            assert!(record.offset > record.prev);
            *last = record.offset;
        }
        on_their_way
    }

    /// The keys of publishes that are on their way.
    pub(super) fn keyed(&self) -> impl Iterator<Item = &Keyed> {
        self.messages().filter_map(|(_, logged)| logged.keyed.as_deref())
    }

    /// Channels whose deletion is on its way, or was.
    pub(super) fn deletes(&self) -> impl Iterator<Item = HomeKey> {
        let under_way = self.under_way.iter().flat_map(|append| &append.deletions);
        let waiting = self.waiting.iter().filter_map(|waiting| match waiting {
            Waiting::Deletion(deletion) => Some(deletion),
            Waiting::Message(_) => None,
        });
        under_way.chain(waiting).chain(&self.failed_deletions).map(|deletion| deletion.home)
    }
}

impl Home {
    /// Hands calls over to the log, as far as `post` takes them. Returns whether some are left.
    pub(crate) fn post_log_calls(
        &mut self,
        mut post: impl FnMut(LogCall) -> Result<(), LogCall>,
    ) -> bool {
        while let Some(append) = self.logging.appends.pop_front() {
            if let Err(LogCall::Append(append)) = post(LogCall::Append(append)) {
                self.logging.appends.push_front(append);
                break;
            }
        }
        let are_calls_left = self.slots.post(&mut post) | self.reading.post(post);
        are_calls_left || !self.logging.appends.is_empty()
    }

    /// Whether the log takes another message of an app.
    pub(super) fn check_log(&self, app: AppId) -> Result<(), Refusal> {
        let Logging { bytes_max, bytes, bytes_of, .. } = &self.logging;
        let of_app = bytes_of.get(&app).copied().unwrap_or_default();
        match share::has_room(of_app, *bytes, *bytes_max) {
            true => Ok(()),
            false => Err(no_room()),
        }
    }

    pub(super) fn log_message(&mut self, cx: &Context, message: LoggedMessage) {
        let bytes = message.record.kept_bytes();
        self.logging.bytes += bytes;
        *self.logging.bytes_of.entry(message.app).or_default() += bytes;
        if cx.is_cluster() {
            return self.store(cx, message);
        }
        self.logging.waiting.push(message.app, Waiting::Message(message));
    }

    /// Deletes a channel's records, behind all messages of it that are on their way.
    pub(super) fn log_delete(&mut self, home: HomeKey) {
        let Some(app) = self.channels.get(home).map(|home| home.channel.app) else { return };
        self.logging.wait_to_delete(Deletion { home, app });
    }

    /// Tries again to delete what could not be deleted.
    pub(super) fn retry_deletes(&mut self) {
        for deletion in std::mem::take(&mut self.logging.failed_deletions) {
            self.logging.wait_to_delete(deletion);
        }
    }

    /// Has as much of what waits go to the log as may be on its way.
    pub(crate) fn flush(&mut self, cx: &mut Context) {
        while let Some((messages, deletions)) = self.logging.next() {
            self.append(cx, messages, deletions);
        }
        let Logging { waiting, under_way, is_short, .. } = &self.logging;
        let is_seen_to = waiting.is_empty() || !under_way.is_empty() || *is_short;
        debug_assert!(is_seen_to, "it would wait for ever");
    }

    fn append(&mut self, cx: &Context, messages: Vec<LoggedMessage>, deletions: Vec<Deletion>) {
        // One that is merely forgotten may come back after a power loss: nobody misses it.
        let is_awaited = |deletion: &Deletion| {
            let home = self.channels.get(deletion.home);
            home.and_then(|home| home.extra.as_ref()).is_some_and(|extra| extra.change.is_some())
        };
        let mut sync = deletions.iter().any(is_awaited);
        let mut entries = Vec::with_capacity(messages.len());
        for logged in &messages {
            let Some(home) = self.channels.get(logged.home) else { continue };
            let Some(log) = home.log else { continue };
            let app = cx.directory.app(home.channel.app);
            sync |= app.is_some_and(|app| app.plan.durability == Durability::Disk);
            let new = (!log.is_known).then(|| {
                let (channel, epoch) = (home.channel.clone(), home.head.epoch);
                Box::new(NewChannel { channel, epoch, created_ms: home.created_ms })
            });
            let record = logged.record.clone();
            let answer = logged.keyed.as_ref().map(|keyed| {
                let Keyed { key, content, .. } = &**keyed;
                let receipt = home.receipt(&record, 0);
                let (key, content) = ((&**key).into(), *content);
                let until_ms = cx.now.steady_ms + WINDOW_MS;
                Box::new(StoredAnswer { key, content, until_ms, receipt })
            });
            entries.push(AppendEntry { log: log.id, record, new, answer });
        }
        let deleted = |deletion: &Deletion| {
            let home = self.channels.get(deletion.home)?;
            Some((home.log?.id, home.channel.clone()))
        };
        let generation = |deletion: &Deletion| {
            Some(cx.shared.generation(&self.channels.get(deletion.home)?.channel))
        };
        let (shard, term) = (cx.shard, self.logging.term);
        let append = Append {
            shard,
            term,
            entries,
            deletes: deletions.iter().filter_map(deleted).collect(),
            generations: deletions.iter().filter_map(generation).collect(),
            sync,
        };
        self.logging.appends.push_back(append);
        let bytes = messages.iter().map(|logged| logged.record.kept_bytes()).sum();
        self.logging.under_way_bytes += bytes;
        self.logging.under_way.push_back(UnderWay { term, messages, deletions, bytes });
    }

    /// The log's answer to a call.
    pub(crate) fn log_answered(&mut self, cx: &mut Context, answer: LogAnswer) {
        match answer {
            LogAnswer::Logged(outcome) => self.logged(cx, outcome),
            LogAnswer::Located(done) => self.located(cx, done),
            LogAnswer::Read(done) => self.window_read(cx, *done),
            LogAnswer::Page(done) => self.page_read(cx, *done),
            LogAnswer::Short(is_short) => self.logging.is_short = is_short,
            LogAnswer::Opened(opened) => self.opened(cx, *opened),
            LogAnswer::Slot(news) => self.slot_news(cx, news),
            LogAnswer::Meta(news) => self.meta_changed(cx, *news),
            LogAnswer::MetaStored(stored) => self.meta_stored(cx, *stored),
            LogAnswer::Names(names) => self.named(cx, *names),
        }
    }

    /// The log's answer to the oldest append.
    fn logged(&mut self, cx: &mut Context, outcome: Logged) {
        let Some(append) = self.logging.under_way.pop_front() else {
            return bug!(cx, "the log answers an append that nobody waits for");
        };
        let UnderWay { term, messages, deletions, bytes } = append;
        self.logging.under_way_bytes -= bytes;
        match outcome {
            Ok(()) => {
                for LoggedMessage { home, app, record, reply_to, keyed, .. } in messages {
                    self.logging.arrived(app, &record);
                    if let Some(log) = self.channels.get_mut(home).and_then(|h| h.log.as_mut()) {
                        log.is_known = true;
                    }
                    self.deliver(cx, home, record, reply_to, keyed);
                }
                for Deletion { home, .. } in deletions {
                    self.channel_deleted(cx, home, Ok(Answer::Deleted));
                }
            }
            Err(failure) => {
                let mut failed = messages;
                if term == self.logging.term {
                    self.begin_term(&mut failed);
                }
                let text = format!("nothing was published: {}", failure.0);
                let refusal = Refusal::new(ErrorCode::Overloaded, text);
                for LoggedMessage { home, app, record, month, reply_to, keyed } in failed {
                    self.logging.arrived(app, &record);
                    self.return_message(cx, home, month);
                    self.publish_failed(cx, reply_to, keyed, &refusal);
                }
                let text = format!("the channel is closed, its history goes later: {}", failure.0);
                let refusal = Refusal::new(ErrorCode::Overloaded, text);
                for deletion in deletions {
                    self.channel_deleted(cx, deletion.home, Err(refusal.clone()));
                    self.logging.failed_deletions.push(deletion);
                }
            }
        }
    }

    /// An append failed, and all that was sent behind it will; so does what was not sent yet, which
    /// is added to `failed`. What follows comes behind the head of its channel, with a leap.
    fn begin_term(&mut self, failed: &mut Vec<LoggedMessage>) {
        self.logging.term += 1;
        failed.append(&mut self.logging.take_messages());
        let under_way = self.logging.under_way.iter().flat_map(|append| &append.messages);
        let homes: Vec<HomeKey> =
            failed.iter().chain(under_way).map(|logged| logged.home).collect();
        for key in homes {
            if let Some(home) = self.channels.get_mut(key) {
                home.given = home.head.offset;
            }
        }
    }
}
