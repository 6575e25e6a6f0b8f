//! A drain answers what is under way, closes subscribers with 1001, and ends.

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, publish_body, request};
use pushflo_tests::program::Program;
use pushflo_tests::server::{SECRET_KEY, start};
use rustix::process::Signal;
use serde_json::{Value, json};

#[test]
fn subscribers_are_told_to_come_back_and_publishes_are_answered() {
    for shards in [1, 2, 4] {
        let server = start(shards, "");
        let address = server.address;
        let mut subscribers: Vec<_> = (0..10).map(|_| Subscriber::connect(address)).collect();
        for subscriber in &mut subscribers {
            subscriber.subscribe("c");
        }
        let mut http = HttpClient::connect(address);
        let one =
            request("POST", "/api/v1/publish", Some(SECRET_KEY), &publish_body("c", &json!(1)));
        http.send(&one.repeat(50));
        // The first answer shows that all fifty were read.
        let mut answered = u64::from(http.answer().unwrap().status == 200);
        server.drain();
        while let Some(answer) = http.answer() {
            assert_eq!(answer.status, 200);
            answered += 1;
        }
        for subscriber in &mut subscribers {
            let mut seen = 0;
            let (code, reason) = loop {
                match subscriber.socket.read().unwrap() {
                    tungstenite::Message::Text(_) => seen += 1,
                    tungstenite::Message::Close(frame) => {
                        let frame = frame.unwrap();
                        break (u16::from(frame.code), frame.reason.to_string());
                    }
                    _ => {}
                }
            };
            assert_eq!(code, 1001);
            let reason: Value = serde_json::from_str(&reason).unwrap();
            assert!(reason["retryAfterMs"].is_u64(), "{reason}");
            assert!(seen <= answered);
            // Answers the close frame, as every client does.
            let _ = subscriber.socket.flush();
        }
        drop((subscribers, http));
        server.join();
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}

/// Containers are killed ten seconds after they are told to stop.
#[test]
fn a_drain_ends_in_time_whoever_is_in_the_middle_of_something() {
    let folder = tempfile::tempdir().unwrap();
    let (mut program, address) = Program::serve(&folder.path().join("data"), &[]);
    let mut half_head = HttpClient::connect(address);
    half_head.send(b"GET /health HTTP/1.1\r\nHost: ");
    let mut half_body = HttpClient::connect(address);
    half_body.send(b"POST /api/v1/publish HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{");
    // Both were read when a request behind them is answered.
    let mut health = HttpClient::connect(address);
    health.send(&request("GET", "/health", None, ""));
    assert_eq!(health.answer().unwrap().status, 200);
    let told = std::time::Instant::now();
    program.signal(Signal::TERM);
    assert!(program.output().status.success());
    assert!(told.elapsed() < std::time::Duration::from_secs(10));
}
