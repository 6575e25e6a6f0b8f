//! Reading channels out of the stream of their slot.
//!
//! Records of a channel are numbered, each in its life: so what is missing shows, and the last so many are
//! found without an index. What was written in a term that was over is passed over.
//!
//! Any server that has the stream may answer, also one that lags: it has all up to some place, and nothing behind
//! it. So a read that does not find what is known to be there has found nothing out, and is made again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use pushflo_protocol::{Epoch, Offset, Receipt, Record, Refusal};
use pushflo_protocol::{ErrorCode, MessageId};

use tokio::time::sleep;

use super::appender::Sequence;
use super::gets::{AskError, Get, Gets, GotMessage};
use super::stored::{Content, Stored, StoredMessage};
use super::streams::Place;
use crate::hash::Placement;
use crate::ids::AppId;
use crate::log::{
    Life, Located, LogFailure, OpenedChannel, Page, PageQuery, ReadAnswer, ReadFrom, StoredAnswer,
    StoredMeta,
};
use crate::retention::Retention;

/// Messages that are read at a time.
const BATCH: usize = 256;

/// Bytes of a read of many messages.
const BATCH_BYTES: usize = 1 << 20;

/// Messages that are read at a time to be counted, and their bytes.
const COUNTED_BATCH: usize = 1024;
const COUNTED_BYTES: usize = 8 << 20;

/// Messages that are looked at for idempotency keys when a channel is opened.
const KEYED_MAX: usize = 10_000;

/// What is known to be there may be missing where a server lags: how often that is borne, and how long it
/// is waited for each time.
const LAGS_MAX: u32 = 50;
const LAG: Duration = Duration::from_millis(100);

/// How often a read is made again that nobody answers.
const SILENCES_MAX: u32 = 3;

/// Gives epochs: in all processes the same.
const EPOCH_SEED: u64 = 0x7075_7368_666c_6f01;

/// A stream, and what must be known of it to read.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) gets: Gets,
    /// Its name.
    pub(super) stream: Rc<str>,
    /// Names this incarnation of it.
    pub(super) incarnation: u64,
    /// The sequences of the records that begin terms, in order.
    pub(super) terms: Rc<RefCell<Vec<Sequence>>>,
    /// Their subject.
    pub(super) terms_subject: Rc<str>,
    /// What is known to be stored: all up to this sequence.
    pub(super) stored: Rc<Cell<Sequence>>,
}

/// A record of a channel.
#[derive(Clone, Debug)]
struct Found {
    sequence: Sequence,
    id: MessageId,
    message: StoredMessage,
}

impl Found {
    fn record(self, prev: Offset) -> Record {
        Record {
            id: self.id,
            offset: Offset(self.sequence),
            prev,
            timestamp_ms: self.message.timestamp_ms,
            parts: self.message.parts,
        }
    }
}

/// Why something cannot be read for the moment.
fn failure(error: &AskError) -> LogFailure {
    LogFailure(format!("history cannot be read: {error}").into())
}

impl Source {
    /// Makes a read until a server answers that has what is known to be there.
    async fn whole<T>(
        &self,
        mut read: impl AsyncFnMut() -> Result<T, AskError>,
    ) -> Result<T, AskError> {
        let (mut lags, mut silences) = (0, 0);
        loop {
            match read().await {
                Err(AskError::Behind) if lags < LAGS_MAX => {
                    lags += 1;
                    sleep(LAG).await;
                }
                Err(AskError::NoAnswer) if silences < SILENCES_MAX => silences += 1,
                outcome => return outcome,
            }
        }
    }

    /// Whether a record was written by who owned the stream then.
    fn is_valid(&self, sequence: Sequence, term: Sequence) -> bool {
        let terms = self.terms.borrow();
        let later = terms.partition_point(|known| *known < sequence);
        // Where the record of its term is too old to be there, so is that of any before it.
        later.checked_sub(1).and_then(|at| terms.get(at)).is_none_or(|known| *known == term)
    }

    fn decode(&self, message: &GotMessage) -> Option<Stored> {
        let stored = Stored::decode(&message.payload)?;
        (stored.term > 0 && self.is_valid(message.sequence, stored.term)).then_some(stored)
    }

