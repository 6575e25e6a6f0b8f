//! A subscriber that does not read is closed with 4008; the others do not notice.

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, publish_body};
use pushflo_tests::server::{SECRET_KEY, start};
use serde_json::json;

#[test]
fn a_slow_subscriber_is_closed_while_the_others_go_on() {
    for shards in [1, 2, 4] {
        let server = start(shards, "[limits]\ntail_bytes = 262144\n[timeouts]\nlinger_ms = 20000");
        let mut slow = Subscriber::connect(server.address);
        let position = slow.subscribe("c");
        let mut quick = Subscriber::connect(server.address);
        quick.subscribe("c");
        let mut http = HttpClient::connect(server.address);
        let data = json!("x".repeat(30_000));
        let mut sent = 0;
        // The kernel buffers some megabytes for the slow one before it counts as slow.
        while server.metric("pushflo_slow_consumers_total") == 0 {
            assert!(sent < 2_000, "never too slow");
            for _ in 0..10 {
                sent += 1;
                assert_eq!(http.publish(SECRET_KEY, &publish_body("c", &data)).status, 200);
                assert_eq!(quick.message().offset, sent);
            }
        }
        // What it gets until the close frame has no gap; it comes back and recovers the rest.
        let mut last = 0;
        let code = loop {
            match slow.socket.read().unwrap() {
                tungstenite::Message::Text(text) => {
                    let event = serde_json::from_str(&text).unwrap();
                    let message = pushflo_tests::client::seen(&event).unwrap();
                    assert_eq!(message.offset, last + 1);
                    last = message.offset;
                }
                tungstenite::Message::Close(frame) => break frame.unwrap().code,
                _ => {}
            }
        };
        assert_eq!(u16::from(code), 4008);
        assert!(last < sent);
        let mut back = Subscriber::connect(server.address);
        let recover = json!({ "epoch": position["epoch"], "offset": last });
        let answer =
            back.subscribe_with(json!({ "type": "subscribe", "channel": "c", "recover": recover }));
        assert_eq!(
            (&answer["recovered"], &answer["replayed"]),
            (&json!(true), &json!(sent - last))
        );
        for offset in last + 1..=sent {
            assert_eq!(back.message().offset, offset);
        }
    }
}
