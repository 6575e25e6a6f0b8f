//! Channels through the API: metadata, private ones, deletion, lists; and who is there.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{Answer, HttpClient, call, get, post, publish_body, request};
use pushflo_tests::program::Program;
use pushflo_tests::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY, start};
use rustix::process::Signal;
use serde_json::{Value, json};

const CHANNELS: &str = "/api/v1/channels";

fn manage(address: SocketAddr, method: &str, target: &str, body: Value) -> Answer {
    call(address, method, target, Some(MANAGE_KEY), &body)
}

fn channel(address: SocketAddr, slug: &str) -> Value {
    let answer = get(address, &format!("{CHANNELS}/{slug}"), Some(SECRET_KEY));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"].clone()
}

fn publish(address: SocketAddr, channel: &str, data: Value) -> Value {
    let answer = post(address, "/api/v1/publish", Some(SECRET_KEY), &publish_body(channel, &data));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"].clone()
}

/// A token for a client, as the server issues it to a backend.
fn token(address: SocketAddr, client: &str, data: Value) -> String {
    let body = json!({ "clientId": client, "channels": ["*"], "data": data }).to_string();
    let answer = post(address, "/api/v1/auth/token", Some(SECRET_KEY), &body);
    answer.json()["data"]["token"].as_str().unwrap().into()
}

#[test]
fn metadata_are_added_changed_and_listed() {
    for shards in [1, 4] {
        let server = start(shards, "");
        let address = server.address;
        let body = json!({
            "name": "Orders", "slug": "orders", "description": "All of them",
            "metadata": { "n": 12345678901234567890u64 }, "unknown": 1,
        });
        let created = manage(address, "POST", CHANNELS, body.clone());
        assert_eq!(created.status, 201);
        let created = created.json()["data"].clone();
        for (field, value) in [
            ("name", json!("Orders")),
            ("slug", json!("orders")),
            ("description", json!("All of them")),
            ("isPrivate", json!(false)),
            ("metadata", json!({ "n": 12345678901234567890u64 })),
            ("messageCount", json!(0)),
        ] {
            assert_eq!(created[field], value, "{created}");
        }
        assert_eq!(manage(address, "POST", CHANNELS, body).status, 409);
        // One that is only used exists too, and may be given metadata later.
        for n in 1..=3 {
            publish(address, "used", json!(n));
        }
        assert_eq!(channel(address, "used")["messageCount"], 3);
        let body = json!({ "name": "Used", "slug": "used" });
        assert_eq!(manage(address, "POST", CHANNELS, body).status, 201);
        let used = channel(address, "used");
        assert_eq!((&used["name"], &used["messageCount"]), (&json!("Used"), &json!(3)));
        let target = format!("{CHANNELS}/orders");
        let changed =
            manage(address, "PATCH", &target, json!({ "description": null, "name": "O" }));
        assert_eq!(changed.status, 200);
        let changed = channel(address, "orders");
        assert_eq!(changed["description"], Value::Null);
        assert_eq!((&changed["name"], &changed["id"]), (&json!("O"), &created["id"]));
        assert_eq!(changed["metadata"], created["metadata"]);
        for (method, target, body, status) in [
            ("PATCH", "/api/v1/channels/nothing", json!({ "name": "x" }), 404),
            ("DELETE", "/api/v1/channels/nothing", Value::Null, 404),
            ("POST", CHANNELS, json!({ "name": "x" }), 400),
            ("POST", CHANNELS, json!({ "slug": "x" }), 400),
            ("POST", CHANNELS, json!({ "slug": "a b", "name": "x" }), 400),
            ("POST", CHANNELS, json!({ "slug": "x", "name": "" }), 400),
            ("POST", CHANNELS, json!({ "slug": "x", "name": "n".repeat(129) }), 400),
            ("POST", CHANNELS, json!({ "slug": "x", "name": "x", "metadata": [1] }), 400),
            ("POST", CHANNELS, json!({ "slug": "x", "name": "x", "isPrivate": "yes" }), 400),
            (
                "POST",
                CHANNELS,
                json!({ "slug": "x", "name": "x", "metadata": { "x": "y".repeat(9_000) } }),
                400,
            ),
        ] {
            let answer = manage(address, method, target, body.clone());
            assert_eq!(answer.status, status, "{method} {target} {body}: {}", answer.text());
        }
        // Pages over all shards: each channel once, in order.
        for n in 0..60 {
            publish(address, &format!("c-{n:02}"), json!(n));
        }
        let mut seen = Vec::new();
        for page in 1..=4 {
            let target = format!("{CHANNELS}?page={page}&pageSize=20");
            let list = get(address, &target, Some(SECRET_KEY)).json();
            let (total, pages) = (&list["pagination"]["total"], &list["pagination"]["totalPages"]);
            assert_eq!((total, pages), (&json!(62), &json!(4)));
            let slugs = list["data"].as_array().unwrap().iter();
            seen.extend(slugs.map(|c| c["slug"].as_str().unwrap().to_owned()));
        }
        assert_eq!(seen.len(), 62);
        assert!(seen.is_sorted(), "{seen:?}");
        let beyond = get(address, &format!("{CHANNELS}?page=9007199254740991"), Some(SECRET_KEY));
        assert_eq!((beyond.status, &beyond.json()["data"]), (200, &json!([])));
    }
}

