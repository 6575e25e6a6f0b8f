//! A cluster of nodes, each the program as a user runs it, on NATS servers of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use pushflo_nats::{Machine, Nats};
use pushflo_nats::{keep_if_failed, new_log};
use rustix::process::Signal;

use crate::http::{HttpClient, publish_body, request};
use crate::program::{Program, on, set_clock};
use crate::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY};

/// One cluster at a time has the machine: the tests of a file wait for each other while they hold this.
#[allow(clippy::disallowed_types, reason = "tests wait for each other, no shard does")]
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A node, running or not.
struct Node {
    machine: Machine,
    address: SocketAddr,
    program: Option<Program>,
    /// Instead of that of the others.
    config: Option<PathBuf>,
    /// By how much its clock is ahead.
    clock_shift_s: i64,
}

/// Nodes and the servers below them.
pub struct Cluster {
    pub nats: Nats,
    nodes: Vec<Node>,
    folder: tempfile::TempDir,
    settings: String,
}

impl Cluster {
    /// Starts so many nodes on three NATS servers, and waits until they serve.
    pub fn start(nodes: usize) -> Self {
        let mut cluster = Self::prepare(nodes);
        cluster.run_all();
        cluster
    }

    /// Three NATS servers and so many nodes that do not run yet.
    pub fn prepare(nodes: usize) -> Self {
        Self::prepare_on(Nats::start(3).unwrap(), &vec![Machine::this(); nodes])
    }

