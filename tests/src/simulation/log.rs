//! A model of the log: what the shards may ask of the real one, answered from a list in memory that
//! outlives them. It is slow when the seed says so, and fails, and is forgotten at its old end.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;
use pushflo_engine::ids::LogId;
use pushflo_engine::ids::{ChannelKey, ShardId};
use pushflo_engine::log::{
    Answer, Append, Entry, LoadedChannel, Locate, LocateDone, Located, LogCall, LogFailure,
    NewChannel, Read, ReadDone, ReadFrom, StoredAnswer, Totals,
};
use pushflo_engine::shard::Envelope;
use pushflo_protocol::{Epoch, Offset, Record};

/// Calls that wait at most; the shards keep the rest.
const CALLS_MAX: usize = 4;

#[derive(Debug, Default)]
pub struct ModelLog {
    channels: BTreeMap<LogId, Channel>,
    appends: VecDeque<Append>,
    questions: VecDeque<LogCall>,
    refused_terms: BTreeMap<ShardId, u32>,
    /// Answers for publishers who ask again.
    answers: BTreeMap<(u64, LogId, Box<str>), (ChannelKey, StoredAnswer)>,
    pub is_failing: bool,
    /// Most messages of a channel; the oldest go.
    messages_max: usize,
}

#[derive(Debug)]
struct Channel {
    name: ChannelKey,
    epoch: Epoch,
    /// The last offset, also of what was forgotten.
    head: Offset,
    /// When that got its offset.
    last_ms: u64,
    records: VecDeque<Record>,
}

impl ModelLog {
    pub fn new(messages_max: usize) -> Self {
        Self { messages_max, ..Self::default() }
    }

    pub fn post(&mut self, call: LogCall) -> Result<(), LogCall> {
        match call {
            LogCall::Append(append) if self.appends.len() < CALLS_MAX => {
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
    pub fn act(&mut self, random: &mut Rng) -> Option<(ShardId, Envelope)> {
        if self.questions.is_empty() || (random.bool() && !self.appends.is_empty()) {
            let append = self.appends.pop_front()?;
            return Some((append.shard, Envelope::Log(Answer::Logged(self.append(append)))));
        }
        match self.questions.pop_front()? {
            LogCall::Locate(locate) => {
                let done = LocateDone { read: locate.read, answer: Ok(self.locate(&locate)) };
                Some((locate.shard, Envelope::Log(Answer::Located(done))))
            }
            LogCall::Read(read) => {
                let done = ReadDone { read: read.read, answer: Ok(self.read(&read)) };
                Some((read.shard, Envelope::Log(Answer::Read(Box::new(done)))))
            }
            other => panic!("nobody asks for {other:?}"),
        }
    }

    fn append(&mut self, append: Append) -> Result<(), LogFailure> {
        let failure = || LogFailure("the disk is full".into());
        let refused = self.refused_terms.get(&append.shard);
        if refused.is_some_and(|term| append.term <= *term) {
            return Err(failure());
        }
        if self.is_failing {
            self.refused_terms.insert(append.shard, append.term);
            return Err(failure());
        }
        for Entry { log, record, new, answer } in append.entries {
            let channel = self.channels.entry(log).or_insert_with(|| {
                let NewChannel { channel: name, epoch, .. } =
                    *new.expect("the log does not know the channel");
                Channel { name, epoch, head: Offset(0), last_ms: 0, records: VecDeque::new() }
            });
            if let Some(answer) = answer {
                let key = (answer.until_ms, log, answer.key.clone());
                self.answers.insert(key, (channel.name.clone(), *answer));
            }
            assert_eq!(channel.head, record.prev, "a hole in the log");
            assert!(record.offset > record.prev);
            channel.head = record.offset;
            channel.last_ms = record.timestamp_ms;
            channel.records.push_back(record);
            while channel.records.len() > self.messages_max {
                channel.records.pop_front();
            }
        }
        Ok(())
    }

    fn locate(&self, locate: &Locate) -> Option<Located> {
        let channel = &self.channels[&locate.log];
        assert!(locate.until <= channel.head, "a reader is ahead of the log");
        let all: Vec<&Record> =
            channel.records.iter().filter(|record| record.offset <= locate.until).collect();
        let from = match locate.from {
            ReadFrom::After(offset) if offset == locate.until => all.len(),
            ReadFrom::After(offset) => all.iter().position(|record| record.prev == offset)?,
            ReadFrom::Recent { messages_max, .. } => {
                all.len().saturating_sub(usize::try_from(messages_max).unwrap_or(usize::MAX))
            }
        };
        let after = all.get(from).map_or(locate.until, |record| record.prev);
        Some(Located { after, messages: (all.len() - from) as u64 })
    }

    fn read(&self, read: &Read) -> Option<Vec<Record>> {
        let channel = &self.channels[&read.log];
        assert!(read.until <= channel.head, "a reader is ahead of the log");
        let from = channel.records.iter().position(|record| record.prev == read.after)?;
        let mut bytes = 0;
        let window = channel.records.iter().skip(from).take_while(|record| {
            let is_more = bytes < read.bytes_max && record.offset <= read.until;
            bytes += record.parts.as_bytes().len();
            is_more
        });
        Some(window.cloned().collect())
    }

    /// The machine goes down: what was not appended is gone. Returns what the log has.
    pub fn crash(&mut self, leap: u64) -> Vec<LoadedChannel> {
        self.appends.clear();
        self.questions.clear();
        self.refused_terms.clear();
        let loaded = |(log, channel): (&LogId, &Channel)| LoadedChannel {
            channel: channel.name.clone(),
            log: *log,
            epoch: channel.epoch,
            head: channel.head,
            next: Offset(channel.head.0 + leap + 1),
            last_ms: channel.last_ms,
            totals: Totals::default(),
            created_ms: 0,
        };
        self.channels.iter().map(loaded).collect()
    }

    /// The answers it has.
    pub fn answers(&self) -> impl Iterator<Item = (ChannelKey, StoredAnswer)> {
        self.answers.values().cloned()
    }

    /// The first id that is free.
    pub fn next_log(&self) -> u64 {
        self.channels.keys().next_back().map_or(1, |log| log.0 + 1)
    }
}
