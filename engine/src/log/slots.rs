//! What a shard asks of the streams of a cluster's slots, and what it is told of them.

use bytes::Bytes;
use pushflo_protocol::{ChannelSlug, Epoch, MessageId, Offset, Record, Refusal};
use serde::{Deserialize, Serialize};

use super::{LogFailure, StoredAnswer};
use crate::ids::{AppId, ChannelKey, LogId, ShardId, SlotId};

/// A question what a stream has of a channel.
#[derive(Clone, Debug)]
pub struct Open {
    /// Who asks.
    pub shard: ShardId,
    /// The slot of the channel.
    pub slot: SlotId,
    /// By its whole name.
    pub channel: ChannelKey,
    /// By what it is asked for from now on.
    pub log: LogId,
    /// From when on idempotency keys are in force, in Unix milliseconds.
    pub keyed_since_ms: u64,
}

/// A message for the stream of a slot.
#[derive(Clone, Debug)]
pub struct Store {
    /// Whose stream it is for.
    pub slot: SlotId,
    /// The time for which the shard has it: one of an earlier time is not stored.
    pub time: u64,
    /// By what the channel was opened.
    pub log: LogId,
    /// The message; its place is not known yet.
    pub record: Record,
    /// What its channel's life is.
    pub life: Life,
    /// The idempotency key, and a digest of what was published with it.
    pub key: Option<(Box<str>, u64)>,
    /// When a message of the channel was published with a key last; 0 for never.
    pub keyed_ms: u64,
}

/// The deletion of a channel in a stream.
#[derive(Clone, Copy, Debug)]
pub struct Delete {
    /// Whose stream it is for.
    pub slot: SlotId,
    /// As of [`Store`].
    pub time: u64,
    /// By what the channel was opened.
    pub log: LogId,
    /// Names the deletion.
    pub id: MessageId,
}

/// Metadata for a channel in a slot.
#[derive(Clone, Debug)]
pub struct StoreMeta {
    /// Who asks.
    pub shard: ShardId,
    /// By its whole name.
    pub channel: ChannelKey,
    /// What it is to have.
    pub meta: Bytes,
    /// The revision of those that it has; 0 for none.
    pub revision: u64,
}

/// What became of metadata.
#[derive(Clone, Debug)]
pub struct MetaStored {
    /// By its whole name.
    pub channel: ChannelKey,
    /// What it has now; or why it has what it had, or that this is not known.
    pub outcome: Result<StoredMeta, Refusal>,
}

/// Metadata that a channel has by now.
#[derive(Clone, Debug)]
pub struct MetaNews {
    /// By its whole name.
    pub channel: ChannelKey,
    /// What it has.
    pub now: StoredMeta,
}

/// The metadata of a channel in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMeta {
    /// What they are; none where there are none.
    pub meta: Option<Bytes>,
    /// Names this change of them; 0 where there are none.
    pub revision: u64,
}

/// A question which channels of an app there are in slots.
#[derive(Clone, Debug)]
pub struct Names {
    /// Who asks.
    pub shard: ShardId,
    /// By which the answer is known.
    pub id: u64,
    /// Those that the shard owns.
    pub slots: Vec<SlotId>,
    /// Whose channels they are.
    pub app: AppId,
    /// Only those behind this name.
    pub after: Option<ChannelSlug>,
    /// So many at most, the first ones.
    pub count_max: usize,
}

/// Channels of an app.
#[derive(Clone, Debug)]
pub struct NamesDone {
    /// As of [`Names`].
    pub id: u64,
    /// The names that were asked for, in order, and how many channels there are in all.
    pub outcome: Result<(Vec<ChannelSlug>, u64), LogFailure>,
}

/// A channel in a stream between two deletions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// The sequence of the deletion before it; 0 for none.
    pub after: u64,
    /// When it was made, in Unix milliseconds.
    pub created_ms: u64,
}

/// What a stream has of a channel.
#[derive(Clone, Debug)]
pub struct Opened {
    /// By its whole name.
    pub channel: ChannelKey,
    /// By what it was asked for.
    pub log: LogId,
    /// What there is; a channel that is not there is as if it were made now.
    pub outcome: Result<OpenedChannel, LogFailure>,
}

/// A channel in a stream.
#[derive(Clone, Debug)]
pub struct OpenedChannel {
    /// Which life of it this is.
    pub epoch: Epoch,
    /// Its last offset; 0 where nothing of it is there.
    pub head: Offset,
    /// What its life is.
    pub life: Life,
    /// How many messages it had.
    pub number: u64,
    /// The time of its last message, and of the last that was published with a key.
    pub last_ms: u64,
    /// The same for the last that was published with a key.
    pub keyed_ms: u64,
    /// Answers for publishers who ask again.
    pub answers: Vec<StoredAnswer>,
    /// What the API added to it.
    pub meta: StoredMeta,
}

/// What is told of a slot.
#[derive(Clone, Debug)]
pub struct SlotNews {
    /// Which one.
    pub slot: SlotId,
    /// What.
    pub event: SlotEvent,
}

/// What has happened to a slot.
#[derive(Clone, Debug)]
pub enum SlotEvent {
    /// It is the shard's from now on, for the time that this names.
    Begun(u64),
    /// A message has its place: with this sequence.
    Stored(MessageId, u64),
    /// A message is not stored, and never will be.
    Refused(MessageId),
    /// It will not be known whether a message is stored.
    Unknown(MessageId),
    /// It is the shard's no more for the time that this names. All that was under way was told of before.
    Ended(u64),
}
