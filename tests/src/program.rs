//! The program `pushflo` as a user runs it: a process with arguments, environment and output.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use pushflo_nats::Machine;
use rustix::process::{Pid, Signal, kill_process};

use crate::http::PATIENCE;
use crate::server::{PUBLISH_KEY, SECRET_KEY};

/// The built program, beside the test's own executable.
pub fn path() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    let path = path.join("pushflo");
    assert!(path.exists(), "{} is missing: cargo build --workspace makes it", path.display());
    path
}

/// A command with nothing of PushFlo's in its environment.
pub fn command(arguments: &[&str]) -> Command {
    on(&Machine::this(), arguments)
}

/// As [`command`], on a machine.
pub fn on(machine: &Machine, arguments: &[&str]) -> Command {
    let mut command = machine.command(path());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PUSHFLO_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command that ends by itself.
pub fn run(arguments: &[&str]) -> Output {
    Program::spawn(command(arguments)).output()
}

/// A server with known keys that keeps everything, whose errors are shown; `change` has the last word
/// on its command.
pub fn serve_load(
    data: &Path,
    durability: &str,
    change: impl FnOnce(&mut Command),
) -> (Program, SocketAddr) {
    // Beside the data, so that every start reads the same.
    let config = data.with_extension("toml");
    let all = "[history]\nmessages_per_channel = 100000000\nbytes_per_channel = 100000000000\n";
    std::fs::write(&config, all).unwrap();
    let (data, config) = (data.to_str().unwrap(), config.to_str().unwrap());
    let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--durability", durability]);
    command.args(["--data-dir", data, "--config", config]);
    command.env("PUSHFLO_PUBLISH_KEY", PUBLISH_KEY).env("PUSHFLO_SECRET_KEY", SECRET_KEY);
    command.env("PUSHFLO_LOG", "error").stderr(Stdio::inherit());
    change(&mut command);
    let mut program = Program::spawn(command);
    let address = program.address();
    (program, address)
}

/// Has a program go by the time of day that stands in `file`, in the form that libfaketime reads; its
/// monotonic clock is the machine's.
pub fn set_clock(command: &mut Command, file: &Path) {
    let folders = ["x86_64-linux-gnu", "aarch64-linux-gnu"];
    let paths = folders.map(|folder| format!("/usr/lib/{folder}/faketime/libfaketimeMT.so.1"));
    let found = paths.iter().map(Path::new).find(|path| path.exists());
    command.env("LD_PRELOAD", found.expect("libfaketime is missing: apt-get install faketime"));
    command.env("FAKETIME_TIMESTAMP_FILE", file).env("FAKETIME_NO_CACHE", "1");
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
}

/// A running program; killed when it is dropped.
pub struct Program {
    child: Option<Child>,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child: Some(child), stdout }
    }

    /// A server on a port that the kernel chooses, with its data in `data_dir`, and its address.
    pub fn serve(data_dir: &Path, arguments: &[&str]) -> (Self, SocketAddr) {
        let data_dir = data_dir.to_str().unwrap();
        let mut all = vec!["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir];
        all.extend(arguments);
        let mut program = Self::spawn(command(&all));
        let address = program.address();
        (program, address)
    }

    /// Reads the greeting's first line for the address.
    pub fn address(&mut self) -> SocketAddr {
        let line = self.line();
        let address =
            line.split_once("http://").and_then(|(_, rest)| rest.split_whitespace().next());
        address.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            let output = self.output();
            panic!("no greeting: {line:?}, {}", String::from_utf8_lossy(&output.stderr));
        })
    }

    /// The next line of standard output; empty at its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    /// Reads lines up to one that holds `text`.
    pub fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "the output ended without {text:?}");
            if line.contains(text) {
                return line;
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Waits for its end: the exit status and all that was not read yet.
    pub fn output(&mut self) -> Output {
        let mut child = self.child.take().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("the program does not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut output = child.wait_with_output().unwrap();
        self.stdout.read_to_end(&mut output.stdout).unwrap();
        output
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