    /// Messages of a channel from a sequence on, at most so many, and from where on there are more.
    async fn messages(
        &self,
        subject: &str,
        from: Sequence,
        batch: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Found>, Option<Sequence>), AskError> {
        let get = Get::following(subject, from.max(1), batch, Some(bytes_max));
        let got = self.gets.get(&self.stream, &get).await?;
        let last = got.messages.last().filter(|_| got.pending > 0);
        let next = last.map(|last| last.sequence + 1);
        let found = got.messages.iter().filter_map(|message| {
            let Stored { id, content, .. } = self.decode(message)?;
            let Content::Message(stored) = content else { return None };
            Some(Found { sequence: message.sequence, id, message: stored })
        });
        Ok((found.collect(), next))
    }

    /// The messages behind a sequence, as far as they are read at a time, of which apps they are and of when, and
    /// up to where that is; `term` is known to be there.
    pub(super) async fn stored_behind(
        &self,
        after: Sequence,
        term: Sequence,
    ) -> Result<(Vec<(AppId, u64)>, Sequence), AskError> {
        let all = self.terms_subject.strip_suffix(".t").unwrap_or_default();
        let (all, messages) = (format!("{all}.>"), format!("{all}.c."));
        let get = Get::following(&all, after + 1, COUNTED_BATCH, Some(COUNTED_BYTES));
        let got = self.whole(async || {
            let got = self.gets.get(&self.stream, &get).await?;
            let end = got.messages.last().map_or(0, |message| message.sequence);
            if end < term && got.pending == 0 { Err(AskError::Behind) } else { Ok(got) }
        });
        let got = got.await?;
        let end = got.messages.last().map_or(term, |message| message.sequence);
        let found = got.messages.iter().filter(|message| message.sequence < term);
        let found = found.filter_map(|message| {
            let app = message.subject.strip_prefix(&messages)?.split('.').next()?.parse().ok()?;
            match self.decode(message)?.content {
                Content::Message(stored) => Some((AppId(app), stored.timestamp_ms)),
                Content::Term { .. } | Content::Deleted => None,
            }
        });
        Ok((found.collect(), end.min(term)))
    }

    /// The first message of a channel from a sequence on.
    async fn first(&self, subject: &str, from: Sequence) -> Result<Option<Found>, AskError> {
        let mut next = Some(from);
        // As a rule the first record is one.
        let mut batch = 1;
        while let Some(from) = next {
            let (found, more) = self.messages(subject, from, batch, BATCH_BYTES).await?;
            if let Some(found) = found.into_iter().next() {
                return Ok(Some(found));
            }
            (next, batch) = (more, BATCH);
        }
        Ok(None)
    }

    /// As [`Source::first`], where there is one: its head, at least.
    async fn first_known(&self, subject: &str, from: Sequence) -> Result<Found, AskError> {
        self.first(subject, from).await?.ok_or(AskError::Behind)
    }

    /// Whether nothing of a channel is kept any more, whose last message was `until`.
    async fn is_gone(&self, subject: &str, until: Sequence) -> Result<bool, AskError> {
        let multi_last = vec![subject.to_owned(), self.terms_subject.to_string()];
        let get = Get { multi_last, batch: 2, ..Get::default() };
        let got = self.gets.get(&self.stream, &get).await?;
        if got.up_to.is_some_and(|up_to| up_to < until) {
            return Err(AskError::Behind);
        }
        Ok(!got.messages.iter().any(|message| message.subject == subject))
    }

    /// The first message of a channel that is kept and its last, which is `until`; `None` where nothing is kept.
    async fn ends(
        &self,
        subject: &str,
        until: Sequence,
    ) -> Result<Option<(Found, Found)>, AskError> {
        let first = match self.first(subject, 1).await? {
            Some(first) => first,
            None if self.is_gone(subject, until).await? => return Ok(None),
            None => return Err(AskError::Behind),
        };
        let head = self.first_known(subject, until).await?;
        match head.sequence == until {
            true => Ok(Some((first, head))),
            false => Err(AskError::Behind),
        }
    }

