//! A clock that is set, forward or back, for a moment or for good, takes nothing from anybody: the
//! real program under a clock that the test sets (libfaketime).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pushflo_tests::api::Api;
use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{HttpClient, PATIENCE, get, post, publish_body};
use pushflo_tests::program::{Program, command, set_clock};
use pushflo_tests::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A program whose time of day the test sets; its monotonic clock is the machine's.
struct Clocked {
    folder: tempfile::TempDir,
    config: String,
    program: Option<Program>,
    address: SocketAddr,
}

impl Clocked {
    fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let mut clocked = Self { folder, config: config.into(), program: None, address };
        clocked.set("+0");
        clocked.serve();
        clocked
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().into()
    }

    fn serve(&mut self) {
        std::fs::write(self.path("pushflo.toml"), &self.config).unwrap();
        let mut serve = command(&["serve", "--listen", "127.0.0.1:0", "--shards", "2"]);
        serve.args(["--cores", "0,1", "--data-dir", &self.path("data")]);
        serve.args(["--config", &self.path("pushflo.toml")]);
        serve.env("PUSHFLO_PUBLISH_KEY", PUBLISH_KEY).env("PUSHFLO_SECRET_KEY", SECRET_KEY);
        serve.env("PUSHFLO_MGMT_KEY", MANAGE_KEY);
        set_clock(&mut serve, &self.folder.path().join("time"));
        let mut program = Program::spawn(serve);
        self.address = program.address();
        self.program = Some(program);
    }

    fn restart(&mut self) {
        let mut program = self.program.take().unwrap();
        program.signal(Signal::TERM);
        assert!(program.output().status.success());
        self.serve();
    }

    /// Sets the clock so far off the right time.
    fn set(&self, offset: &str) {
        let (path, new) = (self.path("time"), self.path("time.new"));
        std::fs::write(&new, format!("{offset}\n")).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// Sets the clock of the running server, and waits until it shows and time-outs, trimming and
    /// other work of every second went by it.
    fn jump(&self, offset: &str) {
        let before = self.now();
        self.set(offset);
        let deadline = Instant::now() + PATIENCE;
        while before.abs_diff(self.now()) < 60_000 {
            assert!(Instant::now() < deadline, "the clock does not jump");
        }
        std::thread::sleep(Duration::from_secs(3));
    }

    /// What the server takes for the time of day.
    fn now(&self) -> u64 {
        let health = get(self.address, "/health", None).json();
        pushflo_protocol::time::parse_iso8601(health["timestamp"].as_str().unwrap()).unwrap()
    }

    fn publish(&self, channel: &str, data: &Value) -> u16 {
        let body = publish_body(channel, data);
        post(self.address, "/api/v1/publish", Some(SECRET_KEY), &body).status
    }

    fn publish_keyed(&self, key: &str) -> Value {
        let body = json!({ "channel": "keyed", "data": 1, "id": key }).to_string();
        let answer = post(self.address, "/api/v1/publish", Some(SECRET_KEY), &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["data"]["offset"].clone()
    }

    fn history(&self, channel: &str) -> usize {
        let target = format!("/api/v1/channels/{channel}/messages");
        let page = get(self.address, &target, Some(SECRET_KEY));
        assert_eq!(page.status, 200, "{}", page.text());
        page.json()["data"]["items"].as_array().unwrap().len()
    }
}

#[test]
fn a_day_ahead_for_a_moment_deletes_no_history_and_no_key() {
    let mut server = Clocked::start("");
    for n in 0..5 {
        assert_eq!(server.publish("c", &json!(n)), 200);
    }
    assert_eq!(server.publish_keyed("before"), 1);
    server.jump("+25h");
    assert_eq!(server.history("c"), 5);
    assert_eq!(server.publish_keyed("ahead"), 2);
    server.jump("+0");
    assert_eq!(server.history("c"), 5);
    // Nothing was forgotten, and nothing that was made meanwhile stays for a day.
    assert_eq!(
        (server.publish_keyed("before"), server.publish_keyed("ahead")),
        (json!(1), json!(2))
    );
    server.restart();
    assert_eq!(server.history("c"), 5);
    assert_eq!(
        (server.publish_keyed("before"), server.publish_keyed("ahead")),
        (json!(1), json!(2))
    );
}

#[test]
fn presence_and_rates_go_on_while_the_clock_is_set_back_and_forth() {
    let server = Clocked::start("[presence]\ninterval_ms = 250\ngrace_ms = 500");
    let mut api = Api::connect(server.address);
    let room = json!({ "name": "Room", "slug": "room", "presence": true });
    api.done(201, ("POST", "/api/v1/channels"), MANAGE_KEY, &room);
    let mut ann = Subscriber::connect(server.address);
    ann.subscribe_with(json!({ "type": "subscribe", "channel": "room", "presence": true }));
    let mut told = |field: &str| loop {
        let event = ann.event();
        if let Some(who) = event[field].as_array().and_then(|list| list.first()) {
            return who["clientId"].clone();
        }
    };
    told("joined");
    for offset in ["-1h", "+1h", "-30d", "+0"] {
        server.jump(offset);
        let mut bob = Subscriber::connect_with(server.address, PUBLISH_KEY);
        let id = bob.event()["clientId"].clone();
        bob.subscribe("room");
        assert_eq!(told("joined"), id, "{offset}");
        drop(bob);
        assert_eq!(told("left"), id, "{offset}");
        // Many changes and wrong keys would be over their rates if those stood still.
        assert_eq!(server.publish("c", &json!(offset)), 200);
    }
}

#[test]
fn a_year_ahead_takes_no_quota() {
    let plans = "[plans.small]\nmessages_per_month = 10";
    let mut server = Clocked::start(plans);
    let mut api = Api::connect(server.address);
    let app = api.create_app("small");
    let target = format!("/api/v1/apps/{}", app.id);
    api.done(200, ("PATCH", &target), MANAGE_KEY, &json!({ "plan": "small" }));
    let publish = |server: &Clocked, times: usize| {
        let mut http = HttpClient::connect(server.address);
        let all =
            (0..times).map(|n| http.publish(&app.secret, &publish_body("c", &json!(n))).status);
        all.filter(|status| *status == 200).count()
    };
    let used = |server: &Clocked| {
        let usage = get(server.address, "/api/v1/usage", Some(&app.secret)).json();
        usage["data"]["messagesThisMonth"].clone()
    };
    assert_eq!((publish(&server, 4), used(&server)), (4, json!(4)));
    // A server that starts with a clock that is wrong counts in another month,
    server.set("+366d");
    server.restart();
    assert_eq!((publish(&server, 20), used(&server)), (10, json!(10)));
    // which takes nothing from this one.
    server.set("+0");
    server.restart();
    let counted = used(&server).as_u64().unwrap();
    assert!(counted <= 4, "{counted}");
    assert_eq!(publish(&server, 20) as u64, 10 - counted);
    server.restart();
    assert_eq!((publish(&server, 1), used(&server)), (0, json!(10)));
}
