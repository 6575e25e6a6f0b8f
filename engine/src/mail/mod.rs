//! What Edge and Home say to each other, within a shard and between shards.
//!
//! Two closed enums. Whatever one half of a shard wants of the other, its own or another shard's, is one
//! of these, and they arrive in the order in which they were sent: a message that a channel's home sends
//! behind its answer to a subscriber is new to that subscriber.
//!
//! What a piece of mail keeps in memory is counted for every kind, so that what waits between two
//! shards is bounded by what it costs.

mod outbox;

use std::sync::Arc;

use bytes::Bytes;
use pushflo_protocol::command::Start;
use pushflo_protocol::event::Recovered;
use pushflo_protocol::{ChannelSlug, ErrorCode, Refusal, StreamPosition};
use serde_json::value::RawValue;

pub use outbox::Outbox;

use crate::accounts::Client;
use crate::after_all::AfterAll;
use crate::ids::{
    AppId, BatchKey, ChannelKey, HomeKey, ListKey, RequestId, ShardId, SubscriptionKey, TailKey,
};
use crate::pages::{Outcome, PageQuery};

/// A piece of mail.
#[derive(Clone, Debug)]
pub enum Mail {
    /// To the home of a channel.
    Home(ToHome),
    /// To those who hold connections.
    Edge(ToEdge),
}

/// What a home is asked and told.
#[derive(Clone, Debug)]
pub enum ToHome {
    /// Give this message its offset and send it on.
    Publish(Box<Publish>),
    /// Give these messages their offsets and send them on.
    PublishBatch(Box<PublishBatch>),
    /// A page of history is wanted.
    ReadPage(Box<ReadPage>),
    /// One more subscriber.
    Subscribe(Box<Subscribe>),
    /// One subscriber fewer.
    Unsubscribe(Box<Unsubscribe>),
    /// Something is asked of a channel or is to be done to it.
    Channel(Box<ChannelRequest>),
    /// Which of the app's channels live there?
    ListChannels(ListChannels),
    /// Describe these channels.
    DescribeChannels(Box<DescribeChannels>),
    /// Subscribers that were there when presence was switched on.
    Members(Box<Members>),
    /// A subscriber wants to know who is there after all.
    WantPresence(WantPresence),
}

/// What an edge is told.
#[derive(Clone, Debug)]
pub enum ToEdge {
    /// The answer to a request.
    Answer(Box<Answer>),
    /// Results of messages of a batch.
    BatchResults(Box<BatchResults>),
    /// As many channels as were asked for.
    ChannelList(Box<ChannelList>),
    /// Channels that were described.
    ChannelsDescribed(Box<ChannelsDescribed>),
    /// The next message for a tail.
    Message(Message),
    /// A subscription starts here, or is refused. What follows on the tail is new to it.
    Subscribed(Box<Subscribed>),
    /// No message after this one for the subscription.
    Unsubscribed(SubscriptionKey),
    /// The channel is deleted; its subscribers are to be told.
    Closed(TailKey),
    /// The channel is private now, or is not any more. Who may not be there has to go.
    Privacy(Box<Privacy>),
    /// The members of a channel are known to each other from now on, or no more.
    Roster(Roster),
    /// Who is there, for one subscriber.
    PresenceSnapshot(PresenceSnapshot),
    /// What to tell those who want to know who is there.
    Presence(Presence),
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
    /// A client that published over its WebSocket; the sequence counts its publishes.
    Client(RequestId),
}

/// A publish on its way to the home of its channel.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Who waits for the result.
    pub reply_to: ReplyTo,
    /// What is published.
    pub message: NewMessage,
}

/// The messages of a batch whose channels have the same home shard, on their way there.
#[derive(Clone, Debug)]
pub struct PublishBatch {
    /// The shard that holds the batch.
    pub shard: ShardId,
    /// The batch.
    pub batch: BatchKey,
    /// The messages.
    pub messages: Vec<BatchMessage>,
}

/// A message of a batch.
#[derive(Clone, Debug)]
pub struct BatchMessage {
    /// Its position in the batch.
    pub position: u32,
    /// What is published.
    pub message: NewMessage,
}

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

/// A request for a page of history.
#[derive(Clone, Debug)]
pub struct ReadPage {
    /// Who waits for it.
    pub request: RequestId,
    /// The channel.
    pub channel: ChannelKey,
    /// Which page.
    pub query: PageQuery,
}

/// A request to become a subscriber.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// Who it is.
    pub subscriber: Subscriber,
    /// The channel.
    pub channel: ChannelKey,
    /// What is wanted of the past.
    pub start: Start,
    /// Whether it wants to know who is there.
    pub wants_presence: bool,
}

/// One who subscribes.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// Where it is.
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

