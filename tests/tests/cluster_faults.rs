//! A cluster on bad days: NATS that is away, full, another's, or changed by hand; clocks apart; two clusters on
//! the same NATS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use pushflo_tests::client::Subscriber;
use pushflo_tests::cluster::{Cluster, Machine, Nats, alone};
use pushflo_tests::http::{Answer, HttpClient, call, get, post, publish_body, publish_keyed};
use pushflo_tests::load::history;
use pushflo_tests::server::{MANAGE_KEY, SECRET_KEY};
use serde_json::{Value, json};

/// Waits until something is so, which it must be within a minute.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    began.elapsed()
}

fn publish(node: SocketAddr, channel: &str, data: &Value) -> Answer {
    post(node, "/api/v1/publish", Some(SECRET_KEY), &publish_body(channel, data))
}

/// Publishes as soon as that is possible.
fn published(node: SocketAddr, channel: &str, data: &Value) -> Value {
    let mut answer = publish(node, channel, data);
    wait_until(&format!("nothing is published to {channel}"), || {
        if answer.status != 200 {
            assert_eq!(answer.status, 503, "{}", answer.text());
            answer = publish(node, channel, data);
        }
        answer.status == 200
    });
    answer.json()["data"].clone()
}

/// How many messages there are in history.
fn kept(node: SocketAddr, channel: &str) -> u64 {
    let target = format!("/api/v1/channels/{channel}/messages?pageSize=1");
    let page = get(node, &target, Some(SECRET_KEY));
    assert_eq!(page.status, 200, "{}", page.text());
    page.json()["data"]["pagination"]["total"].as_u64().unwrap()
}

fn ready(node: SocketAddr) -> (u16, String) {
    let answer = get(node, "/ready", None);
    (answer.status, answer.text())
}

fn problems(node: SocketAddr) -> String {
    let status = get(node, "/api/v1/cluster", Some(MANAGE_KEY));
    assert_eq!(status.status, 200, "{}", status.text());
    status.json()["data"]["problems"].to_string()
}

/// A channel whose slot has this number.
fn channel_of(slot: u64) -> String {
    let hash = |name: &str| {
        // FNV-1a of the number of the app `default` and the name.
        let bytes = [0; 4].into_iter().chain(name.bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        (hash ^ hash >> 32) % 128
    };
    (0..).map(|n| format!("c{n}")).find(|name| hash(name) == slot).unwrap()
}

#[test]
fn a_node_without_nats_says_so_and_goes_on_when_it_is_there() {
    let _alone = alone();
    let nats = Nats::prepare_on(&vec![Machine::this(); 3], "", "").unwrap();
    let mut cluster = Cluster::prepare_on(nats, &[Machine::this()]);
    cluster.run(0);
    let node = cluster.addresses()[0];
    let (status, text) = ready(node);
    assert!(status == 503 && text.contains("NATS cannot be reached"), "{text}");
    assert_eq!(get(node, "/health", None).status, 503);
    let refused = publish(node, "a", &json!(1));
    assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("OVERLOADED")));
    wait_until("the log does not say it", || cluster.log(0).contains("NATS cannot be reached"));
    for server in 0..3 {
        cluster.nats.run(server).unwrap();
    }
    cluster.nats.wait_until_ready(Duration::from_secs(30)).unwrap();
    wait_until("it is not ready", || ready(node).0 == 200);
    let first = published(node, "a", &json!(1));

    // All of it is away: whoever listens is sent to another node, and comes back to this one.
    let mut subscriber = Subscriber::connect(node);
    subscriber.subscribe("a");
    (0..3).for_each(|server| cluster.nats.kill(server));
    wait_until("it says that it is ready", || ready(node).0 == 503);
    assert_eq!(publish(node, "a", &json!(2)).status, 503);
    assert_eq!(subscriber.close_code().0, 1001);
    for server in 0..3 {
        cluster.nats.run(server).unwrap();
    }
    cluster.nats.wait_until_ready(Duration::from_secs(30)).unwrap();
    let third = published(node, "a", &json!(3));
    assert_eq!(third["epoch"], first["epoch"], "nothing was lost");
    let recover = json!({ "epoch": first["epoch"], "offset": first["offset"] });
    let mut back = Subscriber::connect(node);
    let command = json!({ "type": "subscribe", "channel": "a", "recover": recover });
    assert_eq!(back.subscribe_with(command)["recovered"], true);
    assert_eq!(back.message().data, 3);
}

