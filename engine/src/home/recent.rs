//! Recent messages in memory: all there is where nothing is kept on disk, and otherwise what most
//! readers want of the log.
//!
//! Bounded per channel by count, bytes and age, and over all channels by bytes: the oldest message
//! goes first. A little more than a channel's limits say is there, for those who were told where its
//! history begins and have not read it yet.

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
    logs: SecondaryMap<HomeKey, RecentChannel>,
    /// All messages in the order they came, so that the oldest is found without a search. Entries
    /// whose message is gone already are passed over.
    order: VecDeque<(HomeKey, Offset)>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct RecentChannel {
    messages: VecDeque<Record>,
    bytes: usize,
    /// So many of the oldest are more than the limits say, and so many bytes.
    hidden: usize,
    hidden_bytes: usize,
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
        let loose = retention.loose();
        log.age_ms_max = loose.age_ms_max;
        self.order.push_back((channel, record.offset));
        log.messages.push_back(record);
        log.bytes += size;
        self.bytes += size;
        log.hide_beyond(retention);
        while log.messages.len() > loose.messages_max || log.bytes > loose.channel_bytes_max {
            self.bytes -= log.drop_oldest();
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

    /// All messages of a channel.
    pub(super) fn all(&self, channel: HomeKey) -> Vec<Record> {
        self.logs.get(channel).map_or(Vec::new(), |log| log.messages.iter().cloned().collect())
    }

    /// How many messages of a channel there are.
    pub(super) fn len(&self, channel: HomeKey) -> usize {
        self.logs.get(channel).map_or(0, |log| log.messages.len() - log.hidden)
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
            ReadFrom::After(offset) => {
                log.position_behind(offset, since_ms).filter(|&start| start >= log.hidden)?
            }
            ReadFrom::Recent { since_ms: wanted_ms, messages_max } => {
                let since_ms = since_ms.max(wanted_ms);
                let count = usize::try_from(messages_max).unwrap_or(usize::MAX);
                let young = log.messages.partition_point(|record| record.timestamp_ms < since_ms);
                let start = log.messages.len().saturating_sub(count).max(young);
                // The one before the first wanted is here, or there is none.
                let kept = log.messages.len() - log.hidden;
                if start <= log.hidden && has_log && log.is_behind && kept < count {
                    return None;
                }
                start.max(log.hidden)
            }
        };
        let Some(first) = log.messages.get(start) else { return Some(at_end) };
        let messages = (log.messages.len() - start) as u64;
        Some(Located { after: first.prev, messages })
    }

    /// The messages that follow `after`, to the first that goes past `bytes_max` bytes; `None` if the
    /// first of them is not here. Whoever was told that it is kept gets it, so no limit is asked here.
    pub(super) fn window(
        &self,
        channel: HomeKey,
        after: Offset,
        bytes_max: usize,
    ) -> Option<Vec<Record>> {
        let log = self.logs.get(channel)?;
        let start = log.position_behind(after, 0)?;
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
        // Times never fall, so what is wanted is one run.
        let oldest_ms = query.after_ms.map_or(since_ms, |ms| since_ms.max(ms.saturating_add(1)));
        let young = log.messages.partition_point(|record| record.timestamp_ms < oldest_ms);
        let start = young.max(log.hidden);
        let end = query.before_ms.map_or(log.messages.len(), |before_ms| {
            log.messages.partition_point(|record| record.timestamp_ms < before_ms)
        });
        let wanted = log.messages.range(start..end.max(start)).rev();
        let skip = usize::try_from((query.page - 1).saturating_mul(query.page_size));
        let (skip, size) = (skip.unwrap_or(usize::MAX), query.page_size as usize);
        let Some(event_type) = &query.event_type else {
            let total = wanted.len() as u64;
            return Page { records: wanted.skip(skip).take(size).cloned().collect(), total };
        };
        let mut page = Page::default();
        for record in wanted.filter(|record| record.parts.event_type() == event_type) {
            if page.total >= skip as u64 && page.records.len() < size {
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

impl RecentChannel {
    /// Where the message right behind an offset stands; `None` if it is not here, or older than
    /// `since_ms`. Offsets leap.
    fn position_behind(&self, offset: Offset, since_ms: u64) -> Option<usize> {
        let start = self.messages.partition_point(|record| record.offset <= offset);
        let next = self.messages.get(start)?;
        (next.prev == offset && next.timestamp_ms >= since_ms).then_some(start)
    }

    /// Hides what is more than the limits say.
    fn hide_beyond(&mut self, retention: &Retention) {
        while self.messages.len() - self.hidden > retention.messages_max
            || self.bytes - self.hidden_bytes > retention.channel_bytes_max
        {
            let Some(oldest) = self.messages.get(self.hidden) else { break };
            self.hidden_bytes += oldest.kept_bytes();
            self.hidden += 1;
            self.is_behind = true;
        }
    }

    fn drop_oldest(&mut self) -> usize {
        let Some(oldest) = self.messages.pop_front() else { return 0 };
        let size = oldest.kept_bytes();
        self.bytes -= size;
        if self.hidden > 0 {
            self.hidden -= 1;
            self.hidden_bytes -= size;
        }
        self.is_behind = true;
        size
    }
}

/// What a record has at least.
const MESSAGE_BYTES_MIN: usize = size_of::<Record>();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retention::SLACK_MS;
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
        let window = |recent: &Recent, offset, bytes_max| {
            let window = recent.window(channel, Offset(offset), bytes_max)?;
            Some(window.iter().map(|record| record.offset.0).collect::<Vec<_>>())
        };
        assert_eq!(window(&recent, 12, usize::MAX), Some(vec![13, 14, 15]));
        assert_eq!(window(&recent, 5, 1), Some(vec![6]));
        recent.expire(SLACK_MS + 110);
        assert_eq!((after(&recent, 8), after(&recent, 9)), (None, Some(6)));
        recent.expire(SLACK_MS + 1_000);
        assert_eq!(after(&recent, 14), None);
        assert_eq!(recent.bytes(), 0);
    }

    #[test]
    fn who_was_told_where_history_begins_gets_it() {
        let mut keys: SlotMap<HomeKey, ()> = SlotMap::with_key();
        let channel = keys.insert(());
        let mut recent = Recent::new(100_000);
        for offset in 1..=10 {
            recent.append(channel, record(offset, offset), &retention());
        }
        let all = ReadFrom::Recent { since_ms: 0, messages_max: u64::MAX };
        let located = recent.locate(channel, all, Offset(10), 0, false).unwrap();
        assert_eq!(located, Located { after: Offset(0), messages: 10 });
        for offset in 11..=12 {
            recent.append(channel, record(offset, offset), &retention());
        }
        // Whoever comes now is told of no more than the limits keep.
        assert_eq!(recent.len(channel), 10);
        let query = PageQuery {
            page: 1,
            page_size: 100,
            event_type: None,
            after_ms: None,
            before_ms: None,
        };
        assert_eq!(recent.page(channel, &query, 0).total, 10);
        assert_eq!(recent.locate(channel, ReadFrom::After(Offset(1)), Offset(12), 0, false), None);
        assert_eq!(recent.window(channel, located.after, usize::MAX).unwrap().len(), 12);
        // Not for ever.
        recent.append(channel, record(13, 13), &retention());
        assert_eq!(recent.window(channel, located.after, usize::MAX), None);
        for offset in 14..=100 {
            recent.append(channel, record(offset, offset), &retention());
        }
        assert_eq!(recent.bytes(), (89..=100).map(|at| record(at, at).kept_bytes()).sum::<usize>());
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
        let kept = |channel| recent.window(channel, Offset(0), usize::MAX);
        assert_eq!(kept(a), None);
        assert_eq!(recent.window(a, Offset(1), usize::MAX).unwrap().len(), 1);
        assert_eq!(kept(b).unwrap().len(), 3);
    }
}
