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
use pushflo_tests::http::{HttpClient, PATIENCE, get, post, publish_body, request};
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

/// What is on a full disk can be read: nobody is told that messages are lost which are not.
#[test]
fn history_is_read_while_the_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    // Nearly nothing is in memory, so that recovery reads the disk.
    let config = folder.path().join("pushflo.toml");
    fs::write(&config, "[history]\nbytes_per_shard = 1024\n").unwrap();
    let script = format!(
        "mount -t tmpfs -o size=24m tmpfs {disk} && exec {} serve --listen 127.0.0.1:0 --shards 1 \
         --data-dir {disk}/data --config {}",
        path().display(),
        config.display(),
        disk = disk.display(),
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", &script]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let (program, address) = serve(command);
    let mut client = HttpClient::connect(address);
    let body = publish_body("c", &json!("x".repeat(10_000)));
    let mut last = Value::Null;
    for _ in 0..20 {
        last = client.publish(SECRET_KEY, &body).json()["data"].clone();
        assert!(last["offset"].is_u64(), "{last}");
    }
    let filler = format!("/proc/{}/root{}/filler", program.id(), disk.display());
    let mut file = fs::File::create(filler).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 1 << 12]).is_ok() {}
    drop(file);
    let refused = |client: &mut HttpClient| {
        let body = publish_body("other", &json!("x".repeat(10_000)));
        client.publish(SECRET_KEY, &body).status == 503
    };
    let deadline = Instant::now() + PATIENCE;
    while !refused(&mut client) {
        assert!(Instant::now() < deadline, "the disk never became full");
    }
    // Over some seconds, in which the log is tried again and again.
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        let target = "/api/v1/channels/c/messages?pageSize=100";
        let page = get(address, target, Some(SECRET_KEY));
        assert_eq!(page.status, 200, "{}", page.text());
        assert_eq!(page.json()["data"]["items"].as_array().unwrap().len(), 20);
        let mut back = Subscriber::connect(address);
        let recover = json!({ "epoch": last["epoch"], "offset": 5 });
        let command = json!({ "type": "subscribe", "channel": "c", "recover": recover });
        let answer = back.subscribe_with(command);
        assert_eq!((&answer["recovered"], &answer["replayed"]), (&json!(true), &json!(15)));
        assert_eq!(back.messages(15).last().unwrap().offset, 20);
        assert!(refused(&mut client));
    }
}