#[test]
fn a_channel_that_turns_private_sends_away_who_may_not_be_there() {
    for shards in [1, 4] {
        let server = start(shards, "");
        let address = server.address;
        let mut guests: Vec<Subscriber> = (0..8).map(|_| Subscriber::connect(address)).collect();
        guests.iter_mut().for_each(|guest| drop(guest.subscribe("c")));
        let mut member = Subscriber::connect_with(address, &token(address, "ann", Value::Null));
        member.event();
        member.subscribe("c");
        let body = json!({ "isPrivate": true });
        assert_eq!(manage(address, "PATCH", &format!("{CHANNELS}/c"), body).status, 200);
        for guest in &mut guests {
            assert_eq!(guest.event()["code"], "FORBIDDEN");
            assert_eq!(guest.event(), json!({ "type": "unsubscribed", "channel": "c" }));
            guest.send(json!({ "type": "subscribe", "channel": "c" }));
            assert_eq!(guest.event()["code"], "FORBIDDEN");
        }
        assert_eq!(publish(address, "c", json!(1))["delivered"], 1);
        assert_eq!(member.message().data, json!(1));
    }
}

/// Once the change is answered nothing more reaches those who may not be there, however busy their
/// shard is.
#[test]
fn nothing_published_after_a_channel_turned_private_reaches_a_guest() {
    let server = start(4, "");
    let address = server.address;
    let mut guests: Vec<Subscriber> = (0..8).map(|_| Subscriber::connect(address)).collect();
    let mut http = HttpClient::connect(address);
    for round in 0..30 {
        let slug = format!("c{round}");
        guests.iter_mut().for_each(|guest| drop(guest.subscribe(&slug)));
        publish(address, &slug, json!("before"));
        // Their shards have something to do.
        for guest in &mut guests {
            for _ in 0..200 {
                let other = json!({ "type": "unsubscribe", "channel": "other" });
                guest.socket.write(tungstenite::Message::text(other.to_string())).unwrap();
            }
            guest.socket.flush().unwrap();
        }
        let body = json!({ "isPrivate": true });
        assert_eq!(manage(address, "PATCH", &format!("{CHANNELS}/{slug}"), body).status, 200);
        for n in 0..5 {
            assert_eq!(http.publish(SECRET_KEY, &publish_body(&slug, &json!(n))).status, 200);
        }
        for guest in &mut guests {
            guest.send(json!({ "type": "ping" }));
            let mut told = Vec::new();
            loop {
                let event = guest.event();
                match event["type"].as_str().unwrap() {
                    "pong" => break,
                    "unsubscribed" if event["channel"] == "other" => {}
                    "message" => told.push(event["data"].clone()),
                    "error" => told.push(event["code"].clone()),
                    other => told.push(other.into()),
                }
            }
            assert_eq!(told, [json!("before"), json!("FORBIDDEN"), json!("unsubscribed")]);
        }
    }
}

