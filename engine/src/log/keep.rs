//! What the limits keep of a channel: its newest messages, up to a number, a number of bytes and an
//! age.
//!
//! Messages that no limit keeps leave the disk a little later, a whole record at a time. Until then
//! they are hidden by the floor, which every reader asks, so that a page, a recovery and a replay
//! tell the same.

use super::record::{StoredRun, Totals};
use crate::retention::Retention;

/// What the limits keep.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// Nothing older than this.
    pub(super) since_ms: u64,
    pub(super) messages_max: u64,
    pub(super) bytes_max: u64,
}

impl Keep {
    pub(super) fn new(retention: &Retention, now_ms: u64) -> Self {
        Self {
            since_ms: retention.since_ms(now_ms),
            messages_max: retention.messages_max as u64,
            bytes_max: retention.channel_bytes_max as u64,
        }
    }

    /// Where what is kept begins in a channel that has had so much.
    pub(super) fn floor(&self, totals: Totals) -> Floor {
        Floor {
            since_ms: self.since_ms,
            before: Totals {
                messages: totals.messages.saturating_sub(self.messages_max),
                bytes: totals.bytes.saturating_sub(self.bytes_max),
            },
        }
    }
}

/// Where the wanted part of a channel begins. Times and totals never fall from one message to the
/// next, so all that is behind the first wanted message is wanted too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floor {
    /// Nothing older than this.
    pub(super) since_ms: u64,
    /// Nothing that has less before it.
    pub(super) before: Totals,
}

impl Floor {
    /// Whether a message with so much before it is wanted.
    pub(super) fn has(&self, before: Totals, timestamp_ms: u64) -> bool {
        timestamp_ms >= self.since_ms
            && before.messages >= self.before.messages
            && before.bytes >= self.before.bytes
    }

    /// Whether a record has nothing that is wanted, and none before it has.
    pub(super) fn is_above(&self, record: &StoredRun) -> bool {
        record.last_ms < self.since_ms
            || record.after.messages <= self.before.messages
            || record.after.bytes <= self.before.bytes
    }
}
