//! Data folders of earlier versions: whoever updates finds everything there, and goes on.
//!
//! `data/format-1` has a folder that a server of the first format left behind, with what its API told of
//! it: three channels, one with metadata and a large message, one with many records, one with a message
//! under an idempotency key.

use std::path::Path;
use std::process::Command;

use pushflo_tests::api::Api;
use pushflo_tests::http::HttpClient;
use pushflo_tests::program::{Program, command, set_clock};
use pushflo_tests::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Some seconds after the folder was left behind: its idempotency key is still in force.
const THEN: &str = "@2026-11-26 23:26:30";

fn unpack(folder: &Path) -> Value {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/format-1/folder.tar.gz");
    let mut tar = Command::new("tar");
    let unpacked = tar.arg("-xzf").arg(packed).arg("-C").arg(folder).status().unwrap();
    assert!(unpacked.success());
    serde_json::from_slice(&std::fs::read(folder.join("told.json")).unwrap()).unwrap()
}

fn serve(folder: &Path) -> (Program, Api) {
    std::fs::write(folder.join("time"), format!("{THEN}\n")).unwrap();
    let config = "[history]\nage_ms = 315000000000\n";
    std::fs::write(folder.join("pushflo.toml"), config).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let mut serve = command(&["serve", "--listen", "127.0.0.1:0", "--shards", "3", "--cores", "0"]);
    serve.args(["--data-dir", &path("data"), "--config", &path("pushflo.toml")]);
    serve.env("PUSHFLO_PUBLISH_KEY", PUBLISH_KEY).env("PUSHFLO_SECRET_KEY", SECRET_KEY);
    serve.env("PUSHFLO_MGMT_KEY", MANAGE_KEY).env("TZ", "UTC");
    set_clock(&mut serve, &folder.join("time"));
    let mut program = Program::spawn(serve);
    let address = program.address();
    (program, Api::connect(address))
}

fn history(api: &mut Api, channel: &str) -> Vec<Value> {
    let (mut items, mut page) = (Vec::new(), 1);
    loop {
        let target = format!("/api/v1/channels/{channel}/messages?pageSize=100&page={page}");
        let data = api.done(200, ("GET", &target), SECRET_KEY, &Value::Null);
        items.extend(data["items"].as_array().unwrap().iter().cloned());
        if page >= data["pagination"]["totalPages"].as_u64().unwrap() {
            return items;
        }
        page += 1;
    }
}

fn check(api: &mut Api, told: &Value) {
    for channel in ["orders", "many", "keyed"] {
        let items = Value::from(history(api, channel));
        assert!(items == told[channel], "{channel}: {items} is not {}", told[channel]);
        let target = format!("/api/v1/channels/{channel}");
        let described = api.done(200, ("GET", &target), SECRET_KEY, &Value::Null);
        assert_eq!(described, told[format!("d_{channel}")]);
    }
    let gone = api.call("GET", "/api/v1/channels/gone", Some(SECRET_KEY), "");
    assert_eq!(gone.status, 404);
}

#[test]
fn a_folder_of_the_first_format_is_taken_over_whole() {
    let folder = tempfile::tempdir().unwrap();
    let told = unpack(folder.path());
    let (mut program, mut api) = serve(folder.path());
    check(&mut api, &told);
    // Who asks again gets the first answer; to how many it was delivered then is not kept.
    let body = json!({ "channel": "keyed", "event": "k", "data": { "once": true } }).to_string();
    let again = |address| {
        let mut client = HttpClient::connect(address);
        let request = format!(
            "POST /api/v1/publish HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {SECRET_KEY}\r\n\
             Idempotency-Key: k-1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        client.send(request.as_bytes());
        client.answer().unwrap().json()
    };
    assert_eq!(again(api.address()), told["answer"]);
    // It goes on where it was, and is read as it was after another start.
    let message = json!({ "channel": "many", "event": "e0", "data": "next" });
    let next = api.done(200, ("POST", "/api/v1/publish"), SECRET_KEY, &message);
    assert_eq!((&next["offset"], &next["epoch"]), (&701.into(), &epoch(&told["d_many"])));
    program.signal(Signal::TERM);
    assert!(program.output().status.success());
    let (_program, mut api) = serve(folder.path());
    let many = history(&mut api, "many");
    assert_eq!((many.len(), &many[0]["content"]), (701, &"next".into()));
    assert_eq!(many[1..], told["many"].as_array().unwrap()[..]);
    assert_eq!(again(api.address()), told["answer"]);
}

/// The epoch that a channel's id tells.
fn epoch(channel: &Value) -> Value {
    channel["id"].as_str().unwrap().strip_prefix("ch_").unwrap().into()
}