/// A deleted channel is gone with its history; one of the same name is another.
#[test]
fn deletion_takes_history_and_subscribers() {
    for (shards, extra) in [(1, ""), (4, ""), (2, "[history]\ndurability = 'memory'")] {
        let server = start(shards, extra);
        let address = server.address;
        let mut subscribers: Vec<Subscriber> =
            (0..6).map(|_| Subscriber::connect(address)).collect();
        let mut position = Value::Null;
        for subscriber in &mut subscribers {
            position = subscriber.subscribe("c");
        }
        let first = publish(address, "c", json!("old"));
        let target = format!("{CHANNELS}/c");
        assert_eq!(manage(address, "DELETE", &target, Value::Null).status, 204);
        for subscriber in &mut subscribers {
            assert_eq!(subscriber.message().data, json!("old"));
            assert_eq!(subscriber.event(), json!({ "type": "unsubscribed", "channel": "c" }));
        }
        assert_eq!(get(address, &target, Some(SECRET_KEY)).status, 404);
        let history = get(address, &format!("{target}/messages"), Some(SECRET_KEY)).json();
        assert_eq!(history["data"]["pagination"]["total"], 0);
        let second = publish(address, "c", json!("new"));
        assert_eq!((&second["offset"], &second["delivered"]), (&json!(1), &json!(0)));
        assert_ne!(second["epoch"], first["epoch"]);
        let again = subscribers[0].subscribe_with(json!({
            "type": "subscribe", "channel": "c",
            "recover": { "epoch": position["epoch"], "offset": position["offset"] },
        }));
        assert_eq!((&again["recovered"], &again["offset"]), (&json!(false), &json!(1)));
    }
}

/// Channels with all that was set of them, and deletions, outlive the server; epochs do not come back.
#[test]
fn channels_outlive_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let (mut program, address) = Program::serve(folder.path(), &[]);
    let key = |line: String| line.split_whitespace().last().unwrap().to_owned();
    let secret = key(program.line_with("  secret "));
    let mgmt = key(program.line_with("  mgmt "));
    let body = json!({ "name": "Kept", "slug": "kept", "isPrivate": true, "metadata": { "a": 1 } });
    let kept = call(address, "POST", CHANNELS, Some(&mgmt), &body).json()["data"].clone();
    let publish = |address, channel: &str| {
        let body = publish_body(channel, &json!(1));
        post(address, "/api/v1/publish", Some(&secret), &body).json()["data"].clone()
    };
    publish(address, "kept");
    let mut epochs = BTreeSet::new();
    epochs.insert(publish(address, "gone")["epoch"].to_string());
    let target = format!("{CHANNELS}/gone");
    assert_eq!(call(address, "DELETE", &target, Some(&mgmt), &Value::Null).status, 204);
    program.signal(Signal::KILL);
    program.output();
    let (mut program, address) = Program::serve(folder.path(), &["--shards", "1"]);
    let again = get(address, &format!("{CHANNELS}/kept"), Some(&secret)).json()["data"].clone();
    for field in ["id", "name", "isPrivate", "metadata", "createdAt", "updatedAt"] {
        assert_eq!(again[field], kept[field], "{field}");
    }
    assert_eq!(again["messageCount"], 1);
    assert_eq!(get(address, &target, Some(&secret)).status, 404);
    assert!(epochs.insert(publish(address, "gone")["epoch"].to_string()));
    assert_eq!(call(address, "DELETE", &target, Some(&mgmt), &Value::Null).status, 204);
    assert!(epochs.insert(publish(address, "gone")["epoch"].to_string()));
    program.signal(Signal::TERM);
    assert!(program.output().status.success());
}

