//! What one node of a cluster is told of apps, keys and channels, all its nodes know, whichever of them dies.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pushflo_tests::api::Api;
use pushflo_tests::client::Subscriber;
use pushflo_tests::cluster::{Cluster, alone};
use pushflo_tests::http::{Answer, call, get, post, publish_body};
use pushflo_tests::server::{MANAGE_KEY, SECRET_KEY};
use serde_json::{Value, json};

const NODES: usize = 3;
const CHANNELS: &str = "/api/v1/channels";

/// Waits until something is so, which it must be within some seconds.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    began.elapsed()
}

fn manage(node: SocketAddr, method: &str, target: &str, body: &Value) -> Answer {
    call(node, method, target, Some(MANAGE_KEY), body)
}

/// As [`manage`], as often as it takes while channels move between nodes.
fn managed(node: SocketAddr, method: &str, target: &str, body: &Value) -> Answer {
    let mut answer = manage(node, method, target, body);
    wait_until("a channel moves for ever", || {
        if answer.status == 503 {
            answer = manage(node, method, target, body);
        }
        answer.status != 503
    });
    answer
}

/// The answer to a guest who subscribes: `subscribed`, or the code of an error.
fn enter(node: SocketAddr, channel: &str) -> String {
    let mut guest = Subscriber::connect(node);
    guest.send(json!({ "type": "subscribe", "channel": channel }));
    let event = guest.event();
    let answer = if event["type"] == "error" { &event["code"] } else { &event["type"] };
    answer.as_str().unwrap().to_owned()
}

