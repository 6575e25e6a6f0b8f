//! What must hold: a channel has one order, an offset is given once, nobody gets a message twice or
//! misses one without being told, what was refused is never seen.

use std::collections::{BTreeMap, BTreeSet};

/// All that the clients saw and were told.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Content by channel and offset.
    log: BTreeMap<(usize, u64), u64>,
    /// Where each content was accepted.
    accepted: BTreeMap<u64, (usize, u64)>,
    /// Contents that were refused.
    refused: BTreeSet<u64>,
    pub deliveries: u64,
    pub refusals: u64,
    pub recoveries: u64,
    pub gaps: u64,
    pub too_slow: u64,
}

impl Oracle {
    /// A publisher was told that its message has this offset.
    pub fn accepted(&mut self, channel: usize, offset: u64, content: u64) {
        self.know(channel, offset, content);
        assert!(self.accepted.insert(content, (channel, offset)).is_none(), "answered twice");
    }

    /// A publisher was refused.
    pub fn refused(&mut self, content: u64) {
        self.refusals += 1;
        self.refused.insert(content);
    }

    /// A subscriber got a message.
    pub fn delivered(&mut self, channel: usize, offset: u64, content: u64) {
        self.deliveries += 1;
        self.know(channel, offset, content);
    }

    fn know(&mut self, channel: usize, offset: u64, content: u64) {
        let known = *self.log.entry((channel, offset)).or_insert(content);
        assert_eq!(known, content, "channel {channel} offset {offset} has two messages");
    }

    /// After the end: `heads` are the channels' newest offsets.
    pub fn check(&self, heads: &[u64]) {
        let mut places = BTreeSet::new();
        for (content, &(channel, offset)) in &self.accepted {
            assert!(places.insert((channel, offset)), "offset {offset} was given twice");
            assert!(offset <= heads[channel], "content {content} is beyond the head");
        }
        let mut contents = BTreeSet::new();
        for (&(channel, offset), content) in &self.log {
            assert!(!self.refused.contains(content), "refused {content} was sent at {offset}");
            assert!(contents.insert(content), "{content} has two offsets in channel {channel}");
            assert!(offset >= 1 && offset <= heads[channel]);
        }
    }
}
