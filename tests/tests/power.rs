//! Power losses: the machine goes down without warning, and what was not synced may be gone.
//!
//! `PUSHFLO_CRASHES=n` loses power that often; `PUSHFLO_SEED=n` repeats the moments.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use pushflo_tests::client::{Seen, Subscriber};
use pushflo_tests::disk::Disk;
use pushflo_tests::http::{HttpClient, publish_body};
use pushflo_tests::load::{Load, histories};
use pushflo_tests::number;
use pushflo_tests::program::serve_load;
use pushflo_tests::server::SECRET_KEY;
use rustix::process::Signal;
use serde_json::{Value, json};

/// What offsets leap over.
const LEAP: u64 = 1 << 24;

fn publish(client: &mut HttpClient, numbers: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    let publish = |n| {
        let answer = client.publish(SECRET_KEY, &publish_body("a", &json!(n)));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["data"]["offset"].as_u64().unwrap()
    };
    numbers.map(publish).collect()
}

fn recover(address: std::net::SocketAddr, epoch: &Value, offset: u64) -> (Subscriber, Value) {
    let mut subscriber = Subscriber::connect(address);
    let answer = subscriber.subscribe_with(json!({
        "type": "subscribe", "channel": "a", "recover": { "epoch": epoch, "offset": offset },
    }));
    (subscriber, answer)
}

fn offsets(messages: &[Seen]) -> Vec<u64> {
    messages.iter().map(|message| message.offset).collect()
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["-r", "--sparse=always"]).arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

/// Messages that a subscriber saw are gone: offsets go on behind a leap, so that none is given a
/// second time, and who saw what is lost is told so.
#[test]
fn what_was_seen_and_lost_is_never_given_again() {
    let folder = tempfile::tempdir().unwrap();
    let (data, earlier) = (folder.path().join("data"), folder.path().join("earlier"));
    let (program, address) = serve_load(&data, "os", |_| {});
    let mut subscriber = Subscriber::connect(address);
    let epoch = subscriber.subscribe("a")["epoch"].clone();
    let mut client = HttpClient::connect(address);
    assert_eq!(publish(&mut client, 1..=20), (1..=20).collect::<Vec<_>>());
    copy(&data, &earlier);
    publish(&mut client, 21..=30);
    assert_eq!(offsets(&subscriber.messages(30)).last(), Some(&30));
    // A channel of which nothing will be left.
    let lost = Subscriber::connect(address).subscribe("lost");
    assert_eq!(client.publish(SECRET_KEY, &publish_body("lost", &json!(1))).status, 200);
    program.signal(Signal::KILL);
    drop(program);
    // The disk has what it had when the copy was made.
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&earlier, &data).unwrap();
    Disk::reboot(&data.join("log"));

    let (program, address) = serve_load(&data, "os", |command| {
        command.env("PUSHFLO_LOG", "off");
    });
    let (mut inside, answer) = recover(address, &epoch, 12);
    assert_eq!((&answer["epoch"], &answer["offset"]), (&epoch, &json!(20)));
    assert_eq!((&answer["recovered"], &answer["replayed"]), (&json!(true), &json!(8)));
    assert_eq!(offsets(&inside.messages(8)), (13..=20).collect::<Vec<_>>());
    let (mut at_head, answer) = recover(address, &epoch, 20);
    assert_eq!((&answer["recovered"], &answer["replayed"]), (&json!(true), &json!(0)));
    // It saw ten messages that the log does not have.
    let (mut ahead, answer) = recover(address, &epoch, 30);
    assert_eq!((&answer["recovered"], &answer["replayed"]), (&json!(false), &json!(0)));
    assert_eq!(answer["offset"], 20);

    // Nobody knows how far the lost one had come, so it is another one now.
    let mut subscriber = Subscriber::connect(address);
    let answer = subscriber.subscribe_with(json!({
        "type": "subscribe", "channel": "lost", "recover": { "epoch": lost["epoch"], "offset": 1 },
    }));
    assert_eq!((&answer["recovered"], &answer["offset"]), (&json!(false), &json!(0)));
    assert_ne!(answer["epoch"], lost["epoch"]);

    let mut client = HttpClient::connect(address);
    let next = 20 + LEAP + 1;
    assert_eq!(publish(&mut client, 31..=33), [next, next + 1, next + 2]);
    for subscriber in [&mut inside, &mut at_head, &mut ahead] {
        let first = subscriber.event();
        assert_eq!((&first["offset"], &first["prev"]), (&json!(next), &json!(20)), "{first}");
        let second = subscriber.event();
        assert_eq!((&second["offset"], &second["prev"]), (&json!(next + 1), &Value::Null));
        assert_eq!(subscriber.event()["offset"], next + 2);
    }
    let check = |address| {
        for (from, replayed) in [(12, 11), (19, 4), (20, 3), (next, 2), (next + 2, 0)] {
            let (mut subscriber, answer) = recover(address, &epoch, from);
            let whole = (json!(true), json!(replayed));
            assert_eq!((&answer["recovered"], &answer["replayed"]), (&whole.0, &whole.1), "{from}");
            let mut last = from;
            for _ in 0..replayed {
                let event = subscriber.event();
                let offset = event["offset"].as_u64().unwrap();
                assert_eq!(event["prev"].as_u64().unwrap_or(offset - 1), last, "{event}");
                last = offset;
            }
        }
        // Lost ones, one in the leap, and one of the future.
        for from in [21, 30, 20 + LEAP / 2, next + 3, u64::MAX] {
            let (_, answer) = recover(address, &epoch, from);
            let nothing = (&json!(false), &json!(0));
            assert_eq!((&answer["recovered"], &answer["replayed"]), nothing, "{from}");
        }
    };
    check(address);
    program.signal(Signal::KILL);
    drop(program);
    // From disk, and with another leap behind the first; it outlasts a restart without a message.
    Disk::reboot(&data.join("log"));
    for _ in 0..2 {
        let (mut program, address) = serve_load(&data, "os", |command| {
            command.env("PUSHFLO_LOG", "off");
        });
        check(address);
        program.signal(Signal::TERM);
        assert!(program.output().status.success());
    }
    // One that was closed has nothing to be careful about.
    for (number, offset) in [(34, next + 2 + LEAP + 1), (35, next + 2 + LEAP + 2)] {
        let (mut program, address) = serve_load(&data, "os", |_| {});
        let mut client = HttpClient::connect(address);
        assert_eq!(publish(&mut client, number..=number), [offset]);
        drop(client);
        program.signal(Signal::TERM);
        assert!(program.output().status.success());
    }
}

