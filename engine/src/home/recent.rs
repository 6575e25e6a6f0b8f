//! Recent messages in memory: all there is where nothing is kept on disk, and otherwise what most
//! readers want of the log.
//!
//! Bounded per channel by count, bytes and age, and over all channels by bytes: the oldest message
//! goes first.

use std::collections::VecDeque;

use pushflo_protocol::{Offset, Record};
use slotmap::SecondaryMap;

use crate::ids::HomeKey;
use crate::log::{Located, Page, PageQuery, ReadFrom};
use crate::retention::Retention;

/// The recent messages of one shard's channels.
#[derive(Debug)]
pub(super) struct Recent {
    bytes_max: usize,
    logs: SecondaryMap<HomeKey, Log>,
    /// All messages in the order they came, so that the oldest is found without a search. Entries
    /// whose message is gone already are passed over.
    order: VecDeque<(HomeKey, Offset)>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Log {
    messages: VecDeque<Record>,
    bytes: usize,
    /// There are, or may be, older messages on disk.
    is_behind: bool,
    /// How long its messages are kept.
    age_ms_max: u64,
}

impl Recent {
    /// Empty logs that hold at most `bytes_max` bytes in all.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, logs: SecondaryMap::new(), order: VecDeque::new(), bytes: 0 }
    }

    /// Keeps a message, at the expense of older ones where a limit says so.
    pub(super) fn append(&mut self, channel: HomeKey, record: Record, retention: &Retention) {
        let size = record.kept_bytes();
        if retention.age_ms_max == 0 || size > retention.channel_bytes_max {
            self.forget(channel);
            self.begin_behind(channel);
            return;
        }
        let Some(entry) = self.logs.entry(channel) else { return };
        let log = entry.or_default();
        log.age_ms_max = retention.age_ms_max;
        self.order.push_back((channel, record.offset));
        log.messages.push_back(record);
        log.bytes += size;
        self.bytes += size;
        while log.messages.len() > retention.messages_max || log.bytes > retention.channel_bytes_max
        {
            self.bytes -= log.drop_oldest();
            log.is_behind = true;
        }
        while self.bytes > self.bytes_max {
            self.drop_oldest();
        }
        self.compact_order();
    }

    /// Says that a channel has messages before the first it gets.
    pub(super) fn begin_behind(&mut self, channel: HomeKey) {
        if let Some(entry) = self.logs.entry(channel) {
            entry.or_default().is_behind = true;
        }
    }

    /// Drops what has become too old at `now_ms`. What is kept longer may keep in memory what came
    /// behind it; readers say themselves what is too old for them.
    pub(super) fn expire(&mut self, now_ms: u64) {
        while let Some(&(channel, offset)) = self.order.front() {
            let log = self.logs.get(channel);
            let limit = now_ms.saturating_sub(log.map_or(0, |log| log.age_ms_max));
            match log.and_then(|log| log.messages.front()) {
                Some(oldest) if oldest.offset <= offset && oldest.timestamp_ms >= limit => break,
                _ => self.drop_oldest(),
            }
        }
    }

    /// Where a subscription starts that wants all of `from`, up to the head, and none older than
    /// `since_ms`. `None`: older messages are needed, which a log may have, or the offset is none of the
    /// channel's.
    pub(super) fn locate(
        &self,
        channel: HomeKey,
        from: ReadFrom,
        head: Offset,
        since_ms: u64,
        has_log: bool,
    ) -> Option<Located> {
        let at_end = Located { after: head, messages: 0 };
        let Some(log) = self.logs.get(channel) else {
            let is_known = match from {
                ReadFrom::After(offset) => offset == head,
                ReadFrom::Recent { .. } => true,
            };
            return is_known.then_some(at_end);
        };
        let start = match from {
            ReadFrom::After(offset) if offset >= head => {
                return (offset == head).then_some(at_end);
            }
            ReadFrom::After(offset) => log.position_behind(offset, since_ms)?,
            ReadFrom::Recent { since_ms: wanted_ms, messages_max } => {
                let since_ms = since_ms.max(wanted_ms);
                let count = usize::try_from(messages_max).unwrap_or(usize::MAX);
                let young = log.messages.partition_point(|record| record.timestamp_ms < since_ms);
                let start = log.messages.len().saturating_sub(count).max(young);
                // The one before the first wanted is here, or there is none.
                if start == 0 && has_log && log.is_behind && log.messages.len() < count {
                    return None;
                }
                start
            }
        };
        let Some(first) = log.messages.get(start) else { return Some(at_end) };
        let messages = (log.messages.len() - start) as u64;
        Some(Located { after: first.prev, messages })
    }

