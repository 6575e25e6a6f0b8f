//! What Edge and Home say to each other, within a shard and between shards.
//!
//! Two closed enums. Whatever one half of a shard wants of the other, its own or another shard's, is one
//! of these, and they arrive in the order in which they were sent: a message that a channel's home sends
//! behind its answer to a subscriber is new to that subscriber.
//!
//! What a piece of mail keeps in memory is counted for every kind, so that what waits between two
//! shards is bounded by what it costs.

mod answer;
mod outbox;
pub(crate) mod wire;

use std::sync::Arc;

use pushflo_protocol::answer::ClusterStatus;
use pushflo_protocol::position::{Recovered, Start};
use pushflo_protocol::{
    ChannelSlug, Epoch, ErrorCode, Offset, Parts, Receipt, Record, Refusal, StreamPosition,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub(crate) use answer::{Asker, Question, failure};
pub(crate) use outbox::Outboxes;

use crate::accounts::{Changed, ChannelMeta, Client};
use crate::after_all::AfterAll;
use crate::ids::{
    AppId, BatchKey, ChannelKey, ConnectionKey, HomeKey, ListKey, NodeSlot, RequestId, ShardId,
    SlotId, SlotSet, SubscriptionKey, TailKey,
};
use crate::log::{Page, PageQuery};

/// A piece of mail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Mail {
    /// To the home of a channel.
    Home(ToHome),
    /// To those who hold connections.
    Edge(ToEdge),
}

/// What a home is asked and told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToHome {
    /// Give this message its offset and send it on.
    Publish(Publish),
    /// Give these messages their offsets and send them on.
    PublishBatch(Box<PublishBatch>),
    /// A page of history is wanted.
    ReadPage(Box<ReadPage>),
    /// One more subscriber.
    Subscribe(Box<Subscribe>),
    /// The subscribers of a tail, whose channel was another's home before.
    Attach(Box<Attach>),
    /// A subscriber wants the messages behind those that it has.
    ReadWindow(ReadWindow),
    /// One subscriber fewer.
    Unsubscribe(Box<Unsubscribe>),
    /// Something is asked of a channel or is to be done to it.
    Channel(Box<ChannelRequest>),
    /// Which of the app's channels live there?
    ListChannels(Box<ListChannels>),
    /// Describe these channels.
    DescribeChannels(Box<DescribeChannels>),
    /// Subscribers that were there when presence was switched on.
    Members(Box<Members>),
    /// A subscriber wants to know who is there after all.
    WantPresence(WantPresence),
}

/// What an edge is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToEdge {
    /// The answer to a request.
    Answered(Box<Answered>),
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
    /// The subscribers of a tail are known to the home.
    Attached(Box<Attached>),
    /// Messages for a subscriber that is behind its tail.
    Window(Box<Window>),
    /// No message after this one for the subscription.
    Unsubscribed(SubscriptionKey),
    /// The channel is deleted; its subscribers are to be told.
    Closed(TailKey),
    /// The home of the channel is none any more: another one, or the same one anew, is to be asked.
    Moved(TailKey),
    /// The channel is private now, or is not any more. Who may not be there has to go.
    Privacy(Box<Privacy>),
    /// The members of a channel are known to each other from now on, or no more.
    Roster(Roster),
    /// Who is there, for one subscriber.
    PresenceSnapshot(PresenceSnapshot),
    /// What to tell those who want to know who is there.
    Presence(Presence),
}

/// What has changed in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterNews {
    /// A slot has another owner, or none.
    SlotMoved(SlotId),
    /// A node cannot be reached any more, or is another one that has its name: what it was asked will not
    /// be answered, and its subscribers are gone.
    NodeGone(NodeSlot),
    /// Those who wait for more of what an app's plan limits are to try again.
    Lent(AppId),
    /// This node cannot reach the others: its subscribers are to go to one that can, within so many
    /// milliseconds.
    CutOff(u64),
}

/// Who is told what became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyTo {
    /// A request of its own, or a client that published over its WebSocket; the sequence of that counts
    /// its publishes.
    Request(RequestId),
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

/// A publish on its way to the home of its channel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Publish {
    /// Who waits for the result.
    pub reply_to: ReplyTo,
    /// What is published.
    pub message: NewMessage,
}

