//! Addresses: those who come with wrong keys are slowed, each by itself; behind a trusted proxy it is
//! the client's address that counts, and nobody else may claim another.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, PATIENCE, get, publish_body};
use pushflo_tests::server::{PUBLISH_KEY, SECRET_KEY, start};
use serde_json::json;
use socket2::{Domain, Socket, Type};

const WRONG_KEY: &str = "sec_thisKeyIsNotKnownHere";

/// A publish as if it had come through a proxy.
fn forwarded(key: &str, forwarded_for: &str) -> Vec<u8> {
    let body = publish_body("c", &json!(1));
    let length = body.len();
    format!(
        "POST /api/v1/publish HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n\
         X-Forwarded-For: {forwarded_for}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// How many of a hundred wrong keys are told to be wrong before the address is told to wait.
fn wrong_keys(address: SocketAddr, forwarded_for: &str) -> usize {
    let mut client = HttpClient::connect(address);
    let statuses = (0..100).map(|_| {
        client.send(&forwarded(WRONG_KEY, forwarded_for));
        client.answer().unwrap().status
    });
    let statuses: Vec<u16> = statuses.collect();
    assert!(statuses.iter().all(|status| matches!(status, 401 | 429)), "{statuses:?}");
    statuses.iter().filter(|status| **status == 401).count()
}

#[test]
fn wrong_keys_slow_their_own_address() {
    let server = start(1, "");
    let address = server.address;
    // Ten at once, and what the time that passes gives back. Nobody is believed to be a proxy.
    let told = wrong_keys(address, "192.0.2.1");
    assert!((10..50).contains(&told), "{told}");
    assert!(wrong_keys(address, "192.0.2.2") < 10);
    let mut client = HttpClient::connect(address);
    client.send(&forwarded(WRONG_KEY, ""));
    let refused = client.answer().unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    assert_eq!(refused.json()["code"], "RATE_LIMITED");
    // Who has the right key is not held up, nor is another address.
    assert_eq!(client.publish(SECRET_KEY, &publish_body("c", &json!(1))).status, 200);
    let mut other = from_address("127.0.0.9", address);
    other.write_all(&forwarded(WRONG_KEY, "")).unwrap();
    let mut answer = [0; 12];
    other.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
}

/// A connection from another address of this machine.
fn from_address(from: &str, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&format!("{from}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn behind_a_proxy_the_clients_address_counts() {
    let server =
        start(1, "[proxy]\ntrusted = ['127.0.0.1']\n[limits]\nconnections_per_address = 2");
    let address = server.address;
    assert!(wrong_keys(address, "192.0.2.1") >= 10);
    assert!(wrong_keys(address, "192.0.2.2") >= 10);
    // What a client put there itself stands before what the proxy added.
    assert!(wrong_keys(address, "192.0.2.99, 192.0.2.2") < 10);
    // WebSockets of one client are counted together, however they come in.
    let connect = |client: &str| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = stream;
        let request = format!(
            "GET /ws?token={PUBLISH_KEY} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nX-Forwarded-For: {client}\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        (stream, String::from_utf8(answer[9..].to_vec()).unwrap())
    };
    let (first, second) = (connect("192.0.2.7"), connect("192.0.2.7"));
    assert_eq!((first.1.as_str(), second.1.as_str()), ("101", "101"));
    assert_eq!(connect("192.0.2.7").1, "429");
    assert_eq!(connect("192.0.2.8").1, "101");
    drop(first.0);
    while connect("192.0.2.7").1 == "429" {}
}

#[test]
fn the_proxy_protocol_is_read_before_anything_else() {
    let server = start(1, "[proxy]\ntrusted = ['127.0.0.1']\nprotocol = 'proxy'");
    let address = server.address;
    let mut version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    version_2.extend([192, 0, 2, 1, 127, 0, 0, 1, 0, 80, 0, 80]);
    let health = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n";
    for header in [
        b"PROXY TCP4 192.0.2.1 127.0.0.1 80 80\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        version_2,
    ] {
        // In one piece, and byte by byte.
        let mut client = HttpClient::connect(address);
        client.send(&[header.as_slice(), health].concat());
        assert_eq!(client.answer().unwrap().status, 200);
        client.send(health);
        assert_eq!(client.answer().unwrap().status, 200);
        let mut client = HttpClient::connect(address);
        for byte in [header.as_slice(), health].concat() {
            client.send(&[byte]);
        }
        assert_eq!(client.answer().unwrap().status, 200);
    }
    // A trusted proxy that does not say whose connection it is gets no answer; others need not.
    let mut client = HttpClient::connect(address);
    client.send(health);
    assert!(client.answer().is_none());
    let mut other = from_address("127.0.0.9", address);
    other.write_all(health).unwrap();
    let mut answer = [0; 12];
    other.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

/// The endpoint that goes with a token is encrypted if the proxy says so, and nobody else.
#[test]
fn a_proxy_says_whether_clients_come_through_tls() {
    let endpoint = |config: &str, fields: &str| {
        let server = start(1, config);
        let mut client = HttpClient::connect(server.address);
        let head = format!(
            "POST /api/v1/auth/token HTTP/1.1\r\nHost: push.example.com\r\nAuthorization: Bearer {SECRET_KEY}\r\n"
        );
        client.send(format!("{head}{fields}\r\n").as_bytes());
        client.answer().unwrap().json()["data"]["endpoint"].as_str().unwrap().to_owned()
    };
    let trusted = "[proxy]\ntrusted = ['127.0.0.1']";
    let (open, encrypted) = ("ws://push.example.com/ws", "wss://push.example.com/ws");
    for (config, fields, told) in [
        (trusted, "X-Forwarded-Proto: https\r\n", encrypted),
        (trusted, "X-Forwarded-Proto: HTTPS , http\r\n", encrypted),
        (trusted, "X-Forwarded-Proto: http, https\r\n", open),
        (trusted, "X-Forwarded-Proto: \r\n", open),
        (trusted, "", open),
        ("", "X-Forwarded-Proto: https\r\n", open),
        ("[proxy]\ntrusted = ['127.0.0.2']", "X-Forwarded-Proto: https\r\n", open),
    ] {
        assert_eq!(endpoint(config, fields), told, "{config} {fields}");
    }
}

#[test]
fn an_app_may_name_the_origins_it_is_called_from() {
    let server = start(2, "");
    let address = server.address;
    let settings = json!({ "settings": { "allowedOrigins": ["https://Shop.example:443/"] } });
    let changed = pushflo_tests::http::call(
        address,
        "PATCH",
        "/api/v1/apps/self",
        Some(pushflo_tests::server::MANAGE_KEY),
        &settings,
    );
    assert_eq!(changed.status, 200, "{}", changed.text());
    let shown = &changed.json()["data"]["settings"]["allowedOrigins"];
    assert_eq!(*shown, json!(["https://shop.example"]));
    let call = |origin: &str| {
        let mut client = HttpClient::connect(address);
        let head = format!(
            "GET /api/v1/channels HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {SECRET_KEY}\r\n"
        );
        client.send(format!("{head}{origin}\r\n").as_bytes());
        client.answer().unwrap().status
    };
    assert_eq!(call("Origin: https://shop.example\r\n"), 200);
    assert_eq!(call("Origin: https://evil.example\r\n"), 403);
    assert_eq!(call(""), 200);
    let connect = |origin: &str| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let url = format!("ws://{address}/ws?token={PUBLISH_KEY}");
        let mut request = tungstenite::client::IntoClientRequest::into_client_request(url).unwrap();
        request.headers_mut().insert("Origin", origin.parse().unwrap());
        let (socket, _) =
            tungstenite::client(request, pushflo_tests::client::Stream(stream)).unwrap();
        Subscriber { socket }
    };
    assert_eq!(connect("https://shop.example").event()["type"], "connected");
    let mut refused = connect("https://evil.example");
    assert_eq!(refused.event()["code"], "FORBIDDEN");
    assert_eq!(refused.close_code().0, 4003);
    assert_eq!(get(address, "/health", None).status, 200);
}
