//! Mail between nodes, as bytes.
//!
//! Shards are named from the sender's side: its own are of node 0, those of the receiver of node 1. A third
//! node is never named.

use super::{Answered, Mail, ReplyTo, ToEdge, ToHome};
use crate::ids::{NodeSlot, ShardId};

/// What the receiver is called in mail.
const RECEIVER: NodeSlot = NodeSlot(1);

/// Mail, the shard it is of and the one it is for, as it goes to the node `to`. `None` for what no other node is told.
pub(crate) fn encode(
    to: NodeSlot,
    from: ShardId,
    shard: ShardId,
    mut mail: Mail,
) -> Option<Vec<u8>> {
    let mut is_known = shard.node() == to;
    mail.each_shard(&mut |shard| {
        let node = match shard.node() {
            NodeSlot::OWN => NodeSlot::OWN,
            node if node == to => RECEIVER,
            _ => {
                is_known = false;
                NodeSlot::OWN
            }
        };
        *shard = ShardId::of(node, shard.index() as u16);
    });
    if !is_known {
        return None;
    }
    postcard::to_allocvec(&(from.index() as u16, shard.index() as u16, mail)).ok()
}

/// Reads what the node `from` has encoded, of `shards` shards; `None` for what is none.
pub(crate) fn decode(
    from: NodeSlot,
    shards: usize,
    bytes: &[u8],
) -> Option<(ShardId, ShardId, Mail)> {
    let (sender, index, mut mail): (u16, u16, Mail) = postcard::from_bytes(bytes).ok()?;
    let mut is_known = usize::from(index) < shards && usize::from(sender) < ShardId::COUNT_MAX;
    mail.each_shard(&mut |shard| {
        let (node, index) = (shard.node(), shard.index());
        let node = match node {
            NodeSlot::OWN => from,
            RECEIVER if index < shards => NodeSlot::OWN,
            _ => {
                is_known = false;
                NodeSlot::OWN
            }
        };
        *shard = ShardId::of(node, index as u16);
    });
    is_known.then(|| (ShardId::of(from, sender), ShardId::of(NodeSlot::OWN, index), mail))
}

impl Mail {
    /// Every shard that is named in it.
    fn each_shard(&mut self, act: &mut impl FnMut(&mut ShardId)) {
        match self {
            Self::Home(mail) => mail.each_shard(act),
            Self::Edge(mail) => mail.each_shard(act),
        }
    }
}

impl ReplyTo {
    fn shard(&mut self) -> &mut ShardId {
        match self {
            Self::Request(request) => &mut request.shard,
            Self::Batch { shard, .. } => shard,
        }
    }
}

impl ToHome {
    fn each_shard(&mut self, act: &mut impl FnMut(&mut ShardId)) {
        match self {
            Self::Publish(publish) => act(publish.reply_to.shard()),
            Self::PublishBatch(batch) => act(&mut batch.shard),
            Self::ReadPage(page) => act(&mut page.request.shard),
            Self::Subscribe(subscribe) => act(&mut subscribe.subscriber.shard),
            Self::ReadWindow(read) => act(&mut read.reader.shard),
            Self::Attach(attach) => act(&mut attach.shard),
            Self::Unsubscribe(unsubscribe) => act(&mut unsubscribe.shard),
            Self::Channel(request) => act(&mut request.request.shard),
            Self::ListChannels(list) => act(&mut list.shard),
            Self::DescribeChannels(describe) => act(&mut describe.shard),
            Self::WantPresence(want) => act(&mut want.shard),
            Self::Members(members) => act(&mut members.shard),
        }
    }
}

