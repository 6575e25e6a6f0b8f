//! Metrics on an address of their own: whoever is slow there keeps nobody waiting.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use pushflo_tests::http::{Answer, HttpClient, get, request};
use pushflo_tests::server::{TestServer, start};

/// How long a peer has, with some time for a busy machine.
const DEADLINE: Duration = Duration::from_secs(5);

fn start_with_metrics() -> (TestServer, SocketAddr) {
    let server = start(1, "metrics_listen = '127.0.0.1:0'");
    let address = server.metrics_address();
    (server, address)
}

fn assert_is_metrics(answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text();
    assert!(text.contains("pushflo_connections{shard=\"0\"} ") && text.ends_with('\n'), "{text}");
    // Whoever listens there may see what apps use.
    assert!(text.contains("pushflo_app_channels{app=\"default\"} "), "{text}");
}

fn answer_to(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut client = HttpClient::connect(address);
    client.send(bytes);
    let answer = client.answer().unwrap();
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.rest().is_empty());
    answer
}

#[test]
fn metrics_have_an_address_of_their_own() {
    let (server, address) = start_with_metrics();
    assert_is_metrics(&get(address, "/metrics", None));
    assert_is_metrics(&answer_to(address, b"GET /metrics HTTP/1.0\r\n\r\n"));
    assert_eq!(get(server.address, "/metrics", None).status, 404);
    // What follows the first request is nobody's concern, and does not cost the answer.
    let two = [request("GET", "/metrics", None, ""), vec![b'x'; 100_000]].concat();
    assert_is_metrics(&answer_to(address, &two));
    let mut head = HttpClient::connect(address);
    head.send(&request("HEAD", "/metrics", None, ""));
    let head = String::from_utf8(head.rest()).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn what_is_no_scrape_is_refused() {
    let (_server, address) = start_with_metrics();
    let status = |bytes: &[u8]| answer_to(address, bytes).status;
    assert_eq!(status(&request("GET", "/api/v1/usage", None, "")), 404);
    assert_eq!(status(&request("POST", "/metrics", None, "")), 405);
    assert_eq!(status(&request("GET", "/metrics", None, "body")), 413);
    assert_eq!(status(b"GET /metrics HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(status(b"\x16\x03\x01"), 400);
    let endless = [b"GET /metrics HTTP/1.1\r\nA: ".as_slice(), &[b'a'; 20_000]].concat();
    assert_eq!(status(&endless), 431);
    assert_is_metrics(&get(address, "/metrics", None));
}

#[test]
fn a_hundred_peers_that_drip_do_not_keep_a_scrape_waiting() {
    let (_server, address) = start_with_metrics();
    let connect = || {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\nA: ").unwrap();
        socket
    };
    let mut slow: Vec<_> = (0..100).map(|_| connect()).collect();
    for _ in 0..20 {
        for socket in &mut slow {
            // Who is cut off comes again.
            if socket.write_all(b"a").is_err() {
                *socket = connect();
            }
        }
        let begun = Instant::now();
        assert_is_metrics(&get(address, "/metrics", None));
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(1), "a scrape took {took:?}");
    }
}

#[test]
fn who_drips_or_is_silent_is_cut_off_at_the_deadline() {
    let (_server, address) = start_with_metrics();
    let begun = Instant::now();
    let pause = Some(Duration::from_millis(100));
    let mut sockets = [
        TcpStream::connect(address).unwrap(),
        TcpStream::connect(address).unwrap(),
        // One that has its answer and stays.
        TcpStream::connect(address).unwrap(),
    ];
    let [silent, dripping, staying] = &mut sockets;
    staying.write_all(&request("GET", "/metrics", None, "")).unwrap();
    let is_cut_off = |socket: &mut TcpStream, drip: &[u8]| {
        socket.set_read_timeout(pause).unwrap();
        let mut piece = [0; 4096];
        loop {
            assert!(begun.elapsed() < 3 * DEADLINE, "it is still there");
            if socket.write_all(drip).is_err() {
                break;
            }
            match socket.read(&mut piece) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        begun.elapsed()
    };
    let dripped = is_cut_off(dripping, b"G");
    assert!(dripped > DEADLINE / 2, "{dripped:?}");
    is_cut_off(silent, b"");
    is_cut_off(staying, b"");
    assert_is_metrics(&get(address, "/metrics", None));
}