    /// A node on each machine, with these NATS servers.
    pub fn prepare_on(nats: Nats, machines: &[Machine]) -> Self {
        let free: Vec<_> =
            machines.iter().map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap()).collect();
        let node = |(listener, machine): (&TcpListener, &Machine)| Node {
            machine: machine.clone(),
            address: (machine.address, listener.local_addr().unwrap().port()).into(),
            program: None,
            config: None,
            clock_shift_s: 0,
        };
        let nodes = free.iter().zip(machines).map(node).collect();
        drop(free);
        Self { nats, nodes, folder: tempfile::tempdir().unwrap(), settings: String::new() }
    }

    /// More TOML for the configuration of all nodes.
    pub fn set(&mut self, settings: &str) {
        self.settings = settings.into();
    }

    /// A configuration for one node.
    pub fn replace_config(&mut self, at: usize, file: &Path) {
        self.nodes[at].config = Some(file.to_owned());
    }

    /// Has the clock of a node be so many seconds ahead, or behind.
    pub fn shift_clock(&mut self, at: usize, seconds: i64) {
        self.nodes[at].clock_shift_s = seconds;
    }

    /// What a node has written to its log since it ran last.
    pub fn log(&self, at: usize) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("{at}.log"))).unwrap_or_default()
    }

    /// Runs all nodes, and waits until they serve.
    pub fn run_all(&mut self) {
        for at in 0..self.nodes.len() {
            self.run(at);
        }
        self.wait_until_all_serve(&crate::load::CHANNELS);
        self.wait_until_settled();
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// Runs a node that does not run.
    pub fn run(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.program.is_some() {
            return;
        }
        let listen = node.address.to_string();
        let data = self.folder.path().join(at.to_string());
        let shared = self.folder.path().join("pushflo.toml");
        let all = "[history]\nmessages_per_channel = 100000000\nbytes_per_channel = 100000000000\n\
                   [presence]\ninterval_ms = 100\ngrace_ms = 2000\n";
        std::fs::write(&shared, format!("{all}{}", self.settings)).unwrap();
        let config = node.config.clone().unwrap_or(shared);
        let mut command = on(&node.machine, &["serve", "--listen", &listen, "--shards", "2"]);
        command.arg("--data-dir").arg(data).arg("--config").arg(config);
        command.args(["--cluster-nats", &self.nats.urls().join(",")]);
        command.args(["--cluster-node", &format!("node-{at}")]);
        command.env("PUSHFLO_PUBLISH_KEY", PUBLISH_KEY).env("PUSHFLO_SECRET_KEY", SECRET_KEY);
        command.env("PUSHFLO_MGMT_KEY", MANAGE_KEY);
        command.env("PUSHFLO_LOG", "info");
        if node.clock_shift_s != 0 {
            let file = self.folder.path().join(format!("{at}.clock"));
            std::fs::write(&file, format!("{:+}", node.clock_shift_s)).unwrap();
            set_clock(&mut command, &file);
        }
        let log = new_log(&self.folder.path().join(format!("{at}.log"))).unwrap();
        command.stderr(log);
        let mut program = Program::spawn(command);
        program.address();
        node.program = Some(program);
    }

    /// Where a node keeps what it knows.
    pub fn data_dir(&self, at: usize) -> PathBuf {
        self.folder.path().join(at.to_string())
    }

    /// Ends a node without a word.
    pub fn kill(&mut self, at: usize) {
        drop(self.nodes[at].program.take());
    }

    /// Has a node leave in good order.
    pub fn leave(&mut self, at: usize) {
        if let Some(mut program) = self.nodes[at].program.take() {
            program.signal(Signal::TERM);
            program.output();
        }
    }

    /// Sends a signal, such as `SIGSTOP`, to a node.
    pub fn signal(&self, at: usize, signal: Signal) {
        if let Some(program) = &self.nodes[at].program {
            program.signal(signal);
        }
    }

    /// Waits until each node publishes to each of these channels.
    pub fn wait_until_all_serve(&self, channels: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(60);
        for node in self.nodes.iter().filter(|node| node.program.is_some()) {
            for channel in channels {
                loop {
                    let mut client = HttpClient::connect(node.address);
                    let target = format!("/api/v1/channels/{channel}/messages");
                    client.send(&request("GET", &target, Some(SECRET_KEY), ""));
                    if client.answer().is_some_and(|answer| answer.status == 200) {
                        break;
                    }
                    assert!(Instant::now() < deadline, "{channel} is not served");
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }

    /// Waits until all slots have owners that keep them: until all channels can be listed for a while.
    pub fn wait_until_settled(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_secs(3) {
            let is_whole = self.nodes.iter().filter(|node| node.program.is_some()).all(|node| {
                crate::http::get(node.address, "/api/v1/channels", Some(SECRET_KEY)).status == 200
            });
            if !is_whole {
                since = Instant::now();
            }
            assert!(Instant::now() < deadline, "slots move for ever");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// How many messages the streams have whose subject ends like this behind the number of its slot.
    pub fn messages_under(&self, rest: &str) -> u64 {
        let of_slot = |slot: u8| {
            let filter = format!(r#"{{"subjects_filter":"pushflo.{slot}.{rest}"}}"#);
            let answer = self.nats.ask(&format!("$JS.API.STREAM.INFO.pushflo-{slot}"), &filter);
            let info: serde_json::Value = serde_json::from_str(&answer.unwrap()).unwrap();
            let counts = info["state"]["subjects"].as_object();
            counts.into_iter().flatten().map(|(_, count)| count.as_u64().unwrap()).sum::<u64>()
        };
        (0..128).map(of_slot).sum()
    }

    /// Publishes on a node: the status and the body of the answer.
    pub fn publish(&self, at: usize, channel: &str, data: &serde_json::Value) -> (u16, String) {
        let mut client = HttpClient::connect(self.nodes[at].address);
        let body = publish_body(channel, data);
        client.send(&request("POST", "/api/v1/publish", Some(SECRET_KEY), &body));
        let answer = client.answer().expect("an answer");
        (answer.status, answer.text().to_string())
    }
}

impl Drop for Cluster {
    /// What the nodes have said of a test that failed.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        keep_if_failed(&mut self.folder);
        for at in 0..self.nodes.len() {
            let log = self.log(at);
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains(" INFO ")).collect();
            for line in lines.iter().rev().take(20).rev() {
                println!("node {at}: {line}");
            }
        }
    }
}
