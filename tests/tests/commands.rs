//! Each command has one answer, and the answers about a channel come in the order of the commands,
//! also when a client sends all of them in one breath.

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, publish_body};
use pushflo_tests::server::{SECRET_KEY, start};
use serde_json::{Value, json};
use tungstenite::Message;

/// Sends all commands in one write.
fn send_at_once(client: &mut Subscriber, commands: &[Value]) {
    for command in commands {
        client.socket.write(Message::text(command.to_string())).unwrap();
    }
    client.socket.flush().unwrap();
}

fn subscribe(channel: &str) -> Value {
    json!({ "type": "subscribe", "channel": channel })
}

fn unsubscribe(channel: &str) -> Value {
    json!({ "type": "unsubscribe", "channel": channel })
}

#[test]
fn commands_in_one_breath_are_answered_one_by_one_in_their_order() {
    for (shards, durability) in [(1, "memory"), (1, "os"), (4, "memory"), (4, "os")] {
        let server = start(shards, &format!("[history]\ndurability = '{durability}'"));
        let mut http = HttpClient::connect(server.address);
        let mut client = Subscriber::connect(server.address);
        for round in 0..20 {
            let channel = format!("c{round}");
            let mut epoch = Value::Null;
            for n in 1..=3 {
                let answer = http.publish(SECRET_KEY, &publish_body(&channel, &json!(n)));
                epoch = answer.json()["data"]["epoch"].clone();
            }
            let mut recover = subscribe(&channel);
            recover["recover"] = json!({ "epoch": epoch, "offset": 1 });
            let mut replay = subscribe(&channel);
            replay["replay"] = json!({ "last": 1 });
            let commands = [
                subscribe(&channel),
                unsubscribe(&channel),
                recover,
                unsubscribe(&channel),
                unsubscribe(&channel),
                replay,
                subscribe(&channel),
                json!({ "type": "ping" }),
            ];
            send_at_once(&mut client, &commands);
            let mut told = Vec::new();
            while told.last() != Some(&json!("pong")) {
                let event = client.event();
                told.push(match event["type"].as_str().unwrap() {
                    "subscribed" => json!([event["recovered"], event["replayed"]]),
                    "message" => event["data"].clone(),
                    other => json!(other),
                });
            }
            let expected = json!([
                [null, null],
                "unsubscribed",
                [true, 2],
                2,
                3,
                "unsubscribed",
                "unsubscribed",
                [true, 1],
                3,
                [null, null],
                "pong",
            ]);
            assert_eq!(json!(told), expected);
            send_at_once(&mut client, &[unsubscribe(&channel)]);
            assert_eq!(client.event()["type"], "unsubscribed");
        }
    }
}

#[test]
fn a_connection_that_closes_with_commands_waiting_leaves_nothing_behind() {
    let server = start(4, "");
    for round in 0..50 {
        let mut client = Subscriber::connect(server.address);
        let channel = format!("c{}", round % 5);
        let commands: Vec<_> =
            (0..9).flat_map(|_| [subscribe(&channel), unsubscribe(&channel)]).collect();
        send_at_once(&mut client, &commands);
        client.socket.close(None).unwrap();
        // Read on to the end; what was answered until then does not matter.
        while client.socket.read().is_ok() {}
    }
    let mut client = Subscriber::connect(server.address);
    for n in 0..5 {
        client.subscribe(&format!("c{n}"));
    }
    let mut http = HttpClient::connect(server.address);
    for n in 0..5 {
        let answer = http.publish(SECRET_KEY, &publish_body(&format!("c{n}"), &json!(n)));
        assert_eq!(answer.json()["data"]["delivered"], 1);
        assert_eq!(client.message().data, json!(n));
    }
    drop(client);
    while server.metric("pushflo_subscriptions") > 0 || server.metric("pushflo_tail_bytes") > 0 {}
}
