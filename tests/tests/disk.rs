//! Write errors below the log: calls on its files fail, and while they do publishes are refused with
//! the reason, subscribers stay, and nothing that was acknowledged is lost.
//!
//! `PUSHFLO_FAULTS=n` has the random ones come that often; `PUSHFLO_SEED=n` repeats them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use pushflo_tests::client::Subscriber;
use pushflo_tests::disk::{Disk, Fault};
use pushflo_tests::http::{Answer, HttpClient, PATIENCE, get, publish_body};
use pushflo_tests::load::{Load, histories, history};
use pushflo_tests::number;
use pushflo_tests::program::{Program, serve_load};
use pushflo_tests::server::SECRET_KEY;
use rustix::io::Errno;
use rustix::process::Signal;
use serde_json::json;

fn serve(data: &Path, disk: &Disk, durability: &str) -> (Program, SocketAddr) {
    serve_load(data, durability, |command| {
        disk.put_below(command);
        // The errors are meant.
        command.stderr(Stdio::null());
    })
}

/// A publisher that notes what it was told.
struct Publisher {
    client: HttpClient,
    sent: u64,
    acknowledged: Vec<(u64, String)>,
}

impl Publisher {
    fn publish(&mut self) -> Answer {
        self.sent += 1;
        let content = format!("{}", self.sent);
        let answer = self.client.publish(SECRET_KEY, &publish_body("a", &json!(content)));
        if answer.status == 200 {
            let offset = answer.json()["data"]["offset"].as_u64().unwrap();
            self.acknowledged.push((offset, content));
        }
        answer
    }

