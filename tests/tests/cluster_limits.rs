//! What an app's plan limits is limited over all nodes of a cluster: nobody is refused while there is some
//! anywhere, no limit is passed, and what is counted is exact, whoever dies.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use pushflo_tests::api::{Api, TestApp};
use pushflo_tests::client::Subscriber;
use pushflo_tests::cluster::{Cluster, alone};
use pushflo_tests::http::{Answer, HttpClient, call, get, post, publish_body, request};
use pushflo_tests::server::MANAGE_KEY;
use serde_json::{Value, json};

const NODES: usize = 3;

const PLANS: &str = "[plans.small]\n\
                     connections = 17\n\
                     messages_per_month = 203\n\
                     channels = 11\n\
                     [plans.paced]\n\
                     publishes_per_second = 90\n";

/// A cluster that has the plans, and its nodes.
fn start() -> (Cluster, Vec<SocketAddr>) {
    let mut cluster = Cluster::prepare(NODES);
    cluster.set(PLANS);
    cluster.run_all();
    let nodes = cluster.addresses();
    (cluster, nodes)
}

struct App(TestApp);

fn app(node: SocketAddr, plan: &str) -> App {
    let mut api = Api::connect(node);
    let app = api.create_app(plan);
    let plan = json!({ "plan": plan });
    api.done(200, ("PATCH", &format!("/api/v1/apps/{}", app.id)), MANAGE_KEY, &plan);
    App(app)
}

/// Why something was refused.
fn limit(answer: &Answer) -> (u16, String) {
    let details = answer.json()["details"].as_object().cloned().unwrap_or_default();
    (answer.status, details.into_iter().map(|(limit, _)| limit).collect())
}

impl App {
    fn publish(&self, node: SocketAddr, channel: &str) -> Answer {
        let body = publish_body(channel, &json!(1));
        post(node, "/api/v1/publish", Some(&self.0.secret), &body)
    }

