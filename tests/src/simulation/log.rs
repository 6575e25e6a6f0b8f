//! A model of the log: what the shards may ask of the real one, answered from a list in memory that
//! outlives them. It is slow when the seed says so, fails when it is told to, and keeps of each channel
//! what its plan says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;
use pushflo_engine::ids::{AppId, ChannelKey, EpochSlot, LogId, ShardId};
use pushflo_engine::log::{
    Append, AppendEntry, LoadedChannel, Locate, LocateDone, Located, LogAnswer, LogCall,
    LogFailure, NewChannel, Page, PageCall, PageDone, Read, ReadDone, ReadFrom, StoredAnswer,
    Totals,
};
use pushflo_engine::retention::Retention;
use pushflo_engine::shard::Envelope;
use pushflo_protocol::{Epoch, ErrorCode, Offset, Record, Refusal};

/// Calls that wait at most; the shards keep the rest.
const CALLS_MAX: usize = 4;

#[derive(Debug, Default)]
pub struct ModelLog {
    channels: BTreeMap<LogId, Channel>,
    appends: VecDeque<Append>,
    questions: VecDeque<LogCall>,
    refused_terms: BTreeMap<ShardId, u32>,
    /// Answers for publishers who ask again, in the order in which they end.
    answers: BTreeMap<(u64, LogId, Box<str>), (ChannelKey, StoredAnswer)>,
    /// Slots of epochs and the generations that they are in.
    generations: BTreeMap<EpochSlot, u32>,
    /// The largest id it was given.
    last_log: u64,
    pub is_failing: bool,
    /// Now and then a read fails.
    pub is_shaky: bool,
    /// The shards that asked for something, and whether they were told that room is short.
    short: BTreeMap<ShardId, bool>,
}

#[derive(Debug)]
struct Channel {
    name: ChannelKey,
    epoch: Epoch,
    /// The last offset, also of what was forgotten.
    head: Offset,
    /// When that got its offset.
    last_ms: u64,
    records: Vec<Record>,
}

impl Channel {
    /// What is kept up to an offset.
    fn kept(&self, until: Offset, retention: &Retention, now_ms: u64) -> &[Record] {
        let since_ms = retention.since_ms(now_ms);
        let end = self.records.partition_point(|record| record.offset <= until);
        let young = self.records.partition_point(|record| record.timestamp_ms < since_ms);
        let start = end.saturating_sub(retention.messages_max).max(young).min(end);
        &self.records[start..end]
    }
}

fn failure() -> LogFailure {
    LogFailure("the disk is full".into())
}

impl ModelLog {
    pub fn post(&mut self, call: LogCall) -> Result<(), LogCall> {
        match call {
            LogCall::Append(append) if self.appends.len() < CALLS_MAX => {
                self.short.entry(append.shard).or_default();
                self.appends.push_back(append);
                Ok(())
            }
            LogCall::Locate(_) | LogCall::Read(_) | LogCall::Page(_)
                if self.questions.len() < CALLS_MAX =>
            {
                self.questions.push_back(call);
                Ok(())
            }
            full => Err(full),
        }
    }

    /// Answers one call, an append or a question as the seed says.
    pub fn act(&mut self, random: &mut Rng, now_ms: u64) -> Option<(ShardId, Envelope)> {
        if let Some(told) = self.tell_of_room(random) {
            return Some(told);
        }
        if self.questions.is_empty() || (random.bool() && !self.appends.is_empty()) {
            let append = self.appends.pop_front()?;
            return Some((append.shard, Envelope::Log(LogAnswer::Logged(self.append(append)))));
        }
        let is_failing =
            (self.is_failing && random.bool()) || (self.is_shaky && random.u8(..) < 20);
        let (shard, answer) = match self.questions.pop_front()? {
            LogCall::Locate(locate) => {
                let found = self.locate(&locate, now_ms);
                let answer = if is_failing { Err(failure()) } else { Ok(found) };
                (locate.shard, LogAnswer::Located(LocateDone { read: locate.read, answer }))
            }
            LogCall::Read(read) => {
                let found = self.read(&read, now_ms);
                let answer = if is_failing { Err(failure()) } else { Ok(found) };
                (read.shard, LogAnswer::Read(Box::new(ReadDone { read: read.read, answer })))
            }
            LogCall::Page(page) => {
                let found = self.page(&page, now_ms);
                let refusal = Refusal::new(ErrorCode::Overloaded, "the disk cannot be read");
                let outcome = if is_failing { Err(refusal) } else { Ok(found) };
                let is_scan = page.query.is_scan();
                let done = PageDone { request: page.request, outcome, is_scan };
                (page.shard, LogAnswer::Page(Box::new(done)))
            }
            LogCall::Append(_) => unreachable!("an append is no question"),
            LogCall::Open(_)
            | LogCall::Store(_)
            | LogCall::Delete(_)
            | LogCall::StoreMeta(_)
            | LogCall::Names(_)
            | LogCall::Forget(_) => {
                unreachable!("no cluster")
            }
        };
        Some((shard, Envelope::Log(answer)))
    }

    /// Room becomes short now and then while there is something to write, and is not before it rests.
    fn tell_of_room(&mut self, random: &mut Rng) -> Option<(ShardId, Envelope)> {
        let becomes = !self.appends.is_empty() && random.u8(..) < 16;
        let is_over = self.appends.is_empty() || random.u8(..) < 64;
        let told = self.short.iter_mut().find(|(_, short)| if **short { is_over } else { becomes });
        told.map(|(shard, short)| {
            *short = !*short;
            (*shard, Envelope::Log(LogAnswer::Short(*short)))
        })
    }

