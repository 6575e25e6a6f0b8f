//! The shard's side of the log: messages on their way there, and reads for those who missed some.
//!
//! A read goes on until what it brought meets what is in memory; only then does the subscriber join,
//! so that the seam between the log and live is the same as without a log. Those who come back to
//! the same place while it is read share one read and its bytes.

use std::collections::VecDeque;

use slotmap::SlotMap;

use pushflo_protocol::time::Month;
use pushflo_protocol::{ErrorCode, Offset, Record, Refusal};

use super::Home;
use super::idempotency::{Keyed, WINDOW_MS};
use crate::context::Context;
use crate::hash::HashMap;
use crate::ids::{HomeKey, LogId, ReadKey};
use crate::log::{
    self, Append, Entry, LogCall, Logged, NewChannel, PageCall, Read, ReadAnswer, ReadFrom,
    StoredAnswer,
};
use crate::mail::Answer;
use crate::mail::ReplyTo;
use crate::mail::Subscriber;
use crate::mail::no_room;
use crate::retention::{Durability, Retention};

/// Most bytes of messages on their way to the log before publishes are refused.
const LOGGING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most appends that wait for room at the log before publishes are refused.
const APPENDS_MAX: usize = 4096;

/// How often a read goes on because memory had moved on meanwhile.
const ROUNDS_MAX: u32 = 16;

/// A message on its way to the log.
#[derive(Debug)]
pub(super) struct LoggedMessage {
    pub(super) home: HomeKey,
    pub(super) record: Record,
    /// The month it was counted in.
    pub(super) month: Month,
    pub(super) reply_to: ReplyTo,
    /// The idempotency key it holds.
    pub(super) keyed: Option<Box<Keyed>>,
}

/// A read under way.
#[derive(Debug)]
pub(super) struct PendingRead {
    home: HomeKey,
    log: LogId,
    from: ReadFrom,
    /// The channel's head when the round began: how far it goes.
    until: Offset,
    /// Who waits for it, and whether they want to know who is there.
    subscribers: Vec<(Subscriber, bool)>,
    /// What earlier rounds brought.
    missed: Vec<Record>,
    rounds: u32,
}

/// What a shard has at the log.
#[derive(Debug, Default)]
pub(super) struct Logging {
    /// Messages of this turn.
    turn: Vec<LoggedMessage>,
    /// Channels deleted in this turn.
    turn_deletes: Vec<HomeKey>,
    /// Channels whose deletion failed; it is tried again at the next tick.
    failed_deletes: Vec<HomeKey>,
    /// What earlier turns sent, oldest first.
    under_way: VecDeque<UnderWay>,
    bytes: usize,
    /// Raised when an append fails.
    term: u32,
    /// Appends that were not handed over yet.
    appends: VecDeque<Append>,
    /// Questions that were not handed over yet. There are at most as many as subscriptions and
    /// requests that wait for their answers.
    questions: VecDeque<LogCall>,
    reads: SlotMap<ReadKey, PendingRead>,
    /// Reads whose answer is not there yet, by what they read.
    reading: HashMap<(HomeKey, ReadFrom), ReadKey>,
}

