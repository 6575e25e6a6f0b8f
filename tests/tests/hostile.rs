//! A server that may use 256 MB, and tenants and strangers who want all of it at once: it lives within
//! that, a quiet app has its messages all the while, and afterwards the memory goes back.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::Scope;
use std::time::{Duration, Instant};

use pushflo_tests::api::{Api, TestApp};
use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, PATIENCE, get, publish_body, request};
use pushflo_tests::program::{Program, command};
use pushflo_tests::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY};
use rustix::process::Signal;
use serde_json::json;

const MEMORY_BYTES: usize = 256 << 20;

/// How long the attacks last.
const ATTACK: Duration = Duration::from_secs(8);

/// How long freed memory may take to go back.
const MINUTE: Duration = Duration::from_secs(60);

/// A line of `/proc/PID/status` in bytes.
fn status(program: &Program, name: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<usize>().unwrap() * 1024
}

/// Connections that are held to the end of the attacks, and bytes that are sent on them as far as the
/// server takes them. Nothing is read.
struct Attack<'a> {
    address: SocketAddr,
    is_over: &'a AtomicBool,
}

impl Attack<'_> {
    /// So many connections at a time; one that the server ends is made anew. `bytes` says what is sent on
    /// each, again and again if `repeats`.
    fn run(&self, connections: usize, repeats: bool, bytes: impl Fn(usize) -> Vec<u8>) {
        let mut held: Vec<Option<(TcpStream, Vec<u8>, usize)>> = Vec::new();
        held.resize_with(connections, || None);
        while !self.is_over.load(Relaxed) {
            for (index, place) in held.iter_mut().enumerate() {
                if place.is_none() {
                    let Ok(stream) = TcpStream::connect(self.address) else { continue };
                    stream.set_nonblocking(true).unwrap();
                    *place = Some((stream, bytes(index), 0));
                }
                let Some((stream, bytes, sent)) = place else { continue };
                if *sent == bytes.len() && repeats {
                    *sent = 0;
                }
                match stream.write(&bytes[*sent..]) {
                    Ok(written) => *sent += written,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => *place = None,
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Ends the attacks when it goes.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The handshake of a WebSocket with a key, and frames behind it.
fn websocket(key: &str, frames: &[u8]) -> Vec<u8> {
    let head = format!(
        "GET /ws?token={key} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    [head.as_bytes(), frames].concat()
}

/// A masked text frame of less than 126 bytes.
fn text(text: &str) -> Vec<u8> {
    [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0], text.as_bytes()].concat()
}

/// All attacks at once.
fn attack<'scope>(
    scope: &'scope Scope<'scope, '_>,
    address: SocketAddr,
    is_over: &'scope AtomicBool,
) {
    let attack = move |connections, repeats, bytes: Box<dyn Fn(usize) -> Vec<u8> + Send>| {
        scope.spawn(move || Attack { address, is_over }.run(connections, repeats, bytes));
    };
    let batch = "/api/v1/publish/batch";
    // Bodies that do not end, of strangers and of those with a key.
    for key in [None, Some(SECRET_KEY)] {
        let mut half = request("POST", batch, key, &" ".repeat(1 << 20));
        half.pop();
        attack(150, false, Box::new(move |_| half.clone()));
    }
    // Pages, lists and answers to commands that nobody reads.
    let pages =
        request("GET", "/api/v1/channels/large/messages?pageSize=100", Some(SECRET_KEY), "");
    attack(40, false, Box::new(move |_| pages.repeat(300)));
    attack(
        40,
        true,
        Box::new(|_| websocket(PUBLISH_KEY, &text(r#"{"type":"ping"}"#).repeat(5_000))),
    );
    // The past, for those who do not take it.
    let replay = text(r#"{"type":"subscribe","channel":"large","replay":{"last":10000}}"#);
    attack(150, false, Box::new(move |_| websocket(PUBLISH_KEY, &replay)));
    // What is live, for those who do not take it.
    let live = text(r#"{"type":"subscribe","channel":"b7"}"#);
    attack(150, false, Box::new(move |_| websocket(PUBLISH_KEY, &live)));
    // Batches of a thousand large messages.
    let channels: Vec<String> = (0..1000).map(|index| format!("b{index}")).collect();
    let body = json!([{ "channels": channels, "data": "x".repeat(32_000) }]).to_string();
    let large = request("POST", batch, Some(SECRET_KEY), &body);
    attack(4, true, Box::new(move |_| large.clone()));
    // Heads that do not end, and keys that are none.
    attack(
        150,
        false,
        Box::new(|_| [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 15_000]].concat()),
    );
    let wrong = request("POST", "/api/v1/publish", Some("sec_9999999999999999"), "{}");
    attack(20, true, Box::new(move |_| wrong.repeat(50)));
}

/// A message every 20 ms until `is_over`, and the times from its publish to its subscriber.
fn quiet(address: SocketAddr, app: &TestApp, is_over: &dyn Fn() -> bool) -> Vec<Duration> {
    let mut subscriber = Subscriber::connect_with(address, &app.publish);
    assert_eq!(subscriber.event()["type"], "connected");
    let before = subscriber.subscribe("quiet")["offset"].as_u64().unwrap();
    let mut publisher = HttpClient::connect(address);
    let mut times = Vec::new();
    while !is_over() {
        let begun = Instant::now();
        let answer = publisher.publish(&app.secret, &publish_body("quiet", &json!("hello")));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let message = subscriber.message();
        times.push(begun.elapsed());
        assert_eq!(message.offset, before + times.len() as u64);
        std::thread::sleep(Duration::from_millis(20));
    }
    times.sort_unstable();
    times
}

fn tell(what: &str, times: &[Duration]) {
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    let [p50, p99, most] = [50, 99, 100].map(at);
    println!("{what}: {} messages, p50 {p50:?}, p99 {p99:?}, longest {most:?}", times.len());
}

#[test]
fn a_small_server_lives_through_all_of_it_at_once() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("pushflo.toml");
    std::fs::write(&config, format!("memory_bytes = {MEMORY_BYTES}\n")).unwrap();
    let mut command = command(&["--listen", "127.0.0.1:0", "--shards", "2", "--config"]);
    command.arg(&config).arg("--data-dir").arg(data.path().join("data"));
    for (name, key) in [("PUBLISH", PUBLISH_KEY), ("SECRET", SECRET_KEY), ("MGMT", MANAGE_KEY)] {
        command.env(format!("PUSHFLO_{name}_KEY"), key);
    }
    command.env("PUSHFLO_LOG", "error").stderr(std::process::Stdio::inherit());
    let mut program = Program::spawn(command);
    let address = program.address();
    let app = Api::connect(address).create_app("quiet");
    let mut client = HttpClient::connect(address);
    for _ in 0..600 {
        let body = publish_body("large", &json!("y".repeat(20_000)));
        assert_eq!(client.publish(SECRET_KEY, &body).status, 200);
    }
    drop(client);

    let begun = Instant::now();
    let times = quiet(address, &app, &|| begun.elapsed() > ATTACK / 4);
    tell("alone", &times);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also where something fails below.
        let _end = End(&is_over);
        attack(scope, address, &is_over);
        let begun = Instant::now();
        let times = quiet(address, &app, &|| begun.elapsed() > ATTACK);
        tell("under attack", &times);
        assert!(times.last().unwrap() < &PATIENCE);
    });
    let peak = status(&program, "VmHWM:");
    println!("peak of memory: {} MB", peak >> 20);
    assert!(peak < MEMORY_BYTES, "it took {peak} bytes");
    assert_eq!(get(address, "/health", None).status, 200);

    // What it keeps then is history, and what the log has written lately.
    let kept = MEMORY_BYTES / 8 + MEMORY_BYTES / 8 + (24 << 20);
    let begun = Instant::now();
    while status(&program, "VmRSS:") > kept {
        let left = status(&program, "VmRSS:");
        assert!(begun.elapsed() < MINUTE, "{left} bytes are still taken after a minute");
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("{} MB after {:?}", status(&program, "VmRSS:") >> 20, begun.elapsed());
    program.signal(Signal::TERM);
    assert!(program.output().status.success());
}