/// The messages of a batch whose channels have the same home shard, on their way there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublishBatch {
    /// The shard that holds the batch.
    pub shard: ShardId,
    /// What the publisher's shard knows it by.
    pub batch: BatchKey,
    /// Those whose channels are at home there, in the order of the batch.
    pub messages: Vec<BatchMessage>,
}

/// A message of a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchMessage {
    /// Its position in the batch.
    pub position: u32,
    /// What is published.
    pub message: NewMessage,
}

/// A message that has no offset yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewMessage {
    /// Where it is published.
    pub channel: ChannelKey,
    /// What its publisher gave.
    pub parts: Parts,
    /// The idempotency key.
    pub key: Option<Box<str>>,
}

/// A request for a page of history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadPage {
    /// Who waits for it.
    pub request: RequestId,
    /// Whose history is read.
    pub channel: ChannelKey,
    /// Which page.
    pub query: PageQuery,
}

/// A request to become a subscriber.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subscribe {
    /// Who it is.
    pub subscriber: Subscriber,
    /// What it wants to listen to.
    pub channel: ChannelKey,
    /// What is wanted of the past.
    pub start: Start,
    /// Whether it wants to know who is there.
    pub wants_presence: bool,
    /// How many bytes of what it missed may come with the answer; 0 for none.
    pub window_bytes: usize,
}

/// One who subscribes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subscriber {
    /// Where it is.
    pub shard: ShardId,
    /// The tail that its messages go to.
    pub tail: TailKey,
    /// What its shard knows it by.
    pub subscription: SubscriptionKey,
    /// Who it is.
    pub client: Client,
    /// Whether it may enter a private channel.
    pub may_enter: bool,
}

/// The subscribers of a tail, for a home that does not know them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attach {
    /// Where they are.
    pub shard: ShardId,
    /// The tail that their messages go to.
    pub tail: TailKey,
    /// What they listen to.
    pub channel: ChannelKey,
    /// How many they are.
    pub subscribers: u32,
    /// Who they are.
    pub clients: Vec<Client>,
}

/// What became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attached {
    /// Whose subscribers they are.
    pub tail: TailKey,
    /// The channel at its home; none where it is not there.
    pub outcome: Option<Attachment>,
}

/// A tail at its home.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Attachment {
    /// The channel.
    pub home: HomeKey,
    /// Its head. What follows is sent to the tail.
    pub head: StreamPosition,
    /// Whether it is private.
    pub is_private: bool,
    /// Which time presence was switched on, if it is.
    pub roster: Option<u32>,
}

/// A subscriber that is behind its tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WindowReader {
    /// Where it is.
    pub shard: ShardId,
    /// Who it is there.
    pub of: WindowOf,
}

/// For whom a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WindowOf {
    /// A subscription that is behind its tail, and the connection whose windows are counted.
    Subscription(ConnectionKey, SubscriptionKey),
    /// All subscribers of a tail that was detached from its home.
    Tail(TailKey),
}

/// A request for the messages behind those that a subscriber has.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ReadWindow {
    /// Who wants them.
    pub reader: WindowReader,
    /// The channel at its home.
    pub home: HomeKey,
    /// The last offset that it has.
    pub after: Offset,
    /// With the message that goes past so many bytes, the window ends.
    pub bytes_max: usize,
}

/// Messages for a subscriber that is behind its tail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Window {
    /// Who wanted them.
    pub reader: WindowReader,
    /// Behind which offset they are.
    pub after: Offset,
    /// The messages.
    pub records: Result<Arc<[Record]>, NoWindow>,
}

/// Why there is no window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoWindow {
    /// The first of its messages is not kept any more, or the channel is gone.
    Gone,
    /// It cannot be read for the moment.
    NotNow,
}

/// A subscriber has gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unsubscribe {
    /// Where it was.
    pub shard: ShardId,
    /// Where its messages went to.
    pub tail: TailKey,
    /// The channel at its home.
    pub home: HomeKey,
    /// The subscription that waits for the last word; none if its connection is gone.
    pub subscription: Option<SubscriptionKey>,
    /// What it was to other members, if it counted as one.
    pub member: Option<Membership>,
}

