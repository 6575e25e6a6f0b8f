//! Whoever must wait, for room or for a process that stood still, is served as soon as it can be.

use std::io::Write as _;
use std::time::Duration;

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, request};
use pushflo_tests::program::{Program, command};
use pushflo_tests::server::{PUBLISH_KEY, SECRET_KEY, start};
use rustix::process::Signal;
use serde_json::json;

/// Room for a few answers, so that input waits all the time.
const NARROW: &str = "[limits]\nout_bytes = 4096\npipelined_requests = 4";

#[test]
fn pipelined_requests_that_had_to_wait_are_all_answered() {
    for (limits, requests) in [(NARROW, 4_000), ("", 8_000)] {
        let server = start(1, limits);
        let mut http = HttpClient::connect(server.address);
        let mut stream = http.stream.try_clone().unwrap();
        let all = request("GET", "/health", None, "").repeat(requests);
        std::thread::scope(|scope| {
            scope.spawn(move || stream.write_all(&all).unwrap());
            // Nothing is read before the server has said all that it may and waits. Each look is a
            // request of its own.
            let (mut read, mut quiet) = (0, 0);
            while quiet < 5 {
                std::thread::sleep(Duration::from_millis(20));
                let now = server.metric("pushflo_http_requests_total");
                quiet = if now <= read + 1 { quiet + 1 } else { 0 };
                read = now;
            }
            for answered in 0..requests {
                let answer = http.answer();
                assert_eq!(answer.map(|answer| answer.status), Some(200), "after {answered}");
            }
        });
    }
}

#[test]
fn publishes_of_a_client_that_had_to_wait_are_all_answered_in_order() {
    const PUBLISHES: usize = 1_000;
    for shards in [1, 4] {
        let server = start(shards, NARROW);
        let mut client = Subscriber::connect_with(server.address, SECRET_KEY);
        assert_eq!(client.event()["type"], "connected");
        for n in 0..PUBLISHES {
            let publish = json!({
                "type": "publish", "channel": format!("c{}", n % 7), "data": n, "ref": n.to_string(),
            });
            client.send(publish);
        }
        for n in 0..PUBLISHES {
            let event = client.event();
            assert_eq!(
                (&event["type"], &event["ref"]),
                (&json!("published"), &json!(n.to_string()))
            );
        }
    }
}

#[test]
fn who_was_heard_while_the_process_stood_still_was_not_silent() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("pushflo.toml");
    std::fs::write(&config, "[timeouts]\nping_ms = 1000\npong_ms = 1000\n").unwrap();
    let folder = data.path().join("data");
    let mut serve = command(&["serve", "--listen", "127.0.0.1:0", "--shards", "1"]);
    serve.args(["--data-dir", folder.to_str().unwrap(), "--config", config.to_str().unwrap()]);
    serve.env("PUSHFLO_PUBLISH_KEY", PUBLISH_KEY);
    let mut program = Program::spawn(serve);
    let address = program.address();
    let mut clients: Vec<_> = (0..50).map(|_| Subscriber::connect(address)).collect();
    // All are pinged, and none has answered yet.
    for client in &mut clients {
        assert!(client.socket.read().unwrap().is_ping());
    }
    program.signal(Signal::STOP);
    for client in &mut clients {
        client.socket.flush().unwrap();
        client.send(json!({ "type": "ping" }));
    }
    // Longer than both time-outs together, by far: this is the pause itself.
    std::thread::sleep(Duration::from_secs(4));
    program.signal(Signal::CONT);
    for client in &mut clients {
        assert_eq!(client.event()["type"], "pong");
    }
    program.signal(Signal::TERM);
    drop(clients);
    assert!(program.output().status.success());
}
