//! HTTP ingress: what is malformed gets a clear answer on its own connection, and nobody else
//! notices.

use std::io::Write as _;
use std::net::SocketAddr;

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{Answer, HttpClient, get, post, publish_body, request};
use pushflo_tests::server::{MANAGE_KEY, SECRET_KEY, TestServer, start};
use serde_json::{Value, json};

/// A subscriber and a publisher whose connections live through a test.
struct Bystanders {
    subscriber: Subscriber,
    publisher: HttpClient,
    sent: u64,
}

impl Bystanders {
    fn new(address: SocketAddr) -> Self {
        let mut subscriber = Subscriber::connect(address);
        subscriber.subscribe("bystanders");
        Self { subscriber, publisher: HttpClient::connect(address), sent: 0 }
    }

    fn are_well(&mut self) {
        self.sent += 1;
        let body = publish_body("bystanders", &json!(self.sent));
        let answer = self.publisher.publish(SECRET_KEY, &body);
        assert_eq!((answer.status, &answer.json()["data"]["delivered"]), (200, &json!(1)));
        let message = self.subscriber.message();
        assert_eq!((message.offset, message.data), (self.sent, json!(self.sent)));
    }
}

fn refused(answer: &Answer, status: u16, code: &str, words: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let body = answer.json();
    assert_eq!((&body["success"], &body["code"]), (&json!(false), &json!(code)), "{body}");
    let sentence = body["error"].as_str().unwrap();
    assert!(sentence.contains(words), "{sentence:?} does not say {words:?}");
}

