//! What shards say to each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use pushflo_protocol::command::Start;
use pushflo_protocol::event::Recovered;
use pushflo_protocol::{ChannelSlug, Refusal, StreamPosition};

use serde_json::value::RawValue;

use crate::accounts::{App, ChannelMeta};
use crate::edge::Client;
use crate::ids::ChannelKey;
use crate::ids::RequestId;
use crate::ids::{AppId, BatchKey, HomeKey, ListKey, ReadKey, ShardId, SubscriptionKey, TailKey};
use crate::log::{Logged, ReadAnswer};
use crate::pages::PageQuery;

/// Who is told what became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyTo {
    /// A request of its own.
    Request {
        /// The request.
        request: RequestId,
        /// The status of the answer if it succeeds: 200 or 201, by the route.
        status: u16,
    },
    /// A batch.
    Batch {
        /// The shard that holds the batch.
        shard: ShardId,
        /// The batch.
        batch: BatchKey,
        /// The message's position in it.
        position: u32,
    },
    /// A client that published over its WebSocket; the sequence counts its publishes.
    Client(RequestId),
}

/// A publish on its way to the home shard.
#[derive(Clone, Debug)]
pub struct PublishRequest {
    /// Who waits for the result.
    pub reply_to: ReplyTo,
    /// What is published.
    pub message: NewMessage,
}

/// The messages of a batch whose channels have the same home shard, on their way there.
#[derive(Clone, Debug)]
pub struct BatchRequest {
    /// The shard that holds the batch.
    pub shard: ShardId,
    /// The batch.
    pub batch: BatchKey,
    /// Position in the batch and message.
    pub messages: Vec<(u32, NewMessage)>,
}

/// The results of those messages, on their way back: position and verdict as JSON.
pub type BatchResults = Vec<(u32, Result<Bytes, Refusal>)>;

/// A message that has no offset yet.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// The channel.
    pub channel: ChannelKey,
    /// The event type.
    pub event_type: Box<str>,
    /// The sender, if it said so.
    pub client_id: Option<Box<str>>,
    /// The content, valid JSON.
    pub content: Box<str>,
    /// The idempotency key.
    pub key: Option<Box<str>>,
}

/// The result of a request that another shard worked on: status and JSON body, or why not.
pub type Outcome = Result<(u16, Bytes), Refusal>;

/// Metadata that the accounts have kept, `None` for a channel that is deleted; or why it could not.
pub type StoredMeta = Result<Option<Arc<ChannelMeta>>, Refusal>;

/// Position in a list and JSON of each channel; none where it is gone meanwhile.
pub type Descriptions = Vec<(u32, Option<Bytes>)>;

/// One entry of a mailbox.
#[derive(Clone, Debug)]
pub enum Envelope {
    /// To the home shard: give this message its offset and send it on.
    Publish(Box<PublishRequest>),
    /// To the home shard: give these messages their offsets and send them on.
    PublishBatch(Box<BatchRequest>),
    /// To the home shard: a page of history is wanted.
    Page(Box<(RequestId, ChannelKey, PageQuery)>),
    /// To the home shard: one more subscriber.
    Subscribe {
        /// Who it is.
        asker: Asker,
        /// The channel.
        channel: ChannelKey,
        /// What is wanted of the past.
        start: Start,
        /// Whether it wants to know who is there.
        wants_presence: bool,
    },
    /// To the home shard: one subscriber fewer on this tail.
    Unsubscribe {
        /// Where the subscriber was.
        shard: ShardId,
        /// Its tail.
        tail: TailKey,
        /// The channel at its home.
        home: HomeKey,
        /// The subscription that waits for the last word; none if its connection is gone.
        subscription: Option<SubscriptionKey>,
        /// The client, if it counted as a member.
        member: Option<Client>,
    },
    /// To the home shard: something is asked of the channel or is to be done to it.
    Channel(Box<ChannelRequest>),
    /// From the accounts: a channel's metadata are kept, or why not; `None`: the channel is deleted.
    ChannelStored(Box<(ChannelKey, StoredMeta)>),
    /// To any shard: which of the app's channels live there?
    ListChannels(Box<ListRequest>),
    /// From there: as many as asked for, in order, and how many there are.
    ChannelList(Box<(ListKey, Vec<ChannelSlug>, u64)>),
    /// To the home shard: describe these channels.
    DescribeChannels(Box<DescribeRequest>),
    /// From there: position and JSON of each; none where it is gone meanwhile.
    ChannelsDescribed(Box<(ListKey, Descriptions)>),
    /// From the accounts: an app as it is now.
    App(Box<App>),
    /// From the accounts: an app was deleted.
    AppGone(AppId),
    /// From the accounts, behind the above: whoever asked for it is answered when all shards got here.
    Made(Arc<AnswerAfterAll>),
    /// From the home shard: the channel is deleted; its subscribers are to be told.
    Closed {
        /// The tail.
        tail: TailKey,
    },
    /// From the home shard: the channel is private now, or is not any more. Who may not be there has to
    /// go.
    Privacy {
        /// The tail.
        tail: TailKey,
        /// Whether it is private.
        is_private: bool,
        /// Who is answered when all shards have done so.
        answer: Arc<AnswerAfterAll>,
    },
    /// From the home shard: its members are known to each other from now on (`Some`, with what names
    /// this time), or no more. The subscribers here that have to be known are to be told.
    Roster {
        /// The tail.
        tail: TailKey,
        /// The channel at its home.
        home: HomeKey,
        /// Which time presence was switched on.
        presence: Option<u32>,
    },
    /// To the home shard: subscribers that were there when presence was switched on.
    Members(Box<(HomeKey, u32, Vec<Client>)>),
    /// To the home shard: a subscriber wants to know who is there after all.
    WantPresence {
        /// The subscriber.
        asker: Asker,
        /// The channel at its home.
        home: HomeKey,
    },
    /// From the home shard: who is there, for one subscriber.
    PresenceSnapshot {
        /// The subscription.
        subscription: SubscriptionKey,
        /// The event.
        frame: Bytes,
    },
    /// From the home shard: what to tell those who want to know who is there.
    Presence {
        /// The tail.
        tail: TailKey,
        /// The event.
        frame: Bytes,
    },
    /// From the home shard: an answer to a publish or a page.
    Answer(Box<(RequestId, Outcome)>),
    /// From the home shard: the results of messages of a batch.
    BatchAnswer(Box<(BatchKey, BatchResults)>),
    /// From the home shard: the subscription starts here. What follows on the tail is new to it.
    Subscribed {
        /// The subscription.
        asker: Asker,
        /// The channel at its home, or why the subscription is refused.
        outcome: Result<Box<Subscribed>, Refusal>,
    },
    /// From the home shard: no message after this one for the subscription.
    Unsubscribed {
        /// The subscription.
        subscription: SubscriptionKey,
    },
    /// From the log: what became of the oldest append.
    Logged(Logged),
    /// From the log: what was read.
    Read(Box<(ReadKey, ReadAnswer)>),
    /// From the home shard: the next message for a tail.
    Message {
        /// The tail.
        tail: TailKey,
        /// The message's frame.
        frame: Bytes,
        /// The channel's head now.
        head: StreamPosition,
    },
}

