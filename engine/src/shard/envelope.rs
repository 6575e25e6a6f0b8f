//! What shards say to each other.

use bytes::Bytes;
use pushflo_protocol::command::Start;
use pushflo_protocol::event::Recovered;
use pushflo_protocol::{ChannelSlug, Refusal, StreamPosition};

use super::id::{BatchKey, ConnectionKey, HomeKey, ReadKey, ShardId, SubscriptionKey, TailKey};
use crate::auth::AppId;
use crate::history::PageQuery;
use crate::history::log::{Logged, ReadAnswer};

/// A channel's full name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChannelKey {
    /// The tenant.
    pub app: AppId,
    /// The name within it.
    pub slug: ChannelSlug,
}

/// A request of an HTTP connection that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// The shard that holds the connection.
    pub shard: ShardId,
    /// The connection.
    pub connection: ConnectionKey,
    /// Its position among the connection's requests.
    pub sequence: u32,
}

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
}

/// The result of a request that another shard worked on: status and JSON body, or why not.
pub type Outcome = Result<(u16, Bytes), Refusal>;

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
    },
    /// From the home shard: an answer to a publish or a page.
    Answer(Box<(RequestId, Outcome)>),
    /// From the home shard: the results of messages of a batch.
    BatchAnswer(Box<(BatchKey, BatchResults)>),
    /// From the home shard: the subscription starts here. What follows on the tail is new to it.
    Subscribed {
        /// The subscription.
        subscription: SubscriptionKey,
        /// Its tail.
        tail: TailKey,
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
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Where the subscriber is.
    pub shard: ShardId,
    /// The tail that its messages go to.
    pub tail: TailKey,
    /// The subscription.
    pub subscription: SubscriptionKey,
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
}

impl Envelope {
    /// Bytes it keeps in memory besides itself.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::Publish(publish) => publish.message.content.len(),
            Self::PublishBatch(batch) => batch.messages.iter().map(|(_, m)| m.content.len()).sum(),
            Self::Message { frame, .. } => frame.len(),
            _ => 0,
        }
    }
}
