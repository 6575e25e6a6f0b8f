//! Faults below the log: a full disk, and files that are not as they were written.
//!
//! `PUSHFLO_DAMAGES=n` damages that many copies; `PUSHFLO_SEED=n` repeats the places.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, PATIENCE, get, post, publish_body};
use pushflo_tests::number;
use pushflo_tests::program::{Program, command, path};
use pushflo_tests::server::{PUBLISH_KEY, SECRET_KEY};
use rustix::process::Signal;
use serde_json::{Value, json};

fn serve(mut command: std::process::Command) -> (Program, SocketAddr) {
    command.env("PUSHFLO_PUBLISH_KEY", PUBLISH_KEY).env("PUSHFLO_SECRET_KEY", SECRET_KEY);
    command.env("PUSHFLO_LOG", "error").stderr(Stdio::inherit());
    let mut program = Program::spawn(command);
    let address = program.address();
    (program, address)
}

/// While the disk is full publishes are refused with the reason and reach nobody; when there is room
/// again all goes on by itself, and history is what was acknowledged.
#[test]
fn a_full_disk_refuses_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().to_str().unwrap();
    // A small file system that only this server sees, and that ends with it.
    let script = format!(
        "mount -t tmpfs -o size=24m tmpfs {disk} && exec {} serve --listen 127.0.0.1:0 --shards 1 \
         --data-dir {disk}/data",
        path().display()
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", &script]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let (program, address) = serve(command);
    let filler = PathBuf::from(format!("/proc/{}/root{disk}/filler", program.id()));
    let mut subscriber = Subscriber::connect(address);
    subscriber.subscribe("c");
    let mut client = HttpClient::connect(address);
    let mut acknowledged = Vec::new();
    let mut publish = |client: &mut HttpClient| {
        let body = publish_body("c", &json!("x".repeat(10_000)));
        let answer = client.publish(SECRET_KEY, &body);
        if answer.status == 200 {
            acknowledged.push(answer.json()["data"]["offset"].as_u64().unwrap());
        }
        answer
    };
    for _ in 0..20 {
        assert_eq!(publish(&mut client).status, 200);
    }
    for round in 0..2 {
        // The rest of the disk, up to the last byte.
        let rest = vec![0u8; 1 << 16];
        let mut file = fs::File::create(&filler).unwrap();
        while std::io::Write::write_all(&mut file, &rest).is_ok() {}
        drop(file);
        let deadline = Instant::now() + PATIENCE;
        let refused = loop {
            let answer = publish(&mut client);
            if answer.status != 200 {
                break answer;
            }
            assert!(Instant::now() < deadline, "the disk never became full");
        };
        assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("OVERLOADED")));
        let reason = refused.json()["error"].as_str().unwrap().to_owned();
        assert!(reason.contains("history cannot be written"), "{reason}");
        assert!(refused.header("retry-after").is_some());
        assert_eq!(get(address, "/health", None).status, 503);
        let metrics = get(address, "/metrics", None).text();
        assert!(metrics.contains("\npushflo_log_failing 1\n"), "{metrics}");
        fs::remove_file(&filler).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while publish(&mut client).status != 200 {
            assert!(Instant::now() < deadline, "it does not come back in round {round}");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(get(address, "/health", None).status, 200);
        for _ in 0..5 {
            assert_eq!(publish(&mut client).status, 200);
        }
    }
    let mut last = 0;
    for offset in &acknowledged {
        let event = subscriber.event();
        assert_eq!(event["offset"].as_u64(), Some(*offset), "{event}");
        assert_eq!(event["prev"].as_u64().unwrap_or(offset - 1), last, "{event}");
        last = *offset;
    }
    let mut kept = Vec::new();
    for page in 1..=acknowledged.len().div_ceil(100) {
        let target = format!("/api/v1/channels/c/messages?pageSize=100&page={page}");
        let items = get(address, &target, Some(SECRET_KEY)).json()["data"]["items"].clone();
        kept.extend(items.as_array().unwrap().iter().map(|m| m["offset"].as_u64().unwrap()));
    }
    kept.reverse();
    assert_eq!(kept, acknowledged);
    // And a subscriber that was away the whole time gets all of it.
    let epoch = Subscriber::connect(address).subscribe("c")["epoch"].clone();
    let mut returning = Subscriber::connect(address);
    let answer = returning.subscribe_with(json!({
        "type": "subscribe", "channel": "c", "recover": { "epoch": epoch, "offset": 0 },
    }));
    assert_eq!(answer["recovered"], true, "{answer}");
    let offsets: Vec<u64> =
        returning.messages(acknowledged.len()).iter().map(|m| m.offset).collect();
    assert_eq!(offsets, acknowledged);
}