/// A subscriber that counts as a member of a channel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Membership {
    /// Who it is.
    pub client: Client,
    /// Which time presence was switched on: if it was switched off and on again since, it counts no
    /// more, or once more.
    pub roster: u32,
}

/// Something that is asked of a channel over HTTP.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChannelRequest {
    /// Who waits for the answer.
    pub request: RequestId,
    /// Of which it is asked.
    pub channel: ChannelKey,
    /// What is asked.
    pub call: ChannelCall,
}

/// What may be asked of a channel.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
    pub metadata: Option<GivenJson>,
}

/// JSON that a caller gave, or nothing in the place of what there is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GivenJson(#[serde(with = "crate::raw_json")] pub Option<Box<RawValue>>);

/// A request for an app's channels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListChannels {
    /// The shard that puts the list together.
    pub shard: ShardId,
    /// What that shard knows it by.
    pub list: ListKey,
    /// Whose channels are listed.
    pub app: AppId,
    /// Only those behind this name.
    pub after: Option<ChannelSlug>,
    /// How many of the first channels are needed.
    pub count_max: usize,
}

/// A request for descriptions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DescribeChannels {
    /// The shard that puts the list together.
    pub shard: ShardId,
    /// What that shard knows it by.
    pub list: ListKey,
    /// Whose channels they are.
    pub app: AppId,
    /// Those of the page whose home is there.
    pub channels: Vec<ListedChannel>,
}

/// A channel that stands on a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListedChannel {
    /// Its position in the list.
    pub position: u32,
    /// Its name.
    pub slug: ChannelSlug,
}

/// The subscribers of a shard that are members of a channel whose presence was switched on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Members {
    /// The channel at its home.
    pub home: HomeKey,
    /// Which time presence was switched on.
    pub roster: u32,
    /// Of which shard.
    pub shard: ShardId,
    /// Who they are.
    pub clients: Vec<Client>,
}

/// A subscriber that wants to know who is there.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct WantPresence {
    /// Where it is.
    pub shard: ShardId,
    /// What its shard knows it by.
    pub subscription: SubscriptionKey,
    /// The channel at its home.
    pub home: HomeKey,
}

/// The answer to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answered {
    /// What is answered.
    pub request: RequestId,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a request.
pub type Outcome = Result<Answer, Refusal>;

/// What a request was answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The message was published, now or when it was asked for before.
    Published(Receipt),
    /// A page of history.
    Page(Page),
    /// A channel as it is.
    Channel(Box<ChannelInfo>),
    /// A channel that was created.
    ChannelCreated(Box<ChannelInfo>),
    /// Who is subscribed to a channel.
    Members(MembersPage),
    /// What was to be deleted is.
    Deleted,
    /// How the cluster is.
    Cluster(Box<ClusterStatus>),
    /// What the accounts did. They answer shards of their own node.
    #[serde(skip)]
    Accounts(Changed),
}

/// A channel as its home knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChannelInfo {
    /// Its name.
    pub slug: ChannelSlug,
    /// The incarnation of its log.
    pub epoch: Epoch,
    /// What the API added to it.
    pub meta: Option<Arc<ChannelMeta>>,
    /// All messages it ever had.
    pub messages: u64,
    /// When it was first used, in Unix milliseconds.
    pub created_ms: u64,
    /// The time of its newest message; 0 if it had none.
    pub last_ms: u64,
    /// How many subscribers it has, over all shards.
    pub subscribers: u64,
}

/// Members of a channel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MembersPage {
    /// How many subscribers the channel has, members or not.
    pub subscribers: u64,
    /// How many members it has.
    pub count: u64,
    /// Those of the page.
    pub members: Vec<Member>,
}

/// A member of a channel, as others see it. One who merely says that it is ann is not the ann that a
/// backend vouched for, and takes nothing from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Whom it says it is.
    pub client_id: Arc<str>,
    /// Whether somebody vouched for the client id.
    pub is_verified: bool,
    /// What its token carries, as JSON.
    pub data: Option<Arc<str>>,
}

/// All members of a channel that are announced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberList {
    /// Who they are, by client id.
    pub members: Vec<Member>,
    /// How many they are.
    pub count: u64,
}

/// Who came and who went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberChange {
    /// Who came, or came back as somebody else.
    pub joined: Vec<Member>,
    /// Who went.
    pub left: Vec<Member>,
    /// How many members there are now.
    pub count: u64,
}

