//! A drain answers what is under way, closes subscribers with 1001, and ends.

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, publish_body, request};
use pushflo_tests::server::{SECRET_KEY, start};
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
