//! kill -9 at random moments, many times over: what was acknowledged is in history exactly once and
//! in order, and no subscriber that comes back sees a gap or anything twice.
//!
//! `PUSHFLO_CRASHES=n` crashes that often; `PUSHFLO_SEED=n` repeats the moments.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, get, publish_body, request};
use pushflo_tests::number;
use pushflo_tests::program::{Program, command};
use pushflo_tests::server::{PUBLISH_KEY, SECRET_KEY};
use rustix::process::Signal;
use serde_json::{Value, json};
use tungstenite::Message;

const CHANNELS: [&str; 3] = ["a", "b", "c"];
const PUBLISHERS: usize = 3;
const SUBSCRIBERS: usize = 4;

/// What the threads share.
struct World {
    /// Where the server listens at the moment.
    port: AtomicU16,
    done: AtomicBool,
}

impl World {
    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.load(Ordering::Relaxed)))
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}

/// What a publisher was told: channel, offset, content.
type Acknowledged = Vec<(String, u64, String)>;

fn serve(data: &std::path::Path, durability: &str) -> (Program, SocketAddr) {
    let data_dir = data.to_str().unwrap();
    // Beside the data, so that every start reads the same.
    let config = data.with_extension("toml");
    std::fs::write(
        &config,
        "[history]\nmessages_per_channel = 100000000\nbytes_per_channel = 100000000000\n",
    )
    .unwrap();
    let config = config.to_str().unwrap();
    let mut command = command(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        data_dir,
        "--config",
        config,
        "--durability",
        durability,
    ]);
    command.env("PUSHFLO_PUBLISH_KEY", PUBLISH_KEY).env("PUSHFLO_SECRET_KEY", SECRET_KEY);
    command.stderr(std::process::Stdio::inherit());
    let mut program = Program::spawn(command);
    let address = program.address();
    (program, address)
}

