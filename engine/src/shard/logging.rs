//! The shard's side of the log: messages on their way there, and reads for those who missed some.
//!
//! A read goes on until what it brought meets what is in memory; only then does the subscriber join,
//! so that the seam between the log and live is the same as without a log. Those who come back to
//! the same place while it is read share one read and its bytes.

use std::collections::VecDeque;

use bytes::Bytes;
use slotmap::SlotMap;

use pushflo_protocol::{ErrorCode, Message, Offset, Refusal};

use super::Shard;
use super::envelope::{Asker, ReplyTo};
use super::id::{HomeKey, ReadKey};
use crate::hash::HashMap;
use crate::history::Durability;
use crate::history::log::{
    Append, Entry, LogCall, LogId, Logged, PageCall, Read, ReadAnswer, ReadFrom,
};

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
    /// The offset before it.
    pub(super) prev: Offset,
    pub(super) message: Message,
    pub(super) reply_to: ReplyTo,
}

/// What a subscriber missed.
#[derive(Clone, Debug, Default)]
pub(super) struct Missed {
    pub(super) messages: u64,
    /// Their frames; each of these may hold several.
    pub(super) frames: Vec<Bytes>,
}

/// A read under way.
#[derive(Debug)]
pub(super) struct PendingRead {
    home: HomeKey,
    log: LogId,
    from: ReadFrom,
    /// The channel's head when the round began: how far it goes.
    until: Offset,
    /// Who waits for it.
    askers: Vec<Asker>,
    /// What earlier rounds brought.
    missed: Missed,
    rounds: u32,
}