fn token(node: SocketAddr, client: &str) -> String {
    let body = json!({ "clientId": client, "channels": ["*"] });
    let answer = post(node, "/api/v1/auth/token", Some(SECRET_KEY), &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"]["token"].as_str().unwrap().to_owned()
}

fn slugs(node: SocketAddr, query: &str) -> (Vec<String>, u64) {
    let list = get(node, &format!("{CHANNELS}{query}"), Some(SECRET_KEY));
    assert_eq!(list.status, 200, "{}", list.text());
    let list = list.json();
    let slugs = list["data"].as_array().unwrap().iter();
    let slugs = slugs.map(|channel| channel["slug"].as_str().unwrap().to_owned()).collect();
    (slugs, list["pagination"]["total"].as_u64().unwrap())
}

#[test]
fn channels_are_private_and_listed_on_all_nodes() {
    let _alone = alone();
    let mut cluster = Cluster::start(NODES);
    let nodes = cluster.addresses();
    let private: Vec<String> = (0..12).map(|n| format!("vault:{n}.x")).collect();
    for (n, slug) in private.iter().enumerate() {
        let body = json!({ "slug": slug, "name": slug, "isPrivate": true, "metadata": { "n": n } });
        let made = managed(nodes[n % NODES], "POST", CHANNELS, &body);
        assert_eq!(made.status, 201, "{}", made.text());
        let again = managed(nodes[(n + 1) % NODES], "POST", CHANNELS, &body);
        assert_eq!(again.status, 409, "{}", again.text());
    }
    for slug in &private {
        for node in &nodes {
            assert_eq!(enter(*node, slug), "FORBIDDEN");
            let told = manage(*node, "GET", &format!("{CHANNELS}/{slug}"), &Value::Null).json();
            assert_eq!(
                (&told["data"]["isPrivate"], &told["data"]["messageCount"]),
                (&json!(true), &json!(0))
            );
        }
    }

    // Opened on one node and closed on another, while guests are on all.
    let target = format!("{CHANNELS}/{}", private[0]);
    assert_eq!(manage(nodes[1], "PATCH", &target, &json!({ "isPrivate": false })).status, 200);
    let mut guests: Vec<Subscriber> = nodes.iter().map(|node| Subscriber::connect(*node)).collect();
    guests.iter_mut().for_each(|guest| drop(guest.subscribe(&private[0])));
    let mut member = Subscriber::connect_with(nodes[2], &token(nodes[0], "ann"));
    member.event();
    member.subscribe(&private[0]);
    assert_eq!(manage(nodes[0], "PATCH", &target, &json!({ "isPrivate": true })).status, 200);
    for guest in &mut guests {
        assert_eq!(guest.event()["code"], "FORBIDDEN");
        assert_eq!(guest.event()["type"], "unsubscribed");
    }
    let body = publish_body(&private[0], &json!("secret"));
    let told = post(nodes[1], "/api/v1/publish", Some(SECRET_KEY), &body).json();
    assert_eq!(told["data"]["delivered"], 1, "{told}");
    assert_eq!(member.message().data, "secret");

    // Those with metadata and those that are only used, in the order of their names.
    for n in 0..8 {
        let body = publish_body(&format!("used-{n}"), &json!(n));
        assert_eq!(post(nodes[n % NODES], "/api/v1/publish", Some(SECRET_KEY), &body).status, 200);
    }
    let mut all: Vec<String> = private.clone();
    all.extend((0..8).map(|n| format!("used-{n}")));
    all.sort();
    for node in &nodes {
        assert_eq!(slugs(*node, "?pageSize=100"), (all.clone(), 20));
        assert_eq!(slugs(*node, "?page=2&pageSize=8"), (all[8..16].to_vec(), 20));
    }
    let gone = format!("{CHANNELS}/{}", private[1]);
    assert_eq!(manage(nodes[2], "DELETE", &gone, &Value::Null).status, 204);
    for node in &nodes {
        assert_eq!(slugs(*node, "?pageSize=100").1, 19);
        assert_eq!(manage(*node, "GET", &gone, &Value::Null).status, 404);
        assert_eq!(enter(*node, &private[1]), "subscribed", "it is another one now");
    }

    // Whoever takes over knows what was said before, and at no time is a channel open.
    for at in 0..NODES {
        cluster.kill(at);
        let others: Vec<_> = (0..NODES).filter(|n| *n != at).map(|n| nodes[n]).collect();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(6) {
            for node in &others {
                for slug in private.iter().filter(|slug| **slug != private[1]) {
                    assert_ne!(enter(*node, slug), "subscribed", "{slug} was private");
                }
            }
        }
        cluster.run(at);
        cluster.wait_until_all_serve(&private.iter().map(String::as_str).collect::<Vec<_>>());
    }
    for (n, slug) in private.iter().enumerate().filter(|(n, _)| *n != 1) {
        let target = format!("{CHANNELS}/{slug}");
        let told = managed(nodes[n % NODES], "GET", &target, &Value::Null).json();
        assert_eq!(told["data"]["metadata"]["n"], n, "{told}");
    }
}

#[test]
fn apps_and_keys_are_the_same_on_all_nodes() {
    let _alone = alone();
    let mut cluster = Cluster::start(NODES);
    let nodes = cluster.addresses();
    let mut apis: Vec<Api> = nodes.iter().map(|node| Api::connect(*node)).collect();
    let app = apis[1].create_app("shop");
    let knows =
        |node: SocketAddr, key: &str| get(node, "/api/v1/apps/self", Some(key)).status == 200;
    for node in &nodes {
        let took = wait_until("an app is unknown", || knows(*node, &app.mgmt));
        println!("known on {node} after {took:?}");
    }
    // Two nodes change the same app at once, and both changes are made.
    std::thread::scope(|scope| {
        for (n, node) in nodes.iter().enumerate() {
            let mgmt = &app.mgmt;
            scope.spawn(move || {
                for k in 0..10 {
                    let body = json!({ "role": "secret", "name": format!("{n}-{k}") });
                    let made = call(*node, "POST", "/api/v1/apps/self/keys", Some(mgmt), &body);
                    assert_eq!(made.status, 201, "{}", made.text());
                }
            });
        }
    });
    let keys = |node: SocketAddr| {
        let keys = get(node, "/api/v1/apps/self/keys", Some(&app.mgmt)).json();
        keys["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key["id"].to_string())
            .collect::<BTreeSet<_>>()
    };
    for node in &nodes {
        wait_until("keys are missing", || keys(*node).len() == 33);
    }
    assert_eq!(keys(nodes[0]), keys(nodes[1]));

    // A key that is revoked on one node lets nobody in on the others, and those go whom it let in.
    let mut listener = Subscriber::connect_with(nodes[2], &app.publish);
    assert_eq!(listener.event()["type"], "connected");
    let all = get(nodes[0], "/api/v1/apps/self/keys", Some(&app.mgmt)).json();
    let is_it = |key: &&Value| key["role"] == "publish";
    let id = all["data"].as_array().unwrap().iter().find(is_it).unwrap()["id"].clone();
    let target = format!("/api/v1/apps/self/keys/{}", id.as_str().unwrap());
    assert_eq!(call(nodes[0], "DELETE", &target, Some(&app.mgmt), &Value::Null).status, 204);
    let revoked = Instant::now();
    assert_eq!(listener.close_code().0, 4001);
    println!("revoked on another node after {:?}", revoked.elapsed());
    for node in &nodes {
        let mut refused = Subscriber::connect_with(*node, &app.publish);
        assert_eq!(refused.event()["code"], "UNAUTHORIZED");
    }

    // What they know is there again when all have ended.
    let body = publish_body("orders", &json!(1));
    assert_eq!(post(nodes[0], "/api/v1/publish", Some(&app.secret), &body).status, 200);
    for at in 0..NODES {
        cluster.kill(at);
    }
    for at in 0..NODES {
        cluster.run(at);
    }
    cluster.wait_until_all_serve(&["orders"]);
    for node in &nodes {
        wait_until("an app is unknown after the restart", || knows(*node, &app.mgmt));
        assert_eq!(keys(*node).len(), 32);
    }

    // Deleted on one, it is gone on all, with what it had.
    let target = format!("/api/v1/apps/{}", app.id);
    assert_eq!(manage(nodes[2], "DELETE", &target, &Value::Null).status, 204);
    for node in &nodes {
        wait_until("a deleted app is known", || !knows(*node, &app.mgmt));
        assert_eq!(manage(*node, "GET", &target, &Value::Null).status, 404);
    }
    let other = Api::connect(nodes[0]).create_app("other");
    assert_ne!(other.id, app.id, "its number is not given again");
    let number = app.id.strip_prefix("app_").unwrap();
    assert_ne!(cluster.messages_under(&format!("c.{number}.>")), 0);
    wait_until("a deleted app has left messages", || {
        cluster.messages_under(&format!("c.{number}.>")) == 0
    });
}

/// Who is there as a subscriber is told, by client id.
fn follow(members: &mut BTreeSet<String>, event: &Value) {
    let names = |field: &str| {
        let members = event[field].as_array().into_iter().flatten();
        members.map(|member| member["clientId"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(event["type"], "presence", "{event}");
    if event["members"].is_array() {
        *members = names("members").into_iter().collect();
    }
    members.extend(names("joined"));
    members.retain(|name| !names("left").contains(name));
    assert_eq!(event["count"], members.len(), "{event}");
}

#[test]
fn members_are_known_on_all_nodes_and_leave_with_theirs() {
    let _alone = alone();
    let mut cluster = Cluster::start(NODES);
    let nodes = cluster.addresses();
    // Their homes are on different nodes.
    let rooms: Vec<String> = (0..6).map(|n| format!("room-{n}")).collect();
    for slug in &rooms {
        let body = json!({ "slug": slug, "name": slug, "presence": true });
        assert_eq!(managed(nodes[0], "POST", CHANNELS, &body).status, 201);
    }
    let join = |node: SocketAddr, name: &str, room: &str| {
        let mut member = Subscriber::connect_with(node, &token(node, name));
        member.event();
        member.subscribe_with(json!({ "type": "subscribe", "channel": room, "presence": true }));
        member
    };
    let names = ["ann", "ben", "cy"];
    let mut there: Vec<Vec<(Subscriber, BTreeSet<String>)>> = rooms
        .iter()
        .map(|room| {
            let members = nodes.iter().zip(names);
            members.map(|(node, name)| (join(*node, name, room), BTreeSet::new())).collect()
        })
        .collect();
    let wait_for = |member: &mut (Subscriber, BTreeSet<String>), expected: &[&str]| {
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).into()).collect();
        while member.1 != expected {
            let event = member.0.event();
            follow(&mut member.1, &event);
        }
    };
    for members in &mut there {
        members.iter_mut().for_each(|member| wait_for(member, &names));
    }
    for node in &nodes {
        let target = format!("{CHANNELS}/{}/presence", rooms[0]);
        let told = get(*node, &target, Some(SECRET_KEY)).json();
        assert_eq!(told["data"]["count"], 3, "{told}");
    }
    // A node dies: some rooms lose a member, some also their home.
    cluster.kill(2);
    for members in &mut there {
        members.truncate(2);
        members.iter_mut().for_each(|member| wait_for(member, &names[..2]));
    }
    // It comes back, takes its rooms back, and nobody has left by that.
    cluster.run(2);
    cluster.wait_until_all_serve(&rooms.iter().map(String::as_str).collect::<Vec<_>>());
    for (members, room) in there.iter_mut().zip(&rooms) {
        members.push((join(nodes[2], "cy", room), BTreeSet::new()));
        members.iter_mut().for_each(|member| wait_for(member, &names));
    }
}