#[test]
fn an_app_may_require_that_channels_are_created_first() {
    let server = start(2, "");
    let address = server.address;
    publish(address, "used", json!(1));
    let settings = json!({ "settings": { "requireChannels": true } });
    assert_eq!(manage(address, "PATCH", "/api/v1/apps/self", settings).status, 200);
    let body = json!({ "name": "Made", "slug": "made" });
    assert_eq!(manage(address, "POST", CHANNELS, body).status, 201);
    let mut subscriber = Subscriber::connect(address);
    subscriber.subscribe("made");
    for channel in ["used", "new"] {
        let body = publish_body(channel, &json!(1));
        let answer = post(address, "/api/v1/publish", Some(SECRET_KEY), &body);
        assert_eq!((answer.status, &answer.json()["code"]), (404, &json!("NOT_FOUND")));
        subscriber.send(json!({ "type": "subscribe", "channel": channel }));
        assert_eq!(subscriber.event()["code"], "NOT_FOUND");
    }
    assert_eq!(publish(address, "made", json!(1))["delivered"], 1);
}

#[test]
fn members_are_known_to_each_other() {
    for shards in [1, 4] {
        let server = start(shards, "[presence]\ninterval_ms = 0\ngrace_ms = 500");
        let address = server.address;
        let body = json!({ "name": "Room", "slug": "room", "presence": true });
        assert_eq!(manage(address, "POST", CHANNELS, body).status, 201);
        let join = |client: &str, presence: bool| {
            let token = token(address, client, json!({ "name": client.to_uppercase() }));
            let mut subscriber = Subscriber::connect_with(address, &token);
            subscriber.event();
            let command = json!({ "type": "subscribe", "channel": "room", "presence": presence });
            subscriber.subscribe_with(command);
            subscriber
        };
        let ids = |members: &Value| -> Vec<String> {
            let members = members.as_array().into_iter().flatten();
            members.map(|m| m["clientId"].as_str().unwrap().to_owned()).collect()
        };
        let mut ann = join("ann", true);
        assert_eq!(ann.event()["members"], json!([]));
        let joined = ann.event();
        assert_eq!(joined["joined"], json!([{ "clientId": "ann", "data": { "name": "ANN" } }]));
        let mut bob = join("bob", true);
        assert_eq!(ids(&bob.event()["members"]), ["ann"]);
        assert_eq!(ids(&ann.event()["joined"]), ["bob"]);
        assert_eq!(ids(&bob.event()["joined"]), ["bob"]);
        // A second connection of the same client joins nothing and leaves nothing.
        let second = join("ann", false);
        let presence = || {
            let target = format!("{CHANNELS}/room/presence");
            get(address, &target, Some(SECRET_KEY)).json()
        };
        let there = presence();
        assert_eq!(
            (&there["data"]["subscribers"], &there["data"]["count"]),
            (&json!(3), &json!(2))
        );
        assert_eq!(ids(&there["data"]["members"]), ["ann", "bob"]);
        assert_eq!(there["data"]["pagination"], Value::Null);
        drop(second);
        // One that is back within the grace time never left; one that is not has.
        drop(bob);
        let mut bob = join("bob", true);
        assert_eq!(ids(&bob.event()["members"]), ["ann", "bob"]);
        let carl = join("carl", false);
        assert_eq!(ids(&ann.event()["joined"]), ["carl"]);
        carl.socket.get_ref().0.shutdown(std::net::Shutdown::Both).unwrap();
        let left = ann.event();
        assert_eq!((ids(&left["left"]), &left["count"]), (vec!["carl".to_owned()], &json!(2)));
        assert_eq!(ids(&bob.event()["joined"]), ["carl"]);
        assert_eq!(ids(&bob.event()["left"]), ["carl"]);
        // Leaving by a command counts too, and counts are right where nobody is named.
        bob.send(json!({ "type": "unsubscribe", "channel": "room" }));
        assert_eq!(bob.event()["type"], "unsubscribed");
        assert_eq!(ids(&ann.event()["left"]), ["bob"]);
        let mut public = Subscriber::connect_with(address, PUBLISH_KEY);
        public.event();
        public.subscribe("plain");
        let target = format!("{CHANNELS}/plain/presence");
        let plain = get(address, &target, Some(SECRET_KEY)).json();
        assert_eq!(
            (&plain["data"]["subscribers"], &plain["data"]["count"]),
            (&json!(1), &json!(0))
        );
        let target = format!("{CHANNELS}/nothing/presence");
        assert_eq!(get(address, &target, Some(SECRET_KEY)).status, 404);
    }
}