    /// As [`App::publish`], as often as it takes while channels move between nodes.
    fn published(&self, node: SocketAddr, channel: &str) -> Answer {
        let since = Instant::now();
        loop {
            let answer = self.publish(node, channel);
            if answer.status != 503 || since.elapsed() > Duration::from_secs(20) {
                return answer;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn usage(&self, node: SocketAddr) -> Value {
        let since = Instant::now();
        loop {
            let answer = get(node, "/api/v1/usage", Some(&self.0.secret));
            if answer.status == 200 {
                return answer.json()["data"].clone();
            }
            assert!(since.elapsed() < Duration::from_secs(20), "{}", answer.text());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until every node tells of the app what `is_so` says.
    fn wait_for(&self, nodes: &[SocketAddr], what: &str, is_so: impl Fn(&Value) -> bool) {
        let since = Instant::now();
        for node in nodes {
            while !is_so(&self.usage(*node)) {
                let late = since.elapsed() > Duration::from_secs(20);
                assert!(!late, "{what}: {}", self.usage(*node));
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// The first event of a client that connects: it is let in, or told why not.
fn enter(node: SocketAddr, key: &str) -> (Subscriber, Value) {
    let mut client = Subscriber::connect_with(node, key);
    let event = client.event();
    (client, event)
}

#[test]
fn limits_are_those_of_all_nodes_together() {
    let _alone = alone();
    let (_cluster, nodes) = start();
    let small = app(nodes[0], "small");
    thread::sleep(Duration::from_secs(1));

    // Connections: all of them on two nodes, and then others, as soon as one is given up anywhere.
    let mut clients = Vec::new();
    for n in 0..17 {
        let (client, event) = enter(nodes[n % 2], &small.0.publish);
        assert_eq!(event["type"], "connected", "{n}: {event}");
        clients.push(client);
    }
    for node in &nodes {
        let (_, event) = enter(*node, &small.0.publish);
        assert_eq!(event["code"], "QUOTA_EXCEEDED", "{event}");
    }
    small.wait_for(&nodes, "connections", |usage| usage["connections"] == 17);
    clients.truncate(12);
    thread::sleep(Duration::from_millis(500));
    for n in 0..5 {
        let (client, event) = enter(nodes[2], &small.0.publish);
        assert_eq!(event["type"], "connected", "{n}: {event}");
        clients.push(client);
    }
    assert_eq!(enter(nodes[0], &small.0.publish).1["code"], "QUOTA_EXCEEDED");

    // Channels, whichever nodes have their homes; one that is deleted makes room for another.
    for n in 0..11 {
        let answer = small.published(nodes[n % NODES], &format!("room-{n}"));
        assert_eq!(answer.status, 200, "{n}: {}", answer.text());
    }
    for n in 11..14 {
        let answer = small.published(nodes[n % NODES], &format!("room-{n}"));
        assert_eq!(limit(&answer), (429, "channels".into()), "{n}");
    }
    small.wait_for(&nodes, "channels", |usage| usage["channels"] == 11);
    let gone =
        call(nodes[1], "DELETE", "/api/v1/channels/room-3", Some(&small.0.mgmt), &Value::Null);
    assert_eq!(gone.status, 204, "{}", gone.text());
    // Who asked in vain is told so for a while yet.
    let since = Instant::now();
    while small.published(nodes[2], "room-13").status != 200 {
        assert!(since.elapsed() < Duration::from_secs(15), "a deleted channel makes no room");
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(limit(&small.published(nodes[0], "room-14")), (429, "channels".into()));
    small.wait_for(&nodes, "channels", |usage| usage["channels"] == 11);

    // Messages of the month, of which some are published by now.
    let mut published = 12;
    while published < 203 {
        let answer = small.published(nodes[published % NODES], &format!("room-{}", published % 3));
        assert_eq!(answer.status, 200, "{published}: {}", answer.text());
        published += 1;
    }
    for n in 0..6 {
        let answer = small.published(nodes[n % NODES], "room-1");
        assert_eq!(limit(&answer), (429, "messagesPerMonth".into()));
    }
    small.wait_for(&nodes, "messages", |usage| usage["messagesThisMonth"] == 203);
}

#[test]
fn counts_are_exact_whoever_dies() {
    let _alone = alone();
    let (mut cluster, nodes) = start();
    let free = app(nodes[0], "unlimited");
    thread::sleep(Duration::from_secs(1));
    let mut stored = 0;
    for round in 0..6 {
        // Some of what was published last is counted by nobody yet who lives on.
        for n in 0..200 {
            let at = (round + 1 + n % 2) % NODES;
            let answer = free.published(nodes[at], &format!("room-{}", n % 40));
            assert_eq!(answer.status, 200, "{}", answer.text());
            stored += 1;
        }
        cluster.kill(round % NODES);
        thread::sleep(Duration::from_millis(100 * round as u64));
        cluster.run(round % NODES);
        cluster.wait_until_settled();
    }
    free.wait_for(&nodes, &format!("{stored} messages"), |usage| {
        usage["messagesThisMonth"] == stored && usage["channels"] == 40
    });
}

#[test]
fn a_rate_is_that_of_all_nodes_together() {
    let _alone = alone();
    let (_cluster, nodes) = start();
    let paced = app(nodes[0], "paced");
    thread::sleep(Duration::from_secs(1));
    // Each node is asked for all of it.
    let ask = |node: SocketAddr| {
        let secret = paced.0.secret.clone();
        thread::spawn(move || {
            let mut client = HttpClient::connect(node);
            let (mut done, began) = (Vec::new(), Instant::now());
            while began.elapsed() < Duration::from_secs(10) {
                let body = publish_body("room", &json!(1));
                client.send(&request("POST", "/api/v1/publish", Some(&secret), &body));
                let answer = client.answer().expect("an answer");
                match answer.status {
                    200 => done.push(began.elapsed()),
                    429 => thread::sleep(Duration::from_millis(5)),
                    503 => thread::sleep(Duration::from_millis(20)),
                    _ => panic!("{}", answer.text()),
                }
            }
            done
        })
    };
    let asking: Vec<_> = nodes.iter().map(|node| ask(*node)).collect();
    let done: Vec<Vec<Duration>> =
        asking.into_iter().map(|thread| thread.join().unwrap()).collect();
    // Until nodes have heard of each other each lets its own through, and what it has saved up.
    let since = Duration::from_secs(4);
    let late: Vec<usize> =
        done.iter().map(|done| done.iter().filter(|at| **at > since).count()).collect();
    let all: usize = late.iter().sum();
    println!("{late:?} of all nodes in 6 s");
    assert!((400..=640).contains(&all), "{all} of 540");
    assert!(late.iter().all(|count| *count > 60), "{late:?}");
}