/// Under load, many times over. What was acknowledged survives where that was promised; nobody ever
/// sees an offset with two contents, and who saw what is lost is told.
fn lose_power(durability: &str) {
    let seed = number("PUSHFLO_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("PUSHFLO_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let log = data.join("log");
    let disk = Disk::new(&log);
    let serve = || {
        serve_load(&data, durability, |command| {
            disk.put_below(command);
            command.env("PUSHFLO_LOG", "off");
        })
    };
    let (mut program, mut address) = serve();
    let load = Load::start(address);
    let losses = number("PUSHFLO_CRASHES").unwrap_or(5).min(100);
    for _ in 0..losses {
        thread::sleep(Duration::from_millis(random.u64(20..2500)));
        program.signal(Signal::KILL);
        drop(program);
        disk.lose_unsynced(&mut random);
        Disk::reboot(&log);
        (program, address) = serve();
        load.moved(address);
    }
    thread::sleep(Duration::from_millis(300));
    let told = load.stop();
    let histories = histories(address);
    told.check_offsets(&histories);
    told.check_seen(&histories);
    let all = told.acknowledged.len();
    let (mut kept, mut gaps) = (0, 0);
    for acknowledged in &told.acknowledged {
        let history = &histories[acknowledged.channel];
        let is_same = acknowledged.epoch == history.epoch;
        // One that was made in the last moments may be lost whole, and begins another epoch then.
        assert!(is_same || durability == "os", "the epoch changed");
        let is_there = history.at(acknowledged.offset) == Some(&acknowledged.content);
        kept += usize::from(is_same && is_there);
    }
    for (_, views) in &told.views {
        gaps += views.len() - 1;
    }
    println!("{durability}: {losses} losses, {kept} of {all} kept, {gaps} gaps told");
    if durability == "disk" {
        assert_eq!((kept, gaps), (all, 0));
    }
}

#[test]
fn what_the_disk_has_survives_a_power_loss() {
    lose_power("disk");
}

#[test]
fn what_a_power_loss_takes_is_told() {
    lose_power("os");
}