/// A subscription that waits for its home shard.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Where the subscriber is.
    pub shard: ShardId,
    /// The tail that its messages go to.
    pub tail: TailKey,
    /// The subscription.
    pub subscription: SubscriptionKey,
    /// Who it is.
    pub client: Client,
    /// Whether it may enter a private channel.
    pub may_enter: bool,
}

/// Something that is asked of a channel over HTTP.
#[derive(Clone, Debug)]
pub struct ChannelRequest {
    /// Who waits for the answer.
    pub request: RequestId,
    /// The channel.
    pub channel: ChannelKey,
    /// What is asked.
    pub call: ChannelCall,
}

/// What may be asked of a channel.
#[derive(Clone, Debug)]
pub enum ChannelCall {
    /// Describe it.
    Describe,
    /// Add metadata to it, which it must not have yet.
    Create(Box<ChannelChange>),
    /// Change its metadata.
    Change(Box<ChannelChange>),
    /// Delete it with its history.
    Delete,
    /// Who is there.
    Presence {
        /// Which page, from 1.
        page: u64,
        /// Members on a page.
        page_size: u64,
    },
}

/// What is changed of a channel's metadata; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct ChannelChange {
    /// What people call it.
    pub name: Option<Box<str>>,
    /// What it is for; `Some(None)` removes it.
    pub description: Option<Option<Box<str>>>,
    /// Whether it is private.
    pub is_private: Option<bool>,
    /// Whether its members are known to each other.
    pub presence: Option<bool>,
    /// A JSON object; `Some(None)` removes it.
    pub metadata: Option<Option<Box<RawValue>>>,
}

/// A request for an app's channels.
#[derive(Clone, Copy, Debug)]
pub struct ListRequest {
    /// The shard that puts the list together.
    pub shard: ShardId,
    /// The list.
    pub list: ListKey,
    /// The app.
    pub app: AppId,
    /// How many of the first channels are needed.
    pub most: usize,
}

/// A request for descriptions.
#[derive(Clone, Debug)]
pub struct DescribeRequest {
    /// The shard that puts the list together.
    pub shard: ShardId,
    /// The list.
    pub list: ListKey,
    /// The app.
    pub app: AppId,
    /// Position in the list, and channel.
    pub channels: Vec<(u32, ChannelSlug)>,
}

/// An answer that goes out when every shard that was told of a change has made it: nobody who was
/// answered finds a shard that does not know yet.
#[derive(Debug)]
pub struct AnswerAfterAll {
    /// Shards that have not made the change yet.
    left: AtomicUsize,
    request: RequestId,
    outcome: Outcome,
}

impl AnswerAfterAll {
    /// The answer to `request` after `shards` shards, at least one, have called
    /// [`AnswerAfterAll::made`].
    pub fn new(shards: usize, request: RequestId, outcome: Outcome) -> Arc<Self> {
        debug_assert!(shards > 0, "nobody would answer");
        Arc::new(Self { left: AtomicUsize::new(shards), request, outcome })
    }

    /// A shard has made the change. The last one gets the answer, to send it.
    pub fn made(&self) -> Option<(RequestId, Outcome)> {
        // What the others did before comes before the answer.
        let left = self.left.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(left > 0, "a shard answered twice");
        (left == 1).then(|| (self.request, self.outcome.clone()))
    }
}

/// How a subscription starts.
#[derive(Clone, Debug)]
pub struct Subscribed {
    /// The channel at its home.
    pub home: HomeKey,
    /// The channel's head at this moment.
    pub head: StreamPosition,
    /// The answer to a request for the past.
    pub past: Option<Recovered>,
    /// The frames of the missed messages; each of these may hold several.
    pub missed: Vec<Bytes>,
    /// Whether the subscriber counts as a member.
    pub is_member: bool,
    /// Whether the channel is private.
    pub is_private: bool,
    /// Who is there, if that was asked for.
    pub presence: Option<Bytes>,
}

impl Envelope {
    /// Bytes it keeps in memory besides itself.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::Publish(publish) => publish.message.content.len(),
            Self::PublishBatch(batch) => batch.messages.iter().map(|(_, m)| m.content.len()).sum(),
            Self::Message { frame, .. } | Self::Presence { frame, .. } => frame.len(),
            _ => 0,
        }
    }
}
