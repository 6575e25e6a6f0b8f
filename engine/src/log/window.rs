//! Reading a channel forward: where a subscription starts, and the windows of records behind it.
//!
//! Whoever is told where it starts is promised all that follows, so a start before a hole is none.

use pushflo_protocol::{Offset, Record};

use super::keep::Keep;
use super::record::{StoredRun, Totals};
use super::store::{LogStore, range, shared};
use super::{Located, LogError, ReadFrom};
use crate::ids::LogId;

impl LogStore {
    /// Where a subscription starts that wants all of `from` up to `until`; `None` if any of it is not
    /// kept, or if it names an offset that is none of the channel's.
    pub(super) fn locate(
        &self,
        log: LogId,
        from: ReadFrom,
        until: Offset,
        keep: &Keep,
    ) -> Result<Option<Located>, LogError> {
        let at_end = Located { after: until, messages: 0 };
        let Some(end) = self.totals_at(log, until)? else {
            let is_at_end = matches!(from, ReadFrom::After(offset) if offset == until);
            let is_recent = matches!(from, ReadFrom::Recent { .. });
            return Ok((is_at_end || is_recent).then_some(at_end));
        };
        match from {
            ReadFrom::After(offset) if offset == until => Ok(Some(at_end)),
            ReadFrom::After(offset) => {
                let Some((record, skip)) = self.behind(log, offset)? else { return Ok(None) };
                let messages = end.messages - (record.before.messages + skip);
                let is_kept = self.is_kept(&record, skip, end, keep)? && offset >= self.hole(log);
                Ok(is_kept.then_some(Located { after: offset, messages }))
            }
            ReadFrom::Recent { since_ms, messages_max } => {
                let floor = Keep {
                    since_ms: since_ms.max(keep.since_ms),
                    messages_max: messages_max.min(keep.messages_max),
                    bytes_max: keep.bytes_max,
                }
                .floor(end);
                let Some(newest) = self.at(log, until)? else { return Ok(None) };
                let first = self.first_not(log, &newest, |record| floor.is_above(record))?;
                let Some(first) = first.filter(|record| record.first <= until) else {
                    return Ok(Some(at_end));
                };
                let number = first.number_of(|before, ms| floor.has(before, ms))?;
                if number >= end.messages {
                    return Ok(Some(at_end));
                }
                let skip = number - first.before.messages;
                let after = if skip == 0 { first.prev } else { Offset(first.first.0 + skip - 1) };
                let after = after.max(self.hole(log));
                // Behind a hole there are fewer than the numbers say.
                let Some((record, skip)) = self.behind(log, after)? else {
                    return Ok(Some(at_end));
                };
                let messages = end.messages - (record.before.messages + skip);
                Ok(Some(Located { after, messages }))
            }
        }
    }

    /// The messages that follow `after`, up to the offset `until`, to the first that goes past
    /// `bytes_max` bytes; `None` if the first of them is not kept, or if `after` is none of the
    /// channel's.
    pub(super) fn window(
        &self,
        log: LogId,
        after: Offset,
        until: Offset,
        bytes_max: usize,
        keep: &Keep,
    ) -> Result<Option<Vec<Record>>, LogError> {
        let mut window = Vec::new();
        if after == until {
            return Ok(Some(window));
        }
        let end = self.totals_at(log, until)?;
        let Some(((first, skip), end)) = self.behind(log, after)?.zip(end) else {
            return Ok(None);
        };
        if !self.is_kept(&first, skip, end, keep)? {
            return Ok(None);
        }
        let behind = self.records.range(range(log, first.last.next()));
        let behind = behind.map(|guard| StoredRun::parse(shared(guard.into_inner()?.1)));
        let (mut last, mut skip, mut bytes) = (first.prev, skip, 0);
        for record in std::iter::once(Ok(first)).chain(behind) {
            let record = record?;
            if record.prev != last {
                self.note_hole(log, record.prev);
                break;
            }
            for picked in record.pick(record.positions_until(skip, until))? {
                bytes += picked.parts.as_bytes().len();
                window.push(picked);
                if bytes >= bytes_max {
                    return Ok(Some(window));
                }
            }
            (last, skip) = (record.last, 0);
            if last >= until {
                break;
            }
        }
        Ok(Some(window))
    }

    /// The stored run that has the first message behind an offset, and how many of its messages come
    /// before that; `None` if there is none, or if the offset is none of the channel's.
    fn behind(&self, log: LogId, offset: Offset) -> Result<Option<(StoredRun, u64)>, LogError> {
        let from = offset.next().max(self.oldest(log));
        let next = self.records.range(range(log, from)).next();
        let next = next.map(|guard| StoredRun::parse(shared(guard.into_inner()?.1))).transpose()?;
        if let Some(next) = next.filter(|next| next.prev == offset) {
            return Ok(Some((next, 0)));
        }
        let inside = self.at(log, offset)?.filter(|record| record.last > offset);
        Ok(inside.map(|record| {
            let skip = offset.0 + 1 - record.first.0;
            (record, skip)
        }))
    }

    /// Whether the limits keep the message behind the first `skip` of a run, when `end` is all there is.
    fn is_kept(
        &self,
        record: &StoredRun,
        skip: u64,
        end: Totals,
        keep: &Keep,
    ) -> Result<bool, LogError> {
        let floor = keep.floor(end);
        let first_kept = record.number_of(|before, ms| floor.has(before, ms))?;
        Ok(first_kept <= record.before.messages + skip)
    }
}
