//! History on disk: it is there after a restart, and gone when it is too old or too much.

use std::path::Path;
use std::time::{Duration, Instant};

use pushflo_engine::host::Host;
use pushflo_engine::startup::Server;
use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, PATIENCE, get, publish_body};
use pushflo_tests::server::{SECRET_KEY, config};
use serde_json::{Value, json};

/// Starts a server on data that may be there already.
fn start(data: &Path, shards: usize, extra: &str) -> Server {
    let cores = core_affinity::get_core_ids().unwrap();
    let cores: Vec<_> = cores.iter().cycle().take(shards).copied().collect();
    Server::start_on(&config(data, extra), Host::default(), &cores).unwrap()
}

fn stop(server: Server) {
    server.drain();
    server.join();
}

fn page(server: &Server, channel: &str, query: &str) -> Value {
    let target = format!("/api/v1/channels/{channel}/messages?{query}");
    get(server.address, &target, Some(SECRET_KEY)).json()["data"].clone()
}

fn recover(server: &Server, channel: &str, epoch: &Value, offset: u64) -> (bool, Vec<u64>) {
    let mut subscriber = Subscriber::connect(server.address);
    let answer = subscriber.subscribe_with(json!({
        "type": "subscribe", "channel": channel, "recover": { "epoch": epoch, "offset": offset },
    }));
    let replayed = answer["replayed"].as_u64().unwrap() as usize;
    let offsets = subscriber.messages(replayed).iter().map(|message| message.offset).collect();
    (answer["recovered"].as_bool().unwrap(), offsets)
}

/// Channels, offsets, epochs and history, also on another number of shards; and the seam between
/// the log and live, for one who asks and for many who come back to one place.
#[test]
fn a_restart_keeps_everything() {
    let data = tempfile::tempdir().unwrap();
    let channels: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
    let mut epochs: Vec<Value> = Vec::new();
    for (round, shards) in [1, 4, 2, 1].into_iter().enumerate() {
        let server = start(data.path(), shards, "");
        let mut client = HttpClient::connect(server.address);
        let before = 50 * round as u64;
        for (n, channel) in channels.iter().enumerate() {
            let answer = Subscriber::connect(server.address).subscribe(channel);
            assert_eq!(answer["offset"], before, "{answer}");
            match epochs.get(n) {
                Some(epoch) => assert_eq!(&answer["epoch"], epoch),
                None => epochs.push(answer["epoch"].clone()),
            }
            if round > 0 {
                let from = (7 * n as u64 + 3) % before;
                let (whole, offsets) = recover(&server, channel, &epochs[n], from);
                assert_eq!((whole, offsets), (true, (from + 1..=before).collect()));
                assert!(!recover(&server, channel, &epochs[n], before + 1).0);
                assert!(!recover(&server, channel, &epochs[n], u64::MAX).0);
                assert!(!recover(&server, channel, &epochs[(n + 1) % 20], from).0);
            }
        }
        if round > 0 {
            let ask = |replay: Value| {
                let mut subscriber = Subscriber::connect(server.address);
                let answer = subscriber.subscribe_with(
                    json!({ "type": "subscribe", "channel": "c3", "replay": replay }),
                );
                let replayed = answer["replayed"].as_u64().unwrap() as usize;
                subscriber.messages(replayed).iter().map(|m| m.offset).collect::<Vec<_>>()
            };
            assert_eq!(ask(json!({ "last": 5 })), (before - 4..=before).collect::<Vec<_>>());
            assert_eq!(ask(json!({ "since": 0 })), (1..=before).collect::<Vec<_>>());
            assert_eq!(ask(json!({ "last": 10_000 })), (1..=before).collect::<Vec<_>>());
            // Those who come back while it goes on.
            let mut back: Vec<Subscriber> =
                (0..50).map(|_| Subscriber::connect(server.address)).collect();
            for subscriber in &mut back {
                subscriber.send(json!({
                    "type": "subscribe", "channel": "c0",
                    "recover": { "epoch": epochs[0], "offset": before - 40 },
                }));
            }
            for n in 0..50 {
                assert_eq!(client.publish(SECRET_KEY, &publish_body("c0", &json!(n))).status, 200);
            }
            for subscriber in &mut back {
                assert_eq!(subscriber.event()["recovered"], true);
                let offsets: Vec<u64> = subscriber.messages(90).iter().map(|m| m.offset).collect();
                assert_eq!(offsets, (before - 39..=before + 50).collect::<Vec<_>>());
            }
        }
        for channel in channels.iter().skip(usize::from(round > 0)) {
            for n in 0..50 {
                let body = publish_body(channel, &json!([round, n]));
                let answer = client.publish(SECRET_KEY, &body).json();
                assert_eq!(answer["data"]["offset"], before + n + 1);
            }
        }
        let data = page(&server, "c7", "pageSize=60");
        assert_eq!(data["pagination"]["total"], before + 50);
        assert_eq!(data["items"][0]["content"], json!([round, 49]));
        assert_eq!(data["items"][0]["offset"], before + 50);
        drop(client);
        stop(server);
    }
}

/// What is over a limit leaves the disk, is not told of any more, and offsets go on.
#[test]
fn what_no_limit_keeps_goes() {
    let data = tempfile::tempdir().unwrap();
    let few = "[history]\nmessages_per_channel = 16\nage_ms = 3000";
    let server = start(data.path(), 1, few);
    let mut client = HttpClient::connect(server.address);
    for n in 1..=100 {
        let answer = client.publish(SECRET_KEY, &publish_body("c", &json!(n))).json();
        assert_eq!(answer["data"]["offset"], n);
    }
    let epoch = Subscriber::connect(server.address).subscribe("c")["epoch"].clone();
    drop(client);
    stop(server);

    let server = start(data.path(), 1, few);
    assert_eq!(page(&server, "c", "")["pagination"]["total"], 16);
    assert_eq!(recover(&server, "c", &epoch, 84), (true, (85..=100).collect()));
    assert_eq!(recover(&server, "c", &epoch, 83), (false, vec![]));
    let expired = || {
        let text = get(server.address, "/metrics", None).text();
        let line = text.lines().find(|line| line.starts_with("pushflo_log_expired_total "));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap()
    };
    let deadline = Instant::now() + PATIENCE;
    while page(&server, "c", "")["pagination"]["total"] != 0 || expired() < 16 {
        assert!(Instant::now() < deadline, "history never expired: {} of it gone", expired());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(recover(&server, "c", &epoch, 99), (false, vec![]));
    assert_eq!(recover(&server, "c", &epoch, 100), (true, vec![]));
    stop(server);

    // With nothing left the channel still knows where it stands.
    let server = start(data.path(), 1, few);
    let mut client = HttpClient::connect(server.address);
    let answer = client.publish(SECRET_KEY, &publish_body("c", &json!(101))).json();
    assert_eq!((&answer["data"]["offset"], &answer["data"]["epoch"]), (&json!(101), &epoch));
    assert_eq!(recover(&server, "c", &epoch, 100), (true, vec![101]));
    drop(client);
    stop(server);
}
