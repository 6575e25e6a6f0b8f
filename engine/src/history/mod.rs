//! History: what channels said, for those who were not there.
//!
//! * [`recent`]: recent messages in memory, at the channel's home shard
//! * [`log`]: all that is kept, on disk, behind threads of its own
//!
//! The seam to the log is [`log::LogCall`]: a shard asks, and is answered through its mailbox. It
//! never waits and never sees a file.

pub mod log;
pub mod recent;

use bytes::Bytes;
use pushflo_protocol::Message;

use crate::shard::ChannelKey;

pub use recent::Recent;

/// What is kept of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Oldest age in milliseconds; 0 keeps nothing.
    pub age_ms_max: u64,
    /// Most messages of one channel.
    pub messages_max: usize,
    /// Most bytes of one channel.
    pub channel_bytes_max: usize,
}

impl Retention {
    /// Keeps nothing.
    pub const NOTHING: Self = Self { age_ms_max: 0, messages_max: 0, channel_bytes_max: 0 };

    /// Keeps everything.
    pub const EVERYTHING: Self =
        Self { age_ms_max: u64::MAX, messages_max: usize::MAX, channel_bytes_max: usize::MAX };

    /// The time of the oldest message that is kept, in Unix milliseconds.
    pub fn since_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.age_ms_max)
    }
}

/// What an answered publish has survived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: history is in memory, and gone with the process.
    Memory,
    /// The end of the process: the operating system has it.
    #[default]
    Os,
    /// A power loss: the disk has it.
    Disk,
}

/// A request for a page, newest first.
#[derive(Clone, Debug)]
pub struct PageQuery {
    /// Which page, from 1.
    pub page: u64,
    /// Messages on a page, 1 to 100.
    pub page_size: u64,
    /// Only this event type.
    pub event_type: Option<String>,
    /// Only messages later than this, in Unix milliseconds.
    pub after_ms: Option<u64>,
    /// Only messages earlier than this, in Unix milliseconds.
    pub before_ms: Option<u64>,
}

/// A page as the body of its answer.
pub(crate) fn page_body<M: std::borrow::Borrow<Message>>(
    channel: &ChannelKey,
    query: &PageQuery,
    items: &[M],
    total: u64,
) -> Bytes {
    let mut body = br#"{"success":true,"data":{"items":["#.to_vec();
    for (index, message) in items.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        message.borrow().push_history_item(&channel.slug, &mut body);
    }
    let end = page_end(query.page, query.page_size, total);
    body.extend_from_slice(format!("],{end}}}}}").as_bytes());
    body.into()
}

/// The field `pagination` of an answer that is a page.
pub(crate) fn page_end(page: u64, page_size: u64, total: u64) -> String {
    let pages = total.div_ceil(page_size);
    format!(
        r#""pagination":{{"page":{page},"pageSize":{page_size},"total":{total},"totalPages":{pages}}}"#
    )
}
