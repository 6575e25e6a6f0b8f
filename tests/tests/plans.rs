//! Plans: limits are hit exactly at their number however many come at once, and told by name.

use std::net::SocketAddr;

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, call, get, post, publish_body};
use pushflo_tests::program::Program;
use pushflo_tests::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY, TestServer, start};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A server whose default app has a plan of these limits.
fn server_with(shards: usize, limits: &str) -> TestServer {
    let server = start(shards, &format!("[plans.tight]\n{limits}"));
    let plan = json!({ "plan": "tight" });
    let answer = call(server.address, "PATCH", "/api/v1/apps/default", Some(MANAGE_KEY), &plan);
    assert_eq!(answer.status, 200, "{}", answer.text());
    server
}

fn usage(address: SocketAddr) -> Value {
    get(address, "/api/v1/usage", Some(SECRET_KEY)).json()["data"].clone()
}

/// Does something on several threads at once, so many times each; what each time came to.
fn at_once<T: Send>(threads: usize, times: usize, act: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let act = &act;
        let thread =
            |thread| scope.spawn(move || (0..times).map(|n| act(thread * times + n)).collect());
        let threads: Vec<_> = (0..threads).map(thread).collect();
        threads.into_iter().flat_map(|t| -> Vec<T> { t.join().unwrap() }).collect()
    })
}

#[test]
fn messages_of_a_month_stop_at_their_number() {
    for shards in [1, 4] {
        let server = server_with(shards, "messages_per_month = 100");
        let address = server.address;
        let statuses = at_once(4, 40, |n| {
            let body = publish_body(&format!("c{}", n % 9), &json!(n));
            let answer = post(address, "/api/v1/publish", Some(SECRET_KEY), &body);
            if answer.status == 429 {
                let body = answer.json();
                assert_eq!(body["code"], "QUOTA_EXCEEDED");
                assert!(body["details"]["messagesPerMonth"].is_array(), "{body}");
                let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
                assert!(wait > 0 && wait <= 31 * 86_400);
            }
            answer.status
        });
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 100);
        assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 60);
        let told = usage(address);
        assert_eq!((&told["messagesThisMonth"], &told["plan"]), (&json!(100), &json!("tight")));
        assert_eq!(told["limits"]["messagesPerMonth"], 100);
        // In a batch each message has its own verdict.
        let answer = post(
            address,
            "/api/v1/publish/batch",
            Some(SECRET_KEY),
            r#"[{"channel":"c","data":1}]"#,
        );
        assert_eq!((answer.status, &answer.json()["data"]["failed"]), (200, &json!(1)));
    }
}

#[test]
fn connections_stop_at_their_number() {
    let server = server_with(4, "connections = 50");
    let address = server.address;
    let mut open = at_once(4, 20, |_| {
        let mut subscriber = Subscriber::connect_with(address, PUBLISH_KEY);
        let event = subscriber.event();
        match event["type"].as_str().unwrap() {
            "connected" => Some(subscriber),
            _ => {
                assert_eq!(
                    (&event["code"], &event["limit"]),
                    (&json!("QUOTA_EXCEEDED"), &json!("connections"))
                );
                assert_eq!(subscriber.close_code().0, 4029);
                None
            }
        }
    });
    open.retain(Option::is_some);
    assert_eq!(open.len(), 50);
    assert_eq!(usage(address)["connections"], 50);
    // A place that is given back can be taken.
    let mut gone = open.pop().flatten().unwrap();
    gone.socket.close(None).unwrap();
    while usage(address)["connections"] == 50 {}
    Subscriber::connect(address);
}