    /// The messages that follow `after`, to the first that goes past `bytes_max` bytes; `None` if the
    /// first of them is not here, or older than `since_ms`.
    pub(super) fn window(
        &self,
        channel: HomeKey,
        after: Offset,
        since_ms: u64,
        bytes_max: usize,
    ) -> Option<Vec<Record>> {
        let log = self.logs.get(channel)?;
        let start = log.position_behind(after, since_ms)?;
        let mut bytes = 0;
        let fits = |record: &&Record| {
            let is_more = bytes < bytes_max;
            bytes += record.parts.as_bytes().len();
            is_more
        };
        Some(log.messages.range(start..).take_while(fits).cloned().collect())
    }

    /// A page; none of its messages is older than `since_ms`.
    pub(super) fn page(&self, channel: HomeKey, query: &PageQuery, since_ms: u64) -> Page {
        let Some(log) = self.logs.get(channel) else { return Page::default() };
        let matches = |record: &&Record| {
            query.event_type.as_ref().is_none_or(|wanted| record.parts.event_type() == wanted)
                && record.timestamp_ms >= since_ms
                && query.after_ms.is_none_or(|after| record.timestamp_ms > after)
                && query.before_ms.is_none_or(|before| record.timestamp_ms < before)
        };
        let skip = (query.page - 1).saturating_mul(query.page_size);
        let mut page = Page::default();
        for record in log.messages.iter().rev().filter(matches) {
            if page.total >= skip && (page.records.len() as u64) < query.page_size {
                page.records.push(record.clone());
            }
            page.total += 1;
        }
        page
    }

    /// Drops all of a channel.
    pub(super) fn forget(&mut self, channel: HomeKey) {
        if let Some(log) = self.logs.remove(channel) {
            self.bytes -= log.bytes;
        }
    }

    /// Checks its tables; `head` tells the newest offset of a channel.
    pub(super) fn check(&self, head: impl Fn(HomeKey) -> Option<Offset>) {
        let (mut bytes, mut messages) = (0, 0);
        for (channel, log) in &self.logs {
            let Some(head) = head(channel) else { panic!("messages of no channel") };
            let of_log: usize = log.messages.iter().map(Record::kept_bytes).sum();
            assert_eq!(log.bytes, of_log);
            bytes += of_log;
            messages += log.messages.len();
            let mut all = log.messages.iter().zip(log.messages.iter().skip(1));
            assert!(all.all(|(one, next)| next.prev == one.offset), "a hole in what is kept");
            assert!(log.messages.back().is_none_or(|last| last.offset == head), "not the newest");
        }
        assert_eq!(self.bytes, bytes);
        assert!(self.bytes <= self.bytes_max);
        assert!(self.order.len() >= messages, "a message that is never dropped");
    }

    /// Bytes kept, over all channels.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn drop_oldest(&mut self) {
        let Some((channel, offset)) = self.order.pop_front() else { return };
        let Some(log) = self.logs.get_mut(channel) else { return };
        if log.messages.front().is_some_and(|oldest| oldest.offset <= offset) {
            self.bytes -= log.drop_oldest();
        }
        log.is_behind = true;
        if log.messages.is_empty() {
            log.messages = VecDeque::new();
        }
    }

    /// Channels that overwrite themselves leave entries behind; half of them at most may be stale.
    fn compact_order(&mut self) {
        let kept: usize = self.bytes / MESSAGE_BYTES_MIN;
        if self.order.len() > 2 * kept + 1024 {
            let logs = &self.logs;
            self.order.retain(|&(channel, offset)| {
                let oldest = logs.get(channel).and_then(|log| log.messages.front());
                oldest.is_some_and(|oldest| oldest.offset <= offset)
            });
        }
    }
}

impl Log {
    /// Where the message right behind an offset stands; `None` if it is not here, or older than
    /// `since_ms`. Offsets leap.
    fn position_behind(&self, offset: Offset, since_ms: u64) -> Option<usize> {
        let start = self.messages.partition_point(|record| record.offset <= offset);
        let next = self.messages.get(start)?;
        (next.prev == offset && next.timestamp_ms >= since_ms).then_some(start)
    }

    fn drop_oldest(&mut self) -> usize {
        let size = self.messages.pop_front().map_or(0, |record| record.kept_bytes());
        self.bytes -= size;
        size
    }
}

