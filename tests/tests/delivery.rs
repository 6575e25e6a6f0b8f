//! Every subscriber gets every message, once, in the one order of the channel.

use std::collections::{BTreeMap, HashSet};
use std::thread;

use pushflo_tests::client::{Subscriber, seen};
use pushflo_tests::http::{HttpClient, publish_body};
use pushflo_tests::server::{SECRET_KEY, start};
use serde_json::json;

const SHARDS: [usize; 3] = [1, 2, 4];

#[test]
fn all_subscribers_see_one_order_under_concurrent_publishers() {
    const CHANNELS: usize = 5;
    const SUBSCRIBERS: usize = 8;
    const PUBLISHERS: usize = 4;
    const EACH: usize = 100;
    for shards in SHARDS {
        let server = start(shards, "");
        let address = server.address;
        let mut subscribers: Vec<Subscriber> = (0..SUBSCRIBERS)
            .map(|_| {
                let mut subscriber = Subscriber::connect(address);
                for channel in 0..CHANNELS {
                    assert_eq!(subscriber.subscribe(&format!("c{channel}"))["offset"], 0);
                }
                subscriber
            })
            .collect();
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                thread::spawn(move || {
                    let mut http = HttpClient::connect(address);
                    for n in 0..EACH {
                        let channel = format!("c{}", (publisher + n) % CHANNELS);
                        let data = json!({ "publisher": publisher, "n": n });
                        let answer = http.publish(SECRET_KEY, &publish_body(&channel, &data));
                        assert_eq!(answer.status, 200, "{answer:?}");
                        assert_eq!(answer.json()["data"]["delivered"], SUBSCRIBERS);
                    }
                })
            })
            .collect();
        let total = PUBLISHERS * EACH;
        let views: Vec<_> = subscribers.iter_mut().map(|s| s.messages(total)).collect();
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        for channel in 0..CHANNELS {
            let channel = format!("c{channel}");
            let of = |view: &[pushflo_tests::client::Seen]| -> Vec<_> {
                view.iter().filter(|m| m.channel == channel).cloned().collect()
            };
            let first = of(&views[0]);
            for (index, message) in first.iter().enumerate() {
                assert_eq!(message.offset, index as u64 + 1);
            }
            for view in &views {
                assert_eq!(of(view), first, "{shards} shards, {channel}");
            }
            for publisher in 0..PUBLISHERS {
                let own = first.iter().filter(|m| m.data["publisher"] == publisher);
                let own: Vec<u64> = own.map(|m| m.data["n"].as_u64().unwrap()).collect();
                assert!(own.is_sorted(), "{own:?}");
            }
        }
        assert_eq!(server.metric("pushflo_deliveries_total"), (total * SUBSCRIBERS) as u64);
        assert_eq!(server.metric("pushflo_publishes_total"), total as u64);
    }
}

#[test]
fn nothing_is_lost_or_doubled_at_subscribe_and_unsubscribe_under_load() {
    for shards in SHARDS {
        let server = start(shards, "");
        let address = server.address;
        let publisher = thread::spawn(move || {
            let mut http = HttpClient::connect(address);
            for n in 1..=600 {
                assert_eq!(http.publish(SECRET_KEY, &publish_body("c", &json!(n))).status, 200);
            }
        });
        let subscribers: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(move || {
                    let mut subscriber = Subscriber::connect(address);
                    for _ in 0..20 {
                        let head = subscriber.subscribe("c")["offset"].as_u64().unwrap();
                        subscriber.send(json!({ "type": "ping" }));
                        subscriber.send(json!({ "type": "unsubscribe", "channel": "c" }));
                        let mut next = head + 1;
                        loop {
                            let event = subscriber.event();
                            match seen(&event) {
                                Some(message) => {
                                    assert_eq!(message.offset, next);
                                    assert_eq!(message.data, json!(next));
                                    next += 1;
                                }
                                None if event["type"] == "unsubscribed" => break,
                                None => assert_eq!(event["type"], "pong", "{event}"),
                            }
                        }
                    }
                })
            })
            .collect();
        subscribers.into_iter().for_each(|subscriber| subscriber.join().unwrap());
        publisher.join().unwrap();
        let head = Subscriber::connect(address).subscribe("c")["offset"].clone();
        assert_eq!(head, 600);
    }
}