    /// The message of a channel that has a number, which is there, between two that are known.
    async fn numbered(
        &self,
        subject: &str,
        number: u64,
        mut low: (Sequence, u64),
        mut high: (Sequence, u64),
    ) -> Result<Option<Found>, AskError> {
        // By their numbers, and in turn by halves: channels have no even pace.
        let mut is_even = true;
        loop {
            let (sequences, numbers) = (high.0 - low.0, (high.1 - low.1).max(1));
            let part = match is_even {
                true => {
                    (sequences as u128 * u128::from(number - low.1) / u128::from(numbers)) as u64
                }
                false => sequences / 2,
            };
            is_even = !is_even;
            let found = self.first_known(subject, low.0 + part).await?;
            match found.message.number.cmp(&number) {
                std::cmp::Ordering::Equal => return Ok(Some(found)),
                std::cmp::Ordering::Less => low = (found.sequence + 1, found.message.number + 1),
                std::cmp::Ordering::Greater if part == 0 => return Ok(None),
                std::cmp::Ordering::Greater => {
                    high = (low.0 + part - 1, found.message.number.saturating_sub(1));
                }
            }
            if low.0 > high.0 || number < low.1 {
                return Ok(None);
            }
        }
    }

    /// What the stream has of a channel.
    pub(super) async fn open(
        &self,
        place: &Place,
        keyed_since_ms: u64,
    ) -> Result<OpenedChannel, LogFailure> {
        let since = self.stored.get();
        let Place { messages, deletions, .. } = place;
        let last = self.whole(async || self.last([messages, deletions], since).await).await;
        let [message, deletion] = last.map_err(|error| failure(&error))?;
        let after = deletion.map_or(0, |(sequence, _)| sequence);
        let Some((sequence, message)) = message.filter(|(sequence, _)| *sequence > after) else {
            return Ok(self.opened(0, Life { after, created_ms: 0 }, None));
        };
        let Content::Message(message) = message.content else {
            return Err(LogFailure(
                "something else than a message among those of a channel".into(),
            ));
        };
        let mut opened = self.opened(sequence, message.life, Some(&message));
        if message.keyed_ms >= keyed_since_ms {
            let epoch = opened.epoch;
            let answers =
                self.whole(async || self.answers(messages, sequence, epoch, keyed_since_ms).await);
            opened.answers = answers.await.map_err(|error| failure(&error))?;
        }
        Ok(opened)
    }

    fn opened(
        &self,
        sequence: Sequence,
        life: Life,
        message: Option<&StoredMessage>,
    ) -> OpenedChannel {
        OpenedChannel {
            epoch: Epoch(Placement::new(EPOCH_SEED).hash((self.incarnation, life.after))),
            head: Offset(sequence),
            life,
            number: message.map_or(0, |message| message.number),
            last_ms: message.map_or(0, |message| message.timestamp_ms),
            keyed_ms: message.map_or(0, |message| message.keyed_ms),
            answers: Vec::new(),
            meta: StoredMeta { meta: None, revision: 0 },
        }
    }

    /// The last valid record under each of two subjects, by a server that has all up to `since`.
    async fn last(
        &self,
        subjects: [&str; 2],
        since: Sequence,
    ) -> Result<[Option<(Sequence, Stored)>; 2], AskError> {
        // With the last of the terms something is always found, and then it is told how far the server is.
        let [one, other] = subjects.map(str::to_owned);
        let multi_last = vec![one, other, self.terms_subject.to_string()];
        let get = Get { multi_last, batch: 3, ..Get::default() };
        let got = self.gets.get(&self.stream, &get).await?;
        if got.up_to.is_some_and(|up_to| up_to < since) {
            return Err(AskError::Behind);
        }
        let mut last = [None, None];
        for (last, subject) in last.iter_mut().zip(subjects) {
            let Some(found) = got.messages.iter().find(|message| message.subject == subject) else {
                continue;
            };
            *last = match self.decode(found) {
                Some(stored) => Some((found.sequence, stored)),
                None => self.last_valid_before(subject, found.sequence).await?,
            };
        }
        Ok(last)
    }