/// What a record has at least.
const MESSAGE_BYTES_MIN: usize = size_of::<Record>();

#[cfg(test)]
mod tests {
    use super::*;
    use pushflo_protocol::{MessageId, Parts};
    use slotmap::SlotMap;

    fn record(offset: u64, timestamp_ms: u64) -> Record {
        let event_type = if offset.is_multiple_of(2) { "even" } else { "odd" };
        Record {
            id: MessageId(u128::from(offset)),
            offset: Offset(offset),
            prev: Offset(offset - 1),
            timestamp_ms,
            parts: Parts::new(event_type, None, "1"),
        }
    }

    fn retention() -> Retention {
        Retention { age_ms_max: 100, messages_max: 10, channel_bytes_max: 100_000 }
    }

    #[test]
    fn recovery_is_whole_or_nothing() {
        let mut keys: SlotMap<HomeKey, ()> = SlotMap::with_key();
        let channel = keys.insert(());
        let mut recent = Recent::new(100_000);
        for offset in 1..=15 {
            recent.append(channel, record(offset, offset), &retention());
        }
        let after = |recent: &Recent, offset| {
            let located =
                recent.locate(channel, ReadFrom::After(Offset(offset)), Offset(15), 0, true);
            located.map(|located| located.messages)
        };
        let latest = |recent: &Recent, wanted_ms, messages_max, since_ms| {
            let from = ReadFrom::Recent { since_ms: wanted_ms, messages_max };
            recent.locate(channel, from, Offset(15), since_ms, true).map(|found| found.messages)
        };
        assert_eq!((after(&recent, 5), after(&recent, 4)), (Some(10), None));
        assert_eq!((after(&recent, 15), after(&recent, 16)), (Some(0), None));
        assert_eq!(latest(&recent, 14, u64::MAX, 0), Some(2));
        assert_eq!((latest(&recent, 0, 3, 0), latest(&recent, 0, 10, 0)), (Some(3), Some(10)));
        // There are older ones elsewhere.
        assert_eq!(latest(&recent, 0, 11, 0), None);
        assert_eq!(latest(&recent, 0, u64::MAX, 13), Some(3));
        let window = |recent: &Recent, offset, since_ms, bytes_max| {
            let window = recent.window(channel, Offset(offset), since_ms, bytes_max)?;
            Some(window.iter().map(|record| record.offset.0).collect::<Vec<_>>())
        };
        assert_eq!(window(&recent, 11, 13, 9), None);
        assert_eq!(window(&recent, 12, 13, usize::MAX), Some(vec![13, 14, 15]));
        assert_eq!(window(&recent, 5, 0, 1), Some(vec![6]));
        recent.expire(110);
        assert_eq!((after(&recent, 8), after(&recent, 9)), (None, Some(6)));
        recent.expire(1_000);
        assert_eq!(after(&recent, 14), None);
        assert_eq!(recent.bytes(), 0);
    }

    #[test]
    fn pages_are_newest_first_with_right_totals() {
        let mut keys: SlotMap<HomeKey, ()> = SlotMap::with_key();
        let channel = keys.insert(());
        let mut recent = Recent::new(100_000);
        for offset in 1..=9 {
            recent.append(channel, record(offset, offset), &retention());
        }
        let query = PageQuery {
            page: 2,
            page_size: 2,
            event_type: Some("odd".into()),
            after_ms: Some(1),
            before_ms: None,
        };
        let page = recent.page(channel, &query, 0);
        assert_eq!(page.records.iter().map(|m| m.offset.0).collect::<Vec<_>>(), [5, 3]);
        assert_eq!(page.total, 4);
        assert_eq!(recent.page(channel, &query, 6).total, 2);
    }

    #[test]
    fn the_oldest_of_all_channels_goes_first() {
        let mut keys: SlotMap<HomeKey, ()> = SlotMap::with_key();
        let (a, b) = (keys.insert(()), keys.insert(()));
        let size = record(1, 1).kept_bytes();
        let mut recent = Recent::new(4 * size + size / 2);
        for offset in 1..=2 {
            recent.append(a, record(offset, offset), &retention());
        }
        for offset in 1..=3 {
            recent.append(b, record(offset, offset), &retention());
        }
        let kept = |channel| recent.window(channel, Offset(0), 0, usize::MAX);
        assert_eq!(kept(a), None);
        assert_eq!(recent.window(a, Offset(1), 0, usize::MAX).unwrap().len(), 1);
        assert_eq!(kept(b).unwrap().len(), 3);
    }
}