/// What was published, by epoch, channel and offset.
type Published = BTreeMap<(String, String, u64), Value>;

const CHANNELS: [&str; 3] = ["a", "b", "c"];

fn data_server(data: &Path) -> (Program, SocketAddr) {
    let data = data.to_str().unwrap();
    serve(command(&["serve", "--listen", "127.0.0.1:0", "--shards", "1", "--data-dir", data]))
}

/// Publishes batches and notes what they became.
fn publish_some(address: SocketAddr, batches: usize, bytes: usize, published: &mut Published) {
    for batch in 0..batches {
        let items: Vec<Value> = (0..30)
            .map(|n| json!({ "channel": CHANNELS[n % 3], "data": [batch, n, "x".repeat(bytes)] }))
            .collect();
        let body = json!(items).to_string();
        let answer = post(address, "/api/v1/publish/batch", Some(SECRET_KEY), &body).json();
        for (item, result) in items.iter().zip(answer["data"]["results"].as_array().unwrap()) {
            let message = &result["data"];
            let text = |name: &str| message[name].as_str().unwrap().to_owned();
            let offset = message["offset"].as_u64().unwrap();
            let key = (text("epoch"), text("channelSlug"), offset);
            let earlier = published.insert(key, item["data"].clone());
            assert!(earlier.is_none(), "an offset was given twice: {message}");
        }
    }
}

/// All files of the log but the lock, the largest first.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().is_some_and(|name| name != "lock") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Flips bytes in a file or cuts it off, and says what it did.
fn damage(file: &Path, random: &mut fastrand::Rng) -> String {
    let mut bytes = fs::read(file).unwrap();
    let written = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    if written == 0 {
        return format!("{} is empty", file.display());
    }
    let at = random.usize(..written);
    if random.u8(..3) == 0 {
        bytes.truncate(at);
        fs::write(file, bytes).unwrap();
        return format!("{} cut off at {at}", file.display());
    }
    for _ in 0..random.usize(1..6) {
        let near = (at + random.usize(..64)).min(written - 1);
        bytes[near] ^= random.u8(1..);
    }
    fs::write(file, bytes).unwrap();
    format!("{} damaged at {at}", file.display())
}

/// Bytes flipped and files cut off at random places: the server starts, what it tells of the past is
/// true, no offset is given twice, and it goes on.
#[test]
fn damaged_files_never_make_history_lie() {
    let seed = number("PUSHFLO_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("PUSHFLO_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    let mut published = Published::new();
    let (program, address) = data_server(&original);
    // Enough for tables, and something in the journal behind them.
    publish_some(address, 90, 30_000, &mut published);
    publish_some(address, 20, 100, &mut published);
    program.signal(Signal::KILL);
    drop(program);
    let all = files(&original.join("log"));
    for round in 0..number("PUSHFLO_DAMAGES").unwrap_or(6) {
        let data = folder.path().join("damaged");
        copy(&original, &data);
        let file = &all[random.usize(..all.len())];
        let file = data.join(file.strip_prefix(&original).unwrap());
        let what = damage(&file, &mut random);
        println!("round {round}: {what}");
        let (program, address) = data_server(&data);
        let mut known = published.clone();
        for channel in CHANNELS {
            let answer = Subscriber::connect(address).subscribe(channel);
            let epoch = answer["epoch"].as_str().unwrap();
            let target = format!("/api/v1/channels/{channel}/messages?pageSize=100");
            let answer = get(address, &target, Some(SECRET_KEY));
            if answer.status == 500 {
                continue;
            }
            for item in answer.json()["data"]["items"].as_array().unwrap() {
                let offset = item["offset"].as_u64().unwrap();
                let key = (epoch.to_owned(), channel.to_owned(), offset);
                assert_eq!(known.get(&key), Some(&item["content"]), "{what}: {key:?}");
            }
            let mut subscriber = Subscriber::connect(address);
            let from = random.u64(..400);
            let answer = subscriber.subscribe_with(json!({
                "type": "subscribe", "channel": channel,
                "recover": { "epoch": epoch, "offset": from },
            }));
            let (head, mut last) = (answer["offset"].as_u64().unwrap(), from);
            for message in subscriber.messages(answer["replayed"].as_u64().unwrap() as usize) {
                assert_eq!(message.offset, last + 1, "{what}");
                last = message.offset;
                let key = (epoch.to_owned(), channel.to_owned(), last);
                assert_eq!(known.get(&key), Some(&message.data), "{what}: {key:?}");
            }
            assert!(answer["recovered"] == false || last == head, "{what}: {answer}");
        }
        publish_some(address, 1, 10, &mut known);
        program.signal(Signal::TERM);
        drop(program);
        fs::remove_dir_all(&data).unwrap();
    }
}