/// What became an append.
#[derive(Debug)]
struct UnderWay {
    term: u32,
    messages: Vec<LoggedMessage>,
    deletes: Vec<HomeKey>,
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
        while let Some(question) = self.logging.questions.pop_front() {
            if let Err(question) = post(question) {
                self.logging.questions.push_front(question);
                break;
            }
        }
        !self.logging.appends.is_empty() || !self.logging.questions.is_empty()
    }

    /// Whether the log takes another message.
    pub(super) fn check_log(&self) -> Result<(), Refusal> {
        let Logging { bytes, appends, .. } = &self.logging;
        if *bytes >= LOGGING_BYTES_MAX || appends.len() >= APPENDS_MAX {
            return Err(no_room());
        }
        Ok(())
    }

    pub(super) fn log_message(&mut self, message: LoggedMessage) {
        self.logging.bytes += message.record.kept_bytes();
        self.logging.turn.push(message);
    }

    /// Deletes a channel's records, behind all messages that are on their way.
    pub(super) fn log_delete(&mut self, home: HomeKey) {
        self.logging.turn_deletes.push(home);
    }

    /// Tries again to delete what could not be deleted.
    pub(super) fn retry_deletes(&mut self) {
        let Logging { turn_deletes, failed_deletes, .. } = &mut self.logging;
        turn_deletes.append(failed_deletes);
    }

    /// Hands the messages of the turn over to the log.
    pub(crate) fn flush(&mut self, cx: &mut Context) {
        if self.logging.turn.is_empty() && self.logging.turn_deletes.is_empty() {
            return;
        }
        let messages = std::mem::take(&mut self.logging.turn);
        let deletes = std::mem::take(&mut self.logging.turn_deletes);
        // One that is merely forgotten may come back after a power loss: nobody misses it.
        let is_awaited = |key: &HomeKey| {
            let home = self.channels.get(*key);
            home.and_then(|home| home.extra.as_ref()).is_some_and(|extra| extra.change.is_some())
        };
        let mut sync = deletes.iter().any(is_awaited);
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
            entries.push(Entry { log: log.id, record, new, answer });
        }
        let deleted = |key: &HomeKey| {
            let home = self.channels.get(*key)?;
            Some((home.log?.id, home.channel.clone()))
        };
        let generation =
            |key: &HomeKey| Some(cx.shared.generation(&self.channels.get(*key)?.channel));
        let (shard, term) = (cx.shard, self.logging.term);
        let append = Append {
            shard,
            term,
            entries,
            deletes: deletes.iter().filter_map(deleted).collect(),
            generations: deletes.iter().filter_map(generation).collect(),
            sync,
        };
        self.logging.appends.push_back(append);
        self.logging.under_way.push_back(UnderWay { term, messages, deletes });
    }

    /// The log's answer to a call.
    pub(crate) fn log_answered(&mut self, cx: &mut Context, answer: log::Answer) {
        match answer {
            log::Answer::Logged(outcome) => self.logged(cx, outcome),
            log::Answer::Read(done) => self.read_answered(cx, done.read, done.answer),
            log::Answer::Page(done) => {
                cx.answer(done.request, done.outcome.map(Answer::Page));
            }
        }
    }

    /// The log's answer to the oldest append.
    fn logged(&mut self, cx: &mut Context, outcome: Logged) {
        let Some(UnderWay { term, messages, deletes }) = self.logging.under_way.pop_front() else {
            return;
        };
        match outcome {
            Ok(()) => {
                for LoggedMessage { home, record, reply_to, keyed, .. } in messages {
                    self.logging.bytes -= record.kept_bytes();
                    if let Some(log) = self.channels.get_mut(home).and_then(|h| h.log.as_mut()) {
                        log.is_known = true;
                    }
                    self.deliver(cx, home, record, reply_to, keyed);
                }
                for home in deletes {
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
                for LoggedMessage { home, record, month, reply_to, keyed } in failed {
                    self.logging.bytes -= record.kept_bytes();
                    self.return_message(cx, home, month);
                    self.publish_failed(cx, reply_to, keyed, &refusal);
                }
                for home in deletes {
                    let text =
                        format!("the channel is closed, its history goes later: {}", failure.0);
                    self.channel_deleted(cx, home, Err(Refusal::new(ErrorCode::Overloaded, text)));
                    self.logging.failed_deletes.push(home);
                }
            }
        }
    }

    /// An append failed, and all that was sent behind it will; so does what was not sent yet, which
    /// is added to `failed`. What follows comes behind the head of its channel, with a leap.
    fn begin_term(&mut self, failed: &mut Vec<LoggedMessage>) {
        self.logging.term += 1;
        failed.append(&mut self.logging.turn);
        let under_way = self.logging.under_way.iter().flat_map(|append| &append.messages);
        let homes: Vec<HomeKey> =
            failed.iter().chain(under_way).map(|logged| logged.home).collect();
        for key in homes {
            if let Some(home) = self.channels.get_mut(key) {
                home.given = home.head.offset;
            }
        }
    }

    /// Reads what a subscriber missed; it joins when that is there.
    pub(super) fn ask_log(
        &mut self,
        cx: &mut Context,
        subscriber: (Subscriber, bool),
        key: HomeKey,
        log: LogId,
        from: ReadFrom,
    ) {
        let Logging { reads, reading, .. } = &mut self.logging;
        if let Some(read) = reading.get(&(key, from)).and_then(|&read| reads.get_mut(read)) {
            read.subscribers.push(subscriber);
            return;
        }
        let Some(home) = self.channels.get_mut(key) else { return };
        home.reads += 1;
        let (subscribers, missed, until) = (vec![subscriber], Vec::new(), home.head.offset);
        let read = PendingRead { home: key, log, from, until, subscribers, missed, rounds: 0 };
        let read = reads.insert(read);
        reading.insert((key, from), read);
        self.read_on(cx, read, from);
    }

    pub(super) fn ask_log_page(&mut self, page: PageCall) {
        self.logging.questions.push_back(LogCall::Page(Box::new(page)));
    }

    fn read_on(&mut self, cx: &mut Context, key: ReadKey, from: ReadFrom) {
        let Some(read) = self.logging.reads.get_mut(key) else { return };
        let Some(home) = self.channels.get(read.home) else { return };
        let app = cx.directory.app(home.channel.app);
        let retention = app.map_or(Retention::NOTHING, |app| app.plan.retention);
        read.until = home.head.offset;
        let (log, until) = (read.log, read.until);
        let call = Read { shard: cx.shard, read: key, log, from, until, retention };
        self.logging.questions.push_back(LogCall::Read(call));
    }

    /// The log's answer to a read.
    fn read_answered(&mut self, cx: &mut Context, key: ReadKey, answer: ReadAnswer) {
        let Some(read) = self.logging.reads.get_mut(key) else { return };
        if read.rounds == 0 {
            // Who asks from now on may want what this answer does not have.
            self.logging.reading.remove(&(read.home, read.from));
        }
        let past = match answer {
            Ok(Some(past)) => past,
            Ok(None) => return self.read_done(cx, key, Ok(None)),
            // Nothing is lost yet: who is told of a gap would take it for one.
            Err(failure) => {
                return self.read_done(
                    cx,
                    key,
                    Err(Refusal::new(ErrorCode::Overloaded, failure.0.to_string())),
                );
            }
        };
        read.missed.extend(past);
        read.rounds += 1;
        let until = read.until;
        let Some(home) = self.channels.get(read.home) else {
            return self.read_done(cx, key, Ok(None));
        };
        // What was sent meanwhile is in memory, as a rule.
        match self.recent.after(read.home, until, home.head.offset, 0) {
            Some(records) => {
                read.missed.extend(records);
                let missed = std::mem::take(&mut read.missed);
                self.read_done(cx, key, Ok(Some(missed)));
            }
            None if read.rounds >= ROUNDS_MAX => self.read_done(cx, key, Err(too_fast())),
            None => self.read_on(cx, key, ReadFrom::After(until)),
        }
    }

    fn read_done(
        &mut self,
        cx: &mut Context,
        key: ReadKey,
        missed: Result<Option<Vec<Record>>, Refusal>,
    ) {
        let Some(read) = self.logging.reads.remove(key) else { return };
        if let Some(home) = self.channels.get_mut(read.home) {
            home.reads -= 1;
        }
        for (subscriber, wants_presence) in read.subscribers {
            match &missed {
                Ok(missed) => {
                    self.join(cx, subscriber, read.home, Some(missed.clone()), wants_presence)
                }
                Err(refusal) => self.subscribe_done(cx, subscriber, Err(refusal.clone())),
            }
        }
        self.forget_if_untouched(cx, read.home);
    }
}

/// The refusal of one who missed more than can be read before there is as much again.
fn too_fast() -> Refusal {
    let text =
        "the channel gets messages faster than what was missed can be read; try again shortly";
    Refusal::new(ErrorCode::Overloaded, text)
}
