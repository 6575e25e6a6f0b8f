//! Limits on connections and subscriptions, and the time-outs of silent ones.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use pushflo_tests::api::{Api, TestApp};
use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, PATIENCE, call, get, post, publish_body, request};
use pushflo_tests::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY, start};
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

/// Whoever may subscribe cannot use up what the app's backend, or other apps, need.
#[test]
fn subscribers_cannot_use_up_channels() {
    let server = start(1, "[limits]\nchannels_per_shard = 90\n[plans.small]\nchannels = 2");
    let address = server.address;
    let mut api = Api::connect(address);
    let (greedy, other) = (api.create_app("greedy"), api.create_app("other"));
    let subscribe_all = |app: &TestApp, count: usize| {
        let mut outsider = Subscriber::connect_with(address, &app.publish);
        outsider.event();
        let mut answers = Vec::new();
        for n in 0..count {
            outsider.send(json!({ "type": "subscribe", "channel": format!("invented-{n}") }));
            answers.push(outsider.event()["type"].clone());
        }
        (outsider, answers.iter().filter(|kind| *kind == "subscribed").count())
    };
    let (outsider, taken) = subscribe_all(&greedy, 120);
    assert_eq!(taken, 80, "eight ninths of the table");
    let publish = |app: &TestApp, channel: &str| {
        post(address, "/api/v1/publish", Some(&app.secret), &publish_body(channel, &json!(1)))
    };
    assert_eq!(publish(&other, "new").status, 200);
    assert_eq!(publish(&greedy, "invented-1").status, 200);
    let refused = publish(&greedy, "new");
    assert_eq!((refused.status, &refused.json()["code"]), (429, &json!("QUOTA_EXCEEDED")));
    drop(outsider);
    while publish(&greedy, "new").status != 200 {}
    // What exists by subscription alone does not count in a plan.
    let body = json!({ "plan": "small" });
    let target = format!("/api/v1/apps/{}", other.id);
    assert_eq!(call(address, "PATCH", &target, Some(MANAGE_KEY), &body).status, 200);
    let (_outsider, taken) = subscribe_all(&other, 10);
    assert_eq!(taken, 10);
    assert_eq!(publish(&other, "second").status, 200);
    let usage = get(address, "/api/v1/usage", Some(&other.secret)).json();
    assert_eq!(usage["data"]["channels"], 2);
    assert_eq!(publish(&other, "invented-3").status, 429);
}

/// A connection that never says anything is held no longer than a request may take.
#[test]
fn silent_connections_are_closed() {
    for extra in ["", "[proxy]\ntrusted = ['127.0.0.1']\nprotocol = 'proxy'"] {
        let server = start(1, &format!("[timeouts]\nhead_ms = 500\n{extra}"));
        let mut silent = TcpStream::connect(server.address).unwrap();
        silent.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(silent.read(&mut [0; 8]).unwrap(), 0);
        if !extra.is_empty() {
            // The proxy's word is not the client's.
            let mut silent = TcpStream::connect(server.address).unwrap();
            silent.set_read_timeout(Some(PATIENCE)).unwrap();
            std::io::Write::write_all(&mut silent, b"PROXY TCP4 192.0.2.1 127.0.0.1 80 80\r\n")
                .unwrap();
            assert_eq!(silent.read(&mut [0; 8]).unwrap(), 0);
        }
    }
}

/// A WebSocket whose peer does not take what is written is given up after the time for writing, and
/// not with the next ping.
#[test]
fn a_write_that_is_stuck_ends_its_connection() {
    let server = start(1, "[limits]\ntail_bytes = 1_000_000_000\n[timeouts]\nwrite_ms = 1000");
    let mut stuck = Subscriber::connect(server.address);
    stuck.subscribe("c");
    let mut http = HttpClient::connect(server.address);
    let body = publish_body("c", &json!("x".repeat(30_000)));
    for _ in 0..1_000 {
        assert_eq!(http.publish(SECRET_KEY, &body).status, 200);
    }
    let deadline = Instant::now() + PATIENCE;
    while server.metric("pushflo_websocket_connections") > 0 {
        assert!(Instant::now() < deadline, "it is still there");
    }
    assert_eq!(server.metric("pushflo_slow_consumers_total"), 0);
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
