//! The store beside a model of it: a plain list of all messages, out of which what is kept and what
//! is asked for is picked one by one. Random records, leaps, limits, trims and questions.

use pushflo_protocol::{ChannelSlug, Epoch, MessageId, Offset, Parts, Record};

use super::LogFolder;
use super::keep::Keep;
use super::page::Paged;
use super::record::Totals;
use super::store::{Group, LogStore, NewRun, TrimChannel};
use super::{NewChannel, PageQuery, ReadFrom};
use crate::ids::{AppId, ChannelKey, LogId};

const LOG: LogId = LogId(7);
const TYPES: [&str; 3] = ["one", "t\"wo", ""];

/// A channel in the store and in the model.
struct Channel {
    store: LogStore,
    key: ChannelKey,
    all: Vec<Record>,
    totals: Totals,
    now_ms: u64,
    is_trimmed: bool,
}

impl Channel {
    fn new(path: &std::path::Path) -> Self {
        let (store, _) =
            LogStore::open(&LogFolder { path: path.to_owned(), memory_bytes: 8 << 20 }, 1).unwrap();
        let key = ChannelKey { app: AppId(1), slug: ChannelSlug::parse("c").unwrap() };
        // Neighbours, so that a look beyond the channel's own records would show.
        let (all, totals, now_ms) = (Vec::new(), Totals::default(), 1_000);
        let channel = Self { store, key, all, totals, now_ms, is_trimmed: false };
        for log in [LogId(LOG.0 - 1), LogId(LOG.0 + 1)] {
            let record = channel.record(Offset(0), 1, "one", "neighbour");
            channel.append(log, Totals::default(), &[record]);
        }
        channel
    }

    fn record(&self, prev: Offset, offset: u64, event_type: &str, content: &str) -> Record {
        Record {
            id: MessageId(u128::from(offset)),
            offset: Offset(offset),
            prev,
            timestamp_ms: self.now_ms,
            parts: Parts::new(event_type, None, &format!("\"{content}\"")),
        }
    }

    fn append(&self, log: LogId, before: Totals, records: &[Record]) {
        let channel = self.key.clone();
        let new = NewChannel { channel, epoch: Epoch(1), created_ms: 0 };
        let run = NewRun { log, before, records, new: Some(&new), answers: &[] };
        self.store.write(&Group { runs: &[run], ..Group::default() }).unwrap();
    }

    /// Appends a record, now and then behind a leap.
    fn grow(&mut self, random: &mut fastrand::Rng) {
        let prev = self.head();
        let leap = if random.u8(..) < 20 { random.u64(1..1 << 24) } else { 0 };
        let records: Vec<Record> = (0..random.u64(1..6))
            .map(|n| {
                self.now_ms += random.u64(0..4);
                let content = "x".repeat(random.usize(..60));
                let first = prev.0 + leap + 1;
                let before = if n == 0 { prev } else { Offset(first + n - 1) };
                self.record(before, first + n, random.choice(TYPES).unwrap(), &content)
            })
            .collect();
        self.append(LOG, self.totals, &records);
        self.totals = self.totals.with(&records);
        self.all.extend(records);
    }

    fn head(&self) -> Offset {
        self.all.last().map_or(Offset(0), |message| message.offset)
    }

    fn trim(&mut self, keep: &Keep, records_max: usize) {
        let (log, epoch, totals) = (LOG, Epoch(1), self.totals);
        let channel = TrimChannel { channel: &self.key, log, epoch, totals };
        self.store.trim(&channel, keep, records_max).unwrap();
        self.is_trimmed = true;
    }

    /// The messages up to `until` that the limits keep.
    fn kept(&self, until: Offset, keep: &Keep) -> Vec<&Record> {
        let mut bytes = 0;
        let newest = self.all.iter().rev().filter(|message| message.offset <= until);
        let mut kept: Vec<&Record> = newest
            .take(keep.messages_max as usize)
            .take_while(|message| {
                bytes += message.parts.as_bytes().len() as u64;
                bytes <= keep.bytes_max && message.timestamp_ms >= keep.since_ms
            })
            .collect();
        kept.reverse();
        kept
    }

    fn page(&self, query: &PageQuery, keep: &Keep) -> (Vec<Offset>, u64) {
        let kept = self.kept(self.head(), keep);
        let found = kept.iter().rev().filter(|message| {
            query.event_type.as_ref().is_none_or(|wanted| message.parts.event_type() == wanted)
                && query.after_ms.is_none_or(|after| message.timestamp_ms > after)
                && query.before_ms.is_none_or(|before| message.timestamp_ms < before)
        });
        let offsets: Vec<Offset> = found.map(|message| message.offset).collect();
        let skip = ((query.page - 1) * query.page_size) as usize;
        let items = offsets.iter().skip(skip).take(query.page_size as usize).copied();
        (items.collect(), offsets.len() as u64)
    }

    /// Whole or nothing, as a subscriber at `offset` is promised.
    fn after(&self, offset: Offset, until: Offset, keep: &Keep) -> Option<Vec<Record>> {
        let is_known = offset.0 == 0 || self.all.iter().any(|message| message.offset == offset);
        let missed: Vec<&Record> =
            self.all.iter().filter(|m| m.offset > offset && m.offset <= until).collect();
        let is_kept = self.kept(until, keep).len() >= missed.len();
        (is_known && is_kept).then(|| missed.into_iter().cloned().collect())
    }
}