#[test]
fn a_wrong_credential_is_told() {
    let _alone = alone();
    let rest = "authorization { user: pushflo, password: right }";
    let mut nats = Nats::start_on(&[Machine::this()], "", rest).unwrap();
    nats.name_user("pushflo:wrong");
    let mut cluster = Cluster::prepare_on(nats, &[Machine::this()]);
    cluster.set("[cluster]\nreplicas = 1\n");
    cluster.run(0);
    wait_until("the log does not say it", || {
        let log = cluster.log(0).to_lowercase();
        assert!(!log.contains("wrong"), "the password is nobody's business: {log}");
        log.contains("authorization")
    });
    assert_eq!(ready(cluster.addresses()[0]).0, 503);
    cluster.kill(0);
    cluster.nats.name_user("pushflo:right");
    cluster.run(0);
    published(cluster.addresses()[0], "a", &json!(1));
}

/// A certificate for this machine and its key, which vouches for itself.
fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=nats.example.com"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    (certificate, key)
}

#[test]
fn tls_to_nats_needs_an_authority_that_is_believed() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(folder.path());
    let rest = format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}");
    let mut nats = Nats::prepare_on(&[Machine::this()], "", &rest).unwrap();
    nats.run(0).unwrap();
    nats.wait_until_ready(Duration::from_secs(30)).unwrap();
    nats.name_tls();
    let mut cluster = Cluster::prepare_on(nats, &[Machine::this()]);
    cluster.set("[cluster]\nreplicas = 1\n");
    cluster.run(0);
    wait_until("the log does not say it", || cluster.log(0).contains("certificate"));
    assert_eq!(ready(cluster.addresses()[0]).0, 503);
    cluster.kill(0);
    cluster.set(&format!("[cluster]\nreplicas = 1\ntls_ca = {certificate:?}\n"));
    cluster.run(0);
    published(cluster.addresses()[0], "a", &json!(1));
}

/// A token of NATS: what `issuer` says of somebody.
fn nats_token(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: Value) -> String {
    let encoded = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let head = encoded(&json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let claims = encoded(&json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name,
        "sub": subject.public_key(), "nats": nats,
    }));
    let text = format!("{head}.{claims}");
    let signature = issuer.sign(text.as_bytes()).unwrap();
    format!("{text}.{}", BASE64URL_NOPAD.encode(&signature))
}