/// A channel that is deleted while it is published to, again and again: what was acknowledged last is
/// there after a crash, and nothing of those before.
#[test]
fn channels_are_deleted_under_load_and_made_again() {
    for durability in ["os", "disk"] {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["--durability", durability];
        let (mut program, address) = Program::serve(folder.path(), &arguments);
        let key = |line: String| line.split_whitespace().last().unwrap().to_owned();
        let secret = key(program.line_with("  secret "));
        let mgmt = key(program.line_with("  mgmt "));
        // Deletion and publishes in one write, so that they meet in one group of the log.
        let mut client = HttpClient::connect(address);
        for round in 0..50 {
            let mut all = Vec::new();
            for n in 0..5 {
                let body = publish_body("c", &json!([round, "before", n]));
                all.extend(request("POST", "/api/v1/publish", Some(&secret), &body));
            }
            all.extend(request("DELETE", &format!("{CHANNELS}/c"), Some(&mgmt), ""));
            client.send(&all);
            for _ in 0..5 {
                assert_eq!(client.answer().unwrap().status, 200);
            }
            // The answer comes when the log has it; what is published meanwhile is the new channel's.
            assert_eq!(client.answer().unwrap().status, 204);
        }
        let mut all = request("DELETE", &format!("{CHANNELS}/c"), Some(&mgmt), "");
        // Some of these still meet the old channel and go with it; the others are the new one's.
        for n in 0..100 {
            let body = publish_body("c", &json!(["kept", n]));
            all.extend(request("POST", "/api/v1/publish", Some(&secret), &body));
        }
        client.send(&all);
        client.answer().unwrap();
        let answers: Vec<Value> = (0..100).map(|_| client.answer().unwrap().json()).collect();
        let epoch = || {
            let channel = get(address, &format!("{CHANNELS}/c"), Some(&secret)).json();
            channel["data"]["id"].as_str().map(|id| id.trim_start_matches("ch_").to_owned())
        };
        let epoch = epoch();
        let history = |address| {
            let target = format!("{CHANNELS}/c/messages?pageSize=100");
            get(address, &target, Some(&secret)).json()["data"]["items"].clone()
        };
        let before = history(address);
        program.signal(Signal::KILL);
        program.output();
        let (_program, address) = Program::serve(folder.path(), &arguments);
        assert_eq!(history(address), before);
        let ids: Vec<&Value> =
            before.as_array().unwrap().iter().rev().map(|item| &item["id"]).collect();
        let answers = answers.iter().map(|answer| &answer["data"]);
        let of_it = answers.filter(|answer| answer["epoch"].as_str() == epoch.as_deref());
        assert_eq!(of_it.map(|answer| &answer["id"]).collect::<Vec<_>>(), ids);
        let next = HttpClient::connect(address).publish(&secret, &publish_body("c", &json!(1)));
        if let Some(epoch) = epoch {
            assert_eq!(next.json()["data"]["epoch"], epoch);
        }
    }
}