/// A block that cannot be read costs its own messages, and neither publishes nor history of anybody
/// else, while the server runs and after a restart.
#[test]
fn a_damaged_block_costs_only_what_was_in_it() {
    const CHANNELS: usize = 20;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let config = folder.path().join("pushflo.toml");
    fs::write(&config, "[history]\nbytes_per_shard = 1024\nmessages_per_channel = 1000\n").unwrap();
    let start = || {
        let (data, config) = (data.to_str().unwrap(), config.to_str().unwrap());
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--shards", "1", "--data-dir", data];
        let mut command = command(&arguments);
        command.args(["--config", config]);
        serve(command)
    };
    let stop = |mut program: Program| {
        program.signal(Signal::TERM);
        assert!(program.output().status.success());
    };
    let mut random = fastrand::Rng::with_seed(number("PUSHFLO_SEED").unwrap_or(1));
    let (program, address) = start();
    let mut client = HttpClient::connect(address);
    // Until the store has written tables of some size; what is random is not compressed away.
    let tables = || {
        let all = files(&data.join("log")).into_iter();
        let large = |path: &PathBuf| fs::metadata(path).is_ok_and(|about| about.len() > 1 << 20);
        let is_table =
            |path: &PathBuf| path.parent().is_some_and(|folder| folder.ends_with("tables"));
        all.filter(|path| is_table(path) && large(path)).collect::<Vec<_>>()
    };
    let mut published = [0u64; CHANNELS];
    while tables().is_empty() {
        assert!(published[0] < 1_000, "no table was written");
        let text = || -> String { (0..9_000).map(|_| random.alphanumeric()).collect() };
        let mut text = text;
        let items: Vec<Value> = (0..3 * CHANNELS)
            .map(|n| json!({ "channel": format!("c{}", n % CHANNELS), "data": text() }))
            .collect();
        client.send(&request(
            "POST",
            "/api/v1/publish/batch",
            Some(SECRET_KEY),
            &json!(items).to_string(),
        ));
        let answer = client.answer().unwrap().json();
        assert_eq!(answer["data"]["failed"], 0, "{answer}");
        published.iter_mut().for_each(|count| *count += 3);
    }
    // And has finished them.
    let sizes =
        || tables().iter().map(|path| fs::metadata(path).map_or(0, |m| m.len())).sum::<u64>();
    let mut size = 0;
    while size != sizes() {
        size = sizes();
        std::thread::sleep(Duration::from_millis(500));
    }
    drop(client);
    stop(program);
    let table = tables().into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&table).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&table, bytes).unwrap();
    let (program, address) = start();
    let mut client = HttpClient::connect(address);
    let publish = |client: &mut HttpClient| {
        let answer = client.publish(SECRET_KEY, &publish_body("victim", &json!(1)));
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    // Whoever reads all of it meets the damage.
    let read = |client: &mut HttpClient| {
        let mut short = 0;
        for (channel, &count) in published.iter().enumerate() {
            let (mut seen, mut page) = (0, 1);
            loop {
                let target =
                    format!("/api/v1/channels/c{channel}/messages?pageSize=100&page={page}");
                client.send(&request("GET", &target, Some(SECRET_KEY), ""));
                let answer = client.answer().unwrap();
                if answer.status == 503 {
                    // It is being repaired.
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
                if answer.status != 200 {
                    break;
                }
                let items = answer.json()["data"]["items"].as_array().unwrap().len() as u64;
                (seen, page) = (seen + items, page + 1);
                if items < 100 {
                    break;
                }
            }
            publish(client);
            short += usize::from(seen < count);
        }
        short
    };
    let deadline = Instant::now() + PATIENCE;
    let damaged = || {
        let metrics = get(address, "/metrics", None).text();
        !metrics.contains("pushflo_log_damaged_total 0")
    };
    while !damaged() {
        assert!(Instant::now() < deadline, "nobody met the damage");
        read(&mut client);
    }
    let short = read(&mut client);
    assert!(short <= 2, "{short} channels lost messages to one block");
    drop(client);
    stop(program);
    let (program, address) = start();
    let mut client = HttpClient::connect(address);
    assert!(read(&mut client) <= 2);
    publish(&mut client);
    assert_eq!(get(address, "/health", None).status, 200);
    drop(client);
    stop(program);
    // What was damaged is kept aside.
    let kept = || {
        let all = fs::read_dir(&data).unwrap();
        let names = all.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("log.damaged-")).count()
    };
    assert_eq!(kept(), 1);
    // A table that was cut off, and what the store knows of its tables: the server starts all the
    // same, and goes on.
    for what in ["a table", "a manifest"] {
        let file = match what {
            "a table" => tables().into_iter().max().unwrap(),
            _ => files(&data.join("log/keyspaces/1"))
                .into_iter()
                .find(|path| {
                    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('v'))
                })
                .unwrap(),
        };
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        let before = kept();
        let (program, address) = start();
        assert!(kept() > before, "{what}");
        let mut client = HttpClient::connect(address);
        publish(&mut client);
        assert_eq!(get(address, "/health", None).status, 200, "{what}");
        drop(client);
        stop(program);
    }
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
        } else if path.is_file() {
            // The socket of a server that was killed is of no use to another.
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

/// Asks until there is an answer.
fn until_there<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "no answer but to come again");
        std::thread::sleep(Duration::from_millis(100));
    }
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
            // While what is damaged is made anew, who asks is told to come again.
            let answer = until_there(|| {
                let answer = get(address, &target, Some(SECRET_KEY));
                (answer.status != 503).then_some(answer)
            });
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
            let answer = until_there(|| {
                subscriber.send(json!({
                    "type": "subscribe", "channel": channel,
                    "recover": { "epoch": epoch, "offset": from },
                }));
                let answer = subscriber.event();
                (answer["code"] != "OVERLOADED").then_some(answer)
            });
            assert_eq!(answer["type"], "subscribed", "{what}: {answer}");
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