    /// Publishes until the answer has this status.
    fn publish_until(&mut self, status: u16, what: &str) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.publish();
            if answer.status == status {
                return answer;
            }
            assert!(Instant::now() < deadline, "{what}: never {status}: {}", answer.text());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Sees everything acknowledged, and nothing else, without a gap or a duplicate.
fn see(subscriber: &mut Subscriber, last: &mut u64, acknowledged: &[(u64, String)]) {
    let seen = *last;
    for (offset, content) in acknowledged.iter().filter(|(offset, _)| *offset > seen) {
        let event = subscriber.event();
        let before = event["prev"].as_u64().unwrap_or(offset - 1);
        assert_eq!((&event["offset"], before), (&json!(offset), *last), "{event}");
        assert_eq!(event["data"], json!(content));
        *last = *offset;
    }
}

fn fail_and_come_back(durability: &str, faults: &[(&'static str, Errno)]) {
    let what = format!("{durability} {faults:?}");
    println!("{what}");
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let disk = Disk::new(&data.join("log"));
    let (program, address) = serve(&data, &disk, durability);
    let client = HttpClient::connect(address);
    let mut publisher = Publisher { client, sent: 0, acknowledged: Vec::new() };
    let mut subscriber = Subscriber::connect(address);
    let epoch = subscriber.subscribe("a")["epoch"].clone();
    let mut last = 0;
    for passes in [0, 3] {
        for _ in 0..20 {
            assert_eq!(publisher.publish().status, 200, "{what}");
        }
        let fault = |&(call, error)| Fault { call, error, passes };
        disk.fail(&faults.iter().map(fault).collect::<Vec<_>>());
        let refused = publisher.publish_until(503, &what);
        assert_eq!(refused.json()["code"], "OVERLOADED");
        let reason = refused.json()["error"].as_str().unwrap().to_owned();
        assert!(reason.contains("history cannot be written: "), "{reason}");
        assert!(refused.header("retry-after").is_some());
        assert_eq!(get(address, "/health", None).status, 503);
        let metrics = get(address, "/metrics", None).text();
        assert!(metrics.contains("\npushflo_log_failing 1\n"), "{metrics}");
        // It looks once a second whether the disk works; until then it stays like this.
        let until = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < until {
            assert_eq!(publisher.publish().status, 503, "{what}");
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(get(address, "/health", None).status, 503);
        // Who is there stays there, and who comes may.
        see(&mut subscriber, &mut last, &publisher.acknowledged);
        subscriber.send(json!({ "type": "ping" }));
        assert_eq!(subscriber.event()["type"], "pong");
        Subscriber::connect(address).subscribe("a");
        disk.heal();
        publisher.publish_until(200, &what);
        assert_eq!(get(address, "/health", None).status, 200);
    }
    see(&mut subscriber, &mut last, &publisher.acknowledged);
    assert_eq!(history(address, "a").messages, publisher.acknowledged, "{what}");

    // The end comes while it fails.
    disk.fail(
        &faults.iter().map(|&(call, error)| Fault { call, error, passes: 1 }).collect::<Vec<_>>(),
    );
    publisher.publish_until(503, &what);
    see(&mut subscriber, &mut last, &publisher.acknowledged);
    program.signal(Signal::KILL);
    drop(program);
    disk.heal();
    let (_program, address) = serve(&data, &disk, durability);
    let kept = history(address, "a");
    assert_eq!(json!(kept.epoch), epoch);
    for (offset, content) in &publisher.acknowledged {
        assert_eq!(kept.at(*offset), Some(content), "{what}");
    }
    // What was refused last may have got there, as nobody could look any more.
    assert!(kept.messages.len() <= publisher.acknowledged.len() + 1, "{what}");
    let mut returning = Subscriber::connect(address);
    let answer = returning.subscribe_with(json!({
        "type": "subscribe", "channel": "a", "recover": { "epoch": epoch, "offset": last },
    }));
    let behind = kept.messages.iter().filter(|(offset, _)| *offset > last).count();
    assert_eq!(
        (&answer["recovered"], &answer["replayed"]),
        (&json!(true), &json!(behind)),
        "{what}"
    );
    see(&mut returning, &mut last, &kept.messages);
    publisher.client = HttpClient::connect(address);
    publisher.acknowledged = kept.messages;
    assert_eq!(publisher.publish().status, 200);
    see(&mut returning, &mut last, &publisher.acknowledged);
}

#[test]
fn what_cannot_be_written_is_refused() {
    fail_and_come_back("os", &[("write", Errno::IO)]);
    fail_and_come_back("disk", &[("write", Errno::IO)]);
    fail_and_come_back("os", &[("write", Errno::DQUOT), ("open", Errno::IO)]);
}

#[test]
fn what_cannot_be_synced_is_refused() {
    fail_and_come_back("disk", &[("sync", Errno::IO)]);
    fail_and_come_back("os", &[("sync", Errno::IO)]);
}

#[test]
fn what_is_written_in_part_is_refused() {
    fail_and_come_back("os", &[("tear", Errno::IO)]);
    fail_and_come_back("disk", &[("tear", Errno::NOSPC), ("truncate", Errno::IO)]);
}

/// Without a log there is nothing to fail.
#[test]
fn memory_needs_no_disk() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let disk = Disk::new(&data);
    let (_program, address) = serve(&data, &disk, "memory");
    let mut subscriber = Subscriber::connect(address);
    subscriber.subscribe("a");
    let all = ["write", "sync", "open", "truncate"];
    disk.fail(&all.map(|call| Fault { call, error: Errno::IO, passes: 0 }));
    let client = HttpClient::connect(address);
    let mut publisher = Publisher { client, sent: 0, acknowledged: Vec::new() };
    for _ in 0..20 {
        assert_eq!(publisher.publish().status, 200);
    }
    see(&mut subscriber, &mut 0, &publisher.acknowledged);
    assert_eq!(get(address, "/health", None).status, 200);
}

/// Faults that come and go under load: nobody but the publishers notices.
#[test]
fn faults_come_and_go_under_load() {
    let seed = number("PUSHFLO_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("PUSHFLO_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for durability in ["os", "disk"] {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let disk = Disk::new(&data.join("log"));
        let (_program, address) = serve(&data, &disk, durability);
        let load = Load::start(address);
        let faults = number("PUSHFLO_FAULTS").unwrap_or(5);
        for _ in 0..faults {
            thread::sleep(Duration::from_millis(random.u64(10..300)));
            let call = random.choice(["write", "tear", "sync", "open", "truncate"]).unwrap();
            let error = random.choice([Errno::IO, Errno::NOSPC]).unwrap();
            disk.fail(&[Fault { call, error, passes: random.u32(0..30) }]);
            thread::sleep(Duration::from_millis(random.u64(10..1500)));
            disk.heal();
        }
        let deadline = Instant::now() + PATIENCE;
        while get(address, "/health", None).status != 200 {
            assert!(Instant::now() < deadline, "it does not come back");
            thread::sleep(Duration::from_millis(10));
        }
        thread::sleep(Duration::from_millis(300));
        let told = load.stop();
        let histories = histories(address);
        told.check_offsets(&histories);
        assert_eq!(told.check_kept(&histories), told.acknowledged.len());
        told.check_seen(&histories);
        assert!(told.views.iter().all(|(_, views)| views.len() == 1), "a gap was told");
        let kept: usize = histories.values().map(|history| history.messages.len()).sum();
        assert_eq!(kept, told.acknowledged.len(), "something that was refused is there");
        println!("{durability}: {faults} faults, {kept} kept, {} refused", told.refused.len());
    }
}
