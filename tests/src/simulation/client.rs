//! Simulated clients: they make bytes and read bytes, and hold what they see against the oracle.

use std::collections::{BTreeMap, VecDeque};

use pushflo_engine::ids::ConnectionKey;
use pushflo_protocol::time::parse_iso8601;
use serde_json::{Value, json};

use super::oracle::Oracle;
use crate::server::{PUBLISH_KEY, SECRET_KEY};

/// A connection of a client, as the network sees it.
#[derive(Debug)]
pub struct Link {
    pub shard: usize,
    pub connection: ConnectionKey,
    pub to_server: VecDeque<u8>,
    pub to_client: VecDeque<u8>,
    /// The server sends nothing more.
    pub server_done: bool,
    /// The client sends nothing more.
    pub client_done: bool,
    /// The server was told so.
    pub end_told: bool,
    received: Vec<u8>,
    upgraded: bool,
}

impl Link {
    pub fn new(shard: usize, connection: ConnectionKey) -> Self {
        Self {
            shard,
            connection,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            server_done: false,
            client_done: false,
            end_told: false,
            received: Vec::new(),
            upgraded: false,
        }
    }
}

/// What a subscriber knows of a channel.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The last position seen, kept over connections.
    position: Option<(String, u64)>,
    pub state: ViewState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ViewState {
    #[default]
    Idle,
    Asked {
        recovering: bool,
        times: u32,
    },
    Live,
    Leaving,
}

/// A subscriber over all its connections.
#[derive(Debug, Default)]
pub struct Subscriber {
    pub link: Option<Link>,
    pub is_connected: bool,
    pub views: Vec<View>,
}

impl Subscriber {
    pub fn new(channels: usize) -> Self {
        Self { views: vec![View::default(); channels], ..Self::default() }
    }