/// Publishes one message after the other, each with a content of its own; after a crash it goes on
/// with the next.
fn publish(world: Arc<World>, index: usize) -> JoinHandle<Acknowledged> {
    thread::spawn(move || {
        let (mut acknowledged, mut number) = (Vec::new(), 0u64);
        while !world.is_done() {
            let Ok(stream) = TcpStream::connect(world.address()) else {
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            drop(stream);
            let mut client = HttpClient::connect(world.address());
            while !world.is_done() {
                // A few at a time, so that groups hold several.
                let batch: Vec<(usize, String)> = (0..5)
                    .map(|_| {
                        number += 1;
                        (number as usize % CHANNELS.len(), format!("{index}-{number}"))
                    })
                    .collect();
                let mut bytes = Vec::new();
                for (channel, content) in &batch {
                    let body = publish_body(CHANNELS[*channel], &json!(content));
                    bytes.extend(request("POST", "/api/v1/publish", Some(SECRET_KEY), &body));
                }
                use std::io::Write as _;
                if client.stream.write_all(&bytes).is_err() {
                    break;
                }
                let mut ended = false;
                for (channel, content) in batch {
                    let Some(answer) = client.try_answer() else {
                        ended = true;
                        break;
                    };
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    let offset = answer.json()["data"]["offset"].as_u64().unwrap();
                    acknowledged.push((CHANNELS[channel].to_owned(), offset, content));
                }
                if ended {
                    break;
                }
            }
        }
        acknowledged
    })
}

/// Follows one channel over all crashes. Returns what it saw, from the first message on.
fn follow(world: Arc<World>, channel: &'static str) -> JoinHandle<Vec<(u64, String)>> {
    thread::spawn(move || {
        let mut seen: Vec<(u64, String)> = Vec::new();
        let mut position: Option<(Value, u64)> = None;
        // The last crash is followed by a drain: what is left comes before the end.
        let mut quiet_since = Instant::now();
        while !(world.is_done() && quiet_since.elapsed() > Duration::from_millis(700)) {
            let Ok(stream) = TcpStream::connect(world.address()) else {
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let url = format!("ws://{}/ws?token={PUBLISH_KEY}", world.address());
            let stream = pushflo_tests::client::Stream(stream);
            let Ok((mut socket, _)) = tungstenite::client(url, stream) else { continue };
            let ask = match &position {
                None => {
                    json!({ "type": "subscribe", "channel": channel, "replay": { "since": 0 } })
                }
                Some((epoch, offset)) => json!({
                    "type": "subscribe", "channel": channel,
                    "recover": { "epoch": epoch, "offset": offset },
                }),
            };
            if socket.send(Message::text(ask.to_string())).is_err() {
                continue;
            }
            loop {
                let text = match socket.read() {
                    Ok(Message::Text(text)) => text,
                    Ok(_) => continue,
                    Err(tungstenite::Error::Io(error))
                        if error.kind() == std::io::ErrorKind::WouldBlock
                            && !(world.is_done()
                                && quiet_since.elapsed() > Duration::from_millis(700)) =>
                    {
                        continue;
                    }
                    Err(_) => break,
                };
                let event: Value = serde_json::from_str(&text).unwrap();
                match event["type"].as_str().unwrap() {
                    "subscribed" => match &position {
                        None => position = Some((event["epoch"].clone(), 0)),
                        Some((epoch, offset)) => {
                            assert_eq!(&event["epoch"], epoch, "the epoch changed: {event}");
                            assert_eq!(event["recovered"], true, "lost behind {offset}: {event}");
                        }
                    },
                    "message" => {
                        quiet_since = Instant::now();
                        let offset = event["offset"].as_u64().unwrap();
                        let before = event["prev"].as_u64().unwrap_or(offset - 1);
                        let (_, last) = position.as_mut().unwrap();
                        assert_eq!(*last, before, "a gap or a duplicate: {event}");
                        *last = offset;
                        seen.push((offset, event["data"].as_str().unwrap().to_owned()));
                    }
                    _ => {}
                }
            }
        }
        seen
    })
}

/// All of a channel's history, oldest first.
fn history(address: SocketAddr, channel: &str) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    for page in 1.. {
        let target = format!("/api/v1/channels/{channel}/messages?pageSize=100&page={page}");
        let data = get(address, &target, Some(SECRET_KEY)).json()["data"].clone();
        for item in data["items"].as_array().unwrap() {
            all.push((item["offset"].as_u64().unwrap(), item["content"].as_str().unwrap().into()));
        }
        if page >= data["pagination"]["totalPages"].as_u64().unwrap() {
            assert_eq!(all.len() as u64, data["pagination"]["total"].as_u64().unwrap());
            break;
        }
    }
    all.reverse();
    all
}

fn crash_many_times(durability: &str) {
    let seed = number("PUSHFLO_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("PUSHFLO_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("data");
    let (mut program, address) = serve(&folder, durability);
    let world =
        Arc::new(World { port: AtomicU16::new(address.port()), done: AtomicBool::new(false) });
    let publishers: Vec<_> = (0..PUBLISHERS).map(|n| publish(Arc::clone(&world), n)).collect();
    let subscribers: Vec<_> = (0..SUBSCRIBERS)
        .map(|n| CHANNELS[n % CHANNELS.len()])
        .map(|channel| (channel, follow(Arc::clone(&world), channel)))
        .collect();
    for _ in 0..number("PUSHFLO_CRASHES").unwrap_or(10) {
        thread::sleep(Duration::from_millis(random.u64(20..400)));
        program.signal(Signal::KILL);
        drop(program);
        let (next, address) = serve(&folder, durability);
        world.port.store(address.port(), Ordering::Relaxed);
        program = next;
    }
    thread::sleep(Duration::from_millis(300));
    world.done.store(true, Ordering::Relaxed);
    let acknowledged: Vec<Acknowledged> =
        publishers.into_iter().map(|thread| thread.join().unwrap()).collect();
    let histories: BTreeMap<&str, Vec<(u64, String)>> =
        CHANNELS.iter().map(|channel| (*channel, history(world.address(), channel))).collect();
    let mut count = 0;
    for (channel, offset, content) in acknowledged.iter().flatten() {
        let all = &histories[channel.as_str()];
        let at = all.binary_search_by_key(offset, |(offset, _)| *offset);
        let kept = at.map(|at| &all[at].1);
        assert_eq!(kept, Ok(content), "acknowledged at {channel} {offset}");
        count += 1;
    }
    for (channel, all) in &histories {
        assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0), "{channel} is out of order");
        let mut contents: Vec<&String> = all.iter().map(|(_, content)| content).collect();
        contents.sort();
        contents.dedup();
        assert_eq!(contents.len(), all.len(), "{channel} has something twice");
    }
    for (channel, thread) in subscribers {
        let seen = thread.join().unwrap();
        let all = &histories[channel];
        assert_eq!(seen.len(), all.len(), "a subscriber of {channel} saw another number");
        assert!(seen == *all, "a subscriber of {channel} saw something else");
    }
    println!("{durability}: {count} messages acknowledged and kept");
    assert!(count > 100);
}

#[test]
fn what_the_operating_system_has_survives_the_process() {
    crash_many_times("os");
}

#[test]
fn what_the_disk_has_survives_the_process() {
    crash_many_times("disk");
}

/// Without a log a restart begins anew, and says so.
#[test]
fn memory_promises_nothing_and_says_so() {
    let data = tempfile::tempdir().unwrap();
    let (program, address) = serve(&data.path().join("data"), "memory");
    let epoch = Subscriber::connect(address).subscribe("a")["epoch"].clone();
    let mut client = HttpClient::connect(address);
    assert_eq!(client.publish(SECRET_KEY, &publish_body("a", &json!(1))).status, 200);
    program.signal(Signal::KILL);
    drop(program);
    let (_program, address) = serve(&data.path().join("data"), "memory");
    let answer = Subscriber::connect(address).subscribe_with(json!({
        "type": "subscribe", "channel": "a", "recover": { "epoch": epoch, "offset": 1 },
    }));
    assert_eq!((&answer["recovered"], &answer["offset"]), (&json!(false), &json!(0)));
    assert_ne!(answer["epoch"], epoch);
}
