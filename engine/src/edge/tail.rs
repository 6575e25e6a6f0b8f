//! Tails: the recent messages of a channel, encoded, shared by all its subscribers on a shard.
//!
//! The records of one turn are sealed into one block of contiguous bytes, so that a subscriber that
//! is a turn behind needs one send. A cursor is the number of the block that is to be sent next; it
//! only moves forward. A tail whose subscribers have all caught up holds no bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use pushflo_protocol::dialect::Encoding;
use pushflo_protocol::dialect::pushflo::event;
use pushflo_protocol::{ChannelSlug, Epoch, Offset, Record, StreamPosition};

use crate::accounts::Client;
use crate::api;
use crate::ids::{ChannelKey, HomeKey, SubscriptionKey};
use crate::mail::MemberList;

/// One channel on one shard.
#[derive(Debug)]
pub(super) struct Tail {
    /// The channel.
    pub(super) channel: ChannelKey,
    /// The channel at its home shard, once that answered.
    pub(super) home: Option<HomeKey>,
    /// The newest position that this shard was told.
    pub(super) head: Option<StreamPosition>,
    /// Subscriptions that get what is appended.
    pub(super) subscribers: Vec<SubscriptionKey>,
    /// Subscriptions that wait for the home shard's answer.
    pub(super) pending: u32,
    /// Whether its subscribers are known to the home.
    pub(super) attached: Attachedness,
    /// Whether the channel is private, as far as this shard was told.
    pub(super) is_private: bool,
    /// Whether something was appended since the last flush.
    pub(super) is_dirty: bool,
    /// Subscribers with something to send.
    pub(super) behind: u32,
    /// Bytes held as the metric has them.
    pub(super) counted_bytes: u64,
    blocks: VecDeque<Block>,
    /// The number of the first block.
    first: u64,
    /// Records since the last seal.
    open: Vec<Record>,
    /// All bytes ever sealed.
    sealed_bytes: u64,
    /// Subscribers are charged for the blocks up to here that they have not got yet.
    charged: u64,
    /// The last window that was read for a subscriber, for others who come back to the same place:
    /// behind which offset it is, and where it ends.
    window: Option<EncodedWindow>,
    /// Who was there when that was last told, and the event that told it.
    members: Option<(Arc<MemberList>, Bytes)>,
}

/// Whether the subscribers of a tail are known to the home of its channel.
#[derive(Debug, Default)]
pub(super) enum Attachedness {
    /// They are, as far as there are any.
    #[default]
    Settled,
    /// The channel has moved, or its home was out of reach.
    Wanted,
    /// The home was asked; these have left since.
    Asked {
        /// Who they were: the home counts them, and as members where these are known to each other.
        left: Vec<Option<Client>>,
        /// The channel has moved since: whatever is answered, it is asked again.
        has_moved: bool,
    },
    /// They are, and what they missed is being read.
    Reading {
        /// Up to which offset.
        until: Offset,
        /// How many windows were asked for.
        windows: u32,
        /// Whether one is under way.
        is_asked: bool,
    },
}

/// A window as bytes.
#[derive(Debug)]
struct EncodedWindow {
    epoch: Option<Epoch>,
    after: Offset,
    end: Offset,
    bytes: Bytes,
}

/// The frames of one turn.
#[derive(Debug)]
struct Block {
    bytes: Bytes,
    frames: u32,
    /// All bytes of the tail before this block.
    start: u64,
}

impl Tail {
    /// An empty tail.
    pub(super) fn new(channel: ChannelKey) -> Self {
        Self {
            channel,
            home: None,
            head: None,
            subscribers: Vec::new(),
            pending: 0,
            attached: Attachedness::Settled,
            is_private: false,
            is_dirty: false,
            behind: 0,
            counted_bytes: 0,
            blocks: VecDeque::new(),
            first: 0,
            open: Vec::new(),
            sealed_bytes: 0,
            charged: 0,
            window: None,
            members: None,
        }
    }

    /// Appends a record.
    pub(super) fn push(&mut self, record: Record) {
        self.open.push(record);
    }

    /// The event that tells who is there, encoded once for all who are told the same.
    pub(super) fn members_event(&mut self, members: &Arc<MemberList>) -> Bytes {
        if let Some((known, event)) = &self.members
            && Arc::ptr_eq(known, members)
        {
            return event.clone();
        }
        let list = members.members.iter().map(api::member);
        let event = event::presence(&self.channel.slug, list, members.count);
        self.members = Some((Arc::clone(members), event.clone()));
        event
    }

    /// The records of a window as bytes, which those who read the same window share.
    pub(super) fn window(&mut self, after: Offset, records: &[Record]) -> Bytes {
        let end = records.last().map_or(after, |record| record.offset);
        let epoch = self.head.map(|head| head.epoch);
        if let Some(known) = &self.window
            && (known.epoch, known.after, known.end) == (epoch, after, end)
        {
            return known.bytes.clone();
        }
        let bytes = encode(Encoding::PushFlo, &self.channel.slug, records);
        self.window = Some(EncodedWindow { epoch, after, end, bytes: bytes.clone() });
        bytes
    }

    /// Gives back what nobody needs any more of what is kept for many.
    pub(super) fn forget_shared(&mut self) {
        if self.window.as_ref().is_some_and(|window| window.bytes.is_unique()) {
            self.window = None;
        }
        if self.members.as_ref().is_some_and(|(_, event)| event.is_unique()) {
            self.members = None;
        }
    }

