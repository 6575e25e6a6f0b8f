//! Limits on connections and subscriptions, and the time-outs of silent ones.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, PATIENCE, request};
use pushflo_tests::server::{PUBLISH_KEY, start};
use serde_json::json;

fn answers(address: SocketAddr) -> Option<u16> {
    let mut client = HttpClient::connect(address);
    client.send(&request("GET", "/health", None, ""));
    client.answer().map(|answer| answer.status)
}

#[test]
fn connections_over_the_limit_are_refused_and_the_rest_stays() {
    for shards in [1, 4] {
        let server = start(shards, "[limits]\nconnections = 10");
        let mut subscribers: Vec<_> =
            (0..10).map(|_| Subscriber::connect(server.address)).collect();
        for _ in 0..20 {
            let mut refused = HttpClient::connect(server.address);
            let answer = refused.answer().unwrap();
            assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
            assert_eq!(refused.rest(), b"");
        }
        for subscriber in &mut subscribers {
            subscriber.subscribe("c");
        }
        // One leaves, one comes.
        drop(subscribers.pop());
        let deadline = Instant::now() + PATIENCE;
        while answers(server.address) != Some(200) {
            assert!(Instant::now() < deadline, "no room was made");
        }
    }
}

#[test]
fn one_address_cannot_take_every_connection() {
    let server = start(2, "[limits]\nconnections_per_address = 5");
    let from = |last: u8| {
        let socket = socket2_bound(Ipv4Addr::new(127, 0, 0, last));
        socket.connect(server.address)
    };
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..8 {
        let mut stream = from(77);
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut bytes = [0; 64];
        match stream.read(&mut bytes) {
            Ok(count) => {
                assert!(bytes[..count].starts_with(b"HTTP/1.1 503"), "{bytes:?}");
                refused += 1;
            }
            Err(_) => held.push(stream),
        }
    }
    assert_eq!((held.len(), refused), (5, 3));
    // Others do not notice.
    assert_eq!(answers(server.address), Some(200));
}

#[test]
fn subscriptions_of_a_connection_are_limited() {
    let server = start(2, "[limits]\nsubscriptions_per_connection = 3");
    let mut subscriber = Subscriber::connect(server.address);
    for channel in ["a", "b", "c", "a"] {
        subscriber.subscribe(channel);
    }
    subscriber.send(json!({ "type": "subscribe", "channel": "d" }));
    let event = subscriber.event();
    assert_eq!((&event["type"], &event["channel"]), (&json!("error"), &json!("d")), "{event}");
    assert_eq!(event["code"], "QUOTA_EXCEEDED");
    assert!(event["error"].as_str().unwrap().contains('3'), "{event}");
    subscriber.send(json!({ "type": "unsubscribe", "channel": "b" }));
    assert_eq!(subscriber.event()["type"], "unsubscribed");
    subscriber.subscribe("d");
}

#[test]
fn channels_of_a_shard_are_limited() {
    let server = start(1, "[limits]\nchannels_per_shard = 3");
    let mut subscriber = Subscriber::connect(server.address);
    for channel in ["a", "b", "c"] {
        subscriber.subscribe(channel);
    }
    subscriber.send(json!({ "type": "subscribe", "channel": "d" }));
    let event = subscriber.event();
    assert_eq!((&event["type"], &event["channel"]), (&json!("error"), &json!("d")), "{event}");
    // A channel without subscribers and history makes room.
    subscriber.send(json!({ "type": "unsubscribe", "channel": "b" }));
    assert_eq!(subscriber.event()["type"], "unsubscribed");
    subscriber.subscribe("d");
}

/// Who is silent is pinged; who answers stays, who does not is closed. A client that only listens
/// stays as well, since every WebSocket implementation answers pings.
#[test]
fn silent_websockets_are_pinged_and_dead_ones_closed() {
    let server = start(2, "[timeouts]\nping_ms = 500\npong_ms = 500");
    let mut listening = Subscriber::connect(server.address);
    let mut dead = TcpStream::connect(server.address).unwrap();
    dead.set_read_timeout(Some(PATIENCE)).unwrap();
    let upgrade = format!(
        "GET /ws?token={PUBLISH_KEY} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    std::io::Write::write_all(&mut dead, upgrade.as_bytes()).unwrap();
    let (mut pings, started) = (0, Instant::now());
    while started.elapsed() < Duration::from_secs(3) {
        listening.socket.get_ref().0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        if let Ok(tungstenite::Message::Ping(_)) = listening.socket.read() {
            pings += 1;
            // The pong goes out with the next read.
        }
    }
    assert!(pings >= 2, "{pings} pings in 3 s");
    listening.socket.get_ref().0.set_read_timeout(Some(PATIENCE)).unwrap();
    listening.subscribe("c");
    let mut seen = Vec::new();
    dead.read_to_end(&mut seen).unwrap();
    // The last frames: one ping, then a close with 1001.
    let ping = seen.windows(2).position(|bytes| bytes == [0x89, 0]).unwrap();
    assert_eq!(seen[ping + 2], 0x88, "{:?}", &seen[ping..]);
    assert_eq!(seen[ping + 4..ping + 6], 1001u16.to_be_bytes());
    assert_eq!(server.metric("pushflo_idle_closed_total"), 1);
}

/// A socket bound to one of the loopback addresses.
fn socket2_bound(source: Ipv4Addr) -> BoundSocket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    BoundSocket(socket)
}

struct BoundSocket(socket2::Socket);

impl BoundSocket {
    fn connect(self, address: SocketAddr) -> TcpStream {
        self.0.connect(&address.into()).unwrap();
        self.0.into()
    }
}
