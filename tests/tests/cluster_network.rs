//! Three nodes and three NATS servers on machines of their own, whose links are cut and healed, while nodes and
//! servers are killed, stopped and sent away and streams change their leaders, under load: what was acknowledged is
//! in history once and in order, every subscriber sees all of it, and what was refused is nowhere.
//!
//! `PUSHFLO_CLUSTER_ROUNDS=n` has so much happen, and `PUSHFLO_SEED=n` something else.

use std::thread;
use std::time::Duration;

use pushflo_tests::cluster::{Cluster, Nats};
use pushflo_tests::load::{CHANNELS, Load};
use pushflo_tests::network::Network;
use pushflo_tests::number;
use rustix::process::Signal;

const NODES: usize = 3;

/// Something that happens, for a while.
fn act(random: &mut fastrand::Rng, network: &Network, cluster: &mut Cluster) {
    let (node, server) = (random.usize(..NODES), random.usize(..NODES));
    let a_while = Duration::from_millis(random.u64(200..14_000));
    // Nodes are the machines behind the servers.
    match random.u8(..12) {
        0..2 => {
            println!("node {node} is cut off for {a_while:?}");
            network.cut(NODES + node);
            thread::sleep(a_while);
            network.heal(NODES + node);
        }
        2..4 => {
            println!("NATS server {server} is cut off for {a_while:?}");
            network.cut(server);
            thread::sleep(a_while);
            network.heal(server);
        }
        4 => {
            println!("node {node} and NATS server {server} are parted for {a_while:?}");
            network.part(NODES + node, server);
            thread::sleep(a_while);
            network.join(NODES + node, server);
        }
        5 => {
            let other = (server + 1) % NODES;
            println!("NATS servers {server} and {other} are parted for {a_while:?}");
            network.part(server, other);
            thread::sleep(a_while);
            network.join(server, other);
        }
        6 => {
            println!("node {node} is killed for {a_while:?}");
            cluster.kill(node);
            thread::sleep(a_while);
            cluster.run(node);
        }
        7 => {
            println!("node {node} is stopped for {a_while:?}");
            cluster.signal(node, Signal::STOP);
            thread::sleep(a_while);
            cluster.signal(node, Signal::CONT);
        }
        8 => {
            println!("NATS server {server} is killed");
            cluster.nats.kill(server);
            thread::sleep(a_while / 4);
            cluster.nats.run(server).unwrap();
        }
        9 => {
            println!("NATS server {server} is stopped for {a_while:?}");
            cluster.nats.signal(server, Signal::STOP.as_raw());
            thread::sleep(a_while);
            cluster.nats.signal(server, Signal::CONT.as_raw());
        }
        10 => {
            println!("all streams change their leaders");
            let step_down = |subject: &str| drop(cluster.nats.ask(subject, ""));
            for slot in 0..128 {
                step_down(&format!("$JS.API.STREAM.LEADER.STEPDOWN.pushflo-{slot}"));
            }
            step_down("$JS.API.META.LEADER.STEPDOWN");
        }
        _ => {
            println!("NATS server {server} goes away in good order");
            cluster.nats.send_away(server);
            thread::sleep(a_while);
            cluster.nats.kill(server);
            cluster.nats.run(server).unwrap();
        }
    }
}

#[test]
fn links_may_be_cut() {
    if Network::rerun_with_rights("links_may_be_cut") {
        return;
    }
    let seed = number("PUSHFLO_SEED").unwrap_or(1);
    println!("PUSHFLO_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let network = Network::new(2 * NODES);
    let machines = network.machines();
    let (servers, nodes) = machines.split_at(NODES);
    let mut cluster = Cluster::prepare_on(Nats::start_on(servers, "", "").unwrap(), nodes);
    cluster.run_all();
    let load = Load::start_on(&cluster.addresses());
    for _ in 0..number("PUSHFLO_CLUSTER_ROUNDS").unwrap_or(4) {
        act(&mut random, &network, &mut cluster);
        thread::sleep(Duration::from_millis(random.u64(500..6_000)));
    }
    cluster.wait_until_all_serve(&CHANNELS);
    thread::sleep(Duration::from_secs(3));
    let told = load.stop();
    told.check_all(cluster.addresses()[0]);
}
