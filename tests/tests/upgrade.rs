//! Another process in the place of the one that runs: all connections go on, and nobody misses a message, gets one
//! twice, or is told anything of it; or nothing comes of it, and nothing has changed.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pushflo_tests::client::{Stream, Subscriber};
use pushflo_tests::disk::{Disk, Fault};
use pushflo_tests::http::{HttpClient, PATIENCE, get, post, publish_body, publish_keyed, request};
use pushflo_tests::load::Load;
use pushflo_tests::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY};
use pushflo_tests::upgraded::{Upgraded, signal};
use rustix::io::Errno;
use rustix::process::Signal;
use serde_json::{Value, json};
use tungstenite::Message;

const CHANNELS: [&str; 4] = ["a", "b", "c", "d"];

/// Publishes to all channels until it is told to stop; every publish must be answered well. Returns how many there
/// were to each.
fn publisher(address: SocketAddr, done: &Arc<AtomicBool>) -> JoinHandle<[u64; CHANNELS.len()]> {
    let done = Arc::clone(done);
    thread::spawn(move || {
        let (mut client, mut counts) = (HttpClient::connect(address), [0; CHANNELS.len()]);
        while !done.load(Ordering::Relaxed) {
            for (channel, count) in CHANNELS.iter().zip(&mut counts) {
                let answer = client.publish(SECRET_KEY, &publish_body(channel, &json!("x")));
                assert_eq!(answer.status, 200, "{}", answer.text());
                *count += 1;
            }
        }
        counts
    })
}

/// A token's bearer.
fn member(address: SocketAddr, name: &str) -> Subscriber {
    let body = json!({ "clientId": name }).to_string();
    let token = post(address, "/api/v1/auth/token", Some(SECRET_KEY), &body);
    assert_eq!(token.status, 200, "{}", token.text());
    let token = token.json()["data"]["token"].as_str().unwrap().to_owned();
    let mut member = Subscriber::connect_with(address, &token);
    assert_eq!(member.event()["clientId"], name);
    member
}

/// A masked text frame.
fn frame(text: &str, opcode: u8) -> Vec<u8> {
    let mut frame = vec![opcode, 0x80 | text.len() as u8, 0, 0, 0, 0];
    frame.extend(text.as_bytes());
    frame
}

/// Whoever is in the middle of something.
struct Busy {
    /// A request whose body is on its way.
    request: HttpClient,
    rest: Vec<u8>,
    /// A frame, of which half is there.
    frame: Subscriber,
    /// A message, of which one fragment is there.
    fragment: Subscriber,
    /// A connection that says nothing.
    idle: HttpClient,
    /// One that does not read, and how many messages wait for it.
    slow: Subscriber,
    waiting: usize,
}

