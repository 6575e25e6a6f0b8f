//! Recent messages in memory: all there is where nothing is kept on disk, and otherwise what most
//! readers want of the log.
//!
//! Bounded per channel by count, bytes and age, and over all channels by bytes: the oldest message
//! goes first.

use std::collections::VecDeque;

use pushflo_protocol::{Offset, Record};
use slotmap::SecondaryMap;

use crate::ids::HomeKey;
use crate::log::{Page, PageQuery};
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

    /// Whether nothing older of a channel is kept elsewhere, or the oldest message here is one that
    /// `is_before` the wanted ones.
    pub(super) fn reaches(&self, channel: HomeKey, is_before: impl Fn(&Record) -> bool) -> bool {
        let Some(log) = self.logs.get(channel) else { return true };
        !log.is_behind || log.messages.front().is_some_and(is_before)
    }

    /// How many messages of a channel there are.
    pub(super) fn len(&self, channel: HomeKey) -> u64 {
        self.logs.get(channel).map_or(0, |log| log.messages.len() as u64)
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

    /// The records after `offset`, oldest first; `None` if any of them is not kept any more, or older
    /// than `since_ms`. `head` is the channel's newest offset.
    pub(super) fn after(
        &self,
        channel: HomeKey,
        offset: Offset,
        head: Offset,
        since_ms: u64,
    ) -> Option<Vec<Record>> {
        if offset >= head {
            return (offset == head).then(Vec::new);
        }
        let log = self.logs.get(channel)?;
        let start = log.messages.partition_point(|message| message.offset <= offset);
        // The message before, or none before the first, must be the one at `offset`: offsets leap.
        let is_next = match start.checked_sub(1).and_then(|before| log.messages.get(before)) {
            Some(before) => before.offset == offset,
            None => log.messages.front()?.offset == offset.next(),
        };
        let is_kept = log.messages.get(start).is_some_and(|next| next.timestamp_ms >= since_ms);
        if !is_next || !is_kept {
            return None;
        }
        Some(log.messages.range(start..).cloned().collect())
    }

    /// The records kept since a time, oldest first.
    pub(super) fn since(&self, channel: HomeKey, unix_ms: u64) -> Vec<Record> {
        let Some(log) = self.logs.get(channel) else { return Vec::new() };
        let start = log.messages.partition_point(|message| message.timestamp_ms < unix_ms);
        log.messages.range(start..).cloned().collect()
    }

    /// The last `count` records, or all that are kept and not older than `since_ms`, oldest first.
    pub(super) fn last(&self, channel: HomeKey, count: u64, since_ms: u64) -> Vec<Record> {
        let Some(log) = self.logs.get(channel) else { return Vec::new() };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let kept = log.messages.partition_point(|message| message.timestamp_ms < since_ms);
        let start = log.messages.len().saturating_sub(count).max(kept);
        log.messages.range(start..).cloned().collect()
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
        let after = |recent: &Recent, offset| recent.after(channel, Offset(offset), Offset(15), 0);
        assert_eq!(after(&recent, 5).unwrap().len(), 10);
        assert!(after(&recent, 4).is_none());
        assert_eq!(after(&recent, 15).unwrap().len(), 0);
        assert!(after(&recent, 16).is_none());
        assert_eq!(recent.since(channel, 14).len(), 2);
        assert_eq!(recent.last(channel, 3, 0).len(), 3);
        assert_eq!(recent.last(channel, u64::MAX, 0).len(), 10);
        assert_eq!(recent.last(channel, u64::MAX, 13).len(), 3);
        assert!(recent.after(channel, Offset(11), Offset(15), 13).is_none());
        assert_eq!(recent.after(channel, Offset(12), Offset(15), 13).unwrap().len(), 3);
        recent.expire(110);
        assert!(after(&recent, 8).is_none());
        assert_eq!(after(&recent, 9).unwrap().len(), 6);
        recent.expire(1_000);
        assert!(after(&recent, 14).is_none());
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
        assert_eq!(recent.last(a, 9, 0).len(), 1);
        assert_eq!(recent.last(b, 9, 0).len(), 3);
    }
}
