//! A full engine refuses with 503 and loses nothing that it accepted.

use std::thread;

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, publish_body, request};
use pushflo_tests::server::{SECRET_KEY, start};
use serde_json::json;

#[test]
fn what_is_refused_is_not_sent_and_what_is_accepted_is() {
    const CHANNELS: usize = 8;
    let server = start(
        4,
        "[limits]\nmailbox_envelopes = 1\noutbox_envelopes = 2\npipelined_requests = 1000",
    );
    let address = server.address;
    let mut subscribers: Vec<_> = (0..8)
        .map(|_| {
            let mut subscriber = Subscriber::connect(address);
            for channel in 0..CHANNELS {
                subscribe_patiently(&mut subscriber, &format!("c{channel}"));
            }
            subscriber
        })
        .collect();
    let publishers: Vec<_> = (0..4)
        .map(|publisher| {
            thread::spawn(move || {
                let mut http = HttpClient::connect(address);
                let (mut accepted, mut refused) = (Vec::new(), 0);
                for round in 0..20 {
                    let body = |n: usize| {
                        let data = json!([publisher, round, n]);
                        publish_body(&format!("c{}", n % CHANNELS), &data)
                    };
                    let requests: Vec<_> = (0..100)
                        .map(|n| request("POST", "/api/v1/publish", Some(SECRET_KEY), &body(n)))
                        .collect();
                    http.send(&requests.concat());
                    for _ in 0..100 {
                        let answer = http.answer().unwrap();
                        if answer.status == 503 {
                            assert_eq!(answer.json()["code"], "OVERLOADED");
                            assert!(answer.header("retry-after").is_some());
                            refused += 1;
                        } else {
                            assert_eq!(answer.status, 200, "{answer:?}");
                            accepted.push(answer.json()["data"]["id"].as_str().unwrap().to_owned());
                        }
                    }
                }
                (accepted, refused)
            })
        })
        .collect();
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for publisher in publishers {
        let (ids, no) = publisher.join().unwrap();
        accepted.extend(ids);
        refused += no;
    }
    assert!(refused > 0, "the engine was never full");
    assert!(!accepted.is_empty());
    accepted.sort();
    for subscriber in &mut subscribers {
        let mut seen: Vec<String> =
            subscriber.messages(accepted.len()).into_iter().map(|m| m.id).collect();
        seen.sort();
        assert_eq!(seen, accepted);
    }
}

/// A full engine may refuse a subscription as well.
fn subscribe_patiently(subscriber: &mut Subscriber, channel: &str) {
    loop {
        subscriber.send(json!({ "type": "subscribe", "channel": channel }));
        let event = subscriber.event();
        if event["type"] == "subscribed" {
            return;
        }
        assert_eq!(event["code"], "OVERLOADED", "{event}");
    }
}