/// Requests that cannot be read: each is answered once, then its connection ends, and what stands
/// behind it is not taken for a request.
#[test]
fn malformed_requests_end_their_own_connection() {
    let server = start(2, "");
    let mut bystanders = Bystanders::new(server.address);
    let key = format!("Host: h\r\nAuthorization: Bearer {SECRET_KEY}\r\n");
    let post = |fields: &str, body: &str| {
        format!("POST /api/v1/publish HTTP/1.1\r\n{key}{fields}\r\n{body}").into_bytes()
    };
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let headers =
        |count: usize| format!("GET /health HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("garbage", b"\x00\xff\xfe garbage\r\n\r\n".into(), 400, "not an HTTP/1.1 request"),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\n\n".into(), 400, "plain HTTP"),
        ("no target", b"GET\r\n\r\n".into(), 400, "not an HTTP"),
        ("no version", b"GET /\r\nHost: h\r\n\r\n".into(), 400, "not an HTTP"),
        ("version 2.0", b"GET / HTTP/2.0\r\nHost: h\r\n\r\n".into(), 400, "not an HTTP"),
        ("no host", b"GET / HTTP/1.1\r\n\r\n".into(), 400, "Host"),
        ("two hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400, "Host"),
        ("a space before the colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n".into(), 400, "not an"),
        ("a folded field", b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n".into(), 400, "not an HTTP"),
        ("a bare CR", b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n".into(), 400, "not an HTTP"),
        ("a NUL", b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n".into(), 400, "not an HTTP"),
        (
            "length and chunks",
            post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            400,
            "exclude each other",
        ),
        ("two lengths", post("Content-Length: 2\r\nContent-Length: 3\r\n", "{}x"), 400, "most one"),
        ("a list of lengths", post("Content-Length: 2, 2\r\n", "{}"), 400, "must be a number"),
        ("a negative length", post("Content-Length: -1\r\n", ""), 400, "must be a number"),
        ("a signed length", post("Content-Length: +2\r\n", "{}"), 400, "must be a number"),
        ("a hexadecimal length", post("Content-Length: 0x2\r\n", "{}"), 400, "must be a number"),
        ("an empty length", post("Content-Length:\r\n", "{}"), 400, "must be a number"),
        ("another coding", post("Transfer-Encoding: gzip\r\n", ""), 400, "chunked"),
        ("two codings", post("Transfer-Encoding: gzip, chunked\r\n", ""), 400, "chunked"),
        ("a chunk size of letters", chunked("xyz\r\n"), 400, "chunk size"),
        ("a negative chunk size", chunked("-1\r\n"), 400, "chunk size"),
        ("a prefixed chunk size", chunked("0x1\r\n"), 400, "chunk size"),
        ("an empty chunk size", chunked("\r\n"), 400, "chunk size"),
        ("a huge chunk size", chunked("fffffffffffffffff\r\n"), 400, "chunk size"),
        ("a chunk size without CR", chunked("2\n{}\r\n"), 400, "CR LF"),
        ("a chunk too long for its size", chunked("1\r\nab\r\n0\r\n\r\n"), 400, "its size"),
        ("a chunk line without end", chunked(&"1;".repeat(4_000)), 400, "too long"),
        ("a chunk over the limit", chunked("ffffff\r\n"), 413, "larger than"),
        ("a body over the limit", post("Content-Length: 1000000\r\n", ""), 413, "larger than"),
        ("many header fields", headers(1_000).into(), 431, "header fields"),
        (
            "a long header field",
            format!("GET / HTTP/1.1\r\nHost: h\r\nA: {}\r\n\r\n", "a".repeat(20_000)).into(),
            431,
            "16384 bytes",
        ),
        ("a long target", format!("GET /{} ", "a".repeat(20_000)).into(), 431, "16384 bytes"),
    ];
    let behind =
        request("POST", "/api/v1/publish", Some(SECRET_KEY), r#"{"channel":"smuggled","data":1}"#);
    for (name, bytes, status, words) in &cases {
        let mut client = HttpClient::connect(server.address);
        client.send(&[bytes.as_slice(), &behind].concat());
        let answer = client.answer().unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!(answer.status, *status, "{name}: {}", answer.text());
        assert_eq!(answer.header("connection"), Some("close"), "{name}");
        let sentence = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(sentence.contains(words), "{name}: {sentence:?} does not say {words:?}");
        assert_eq!(client.rest(), b"", "{name}");
        bystanders.are_well();
    }
    let smuggled = get(server.address, "/api/v1/channels/smuggled/messages", Some(SECRET_KEY));
    assert_eq!(smuggled.json()["data"]["pagination"]["total"], 0);
    // A header that names itself only at its end, byte by byte: as good as in one piece.
    for (name, bytes, status, _) in cases.iter().filter(|case| case.1.len() < 200) {
        let mut client = HttpClient::connect(server.address);
        for byte in bytes {
            // The server may have said no before the last byte.
            if client.stream.write_all(&[*byte]).is_err() {
                break;
            }
        }
        assert_eq!(client.answer().map(|answer| answer.status), Some(*status), "{name}");
    }
}

/// Requests that are well-formed and ask for something wrong: refused in words, and the connection
/// goes on.
#[test]
fn wrong_requests_are_refused_and_the_connection_goes_on() {
    for shards in [1, 4] {
        let server = start(shards, "");
        let mut bystanders = Bystanders::new(server.address);
        let mut client = HttpClient::connect(server.address);
        let deep = format!(r#"{{"channel":"c","data":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        let bottomless = format!(r#"{{"channel":"c","data":{}"#, "[".repeat(30_000));
        let large = publish_body("c", &json!("x".repeat(32 * 1024 - 1)));
        let long_slug = format!(r#"{{"channel":"{}","data":1}}"#, "c".repeat(129));
        let long_event = format!(r#"{{"channel":"c","event":"{}","data":1}}"#, "e".repeat(129));
        let bodies: [(&str, u16, &str, &str); 27] = [
            ("", 400, "VALIDATION_ERROR", "the body"),
            ("{", 400, "VALIDATION_ERROR", "the body"),
            ("null", 400, "VALIDATION_ERROR", "the body"),
            ("[]", 400, "VALIDATION_ERROR", ""),
            ("\"text\"", 400, "VALIDATION_ERROR", "the body"),
            ("{}", 400, "VALIDATION_ERROR", "channel is required"),
            (r#"{"channel":"c"}"#, 400, "VALIDATION_ERROR", "data is required"),
            (r#"{"data":1}"#, 400, "VALIDATION_ERROR", "channel is required"),
            (r#"{"channel":7,"data":1}"#, 400, "VALIDATION_ERROR", "the body"),
            (r#"{"channel":["c"],"data":1}"#, 400, "VALIDATION_ERROR", "the body"),
            (r#"{"channel":"c","event":1,"data":1}"#, 400, "VALIDATION_ERROR", "the body"),
            (r#"{"channel":"","data":1}"#, 400, "VALIDATION_ERROR", "channel"),
            (r#"{"channel":"a b","data":1}"#, 400, "VALIDATION_ERROR", "' '"),
            (r#"{"channel":"ä","data":1}"#, 400, "VALIDATION_ERROR", "'ä'"),
            (r#"{"channel":"../x","data":1}"#, 400, "VALIDATION_ERROR", "'/'"),
            (r#"{"channel":"a\u0000","data":1}"#, 400, "VALIDATION_ERROR", "channel"),
            (r#"{"channel":"c","event":"","data":1}"#, 400, "VALIDATION_ERROR", "1 to 128 bytes"),
            (r#"{"channel":"c","data":1}x"#, 400, "VALIDATION_ERROR", "the body"),
            (r#"{"channel":"c","data":01}"#, 400, "VALIDATION_ERROR", "the body"),
            (r#"{"channel":"c","data":NaN}"#, 400, "VALIDATION_ERROR", "the body"),
            (r#"{"channel":"c","channel":"d","data":1}"#, 400, "VALIDATION_ERROR", "duplicate"),
            (r#"{'channel':'c'}"#, 400, "VALIDATION_ERROR", "the body"),
            (&deep, 400, "VALIDATION_ERROR", "nest"),
            (&bottomless, 400, "VALIDATION_ERROR", ""),
            (&long_slug, 400, "VALIDATION_ERROR", "128"),
            (&long_event, 400, "VALIDATION_ERROR", "1 to 128 bytes"),
            (&large, 413, "PAYLOAD_TOO_LARGE", "32768"),
        ];
        for (body, status, code, words) in bodies {
            let answer = client.publish(SECRET_KEY, body);
            refused(&answer, status, code, words);
        }
        let mut broken = request("POST", "/api/v1/publish", Some(SECRET_KEY), r#"{"x":"?"}"#);
        let mark = broken.iter().rposition(|&byte| byte == b'?').unwrap();
        broken[mark] = 0xff;
        client.send(&broken);
        refused(&client.answer().unwrap(), 400, "VALIDATION_ERROR", "not UTF-8 at byte 6");
        client.send(&request("POST", "/api/v1/publish", Some(SECRET_KEY), "\u{feff}{}"));
        refused(&client.answer().unwrap(), 400, "VALIDATION_ERROR", "the body");
        let queries = [
            ("page=0", "page"),
            ("page=-1", "page"),
            ("page=x", "page"),
            ("page=99999999999999999999", "page"),
            ("page=9007199254740992", "to 9007199254740991"),
            ("page=%2B1", "page"),
            ("after=9007199254740992", "after"),
            ("pageSize=0", "pageSize"),
            ("pageSize=101", "from 1 to 100"),
            ("after=yesterday", "after"),
            ("before=-5", "before"),
        ];
        for (query, words) in queries {
            let target = format!("/api/v1/channels/c/messages?{query}");
            client.send(&request("GET", &target, Some(SECRET_KEY), ""));
            refused(&client.answer().unwrap(), 400, "VALIDATION_ERROR", words);
        }
        for (method, target, status, code, words) in [
            ("GET", "/nothing", 404, "NOT_FOUND", "/nothing"),
            ("GET", "/api/v1/publish", 405, "NOT_FOUND", "does not take GET"),
            ("DELETE", "/health", 405, "NOT_FOUND", "does not take DELETE"),
            ("BREW", "/api/v1/channels/c/messages", 405, "NOT_FOUND", "does not take BREW"),
            ("POST", "/api/v1/channels/a%20b/messages", 400, "VALIDATION_ERROR", "' '"),
            ("POST", "/api/v1/channels//messages", 400, "VALIDATION_ERROR", "channel"),
            ("GET", "/ws", 426, "VALIDATION_ERROR", "WebSocket"),
        ] {
            client.send(&request(method, target, Some(MANAGE_KEY), "{}"));
            let answer = client.answer().unwrap();
            refused(&answer, status, code, words);
            assert_eq!(answer.header("allow").is_some(), status == 405, "{target}");
        }
        // All of that was one connection, and it still publishes.
        assert_eq!(client.publish(SECRET_KEY, &publish_body("c", &json!(1))).status, 200);
        bystanders.are_well();
        assert_eq!(server.metric("pushflo_publishes_total"), 2);
    }
}

/// What is at a limit passes, what is one byte over does not.
#[test]
fn content_comes_through_byte_for_byte_up_to_its_limit() {
    let server = start(2, "[limits]\npayload_bytes = 1000");
    let mut subscriber = Subscriber::connect(server.address);
    subscriber.subscribe("c");
    let contents = [
        "null".to_owned(),
        "12345678901234567890123".into(),
        "1.0".into(),
        "-0".into(),
        "1e400".into(),
        r#"{ "b" : 1, "a" : 2, "b" : 3 }"#.into(),
        r#""\u00e4 ä \ud83d\ude00 \/""#.into(),
        // Half a surrogate pair is valid JSON (RFC 8259 section 8.2).
        r#""\ud800""#.into(),
        format!("\"{}\"", "x".repeat(998)),
        format!("{}{}", "[".repeat(128), "]".repeat(128)),
    ];
    for content in &contents {
        let body = format!(r#"{{"channel":"c","data":{content}}}"#);
        let answer = post(server.address, "/api/v1/publish", Some(SECRET_KEY), &body);
        assert_eq!(answer.status, 200, "{content}: {}", answer.text());
        let tungstenite::Message::Text(frame) = subscriber.socket.read().unwrap() else { panic!() };
        let whole = format!(r#""data":{content}"#);
        assert!(frame.contains(&whole), "{frame} does not hold {content}");
    }
    let over = publish_body("c", &json!("x".repeat(999)));
    let answer = post(server.address, "/api/v1/publish", Some(SECRET_KEY), &over);
    refused(&answer, 413, "PAYLOAD_TOO_LARGE", "at most 1000");
    let history = get(server.address, "/api/v1/channels/c/messages", Some(SECRET_KEY)).text();
    for content in &contents {
        assert!(history.contains(&format!(r#""content":{content}"#)), "{content}");
    }
}

#[test]
fn requests_of_every_shape_are_understood() {
    let server = start(2, "");
    let mut client = HttpClient::connect(server.address);
    let body = r#"{"channel":"c","data":1}"#;
    let head = |fields: &str| {
        format!(
            "POST /api/v1/publish HTTP/1.1\r\nHost: h\r\nauthorization:bearer  {SECRET_KEY} \r\n{fields}\r\n"
        )
    };
    // Chunks with extensions and trailers.
    let mut chunks = String::new();
    for byte in body.chars() {
        chunks += &format!("1;ext=\"a\"\r\n{byte}\r\n");
    }
    client.send(
        format!("{}{chunks}0\r\nT: x\r\n\r\n", head("Transfer-Encoding: Chunked\r\n")).as_bytes(),
    );
    assert_eq!(client.answer().unwrap().status, 200);
    // A client that waits to be asked for the body.
    client.send(
        head(&format!("Content-Length: {}\r\nExpect: 100-continue\r\n", body.len())).as_bytes(),
    );
    assert_eq!(client.answer().unwrap().status, 100);
    client.send(body.as_bytes());
    assert_eq!(client.answer().unwrap().status, 200);
    // Blank lines before a request, a target in absolute form.
    client.send(b"\r\n\r\nGET http://example.com/health HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.answer().unwrap().json()["status"], "ok");
    // HEAD has the fields of GET and no body: the next answer follows at once.
    let head = b"HEAD /health HTTP/1.1\r\nHost: h\r\n\r\n";
    client.send(head);
    let mut line = [0; 4096];
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        let bytes = std::io::Read::read(&mut client.stream, &mut line).unwrap();
        seen.extend_from_slice(&line[..bytes]);
    }
    let text = String::from_utf8(seen).unwrap().to_lowercase();
    assert!(text.starts_with("http/1.1 200 ok\r\n") && text.contains("content-length: "), "{text}");
    // Answers to pipelined requests come in order, whoever works on them.
    let mut pipeline = Vec::new();
    for number in 0..200 {
        let channel = format!("channel-{number}");
        pipeline.extend(request(
            "POST",
            "/api/v1/publish",
            Some(SECRET_KEY),
            &publish_body(&channel, &json!(number)),
        ));
        pipeline.extend(request("GET", &format!("/nothing-{number}"), None, ""));
    }
    client.send(&pipeline);
    for number in 0..200 {
        let published = client.answer().unwrap().json();
        assert_eq!(published["data"]["channelSlug"], format!("channel-{number}"));
        assert!(client.answer().unwrap().text().contains(&format!("/nothing-{number}\"")));
    }
    // A slug as encodeURIComponent writes it.
    let target = "/api/v1/channels/orders%3Auser%40example.com%3D1/messages";
    client.send(&request("POST", target, Some(SECRET_KEY), r#"{"content":[],"eventType":"é"}"#));
    let answer = client.answer().unwrap();
    assert_eq!(answer.status, 201);
    assert_eq!(answer.json()["data"]["channelSlug"], "orders:user@example.com=1");
    client.send(&request("GET", &format!("{target}?eventType=%C3%A9"), Some(SECRET_KEY), ""));
    assert_eq!(client.answer().unwrap().json()["data"]["pagination"]["total"], 1);
    // HTTP/1.0 without keep-alive, and a last request.
    client.send(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n");
    assert_eq!(client.answer().unwrap().header("connection"), Some("close"));
    assert_eq!(client.rest(), b"");
    let mut old = HttpClient::connect(server.address);
    old.send(b"GET /health HTTP/1.0\r\n\r\n");
    assert_eq!(old.answer().unwrap().status, 200);
    assert_eq!(old.rest(), b"");
    // Who has said all may stop talking before the answers come.
    let mut brief = HttpClient::connect(server.address);
    brief.send(&request("POST", "/api/v1/publish", Some(SECRET_KEY), body).repeat(20));
    brief.stream.shutdown(std::net::Shutdown::Write).unwrap();
    for _ in 0..20 {
        assert_eq!(brief.answer().unwrap().status, 200);
    }
    assert_eq!(brief.rest(), b"");
}

/// Behind a request that ends its connection nothing is done (RFC 9112 section 9.6).
#[test]
fn what_comes_behind_the_last_request_is_not_done() {
    let server = start(2, "");
    let publish = |data: u64, field: &str| {
        let body = publish_body("last", &json!(data));
        let request = request("POST", "/api/v1/publish", Some(SECRET_KEY), &body);
        String::from_utf8(request).unwrap().replace("Host:", &format!("{field}Host:"))
    };
    let mut client = HttpClient::connect(server.address);
    client.send((publish(1, "Connection: close\r\n") + &publish(2, "")).as_bytes());
    assert_eq!(client.answer().expect("an answer").status, 200);
    assert!(client.answer().is_none());
    let history = get(server.address, "/api/v1/channels/last/messages", Some(SECRET_KEY)).json();
    assert_eq!(history["data"]["pagination"]["total"], 1, "{history}");
}

#[test]
fn requests_that_dawdle_are_given_up() {
    let server = start(2, "[timeouts]\nhead_ms = 500\nbody_ms = 1000\nkeep_alive_ms = 1500");
    let mut bystanders = Bystanders::new(server.address);
    let mut in_head = HttpClient::connect(server.address);
    in_head.send(b"GET /health HTTP/1.1\r\nHost:");
    let mut in_body = HttpClient::connect(server.address);
    in_body.send(b"POST /api/v1/publish HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{");
    let mut silent = HttpClient::connect(server.address);
    for mut late in [in_head, in_body] {
        refused(&late.answer().unwrap(), 408, "VALIDATION_ERROR", "did not arrive in time");
        assert_eq!(late.rest(), b"");
    }
    assert_eq!(silent.rest(), b"");
    // One byte now and then does not keep a request alive.
    let mut drip = HttpClient::connect(server.address);
    let mut request = b"GET /health HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'x'));
    while drip.stream.write_all(&[*request.next().unwrap()]).is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut byte = [0];
        drip.stream.set_nonblocking(true).unwrap();
        if drip.stream.peek(&mut byte).is_ok() {
            break;
        }
        drip.stream.set_nonblocking(false).unwrap();
    }
    drip.stream.set_nonblocking(false).unwrap();
    assert_eq!(drip.answer().unwrap().status, 408);
    // Its publisher was silent for so long that it is gone, as it should.
    bystanders.publisher = HttpClient::connect(server.address);
    bystanders.are_well();
}

/// Who may not send a large body is told so at its head, and it is not read.
#[test]
fn a_body_that_is_not_wanted_is_not_waited_for() {
    let server = start(2, "");
    let mut bystanders = Bystanders::new(server.address);
    let wrong = "sec_wrong0123456789abc";
    for (target, key, status) in [
        ("/api/v1/publish", None, 401),
        ("/api/v1/publish/batch", Some(wrong), 401),
        ("/api/v1/apps", Some(wrong), 401),
        ("/nothing", Some(SECRET_KEY), 404),
    ] {
        let key = key.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
        for framing in ["Content-Length: 60000", "Transfer-Encoding: chunked"] {
            let mut client = HttpClient::connect(server.address);
            let head = format!("POST {target} HTTP/1.1\r\nHost: h\r\n{key}{framing}\r\n\r\n");
            client.send(head.as_bytes());
            let answer = client.answer().unwrap();
            assert_eq!(answer.status, status, "{target} {framing}");
            assert_eq!(answer.header("connection"), Some("close"));
            assert_eq!(client.rest(), b"");
        }
        // One that costs nothing to speak of is read, and the connection goes on.
        let mut client = HttpClient::connect(server.address);
        for _ in 0..3 {
            let body = "x".repeat(2000);
            let head = format!("POST {target} HTTP/1.1\r\nHost: h\r\n{key}Content-Length: 2000");
            client.send(format!("{head}\r\n\r\n{body}").as_bytes());
            assert_eq!(client.answer().unwrap().status, status, "{target}");
        }
    }
    bystanders.are_well();
}

#[test]
fn browsers_are_told_whether_they_may_call() {
    let preflight = |server: &TestServer, origin: &str| {
        let mut client = HttpClient::connect(server.address);
        client.send(
            format!(
                "OPTIONS /api/v1/publish HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\n\
                 Access-Control-Request-Method: POST\r\n\
                 Access-Control-Request-Headers: authorization\r\n\r\n"
            )
            .as_bytes(),
        );
        client.answer().unwrap()
    };
    let allowed = |answer: &Answer| answer.header("access-control-allow-origin").map(str::to_owned);
    let server = start(1, "");
    let answer = preflight(&server, "https://any.example");
    assert_eq!((answer.status, allowed(&answer).as_deref()), (204, Some("*")));
    assert!(answer.header("access-control-allow-methods").unwrap().contains("POST"));
    assert!(answer.header("access-control-allow-headers").unwrap().contains("Authorization"));
    drop(server);
    let server = start(1, "allowed_origins = ['https://good.example']");
    let answer = preflight(&server, "https://good.example");
    assert_eq!(allowed(&answer).as_deref(), Some("https://good.example"));
    assert_eq!(answer.header("vary"), Some("Origin"));
    let answer = preflight(&server, "https://bad.example");
    assert_eq!((answer.status, allowed(&answer)), (403, None));
    let mut client = HttpClient::connect(server.address);
    client.send(b"GET /nothing HTTP/1.1\r\nHost: h\r\nOrigin: https://good.example\r\n\r\n");
    // A script may read a refusal as well.
    assert_eq!(allowed(&client.answer().unwrap()).as_deref(), Some("https://good.example"));
}

/// The origins that the server allows are those of every call that concerns an app.
#[test]
fn an_origin_that_the_server_does_not_allow_gets_nothing_done() {
    let server = start(1, "allowed_origins = ['HTTPS://Good.example:443/']");
    let call = |method: &str, target: &str, origin: &str, body: &str| {
        let mut client = HttpClient::connect(server.address);
        client.send(
            format!(
                "{method} {target} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {MANAGE_KEY}\r\n\
                 {origin}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        client.answer().unwrap()
    };
    let publish = r#"{"channel":"c","data":1,"content":1}"#;
    for (method, target, body) in [
        ("POST", "/api/v1/publish", publish),
        ("POST", "/api/v1/publish/batch", publish),
        ("POST", "/api/v1/channels/c/messages", publish),
        ("GET", "/api/v1/channels/c/messages", ""),
        ("GET", "/api/v1/channels/c/presence", ""),
        ("GET", "/api/v1/channels", ""),
        ("POST", "/api/v1/auth/token", "{}"),
        ("GET", "/api/v1/usage", ""),
        ("GET", "/api/v1/apps", ""),
        ("PATCH", "/api/v1/apps/self", "{}"),
        ("POST", "/api/v1/apps/self/keys", r#"{"role":"mgmt"}"#),
        ("DELETE", "/api/v1/channels/c", ""),
    ] {
        for origin in ["https://evil.example", "null", "https://good.example.evil"] {
            let answer = call(method, target, &format!("Origin: {origin}\r\n"), body);
            assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("FORBIDDEN")));
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
        if !target.ends_with("presence") {
            let answer = call(method, target, "Origin: https://good.example\r\n", body);
            assert!(answer.status < 300, "{method} {target}: {}", answer.text());
        }
    }
    assert_eq!(server.metric("pushflo_publishes_total"), 3);
    assert_eq!(call("GET", "/health", "Origin: https://evil.example\r\n", "").status, 200);
}

/// Who speaks another protocol is told at once, not after a time-out.
#[test]
fn a_tls_client_is_told_that_the_port_speaks_plain_http() {
    let server = start(1, "[timeouts]\nhead_ms = 600000\nkeep_alive_ms = 600000");
    // What a client hello begins with; it holds no line end.
    for hello in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"\x16"] {
        let mut client = HttpClient::connect(server.address);
        client.send(hello);
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, answer.header("connection")), (400, Some("close")));
        assert!(answer.text().contains("plain HTTP"), "{}", answer.text());
        assert_eq!(client.rest(), b"");
    }
}

/// A client of HTTP/1.0 that wants to keep its connection waits for the word that it may.
#[test]
fn keep_alive_of_http_10_is_announced() {
    let server = start(1, "");
    let mut client = HttpClient::connect(server.address);
    for target in ["/health", "/nothing"] {
        client.send(format!("GET {target} HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").as_bytes());
        assert_eq!(client.answer().unwrap().header("connection"), Some("keep-alive"));
    }
    client.send(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.answer().unwrap().header("connection"), None);
    client.send(b"GET /health HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().unwrap().header("connection"), Some("close"));
    assert_eq!(client.rest(), b"");
}

/// Clients take such parts out of an address, so a channel of that name could not be read.
#[test]
fn channels_named_by_dots_are_refused_everywhere() {
    let server = start(1, "");
    for dots in [".", "..", "%2e", "%2E%2e", ".%2e"] {
        for (method, rest) in [
            ("GET", ""),
            ("DELETE", ""),
            ("GET", "/messages"),
            ("POST", "/messages"),
            ("GET", "/presence"),
        ] {
            let mut client = HttpClient::connect(server.address);
            let target = format!("/api/v1/channels/{dots}{rest}");
            client.send(&request(method, &target, Some(MANAGE_KEY), r#"{"content":1}"#));
            let answer = client.answer().unwrap();
            assert_eq!(answer.status, 400, "{method} {target}: {}", answer.text());
            assert!(answer.text().contains("cannot be named"), "{}", answer.text());
        }
    }
    let mut client = Subscriber::connect(server.address);
    for dots in [".", ".."] {
        for (target, body) in [
            ("/api/v1/publish", json!({ "channel": dots, "data": 1 })),
            ("/api/v1/channels", json!({ "slug": dots, "name": "n" })),
            ("/api/v1/auth/token", json!({ "channels": [dots] })),
        ] {
            let answer = post(server.address, target, Some(MANAGE_KEY), &body.to_string());
            assert_eq!(answer.status, 400, "{target}: {}", answer.text());
        }
        client.send(json!({ "type": "subscribe", "channel": dots }));
        assert_eq!(client.event()["code"], "VALIDATION_ERROR");
    }
}

/// Commands over the WebSocket: an error event says what is wrong, the connection stays.
#[test]
fn wrong_commands_are_refused_and_the_connection_goes_on() {
    let server = start(2, "[limits]\nreplay_messages = 50");
    let mut bystanders = Bystanders::new(server.address);
    let mut client = Subscriber::connect(server.address);
    let deep =
        format!(r#"{{"type":"subscribe","channel":{}{}}}"#, "[".repeat(500), "]".repeat(500));
    let cases: [(&str, &str, Option<&str>); 23] = [
        ("", "the message", None),
        ("hello", "the message", None),
        ("{", "the message", None),
        ("[1]", "", None),
        ("null", "", None),
        ("{}", "type is required", None),
        (r#"{"type":7}"#, "the message", None),
        (r#"{"type":"launch"}"#, "launch", None),
        (r#"{"type":"launch","channel":"c"}"#, "launch", Some("c")),
        (r#"{"type":"subscribe"}"#, "channel is required", None),
        (r#"{"type":"unsubscribe"}"#, "channel is required", None),
        (r#"{"type":"subscribe","channel":"a/b"}"#, "'/'", None),
        (r#"{"type":"subscribe","channel":"-"}x"#, "the message", None),
        (r#"{"type":"subscribe","channel":{}}"#, "the message", None),
        (r#"{"type":"subscribe","channel":"c","recover":1}"#, "the message", Some("c")),
        (r#"{"type":"subscribe","channel":"c","recover":{}}"#, "the message", Some("c")),
        (
            r#"{"type":"subscribe","channel":"c","recover":{"epoch":"x","offset":-1}}"#,
            "",
            Some("c"),
        ),
        (
            r#"{"type":"subscribe","channel":"c","recover":{"epoch":"x","offset":1.5}}"#,
            "",
            Some("c"),
        ),
        (r#"{"type":"subscribe","channel":"c","replay":{}}"#, "since or last", Some("c")),
        (r#"{"type":"subscribe","channel":"c","replay":{"last":51}}"#, "at most 50", Some("c")),
        (r#"{"type":"subscribe","channel":"c","replay":{"last":-1}}"#, "", Some("c")),
        (
            r#"{"type":"subscribe","channel":"c","replay":{"last":1},"recover":{"epoch":"x","offset":1}}"#,
            "exclude each other",
            Some("c"),
        ),
        (&deep, "", None),
    ];
    for (command, words, channel) in cases {
        client.socket.send(tungstenite::Message::text(command)).unwrap();
        let event = client.event();
        assert_eq!(
            (&event["type"], &event["code"]),
            (&json!("error"), &json!("VALIDATION_ERROR")),
            "{command}: {event}"
        );
        assert!(event["error"].as_str().unwrap().contains(words), "{command}: {event}");
        assert_eq!(event.get("channel"), channel.map(Value::from).as_ref(), "{command}");
    }
    client.send(json!({ "type": "unsubscribe", "channel": "never-subscribed" }));
    let event = client.event();
    assert!(event["type"] == "unsubscribed" || event["type"] == "error", "{event}");
    client.send(json!({ "type": "ack", "messageId": "x", "unknown": { "field": [1] } }));
    client.send(json!({ "type": "ping" }));
    assert_eq!(client.event()["type"], "pong");
    client.subscribe("c");
    bystanders.are_well();
}
