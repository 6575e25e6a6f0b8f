//! The debug log says of each refusal, protocol error and end of a connection whose it was and why.

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, get, publish_body};
use pushflo_tests::program::{Program, command};
use pushflo_tests::server::{PUBLISH_KEY, SECRET_KEY};
use rustix::process::Signal;
use serde_json::json;
use tungstenite::Message;

#[test]
fn refusals_protocol_errors_and_ends_are_told_with_connection_app_and_channel() {
    let data = tempfile::tempdir().unwrap();
    let mut command = command(&["--listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(data.path()).env("PUSHFLO_LOG", "edge=debug,api=debug,off");
    command.env("PUSHFLO_PUBLISH_KEY", PUBLISH_KEY).env("PUSHFLO_SECRET_KEY", SECRET_KEY);
    let mut program = Program::spawn(command);
    let address = program.address();
    let mut http = HttpClient::connect(address);
    assert_eq!(http.publish("sec_unknown0123456789", &publish_body("c", &json!(1))).status, 401);
    assert_eq!(http.publish(PUBLISH_KEY, &publish_body("c", &json!(1))).status, 403);
    assert_eq!(http.publish(SECRET_KEY, r#"{"channel":"a b"}"#).status, 400);
    assert_eq!(get(address, "/api/v1/channels/none", Some(SECRET_KEY)).status, 404);
    assert_eq!(get(address, "/nowhere", None).status, 404);
    http.send(b"no HTTP\r\n\r\n");
    assert_eq!(http.answer().unwrap().status, 400);
    let mut subscriber = Subscriber::connect(address);
    for channel in ["orders", "no good"] {
        let publish = json!({"type": "publish", "channel": channel, "content": 1});
        subscriber.socket.send(Message::text(publish.to_string())).unwrap();
        assert_eq!(subscriber.event()["type"], "error");
    }
    subscriber.socket.send(Message::binary(vec![0])).unwrap();
    assert_eq!(subscriber.close_code().0, 1003);
    drop((http, subscriber));
    program.signal(Signal::TERM);
    let log = String::from_utf8(program.output().stderr).unwrap();
    let tells = |parts: &[&str]| {
        let all = |line: &str| parts.iter().all(|part| line.contains(part));
        assert!(log.lines().any(all), "nothing tells of {parts:?}:\n{log}");
    };
    let app = "app=default";
    tells(&["refused", "connection=", "UNAUTHORIZED"]);
    tells(&["refused", "connection=", app, "FORBIDDEN"]);
    tells(&["refused", "connection=", app, "VALIDATION_ERROR"]);
    tells(&["refused", "connection=", app, "NOT_FOUND", "no channel none"]);
    tells(&["refused", "no route", "connection=", "GET", "/nowhere"]);
    tells(&["protocol error", "connection=", "HTTP/1.1"]);
    tells(&["refused", "connection=", app, "channel=\"orders\""]);
    tells(&["protocol error", "connection=", app]);
    tells(&["closing", "connection=", app, "code=1003"]);
    tells(&["ended", "connection="]);
}