/// What a shard has at the log.
#[derive(Debug, Default)]
pub(super) struct Logging {
    /// Messages of this turn.
    turn: Vec<LoggedMessage>,
    /// Those of earlier turns with the term of their append, oldest first.
    under_way: VecDeque<(u32, Vec<LoggedMessage>)>,
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

impl Shard {
    /// Hands calls over to the log, as far as `post` takes them. Returns whether some are left.
    pub fn post_log_calls(&mut self, mut post: impl FnMut(LogCall) -> Result<(), LogCall>) -> bool {
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

    pub(super) fn has_log(&self) -> bool {
        self.settings.durability != Durability::Memory
    }

    /// Whether the log takes another message.
    pub(super) fn check_log(&self) -> Result<(), Refusal> {
        let Logging { bytes, appends, .. } = &self.logging;
        if *bytes >= LOGGING_BYTES_MAX || appends.len() >= APPENDS_MAX {
            return Err(super::no_room());
        }
        Ok(())
    }

    pub(super) fn log_message(&mut self, message: LoggedMessage) {
        self.logging.bytes += message.message.frame.len();
        self.logging.turn.push(message);
    }

    /// Hands the messages of the turn over.
    pub(super) fn seal_append(&mut self) {
        if self.logging.turn.is_empty() {
            return;
        }
        let turn = std::mem::take(&mut self.logging.turn);
        let mut entries = Vec::with_capacity(turn.len());
        for logged in &turn {
            let Some(home) = self.homes.get(logged.home) else { continue };
            let Some(log) = home.log else { continue };
            let new = (!log.is_known).then(|| Box::new((home.channel.clone(), home.head.epoch)));
            let (prev, message) = (logged.prev, logged.message.clone());
            entries.push(Entry { log: log.id, prev, message, new });
        }
        let term = self.logging.term;
        self.logging.appends.push_back(Append { shard: self.id, term, entries });
        self.logging.under_way.push_back((term, turn));
    }

    /// The log's answer to the oldest append.
    pub(super) fn logged(&mut self, outcome: Logged) {
        let Some((term, append)) = self.logging.under_way.pop_front() else { return };
        match outcome {
            Ok(()) => {
                for LoggedMessage { home, message, reply_to, .. } in append {
                    self.logging.bytes -= message.frame.len();
                    if let Some(log) = self.homes.get_mut(home).and_then(|h| h.log.as_mut()) {
                        log.is_known = true;
                    }
                    self.deliver(home, message, reply_to);
                }
            }
            Err(failure) => {
                let mut failed = append;
                if term == self.logging.term {
                    self.begin_term(&mut failed);
                }
                let text = format!("nothing was published: {}", failure.0);
                let refusal = Refusal::new(ErrorCode::Overloaded, text);
                for LoggedMessage { message, reply_to, .. } in failed {
                    self.logging.bytes -= message.frame.len();
                    self.publish_done(reply_to, Err(refusal.clone()));
                }
            }
        }
    }

    /// An append failed, and all that was sent behind it will; so does what was not sent yet, which
    /// is added to `failed`. What follows comes behind the head of its channel, with a leap.
    fn begin_term(&mut self, failed: &mut Vec<LoggedMessage>) {
        self.logging.term += 1;
        failed.append(&mut self.logging.turn);
        let under_way = self.logging.under_way.iter().flat_map(|(_, append)| append);
        let homes: Vec<HomeKey> =
            failed.iter().chain(under_way).map(|logged| logged.home).collect();
        for key in homes {
            if let Some(home) = self.homes.get_mut(key) {
                home.given = home.head.offset;
            }
        }
    }

    /// Reads what a subscriber missed; it joins when that is there.
    pub(super) fn ask_log(&mut self, asker: Asker, key: HomeKey, log: LogId, from: ReadFrom) {
        let Logging { reads, reading, .. } = &mut self.logging;
        if let Some(read) = reading.get(&(key, from)).and_then(|&read| reads.get_mut(read)) {
            read.askers.push(asker);
            return;
        }
        let Some(home) = self.homes.get_mut(key) else { return };
        home.reads += 1;
        let (askers, missed, until) = (vec![asker], Missed::default(), home.head.offset);
        let read = PendingRead { home: key, log, from, until, askers, missed, rounds: 0 };
        let read = reads.insert(read);
        reading.insert((key, from), read);
        self.read_on(read, from);
    }

    pub(super) fn ask_log_page(&mut self, page: PageCall) {
        self.logging.questions.push_back(LogCall::Page(Box::new(page)));
    }

    fn read_on(&mut self, key: ReadKey, from: ReadFrom) {
        let Some(read) = self.logging.reads.get_mut(key) else { return };
        let Some(home) = self.homes.get(read.home) else { return };
        read.until = home.head.offset;
        let (log, until) = (read.log, read.until);
        let call = Read { shard: self.id, read: key, log, from, until };
        self.logging.questions.push_back(LogCall::Read(call));
    }

    /// The log's answer to a read.
    pub(super) fn read_answered(&mut self, key: ReadKey, answer: ReadAnswer) {
        let Some(read) = self.logging.reads.get_mut(key) else { return };
        if read.rounds == 0 {
            // Who asks from now on may want what this answer does not have.
            self.logging.reading.remove(&(read.home, read.from));
        }
        let past = match answer {
            Ok(Some(past)) => past,
            // A log that cannot be read has, for now, a gap.
            Ok(None) | Err(_) => return self.read_done(key, None),
        };
        read.missed.messages += past.messages;
        read.missed.frames.extend(past.frames);
        read.rounds += 1;
        let until = read.until;
        let Some(home) = self.homes.get(read.home) else { return };
        // What was sent meanwhile is in memory, as a rule.
        match self.recent.after(read.home, until, home.head.offset) {
            Some(frames) => {
                read.missed.messages += frames.len() as u64;
                read.missed.frames.extend(frames);
                let missed = std::mem::take(&mut read.missed);
                self.read_done(key, Some(missed));
            }
            None if read.rounds >= ROUNDS_MAX => self.read_done(key, None),
            None => self.read_on(key, ReadFrom::After(until)),
        }
    }

    fn read_done(&mut self, key: ReadKey, missed: Option<Missed>) {
        let Some(read) = self.logging.reads.remove(key) else { return };
        if let Some(home) = self.homes.get_mut(read.home) {
            home.reads -= 1;
        }
        for asker in read.askers {
            self.join(asker, read.home, Some(missed.clone()));
        }
    }
}
