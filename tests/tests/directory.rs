//! The directory of apps, keys and channels on a disk that fails, loses or mixes up: what was
//! answered as done is there or the server does not start, what was refused never comes into force,
//! and doubt closes.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use pushflo_tests::api::{Api, TestApp};
use pushflo_tests::client::Subscriber;
use pushflo_tests::disk::{Disk, Fault};
use pushflo_tests::http::PATIENCE;
use pushflo_tests::program::{Program, command, run, serve_load};
use pushflo_tests::server::MANAGE_KEY;
use rustix::io::Errno;
use rustix::process::Signal;
use serde_json::{Value, json};

const CHANNELS: (&str, &str) = ("POST", "/api/v1/channels");
const KEYS: (&str, &str) = ("POST", "/api/v1/apps/self/keys");
const PUBLISH: (&str, &str) = ("POST", "/api/v1/publish");

fn serve(data: &Path, durability: &str, disk: Option<&Disk>) -> (Program, SocketAddr) {
    serve_load(data, durability, |command| {
        command.env("PUSHFLO_MGMT_KEY", MANAGE_KEY).env("PUSHFLO_LOG", "off");
        if let Some(disk) = disk {
            disk.put_below(command);
        }
    })
}

fn kill(program: Program) {
    program.signal(Signal::KILL);
    drop(program);
}