    /// The last valid record of a channel before one that is void: they come in small numbers.
    async fn last_valid_before(
        &self,
        subject: &str,
        sequence: Sequence,
    ) -> Result<Option<(Sequence, Stored)>, AskError> {
        let mut step = 256;
        loop {
            let mut from = sequence.saturating_sub(step).max(1);
            let mut last = None;
            loop {
                let get = Get::following(subject, from, BATCH, Some(BATCH_BYTES));
                let got = self.gets.get(&self.stream, &get).await?;
                for message in got.messages.iter().filter(|message| message.sequence < sequence) {
                    last = self.decode(message).map(|stored| (message.sequence, stored)).or(last);
                }
                match got.messages.last() {
                    Some(end) if end.sequence >= sequence => break,
                    Some(end) if got.pending > 0 => from = end.sequence + 1,
                    _ => return Err(AskError::Behind),
                }
            }
            if last.is_some() || step >= sequence {
                return Ok(last);
            }
            step = step.saturating_mul(16);
        }
    }

    /// Answers for publishers who ask again, of a channel up to `head`.
    async fn answers(
        &self,
        subject: &str,
        head: Sequence,
        epoch: Epoch,
        since_ms: u64,
    ) -> Result<Vec<StoredAnswer>, AskError> {
        let mut answers = Vec::new();
        let mut before = head + 1;
        // From the newest back, as far as they are in force.
        while before > 1 && answers.len() < KEYED_MAX {
            let from = before.saturating_sub(4 * BATCH as u64).max(1);
            let mut next = from;
            let (mut is_oldest, mut is_any) = (false, false);
            loop {
                let (found, more) = self.messages(subject, next, BATCH, BATCH_BYTES).await?;
                // Something is there behind all but the last.
                let end = found.last().map_or(0, |found| found.sequence);
                for found in found.into_iter().filter(|found| found.sequence < before) {
                    is_any = true;
                    is_oldest |= found.message.timestamp_ms < since_ms;
                    let Found { sequence, id, message } = found;
                    if message.timestamp_ms < since_ms {
                        continue;
                    }
                    let Some((key, content)) = message.key else { continue };
                    let (offset, timestamp_ms) = (Offset(sequence), message.timestamp_ms);
                    let receipt = Receipt { id, offset, epoch, timestamp_ms, delivered: 0 };
                    let until_ms = timestamp_ms.saturating_add(crate::log::KEY_WINDOW_MS);
                    answers.push(StoredAnswer { key, content, until_ms, receipt });
                }
                match more {
                    _ if end >= before.min(head) => break,
                    Some(more) => next = more,
                    None => return Err(AskError::Behind),
                }
            }
            if is_oldest || (!is_any && from == 1) {
                break;
            }
            before = from;
        }
        Ok(answers)
    }

    /// Where a subscription starts; `None` if what was asked for is not kept.
    pub(super) async fn locate(
        &self,
        subject: &str,
        from: ReadFrom,
        until: Offset,
        retention: &Retention,
        now_ms: u64,
    ) -> Result<Option<Located>, LogFailure> {
        if until == Offset(0) {
            let is_start = !matches!(from, ReadFrom::After(offset) if offset != Offset(0));
            return Ok(is_start.then_some(Located { after: Offset(0), messages: 0 }));
        }
        let since_ms = retention.since_ms(now_ms);
        let located = self.whole(async || self.try_locate(subject, from, until, since_ms).await);
        located.await.map_err(|error| failure(&error))
    }

