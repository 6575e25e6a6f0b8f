//! Pages of history, newest first, at the cost of what is on the page.
//!
//! A message's number is how many its channel had before it, kept or not; every record tells the
//! numbers of its own. Times and numbers only grow, so what a query asks for is a run of numbers:
//! its ends are found by bisection, and its length is the total. Only an event type must be looked
//! for in every message, without making messages of those that are not on the page: such a page is a
//! scan, which is made in slices so that others are read in between.

use std::ops::Range;

use pushflo_protocol::Offset;

use super::keep::{Floor, Keep};
use super::record::StoredRun;
use super::store::LogStore;
use super::{LogError, Page, PageQuery};
use crate::ids::LogId;

/// A page, or the beginning of one.
#[derive(Debug)]
pub(super) enum Paged {
    Done(Page),
    Scan(Scan),
}

/// A page of messages of one type, as far as it is looked for, from the newest back.
#[derive(Debug)]
pub(super) struct Scan {
    log: LogId,
    /// The numbers of the messages that are looked at.
    wanted: Range<u64>,
    event_type: String,
    /// Which of those that match are on the page.
    page: Range<u64>,
    found: Page,
    /// Runs that begin behind this offset were looked at.
    next: Offset,
}

impl LogStore {
    /// The messages of a page, newest first, and how many match in all. What would take long is left to
    /// [`LogStore::scan`].
    pub(super) fn page(
        &self,
        log: LogId,
        query: &PageQuery,
        keep: &Keep,
    ) -> Result<Paged, LogError> {
        let Some(newest) = self.last(log)? else { return Ok(Paged::Done(Page::default())) };
        let mut floor = keep.floor(newest.after);
        if let Some(after_ms) = query.after_ms {
            floor.since_ms = floor.since_ms.max(after_ms.saturating_add(1));
        }
        let wanted = self.wanted(log, &newest, &floor, query.before_ms)?;
        let skip = (query.page - 1).saturating_mul(query.page_size);
        if let Some(event_type) = &query.event_type {
            let page = skip..skip.saturating_add(query.page_size);
            let (event_type, found, next) = (event_type.clone(), Page::default(), newest.first);
            return Ok(Paged::Scan(Scan { log, wanted, event_type, page, found, next }));
        }
        let total = wanted.end - wanted.start;
        let end = wanted.end.saturating_sub(skip).max(wanted.start);
        let begin = end.saturating_sub(query.page_size).max(wanted.start);
        let mut items = Vec::new();
        if begin == end {
            return Ok(Paged::Done(Page { records: items, total }));
        }
        let is_before = |record: &StoredRun| record.after.messages < end;
        let Some(last) = self.first_not(log, &newest, is_before)? else {
            return Ok(Paged::Done(Page { records: items, total }));
        };
        self.backwards(log, &last, begin, |record| {
            items.extend(record.pick(record.positions(&(begin..end)).rev())?);
            Ok(())
        })?;
        Ok(Paged::Done(Page { records: items, total }))
    }

    /// Goes on with a scan, over about so many bytes. Returns the page when all of it was looked at.
    pub(super) fn scan(&self, scan: &mut Scan, bytes_max: usize) -> Result<Option<Page>, LogError> {
        let mut bytes = 0;
        for run in self.backwards_from(scan.log, scan.next) {
            let run = run?;
            if run.after.messages <= scan.wanted.start {
                break;
            }
            scan.look(&run)?;
            bytes += run.bytes_len();
            let Some(next) = run.first.0.checked_sub(1) else { break };
            scan.next = Offset(next);
            if run.before.messages > scan.wanted.start && bytes >= bytes_max {
                return Ok(None);
            }
        }
        Ok(Some(std::mem::take(&mut scan.found)))
    }

    /// The numbers of the messages from the floor on that are earlier than `before_ms`.
    fn wanted(
        &self,
        log: LogId,
        newest: &StoredRun,
        floor: &Floor,
        before_ms: Option<u64>,
    ) -> Result<Range<u64>, LogError> {
        let none = newest.after.messages..newest.after.messages;
        let Some(first) = self.first_not(log, newest, |record| floor.is_above(record))? else {
            return Ok(none);
        };
        let begin = first.number_of(|before, ms| floor.has(before, ms))?;
        let Some(before_ms) = before_ms else { return Ok(begin..none.end) };
        let last = self.first_not(log, newest, |record| record.last_ms < before_ms)?;
        let end = match last {
            Some(record) => record.number_of(|_, ms| ms >= before_ms)?,
            None => none.end,
        };
        Ok(begin..end.max(begin))
    }

    /// Looks at the records from `last` back to the one that has the message numbered `begin`.
    fn backwards(
        &self,
        log: LogId,
        last: &StoredRun,
        begin: u64,
        mut look: impl FnMut(&StoredRun) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        look(last)?;
        if last.before.messages <= begin {
            return Ok(());
        }
        let Some(until) = last.first.0.checked_sub(1) else { return Ok(()) };
        for record in self.backwards_from(log, Offset(until)) {
            let record = record?;
            if record.after.messages <= begin {
                break;
            }
            look(&record)?;
            if record.before.messages <= begin {
                break;
            }
        }
        Ok(())
    }

    /// The first record for which `is_before` does not hold, where it holds for all up to some place
    /// and for none behind it.
    pub(super) fn first_not(
        &self,
        log: LogId,
        newest: &StoredRun,
        is_before: impl Fn(&StoredRun) -> bool,
    ) -> Result<Option<StoredRun>, LogError> {
        if is_before(newest) {
            return Ok(None);
        }
        let mut found = newest.clone();
        // A record that begins at an offset lower than this comes before the place, or is gone.
        let mut low = self.oldest(log).0;
        while low < found.first.0 {
            let middle = low + (found.first.0 - low) / 2;
            match self.at(log, Offset(middle))? {
                Some(record) if is_before(&record) => low = record.last.0.max(middle) + 1,
                Some(record) => found = record,
                None => low = middle + 1,
            }
        }
        Ok(Some(found))
    }
}

impl Scan {
    fn look(&mut self, run: &StoredRun) -> Result<(), LogError> {
        let found = run.of_type(run.positions(&self.wanted), &self.event_type)?;
        let numbered = (self.found.total..).zip(found.iter().rev());
        let on_page = numbered.filter(|(number, _)| self.page.contains(number));
        let on_page: Vec<u64> = on_page.map(|(_, &position)| position).collect();
        if !on_page.is_empty() {
            self.found.records.extend(run.pick(on_page.into_iter())?);
        }
        self.found.total += found.len() as u64;
        Ok(())
    }
}