fn limits(random: &mut fastrand::Rng, channel: &Channel) -> Keep {
    let upto = |random: &mut fastrand::Rng, most: u64| {
        if random.bool() { u64::MAX } else { random.u64(0..=most + 1) }
    };
    let age = upto(random, channel.now_ms - 1_000);
    Keep {
        since_ms: channel.now_ms.saturating_sub(age),
        messages_max: upto(random, channel.totals.messages),
        bytes_max: upto(random, channel.totals.bytes),
    }
}

fn ask(random: &mut fastrand::Rng, channel: &Channel, keep: &Keep) {
    let time = |random: &mut fastrand::Rng| {
        (random.u8(..) < 100).then(|| random.u64(995..=channel.now_ms + 5))
    };
    let query = PageQuery {
        page: if random.u8(..) < 5 { u64::MAX / 200 } else { random.u64(1..8) },
        page_size: random.u64(1..=12),
        event_type: random.bool().then(|| random.choice(TYPES).unwrap().to_owned()),
        after_ms: time(random),
        before_ms: time(random),
    };
    let page = match channel.store.page(LOG, &query, keep).unwrap() {
        Paged::Done(page) => page,
        Paged::Scan(mut scan) => loop {
            if let Some(page) = channel.store.scan(&mut scan, random.usize(..2_000)).unwrap() {
                break page;
            }
        },
    };
    let items: Vec<Offset> = page.records.iter().map(|record| record.offset).collect();
    assert_eq!((items, page.total), channel.page(&query, keep), "{query:?} {keep:?}");

    // What was trimmed is counted from the head.
    let until = match random.choice(&channel.all) {
        Some(message) if !channel.is_trimmed => message.offset,
        _ => channel.head(),
    };
    let offset = match random.choice(&channel.all) {
        // Most often one that there is, now and then one beside it.
        Some(message) => Offset((message.offset.0 + u64::from(random.u8(..) < 40)).min(until.0)),
        None => Offset(0),
    };
    let wanted = channel.after(offset, until, keep);
    let located = channel.store.locate(LOG, ReadFrom::After(offset), until, keep).unwrap();
    let window =
        |after, bytes_max| channel.store.window(LOG, after, until, bytes_max, keep).unwrap();
    if offset != until {
        let is_right = window(offset, usize::MAX) == wanted;
        assert!(is_right, "{offset:?} {until:?} {keep:?}");
        let messages = wanted.as_ref().map(|wanted| wanted.len() as u64);
        assert_eq!(located.map(|located| located.messages), messages);
        // The same in windows of some bytes.
        if let Some(wanted) = wanted {
            let (mut read, mut after) = (Vec::new(), offset);
            while after != until {
                let next = window(after, random.usize(1..300)).unwrap();
                after = next.last().unwrap().offset;
                read.extend(next);
            }
            assert!(read == wanted);
        }
    }
    let (since_ms, messages_max) = (random.u64(995..=channel.now_ms + 5), random.u64(0..20));
    let from = ReadFrom::Recent { since_ms, messages_max };
    let located = channel.store.locate(LOG, from, until, keep).unwrap().unwrap();
    let kept = channel.kept(until, keep);
    let newest: Vec<_> = kept.iter().rev().take(messages_max as usize).collect();
    let wanted: Vec<Record> = newest
        .iter()
        .rev()
        .filter(|message| message.timestamp_ms >= since_ms)
        .map(|record| Record::clone(record))
        .collect();
    assert_eq!(located.messages, wanted.len() as u64);
    let read =
        if located.messages == 0 { Some(Vec::new()) } else { window(located.after, usize::MAX) };
    assert!(read == Some(wanted), "{since_ms} {messages_max} {until:?} {keep:?}");
}

#[test]
fn pages_and_recoveries_are_those_of_the_model() {
    for seed in 0..40 {
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = tempfile::tempdir().unwrap();
        let mut channel = Channel::new(folder.path());
        // Limits only ever rise here, as trimming is for good.
        let mut strictest = Keep { since_ms: 0, messages_max: u64::MAX, bytes_max: u64::MAX };
        for _ in 0..60 {
            channel.grow(&mut random);
            for _ in 0..4 {
                let asked = limits(&mut random, &channel);
                let keep = Keep {
                    since_ms: asked.since_ms.max(strictest.since_ms),
                    messages_max: asked.messages_max.min(strictest.messages_max),
                    bytes_max: asked.bytes_max.min(strictest.bytes_max),
                };
                ask(&mut random, &channel, &keep);
            }
            if random.u8(..) < 30 {
                strictest = Keep {
                    since_ms: strictest.since_ms.max(channel.now_ms.saturating_sub(300)),
                    messages_max: strictest.messages_max.min(random.u64(40..200)),
                    bytes_max: strictest.bytes_max.min(random.u64(8_000..40_000)),
                };
                channel.trim(&strictest, random.usize(1..20));
            }
        }
    }
}