/// What became of messages of a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchResults {
    /// What the publisher's shard knows it by.
    pub batch: BatchKey,
    /// As many as are known by now, in any order.
    pub results: Vec<BatchResult>,
}

/// What became of one message of a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchResult {
    /// Its position in the batch.
    pub position: u32,
    /// What its publisher is told, or why it was refused.
    pub result: Result<Receipt, Refusal>,
}

/// The first channels of an app on one shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChannelList {
    /// What the shard that asked knows it by.
    pub list: ListKey,
    /// What they are, or why that cannot be told.
    pub outcome: Result<NamedChannels, Refusal>,
}

/// Names of channels of an app on one shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NamedChannels {
    /// As many as were asked for, in order.
    pub slugs: Vec<ChannelSlug>,
    /// How many there are.
    pub total: u64,
    /// The slots that these are of, in a cluster.
    pub slots: SlotSet,
}

/// Channels that were described.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChannelsDescribed {
    /// What the shard that asked knows it by.
    pub list: ListKey,
    /// In the order in which they were asked for.
    pub channels: Vec<DescribedChannel>,
}

/// A channel that was described.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DescribedChannel {
    /// Its position in the list.
    pub position: u32,
    /// The channel; none where it is gone meanwhile. Or why nothing can be told of it.
    pub outcome: Result<Option<Box<ChannelInfo>>, Refusal>,
}

/// A message of a channel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    /// The channel's on the shard that it is sent to.
    pub tail: TailKey,
    /// The incarnation of the channel's log.
    pub epoch: Epoch,
    /// The message. It is the channel's head now.
    pub record: Record,
}

/// What became of a request to subscribe.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subscribed {
    /// Who asked.
    pub subscriber: Subscriber,
    /// How it starts, or why it is refused.
    pub outcome: Result<SubscriptionStart, Refusal>,
}

/// How a subscription starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubscriptionStart {
    /// The channel at its home.
    pub home: HomeKey,
    /// The channel's head at this moment.
    pub head: StreamPosition,
    /// The answer to a request for the past.
    pub past: Option<Recovered>,
    /// The offset after which its messages begin: the head's, or one before for who wants the past.
    pub after: Offset,
    /// The first of the messages behind that, where they are at hand.
    pub window: Vec<Record>,
    /// Which time presence was switched on, if the subscriber counts as a member.
    pub roster: Option<u32>,
    /// Whether the channel is private.
    pub is_private: bool,
    /// Who is there, if that was asked for.
    pub members: Option<Arc<MemberList>>,
}

/// Whether a channel is private.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Privacy {
    /// The channel's on the shard that is told.
    pub tail: TailKey,
    /// Whether it is private.
    pub is_private: bool,
    /// Who is answered when all shards of the home's node have done so.
    #[serde(skip)]
    pub answer: Option<Arc<AfterAll<Answered>>>,
}

/// Whether the members of a channel are known to each other. The subscribers that have to be known are
/// to be told.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Roster {
    /// The channel's on the shard that is told.
    pub tail: TailKey,
    /// The channel at its home.
    pub home: HomeKey,
    /// Which time presence was switched on; none if it was switched off.
    pub roster: Option<u32>,
}

/// Who is there, for one subscriber.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PresenceSnapshot {
    /// Whose client is told.
    pub subscription: SubscriptionKey,
    /// Who they are.
    pub members: Arc<MemberList>,
}

/// What is told those who want to know who is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Presence {
    /// The channel's on the shard that is told.
    pub tail: TailKey,
    /// What it is.
    pub news: PresenceNews,
}

/// News of the members of a channel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PresenceNews {
    /// Who joined and who left.
    Changed(Arc<MemberChange>),
    /// Who is there, whatever was told before: the channel has another home.
    All(Arc<MemberList>),
}

/// The refusal of what finds no room on its way to another shard.
pub fn no_room() -> Refusal {
    let text = "the server is full for the moment, nothing was published; try again shortly";
    Refusal::new(ErrorCode::Overloaded, text)
}

/// The refusal of what an app's plan limits where the other nodes of the cluster cannot be asked.
pub fn not_now(limit: &str) -> Refusal {
    let text = format!(
        "whether the app may have more of {limit} cannot be asked of the cluster for the moment, nothing was done; \
         try again shortly"
    );
    Refusal::new(ErrorCode::Overloaded, text)
}