impl ToEdge {
    fn each_shard(&mut self, act: &mut impl FnMut(&mut ShardId)) {
        match self {
            Self::Answered(answered) => {
                let Answered { request, .. } = &mut **answered;
                act(&mut request.shard);
            }
            Self::Subscribed(subscribed) => act(&mut subscribed.subscriber.shard),
            Self::Window(window) => act(&mut window.reader.shard),
            Self::BatchResults(_)
            | Self::Attached(_)
            | Self::ChannelList(_)
            | Self::ChannelsDescribed(_)
            | Self::Message(_)
            | Self::Unsubscribed(_)
            | Self::Closed(_)
            | Self::Moved(_)
            | Self::Privacy(_)
            | Self::Roster(_)
            | Self::PresenceSnapshot(_)
            | Self::Presence(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use pushflo_protocol::position::Start;
    use pushflo_protocol::{
        ChannelSlug, Epoch, ErrorCode, MessageId, Offset, Parts, Record, Refusal, StreamPosition,
    };
    use serde_json::value::RawValue;

    use super::*;
    use crate::accounts::{ChannelMeta, Client};
    use crate::ids::{AppId, ChannelKey, RequestId};
    use crate::mail::{
        Answer, ChannelCall, ChannelChange, ChannelInfo, ChannelRequest, GivenJson, Message,
        NewMessage, Publish, Subscribe, Subscribed, Subscriber, SubscriptionStart, Window,
        WindowOf, WindowReader,
    };

    const A: NodeSlot = NodeSlot(5);
    const B: NodeSlot = NodeSlot(9);

    /// From node A, which calls the other one B, to it, which calls this one A.
    fn sent(mail: Mail) -> (ShardId, Mail) {
        let bytes = encode(B, ShardId(1), ShardId::of(B, 3), mail).unwrap();
        let (from, to, mail) = decode(A, 8, &bytes).unwrap();
        assert_eq!(from, ShardId::of(A, 1));
        (to, mail)
    }

    fn record(offset: u64) -> Record {
        let parts = Parts::new("e", Some("ann"), r#"{"a":[1,2]}"#);
        Record { id: MessageId(7), offset: Offset(offset), prev: Offset(1), timestamp_ms: 9, parts }
    }

    fn request(node: NodeSlot) -> RequestId {
        RequestId { shard: ShardId::of(node, 2), connection: Default::default(), sequence: 4 }
    }

    fn channel() -> ChannelKey {
        ChannelKey { app: AppId(3), slug: ChannelSlug::parse("orders:7").unwrap() }
    }

    #[test]
    fn mail_arrives_as_it_was_sent_with_shards_as_the_receiver_knows_them() {
        let parts = record(1).parts;
        let message =
            NewMessage { channel: channel(), parts: parts.clone(), key: Some("k".into()) };
        let publish = Publish { reply_to: ReplyTo::Request(request(NodeSlot::OWN)), message };
        let (to, mail) = sent(Mail::Home(ToHome::Publish(publish)));
        assert_eq!(to, ShardId::of(NodeSlot::OWN, 3));
        let Mail::Home(ToHome::Publish(Publish { reply_to, message })) = mail else { panic!() };
        assert_eq!(reply_to, ReplyTo::Request(request(A)));
        assert_eq!((message.parts, message.key.as_deref()), (parts, Some("k")));

        let subscriber = Subscriber {
            shard: ShardId::of(B, 1),
            tail: Default::default(),
            subscription: Default::default(),
            client: Client::generated(MessageId(1 << 100)),
            may_enter: true,
        };
        let head = StreamPosition { epoch: Epoch(1), offset: Offset(9) };
        let outcome = Ok(SubscriptionStart {
            home: Default::default(),
            head,
            past: None,
            after: Offset(8),
            window: vec![record(9)],
            roster: Some(2),
            is_private: true,
            members: None,
        });
        let answer = ToEdge::Subscribed(Box::new(Subscribed { subscriber, outcome }));
        let (_, mail) = sent(Mail::Edge(answer));
        let Mail::Edge(ToEdge::Subscribed(subscribed)) = mail else { panic!() };
        assert_eq!(subscribed.subscriber.shard, ShardId::of(NodeSlot::OWN, 1));
        assert_eq!(subscribed.outcome.unwrap().window, [record(9)]);
    }

    #[test]
    fn json_refusals_and_what_is_absent_arrive_too() {
        let json = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let metadata = Some(GivenJson(Some(json(r#"{"a": 1}"#))));
        let change = ChannelChange { description: Some(None), metadata, ..Default::default() };
        let call = ChannelCall::Change(Box::new(change));
        let request = ChannelRequest { request: request(NodeSlot::OWN), channel: channel(), call };
        let (_, mail) = sent(Mail::Home(ToHome::Channel(Box::new(request))));
        let Mail::Home(ToHome::Channel(request)) = mail else { panic!() };
        let ChannelCall::Change(change) = request.call else { panic!() };
        assert_eq!(change.metadata.unwrap().0.unwrap().get(), r#"{"a": 1}"#);
        assert_eq!((change.description, change.name), (Some(None), None));

        let meta = ChannelMeta {
            name: "Orders".into(),
            description: None,
            is_private: false,
            presence: true,
            metadata: Some(json("{}")),
            created_ms: 1,
            updated_ms: 2,
        };
        let info = ChannelInfo {
            slug: channel().slug,
            epoch: Epoch(3),
            meta: Some(meta.into()),
            messages: 1,
            created_ms: 2,
            last_ms: 3,
            subscribers: 4,
        };
        let outcome = Ok(Answer::Channel(Box::new(info)));
        let answered = Answered { request: super::tests::request(B), outcome };
        let (_, mail) = sent(Mail::Edge(ToEdge::Answered(Box::new(answered))));
        let Mail::Edge(ToEdge::Answered(answered)) = mail else { panic!() };
        assert_eq!(answered.request.shard, ShardId::of(NodeSlot::OWN, 2));
        let Ok(Answer::Channel(info)) = answered.outcome else { panic!() };
        assert_eq!(info.meta.as_ref().unwrap().metadata.as_ref().unwrap().get(), "{}");

        let refusal = Refusal::limit(ErrorCode::RateLimited, "channels", 7, "too many");
        let answered =
            Answered { request: super::tests::request(B), outcome: Err(refusal.clone()) };
        let (_, mail) = sent(Mail::Edge(ToEdge::Answered(Box::new(answered))));
        let Mail::Edge(ToEdge::Answered(answered)) = mail else { panic!() };
        assert_eq!(answered.outcome.unwrap_err(), refusal);

        let shard = ShardId::of(B, 7);
        let of = WindowOf::Tail(Default::default());
        let reader = WindowReader { shard, of };
        let window = Window { reader, after: Offset(0), records: Ok([record(1)].into()) };
        let (_, mail) = sent(Mail::Edge(ToEdge::Window(Box::new(window))));
        let Mail::Edge(ToEdge::Window(window)) = mail else { panic!() };
        assert_eq!(window.records.unwrap()[..], [record(1)]);
    }

    #[test]
    fn what_is_not_for_another_node_is_not_sent_and_what_is_none_not_read() {
        let message = Message { tail: Default::default(), epoch: Epoch(1), record: record(2) };
        let mail = Mail::Edge(ToEdge::Message(message));
        assert!(
            encode(B, ShardId(0), ShardId::of(A, 0), mail.clone()).is_none(),
            "for a third node"
        );
        let bytes = encode(B, ShardId(0), ShardId::of(B, 3), mail).unwrap();
        assert!(decode(A, 3, &bytes).is_none(), "for a shard that there is not");
        let stranger = Answered { request: request(A), outcome: Ok(Answer::Deleted) };
        let stranger = Mail::Edge(ToEdge::Answered(Box::new(stranger)));
        assert!(encode(B, ShardId(0), ShardId::of(B, 0), stranger).is_none(), "names a third node");
        for cut in 0..bytes.len() {
            let _ = decode(A, 8, &bytes[..cut]);
        }
        let start = Start::Last(1);
        let subscriber = Subscriber {
            shard: ShardId::of(B, 9),
            tail: Default::default(),
            subscription: Default::default(),
            client: Client::generated(MessageId(1)),
            may_enter: false,
        };
        let (channel, wants_presence, window_bytes) = (channel(), false, 0);
        let subscribe = Subscribe { subscriber, channel, start, wants_presence, window_bytes };
        let mail = Mail::Home(ToHome::Subscribe(Box::new(subscribe)));
        let bytes = encode(B, ShardId(0), ShardId::of(B, 0), mail).unwrap();
        assert!(decode(A, 8, &bytes).is_none(), "names a shard that there is not");
    }
}