    async fn try_locate(
        &self,
        subject: &str,
        from: ReadFrom,
        until: Offset,
        kept_since_ms: u64,
    ) -> Result<Option<Located>, AskError> {
        let Some((first, head)) = self.ends(subject, until.0).await? else { return Ok(None) };
        let (low, high) =
            ((first.sequence, first.message.number), (head.sequence, head.message.number));
        let number = match from {
            ReadFrom::After(Offset(0)) if first.message.number == 1 => 0,
            ReadFrom::After(offset) if offset > until => return Ok(None),
            ReadFrom::After(offset) => {
                let found = self.first_known(subject, offset.0.max(1)).await?;
                let is_kept =
                    found.message.timestamp_ms >= kept_since_ms || found.sequence == until.0;
                if found.sequence != offset.0 || !is_kept {
                    return Ok(None);
                }
                found.message.number
            }
            ReadFrom::Recent { since_ms, messages_max } => {
                let least = (high.1 + 1).saturating_sub(messages_max).max(low.1);
                let since_ms = since_ms.max(kept_since_ms);
                let since = self.number_since(subject, since_ms, low, high).await?;
                least.max(since) - 1
            }
        };
        let after = match number {
            0 => Offset(0),
            number if number < low.1 => Offset(first.sequence - 1),
            number => match self.numbered(subject, number, low, high).await? {
                Some(found) => Offset(found.sequence),
                None => return Err(AskError::Behind),
            },
        };
        Ok(Some(Located { after, messages: high.1 - number }))
    }

    /// The number of the first message of a time or later; one more than the last where there is none.
    async fn number_since(
        &self,
        subject: &str,
        since_ms: u64,
        (mut low, first): (Sequence, u64),
        (mut high, last): (Sequence, u64),
    ) -> Result<u64, AskError> {
        let mut number = last + 1;
        while low <= high {
            let middle = low + (high - low) / 2;
            let found = self.first_known(subject, middle).await?;
            if found.message.timestamp_ms >= since_ms {
                number = number.min(found.message.number);
                if middle == low {
                    break;
                }
                high = middle - 1;
            } else {
                low = found.sequence + 1;
            }
        }
        Ok(number.max(first))
    }

    /// A window of a channel: `None` if the first of it is not kept.
    pub(super) async fn window(
        &self,
        subject: &str,
        after: Offset,
        until: Offset,
        bytes_max: usize,
    ) -> ReadAnswer {
        let read = self.whole(async || self.try_window(subject, after, until, bytes_max).await);
        read.await.map_err(|error| failure(&error))
    }

    async fn try_window(
        &self,
        subject: &str,
        after: Offset,
        until: Offset,
        bytes_max: usize,
    ) -> Result<Option<Vec<Record>>, AskError> {
        // With the one that is known, to see whether the next one follows it.
        let read = self.messages(subject, after.0.max(1), BATCH, bytes_max.max(1)).await?;
        let (found, more) = read;
        let mut found = found.into_iter().filter(|found| found.sequence <= until.0).peekable();
        let known = found.next_if(|found| found.sequence == after.0);
        let Some(first) = found.peek() else {
            if more.is_some() && known.is_some() {
                // It is larger than the window.
                let (found, _) = self.messages(subject, after.0 + 1, 1, usize::MAX >> 1).await?;
                return match found.is_empty() {
                    true => Err(AskError::Behind),
                    false => Ok(Some(chain(after, found.into_iter()))),
                };
            }
            return match self.is_gone(subject, until.0).await? {
                true => Ok(None),
                false => Err(AskError::Behind),
            };
        };
        let follows = match known {
            Some(known) => known.message.number + 1 == first.message.number,
            None => first.sequence == after.0 + 1 || first.message.number == 1,
        };
        Ok(follows.then(|| chain(after, found)))
    }

    /// A page of a channel, newest first.
    pub(super) async fn page(
        &self,
        subject: &str,
        query: &PageQuery,
        until: Offset,
        retention: &Retention,
        now_ms: u64,
    ) -> Result<Page, Refusal> {
        let since_ms = retention.since_ms(now_ms);
        let is_plain =
            query.event_type.is_none() && query.after_ms.is_none() && query.before_ms.is_none();
        let page = self.whole(async || {
            if is_plain
                && let Some(page) = self.numbered_page(subject, query, until, since_ms).await?
            {
                return Ok(page);
            }
            self.try_page(subject, query, until, since_ms).await
        });
        page.await
            .map_err(|error| Refusal::new(ErrorCode::Overloaded, failure(&error).0.to_string()))
    }