/// The refusal of what concerns a channel that nobody owns for the moment, or not whoever was asked.
pub fn no_owner() -> Refusal {
    let text = "the channel moves to another node, nothing was done; try again shortly";
    Refusal::new(ErrorCode::Overloaded, text)
}

/// The refusal of what another node was asked to do that cannot be reached any more.
pub fn unknown_outcome() -> Refusal {
    let text = "the node that was asked cannot be reached any more, so it is not known whether it was \
                done; repeat with the same Idempotency-Key";
    Refusal::new(ErrorCode::UnknownOutcome, text)
}

/// The refusal of one who may not enter a private channel.
pub fn private_channel() -> Refusal {
    let text = "the channel is private: a token that grants it is needed";
    Refusal::new(ErrorCode::Forbidden, text)
}

impl Mail {
    /// Whether somebody waits for it who has asked.
    pub(crate) fn is_answer(&self) -> bool {
        match self {
            Self::Home(_) => false,
            Self::Edge(mail) => match mail {
                ToEdge::Answered(_)
                | ToEdge::BatchResults(_)
                | ToEdge::ChannelList(_)
                | ToEdge::ChannelsDescribed(_)
                | ToEdge::Subscribed(_)
                | ToEdge::Window(_)
                | ToEdge::Attached(_)
                | ToEdge::Unsubscribed(_)
                | ToEdge::PresenceSnapshot(_) => true,
                ToEdge::Message(_)
                | ToEdge::Closed(_)
                | ToEdge::Moved(_)
                | ToEdge::Privacy(_)
                | ToEdge::Roster(_)
                | ToEdge::Presence(_) => false,
            },
        }
    }

    /// Bytes it keeps in memory besides itself. What several pieces share counts for each.
    pub fn kept_bytes(&self) -> usize {
        match self {
            Self::Home(mail) => mail.kept_bytes(),
            Self::Edge(mail) => mail.kept_bytes(),
        }
    }
}

