//! What was missed comes back whole and in order, or it is said that it cannot.

use std::thread;

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, get, publish_body};
use pushflo_tests::server::{SECRET_KEY, start};
use serde_json::{Value, json};

fn recover(epoch: &Value, offset: Value) -> Value {
    json!({ "type": "subscribe", "channel": "c", "recover": { "epoch": epoch, "offset": offset } })
}

#[test]
fn the_seam_between_past_and_live_has_no_gap_and_no_duplicate() {
    for shards in [1, 2, 4] {
        let server = start(shards, "");
        let address = server.address;
        let epoch = Subscriber::connect(address).subscribe("c")["epoch"].clone();
        let publisher = thread::spawn(move || {
            let mut http = HttpClient::connect(address);
            for n in 1..=500 {
                assert_eq!(http.publish(SECRET_KEY, &publish_body("c", &json!(n))).status, 200);
            }
        });
        let mut last = 0;
        while last < 500 {
            let mut subscriber = Subscriber::connect(address);
            let answer = subscriber.subscribe_with(recover(&epoch, json!(last)));
            assert_eq!(answer["recovered"], true, "{answer}");
            let head = answer["offset"].as_u64().unwrap();
            assert_eq!(answer["replayed"], head - last);
            for _ in 0..(head - last) + u64::from(head < 500) {
                last += 1;
                assert_eq!(subscriber.message().offset, last);
            }
        }
        publisher.join().unwrap();
    }
}

#[test]
fn a_position_that_cannot_be_served_whole_replays_nothing() {
    let server = start(2, "[history]\nmessages_per_channel = 10");
    let mut http = HttpClient::connect(server.address);
    for n in 1..=20 {
        http.publish(SECRET_KEY, &publish_body("c", &json!(n)));
    }
    let epoch = Subscriber::connect(server.address).subscribe("c")["epoch"].clone();
    let ask = |command| {
        let mut subscriber = Subscriber::connect(server.address);
        let answer = subscriber.subscribe_with(command);
        let count = answer["replayed"].as_u64().unwrap() as usize;
        let offsets: Vec<u64> = subscriber.messages(count).iter().map(|m| m.offset).collect();
        (answer["recovered"].as_bool().unwrap(), offsets)
    };
    assert_eq!(ask(recover(&epoch, json!(10))), (true, (11..=20).collect()));
    assert_eq!(ask(recover(&epoch, json!(20))), (true, vec![]));
    for (epoch, offset) in [
        (&epoch, json!(9)),
        (&epoch, json!(21)),
        (&epoch, json!(u64::MAX)),
        (&json!("0000000000000"), json!(15)),
        (&json!("nonsense"), json!(15)),
    ] {
        assert_eq!(ask(recover(epoch, offset)), (false, vec![]));
    }
    let replay = |replay| json!({ "type": "subscribe", "channel": "c", "replay": replay });
    assert_eq!(ask(replay(json!({ "last": 3 }))), (true, vec![18, 19, 20]));
    assert_eq!(ask(replay(json!({ "last": 1000 }))), (true, (11..=20).collect()));
    assert_eq!(ask(replay(json!({ "since": 0 }))), (true, (11..=20).collect()));
    assert_eq!(ask(replay(json!({ "since": u64::MAX }))), (true, vec![]));
    let mut subscriber = Subscriber::connect(server.address);
    for bad in [
        recover(&epoch, json!(-1)),
        recover(&epoch, json!("1")),
        replay(json!({ "last": 1_000_000_000 })),
        replay(json!({ "last": 1, "since": 1 })),
        replay(json!({})),
    ] {
        subscriber.send(bad.clone());
        let event = subscriber.event();
        assert_eq!(event["code"], "VALIDATION_ERROR", "{bad} {event}");
    }
    assert_eq!(subscriber.subscribe("c")["offset"], 20);
}

#[test]
fn history_pages_are_newest_first() {
    let server = start(2, "");
    let mut http = HttpClient::connect(server.address);
    for n in 1..=30 {
        let event = if n % 3 == 0 { "third" } else { "other" };
        let body = json!({ "channel": "c", "event": event, "data": n }).to_string();
        assert_eq!(http.publish(SECRET_KEY, &body).status, 200);
    }
    let page = |query: &str| {
        let target = format!("/api/v1/channels/c/messages{query}");
        let answer = get(server.address, &target, Some(SECRET_KEY)).json();
        let items = answer["data"]["items"].as_array().unwrap().clone();
        let offsets: Vec<u64> = items.iter().map(|m| m["offset"].as_u64().unwrap()).collect();
        (offsets, answer["data"]["pagination"].clone())
    };
    let (offsets, pagination) = page("");
    assert_eq!(offsets, (6..=30).rev().collect::<Vec<_>>());
    assert_eq!(pagination, json!({ "page": 1, "pageSize": 25, "total": 30, "totalPages": 2 }));
    assert_eq!(page("?page=2").0, [5, 4, 3, 2, 1]);
    assert_eq!(page("?page=3").0, [0; 0]);
    assert_eq!(page("?pageSize=2&eventType=third&page=2").0, [24, 21]);
    for bad in ["page=0", "page=-1", "page=x", "pageSize=101", "pageSize=0", "after=x"] {
        let target = format!("/api/v1/channels/c/messages?{bad}");
        let answer = get(server.address, &target, Some(SECRET_KEY));
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("VALIDATION_ERROR")));
    }
    let answer = get(server.address, "/api/v1/channels/none/messages", Some(SECRET_KEY));
    assert_eq!((answer.status, &answer.json()["data"]["items"]), (200, &json!([])));
}
