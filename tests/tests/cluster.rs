//! Three nodes on three NATS servers that are killed, stopped and sent away in turn, under load: what was
//! acknowledged is in history once and in order, every subscriber sees all of it, and what was refused is
//! nowhere.
//!
//! `PUSHFLO_CLUSTER_ROUNDS=n` has so much happen, and `PUSHFLO_SEED=n` something else.
#![allow(clippy::disallowed_types, reason = "the tests of this file wait for each other")]

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use pushflo_tests::client::Subscriber;
use pushflo_tests::cluster::Cluster;
use pushflo_tests::http::{call, post, publish_body, publish_keyed};
use pushflo_tests::load::{Load, history};
use pushflo_tests::number;
use pushflo_tests::server::{MANAGE_KEY, SECRET_KEY};
use rustix::process::Signal;
use serde_json::{Value, json};

const NODES: usize = 3;

/// One cluster at a time has the machine.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn any_node_may_die() {
    let _alone = alone();
    let seed = number("PUSHFLO_SEED").unwrap_or(2);
    println!("PUSHFLO_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cluster = Cluster::start(NODES);
    let load = Load::start_on(&cluster.addresses());
    for _ in 0..number("PUSHFLO_CLUSTER_ROUNDS").unwrap_or(5) {
        let (node, server) = (random.usize(..NODES), random.usize(..NODES));
        let while_away = Duration::from_millis(random.u64(200..5_000));
        match random.u8(..10) {
            0..3 => {
                println!("node {node} is killed, for {while_away:?}");
                cluster.kill(node);
                thread::sleep(while_away);
                cluster.run(node);
            }
            3..5 => {
                println!("node {node} leaves");
                cluster.leave(node);
                thread::sleep(while_away / 4);
                cluster.run(node);
            }
            5..7 => {
                println!("node {node} is stopped for {while_away:?}");
                cluster.signal(node, Signal::STOP);
                thread::sleep(while_away);
                cluster.signal(node, Signal::CONT);
            }
            7..9 => {
                println!("NATS server {server} is killed");
                cluster.nats.kill(server);
                thread::sleep(while_away / 4);
                cluster.nats.run(server).unwrap();
                cluster.nats.wait_until_ready(Duration::from_secs(30)).unwrap();
            }
            _ => {
                println!("NATS server {server} is stopped for {while_away:?}");
                cluster.nats.signal(server, Signal::STOP.as_raw());
                thread::sleep(while_away);
                cluster.nats.signal(server, Signal::CONT.as_raw());
            }
        }
        thread::sleep(Duration::from_millis(random.u64(500..4_000)));
    }
    cluster.wait_until_all_serve(&pushflo_tests::load::CHANNELS);
    thread::sleep(Duration::from_secs(3));
    let told = load.stop();
    told.check_all(cluster.addresses()[0]);
}

#[test]
fn all_nodes_are_one_server() {
    let _alone = alone();
    let cluster = Cluster::start(NODES);
    let nodes = cluster.addresses();
    let names: Vec<String> = (0..12).map(|n| format!("room:{n}.x")).collect();
    cluster.wait_until_all_serve(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut subscribers: Vec<Subscriber> = nodes.iter().map(|n| Subscriber::connect(*n)).collect();
    for subscriber in &mut subscribers {
        names.iter().for_each(|name| drop(subscriber.subscribe(name)));
    }

    // A batch to channels whose homes are everywhere, and a client's publish.
    let batch = json!([{ "channels": names, "data": "first" }]).to_string();
    let answer = post(nodes[2], "/api/v1/publish/batch", Some(SECRET_KEY), &batch);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let results = answer.json()["data"]["results"].as_array().unwrap().clone();
    let is_whole = results.iter().all(|result| result["data"]["delivered"] == 3);
    assert!(is_whole && results.len() == names.len(), "{results:?}");
    for subscriber in &mut subscribers {
        let seen: BTreeSet<String> =
            subscriber.messages(names.len()).into_iter().map(|seen| seen.channel).collect();
        assert_eq!(seen, names.iter().cloned().collect());
    }

    // One key, three nodes, one message.
    let body = publish_body(&names[0], &json!("once"));
    let first = publish_keyed(nodes[0], SECRET_KEY, "k", &body).json()["data"].clone();
    for node in &nodes {
        let again = publish_keyed(*node, SECRET_KEY, "k", &body).json()["data"].clone();
        assert_eq!((&again["id"], &again["offset"]), (&first["id"], &first["offset"]));
    }
    let other = publish_keyed(nodes[1], SECRET_KEY, "k", &publish_body(&names[0], &json!("twice")));
    assert_eq!(other.status, 409, "{}", other.text());
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.message().data, "once");
    }

    // The past, by any node; and a position that one node gave, at another.
    for node in &nodes {
        assert_eq!(history(*node, &names[0]).messages.len(), 2);
        let mut late = Subscriber::connect(*node);
        let replay = json!({ "type": "subscribe", "channel": names[0], "replay": { "last": 1 } });
        assert_eq!(late.subscribe_with(replay)["replayed"], 1);
        assert_eq!(late.message().data, "once");
    }
    let position = subscribers[1].subscribe(&names[3]);
    for n in 0..50 {
        let node = nodes[n % nodes.len()];
        let body = publish_body(&names[3], &json!(n));
        assert_eq!(post(node, "/api/v1/publish", Some(SECRET_KEY), &body).status, 200);
    }
    let recover = json!({ "epoch": position["epoch"], "offset": position["offset"] });
    let mut back = Subscriber::connect(nodes[0]);
    let ask = json!({ "type": "subscribe", "channel": names[3], "recover": recover });
    let answer = back.subscribe_with(ask);
    assert_eq!((&answer["recovered"], &answer["replayed"]), (&json!(true), &json!(50)), "{answer}");
    let data: Vec<_> = back.messages(50).into_iter().map(|seen| seen.data).collect();
    assert_eq!(data, (0..50).map(|n| json!(n)).collect::<Vec<_>>());

    // Deleted on one node, it is another channel on all.
    let target = format!("/api/v1/channels/{}", names[5]);
    let at = |node, method, target: &str| {
        call(node, method, target, Some(MANAGE_KEY), &Value::Null).status
    };
    assert_eq!(at(nodes[2], "GET", &target), 200);
    assert_eq!(at(nodes[0], "DELETE", &target), 204);
    assert_eq!(at(nodes[1], "GET", &target), 404);
    let epochs: BTreeSet<String> = nodes
        .iter()
        .map(|node| {
            let history = history(*node, &names[5]);
            assert!(history.messages.is_empty(), "{history:?}");
            history.epoch
        })
        .collect();
    assert_eq!(epochs.len(), 1);
    assert_ne!(epochs.first().map(String::as_str), results[5]["data"]["epoch"].as_str());
}