impl ToHome {
    /// As of [`Mail::kept_bytes`].
    pub(crate) fn kept_bytes(&self) -> usize {
        match self {
            Self::Publish(publish) => publish.message.kept_bytes(),
            Self::PublishBatch(batch) => {
                size_of::<PublishBatch>()
                    + batch.messages.capacity() * size_of::<BatchMessage>()
                    + of_messages(&batch.messages)
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
            Self::Attach(attach) => {
                let of_clients = attach.clients.iter().map(Client::kept_bytes);
                size_of::<Attach>()
                    + name(&attach.channel.slug)
                    + attach.clients.capacity() * size_of::<Client>()
                    + of_clients.sum::<usize>()
            }
            Self::Unsubscribe(unsubscribe) => {
                let of_member =
                    unsubscribe.member.as_ref().map_or(0, |member| member.client.kept_bytes());
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
            Self::ListChannels(list) => {
                size_of::<ListChannels>() + list.after.as_ref().map_or(0, name)
            }
            Self::WantPresence(_) | Self::ReadWindow(_) => 0,
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
            Self::Answered(answered) => size_of::<Answered>() + of_outcome(&answered.outcome),
            Self::BatchResults(results) => {
                let of_results = results.results.iter().map(|result| match &result.result {
                    Ok(_) => 0,
                    Err(refusal) => refusal.message.len(),
                });
                size_of::<BatchResults>()
                    + results.results.capacity() * size_of::<BatchResult>()
                    + of_results.sum::<usize>()
            }
            Self::ChannelList(list) => {
                let of_names = list.outcome.as_ref().map_or(0, |named| {
                    named.slugs.capacity() * size_of::<ChannelSlug>()
                        + named.slugs.iter().map(name).sum::<usize>()
                });
                size_of::<ChannelList>() + of_names
            }
            Self::ChannelsDescribed(described) => {
                let of_channel = |channel: &DescribedChannel| {
                    let info = channel.outcome.as_ref().ok().and_then(Option::as_ref);
                    info.map_or(0, |info| info.kept_bytes())
                };
                size_of::<ChannelsDescribed>()
                    + described.channels.capacity() * size_of::<DescribedChannel>()
                    + described.channels.iter().map(of_channel).sum::<usize>()
            }
            Self::Message(message) => message.record.kept_bytes() - size_of::<Record>(),
            Self::Subscribed(subscribed) => {
                let of_outcome = match &subscribed.outcome {
                    Ok(SubscriptionStart { window, members, .. }) => {
                        of_records(window) + members.as_ref().map_or(0, |list| list.kept_bytes())
                    }
                    Err(refusal) => refusal.message.len(),
                };
                size_of::<Subscribed>() + subscribed.subscriber.client.kept_bytes() + of_outcome
            }
            Self::Window(window) => {
                size_of::<Window>()
                    + window.records.as_ref().map_or(0, |records| of_records(records))
            }
            Self::Attached(_) => size_of::<Attached>(),
            Self::Privacy(_) => size_of::<Privacy>(),
            Self::Unsubscribed(_) | Self::Closed(_) | Self::Moved(_) | Self::Roster(_) => 0,
            Self::PresenceSnapshot(snapshot) => snapshot.members.kept_bytes(),
            Self::Presence(presence) => match &presence.news {
                PresenceNews::Changed(change) => change.kept_bytes(),
                PresenceNews::All(members) => members.kept_bytes(),
            },
        }
    }
}

impl NewMessage {
    fn kept_bytes(&self) -> usize {
        self.kept_bytes_besides_parts() + self.parts.as_bytes().len()
    }

    fn kept_bytes_besides_parts(&self) -> usize {
        let Self { channel, parts: _, key } = self;
        name(&channel.slug) + key.as_ref().map_or(0, |key| key.len())
    }
}

/// What messages of one publish to many channels share counts once.
fn of_messages(messages: &[BatchMessage]) -> usize {
    let (mut bytes, mut before) = (0, None);
    for BatchMessage { message, .. } in messages {
        let parts = message.parts.as_bytes();
        bytes += message.kept_bytes_besides_parts();
        if before.replace(parts.as_ptr_range()) != Some(parts.as_ptr_range()) {
            bytes += parts.len();
        }
    }
    bytes
}

impl ChannelInfo {
    fn kept_bytes(&self) -> usize {
        size_of::<Self>() + name(&self.slug) + self.meta.as_ref().map_or(0, |m| m.kept_bytes())
    }
}

impl Member {
    fn kept_bytes(&self) -> usize {
        let Self { client_id, data, is_verified: _ } = self;
        size_of::<Self>() + client_id.len() + data.as_ref().map_or(0, |data| data.len())
    }
}

impl MemberList {
    fn kept_bytes(&self) -> usize {
        size_of::<Self>() + self.members.iter().map(Member::kept_bytes).sum::<usize>()
    }
}

impl MemberChange {
    fn kept_bytes(&self) -> usize {
        let members = self.joined.iter().chain(&self.left);
        size_of::<Self>() + members.map(Member::kept_bytes).sum::<usize>()
    }
}

impl ChannelChange {
    fn kept_bytes(&self) -> usize {
        let Self { name, description, metadata, is_private: _, presence: _ } = self;
        size_of::<Self>()
            + name.as_ref().map_or(0, |name| name.len())
            + description.iter().flatten().map(|text| text.len()).sum::<usize>()
            + metadata.iter().flat_map(|json| &json.0).map(|json| json.get().len()).sum::<usize>()
    }
}

/// What a channel's name keeps.
fn name(slug: &ChannelSlug) -> usize {
    slug.as_str().len() + 2 * size_of::<usize>()
}

fn of_records(records: &[Record]) -> usize {
    records.iter().map(Record::kept_bytes).sum()
}

fn of_outcome(outcome: &Outcome) -> usize {
    match outcome {
        Ok(Answer::Published(_) | Answer::Deleted) => 0,
        Ok(Answer::Page(page)) => of_records(&page.records),
        Ok(Answer::Channel(info) | Answer::ChannelCreated(info)) => info.kept_bytes(),
        Ok(Answer::Members(page)) => page.members.iter().map(Member::kept_bytes).sum(),
        Ok(Answer::Cluster(status)) => status.kept_bytes(),
        Ok(Answer::Accounts(changed)) => changed.kept_bytes(),
        Err(refusal) => refusal.message.len(),
    }
}
