//! Two apps on one server do not see each other, whatever identifier they try.

use pushflo_tests::api::{Api, TestApp};
use pushflo_tests::client::Subscriber;
use pushflo_tests::server::{MANAGE_KEY, TestServer, start};
use serde_json::{Value, json};

const PUBLISH: (&str, &str) = ("POST", "/api/v1/publish");
const TOKEN: (&str, &str) = ("POST", "/api/v1/auth/token");

fn two_apps(shards: usize) -> (TestServer, Api, [TestApp; 2]) {
    let server = start(shards, "[limits]\nwrong_keys_per_second = 1000000");
    let mut api = Api::connect(server.address);
    let apps = [api.create_app("a"), api.create_app("b")];
    (server, api, apps)
}

fn connect(server: &TestServer, shown: &str) -> Subscriber {
    let mut subscriber = Subscriber::connect_with(server.address, shown);
    let event = subscriber.event();
    assert_eq!(event["type"], "connected", "{event}");
    subscriber
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

#[test]
fn channels_of_one_slug_are_two() {
    for shards in [1, 4] {
        let (server, mut api, [a, b]) = two_apps(shards);
        // The same slugs in both apps, each described, counted and kept for itself.
        for slug in ["c", "d", "e", "f", "orders"] {
            let target = format!("/api/v1/channels/{slug}");
            for (app, private) in [(&a, true), (&b, false)] {
                let body = json!({ "slug": slug, "name": app.id, "isPrivate": private });
                api.done(201, ("POST", "/api/v1/channels"), &app.mgmt, &body);
            }
            let mut in_a = connect(&server, &a.secret);
            let mut in_b = connect(&server, &b.publish);
            let refused = {
                let mut stranger = connect(&server, &a.publish);
                stranger.send(json!({ "type": "subscribe", "channel": slug }));
                stranger.event()
            };
            assert_eq!(refused["type"], "error", "private in one app: {refused}");
            in_a.subscribe(slug);
            in_b.subscribe(slug);
            // What is published in the one comes before what the other waits for, and does not come
            // there.
            for n in 0..3 {
                let body = json!({ "channel": slug, "data": ["a", n] });
                let result = api.done(200, PUBLISH, &a.secret, &body);
                assert_eq!((&result["offset"], &result["delivered"]), (&json!(n + 1), &json!(1)));
            }
            let body = json!({ "channel": slug, "data": ["b", 0] });
            let result = api.done(200, PUBLISH, &b.secret, &body);
            assert_eq!((&result["offset"], &result["delivered"]), (&json!(1), &json!(1)));
            let message = in_b.message();
            assert_eq!((message.offset, message.data), (1, json!(["b", 0])));

            let messages = format!("{target}/messages");
            for (app, count, content) in [(&a, 3, json!(["a", 2])), (&b, 1, json!(["b", 0]))] {
                let channel = api.done(200, ("GET", &target), &app.secret, &Value::Null);
                assert_eq!(
                    (&channel["messageCount"], &channel["name"]),
                    (&json!(count), &json!(app.id))
                );
                let page = api.done(200, ("GET", &messages), &app.secret, &Value::Null);
                assert_eq!(page["items"].as_array().unwrap().len(), count);
                assert_eq!(page["items"][0]["content"], content);
            }
            // A position of the one app's log is none of the other's.
            let of_a = api.done(200, PUBLISH, &a.secret, &json!({ "channel": slug, "data": 1 }));
            let recover = json!({ "epoch": of_a["epoch"], "offset": 1 });
            let mut another = connect(&server, &b.publish);
            let event = another.subscribe_with(
                json!({ "type": "subscribe", "channel": slug, "recover": recover }),
            );
            assert_eq!(event["recovered"], false);
            // Changed and deleted in the one, it stays in the other, with its subscribers.
            let body = json!({ "name": "changed" });
            api.done(200, ("PATCH", &target), &a.mgmt, &body);
            api.done(204, ("DELETE", &target), &a.mgmt, &Value::Null);
            api.done(404, ("GET", &target), &a.secret, &Value::Null);
            let channel = api.done(200, ("GET", &target), &b.secret, &Value::Null);
            assert_eq!((&channel["name"], &channel["subscribers"]), (&json!(b.id), &json!(2)));
            api.done(200, PUBLISH, &b.secret, &json!({ "channel": slug, "data": 2 }));
            assert_eq!(in_b.message().offset, 2);
            assert_eq!(another.message().offset, 2);
            let of_a: Vec<_> = in_a.messages(4).into_iter().map(|message| message.data).collect();
            assert_eq!(of_a, [json!(["a", 0]), json!(["a", 1]), json!(["a", 2]), json!(1)]);
            assert_eq!(in_a.event()["type"], "unsubscribed");
            in_a.send(json!({ "type": "ping" }));
            assert_eq!(in_a.event()["type"], "pong", "the other app's events came");
        }
        let slugs = |api: &mut Api, app: &TestApp| {
            let list = api.done(200, ("GET", "/api/v1/channels"), &app.secret, &Value::Null);
            list.as_array()
                .unwrap()
                .iter()
                .map(|channel| text(&channel["slug"]))
                .collect::<Vec<_>>()
        };
        assert_eq!(slugs(&mut api, &a), [""; 0]);
        assert_eq!(slugs(&mut api, &b), ["c", "d", "e", "f", "orders"]);
    }
}

#[test]
fn members_of_one_app_are_not_in_the_other() {
    for shards in [1, 4] {
        let (server, mut api, apps) = two_apps(shards);
        let mut connected = Vec::new();
        for (app, count) in apps.iter().zip([2, 3]) {
            let body = json!({ "slug": "c", "name": "N", "presence": true });
            api.done(201, ("POST", "/api/v1/channels"), &app.mgmt, &body);
            for n in 0..count {
                // The client ids are the same in both.
                let body = json!({ "clientId": format!("m-{n}"), "data": app.id });
                let token = api.done(200, TOKEN, &app.secret, &body);
                let mut member = connect(&server, &text(&token["token"]));
                member.subscribe("c");
                connected.push(member);
            }
        }
        for (app, count) in apps.iter().zip([2, 3]) {
            let target = "/api/v1/channels/c/presence";
            let page = api.done(200, ("GET", target), &app.secret, &Value::Null);
            assert_eq!((&page["count"], &page["subscribers"]), (&json!(count), &json!(count)));
            let members = page["members"].as_array().unwrap();
            assert_eq!(members.len(), count);
            assert!(members.iter().all(|member| member["data"] == json!(app.id)), "{page}");
            let usage = api.done(200, ("GET", "/api/v1/usage"), &app.secret, &Value::Null);
            assert_eq!((&usage["connections"], &usage["channels"]), (&json!(count), &json!(1)));
            assert_eq!(usage["messagesThisMonth"], 0);
        }
    }
}

#[test]
fn tokens_hold_in_their_app_alone() {
    for shards in [1, 4] {
        let (server, mut api, [a, b]) = two_apps(shards);
        let body = json!({ "clientId": "me", "channels": ["c", "*"] });
        let token_a = text(&api.done(200, TOKEN, &a.secret, &body)["token"]);
        let token_b = text(&api.done(200, TOKEN, &b.secret, &body)["token"]);
        let mut with_a = connect(&server, &token_a);
        with_a.subscribe("c");
        api.done(200, PUBLISH, &b.secret, &json!({ "channel": "c", "data": "b" }));
        api.done(200, PUBLISH, &a.secret, &json!({ "channel": "c", "data": "a" }));
        assert_eq!(with_a.message().data, "a");
        // A connection of the one is not refreshed with a token of the other.
        with_a.send(json!({ "type": "refresh", "token": token_b }));
        let event = with_a.event();
        assert_eq!(event["type"], "error", "{event}");
        with_a.send(json!({ "type": "refresh", "token": token_a }));
        assert_eq!(with_a.event()["type"], "refreshed");
        // Parts of two good tokens are no token: head, claims and signature, of the one or the other.
        let parts = [&token_a, &token_b].map(|token| token.split('.').collect::<Vec<_>>());
        for mix in 1..7_usize {
            let part = |n: usize| parts[(mix >> n) & 1][n];
            let mixed = format!("{}.{}.{}", part(0), part(1), part(2));
            let mut refused = Subscriber::connect_with(server.address, &mixed);
            let event = refused.event();
            assert_eq!((&event["type"], &event["code"]), (&json!("error"), &json!("UNAUTHORIZED")));
            assert_eq!(refused.close_code().0, 4001, "mix {mix}");
        }
        // A token is no key.
        for key in [&token_a, &token_b] {
            assert_eq!(api.call("GET", "/api/v1/channels", Some(key), "").status, 401);
            assert_eq!(api.call("POST", "/api/v1/publish", Some(key), "{}").status, 401);
        }
        // What is done to the one app's key does not end the other's connections.
        api.done(204, ("DELETE", &format!("/api/v1/apps/{}", b.id)), MANAGE_KEY, &Value::Null);
        api.done(200, PUBLISH, &a.secret, &json!({ "channel": "c", "data": "still" }));
        assert_eq!(with_a.message().data, "still");
        assert_eq!(Subscriber::connect_with(server.address, &token_b).close_code().0, 4001);
    }
}

#[test]
fn identifiers_of_another_app_are_unknown() {
    for shards in [1, 4] {
        let (_server, mut api, [a, b]) = two_apps(shards);
        let keys = |api: &mut Api, mgmt: &str| {
            let list = api.done(200, ("GET", "/api/v1/apps/self/keys"), mgmt, &Value::Null);
            list.as_array().unwrap().iter().map(|key| text(&key["id"])).collect::<Vec<_>>()
        };
        let keys_b = keys(&mut api, &b.mgmt);
        assert_eq!(keys_b.len(), 3);
        let before = [&a.mgmt, &b.mgmt, MANAGE_KEY].map(|key| api.snapshot(key));
        for id in [b.id.as_str(), "default", "app_999"] {
            let app = format!("/api/v1/apps/{id}");
            let mut refused = |method: &str, target: &str, body: &str, status: u16| {
                let answer = api.call(method, target, Some(&a.mgmt), body);
                assert_eq!(answer.status, status, "{method} {target}: {}", answer.text());
                answer.text().replace(id, "")
            };
            // What there is and what there is not is refused in the same words.
            for (method, target, body) in [
                ("GET", app.clone(), ""),
                ("PATCH", app.clone(), r#"{"name":"taken"}"#),
                ("GET", format!("{app}/keys"), ""),
                ("POST", format!("{app}/keys"), r#"{"role":"mgmt"}"#),
                ("DELETE", format!("{app}/keys/{}", keys_b[0]), ""),
            ] {
                let words = refused(method, &target, body, 404);
                assert!(words.contains("there is no such app"), "{words}");
            }
            refused("DELETE", &app, "", 403);
        }
        // Another app's keys under one's own address, by id and by themselves.
        for key in keys_b.iter().chain([&b.secret, &b.mgmt]) {
            for app in ["self", &a.id] {
                let target = format!("/api/v1/apps/{app}/keys/{key}");
                let answer = api.call("DELETE", &target, Some(&a.mgmt), "");
                assert_eq!(answer.status, 404, "{}", answer.text());
            }
        }
        // Not even the operator reaches an app's key through another app.
        let target = format!("/api/v1/apps/{}/keys/{}", a.id, keys_b[0]);
        api.done(404, ("DELETE", &target), MANAGE_KEY, &Value::Null);
        let after = [&a.mgmt, &b.mgmt, MANAGE_KEY].map(|key| api.snapshot(key));
        assert_eq!(after, before);
        // The one's keys in the body of the other's call count for nothing.
        let body = json!({ "publishKey": b.secret, "publish": ["c"] });
        api.done(403, TOKEN, &a.publish, &body);
        // An idempotency key is the app's own.
        for (app, data) in [(&a, 1), (&b, 2)] {
            let body = json!({ "channel": "c", "data": data, "id": "same" });
            let first = api.done(200, PUBLISH, &app.secret, &body);
            let again = api.done(200, PUBLISH, &app.secret, &body);
            assert_eq!((&first["id"], &first["offset"]), (&again["id"], &json!(1)));
        }
    }
}
