//! What must hold: a channel has one order, an offset is given once, nobody gets a message twice or
//! misses one without being told, what was refused is never seen.

use std::collections::{BTreeMap, BTreeSet};

/// How long an idempotency key is kept.
const KEY_KEPT_MS: u64 = 5 * 60_000;

/// All that the clients saw and were told.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Content and time by channel and offset.
    log: BTreeMap<(usize, u64), (u64, u64)>,
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
    pub fn accepted(&mut self, channel: usize, offset: u64, content: u64, timestamp_ms: u64) {
        self.know(channel, offset, content, timestamp_ms);
        assert!(self.accepted.insert(content, (channel, offset)).is_none(), "answered twice");
    }

    /// A publisher was refused.
    pub fn refused(&mut self, content: u64) {
        self.refusals += 1;
        self.refused.insert(content);
    }

    /// A subscriber got a message.
    pub fn delivered(&mut self, channel: usize, offset: u64, content: u64, timestamp_ms: u64) {
        self.deliveries += 1;
        self.know(channel, offset, content, timestamp_ms);
    }

    fn know(&mut self, channel: usize, offset: u64, content: u64, timestamp_ms: u64) {
        let what = (content, timestamp_ms);
        let known = *self.log.entry((channel, offset)).or_insert(what);
        assert_eq!(known, what, "channel {channel} offset {offset} has two messages");
    }

    /// After the end: `heads` are the channels' newest offsets.
    pub fn check(&self, heads: &[u64]) {
        let mut places = BTreeSet::new();
        for (content, &(channel, offset)) in &self.accepted {
            assert!(places.insert((channel, offset)), "offset {offset} was given twice");
            assert!(offset <= heads[channel], "content {content} is beyond the head");
        }
        let mut times = BTreeMap::new();
        for (&(channel, offset), (content, timestamp_ms)) in &self.log {
            assert!(!self.refused.contains(content), "refused {content} was sent at {offset}");
            // A publisher may ask again when its key is forgotten already.
            let earlier = times.insert(content, *timestamp_ms);
            let apart = earlier.map_or(u64::MAX, |earlier: u64| timestamp_ms.abs_diff(earlier));
            assert!(apart >= KEY_KEPT_MS, "{content} has two offsets in channel {channel}");
            assert!(offset >= 1 && offset <= heads[channel]);
        }
    }
}
