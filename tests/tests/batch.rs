//! Batches: one request, a result for each message, in order, whatever shards the channels are on.

use std::fmt::Write as _;

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, get, post, request};
use pushflo_tests::server::{PUBLISH_KEY, SECRET_KEY, start};
use serde_json::{Value, json};

const PATH: &str = "/api/v1/publish/batch";

/// A thousand messages over fifty channels: results in the batch's order, offsets without gaps, and
/// each subscriber gets its channel's messages in the order of the batch.
#[test]
fn every_message_has_its_result_and_its_place() {
    for shards in [1, 4] {
        let server = start(shards, "");
        let channels: Vec<String> = (0..50).map(|n| format!("c{n}")).collect();
        let mut subscribers: Vec<Subscriber> =
            channels.iter().map(|_| Subscriber::connect(server.address)).collect();
        for (subscriber, channel) in subscribers.iter_mut().zip(&channels) {
            subscriber.subscribe(channel);
        }
        let items: Vec<Value> = (0..1_000)
            .map(|n| json!({ "channel": channels[n % 50], "event": "e", "data": n }))
            .collect();
        let lines = items.iter().fold(String::new(), |mut lines, item| {
            writeln!(lines, "{item}").unwrap();
            lines
        });
        for (round, body) in [json!(items).to_string(), lines].iter().enumerate() {
            let answer = post(server.address, PATH, Some(SECRET_KEY), body);
            assert_eq!(answer.status, 200, "{}", answer.text());
            let data = &answer.json()["data"];
            assert_eq!((&data["published"], &data["failed"]), (&json!(1_000), &json!(0)));
            for (n, result) in data["results"].as_array().unwrap().iter().enumerate() {
                let message = &result["data"];
                assert_eq!(message["channelSlug"], channels[n % 50].as_str());
                assert_eq!(message["offset"], (20 * round + n / 50 + 1) as u64);
                assert_eq!(
                    (&message["delivered"], &message["eventType"]),
                    (&json!(1), &json!("e"))
                );
            }
            for (channel, subscriber) in subscribers.iter_mut().enumerate() {
                for turn in 0..20 {
                    let message = subscriber.message();
                    assert_eq!(message.offset, (20 * round + turn + 1) as u64);
                    assert_eq!(message.data, json!(50 * turn + channel));
                }
            }
        }
    }
}

/// One message to many channels, and batches with wrong messages in them: what is right is
/// published, what is wrong says why.
#[test]
fn wrong_messages_do_not_take_the_others_along() {
    for shards in [1, 4] {
        let server = start(shards, "");
        let body = json!({ "channels": ["a", "b", "not a name", "a"], "data": { "x": 1 } });
        let data = post(server.address, PATH, Some(SECRET_KEY), &body.to_string()).json();
        let data = &data["data"];
        assert_eq!((&data["published"], &data["failed"]), (&json!(3), &json!(1)));
        assert_eq!(data["results"][3]["data"]["offset"], 2);
        assert_eq!(data["results"][2]["details"]["channel"].as_array().unwrap().len(), 1);

        let large = json!({ "channel": "a", "data": "x".repeat(40_000) });
        let body = json!([{ "channel": "a" }, 7, large, { "channel": "a", "data": 3 }]);
        let answer = post(server.address, PATH, Some(SECRET_KEY), &body.to_string());
        assert_eq!(answer.status, 200);
        let results = answer.json()["data"]["results"].clone();
        let codes = [0, 1, 2].map(|n| results[n]["code"].as_str().unwrap().to_owned());
        assert_eq!(codes, ["VALIDATION_ERROR", "VALIDATION_ERROR", "PAYLOAD_TOO_LARGE"]);
        assert_eq!(results[3]["data"]["offset"], 3);
    }
}

/// A batch as a whole: too many, too large, not JSON, no right to it; nothing of it is published.
#[test]
fn a_batch_is_refused_as_a_whole() {
    let server = start(2, "");
    let many: Vec<Value> = (0..1_001).map(|n| json!({ "channel": "c", "data": n })).collect();
    let channels: Vec<String> = (0..1_001).map(|n| format!("c{n}")).collect();
    let mut client = HttpClient::connect(server.address);
    for (body, status) in [
        (json!(many).to_string(), 413),
        (json!({ "channels": channels, "data": 1 }).to_string(), 413),
        ("[]".into(), 400),
        (String::new(), 400),
        (r#"[{"channel":"c","data":1}"#.into(), 400),
    ] {
        client.send(&request("POST", PATH, Some(SECRET_KEY), &body));
        let answer = client.answer().unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    client.send(&request("POST", PATH, Some(PUBLISH_KEY), "[]"));
    assert_eq!(client.answer().unwrap().status, 403);
    client.send(&request("GET", PATH, Some(SECRET_KEY), ""));
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST, OPTIONS")));
    let huge = format!("[{}]", " ".repeat(1 << 20));
    client.send(&request("POST", PATH, Some(SECRET_KEY), &huge)[..200]);
    assert_eq!(client.answer().unwrap().status, 413);
    let history = get(server.address, "/api/v1/channels/c/messages", Some(SECRET_KEY));
    assert_eq!(history.json()["data"]["pagination"]["total"], 0);
}