fn stop(mut program: Program) {
    program.signal(Signal::TERM);
    assert!(program.output().status.success());
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let status = Command::new("cp").args(["-r", "--sparse=always"]).arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

fn start_is_refused(data: &Path) -> String {
    let output = run(&["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn directory(data: &Path, arguments: &[&str]) -> Output {
    let data = ["--data-dir", data.to_str().unwrap()];
    run(&[&["directory"], arguments, &data].concat())
}

fn status(address: SocketAddr, target: &str, key: &str) -> u16 {
    Api::connect(address).call("GET", target, Some(key), "").status
}

fn is_private(address: SocketAddr, app: &TestApp, slug: &str) -> bool {
    let target = format!("/api/v1/channels/{slug}");
    let channel = Api::connect(address).done(200, ("GET", &target), &app.secret, &Value::Null);
    channel["isPrivate"].as_bool().unwrap()
}

/// What a stranger with a `pub_` key is told who subscribes.
fn subscribed(address: SocketAddr, key: &str, slug: &str) -> String {
    let mut stranger = Subscriber::connect_with(address, key);
    assert_eq!(stranger.event()["type"], "connected");
    stranger.send(json!({ "type": "subscribe", "channel": slug, "replay": { "last": 9 } }));
    stranger.event()["type"].as_str().unwrap().into()
}

fn journal(data: &Path) -> PathBuf {
    data.join("directory/0.jnl")
}

/// The journal's bytes without the zeros behind them, and its length.
fn written(journal: &Path) -> (Vec<u8>, usize) {
    let mut bytes = fs::read(journal).unwrap();
    let length = bytes.len();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    (bytes, length)
}

/// An app with a channel that became private and a key that was revoked, last of all, in a folder
/// whose server was killed; `earlier` is a copy of the directory before both.
struct Killed {
    _folder: tempfile::TempDir,
    data: PathBuf,
    earlier: PathBuf,
    app: TestApp,
    revoked: String,
}

fn killed() -> Killed {
    let folder = tempfile::tempdir().unwrap();
    let (data, earlier) = (folder.path().join("data"), folder.path().join("earlier"));
    let (program, address) = serve(&data, "memory", None);
    let mut api = Api::connect(address);
    let app = api.create_app("a");
    let key = api.done(201, KEYS, &app.mgmt, &json!({ "role": "secret" }));
    api.done(201, CHANNELS, &app.mgmt, &json!({ "slug": "c", "name": "c" }));
    copy(&data.join("directory"), &earlier);
    let private = json!({ "isPrivate": true });
    api.done(200, ("PATCH", "/api/v1/channels/c"), &app.mgmt, &private);
    let target = format!("/api/v1/apps/self/keys/{}", key["id"].as_str().unwrap());
    api.done(204, ("DELETE", &target), &app.mgmt, &Value::Null);
    kill(program);
    let revoked = key["key"].as_str().unwrap().into();
    Killed { _folder: folder, data, earlier, app, revoked }
}

impl Killed {
    fn all_is_there(&self) {
        let (program, address) = serve(&self.data, "memory", None);
        assert!(is_private(address, &self.app, "c"));
        assert_eq!(subscribed(address, &self.app.publish, "c"), "error");
        assert_eq!(status(address, "/api/v1/usage", &self.revoked), 401);
        kill(program);
    }
}

#[test]
fn a_directory_that_lost_something_is_not_opened() {
    let killed = killed();
    let Killed { data, earlier, .. } = &killed;
    let whole = data.with_extension("whole");
    copy(data, &whole);
    let (bytes, length) = written(&journal(data));
    let cut = |bytes: usize| {
        fs::File::options().write(true).open(journal(data)).unwrap().set_len(bytes as u64).unwrap();
    };
    let zero = |bytes: usize| {
        cut(bytes);
        cut(length);
    };
    let end = bytes.len();
    let damages: [(&str, &dyn Fn()); 13] = [
        ("cut by a byte", &|| cut(end - 1)),
        ("cut by a KiB", &|| cut(end - 1024)),
        ("cut by half", &|| cut(end / 2)),
        ("cut to nothing", &|| cut(0)),
        ("zeroed end", &|| zero(end - 100)),
        ("zeroed half", &|| zero(end / 2)),
        ("a bit", &|| {
            let mut flipped = bytes.clone();
            flipped[end / 2] ^= 4;
            fs::write(journal(data), flipped).unwrap();
        }),
        ("no journal", &|| fs::remove_file(journal(data)).unwrap()),
        ("no folder", &|| fs::remove_dir_all(data.join("directory")).unwrap()),
        ("a table's mark", &|| {
            fs::remove_file(data.join("directory/keyspaces/1/current")).unwrap();
        }),
        ("an earlier folder", &|| copy(earlier, &data.join("directory"))),
        ("no seal", &|| fs::remove_file(data.join("directory.seal")).unwrap()),
        ("a damaged seal", &|| fs::write(data.join("directory.seal"), "0").unwrap()),
    ];
    for (what, damage) in damages {
        copy(&whole, data);
        damage();
        let before = journal(data).exists().then(|| fs::read(journal(data)).unwrap());
        for _ in 0..2 {
            let text = start_is_refused(data);
            assert!(text.contains("pushflo directory accept") && text.contains("copy"), "{text}");
            let after = journal(data).exists().then(|| fs::read(journal(data)).unwrap());
            assert!(before.is_none() || after == before, "{what}: the start changed the journal");
        }
    }
    copy(&whole, data);
    killed.all_is_there();
}

/// A write that was under way when the server was killed was never answered.
#[test]
fn a_torn_end_and_a_damaged_list_start_by_themselves() {
    let killed = killed();
    let (bytes, length) = written(&journal(&killed.data));
    for part in [1, 20, 100] {
        let torn = [&bytes[..], &bytes[..part]].concat();
        let mut padded = torn.clone();
        padded.resize(length, 0);
        for torn in [torn, padded] {
            fs::write(journal(&killed.data), torn).unwrap();
            killed.all_is_there();
        }
    }
    for list in ["", "app_1 c 0000000000000000\n"] {
        fs::write(killed.data.join("directory.private"), list).unwrap();
        killed.all_is_there();
    }
}

#[test]
fn what_is_accepted_after_a_loss_stays_closed() {
    let killed = killed();
    let Killed { data, earlier, app, .. } = &killed;
    for is_list_lost in [false, true] {
        copy(earlier, &data.join("directory"));
        if is_list_lost {
            fs::write(data.join("directory.private"), "").unwrap();
        }
        start_is_refused(data);
        let output = directory(data, &["accept"]);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("2 apps") && text.contains("1 channels were made private"), "{text}");
        let (program, address) = serve(data, "memory", None);
        assert!(is_private(address, app, "c"));
        assert_eq!(subscribed(address, &app.publish, "c"), "error");
        // Nobody knows of a channel that was made later.
        let new = if is_list_lost { "error" } else { "subscribed" };
        assert_eq!(subscribed(address, &app.publish, "new"), new);
        kill(program);
        let output = directory(data, &["accept"]);
        assert!(String::from_utf8(output.stdout).unwrap().contains("Nothing is lost"));
    }
}

#[test]
fn history_of_an_app_that_is_not_known_is_kept_until_it_is_deleted_on_purpose() {
    let folder = tempfile::tempdir().unwrap();
    let (data, away) = (folder.path().join("data"), folder.path().join("away"));
    let (program, address) = serve(&data, "os", None);
    let mut api = Api::connect(address);
    let app = api.create_app("a");
    let publish = |api: &mut Api, key: &str, channel: &str| {
        api.done(200, PUBLISH, key, &json!({ "channel": channel, "data": 1 }));
    };
    publish(&mut api, &app.secret, "c");
    publish(&mut api, MANAGE_KEY, "private");
    let private = json!({ "isPrivate": true });
    api.done(200, ("PATCH", "/api/v1/channels/private"), MANAGE_KEY, &private);
    stop_after(api, program);
    let files = ["directory", "directory.seal"];
    let carry = |from: &Path, to: &Path| {
        fs::create_dir_all(to).unwrap();
        for file in files {
            let _ = fs::remove_dir_all(to.join(file));
            fs::rename(from.join(file), to.join(file)).unwrap();
        }
    };
    let messages = |address, key: &str| {
        let target = "/api/v1/channels/c/messages";
        let page = Api::connect(address).call("GET", target, Some(key), "");
        page.json()["data"]["pagination"]["total"].as_u64()
    };
    for is_list_lost in [false, true] {
        carry(&data, &away);
        if is_list_lost {
            fs::remove_file(data.join("directory.private")).unwrap();
        }
        let (program, address) = serve(&data, "os", None);
        let publish_key = pushflo_tests::server::PUBLISH_KEY;
        assert_eq!(subscribed(address, publish_key, "private"), "error");
        let mut api = Api::connect(address);
        let other = api.create_app("b");
        assert_ne!(other.id, app.id);
        assert_eq!(messages(address, &other.secret).unwrap_or(0), 0);
        stop_after(api, program);
        let output = directory(&data, &["delete-history", "--app", &other.id]);
        assert!(!output.status.success());
        fs::remove_dir_all(data.join("directory")).unwrap();
        carry(&away, &data);
        let (program, address) = serve(&data, "os", None);
        assert_eq!(messages(address, &app.secret), Some(1));
        assert_eq!(subscribed(address, publish_key, "private"), "error");
        stop(program);
    }
    carry(&data, &away);
    let output = directory(&data, &["delete-history", "--app", &app.id]);
    assert!(output.status.success(), "{output:?}");
    let (program, _) = serve(&data, "os", None);
    stop(program);
    fs::remove_dir_all(data.join("directory")).unwrap();
    carry(&away, &data);
    let (program, address) = serve(&data, "os", None);
    assert_eq!(messages(address, &app.secret).unwrap_or(0), 0);
    stop(program);
}

fn stop_after(api: Api, program: Program) {
    drop(api);
    stop(program);
}

/// The app, its keys and whether its channel is private; a channel without history begins a new epoch
/// with each start, so the rest of it is no sign of a change.
fn in_force(address: SocketAddr, app: &TestApp) -> (String, String, bool) {
    let mut api = Api::connect(address);
    let mut text = |target| api.call("GET", target, Some(&app.mgmt), "").text();
    let (about, keys) = (text("/api/v1/apps/self"), text("/api/v1/apps/self/keys"));
    (about, keys, is_private(address, app, "c"))
}

/// Every call that a change makes fails in turn, and the server is killed right after the answer.
#[test]
fn what_was_refused_never_comes_into_force() {
    let faults = [("write", Errno::NOSPC), ("tear", Errno::NOSPC), ("sync", Errno::IO)];
    let (mut refused, mut done) = (0, 0);
    for (call, error) in faults {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let disk = Disk::new(&data);
        let (mut program, mut address) = serve(&data, "memory", Some(&disk));
        let mut api = Api::connect(address);
        let app = api.create_app("a");
        let key = api.done(201, KEYS, &app.mgmt, &json!({ "role": "secret" }));
        let (id, key) = (key["id"].as_str().unwrap(), key["key"].as_str().unwrap());
        api.done(201, CHANNELS, &app.mgmt, &json!({ "slug": "c", "name": "c" }));
        for passes in 0..6 {
            let revoke = ("DELETE", format!("/api/v1/apps/self/keys/{id}"), String::new());
            let rename = ("PATCH", "/api/v1/apps/self".into(), json!({ "name": "b" }).to_string());
            let private = !is_private(address, &app, "c");
            let body = json!({ "isPrivate": private }).to_string();
            let change = ("PATCH", "/api/v1/channels/c".into(), body);
            for (method, target, body) in [change, revoke, rename] {
                let mut api = Api::connect(address);
                let before = in_force(address, &app);
                disk.fail(&[Fault { call, error, passes }]);
                let answer = api.call(method, &target, Some(&app.mgmt), &body);
                kill(program);
                disk.heal();
                (program, address) = serve(&data, "memory", Some(&disk));
                let what = format!("{method} {target} {call} {passes}: {}", answer.text());
                let after = in_force(address, &app);
                // One that was made ends the round of what there is to revoke.
                match answer.status {
                    503 if answer.text().contains("nothing was changed") => {
                        assert_eq!(after, before, "{what}");
                        refused += 1;
                    }
                    503 => assert!(answer.text().contains("is not known"), "{what}"),
                    200 | 204 => {
                        assert_ne!(after, before, "{what}");
                        done += 1;
                    }
                    404 => assert_eq!(status(address, "/api/v1/usage", key), 401, "{what}"),
                    status => panic!("{status}: {what}"),
                }
            }
        }
        kill(program);
    }
    println!("{refused} refused, {done} made");
    assert!(refused > 0 && done > 0);
}

/// After a refusal the server goes on by itself when the disk works again, with what is in force.
#[test]
fn a_disk_that_works_again_takes_changes_again() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let disk = Disk::new(&data);
    let (program, address) = serve(&data, "memory", Some(&disk));
    let mut api = Api::connect(address);
    let app = api.create_app("a");
    let create = |n| json!({ "slug": format!("c{n}"), "name": "c", "isPrivate": true }).to_string();
    for n in 0..12 {
        let call = ["write", "tear", "sync"][n % 3];
        disk.fail(&[Fault { call, error: Errno::IO, passes: n as u32 / 3 }]);
        let first = api.call("POST", "/api/v1/channels", Some(&app.mgmt), &create(n)).status;
        disk.heal();
        let deadline = Instant::now() + PATIENCE;
        while first != 201
            && api.call("POST", "/api/v1/channels", Some(&app.mgmt), &create(n)).status != 201
        {
            assert!(Instant::now() < deadline, "{call}: it does not come back");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    kill(program);
    let (program, address) = serve(&data, "memory", None);
    assert!((0..12).all(|n| is_private(address, &app, &format!("c{n}"))));
    kill(program);
}

#[test]
fn what_is_kept_is_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut server = command(&["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 000; exec \"$0\" \"$@\""]).arg(server.get_program());
    shell.args(server.get_args()).stdout(std::process::Stdio::piped());
    server = shell;
    let mut program = Program::spawn(server);
    program.address();
    let mut folders = vec![data];
    while let Some(path) = folders.pop() {
        let about = path.metadata().unwrap();
        let mode = about.permissions().mode() & 0o777;
        let wanted = if about.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, wanted, "{}", path.display());
        if about.is_dir() {
            folders.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    stop(program);
}
