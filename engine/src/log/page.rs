//! Pages of history, newest first, at the cost of what is on the page.
//!
//! A message's number is how many its channel had before it, kept or not; every record tells the
//! numbers of its own. Times and numbers only grow, so what a query asks for is a run of numbers:
//! its ends are found by bisection, and its length is the total. Only an event type must be looked
//! for in every message, without making messages of those that are not on the page.

use std::ops::Range;

use pushflo_protocol::Offset;

use super::keep::{Floor, Keep};
use super::record::Stored;
use super::store::Store;
use super::{LogError, Page, PageQuery};
use crate::ids::LogId;

impl Store {
    /// The messages of a page, newest first, and how many match in all.
    pub(super) fn page(
        &self,
        log: LogId,
        query: &PageQuery,
        keep: &Keep,
    ) -> Result<Page, LogError> {
        let Some(newest) = self.last(log)? else { return Ok(Page::default()) };
        let mut floor = keep.floor(newest.after);
        if let Some(after_ms) = query.after_ms {
            floor.since_ms = floor.since_ms.max(after_ms.saturating_add(1));
        }
        let wanted = self.wanted(log, &newest, &floor, query.before_ms)?;
        let skip = (query.page - 1).saturating_mul(query.page_size);
        if let Some(event_type) = &query.event_type {
            let page = skip..skip.saturating_add(query.page_size);
            return self.page_of_type(log, &newest, wanted, page, event_type);
        }
        let total = wanted.end - wanted.start;
        let end = wanted.end.saturating_sub(skip).max(wanted.start);
        let begin = end.saturating_sub(query.page_size).max(wanted.start);
        let mut items = Vec::new();
        if begin == end {
            return Ok(Page { records: items, total });
        }
        let is_before = |record: &Stored| record.after.messages < end;
        let Some(last) = self.first_not(log, &newest, is_before)? else {
            return Ok(Page { records: items, total });
        };
        self.backwards(log, &last, begin, |record| {
            items.extend(record.pick(record.positions(&(begin..end)).rev())?);
            Ok(())
        })?;
        Ok(Page { records: items, total })
    }

    /// The numbers of the messages from the floor on that are earlier than `before_ms`.
    fn wanted(
        &self,
        log: LogId,
        newest: &Stored,
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

    /// A page of the wanted messages that are of one type.
    fn page_of_type(
        &self,
        log: LogId,
        newest: &Stored,
        wanted: Range<u64>,
        page: Range<u64>,
        event_type: &str,
    ) -> Result<Page, LogError> {
        let (mut items, mut total) = (Vec::new(), 0);
        self.backwards(log, newest, wanted.start, |record| {
            let found = record.of_type(record.positions(&wanted), event_type)?;
            let on_page = (total..).zip(found.iter().rev()).filter(|(n, _)| page.contains(n));
            let on_page: Vec<u64> = on_page.map(|(_, &position)| position).collect();
            if !on_page.is_empty() {
                items.extend(record.pick(on_page.into_iter())?);
            }
            total += found.len() as u64;
            Ok(())
        })?;
        Ok(Page { records: items, total })
    }

    /// Looks at the records from `last` back to the one that has the message numbered `begin`.
    fn backwards(
        &self,
        log: LogId,
        last: &Stored,
        begin: u64,
        mut look: impl FnMut(&Stored) -> Result<(), LogError>,
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
    fn first_not(
        &self,
        log: LogId,
        newest: &Stored,
        is_before: impl Fn(&Stored) -> bool,
    ) -> Result<Option<Stored>, LogError> {
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
