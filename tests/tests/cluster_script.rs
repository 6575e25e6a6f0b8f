//! A cluster as plain processes by the script that the documentation names.

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use pushflo_tests::client::Subscriber;
use pushflo_tests::http::{get, post, publish_body};
use pushflo_tests::pages::root;
use pushflo_tests::program::{Program, path, run};
use pushflo_tests::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY};
use rustix::process::Signal;
use serde_json::json;

/// The first of so many ports that follow each other and that nobody has.
fn free_ports(count: u16) -> u16 {
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let first = fastrand::u16(20_000..30_000);
        if (first..first + count).all(is_free) {
            return first;
        }
    }
}

#[test]
fn the_script_runs_three_nodes_and_ends_them() {
    let folder = tempfile::tempdir().unwrap();
    let first = free_ports(9);
    let mut command = Command::new(root().join("packaging/cluster/run"));
    command.arg(folder.path().join("cluster"));
    command.env("PORT", first.to_string()).env("NATS_PORT", (first + 3).to_string());
    command.env("PUSHFLO", path()).env("PUSHFLO_PUBLISH_KEY", PUBLISH_KEY);
    command.env("PUSHFLO_SECRET_KEY", SECRET_KEY).env("PUSHFLO_MGMT_KEY", MANAGE_KEY);
    let installed = root().join("target/nats/bin/nats-server");
    command.env("NATS_SERVER", std::env::var_os("NATS_SERVER").unwrap_or(installed.into()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut script = Program::spawn(command);
    script.line_with("The cluster is ready.");
    let nodes: Vec<SocketAddr> = (0..3).map(|n| ([127, 0, 0, 1], first + n).into()).collect();
    let mut subscriber = Subscriber::connect(nodes[2]);
    // Slots move when the last node has come.
    let subscribe = json!({ "type": "subscribe", "channel": "hello" });
    subscriber.send(subscribe.clone());
    while subscriber.event()["type"] != "subscribed" {
        std::thread::sleep(std::time::Duration::from_millis(100));
        subscriber.send(subscribe.clone());
    }
    let body = publish_body("hello", &json!("world"));
    while post(nodes[0], "/api/v1/publish", Some(SECRET_KEY), &body).status != 200 {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(subscriber.message().data, "world");
    let url = format!("http://{}", nodes[1]);
    let status = run(&["cluster", "status", "--url", &url, "--key", MANAGE_KEY]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!((0..3).all(|n| text.contains(&format!("node-{n}  here"))), "{text}");
    // Metrics of the cluster are told, and the page tells what they mean.
    let page = std::fs::read_to_string(root().join("docs/cluster.md")).unwrap();
    let metrics = get(nodes[1], "/metrics", None).text();
    for line in metrics.lines().filter(|line| line.starts_with("# TYPE pushflo_cluster")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(page.contains(name), "{name} is not told");
    }
    script.signal(Signal::TERM);
    let output = script.output();
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    for port in first..first + 9 {
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "something is left on {port}");
    }
}
