//! A shard whose channels are on other nodes: what was given up is not answered by what comes of it later, and
//! whoever has subscribed is made known to the node that has the channel in the end.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use pushflo_engine::accounts::{App, AppRecord, AppSettings, Key, Plan, Role, Usage};
use pushflo_engine::clock::Now;
use pushflo_engine::ids::{AppId, ConnectionKey, HomeKey, RequestId, ShardId, SlotId};
use pushflo_engine::mail::{
    Answer, Answered, Attach, Attached, Attachment, ClusterNews, Mail, Message, ReplyTo,
    Subscribed, SubscriptionStart, ToEdge, ToHome,
};
use pushflo_engine::proxies::TrustedProxies;
use pushflo_engine::retention::{Durability, Retention};
use pushflo_engine::settings::{
    AllowedOrigins, HistoryLimits, Limits, PresenceTimes, Settings, Timeouts,
};
use pushflo_engine::shard::{Envelope, Shard};
use pushflo_engine::shared::{Owners, Shared};
use pushflo_protocol::{Epoch, MessageId, Offset, Parts, Receipt, Record, StreamPosition};
use pushflo_tests::http::request;

const KEY: &str = "sec_0123456789abcdef0123456789abcdef";

/// Shards of two other nodes.
const ONE: ShardId = ShardId(1 << 10);
const OTHER: ShardId = ShardId(2 << 10);

struct World {
    shard: Shard,
    shared: Arc<Shared>,
    now: Now,
    abroad: Vec<(ShardId, ToHome)>,
}

impl World {
    /// All channels are on one other node.
    fn new() -> Self {
        let settings = Settings {
            origins: AllowedOrigins::All,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            has_log: false,
            history: HistoryLimits::default(),
            presence: PresenceTimes::default(),
            proxies: TrustedProxies::default(),
            metrics_on_main_port: true,
        };
        let mut shared = Shared::new(1, 1);
        let owners = Owners::default();
        owners.set_reached(true);
        owners.is_informed.store(true, Relaxed);
        shared.owners = Some(owners);
        let (shared, now) = (Arc::new(shared), Now::start(1_700_000_000_000));
        let mut shard = Shard::new(ShardId(0), Arc::new(settings), Arc::clone(&shared), 1, now);
        let keys = vec![Key::new(KEY, Role::Secret, None, 0)];
        let retention =
            Retention { age_ms_max: 60_000, messages_max: 100, channel_bytes_max: 1 << 20 };
        shard.load_app(App {
            id: AppId::DEFAULT,
            record: AppRecord::new("default", "unlimited", AppSettings::default(), keys, 0),
            plan: Plan::unlimited(retention, Durability::Memory),
            usage: Arc::new(Usage::default()),
        });
        let mut world = Self { shard, shared, now, abroad: Vec::new() };
        world.move_to(ONE);
        world
    }