#[test]
fn a_credentials_file_lets_a_node_in() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (operator, account, user) =
        (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let of_operator =
        nats_token(&operator, &operator, "op", json!({ "type": "operator", "version": 2 }));
    let mut limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1,
    });
    let (system, of_account) = (KeyPair::new_account(), json!({ "type": "account", "version": 2 }));
    let with = |limits: &Value| {
        let mut claims = of_account.clone();
        claims["limits"] = limits.clone();
        claims
    };
    let of_system = nats_token(&operator, &system, "SYS", with(&limits));
    for room in ["mem_storage", "disk_storage", "streams", "consumer"] {
        limits[room] = json!(-1);
    }
    let of_account = nats_token(&operator, &account, "pushflo", with(&limits));
    let of_user = nats_token(
        &account,
        &user,
        "node",
        json!({ "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1 }),
    );
    let file = folder.path().join("node.creds");
    let seed = user.seed().unwrap();
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(&file, credentials).unwrap();
    let rest = format!(
        "operator: {of_operator}\nresolver: MEMORY\nsystem_account: {system}\n\
         resolver_preload: {{ {system}: {of_system}, {account}: {of_account} }}",
        system = system.public_key(),
        account = account.public_key()
    );
    let nats = Nats::start_on(&[Machine::this()], "", &rest).unwrap();
    let mut cluster = Cluster::prepare_on(nats, &[Machine::this()]);
    cluster.set("[cluster]\nreplicas = 1\n");
    cluster.run(0);
    wait_until("the log does not say it", || {
        cluster.log(0).to_lowercase().contains("authorization")
    });
    cluster.kill(0);
    cluster.set(&format!("[cluster]\nreplicas = 1\ncredentials = {file:?}\n"));
    cluster.run(0);
    published(cluster.addresses()[0], "a", &json!(1));
    assert!(!cluster.log(0).contains(&seed));
}

#[test]
fn a_full_store_refuses_what_it_does_not_take() {
    let _alone = alone();
    let rest = "accounts { PF { jetstream { max_file: 36MB }, users [{ user: a, password: b }] } }";
    let mut nats = Nats::start_on(&vec![Machine::this(); 3], "", rest).unwrap();
    nats.name_user("a:b");
    let mut cluster = Cluster::prepare_on(nats, &vec![Machine::this(); 2]);
    for at in 0..2 {
        cluster.run(at);
    }
    let nodes = cluster.addresses();
    published(nodes[0], "big", &json!(0));
    cluster.wait_until_settled();
    let large = "x".repeat(30_000);
    let mut http = HttpClient::connect(nodes[1]);
    let (mut acknowledged, mut refused) = (1_u64, 0);
    for n in 0..3_000 {
        let answer = http.publish(SECRET_KEY, &publish_body("big", &json!([n, large])));
        match answer.status {
            200 => acknowledged += 1,
            503 => {
                let code = answer.json()["code"].as_str().unwrap().to_owned();
                assert_eq!(code, "OVERLOADED", "{}", answer.text());
                refused += 1;
            }
            other => panic!("{other}: {}", answer.text()),
        }
        if refused > 20 {
            break;
        }
    }
    assert!(acknowledged > 50 && refused > 20, "{acknowledged} acknowledged, {refused} refused");
    assert_eq!(kept(nodes[0], "big"), acknowledged, "no more, and no less");
    // With room there, it goes on.
    let target = "/api/v1/channels/big";
    wait_until("it cannot be deleted", || {
        call(nodes[0], "DELETE", target, Some(MANAGE_KEY), &Value::Null).status == 204
    });
    published(nodes[1], "big", &json!("again"));
    assert_eq!(kept(nodes[0], "big"), 1);
}

#[test]
fn a_stream_of_another_program_is_left_alone() {
    let _alone = alone();
    let mut cluster = Cluster::prepare(1);
    let foreign = json!({
        "name": "pushflo-7", "subjects": ["theirs.>"], "storage": "file", "retention": "limits",
    });
    let ask = |cluster: &Cluster, what: &str, request: &Value| -> Value {
        let answer = cluster.nats.ask(&format!("$JS.API.{what}"), &request.to_string()).unwrap();
        serde_json::from_str(&answer).unwrap()
    };
    let made = ask(&cluster, "STREAM.CREATE.pushflo-7", &foreign);
    assert!(made["error"].is_null(), "{made}");
    cluster.nats.ask("theirs.precious", "data").unwrap();
    cluster.run(0);
    let node = cluster.addresses()[0];
    published(node, &channel_of(8), &json!(1));
    let refused = publish(node, &channel_of(7), &json!(1));
    assert_eq!(refused.status, 503, "{}", refused.text());
    wait_until("the log does not say it", || cluster.log(0).contains("not as PushFlo made it"));
    std::thread::sleep(Duration::from_secs(3));
    let told = cluster.log(0).matches("not as PushFlo made it").count();
    assert!(told <= 2, "{told} lines say the same");
    assert!(problems(node).contains("slot 7"), "{}", problems(node));
    let kept = ask(&cluster, "STREAM.INFO.pushflo-7", &json!({}));
    assert_eq!(
        (&kept["state"]["messages"], &kept["config"]["subjects"][0]),
        (&json!(1), &json!("theirs.>"))
    );
    // With another name for it, the slot is served.
    ask(&cluster, "STREAM.DELETE.pushflo-7", &json!({}));
    published(node, &channel_of(7), &json!(1));
}

#[test]
fn what_is_changed_by_hand_is_told_and_opens_nothing() {
    let _alone = alone();
    let cluster = Cluster::start(2);
    let nodes = cluster.addresses();
    let ask = |what: &str, request: &Value| -> Value {
        let answer = cluster.nats.ask(&format!("$JS.API.{what}"), &request.to_string()).unwrap();
        serde_json::from_str(&answer).unwrap()
    };
    let channel = channel_of(3);
    let mut position = Value::Null;
    for n in 0..20 {
        position = published(nodes[0], &channel, &json!(n));
    }
    let recover = json!({ "epoch": position["epoch"], "offset": position["offset"] });
    let come_back = |node| {
        let command = json!({ "type": "subscribe", "channel": channel, "recover": recover });
        Subscriber::subscribed_soon(node, &command).1["recovered"].clone()
    };
    assert_eq!(come_back(nodes[1]), true);
    // The stream is deleted: channels of the slot begin anew, and who comes back is told.
    let mut subscriber = Subscriber::connect(nodes[1]);
    subscriber.subscribe(&channel);
    ask("STREAM.DELETE.pushflo-3", &json!({}));
    let anew = published(nodes[0], &channel, &json!("anew"));
    assert_ne!(anew["epoch"], position["epoch"]);
    wait_until("nobody is told", || come_back(nodes[1]) == false);
    assert!((0..2).any(|at| cluster.log(at).contains("altered by hand")));
    // Its messages are purged: they are missing, and that is told.
    published(nodes[0], &channel, &json!(1));
    ask("STREAM.PURGE.pushflo-3", &json!({}));
    let last = published(nodes[0], &channel, &json!("after the purge"));
    let messages = history(nodes[1], &channel).messages;
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(last["offset"].as_u64() > anew["offset"].as_u64());

    // Entries of the bucket that are none.
    let private = json!({ "slug": "vault", "name": "Vault", "isPrivate": true });
    let made = call(nodes[0], "POST", "/api/v1/channels", Some(MANAGE_KEY), &private);
    assert_eq!(made.status, 201, "{}", made.text());
    let write = |key: &str, value: &str| {
        cluster.nats.ask(&format!("$KV.pushflo-directory.{key}"), value).unwrap();
    };
    write("channel.0.vault", "{}");
    write("channel.0.other", "nonsense");
    write("app.0", "[1]");
    write("app.77", "{\"name\":1}");
    write("slot.5", "nobody-knows");
    write("slot.500", "node-0");
    write("channel.x.y", "{}");
    std::thread::sleep(Duration::from_secs(1));
    for node in &nodes {
        for name in ["vault", "other"] {
            let mut guest = Subscriber::connect(*node);
            guest.send(json!({ "type": "subscribe", "channel": name }));
            assert_eq!(
                guest.event()["code"],
                "FORBIDDEN",
                "{name} is closed where it is not known"
            );
        }
    }
    published(nodes[1], &channel_of(5), &json!(1));
    assert!((0..2).all(|at| cluster.log(at).contains("cannot be read")));
    for at in 0..2 {
        assert!(!cluster.log(at).contains("a bug of the server"), "{}", cluster.log(at));
    }
}

#[test]
fn two_clusters_share_servers_and_nothing_else() {
    let _alone = alone();
    let nats = Nats::start(3).unwrap();
    let mut cluster = Cluster::prepare_on(nats, &vec![Machine::this(); 2]);
    for (at, prefix) in ["blue", "green"].into_iter().enumerate() {
        let file = cluster.data_dir(at).with_extension("toml");
        std::fs::write(&file, format!("[cluster]\nprefix = '{prefix}'\n")).unwrap();
        cluster.replace_config(at, &file);
        cluster.run(at);
    }
    let nodes = cluster.addresses();
    let mut subscribers = nodes.iter().map(|node| {
        published(*node, "a", &json!("first"));
        let mut subscriber = Subscriber::connect(*node);
        subscriber.subscribe("a");
        subscriber
    });
    let (mut blue, mut green) = (subscribers.next().unwrap(), subscribers.next().unwrap());
    assert_eq!(published(nodes[0], "a", &json!("blue"))["delivered"], 1);
    assert_eq!(published(nodes[1], "a", &json!("green"))["delivered"], 1);
    assert_eq!((blue.message().data, green.message().data), (json!("blue"), json!("green")));
    let body = json!({ "slug": "only", "name": "Only", "isPrivate": true });
    let made = call(nodes[0], "POST", "/api/v1/channels", Some(MANAGE_KEY), &body);
    assert_eq!(made.status, 201, "{}", made.text());
    let target = "/api/v1/channels/only";
    assert_eq!(call(nodes[1], "GET", target, Some(MANAGE_KEY), &Value::Null).status, 404);
    let status = get(nodes[0], "/api/v1/cluster", Some(MANAGE_KEY)).json();
    assert_eq!(status["data"]["nodes"].as_array().unwrap().len(), 1, "{}", status["data"]["nodes"]);
}

#[test]
fn clocks_may_be_apart() {
    let _alone = alone();
    let mut cluster = Cluster::prepare(3);
    cluster.shift_clock(1, 60);
    cluster.shift_clock(2, -60);
    cluster.run_all();
    let nodes = cluster.addresses();
    let names: Vec<String> = (0..9).map(|n| format!("r{n}")).collect();
    let key = |node: SocketAddr, n: usize, name: &str| {
        let body = publish_body(name, &json!(n));
        publish_keyed(node, SECRET_KEY, &format!("k{n}"), &body)
    };
    let mut ids = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let answer = key(nodes[n % 3], n, name);
        assert_eq!(answer.status, 200, "{}", answer.text());
        ids.push(answer.json()["data"]["id"].clone());
    }
    // Homes go to nodes with other clocks, twice.
    for at in [1, 2] {
        cluster.kill(at);
        for (n, name) in names.iter().enumerate() {
            let node = nodes[if at == 1 { 2 } else { 1 }];
            published(node, name, &json!("meanwhile"));
            let mut again = key(node, n, name);
            wait_until("the key is not known", || {
                if again.status != 200 {
                    again = key(node, n, name);
                }
                again.status == 200
            });
            assert_eq!(again.json()["data"]["id"], ids[n], "{name} has it twice");
        }
        cluster.run(at);
        cluster.wait_until_settled();
    }
    for name in &names {
        let target = format!("/api/v1/channels/{name}/messages");
        let items = get(nodes[0], &target, Some(SECRET_KEY)).json()["data"]["items"].clone();
        let times: Vec<u64> =
            items.as_array().unwrap().iter().map(|i| i["timestamp"].as_u64().unwrap()).collect();
        assert!(times.len() == 3 && times.is_sorted_by(|newer, older| newer >= older), "{times:?}");
    }
}
