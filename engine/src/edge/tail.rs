//! Tails: the recent frames of a channel, shared by all its subscribers on a shard.
//!
//! The frames of one turn are sealed into one block of contiguous bytes, so that a subscriber that
//! is a turn behind needs one send. A cursor is the number of the block that is to be sent next; it
//! only moves forward. A tail whose subscribers have all caught up holds no bytes.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use pushflo_protocol::StreamPosition;

use crate::ids::{ChannelKey, HomeKey, SubscriptionKey};

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
    /// Frames since the last seal.
    open: Vec<Bytes>,
    /// All bytes ever sealed.
    sealed_bytes: u64,
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
            is_private: false,
            is_dirty: false,
            behind: 0,
            counted_bytes: 0,
            blocks: VecDeque::new(),
            first: 0,
            open: Vec::new(),
            sealed_bytes: 0,
        }
    }

    /// Appends a frame.
    pub(super) fn push(&mut self, frame: Bytes) {
        self.open.push(frame);
    }

    /// Makes one block of the frames since the last seal.
    pub(super) fn seal(&mut self) {
        let frames = self.open.len() as u32;
        let bytes = match self.open.as_slice() {
            [] => return,
            [one] => one.clone(),
            many => {
                let mut bytes = BytesMut::with_capacity(many.iter().map(Bytes::len).sum());
                many.iter().for_each(|frame| bytes.extend_from_slice(frame));
                bytes.freeze()
            }
        };
        self.open = Vec::new();
        let start = self.sealed_bytes;
        self.sealed_bytes += bytes.len() as u64;
        self.blocks.push_back(Block { bytes, frames, start });
    }

    /// The cursor of a subscriber that has everything.
    pub(super) fn end(&self) -> u64 {
        self.first + self.blocks.len() as u64
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

/// Room for blocks that an idle tail keeps.
const BLOCKS_KEPT: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AppId;
    use pushflo_protocol::ChannelSlug;

    #[test]
    fn frames_of_a_turn_are_one_block() {
        let slug = ChannelSlug::parse("c").unwrap();
        let mut tail = Tail::new(ChannelKey { app: AppId(0), slug });
        tail.push(Bytes::from_static(b"one"));
        tail.seal();
        tail.push(Bytes::from_static(b"two"));
        tail.push(Bytes::from_static(b"three"));
        tail.seal();
        tail.seal();
        assert_eq!(tail.end(), 2);
        assert_eq!(tail.block(1), Some((&Bytes::from_static(b"twothree"), 2)));
        assert_eq!((tail.bytes_behind(0), tail.bytes_behind(1), tail.bytes_behind(2)), (11, 8, 0));
        tail.trim(1);
        assert_eq!((tail.bytes(), tail.block(0), tail.end()), (8, None, 2));
        tail.trim(2);
        assert_eq!((tail.bytes(), tail.end()), (0, 2));
    }
}
