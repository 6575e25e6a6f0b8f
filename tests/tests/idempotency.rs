//! Idempotency keys: whoever asks again gets the first answer, and nothing is published twice.

use std::net::SocketAddr;

use pushflo_tests::api::{Api, TestApp};
use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{Answer, HttpClient, call, get, post, publish_body};
use pushflo_tests::program::Program;
use pushflo_tests::server::{MANAGE_KEY, SECRET_KEY, start};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A publish with the header `Idempotency-Key`.
fn publish(address: SocketAddr, secret: &str, key: &str, body: &str) -> Answer {
    let mut client = HttpClient::connect(address);
    client.send(&keyed("/api/v1/publish", secret, key, body));
    client.answer().unwrap()
}

fn keyed(target: &str, secret: &str, key: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {target} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {secret}\r\n\
         Idempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn total(address: SocketAddr, secret: &str, channel: &str) -> u64 {
    let target = format!("/api/v1/channels/{channel}/messages");
    let page = get(address, &target, Some(secret)).json();
    page["data"]["pagination"]["total"].as_u64().unwrap()
}

#[test]
fn a_retry_gets_the_first_answer() {
    for (shards, extra) in [(1, ""), (4, ""), (2, "[history]\ndurability = 'memory'")] {
        let server = start(shards, extra);
        let address = server.address;
        let mut subscriber = Subscriber::connect(address);
        subscriber.subscribe("c");
        let body = publish_body("c", &json!({ "n": 1 }));
        let first = publish(address, SECRET_KEY, "k", &body);
        assert_eq!(first.status, 200, "{}", first.text());
        for _ in 0..3 {
            assert_eq!(publish(address, SECRET_KEY, "k", &body).body, first.body);
        }
        // Another key, another channel: another message. Other content: a conflict.
        assert_ne!(publish(address, SECRET_KEY, "k2", &body).body, first.body);
        assert_eq!(publish(address, SECRET_KEY, "k", &publish_body("d", &json!(1))).status, 200);
        let other = publish(address, SECRET_KEY, "k", &publish_body("c", &json!(2)));
        assert_eq!((other.status, &other.json()["code"]), (409, &json!("CONFLICT")));
        // The key may stand in the body, where it wins.
        let body = json!({ "channel": "c", "data": 7, "id": "in-body" }).to_string();
        let first = publish(address, SECRET_KEY, "x", &body);
        assert_eq!(publish(address, SECRET_KEY, "y", &body).body, first.body);
        for bad in ["", "a b", &"k".repeat(129)] {
            assert_eq!(publish(address, SECRET_KEY, bad, &body).status, 400, "{bad:?}");
        }
        let seen: Vec<u64> = subscriber.messages(3).iter().map(|message| message.offset).collect();
        assert_eq!(seen, [1, 2, 3]);
        assert_eq!(total(address, SECRET_KEY, "c"), 3);
    }
}

/// The same publish many times at once, on all shards: one message, one answer for all.
#[test]
fn retries_that_overtake_each_other_wait_for_the_same_answer() {
    let server = start(4, "");
    let address = server.address;
    for round in 0..20 {
        let body = publish_body("c", &json!(round));
        let answers: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let ask = || {
                let (body, key) = (body.clone(), format!("k{round}"));
                scope.spawn(move || publish(address, SECRET_KEY, &key, &body).body)
            };
            let asked: Vec<_> = (0..6).map(|_| ask()).collect();
            asked.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    }
    assert_eq!(total(address, SECRET_KEY, "c"), 20);
}

#[test]
fn batches_are_repeated_item_by_item() {
    let server = start(4, "");
    let address = server.address;
    let send = |key: &str, body: &Value| {
        let mut client = HttpClient::connect(address);
        client.send(&keyed("/api/v1/publish/batch", SECRET_KEY, key, &body.to_string()));
        let answer = client.answer().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["data"].clone()
    };
    let items: Vec<Value> =
        (0..20).map(|n| json!({ "channel": format!("c{}", n % 5), "data": "same" })).collect();
    let first = send("b", &json!(items));
    assert_eq!((&first["published"], &first["failed"]), (&json!(20), &json!(0)));
    assert_eq!(send("b", &json!(items)), first);
    // What failed is tried again, what was published is not.
    let mixed = json!([{ "channel": "m", "data": 1, "id": "one" }, { "channel": "m" }]);
    let first = send("m", &mixed);
    assert_eq!((&first["published"], &first["failed"]), (&json!(1), &json!(1)));
    let mended = json!([{ "channel": "m", "data": 1, "id": "one" }, { "channel": "m", "data": 2 }]);
    let second = send("m", &mended);
    assert_eq!(second["results"][0], first["results"][0]);
    assert_eq!(second["published"], 2);
    assert_eq!(total(address, SECRET_KEY, "m"), 2);
    assert_eq!((0..5).map(|n| total(address, SECRET_KEY, &format!("c{n}"))).sum::<u64>(), 20);
}

/// A publisher whose answer a crash took asks again and publishes nothing twice.
#[test]
fn keys_outlive_the_server() {
    for durability in ["os", "disk"] {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["--durability", durability];
        let (mut program, address) = Program::serve(folder.path(), &arguments);
        let secret = program.line_with("  secret ").split_whitespace().last().unwrap().to_owned();
        let body = publish_body("c", &json!(1));
        let first = publish(address, &secret, "k", &body).json();
        program.signal(Signal::KILL);
        program.output();
        let (_program, address) = Program::serve(folder.path(), &arguments);
        let again = publish(address, &secret, "k", &body).json();
        for field in ["id", "offset", "epoch", "createdAt", "eventType"] {
            assert_eq!(again["data"][field], first["data"][field], "{field}");
        }
        let other = publish_body("c", &json!(2));
        assert_eq!(publish(address, &secret, "k", &other).status, 409);
        assert_eq!(post(address, "/api/v1/publish", Some(&secret), &other).status, 200);
        assert_eq!(total(address, &secret, "c"), 2);
    }
}

/// Whoever guesses a key of the backend, or of another client, does not take it.
#[test]
fn keys_of_clients_are_not_those_of_the_backend() {
    for shards in [1, 4] {
        let server = start(shards, "");
        let address = server.address;
        let settings = json!({ "settings": { "clientPublish": true } });
        let target = "/api/v1/apps/self";
        let changed = call(address, "PATCH", target, Some(MANAGE_KEY), &settings);
        assert_eq!(changed.status, 200);
        let client = |id: &str| {
            let body = json!({ "clientId": id, "publish": ["*"] }).to_string();
            let token = post(address, "/api/v1/auth/token", Some(SECRET_KEY), &body).json();
            let token = token["data"]["token"].as_str().unwrap().to_owned();
            let mut client = Subscriber::connect_with(address, &token);
            assert_eq!(client.event()["type"], "connected");
            client
        };
        let (mut ann, mut bob) = (client("ann"), client("bob"));
        let mut offsets = Vec::new();
        for (is_ann, data) in [(true, "squat"), (false, "other"), (true, "squat")] {
            let client = if is_ann { &mut ann } else { &mut bob };
            client.send(json!({ "type": "publish", "channel": "c", "data": data, "id": "k" }));
            let event = client.event();
            assert_eq!(event["type"], "published", "{event}");
            offsets.push(event["offset"].clone());
        }
        assert_eq!(offsets, [json!(1), json!(2), json!(1)]);
        let answer = publish(address, SECRET_KEY, "k", &publish_body("c", &json!("paid")));
        assert_eq!((answer.status, &answer.json()["data"]["offset"]), (200, &json!(3)));
        // Nor is a key of a whole batch, with a position, one of a message.
        let mut http = HttpClient::connect(address);
        let batch = json!([{ "channel": "c", "data": 1 }]).to_string();
        http.send(&keyed("/api/v1/publish/batch", SECRET_KEY, "b", &batch));
        assert_eq!(http.answer().unwrap().json()["data"]["published"], 1);
        let answer = publish(address, SECRET_KEY, "b#0", &publish_body("c", &json!(2)));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[test]
fn apps_leave_each_other_room_for_keys() {
    let server = start(1, "[limits]\nidempotency_keys_per_shard = 90");
    let address = server.address;
    let mut api = Api::connect(address);
    let (greedy, other) = (api.create_app("greedy"), api.create_app("other"));
    let publish_keyed = |app: &TestApp, n: usize| {
        publish(address, &app.secret, &format!("k{n}"), &publish_body("c", &json!(n)))
    };
    let taken = (0..90).take_while(|n| publish_keyed(&greedy, *n).status == 200).count();
    assert_eq!(taken, 80);
    let refused = publish_keyed(&greedy, 99);
    assert_eq!((refused.status, &refused.json()["code"]), (429, &json!("RATE_LIMITED")));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(publish_keyed(&other, 0).status, 200);
    // Without a key it is published all the same, and what was published is still known.
    assert_eq!(
        post(address, "/api/v1/publish", Some(&greedy.secret), r#"{"channel":"c","data":1}"#)
            .status,
        200
    );
    assert_eq!(publish_keyed(&greedy, 7).json()["data"]["offset"], 8);
}