    pub fn begin(&mut self, link: Link) {
        let mut link = link;
        link.to_server.extend(
            format!(
                "GET /ws?token={PUBLISH_KEY} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            .bytes(),
        );
        self.is_connected = false;
        self.views.iter_mut().for_each(|view| view.state = ViewState::Idle);
        self.link = Some(link);
    }

    pub fn subscribe(&mut self, channel: usize, recover: bool, mask: [u8; 4]) {
        let view = &mut self.views[channel];
        let mut command = json!({ "type": "subscribe", "channel": format!("c{channel}") });
        let recovering = recover && view.position.is_some() && view.state == ViewState::Idle;
        if recovering {
            let (epoch, offset) = view.position.clone().unwrap();
            command["recover"] = json!({ "epoch": epoch, "offset": offset });
        }
        match view.state {
            ViewState::Idle => view.state = ViewState::Asked { recovering, times: 1 },
            // Asked again: answered again, and nothing changes.
            ViewState::Asked { recovering: false, times } => {
                view.state = ViewState::Asked { recovering, times: times + 1 };
            }
            ViewState::Live => {}
            ViewState::Asked { .. } | ViewState::Leaving => return,
        }
        self.send(&command.to_string(), mask);
    }

    pub fn unsubscribe(&mut self, channel: usize, mask: [u8; 4]) {
        if self.views[channel].state == ViewState::Live {
            self.views[channel].state = ViewState::Leaving;
            let command = json!({ "type": "unsubscribe", "channel": format!("c{channel}") });
            self.send(&command.to_string(), mask);
        }
    }

    pub fn ping(&mut self, mask: [u8; 4]) {
        self.send(r#"{"type":"ping"}"#, mask);
    }

    fn send(&mut self, text: &str, mask: [u8; 4]) {
        let Some(link) = &mut self.link else { return };
        assert!(text.len() < 126 || text.len() < 65536);
        link.to_server.push_back(0x81);
        if text.len() < 126 {
            link.to_server.push_back(0x80 | text.len() as u8);
        } else {
            link.to_server.push_back(0x80 | 126);
            link.to_server.extend((text.len() as u16).to_be_bytes());
        }
        link.to_server.extend(mask);
        link.to_server.extend(text.bytes().zip(mask.into_iter().cycle()).map(|(b, m)| b ^ m));
    }

    /// Takes up to `most` bytes off the network and acts on what is whole.
    pub fn read(&mut self, most: usize, oracle: &mut Oracle, may_forget: bool) {
        let Some(link) = &mut self.link else { return };
        let most = most.min(link.to_client.len());
        link.received.extend(link.to_client.drain(..most));
        let mut received = std::mem::take(&mut link.received);
        let mut taken = 0;
        if !link.upgraded {
            let Some(end) = find(&received, b"\r\n\r\n") else {
                self.link.as_mut().unwrap().received = received;
                return;
            };
            if received.starts_with(b"HTTP/1.1 408 ") {
                // The handshake took too long to arrive.
                link.client_done = true;
                link.received = received;
                return;
            }
            assert!(received.starts_with(b"HTTP/1.1 101 "));
            taken = end + 4;
            link.upgraded = true;
        }
        let mut closed = false;
        while let Some((opcode, payload, bytes)) = frame(&received[taken..]) {
            assert!(!closed, "a frame after the close frame");
            match opcode {
                0x1 => {
                    let event = serde_json::from_slice(payload).expect("an event is JSON");
                    self.event(&event, oracle, may_forget);
                }
                0x8 => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    oracle.too_slow += u64::from(code == 4008);
                    closed = true;
                }
                0x9 | 0xa => {}
                other => panic!("unexpected opcode {other}"),
            }
            taken += bytes;
        }
        received.drain(..taken);
        let link = self.link.as_mut().unwrap();
        link.received = received;
        if closed {
            // Answers the close by leaving.
            link.client_done = true;
        }
    }

    fn event(&mut self, event: &Value, oracle: &mut Oracle, may_forget: bool) {
        let channel = event["channel"].as_str().map(|c| c[1..].parse::<usize>().unwrap());
        match event["type"].as_str().unwrap() {
            "connected" => {
                assert!(!self.is_connected);
                self.is_connected = true;
            }
            "subscribed" => {
                let view = &mut self.views[channel.unwrap()];
                let epoch = event["epoch"].as_str().unwrap().to_owned();
                let head = event["offset"].as_u64().unwrap();
                let ViewState::Asked { recovering, .. } = view.state else { return };
                view.state = ViewState::Live;
                if recovering {
                    let (known_epoch, last) = view.position.clone().unwrap();
                    if event["recovered"] == true {
                        assert_eq!(epoch, known_epoch);
                        let replayed = event["replayed"].as_u64().unwrap();
                        assert!(replayed <= head - last, "{replayed} of {last} to {head}");
                        oracle.recoveries += 1;
                        return;
                    }
                    assert!(may_forget, "nothing expires, yet {last} of {head} was not recovered");
                    assert_eq!(event["replayed"], 0);
                    oracle.gaps += 1;
                }
                view.position = Some((epoch, head));
            }
            "message" => {
                let channel = channel.unwrap();
                let view = &mut self.views[channel];
                assert!(
                    matches!(view.state, ViewState::Live | ViewState::Leaving),
                    "a message in {:?}",
                    view.state
                );
                let (_, last) = view.position.as_mut().unwrap();
                let offset = event["offset"].as_u64().unwrap();
                let before = event["prev"].as_u64().unwrap_or(offset - 1);
                assert_eq!(before, *last, "channel {channel}: a gap or a duplicate at {offset}");
                assert!(offset > *last);
                *last = offset;
                let timestamp_ms = event["timestamp"].as_u64().unwrap();
                oracle.delivered(channel, offset, content(&event["data"]), timestamp_ms);
            }
            "unsubscribed" => {
                let view = &mut self.views[channel.unwrap()];
                assert_eq!(view.state, ViewState::Leaving);
                view.state = ViewState::Idle;
            }
            "error" => {
                assert_eq!(event["code"], "OVERLOADED", "{event}");
                let view = &mut self.views[channel.unwrap()];
                let ViewState::Asked { recovering, times } = view.state else { panic!("{event}") };
                view.state = match times {
                    1 => ViewState::Idle,
                    _ => ViewState::Asked { recovering, times: times - 1 },
                };
            }
            "pong" => {}
            other => panic!("unexpected {other}"),
        }
    }

    /// The last offset seen of a channel that is subscribed now.
    pub fn live_offset(&self, channel: usize) -> Option<u64> {
        let view = &self.views[channel];
        let live = self.link.is_some() && view.state == ViewState::Live;
        view.position.as_ref().filter(|_| live).map(|(_, offset)| *offset)
    }
}

/// A publisher on one connection at a time.
#[derive(Debug, Default)]
pub struct Publisher {
    pub link: Option<Link>,
    /// Channel and content of what is not answered yet.
    waiting: VecDeque<(usize, u64)>,
    /// Keyed publishes whose answer a lost connection took; they are asked for again.
    unanswered: Vec<Keyed>,
    /// Those among `waiting`, by content.
    keyed: BTreeMap<u64, Keyed>,
}

/// A publish with an idempotency key, so that it can be asked for again.
#[derive(Clone, Copy, Debug)]
struct Keyed {
    channel: usize,
    content: u64,
    padding: usize,
    /// It was sent before; that it is refused now does not say that it was then.
    is_repeated: bool,
}

impl Publisher {
    pub fn begin(&mut self, link: Link) {
        self.waiting.clear();
        self.unanswered.extend(std::mem::take(&mut self.keyed).into_values());
        self.link = Some(link);
    }