    /// Whether there is anything that [`Tail::forget_shared`] may give back.
    pub(super) fn has_shared(&self) -> bool {
        self.window.is_some() || self.members.is_some()
    }

    /// Makes one block of the records since the last seal.
    pub(super) fn seal(&mut self) {
        let frames = self.open.len() as u32;
        if frames == 0 {
            return;
        }
        let bytes = encode(Encoding::PushFlo, &self.channel.slug, &self.open);
        self.open = Vec::new();
        let start = self.sealed_bytes;
        self.sealed_bytes += bytes.len() as u64;
        self.blocks.push_back(Block { bytes, frames, start });
    }

    /// The cursor of a subscriber that has everything.
    pub(super) fn end(&self) -> u64 {
        self.first + self.blocks.len() as u64
    }

    /// The oldest cursor whose subscriber gets all that follows.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Checks that blocks follow each other and what is open was told. While one of its subscribers is
    /// live, it gets every message; without one it may miss some, which nobody is to get.
    pub(super) fn check(&self, is_live: bool) {
        let mut start = self.sealed_bytes - self.bytes();
        for block in &self.blocks {
            assert_eq!(block.start, start, "blocks that do not follow each other");
            assert!(block.frames > 0, "a block of nothing");
            start += block.bytes.len() as u64;
        }
        assert_eq!(start, self.sealed_bytes);
        assert!(self.open.is_empty() || self.is_dirty, "records that nobody looks at");
        if !is_live {
            return;
        }
        assert!(self.open.is_sorted_by(|one, next| next.prev == one.offset), "a hole in a tail");
        if let (Some(last), Some(head)) = (self.open.last(), self.head) {
            assert_eq!(last.offset, head.offset, "the head is not the last record");
        }
    }

    /// The block at `cursor`: its bytes and how many frames they are.
    pub(super) fn block(&self, cursor: u64) -> Option<(&Bytes, u32)> {
        let index = usize::try_from(cursor.checked_sub(self.first)?).ok()?;
        self.blocks.get(index).map(|block| (&block.bytes, block.frames))
    }

    /// Bytes between `cursor` and the end.
    pub(super) fn bytes_behind(&self, cursor: u64) -> u64 {
        let index = cursor.saturating_sub(self.first) as usize;
        self.blocks.get(index).map_or(0, |block| self.sealed_bytes - block.start)
    }

    /// What a subscriber that has got all up to `block` is to be charged for what was sealed since the
    /// last [`Tail::charge`].
    pub(super) fn uncharged_bytes(&self, block: u64) -> usize {
        self.bytes_behind(block.max(self.charged)) as usize
    }

    /// What a subscriber that has got all up to `block` is charged for.
    pub(super) fn charged_bytes(&self, block: u64) -> usize {
        self.bytes_behind(block) as usize - self.uncharged_bytes(block)
    }

    /// Subscribers were charged for all there is.
    pub(super) fn charge(&mut self) {
        self.charged = self.end();
    }

    /// Whether subscribers were charged for a block.
    pub(super) fn is_charged(&self, block: u64) -> bool {
        block < self.charged
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks.front().map_or(0, |block| self.sealed_bytes - block.start)
    }

    /// Drops the blocks before `cursor`: no subscriber needs them any more.
    pub(super) fn trim(&mut self, cursor: u64) {
        while self.first < cursor && self.blocks.pop_front().is_some() {
            self.first += 1;
        }
        if self.blocks.is_empty() && self.blocks.capacity() > BLOCKS_KEPT {
            self.blocks = VecDeque::new();
        }
    }

    /// Whether nobody needs the tail.
    pub(super) fn is_unused(&self) -> bool {
        self.subscribers.is_empty() && self.pending == 0
    }
}

/// Records of a channel as one piece of bytes.
pub(super) fn encode(encoding: Encoding, channel: &ChannelSlug, records: &[Record]) -> Bytes {
    let hint = |record: &Record| record.parts.as_bytes().len() + encoding.record_bytes_hint();
    let mut bytes = Vec::with_capacity(records.iter().map(hint).sum());
    for record in records {
        encoding.push_record(channel, record, &mut bytes);
    }
    bytes.into()
}

/// Room for blocks that an idle tail keeps.
const BLOCKS_KEPT: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AppId;
    use pushflo_protocol::{MessageId, Offset, Parts};

    #[test]
    fn records_of_a_turn_are_one_block() {
        let slug = ChannelSlug::parse("c").unwrap();
        let mut tail = Tail::new(ChannelKey { app: AppId(0), slug: slug.clone() });
        let record = |offset: u64| Record {
            id: MessageId(0),
            offset: Offset(offset),
            prev: Offset(offset - 1),
            timestamp_ms: 1,
            parts: Parts::new("e", None, "1"),
        };
        tail.push(record(1));
        tail.seal();
        tail.push(record(2));
        tail.push(record(3));
        tail.seal();
        tail.seal();
        assert_eq!(tail.end(), 2);
        let one = encode(Encoding::PushFlo, &slug, &[record(1)]).len() as u64;
        let block = encode(Encoding::PushFlo, &slug, &[record(2), record(3)]);
        assert_eq!((block.len() as u64, tail.block(1)), (2 * one, Some((&block, 2))));
        let behind = [0, 1, 2].map(|cursor| tail.bytes_behind(cursor));
        assert_eq!(behind, [3 * one, 2 * one, 0]);
        tail.trim(1);
        assert_eq!((tail.bytes(), tail.block(0), tail.end()), (2 * one, None, 2));
        tail.trim(2);
        assert_eq!((tail.bytes(), tail.end()), (0, 2));
    }
}
