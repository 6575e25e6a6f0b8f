//! The upgrade from HTTP to a WebSocket (RFC 6455 section 4.2), good and bad, whole and in pieces.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use pushflo_tests::http::{HttpClient, PATIENCE, request};
use pushflo_tests::server::{PUBLISH_KEY, SECRET_KEY, TestServer, start};
use serde_json::json;

/// The example of RFC 6455 section 1.3.
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n";

fn handshake(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n").into_bytes()
}

fn good() -> Vec<u8> {
    handshake(&format!("/ws?token={PUBLISH_KEY}"), &format!("{UPGRADE}{VERSION}{KEY}"))
}

/// A masked text frame with `{"type":"ping"}`.
fn command() -> Vec<u8> {
    let payload = br#"{"type":"ping"}"#;
    [&[0x81, 0x80 | payload.len() as u8, 0, 0, 0, 0], &payload[..]].concat()
}

/// Sends pieces with a pause in which the server reads, then closes the sending side, and reads
/// all.
fn exchange(server: &TestServer, pieces: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for piece in pieces {
        stream.write_all(piece).unwrap();
        if pieces.len() > 1 {
            server.metric("pushflo_turns_total");
        }
    }
    // A close frame ends it where the server did not.
    let _ = stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]);
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn the_accept_value_is_that_of_the_rfc() {
    let server = start(2, "");
    let answer = exchange(&server, &[&good()]);
    let (head, frames) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let field = |line: &str| head.lines().any(|l| l.eq_ignore_ascii_case(line));
    assert!(field(&format!("Sec-WebSocket-Accept: {ACCEPT}")), "{head}");
    assert!(field("Upgrade: websocket") && field("Connection: Upgrade"), "{head}");
    assert!(frames.contains(r#"{"type":"connected""#), "{frames}");
}

#[test]
fn handshakes_of_every_shape_are_understood() {
    let server = start(2, "");
    let target = format!("/ws?token={PUBLISH_KEY}");
    let fields = [
        format!("{KEY}{VERSION}{UPGRADE}"),
        format!("upgrade: WebSocket\r\nCONNECTION: uPgRaDe\r\n{VERSION}{KEY}"),
        format!("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n{VERSION}{KEY}"),
        format!(
            "Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{VERSION}{KEY}"
        ),
        format!("Upgrade: h2c, websocket\r\nConnection: Upgrade\r\n{VERSION}{KEY}"),
        format!("{UPGRADE}{VERSION}{KEY}Origin: https://example.com\r\nCookie: a=b\r\n"),
        format!("{UPGRADE}{VERSION}{KEY}Content-Length: 0\r\n"),
    ];
    for fields in &fields {
        let answer = exchange(&server, &[&handshake(&target, fields)]);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{fields}: {answer}");
    }
    // Offers are not taken up, and nothing says they were.
    let offers = format!(
        "{UPGRADE}{VERSION}{KEY}Sec-WebSocket-Protocol: chat, superchat\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    );
    let answer = exchange(&server, &[&handshake(&target, &offers)]);
    let head = answer.split("\r\n\r\n").next().unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(!head.contains("sec-websocket-protocol") && !head.contains("extensions"), "{head}");
    // The key may come in a header, as backends have it.
    let fields = format!("{UPGRADE}{VERSION}{KEY}Authorization: Bearer {SECRET_KEY}\r\n");
    let answer = exchange(&server, &[&handshake("/ws", &fields)]);
    assert!(answer.contains("connected"), "{answer}");
}

#[test]
fn a_bad_handshake_is_refused_and_the_connection_stays_http() {
    let server = start(2, "");
    let target = format!("/ws?token={PUBLISH_KEY}");
    let key = |key: &str| format!("{UPGRADE}{VERSION}Sec-WebSocket-Key: {key}\r\n");
    let cases = [
        (format!("{VERSION}{KEY}"), 426, "Upgrade: websocket"),
        (format!("Connection: Upgrade\r\n{VERSION}{KEY}"), 426, "Upgrade: websocket"),
        (format!("Connection: Upgrade\r\nUpgrade: h2c\r\n{VERSION}{KEY}"), 426, "websocket"),
        (format!("Upgrade: websocket\r\n{VERSION}{KEY}"), 400, "Connection: Upgrade"),
        (
            format!("Upgrade: websocket\r\nConnection: keep-alive\r\n{VERSION}{KEY}"),
            400,
            "Connection",
        ),
        (format!("{UPGRADE}{KEY}"), 426, "Version: 13"),
        (format!("{UPGRADE}{KEY}Sec-WebSocket-Version: 8\r\n"), 426, "Version: 13"),
        (format!("{UPGRADE}{KEY}Sec-WebSocket-Version: 13, 8\r\n"), 426, "Version: 13"),
        (format!("{UPGRADE}{VERSION}"), 400, "Sec-WebSocket-Key"),
        (format!("{UPGRADE}{VERSION}{KEY}{KEY}"), 400, "exactly one"),
        (key(""), 400, "16 bytes in base64"),
        (key("AAAA"), 400, "16 bytes in base64"),
        (key("dGhlIHNhbXBsZSBub25jZQ="), 400, "16 bytes in base64"),
        (key("dGhlIHNhbXBsZSBub25jZQ===="), 400, "16 bytes in base64"),
        (key("!!!!!!!!!!!!!!!!!!!!!!=="), 400, "16 bytes in base64"),
        (key("dGhlIHNhbXBsZSBub25jZTEyMzQ1Ng=="), 400, "16 bytes in base64"),
        (format!("{UPGRADE}{VERSION}{KEY}Content-Length: 2\r\n\r\nxx"), 400, "no body"),
    ];
    let mut subscribers = Vec::new();
    for (fields, status, words) in &cases {
        let mut client = HttpClient::connect(server.address);
        // The last line of a case with a body is its own.
        let bytes = match fields.strip_suffix("\r\n\r\nxx") {
            Some(fields) => [handshake(&target, &format!("{fields}\r\n")), b"xx".into()].concat(),
            None => handshake(&target, fields),
        };
        client.send(&bytes);
        let answer = client.answer().unwrap();
        assert_eq!(answer.status, *status, "{fields}: {}", answer.text());
        assert!(answer.text().contains(words), "{fields}: {}", answer.text());
        if *status == 426 {
            assert_eq!(answer.header("upgrade"), Some("websocket"), "{fields}");
            assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{fields}");
        }
        client.send(&request("GET", "/health", None, ""));
        assert_eq!(client.answer().unwrap().status, 200, "{fields}");
        // It may still become a WebSocket.
        client.send(&good());
        assert_eq!(client.answer().unwrap().status, 101, "{fields}");
        subscribers.push(client);
    }
    let mut client = HttpClient::connect(server.address);
    client.send(&request("POST", &target, None, ""));
    assert_eq!(client.answer().unwrap().status, 405);
    let old = format!("GET {target} HTTP/1.0\r\nHost: h\r\n{UPGRADE}{VERSION}{KEY}\r\n");
    client.send(old.as_bytes());
    assert_eq!(client.answer().unwrap().status, 400);
}

/// What stands behind the handshake in the same bytes belongs to the WebSocket.
#[test]
fn bytes_behind_the_handshake_are_frames() {
    let server = start(2, "");
    let whole = [good(), command()].concat();
    for cut in 0..whole.len() {
        let (first, second) = whole.split_at(cut);
        let pieces: &[&[u8]] = if cut == 0 { &[second] } else { &[first, second] };
        let answer = exchange(&server, pieces);
        assert!(answer.starts_with("HTTP/1.1 101 "), "cut at {cut}: {answer}");
        assert!(answer.contains(r#"{"type":"pong"}"#), "cut at {cut}: {answer}");
    }
    let bytes: Vec<&[u8]> = whole.chunks(1).collect();
    assert!(exchange(&server, &bytes).contains(r#"{"type":"pong"}"#));
    for junk in [&b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"[..], b"\xff\xff\xff\xff", b"junk"] {
        let answer = exchange(&server, &[&[&good(), junk].concat()]);
        assert!(answer.contains("connected") && !answer.contains("status"), "{answer}");
        // A close frame with code 1002: 0x03ea, of which 0xea is not UTF-8.
        assert!(answer.contains("\u{3}\u{fffd}"), "{answer:?}");
    }
    // Behind another request that has no answer yet, the order of answers would be broken.
    let publish =
        request("POST", "/api/v1/publish", Some(SECRET_KEY), r#"{"channel":"c","data":1}"#);
    let mut client = HttpClient::connect(server.address);
    client.send(&[publish.repeat(2), good()].concat());
    assert_eq!(client.answer().unwrap().status, 200);
    assert_eq!(client.answer().unwrap().status, 200);
    let status = client.answer().unwrap().status;
    assert!(matches!(status, 101 | 400), "{status}");
}

#[test]
fn an_origin_that_is_not_allowed_is_told_so() {
    let server = start(1, "allowed_origins = ['https://good.example']");
    let connect = |origin: &str| {
        let fields = format!("{UPGRADE}{VERSION}{KEY}Origin: {origin}\r\n");
        exchange(&server, &[&handshake(&format!("/ws?token={PUBLISH_KEY}"), &fields)])
    };
    assert!(connect("https://good.example").contains("connected"));
    let refused = connect("https://evil.example");
    assert!(refused.contains(&json!("FORBIDDEN").to_string()), "{refused}");
    // 4003 is 0x0fa3.
    assert!(refused.contains("\u{f}\u{fffd}"), "{refused:?}");
}

/// A connection that ends in the middle of anything is simply gone.
#[test]
fn an_end_in_the_middle_hurts_nobody() {
    let server = start(2, "");
    let whole = [good(), command()].concat();
    for cut in 1..whole.len() {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(&whole[..cut]).unwrap();
    }
    let mut client = HttpClient::connect(server.address);
    let deadline = std::time::Instant::now() + PATIENCE;
    // This connection and the one that asks remain.
    while server.metric("pushflo_connections") > 2 {
        assert!(std::time::Instant::now() < deadline, "connections are left behind");
    }
    client.send(&good());
    assert_eq!(client.answer().unwrap().status, 101);
}