    fn append(&mut self, append: Append) -> Result<(), LogFailure> {
        let refused = self.refused_terms.get(&append.shard);
        if refused.is_some_and(|term| append.term <= *term) {
            return Err(failure());
        }
        if self.is_failing {
            self.refused_terms.insert(append.shard, append.term);
            return Err(failure());
        }
        for AppendEntry { log, record, new, answer } in append.entries {
            self.last_log = self.last_log.max(log.0);
            let channel = self.channels.entry(log).or_insert_with(|| {
                let NewChannel { channel: name, epoch, .. } =
                    *new.expect("the log does not know the channel");
                Channel { name, epoch, head: Offset(0), last_ms: 0, records: Vec::new() }
            });
            if let Some(answer) = answer {
                let key = (answer.until_ms, log, answer.key.clone());
                self.answers.insert(key, (channel.name.clone(), *answer));
            }
            assert_eq!(channel.head, record.prev, "a hole in the log");
            assert!(record.offset > record.prev);
            channel.head = record.offset;
            channel.last_ms = record.timestamp_ms;
            channel.records.push(record);
        }
        for (log, name) in append.deletes {
            let gone = self.channels.remove(&log);
            assert!(gone.is_none_or(|channel| channel.name == name), "another channel is deleted");
            self.answers.retain(|(_, of, _), _| *of != log);
        }
        self.generations.extend(append.generations);
        Ok(())
    }

    fn locate(&self, locate: &Locate, now_ms: u64) -> Option<Located> {
        let until = locate.until;
        let Some(channel) = self.channels.get(&locate.log) else {
            // Nothing was logged of it yet, or it is deleted meanwhile.
            let is_known = match locate.from {
                ReadFrom::After(offset) => offset == until,
                ReadFrom::Recent { .. } => true,
            };
            return is_known.then_some(Located { after: until, messages: 0 });
        };
        assert!(until <= channel.head, "a reader is ahead of the log");
        let kept = channel.kept(until, &locate.retention, now_ms);
        let from = match locate.from {
            ReadFrom::After(offset) if offset == until => kept.len(),
            ReadFrom::After(offset) => kept.iter().position(|record| record.prev == offset)?,
            ReadFrom::Recent { since_ms, messages_max } => {
                let young = kept.partition_point(|record| record.timestamp_ms < since_ms);
                let most = usize::try_from(messages_max).unwrap_or(usize::MAX);
                kept.len().saturating_sub(most).max(young)
            }
        };
        let after = kept.get(from).map_or(until, |record| record.prev);
        Some(Located { after, messages: (kept.len() - from) as u64 })
    }

    fn read(&self, read: &Read, now_ms: u64) -> Option<Vec<Record>> {
        if read.after == read.until {
            return Some(Vec::new());
        }
        let channel = self.channels.get(&read.log)?;
        assert!(read.until <= channel.head, "a reader is ahead of the log");
        let kept = channel.kept(read.until, &read.retention, now_ms);
        let from = kept.iter().position(|record| record.prev == read.after)?;
        let mut bytes = 0;
        let window = kept.iter().skip(from).take_while(|record| {
            let is_more = bytes < read.bytes_max;
            bytes += record.parts.as_bytes().len();
            is_more
        });
        Some(window.cloned().collect())
    }

    fn page(&self, call: &PageCall, now_ms: u64) -> Page {
        let Some(channel) = self.channels.get(&call.log) else { return Page::default() };
        let query = &call.query;
        let found = channel.kept(channel.head, &call.retention, now_ms).iter().rev();
        let found = found.filter(|record| {
            query.event_type.as_ref().is_none_or(|wanted| record.parts.event_type() == wanted)
                && query.after_ms.is_none_or(|after| record.timestamp_ms > after)
                && query.before_ms.is_none_or(|before| record.timestamp_ms < before)
        });
        let found: Vec<&Record> = found.collect();
        let skip = ((query.page - 1) * query.page_size) as usize;
        let records = found.iter().skip(skip).take(query.page_size as usize);
        Page { records: records.map(|r| Record::clone(r)).collect(), total: found.len() as u64 }
    }

    /// The machine goes down: what was not appended is gone, and what the accounts know to be deleted
    /// goes. Returns what the log has.
    pub fn crash(
        &mut self,
        leap: u64,
        apps: impl Fn(AppId) -> bool,
        deleted: &BTreeSet<LogId>,
    ) -> Vec<LoadedChannel> {
        self.appends.clear();
        self.questions.clear();
        self.refused_terms.clear();
        self.short.clear();
        self.channels.retain(|log, channel| apps(channel.name.app) && !deleted.contains(log));
        let channels = &self.channels;
        self.answers.retain(|(_, log, _), _| channels.contains_key(log));
        let loaded = |(log, channel): (&LogId, &Channel)| LoadedChannel {
            channel: channel.name.clone(),
            log: *log,
            epoch: channel.epoch,
            head: channel.head,
            next: Offset(channel.head.0 + leap + 1),
            last_ms: channel.last_ms,
            totals: Totals { messages: channel.records.len() as u64, ..Totals::default() },
            created_ms: 0,
        };
        self.channels.iter().map(loaded).collect()
    }

    /// The answers it has that are still in force.
    pub fn answers(&self, now_ms: u64) -> Vec<(ChannelKey, StoredAnswer)> {
        let kept = self.answers.iter().filter(|((until_ms, ..), _)| *until_ms >= now_ms);
        kept.map(|(_, answer)| answer.clone()).collect()
    }

    pub fn generations(&self) -> Vec<(EpochSlot, u32)> {
        self.generations.iter().map(|(slot, generation)| (*slot, *generation)).collect()
    }

    /// The first id that is free.
    pub fn next_log(&self) -> u64 {
        self.last_log + 1
    }
}
