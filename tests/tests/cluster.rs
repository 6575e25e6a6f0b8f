//! Three nodes on three NATS servers that are killed, stopped and sent away in turn, under load: what was
//! acknowledged is in history once and in order, every subscriber sees all of it, and what was refused is
//! nowhere.
//!
//! `PUSHFLO_CLUSTER_ROUNDS=n` has so much happen; `PUSHFLO_SEED=n` repeats it.

use std::thread;
use std::time::Duration;

use pushflo_tests::cluster::Cluster;
use pushflo_tests::load::{Load, histories};
use pushflo_tests::number;
use rustix::process::Signal;

const NODES: usize = 3;

#[test]
fn any_node_may_die() {
    let seed = number("PUSHFLO_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("PUSHFLO_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cluster = Cluster::start(NODES);
    let load = Load::start_on(&cluster.addresses());
    for _ in 0..number("PUSHFLO_CLUSTER_ROUNDS").unwrap_or(6) {
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
    let histories = histories(cluster.addresses()[0]);
    let (all, refused, unknown) = (told.acknowledged.len(), told.refused.len(), told.unknown.len());
    println!("{all} acknowledged, {refused} refused, {unknown} unknown");
    told.check_offsets(&histories);
    assert_eq!(told.check_kept(&histories), all, "all of it is in one epoch");
    told.check_refused(&histories);
    told.check_seen(&histories);
    for (channel, views) in &told.views {
        assert_eq!(views.len(), 1, "a subscriber of {channel} was told of a gap");
    }
}
