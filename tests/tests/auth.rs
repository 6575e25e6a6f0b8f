//! Keys: who may do what, and that a key is never told to anyone.

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, get, publish_body, request};
use pushflo_tests::program::{Program, command};
use pushflo_tests::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY, start};
use rustix::process::Signal;
use serde_json::json;

/// Whose key a request carries.
const KEYS: [(&str, Option<&str>); 8] = [
    ("none", None),
    ("publish", Some(PUBLISH_KEY)),
    ("secret", Some(SECRET_KEY)),
    ("mgmt", Some(MANAGE_KEY)),
    ("unknown", Some("sec_9999999999999999999")),
    ("a prefix", Some("sec_")),
    ("cut short", Some("sec_0123456789abcdef012")),
    ("with more", Some("sec_0123456789abcdef01234")),
];

#[test]
fn every_endpoint_with_every_key() {
    let server = start(2, "[limits]\nwrong_keys_per_second = 1000");
    let body = publish_body("c", &json!(1));
    // Status by key, in the order of `KEYS`.
    let cases = [
        ("POST", "/api/v1/publish", body.as_str(), [401, 403, 200, 200, 401, 401, 401, 401]),
        (
            "POST",
            "/api/v1/channels/c/messages",
            r#"{"content":1}"#,
            [401, 403, 201, 201, 401, 401, 401, 401],
        ),
        ("GET", "/api/v1/channels/c/messages", "", [401, 403, 200, 200, 401, 401, 401, 401]),
        ("GET", "/health", "", [200; 8]),
        ("GET", "/metrics", "", [200; 8]),
        ("GET", "/live", "", [200; 8]),
    ];
    let mut client = HttpClient::connect(server.address);
    let mut published = 0;
    for (method, target, body, statuses) in cases {
        for ((name, key), status) in KEYS.into_iter().zip(statuses) {
            client.send(&request(method, target, key, body));
            let answer = client.answer().unwrap();
            assert_eq!(answer.status, status, "{method} {target} with {name}: {}", answer.text());
            published += u64::from(method == "POST" && status < 300);
            if status == 401 {
                assert_eq!(answer.json()["code"], "UNAUTHORIZED");
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            }
            if status == 403 {
                assert_eq!(answer.json()["code"], "FORBIDDEN");
            }
            assert!(!answer.text().contains("0123456789"), "a key is repeated: {}", answer.text());
        }
    }
    // What was refused was not done.
    assert_eq!(server.metric("pushflo_publishes_total"), published);
    let refused = get(server.address, "/metrics", None).text();
    assert!(refused.contains(r#"reason="unauthorized""#), "{refused}");
}

#[test]
fn keys_come_in_one_form_only() {
    let server = start(1, "");
    let mut client = HttpClient::connect(server.address);
    let body = publish_body("c", &json!(1));
    let length = body.len();
    for (authorization, status) in [
        (format!("Bearer {SECRET_KEY}"), 200),
        (format!("bearer {SECRET_KEY}"), 200),
        (format!("BEARER   {SECRET_KEY}"), 200),
        (SECRET_KEY.to_owned(), 401),
        (format!("Basic {SECRET_KEY}"), 401),
        (format!("Bearer {SECRET_KEY} x"), 401),
        (format!("Bearer {}", SECRET_KEY.to_uppercase()), 401),
        ("Bearer".to_owned(), 401),
        (String::new(), 401),
    ] {
        let head = format!(
            "POST /api/v1/publish HTTP/1.1\r\nHost: h\r\nAuthorization: {authorization}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        client.send(head.as_bytes());
        assert_eq!(client.answer().unwrap().status, status, "{authorization:?}");
    }
    // A key in the address of an HTTP call would end in logs of proxies; it does not count.
    client.send(&request("POST", &format!("/api/v1/publish?token={SECRET_KEY}"), None, &body));
    assert_eq!(client.answer().unwrap().status, 401);
}

/// Browsers cannot read an HTTP error of an upgrade, so the no comes as an event.
#[test]
fn a_websocket_is_told_why_its_token_is_refused() {
    let server = start(2, "");
    for key in [PUBLISH_KEY, SECRET_KEY, MANAGE_KEY] {
        Subscriber::connect_with(server.address, key).event();
    }
    for bad in ["", "pub_", "pub_9999999999999999", "%00", "x&y", &"k".repeat(5_000)] {
        let mut subscriber = Subscriber::connect_with(server.address, bad);
        let event = subscriber.event();
        assert_eq!((&event["type"], &event["code"]), (&json!("error"), &json!("UNAUTHORIZED")));
        assert_eq!(subscriber.close_code().0, 4001);
    }
}

/// Nothing of a key reaches logs, output or metrics, at the most talkative level.
#[test]
fn keys_are_never_logged() {
    let data = tempfile::tempdir().unwrap();
    let mut command = command(&["--listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(data.path()).env("PUSHFLO_LOG", "trace");
    for (name, key) in [("PUBLISH", PUBLISH_KEY), ("SECRET", SECRET_KEY), ("MGMT", MANAGE_KEY)] {
        command.env(format!("PUSHFLO_{name}_KEY"), key);
    }
    let mut program = Program::spawn(command);
    let address = program.address();
    let mut subscriber = Subscriber::connect(address);
    subscriber.subscribe("c");
    Subscriber::connect_with(address, "pub_wrong0123456789abc").close_code();
    let mut client = HttpClient::connect(address);
    assert_eq!(client.publish(SECRET_KEY, &publish_body("c", &json!(1))).status, 200);
    assert_eq!(client.publish("sec_wrong0123456789abc", "{}").status, 401);
    client.send(&request("GET", &format!("/nothing?token={MANAGE_KEY}"), Some(MANAGE_KEY), ""));
    let mut told = client.answer().unwrap().text();
    told += &get(address, "/metrics", None).text();
    client.send(format!("{MANAGE_KEY} {SECRET_KEY}\r\n\r\n").as_bytes());
    client.answer().unwrap();
    drop((subscriber, client));
    program.signal(Signal::TERM);
    let output = program.output();
    assert!(output.status.success());
    told += &String::from_utf8(output.stdout).unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("drain"), "nothing was logged: {log}");
    told += &log;
    assert!(!told.contains("0123456789"), "{told}");
    // Nor are they on disk.
    for entry in std::fs::read_dir(data.path().join("directory")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains("0123456789"), "a key is in {}", path.display());
        }
    }
}