    /// A page of all messages, by their numbers; `None` where these do not tell where it is.
    async fn numbered_page(
        &self,
        subject: &str,
        query: &PageQuery,
        until: Offset,
        kept_since_ms: u64,
    ) -> Result<Option<Page>, AskError> {
        if until == Offset(0) {
            return Ok(None);
        }
        let Some((first, head)) = self.ends(subject, until.0).await? else { return Ok(None) };
        if head.message.life != first.message.life {
            return Ok(None);
        }
        let (low, high) =
            ((first.sequence, first.message.number), (head.sequence, head.message.number));
        let oldest = self.number_since(subject, kept_since_ms, low, high).await?;
        let total = (high.1 + 1).saturating_sub(oldest);
        let skip = (query.page - 1).saturating_mul(query.page_size);
        if skip >= total {
            return Ok(Some(Page { records: Vec::new(), total }));
        }
        let newest = high.1 - skip;
        let from = (newest + 1).saturating_sub(query.page_size).max(oldest);
        let start = match from {
            from if from == low.1 => Some(first),
            from => self.numbered(subject, from, low, high).await?,
        };
        let Some(start) = start else { return Ok(None) };
        let (mut records, mut next) = (Vec::new(), Some(start.sequence));
        while let Some(from) = next {
            let (found, more) = self.messages(subject, from, BATCH, BATCH_BYTES).await?;
            let is_end = found.last().is_some_and(|found| found.message.number >= newest);
            if more.is_none() && !is_end {
                return Err(AskError::Behind);
            }
            let of_page = found.into_iter().filter(|found| found.message.number <= newest);
            records.extend(of_page);
            next = more.filter(|_| !is_end);
        }
        let is_whole = records.last().is_some_and(|found| found.message.number == newest);
        let records = records.into_iter().rev().map(|found| {
            let prev = Offset(found.sequence.saturating_sub(1));
            found.record(prev)
        });
        Ok(is_whole.then(|| Page { records: records.collect(), total }))
    }

    async fn try_page(
        &self,
        subject: &str,
        query: &PageQuery,
        until: Offset,
        kept_since_ms: u64,
    ) -> Result<Page, AskError> {
        // All of it is looked at: pages are for people.
        let (mut all, mut next) = (Vec::<Found>::new(), Some(1).filter(|_| until > Offset(0)));
        while let Some(from) = next {
            let (found, more) = self.messages(subject, from, BATCH, BATCH_BYTES).await?;
            all.extend(found);
            next = more.filter(|more| *more <= until.0);
            let end = all.last().map_or(0, |found| found.sequence);
            if next.is_none() && end < until.0 && !self.is_gone(subject, until.0).await? {
                return Err(AskError::Behind);
            }
        }
        let life = all.last().map(|found| found.message.life);
        let is_wanted = |found: &&Found| {
            let StoredMessage { timestamp_ms, ref parts, .. } = found.message;
            Some(found.message.life) == life
                && timestamp_ms >= kept_since_ms
                && query
                    .event_type
                    .as_ref()
                    .is_none_or(|event_type| parts.event_type() == event_type)
                && query.after_ms.is_none_or(|after_ms| timestamp_ms > after_ms)
                && query.before_ms.is_none_or(|before_ms| timestamp_ms < before_ms)
        };
        let wanted: Vec<&Found> = all.iter().filter(is_wanted).collect();
        let skip = (query.page - 1).saturating_mul(query.page_size);
        let on_page = wanted.iter().rev().skip(usize::try_from(skip).unwrap_or(usize::MAX));
        let records = on_page.take(query.page_size as usize).map(|found| {
            let prev = Offset(found.sequence.saturating_sub(1));
            (*found).clone().record(prev)
        });
        Ok(Page { records: records.collect(), total: wanted.len() as u64 })
    }
}

/// Records that follow each other, behind an offset.
fn chain(after: Offset, found: impl Iterator<Item = Found>) -> Vec<Record> {
    let (mut prev, mut number, mut records) = (after, None, Vec::new());
    for found in found {
        // What is missing in between was refused; a hole that matters is at the start.
        if number.is_some_and(|number| found.message.number <= number) {
            break;
        }
        number = Some(found.message.number);
        let offset = Offset(found.sequence);
        records.push(found.record(prev));
        prev = offset;
    }
    records
}