impl Busy {
    fn begin(address: SocketAddr) -> Self {
        let whole =
            request("POST", "/api/v1/publish", Some(SECRET_KEY), &publish_body("z", &json!(1)));
        let (first, rest) = whole.split_at(whole.len() - 9);
        let mut request = HttpClient::connect(address);
        request.send(first);
        let mut frame_of = Subscriber::connect(address);
        frame_of.socket.get_mut().write_all(&frame(r#"{"type":"ping"}"#, 0x81)[..9]).unwrap();
        let mut fragment = Subscriber::connect(address);
        fragment.socket.get_mut().write_all(&frame(r#"{"type":"#, 0x01)).unwrap();
        let mut idle = HttpClient::connect(address);
        assert_eq!(idle.publish(SECRET_KEY, &publish_body("z", &json!(2))).status, 200);
        let mut slow = Subscriber::connect(address);
        slow.subscribe("large");
        let large = "x".repeat(20_000);
        let waiting = 150;
        let mut client = HttpClient::connect(address);
        for n in 0..waiting {
            let body = publish_body("large", &json!([n, large]));
            assert_eq!(client.publish(SECRET_KEY, &body).status, 200);
        }
        Self { request, rest: rest.to_vec(), frame: frame_of, fragment, idle, slow, waiting }
    }

    fn end(mut self) {
        self.request.send(&self.rest);
        assert_eq!(self.request.answer().unwrap().status, 200);
        self.frame.socket.get_mut().write_all(&frame(r#"{"type":"ping"}"#, 0x81)[9..]).unwrap();
        assert_eq!(self.frame.event()["type"], "pong");
        self.fragment.socket.get_mut().write_all(&frame(r#""ping"}"#, 0x80)).unwrap();
        assert_eq!(self.fragment.event()["type"], "pong");
        let answer = self.idle.publish(SECRET_KEY, &publish_body("z", &json!(3)));
        assert_eq!(answer.json()["data"]["offset"], 4);
        let numbers = self.slow.messages(self.waiting).into_iter().map(|seen| seen.data[0].clone());
        assert_eq!(
            numbers.collect::<Vec<_>>(),
            (0..self.waiting).map(|n| json!(n)).collect::<Vec<_>>()
        );
    }
}

fn all_live_on(durability: &str) {
    let config = |shards: usize| {
        format!(
            "shards = {shards}\ncores = [0, 1]\npresence.grace_ms = 500\npresence.interval_ms = 0\n\
             history.durability = '{durability}'\nhistory.messages_per_channel = 10000000\n\
             metrics_listen = '127.0.0.1:0'\n"
        )
    };
    let server = Upgraded::start(&config(2));
    let address = server.address;
    let room = json!({ "slug": "room", "name": "Room", "presence": true }).to_string();
    assert_eq!(post(address, "/api/v1/channels", Some(MANAGE_KEY), &room).status, 201);
    let mut members = [member(address, "ann"), member(address, "bob")];
    for member in &mut members {
        member.send(json!({ "type": "subscribe", "channel": "room", "presence": true }));
        assert_eq!(member.event()["type"], "subscribed");
    }
    // Both hear of each other.
    for member in &mut members {
        while member.event()["count"] != 2 {}
    }
    let busy = Busy::begin(address);
    let mut subscribers: Vec<Subscriber> = (0..24).map(|_| Subscriber::connect(address)).collect();
    for (at, subscriber) in subscribers.iter_mut().enumerate() {
        // Each listens to some of the channels.
        CHANNELS.iter().skip(at % 3).for_each(|channel| drop(subscriber.subscribe(channel)));
    }
    let keyed = publish_keyed(address, SECRET_KEY, "k", &publish_body("z", &json!("once"))).json();

    let done = Arc::new(AtomicBool::new(false));
    let publishers = [publisher(address, &done), publisher(address, &done)];
    for shards in [2, 1, 3, 2, 2] {
        thread::sleep(Duration::from_millis(150));
        server.configure(&config(shards));
        let pause = server.upgraded();
        println!("{durability}, {shards} shards: nobody was served for {pause:?}");
    }
    thread::sleep(Duration::from_millis(150));
    done.store(true, Ordering::Relaxed);
    let counts = publishers.map(|publisher| publisher.join().unwrap());

    for (at, subscriber) in subscribers.iter_mut().enumerate() {
        let wanted: Vec<usize> = (at % 3..CHANNELS.len()).collect();
        let count: u64 =
            wanted.iter().map(|channel| counts[0][*channel] + counts[1][*channel]).sum();
        let mut seen = [0; CHANNELS.len()];
        for message in subscriber.messages(count as usize) {
            let channel = CHANNELS.iter().position(|name| *name == message.channel).unwrap();
            seen[channel] += 1;
            assert_eq!(
                message.offset, seen[channel],
                "a gap or a duplicate in {}",
                message.channel
            );
        }
        subscriber.send(json!({ "type": "ping" }));
        assert_eq!(subscriber.event()["type"], "pong", "nothing more than there was");
    }
    busy.end();
    // Nobody has left, and who asks is told the same as before.
    thread::sleep(Duration::from_millis(700));
    for member in &mut members {
        member.send(json!({ "type": "ping" }));
        let event = member.event();
        assert_eq!(event["type"], "pong", "nobody came or went: {event}");
    }
    let told = get(address, "/api/v1/channels/room/presence", Some(SECRET_KEY)).json();
    assert_eq!(told["data"]["count"], 2, "{told}");
    let again = publish_keyed(address, SECRET_KEY, "k", &publish_body("z", &json!("once"))).json();
    assert_eq!(again["data"]["id"], keyed["data"]["id"]);
    let kept = get(address, "/api/v1/channels/a/messages?pageSize=1", Some(SECRET_KEY)).json();
    assert_eq!(kept["data"]["pagination"]["total"], counts[0][0] + counts[1][0]);
    let published =
        post(address, "/api/v1/publish", Some(SECRET_KEY), &publish_body("d", &json!(1)));
    assert_eq!(published.json()["data"]["delivered"], 24);
}

#[test]
fn all_live_on_where_history_is_on_disk() {
    all_live_on("os");
}

#[test]
fn all_live_on_where_history_is_in_memory() {
    all_live_on("memory");
}

/// Messages that are published over and over, and a subscriber that must see them all.
struct Witness {
    subscriber: Subscriber,
    seen: u64,
}

impl Witness {
    fn new(address: SocketAddr) -> Self {
        let mut subscriber = Subscriber::connect(address);
        subscriber.subscribe("witnessed");
        Self { subscriber, seen: 0 }
    }

    /// An upgrade comes to nothing, says why, and the server is as it was.
    fn refused(&mut self, server: &Upgraded, why: &str) {
        let output = server.upgrade();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("nothing has changed"), "{said}");
        assert!(said.contains(why), "{said:?} does not say {why:?}");
        self.look(server.address);
        assert_eq!(server.processes().len(), 1, "what was started is ended");
    }

    /// The server is as it was: a message is taken and sent on the same connection.
    fn look(&mut self, address: SocketAddr) {
        let body = publish_body("witnessed", &json!("x"));
        let answer = post(address, "/api/v1/publish", Some(SECRET_KEY), &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        self.seen += 1;
        assert_eq!(self.subscriber.message().offset, self.seen);
    }
}

/// A program that takes what it is offered and does something else then.
fn speaker(then: &str) -> String {
    format!(
        "#!/usr/bin/env python3\nimport socket, struct, time\ns = socket.socket(fileno=0)\ns.recv(65536)\n\
         def say(text): s.sendall(struct.pack('=II', len(text), 0) + text.encode())\n{then}\n"
    )
}

/// What a program says that is prepared.
const PREPARED: &str =
    "say('{\"say\":\"accepted\",\"version\":\"9\"}'); say('{\"say\":\"prepared\",\"shards\":1}')\n";

#[test]
fn an_upgrade_that_comes_to_nothing_changes_nothing() {
    let server = Upgraded::start("shards = 2\ncores = [0, 1]");
    let address = server.address;
    let mut witness = Witness::new(address);
    witness.look(address);
    let mut refused = |why: &str| witness.refused(&server, why);
    server.replace_program("#!/bin/sh\nexit 3\n");
    refused("has ended (exit status: 3)");
    server.replace_program("#!/bin/sh\nkill -9 $$\n");
    refused("signal: 9");
    server.replace_program("no program");
    refused("cannot start");
    std::fs::remove_file(server.program()).unwrap();
    refused("No such file");
    // Programs that say something else.
    server
        .replace_program(&speaker("say('{\"say\":\"refused\",\"reason\":\"it takes format 7\"}')"));
    refused("it takes format 7");
    server.replace_program(&speaker("say('nonsense')"));
    refused("cannot talk to");
    server.replace_program(&speaker("say('{\"say\":\"commit\"}')"));
    refused("has no meaning");
    // It is prepared, and ends when it was given everything.
    server.replace_program(&speaker(&format!("{PREPARED}s.recv(10)")));
    refused("");
    server.replace_program(&speaker(&format!(
        "{PREPARED}s.recv(10); say('{{\"say\":\"failed\",\"reason\":\"no room\"}}'); time.sleep(2)"
    )));
    refused("no room");
    server.restore_program();
    // One with a configuration that is wrong, or for another folder.
    server.configure("shards = 2\ncores = [0, 1]\nnonsense = 1");
    refused("nonsense");
    server.configure("shards = 2\ncores = [77]");
    refused("there is no core 77");
    // One that is right.
    server.configure("shards = 2\ncores = [0, 1]\n[history]\nlog_memory_bytes = 8388608\n");
    server.upgraded();
    witness.look(address);
}

#[test]
fn one_that_hangs_is_ended() {
    let server = Upgraded::start("");
    let address = server.address;
    let mut witness = Witness::new(address);
    // Before it says anything; nobody waits for that.
    server.replace_program("#!/bin/sh\nexec sleep 100\n");
    let output = thread::scope(|scope| {
        let upgrade = scope.spawn(|| server.upgrade());
        while !upgrade.is_finished() {
            witness.look(address);
            thread::sleep(Duration::from_millis(50));
        }
        upgrade.join().unwrap()
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("was not prepared within"), "{said}");
    witness.look(address);
    // When it has got everything.
    server.replace_program(&speaker(&format!("{PREPARED}time.sleep(100)")));
    witness.refused(&server, "within 10 s");
    server.restore_program();
    server.upgraded();
    witness.look(address);
}

#[test]
fn one_that_cannot_open_the_log_gives_everything_back() {
    let server = Upgraded::start("");
    let address = server.address;
    let mut witness = Witness::new(address);
    witness.look(address);
    let disk = Disk::new(&server.data_dir().join("log"));
    let mut below = Command::new("env");
    disk.put_below(&mut below);
    let variables = below.get_envs().map(|(name, value)| {
        format!("{}='{}'", name.display(), value.unwrap_or_default().display())
    });
    let variables: Vec<String> = variables.collect();
    let program = pushflo_tests::program::path();
    let script =
        format!("#!/bin/sh\nexec env {} {} \"$@\"\n", variables.join(" "), program.display());
    server.replace_program(&script);
    for passes in [0, 1, 3] {
        disk.fail(&[Fault { call: "open", error: Errno::IO, passes }]);
        witness.refused(&server, "cannot open the log");
    }
    disk.fail(&[Fault { call: "sync", error: Errno::NOSPC, passes: 0 }]);
    let output = server.upgrade();
    println!("{}", String::from_utf8_lossy(&output.stderr));
    witness.look(address);
    disk.heal();
    server.upgraded();
    witness.look(address);
}

#[test]
fn whoever_is_killed_in_between_nothing_is_lost() {
    let rounds = pushflo_tests::number("PUSHFLO_UPGRADE_ROUNDS").unwrap_or(12);
    let mut random = fastrand::Rng::with_seed(pushflo_tests::number("PUSHFLO_SEED").unwrap_or(1));
    let mut server = Upgraded::start(
        "[history]\nmessages_per_channel = 100000000\nbytes_per_channel = 100000000000\n",
    );
    let load = Load::start(server.address);
    let (mut upgrades, mut restarts) = (0, 0);
    for round in 0..rounds {
        thread::sleep(Duration::from_millis(random.u64(50..200)));
        let old = *server.processes().last().unwrap();
        signal(old, Signal::USR2);
        thread::sleep(Duration::from_micros(random.u64(0..150_000)));
        let processes = server.processes();
        let is_old = random.bool();
        let victim = if is_old { old } else { *processes.last().unwrap() };
        println!("round {round}: {victim} of {processes:?} is killed, which began with {old}");
        if processes.len() > 1 || victim != old {
            signal(victim, Signal::KILL);
            upgrades += 1;
        }
        thread::sleep(Duration::from_millis(300));
        // One goes on, unless it was the last that was killed.
        if server.processes().is_empty() {
            restarts += 1;
            server.restart();
        }
    }
    println!("{upgrades} upgrades were hit, {restarts} times nobody was left");
    thread::sleep(Duration::from_millis(500));
    load.stop().check_all(server.address);
}

#[test]
fn who_cannot_be_reached_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let output = pushflo_tests::program::run(&["upgrade", "--data-dir", data.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("no server runs with the data folder"),
        "{said}"
    );
}

#[test]
fn connections_that_wait_to_be_accepted_are_taken_over() {
    let server = Upgraded::start("shards = 2\ncores = [0, 1]");
    let address = server.address;
    let done = Arc::new(AtomicBool::new(false));
    let comers: Vec<_> = (0..4)
        .map(|_| {
            let done = Arc::clone(&done);
            thread::spawn(move || {
                let mut count = 0;
                while !done.load(Ordering::Relaxed) {
                    // Each connects anew, says something at once and hears of it.
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    stream
                        .write_all(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                        .unwrap();
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).unwrap();
                    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
                    count += 1;
                }
                count
            })
        })
        .collect();
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(100));
        server.upgraded();
    }
    done.store(true, Ordering::Relaxed);
    let count: u64 = comers.into_iter().map(|comer| comer.join().unwrap()).sum();
    println!("{count} connections came and went");
}

#[test]
fn who_is_being_closed_is_closed() {
    let server = Upgraded::start("");
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let url = format!("ws://{}/ws?token={PUBLISH_KEY}", server.address);
    let (mut socket, _) = tungstenite::client(url, Stream(stream)).unwrap();
    socket.read().unwrap();
    // A key that is revoked while nobody looks is no key afterwards.
    let key =
        post(server.address, "/api/v1/apps/self/keys", Some(MANAGE_KEY), r#"{"role":"secret"}"#);
    assert_eq!(key.status, 201, "{}", key.text());
    let key: Value = key.json()["data"].clone();
    let mut guest = Subscriber::connect_with(server.address, key["key"].as_str().unwrap());
    guest.event();
    let target = format!("/api/v1/apps/self/keys/{}", key["id"].as_str().unwrap());
    server.upgraded();
    let gone = pushflo_tests::http::call(
        server.address,
        "DELETE",
        &target,
        Some(MANAGE_KEY),
        &Value::Null,
    );
    assert_eq!(gone.status, 204, "{}", gone.text());
    assert_eq!(guest.close_code().0, 4001);
    socket.close(None).unwrap();
    while let Ok(message) = socket.read() {
        assert!(matches!(message, Message::Close(_)), "{message:?}");
    }
    server.upgraded();
}

#[test]
fn systemd_is_told_which_process_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = || {
        let mut bytes = [0; 256];
        let length = systemd.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).trim().to_owned()
    };
    let server = Upgraded::start_with("", |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    assert_eq!(hear(), "READY=1");
    server.upgraded();
    let heard = BTreeSet::from([hear(), hear()]);
    let now = server.processes();
    assert_eq!(heard, BTreeSet::from([format!("MAINPID={}", now[0]), "READY=1".into()]));
    signal(now[0], Signal::TERM);
    assert_eq!(hear(), "STOPPING=1");
}