    fn accept(&mut self) -> ConnectionKey {
        self.shard.accept(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap()
    }

    /// All channels are on this shard now.
    fn move_to(&mut self, shard: ShardId) {
        for slot in SlotId::all() {
            self.shared.owners.as_ref().unwrap().set(slot, shard);
            self.news(ClusterNews::SlotMoved(slot));
        }
    }

    fn news(&mut self, news: ClusterNews) {
        self.shard.apply(Envelope::Cluster(news));
    }

    fn hear(&mut self, from: ShardId, mail: ToEdge) {
        self.shard.apply(Envelope::Abroad(from, Mail::Edge(mail)));
    }

    fn say(&mut self, connection: ConnectionKey, bytes: &[u8]) -> String {
        self.shard.received(connection, &mut bytes.to_vec());
        self.turn()
    }

    /// Ends a turn. Returns what was written.
    fn turn(&mut self) -> String {
        self.now = self.now.after(200);
        self.shard.advance(self.now);
        self.shard.flush();
        let mut written = Vec::new();
        while let Some((connection, write)) = self.shard.next_write() {
            let bytes: Vec<u8> = write.segments().iter().flatten().copied().collect();
            self.shard.written(connection, write, bytes.len());
            written.extend(bytes);
        }
        let abroad = &mut self.abroad;
        self.shard.post_abroad(|to, mail| {
            if let Mail::Home(mail) = mail {
                abroad.push((to, mail));
            }
            Ok(())
        });
        String::from_utf8_lossy(&written).into_owned()
    }

    /// The request of the publish that went abroad last.
    fn published(&mut self) -> RequestId {
        match self.abroad.pop() {
            Some((ONE, ToHome::Publish(publish))) => match publish.reply_to {
                ReplyTo::Request(request) => request,
                ReplyTo::Batch { .. } => panic!("a batch"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// What asks a shard to attach a tail, within the next ticks.
    fn attach(&mut self, to: ShardId) -> Attach {
        for _ in 0..10 {
            if self.abroad.is_empty() {
                self.turn();
            }
        }
        match self.abroad.pop() {
            Some((shard, ToHome::Attach(attach))) if shard == to => *attach,
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, request: RequestId, offset: u64) -> String {
        let receipt = Receipt {
            id: MessageId(7),
            offset: Offset(offset),
            epoch: Epoch(1),
            timestamp_ms: 1,
            delivered: 0,
        };
        let answered = Answered { request, outcome: Ok(Answer::Published(receipt)) };
        self.hear(ONE, ToEdge::Answered(Box::new(answered)));
        self.turn()
    }
}

fn publish() -> Vec<u8> {
    request("POST", "/api/v1/publish", Some(KEY), r#"{"channel":"c","data":1}"#)
}

fn handshake() -> Vec<u8> {
    format!(
        "GET /ws?token={KEY} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// A client's text frame, masked with zeros.
fn frame(text: &str) -> Vec<u8> {
    assert!(text.len() < 126);
    [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0], text.as_bytes()].concat()
}

#[test]
fn a_late_answer_is_not_that_of_the_next_request() {
    let mut world = World::new();
    let http = world.accept();
    let websocket = world.accept();
    assert!(world.say(websocket, &handshake()).contains("connected"));
    let command = frame(r#"{"type":"publish","channel":"c","data":1}"#);
    for (connection, bytes) in [(http, publish()), (websocket, command)] {
        assert_eq!(world.say(connection, &bytes), "");
        let given_up = world.published();
        world.news(ClusterNews::NodeGone(ONE.node()));
        assert!(world.turn().contains("UNKNOWN_OUTCOME"));
        // It has nothing to do for a while, and then publishes again.
        (0..20).for_each(|_| drop(world.turn()));
        assert_eq!(world.say(connection, &bytes), "");
        let next = world.published();
        assert_ne!(next, given_up);
        assert_eq!(world.answer(given_up, 5), "", "nobody waits for it any more");
        let answer = world.answer(next, 6);
        assert!(answer.contains(r#""offset":6"#), "{answer}");
    }
}

#[test]
fn whoever_has_subscribed_is_known_where_the_channel_is() {
    let mut world = World::new();
    let client = world.accept();
    world.say(client, &handshake());
    world.say(client, &frame(r#"{"type":"subscribe","channel":"c"}"#));
    let Some((ONE, ToHome::Subscribe(subscribe))) = world.abroad.pop() else {
        panic!("{:?}", world.abroad)
    };
    let head = StreamPosition { epoch: Epoch(1), offset: Offset(0) };
    let start = SubscriptionStart {
        home: HomeKey::default(),
        head,
        past: None,
        after: Offset(0),
        window: Vec::new(),
        roster: None,
        is_private: false,
        members: None,
    };
    let subscribed = Subscribed { subscriber: subscribe.subscriber, outcome: Ok(start) };
    world.hear(ONE, ToEdge::Subscribed(Box::new(subscribed)));
    assert!(world.turn().contains("subscribed"));

    // Its home is another one now, and while that is asked the channel moves on.
    world.move_to(OTHER);
    let first = world.attach(OTHER);
    world.move_to(ONE);
    let attachment = Attachment { home: HomeKey::default(), head, is_private: false, roster: None };
    let attached = |attach: &Attach| {
        let outcome = Some(attachment);
        ToEdge::Attached(Box::new(Attached { tail: attach.tail, outcome }))
    };
    world.hear(OTHER, attached(&first));
    let second = world.attach(ONE);
    world.hear(ONE, attached(&second));
    (0..5).for_each(|_| drop(world.turn()));
    assert!(world.abroad.is_empty(), "{:?}", world.abroad);

    // The same node has lost the channel and has it again.
    world.hear(ONE, ToEdge::Moved(second.tail));
    let third = world.attach(ONE);
    world.hear(ONE, attached(&third));
    (0..5).for_each(|_| drop(world.turn()));
    assert!(world.abroad.is_empty(), "{:?}", world.abroad);

    // A message that does not follow the last one shows that something is missing, and nobody gets it.
    let record = Record {
        id: MessageId(8),
        offset: Offset(9),
        prev: Offset(4),
        timestamp_ms: 1,
        parts: Parts::new("message", None, "1"),
    };
    let message = Message { tail: second.tail, epoch: Epoch(1), record };
    world.hear(ONE, ToEdge::Message(message));
    assert_eq!(world.turn(), "");
    world.attach(ONE);
}
