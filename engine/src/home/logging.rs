//! Messages on their way to the log, and what becomes of them.

use std::collections::VecDeque;

use pushflo_protocol::time::Month;
use pushflo_protocol::{ErrorCode, Record, Refusal};

use super::Home;
use super::check::OnTheirWay;
use super::idempotency::{Keyed, WINDOW_MS};
use crate::bug::bug;
use crate::context::Context;
use crate::hash::HashMap;
use crate::ids::{AppId, HomeKey};
use crate::log::{self, Append, Entry, LogCall, Logged, NewChannel, StoredAnswer};
use crate::mail::{Answer, ReplyTo, no_room};
use crate::retention::Durability;
use crate::share;

/// Most bytes of messages on their way to the log before publishes are refused; the apps share them.
const LOGGING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most appends that wait for room at the log before publishes are refused.
const APPENDS_MAX: usize = 4096;

/// A message on its way to the log.
#[derive(Debug)]
pub(super) struct LoggedMessage {
    pub(super) home: HomeKey,
    pub(super) app: AppId,
    pub(super) record: Record,
    /// The month it was counted in.
    pub(super) month: Month,
    pub(super) reply_to: ReplyTo,
    /// The idempotency key it holds.
    pub(super) keyed: Option<Box<Keyed>>,
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
    /// Bytes of messages under way, in all and by app.
    bytes: usize,
    bytes_of: HashMap<AppId, usize>,
    /// Raised when an append fails.
    term: u32,
    /// Appends that were not handed over yet.
    appends: VecDeque<Append>,
}

impl Logging {
    /// A message is not on its way any more.
    fn arrived(&mut self, app: AppId, record: &Record) {
        let bytes = record.kept_bytes();
        self.bytes -= bytes;
        if let Some(of_app) = self.bytes_of.get_mut(&app) {
            *of_app -= bytes;
            if *of_app == 0 {
                self.bytes_of.remove(&app);
            }
        }
    }
}

/// What became an append.
#[derive(Debug)]
struct UnderWay {
    term: u32,
    messages: Vec<LoggedMessage>,
    deletes: Vec<HomeKey>,
}

impl Logging {
    /// Checks its tables. Returns what is on its way of each channel.
    pub(super) fn check(&self) -> OnTheirWay {
        let all = self.under_way.iter().flat_map(|append| &append.messages).chain(&self.turn);
        let bytes: usize = all.map(|logged| logged.record.kept_bytes()).sum();
        assert_eq!(self.bytes, bytes, "bytes on their way to the log");
        assert!(self.appends.len() <= self.under_way.len(), "an append that nobody waits for");
        assert!(self.under_way.iter().is_sorted_by_key(|append| append.term));
        assert!(self.under_way.back().is_none_or(|append| append.term <= self.term));
        // What went before an append failed will fail, and has no place any more.
        let current = self.under_way.iter().filter(|append| append.term == self.term);
        let current = current.flat_map(|append| &append.messages).chain(&self.turn);
        let mut on_their_way = OnTheirWay::new();
        for LoggedMessage { home, record, .. } in current {
            let (_, last) = on_their_way.entry(*home).or_insert((record.prev, record.prev));
            assert_eq!(*last, record.prev, "a hole in what is on its way");
            assert!(record.offset > record.prev);
            *last = record.offset;
        }
        on_their_way
    }

    /// The keys of publishes that are on their way.
    pub(super) fn keyed(&self) -> impl Iterator<Item = &Keyed> {
        let all = self.under_way.iter().flat_map(|append| &append.messages).chain(&self.turn);
        all.filter_map(|logged| logged.keyed.as_deref())
    }

    /// Channels whose deletion is on its way, or was.
    pub(super) fn deletes(&self) -> impl Iterator<Item = HomeKey> {
        let under_way = self.under_way.iter().flat_map(|append| &append.deletes);
        under_way.chain(&self.turn_deletes).chain(&self.failed_deletes).copied()
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
        let are_calls_left = self.reading.post(post);
        are_calls_left || !self.logging.appends.is_empty()
    }

    /// Whether the log takes another message of an app.
    pub(super) fn check_log(&self, app: AppId) -> Result<(), Refusal> {
        let Logging { bytes, bytes_of, appends, .. } = &self.logging;
        let of_app = bytes_of.get(&app).copied().unwrap_or_default();
        if !share::has_room(of_app, *bytes, LOGGING_BYTES_MAX) || appends.len() >= APPENDS_MAX {
            return Err(no_room());
        }
        Ok(())
    }

    pub(super) fn log_message(&mut self, message: LoggedMessage) {
        let bytes = message.record.kept_bytes();
        self.logging.bytes += bytes;
        *self.logging.bytes_of.entry(message.app).or_default() += bytes;
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
            log::Answer::Located(done) => self.located(cx, done),
            log::Answer::Read(done) => self.window_read(cx, *done),
            log::Answer::Page(done) => self.page_read(cx, *done),
        }
    }

    /// The log's answer to the oldest append.
    fn logged(&mut self, cx: &mut Context, outcome: Logged) {
        let Some(UnderWay { term, messages, deletes }) = self.logging.under_way.pop_front() else {
            return bug!(cx, "the log answers an append that nobody waits for");
        };
        match outcome {
            Ok(()) => {
                for LoggedMessage { home, app, record, reply_to, keyed, .. } in messages {
                    self.logging.arrived(app, &record);
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
                for LoggedMessage { home, app, record, month, reply_to, keyed } in failed {
                    self.logging.arrived(app, &record);
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
}