/// A subscriber has gone.
#[derive(Clone, Debug)]
pub struct Unsubscribe {
    /// Where it was.
    pub shard: ShardId,
    /// Its tail.
    pub tail: TailKey,
    /// The channel at its home.
    pub home: HomeKey,
    /// The subscription that waits for the last word; none if its connection is gone.
    pub subscription: Option<SubscriptionKey>,
    /// The client, if it counted as a member.
    pub member: Option<Client>,
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
pub struct ListChannels {
    /// The shard that puts the list together.
    pub shard: ShardId,
    /// The list.
    pub list: ListKey,
    /// The app.
    pub app: AppId,
    /// How many of the first channels are needed.
    pub count_max: usize,
}

/// A request for descriptions.
#[derive(Clone, Debug)]
pub struct DescribeChannels {
    /// The shard that puts the list together.
    pub shard: ShardId,
    /// The list.
    pub list: ListKey,
    /// The app.
    pub app: AppId,
    /// The channels.
    pub channels: Vec<ListedChannel>,
}

/// A channel that stands on a list.
#[derive(Clone, Debug)]
pub struct ListedChannel {
    /// Its position in the list.
    pub position: u32,
    /// Its name.
    pub slug: ChannelSlug,
}

/// The subscribers of a shard that are members of a channel whose presence was switched on.
#[derive(Clone, Debug)]
pub struct Members {
    /// The channel at its home.
    pub home: HomeKey,
    /// Which time presence was switched on.
    pub roster: u32,
    /// Who they are.
    pub clients: Vec<Client>,
}

/// A subscriber that wants to know who is there.
#[derive(Clone, Copy, Debug)]
pub struct WantPresence {
    /// Where it is.
    pub shard: ShardId,
    /// The subscription.
    pub subscription: SubscriptionKey,
    /// The channel at its home.
    pub home: HomeKey,
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The request.
    pub request: RequestId,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of messages of a batch.
#[derive(Clone, Debug)]
pub struct BatchResults {
    /// The batch.
    pub batch: BatchKey,
    /// The results.
    pub results: Vec<BatchResult>,
}

/// What became of one message of a batch.
#[derive(Clone, Debug)]
pub struct BatchResult {
    /// Its position in the batch.
    pub position: u32,
    /// The result as JSON, or why it was refused.
    pub result: Result<Bytes, Refusal>,
}

/// The first channels of an app on one shard.
#[derive(Clone, Debug)]
pub struct ChannelList {
    /// The list.
    pub list: ListKey,
    /// As many as were asked for, in order.
    pub slugs: Vec<ChannelSlug>,
    /// How many there are.
    pub total: u64,
}

/// Channels that were described.
#[derive(Clone, Debug)]
pub struct ChannelsDescribed {
    /// The list.
    pub list: ListKey,
    /// The channels.
    pub channels: Vec<DescribedChannel>,
}

/// A channel that was described.
#[derive(Clone, Debug)]
pub struct DescribedChannel {
    /// Its position in the list.
    pub position: u32,
    /// What describes it, as JSON; none where it is gone meanwhile.
    pub json: Option<Bytes>,
}

/// A message of a channel.
#[derive(Clone, Debug)]
pub struct Message {
    /// The tail it is for.
    pub tail: TailKey,
    /// Its frame.
    pub frame: Bytes,
    /// The channel's head now.
    pub head: StreamPosition,
}

/// What became of a request to subscribe.
#[derive(Clone, Debug)]
pub struct Subscribed {
    /// Who asked.
    pub subscriber: Subscriber,
    /// How it starts, or why it is refused.
    pub outcome: Result<Subscription, Refusal>,
}

/// How a subscription starts.
#[derive(Clone, Debug)]
pub struct Subscription {
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

/// Whether a channel is private.
#[derive(Clone, Debug)]
pub struct Privacy {
    /// The tail.
    pub tail: TailKey,
    /// Whether it is private.
    pub is_private: bool,
    /// Who is answered when all shards have done so.
    pub answer: Arc<AfterAll<Answer>>,
}

/// Whether the members of a channel are known to each other. The subscribers that have to be known are
/// to be told.
#[derive(Clone, Copy, Debug)]
pub struct Roster {
    /// The tail.
    pub tail: TailKey,
    /// The channel at its home.
    pub home: HomeKey,
    /// Which time presence was switched on; none if it was switched off.
    pub roster: Option<u32>,
}

/// Who is there, for one subscriber.
#[derive(Clone, Debug)]
pub struct PresenceSnapshot {
    /// The subscription.
    pub subscription: SubscriptionKey,
    /// The event.
    pub frame: Bytes,
}

/// Who came and who went.
#[derive(Clone, Debug)]
pub struct Presence {
    /// The tail.
    pub tail: TailKey,
    /// The event.
    pub frame: Bytes,
}

/// The refusal of what finds no room on its way to another shard.
pub fn no_room() -> Refusal {
    let text = "the server is full for the moment, nothing was published; try again shortly";
    Refusal::new(ErrorCode::Overloaded, text)
}

/// The refusal of one who may not enter a private channel.
pub fn private_channel() -> Refusal {
    let text = "the channel is private: a token that grants it is needed";
    Refusal::new(ErrorCode::Forbidden, text)
}

impl Mail {
    /// Bytes it keeps in memory besides itself. What several pieces share counts for each.
    pub fn kept_bytes(&self) -> usize {
        match self {
            Self::Home(mail) => mail.kept_bytes(),
            Self::Edge(mail) => mail.kept_bytes(),
        }
    }
}

impl ToHome {
    fn kept_bytes(&self) -> usize {
        match self {
            Self::Publish(publish) => size_of::<Publish>() + publish.message.kept_bytes(),
            Self::PublishBatch(batch) => {
                let of_messages = batch.messages.iter().map(|m| m.message.kept_bytes());
                size_of::<PublishBatch>()
                    + batch.messages.capacity() * size_of::<BatchMessage>()
                    + of_messages.sum::<usize>()
            }
            Self::ReadPage(page) => {
                let ReadPage { channel, query, .. } = &**page;
                let event_type = query.event_type.as_ref().map_or(0, String::capacity);
                size_of::<ReadPage>() + name(&channel.slug) + event_type
            }
            Self::Subscribe(subscribe) => {
                let Subscribe { channel, subscriber, .. } = &**subscribe;
                size_of::<Subscribe>() + name(&channel.slug) + subscriber.client.kept_bytes()
            }
            Self::Unsubscribe(unsubscribe) => {
                let of_member = unsubscribe.member.as_ref().map_or(0, Client::kept_bytes);
                size_of::<Unsubscribe>() + of_member
            }
            Self::Channel(request) => {
                let of_call = match &request.call {
                    ChannelCall::Create(change) | ChannelCall::Change(change) => {
                        change.kept_bytes()
                    }
                    ChannelCall::Describe | ChannelCall::Delete | ChannelCall::Presence { .. } => 0,
                };
                size_of::<ChannelRequest>() + name(&request.channel.slug) + of_call
            }
            Self::ListChannels(_) | Self::WantPresence(_) => 0,
            Self::DescribeChannels(describe) => {
                let of_names = describe.channels.iter().map(|channel| name(&channel.slug));
                size_of::<DescribeChannels>()
                    + describe.channels.capacity() * size_of::<ListedChannel>()
                    + of_names.sum::<usize>()
            }
            Self::Members(members) => {
                let of_clients = members.clients.iter().map(Client::kept_bytes);
                size_of::<Members>()
                    + members.clients.capacity() * size_of::<Client>()
                    + of_clients.sum::<usize>()
            }
        }
    }
}

impl ToEdge {
    fn kept_bytes(&self) -> usize {
        match self {
            Self::Answer(answer) => size_of::<Answer>() + of_outcome(&answer.outcome),
            Self::BatchResults(results) => {
                let of_results = results.results.iter().map(|result| match &result.result {
                    Ok(json) => json.len(),
                    Err(refusal) => refusal.message.len(),
                });
                size_of::<BatchResults>()
                    + results.results.capacity() * size_of::<BatchResult>()
                    + of_results.sum::<usize>()
            }
            Self::ChannelList(list) => {
                size_of::<ChannelList>()
                    + list.slugs.capacity() * size_of::<ChannelSlug>()
                    + list.slugs.iter().map(name).sum::<usize>()
            }
            Self::ChannelsDescribed(described) => {
                let of_json =
                    |channel: &DescribedChannel| channel.json.as_ref().map_or(0, Bytes::len);
                size_of::<ChannelsDescribed>()
                    + described.channels.capacity() * size_of::<DescribedChannel>()
                    + described.channels.iter().map(of_json).sum::<usize>()
            }
            Self::Message(message) => message.frame.len(),
            Self::Subscribed(subscribed) => {
                let of_outcome = match &subscribed.outcome {
                    Ok(Subscription { missed, presence, .. }) => {
                        missed.capacity() * size_of::<Bytes>()
                            + missed.iter().map(Bytes::len).sum::<usize>()
                            + presence.as_ref().map_or(0, Bytes::len)
                    }
                    Err(refusal) => refusal.message.len(),
                };
                size_of::<Subscribed>() + subscribed.subscriber.client.kept_bytes() + of_outcome
            }
            Self::Privacy(_) => size_of::<Privacy>(),
            Self::Unsubscribed(_) | Self::Closed(_) | Self::Roster(_) => 0,
            Self::PresenceSnapshot(snapshot) => snapshot.frame.len(),
            Self::Presence(presence) => presence.frame.len(),
        }
    }
}

impl NewMessage {
    fn kept_bytes(&self) -> usize {
        let Self { channel, event_type, client_id, content, key } = self;
        name(&channel.slug)
            + event_type.len()
            + client_id.as_ref().map_or(0, |id| id.len())
            + content.len()
            + key.as_ref().map_or(0, |key| key.len())
    }
}

impl ChannelChange {
    fn kept_bytes(&self) -> usize {
        let Self { name, description, metadata, is_private: _, presence: _ } = self;
        size_of::<Self>()
            + name.as_ref().map_or(0, |name| name.len())
            + description.iter().flatten().map(|text| text.len()).sum::<usize>()
            + metadata.iter().flatten().map(|json| json.get().len()).sum::<usize>()
    }
}

/// What a channel's name keeps.
fn name(slug: &ChannelSlug) -> usize {
    slug.as_str().len() + 2 * size_of::<usize>()
}

fn of_outcome(outcome: &Outcome) -> usize {
    match outcome {
        Ok((_, body)) => body.len(),
        Err(refusal) => refusal.message.len(),
    }
}