    /// Asks again for what was not answered.
    pub fn repeat(&mut self) {
        for Keyed { channel, content, padding, .. } in std::mem::take(&mut self.unanswered) {
            self.publish(channel, content, padding, false, true);
            self.keyed.entry(content).and_modify(|keyed| keyed.is_repeated = true);
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn publish(
        &mut self,
        channel: usize,
        content: u64,
        padding: usize,
        chunked: bool,
        keyed: bool,
    ) {
        let Some(link) = &mut self.link else { return };
        let key = if keyed { format!("Idempotency-Key: {content}\r\n") } else { String::new() };
        if keyed {
            let is_repeated = false;
            self.keyed.insert(content, Keyed { channel, content, padding, is_repeated });
        }
        let data = json!({ "n": content, "pad": "x".repeat(padding) });
        let body = json!({ "channel": format!("c{channel}"), "data": data }).to_string();
        let head = format!(
            "POST /api/v1/publish HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {SECRET_KEY}\r\n{key}"
        );
        let request = if chunked {
            let (first, second) = body.split_at(body.len() / 3);
            format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
                first.len(),
                second.len()
            )
        } else {
            format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
        };
        link.to_server.extend(request.bytes());
        self.waiting.push_back((channel, content));
    }

    pub fn read(&mut self, most: usize, oracle: &mut Oracle) {
        let Some(link) = &mut self.link else { return };
        let most = most.min(link.to_client.len());
        link.received.extend(link.to_client.drain(..most));
        while let Some(end) = find(&link.received, b"\r\n\r\n") {
            let head = str::from_utf8(&link.received[..end]).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            let length: usize = length.unwrap().parse().unwrap();
            if link.received.len() < end + 4 + length {
                return;
            }
            let status: u16 = head[9..12].parse().unwrap();
            let body: Value = serde_json::from_slice(&link.received[end + 4..][..length]).unwrap();
            link.received.drain(..end + 4 + length);
            let (channel, content) = self.waiting.pop_front().expect("an answer too many");
            let is_repeated = self.keyed.remove(&content).is_some_and(|keyed| keyed.is_repeated);
            if status == 408 {
                self.waiting.clear();
            }
            match status {
                200 => {
                    assert_eq!(body["data"]["channelSlug"], format!("c{channel}"));
                    let offset = body["data"]["offset"].as_u64().unwrap();
                    let created = body["data"]["createdAt"].as_str().unwrap();
                    let timestamp_ms = parse_iso8601(created).unwrap();
                    oracle.accepted(channel, offset, content, timestamp_ms);
                }
                // It waited too long for the rest of the request; what came before was answered.
                503 | 408 if is_repeated => {}
                503 | 408 => oracle.refused(content),
                other => panic!("unexpected {other}: {body}"),
            }
        }
    }
}

fn content(data: &Value) -> u64 {
    data["n"].as_u64().unwrap()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// The first frame of `bytes`: opcode, payload, length of the whole.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(first & 0xf0, 0x80, "the server does not fragment");
    let (header, length) = match second {
        0..=125 => (2, usize::from(second)),
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize),
        _ => panic!("the server does not mask"),
    };
    Some((first & 0x0f, bytes.get(header..header + length)?, header + length))
}

/// How often each kind of thing happened, for a look at what the simulation covers.
pub type Tally = BTreeMap<&'static str, u64>;