#[test]
fn delivered_counts_subscribers_on_all_shards() {
    for shards in SHARDS {
        let server = start(shards, "");
        let mut http = HttpClient::connect(server.address);
        let mut delivered = || {
            http.publish(SECRET_KEY, &publish_body("c", &json!(1))).json()["data"]["delivered"]
                .clone()
        };
        assert_eq!(delivered(), 0);
        let mut subscribers: Vec<_> =
            (0..10).map(|_| Subscriber::connect(server.address)).collect();
        for (index, subscriber) in subscribers.iter_mut().enumerate() {
            subscriber.subscribe("c");
            // A second subscribe is answered and changes nothing.
            subscriber.send(json!({ "type": "subscribe", "channel": "c" }));
            while subscriber.event()["type"] != "subscribed" {}
            assert_eq!(delivered(), index + 1);
        }
        let mut left = subscribers.pop().unwrap();
        left.send(json!({ "type": "unsubscribe", "channel": "c" }));
        while left.event()["type"] != "unsubscribed" {}
        assert_eq!(delivered(), 9);
    }
}

#[test]
fn a_subscriber_of_many_channels_gets_each_in_order() {
    let server = start(2, "");
    let mut subscriber = Subscriber::connect(server.address);
    for channel in 0..200 {
        subscriber.subscribe(&format!("c{channel}"));
    }
    let mut http = HttpClient::connect(server.address);
    let mut requests = Vec::new();
    for n in 1..=5 {
        for channel in 0..200 {
            let body = publish_body(&format!("c{channel}"), &json!(n));
            requests.push(pushflo_tests::http::request(
                "POST",
                "/api/v1/publish",
                Some(SECRET_KEY),
                &body,
            ));
        }
    }
    for batch in requests.chunks(100) {
        http.send(&batch.concat());
        for _ in batch {
            assert_eq!(http.answer().unwrap().status, 200);
        }
    }
    let mut seen = HashSet::new();
    let mut last = BTreeMap::new();
    for message in subscriber.messages(1000) {
        let before = last.insert(message.channel.clone(), message.offset).unwrap_or(0);
        assert_eq!(message.offset, before + 1);
        assert!(seen.insert(message.id));
    }
}

#[test]
fn content_comes_through_byte_for_byte() {
    let server = start(1, "");
    let mut subscriber = Subscriber::connect(server.address);
    subscriber.subscribe("c");
    let contents = [
        "null",
        "12345678901234567890123",
        r#"{"b":1.0,"a":[1e400,-0.0]}"#,
        r#""\u00e9\ud83d\ude00 \"quoted\" \\""#,
        r#"{ "spaced" :  [ ] }"#,
    ];
    for content in contents {
        let body = format!(r#"{{"channel":"c","event":"e\"v","data":{content}}}"#);
        let answer = HttpClient::connect(server.address).publish(SECRET_KEY, &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let tungstenite::Message::Text(text) = subscriber.socket.read().unwrap() else { panic!() };
        assert!(text.ends_with(&format!(r#""data":{content}}}"#)), "{text}");
        assert!(text.contains(r#""eventType":"e\"v""#), "{text}");
    }
}

/// What a client asks for in one read happens in the order in which it asks, wherever the channels live.
#[test]
fn who_subscribes_and_publishes_at_once_gets_its_own_message() {
    for durability in ["memory", "os"] {
        let server = start(4, &format!("[history]\ndurability = \"{durability}\""));
        let mut client = Subscriber::connect_with(server.address, SECRET_KEY);
        for n in 0..40 {
            let channel = format!("c{n}");
            for command in [
                json!({ "type": "subscribe", "channel": channel }),
                json!({ "type": "publish", "channel": channel, "data": n, "ref": "p" }),
            ] {
                client.socket.write(tungstenite::Message::text(command.to_string())).unwrap();
            }
            client.socket.flush().unwrap();
            let mut seen: Vec<String> = Vec::new();
            while !["message", "published"].iter().all(|wanted| seen.iter().any(|e| e == wanted)) {
                let event = client.event();
                seen.push(event["type"].as_str().unwrap().to_owned());
                assert!(event["type"] != "message" || event["data"] == n, "{channel}: {event}");
            }
            seen.retain(|event| event != "published" && event != "connected");
            assert_eq!(seen, ["subscribed", "message"], "{durability} {channel}");
        }
    }
}