#[test]
fn channels_and_subscriptions_stop_at_their_number() {
    let server =
        server_with(4, "channels = 10\nsubscriptions_per_connection = 3\npayload_bytes = 100");
    let address = server.address;
    let statuses = at_once(4, 5, |n| {
        let body = publish_body(&format!("c{n}"), &json!(n));
        post(address, "/api/v1/publish", Some(SECRET_KEY), &body).status
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 10);
    let there = get(address, "/api/v1/channels", Some(SECRET_KEY)).json();
    assert_eq!(there["pagination"]["total"], 10);
    let body = json!({ "name": "x", "slug": "one-more" });
    let answer = call(address, "POST", "/api/v1/channels", Some(MANAGE_KEY), &body);
    assert_eq!((answer.status, answer.json()["details"]["channels"].is_array()), (429, true));
    let slugs: Vec<String> = there["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|channel| channel["slug"].as_str().unwrap().to_owned())
        .collect();
    let mut subscriber = Subscriber::connect(address);
    // One that exists by subscription alone does not count.
    subscriber.subscribe("one-more");
    for slug in &slugs[..2] {
        subscriber.subscribe(slug);
    }
    subscriber.send(json!({ "type": "subscribe", "channel": slugs[3] }));
    assert_eq!(subscriber.event()["limit"], "subscriptionsPerConnection");
    let large = publish_body(&slugs[0], &json!("x".repeat(99)));
    assert_eq!(post(address, "/api/v1/publish", Some(SECRET_KEY), &large).status, 413);
    // A deleted channel makes room for another.
    let target = format!("/api/v1/channels/{}", slugs[9]);
    assert_eq!(call(address, "DELETE", &target, Some(MANAGE_KEY), &Value::Null).status, 204);
    let body = publish_body("one-more", &json!(1));
    assert_eq!(post(address, "/api/v1/publish", Some(SECRET_KEY), &body).status, 200);
    assert_eq!(usage(address)["channels"], 10);
}

#[test]
fn rates_are_told_with_the_time_to_wait() {
    let server = server_with(2, "publishes_per_second = 5\nsubscribes_per_second = 3");
    let address = server.address;
    let mut client = HttpClient::connect(address);
    let mut published = 0;
    let refused = loop {
        let answer = client.publish(SECRET_KEY, &publish_body("c", &json!(1)));
        if answer.status != 200 {
            break answer;
        }
        published += 1;
        assert!(published < 1_000, "the rate is never reached");
    };
    assert!(published >= 5);
    let body = refused.json();
    assert_eq!((refused.status, &body["code"]), (429, &json!("RATE_LIMITED")));
    assert!(body["details"]["publishesPerSecond"].is_array(), "{body}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    // What was refused was not published, and by and by there is room again.
    assert_eq!(usage(address)["messagesThisMonth"], published);
    while client.publish(SECRET_KEY, &publish_body("c", &json!(1))).status != 200 {}
    let mut subscriber = Subscriber::connect(address);
    let events = (0..1_000).map(|n| {
        subscriber.send(json!({ "type": "subscribe", "channel": format!("s{n}") }));
        subscriber.event()
    });
    let refused = events.into_iter().find(|event| event["type"] != "subscribed").unwrap();
    assert_eq!(
        (&refused["code"], &refused["limit"]),
        (&json!("RATE_LIMITED"), &json!("subscribesPerSecond"))
    );
}

/// What an app used outlives the server, also one that is killed.
#[test]
fn usage_is_counted_over_restarts() {
    for durability in ["os", "memory"] {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["--durability", durability];
        let (mut program, address) = Program::serve(folder.path(), &arguments);
        let secret = program.line_with("  secret ").split_whitespace().last().unwrap().to_owned();
        let publish = |address, times: usize| {
            let mut client = HttpClient::connect(address);
            for n in 0..times {
                assert_eq!(client.publish(&secret, &publish_body("c", &json!(n))).status, 200);
            }
        };
        let count = |address| {
            let usage = get(address, "/api/v1/usage", Some(&secret)).json();
            usage["data"]["messagesThisMonth"].as_u64().unwrap()
        };
        publish(address, 70);
        program.signal(Signal::TERM);
        assert!(program.output().status.success());
        let (mut program, address) = Program::serve(folder.path(), &arguments);
        assert_eq!(count(address), 70);
        publish(address, 30);
        program.signal(Signal::KILL);
        program.output();
        let (_program, address) = Program::serve(folder.path(), &arguments);
        // Without a log the last second may be missing.
        let least = if durability == "os" { 100 } else { 70 };
        assert!((least..=100).contains(&count(address)), "{} with {durability}", count(address));
    }
}

/// Channels whose history is in memory begin anew with the server, and say so: an offset is never
/// given twice within an epoch.
#[test]
fn channels_in_memory_have_an_epoch_of_their_own_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("pushflo.toml");
    std::fs::write(&config, "[plans.light]\ndurability = 'memory'").unwrap();
    let data = folder.path().join("data");
    let arguments = ["--config", config.to_str().unwrap()];
    let (mut program, address) = Program::serve(&data, &arguments);
    let key = |line: String| line.split_whitespace().last().unwrap().to_owned();
    let secret = key(program.line_with("  secret "));
    let mgmt = key(program.line_with("  mgmt "));
    let plan = |address, plan: &str| {
        let body = json!({ "plan": plan });
        call(address, "PATCH", "/api/v1/apps/self", Some(&mgmt), &body).status
    };
    assert_eq!(plan(address, "light"), 200);
    let publish = |address| {
        let answer = HttpClient::connect(address).publish(&secret, &publish_body("c", &json!(1)));
        (answer.json()["data"]["offset"].clone(), answer.json()["data"]["epoch"].clone())
    };
    let first = publish(address);
    // With channels there, memory and disk are not exchanged for one another.
    assert_eq!(plan(address, "free"), 409);
    program.signal(Signal::TERM);
    assert!(program.output().status.success());
    let (_program, address) = Program::serve(&data, &arguments);
    let second = publish(address);
    assert_eq!((&first.0, &second.0), (&json!(1), &json!(1)));
    assert_ne!(first.1, second.1);
}