/// Presence that is switched on knows who is there already, and off and on again counts nobody twice.
#[test]
fn presence_is_switched_on_while_there_are_subscribers() {
    for shards in [1, 4] {
        let server = start(shards, "[presence]\ninterval_ms = 0\ngrace_ms = 250");
        let address = server.address;
        let connect = |client: &str| {
            let token = token(address, client, Value::Null);
            let mut subscriber = Subscriber::connect_with(address, &token);
            subscriber.event();
            subscriber
        };
        let (mut ann, mut first, mut second) = (connect("ann"), connect("bob"), connect("bob"));
        for subscriber in [&mut ann, &mut first, &mut second] {
            subscriber.subscribe("room");
        }
        let switch = |on: bool| {
            let body = json!({ "presence": on });
            assert_eq!(manage(address, "PATCH", &format!("{CHANNELS}/room"), body).status, 200);
        };
        switch(true);
        switch(false);
        switch(true);
        let members = || {
            let target = format!("{CHANNELS}/room/presence");
            let there = get(address, &target, Some(SECRET_KEY)).json()["data"].clone();
            let ids = there["members"].as_array().unwrap().iter();
            ids.map(|m| m["clientId"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        while members() != ["ann", "bob"] {}
        // Who is there already may ask for it afterwards.
        ann.send(json!({ "type": "subscribe", "channel": "room", "presence": true }));
        let told = loop {
            let event = ann.event();
            if event["type"] == "presence" {
                break event;
            }
        };
        assert!(told["members"].is_array(), "{told}");
        // One of two connections of a client leaves nobody.
        second.send(json!({ "type": "unsubscribe", "channel": "room" }));
        assert_eq!(second.event()["type"], "unsubscribed");
        let mut carl = connect("carl");
        carl.subscribe("room");
        while members() != ["ann", "bob", "carl"] {}
        first.send(json!({ "type": "unsubscribe", "channel": "room" }));
        while members() != ["ann", "carl"] {}
    }
}

/// A private channel is not kept by renewing with a token that would not open it.
#[test]
fn a_weaker_token_does_not_keep_a_private_channel() {
    let server = start(2, "");
    let address = server.address;
    let body = json!({ "name": "Orders", "slug": "orders", "isPrivate": true });
    assert_eq!(manage(address, "POST", CHANNELS, body).status, 201);
    let mut ann = Subscriber::connect_with(address, &token(address, "ann", Value::Null));
    ann.event();
    ann.subscribe("orders");
    let body = json!({ "clientId": "ann", "channels": ["*"] }).to_string();
    let weak = post(address, "/api/v1/auth/token", Some(PUBLISH_KEY), &body).json();
    // A client id that the backend vouched for is not kept by a token that any browser may have.
    ann.send(json!({ "type": "refresh", "token": weak["data"]["token"] }));
    assert_eq!(ann.event()["code"], "UNAUTHORIZED");
    let body = json!({ "clientId": "ann", "channels": ["news"] }).to_string();
    let fewer = post(address, "/api/v1/auth/token", Some(SECRET_KEY), &body).json();
    // The subscription is asked for again right behind, which must not bring it back.
    ann.send(json!({ "type": "refresh", "token": fewer["data"]["token"] }));
    ann.send(json!({ "type": "subscribe", "channel": "orders" }));
    assert_eq!(ann.event()["type"], "refreshed");
    assert_eq!(ann.event()["code"], "FORBIDDEN");
    assert_eq!(ann.event()["type"], "unsubscribed");
    assert_eq!(ann.event()["code"], "FORBIDDEN");
    assert_eq!(publish(address, "orders", json!(1))["delivered"], 0);
}

/// Whoever has the publish key may call itself ann, and is told apart from the ann of the backend.
#[test]
fn a_client_id_that_nobody_vouched_for_takes_nothing_from_one_that_is() {
    let server = start(2, "[presence]\ninterval_ms = 0");
    let address = server.address;
    let body = json!({ "name": "Room", "slug": "room", "presence": true });
    assert_eq!(manage(address, "POST", CHANNELS, body).status, 201);
    let mut ann =
        Subscriber::connect_with(address, &token(address, "ann", json!({ "admin": true })));
    ann.event();
    ann.subscribe_with(json!({ "type": "subscribe", "channel": "room", "presence": true }));
    let told = |ann: &mut Subscriber| loop {
        let event = ann.event();
        if event["joined"].as_array().is_some_and(|joined| !joined.is_empty()) {
            return event["joined"].clone();
        }
    };
    assert_eq!(told(&mut ann), json!([{ "clientId": "ann", "data": { "admin": true } }]));
    let asked = json!({ "clientId": "ann" }).to_string();
    let asked = post(address, "/api/v1/auth/token", Some(PUBLISH_KEY), &asked).json();
    let shown = asked["data"]["token"].as_str().unwrap();
    let mut mallory = Subscriber::connect_with(address, shown);
    assert_eq!(mallory.event()["clientId"], "ann");
    mallory.subscribe("room");
    assert_eq!(told(&mut ann), json!([{ "clientId": "ann", "verified": false }]));
    let members = get(address, &format!("{CHANNELS}/room/presence"), Some(SECRET_KEY)).json();
    assert_eq!(
        members["data"]["members"],
        json!([
            { "clientId": "ann", "verified": false },
            { "clientId": "ann", "data": { "admin": true } },
        ])
    );
}
