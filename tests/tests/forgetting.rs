//! Channels whose messages have all become too old make room for others, and what holds a channel
//! keeps it.

use std::path::Path;
use std::time::{Duration, Instant};

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, PATIENCE, call, get, publish_body};
use pushflo_tests::program::{Program, command};
use pushflo_tests::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Names that one app has room for here.
const ROOM: usize = 80;

fn serve(data: &Path, durability: &str) -> (Program, std::net::SocketAddr) {
    let config = data.with_extension("toml");
    let text = "[limits]\nchannels_per_shard = 90\n[history]\nage_ms = 1000\n";
    std::fs::write(&config, text).unwrap();
    let mut serve = command(&["serve", "--listen", "127.0.0.1:0", "--shards", "1"]);
    serve.args(["--durability", durability, "--data-dir", data.to_str().unwrap()]);
    serve.args(["--config", config.to_str().unwrap()]);
    serve.env("PUSHFLO_PUBLISH_KEY", PUBLISH_KEY).env("PUSHFLO_SECRET_KEY", SECRET_KEY);
    serve.env("PUSHFLO_MGMT_KEY", MANAGE_KEY);
    let mut program = Program::spawn(serve);
    let address = program.address();
    (program, address)
}

fn publish(http: &mut HttpClient, channel: &str) -> (u16, Value) {
    let answer = http.publish(SECRET_KEY, &publish_body(channel, &json!(1)));
    (answer.status, answer.json()["data"].clone())
}

/// Publishes to a channel once there is room for it.
fn publish_when_there_is_room(http: &mut HttpClient, channel: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match publish(http, channel) {
            (200, published) => return published,
            (status, _) => assert_eq!(status, 429),
        }
        assert!(Instant::now() < deadline, "no room was made");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn channels(address: std::net::SocketAddr) -> Vec<Value> {
    let answer = get(address, "/api/v1/channels?pageSize=100", Some(SECRET_KEY));
    answer.json()["data"].as_array().unwrap().clone()
}

#[test]
fn names_that_come_and_go_never_fill_the_table() {
    for durability in ["memory", "os"] {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let (mut program, mut address) = serve(&data, durability);
        let mut http = HttpClient::connect(address);
        let kept = json!({ "slug": "kept", "name": "Kept" });
        let made = call(address, "POST", "/api/v1/channels", Some(MANAGE_KEY), &kept);
        assert_eq!(made.status, 201);
        let mut subscriber = Subscriber::connect(address);
        subscriber.subscribe("heard");
        for held in ["kept", "heard"] {
            assert_eq!(publish(&mut http, held).0, 200);
        }
        let first = publish(&mut http, "user-0").1;
        for n in 1..ROOM - 2 {
            assert_eq!(publish(&mut http, &format!("user-{n}")).0, 200, "{n}");
        }
        assert_eq!(publish(&mut http, "one-more").0, 429);
        // Three times as many as there is room for.
        for n in ROOM..3 * ROOM {
            publish_when_there_is_room(&mut http, &format!("user-{n}"));
        }
        // What was forgotten is another channel when it comes again: nobody's position means it.
        let again = publish_when_there_is_room(&mut http, "user-0");
        assert_eq!((&first["offset"], &again["offset"]), (&json!(1), &json!(1)));
        assert_ne!(first["epoch"], again["epoch"]);
        let mut back = Subscriber::connect(address);
        let answer = back.subscribe_with(json!({
            "type": "subscribe", "channel": "user-0",
            "recover": { "epoch": first["epoch"], "offset": 1 },
        }));
        assert_eq!(answer["recovered"], false);
        // What is held stays what it is.
        assert_eq!(publish(&mut http, "heard").1["offset"], 2);
        assert_eq!(publish(&mut http, "kept").1["offset"], 2);
        drop((subscriber, back));
        // All but what has metadata goes, and does not come back.
        let deadline = Instant::now() + PATIENCE;
        while channels(address).len() > 1 {
            assert!(Instant::now() < deadline, "{:?}", channels(address));
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(http);
        program.signal(Signal::TERM);
        assert!(program.output().status.success());
        (program, address) = serve(&data, durability);
        let left = channels(address);
        assert_eq!((left.len(), &left[0]["slug"]), (1, &json!("kept")));
        // Nor do its epochs.
        let mut http = HttpClient::connect(address);
        let once_more = publish(&mut http, "user-0").1;
        assert!(once_more["epoch"] != first["epoch"] && once_more["epoch"] != again["epoch"]);
        program.signal(Signal::TERM);
        drop(http);
        assert!(program.output().status.success());
    }
}

/// A publish that is repeated within its time is published once, however old its message is.
#[test]
fn a_key_in_force_keeps_its_channel() {
    let folder = tempfile::tempdir().unwrap();
    let (mut program, address) = serve(&folder.path().join("data"), "os");
    let mut http = HttpClient::connect(address);
    let body = json!({ "channel": "keyed", "data": 1, "id": "k" }).to_string();
    let first = http.publish(SECRET_KEY, &body).json()["data"].clone();
    publish(&mut http, "other");
    let deadline = Instant::now() + PATIENCE;
    while channels(address).len() > 1 {
        assert!(Instant::now() < deadline, "the other one stays");
        std::thread::sleep(Duration::from_millis(50));
    }
    let again = http.publish(SECRET_KEY, &body).json()["data"].clone();
    assert_eq!(again, first);
    program.signal(Signal::TERM);
    drop(http);
    assert!(program.output().status.success());
}
