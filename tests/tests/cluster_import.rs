//! What a server by itself has comes into a new cluster as a whole: apps, keys, channels, history.

use std::net::SocketAddr;
use std::path::Path;

use pushflo_tests::api::Api;
use pushflo_tests::client::Subscriber;
use pushflo_tests::cluster::Cluster;
use pushflo_tests::http::{HttpClient, call, get, post, publish_body, publish_keyed};
use pushflo_tests::program::{Program, command, run};
use pushflo_tests::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY};
use rustix::process::Signal;
use serde_json::{Value, json};

fn import(cluster: &Cluster, from: &Path) -> std::process::Output {
    let mut command = command(&["cluster", "import", "--from", from.to_str().unwrap()]);
    command.args(["--cluster-nats", &cluster.nats.urls().join(","), "--cluster-node", "import"]);
    command.env("PUSHFLO_PUBLISH_KEY", PUBLISH_KEY).env("PUSHFLO_SECRET_KEY", SECRET_KEY);
    command.env("PUSHFLO_MGMT_KEY", MANAGE_KEY);
    Program::spawn(command).output()
}

/// A publish with the header `Idempotency-Key`: the id of its message.
fn keyed(address: SocketAddr, key: &str, secret: &str, body: &str) -> Value {
    let answer = publish_keyed(address, secret, key, body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"]["id"].clone()
}

/// Ids, times and contents of all messages of a channel, newest first.
fn messages(address: SocketAddr, key: &str, channel: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for page in 1.. {
        let target = format!("/api/v1/channels/{channel}/messages?pageSize=100&page={page}");
        let answer = get(address, &target, Some(key));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let found = answer.json()["data"]["items"].as_array().unwrap().clone();
        if found.is_empty() {
            break;
        }
        all.extend(found.iter().map(|message| {
            json!([message["id"], message["timestamp"], message["content"], message["eventType"]])
        }));
    }
    all
}

#[test]
fn a_cluster_begins_with_what_a_server_had() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut serve = command(&["serve", "--listen", "127.0.0.1:0", "--shards", "1"]);
    serve.arg("--data-dir").arg(&data);
    serve.env("PUSHFLO_PUBLISH_KEY", PUBLISH_KEY).env("PUSHFLO_SECRET_KEY", SECRET_KEY);
    serve.env("PUSHFLO_MGMT_KEY", MANAGE_KEY);
    let mut program = Program::spawn(serve);
    let address = program.address();
    let app = Api::connect(address).create_app("shop");
    let body = json!({ "slug": "vault", "name": "Vault", "isPrivate": true });
    assert_eq!(call(address, "POST", "/api/v1/channels", Some(&app.mgmt), &body).status, 201);
    let channels = ["a", "b.c", "d:e", "vault"];
    let mut http = HttpClient::connect(address);
    for n in 0..2_000 {
        let body = publish_body(channels[n % channels.len()], &json!({ "n": n }));
        assert_eq!(http.publish(&app.secret, &body).status, 200);
    }
    let once = publish_body("a", &json!("once"));
    let id = keyed(address, "k", &app.secret, &once);
    let gone = publish_body("gone", &json!(1));
    assert_eq!(post(address, "/api/v1/publish", Some(&app.secret), &gone).status, 200);
    let target = "/api/v1/channels/gone";
    assert_eq!(call(address, "DELETE", target, Some(&app.mgmt), &Value::Null).status, 204);
    let before = channels.map(|channel| messages(address, &app.secret, channel));
    assert_eq!(before.each_ref().map(Vec::len), [501, 500, 500, 500]);

    let mut cluster = Cluster::prepare(3);
    let running = import(&cluster, &data);
    let text = String::from_utf8_lossy(&running.stderr).into_owned();
    assert!(!running.status.success() && text.contains("in use"), "{text}");
    drop(http);
    program.signal(Signal::TERM);
    assert!(program.output().status.success());
    let nothing = import(&cluster, folder.path());
    let text = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(!nothing.status.success() && text.contains("--from"), "{text}");
    let done = import(&cluster, &data);
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let errors = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(
        done.status.success() && text.contains("2 apps, 4 channels with 2001"),
        "{text}{errors}"
    );
    let again = import(&cluster, &data);
    let text = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && text.contains("has apps already"), "{text}");

    cluster.run_all();
    cluster.wait_until_settled();
    for node in cluster.addresses() {
        for (channel, before) in channels.iter().zip(&before) {
            assert_eq!(messages(node, &app.secret, channel), *before, "{channel}");
        }
        let mut guest = Subscriber::connect_with(node, &app.publish);
        guest.event();
        guest.send(json!({ "type": "subscribe", "channel": "vault" }));
        assert_eq!(guest.event()["code"], "FORBIDDEN");
        assert_eq!(keyed(node, "k", &app.secret, &once), id, "it is known there, too");
        let usage = get(node, "/api/v1/usage", Some(&app.secret)).json();
        let usage = (&usage["data"]["messagesThisMonth"], &usage["data"]["channels"]);
        assert_eq!(usage, (&json!(2_002), &json!(4)), "with what was deleted since");
        let target = "/api/v1/channels/gone";
        assert_eq!(call(node, "GET", target, Some(&app.mgmt), &Value::Null).status, 404);
        let mut late = Subscriber::connect_with(node, &app.publish);
        late.event();
        let replay = json!({ "type": "subscribe", "channel": "d:e", "replay": { "last": 2 } });
        assert_eq!(late.subscribe_with(replay)["replayed"], 2);
    }
    // The folder of the server is no node's, and the other way round.
    let urls = cluster.nats.urls().join(",");
    let node = run(&[
        "serve",
        "--data-dir",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--cluster-nats",
        &urls,
        "--cluster-node",
        "x",
    ]);
    let text = String::from_utf8_lossy(&node.stderr).into_owned();
    assert!(
        !node.status.success() && text.contains("2 apps") && text.contains("--data-dir"),
        "{text}"
    );
    let of_node = cluster.data_dir(0);
    cluster.leave(0);
    let server =
        run(&["serve", "--data-dir", of_node.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let text = String::from_utf8_lossy(&server.stderr).into_owned();
    assert!(!server.status.success() && text.contains("cluster.nats"), "{text}");
}
