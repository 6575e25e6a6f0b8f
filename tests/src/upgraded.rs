//! A server that is upgraded while others use it: a program in a file that may be replaced, and whatever processes
//! come of it.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::program::{self, Program};
use crate::server::{MANAGE_KEY, PUBLISH_KEY, SECRET_KEY};

/// A server, and those that take its place.
pub struct Upgraded {
    folder: TempDir,
    /// The one that was started here, while it runs.
    pub first: Program,
    pub address: SocketAddr,
}

impl Upgraded {
    /// Starts one with a configuration, in TOML.
    pub fn start(extra: &str) -> Self {
        Self::start_with(extra, |_| {})
    }

    /// As [`Upgraded::start`]; `change` has the last word on the command.
    pub fn start_with(extra: &str, change: impl FnOnce(&mut Command)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(program::path(), folder.path().join("pushflo")).unwrap();
        // A port that is free, so that it is the same whoever serves there.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        configure(folder.path(), port, extra);
        let (first, address) = serve(folder.path(), change);
        Self { folder, first, address }
    }

    /// Starts one more, where none is left.
    pub fn restart(&mut self) {
        (self.first, self.address) = serve(self.folder.path(), |_| {});
    }

    /// Has the next process read another configuration.
    pub fn configure(&self, extra: &str) {
        configure(self.folder.path(), self.address.port(), extra);
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The file of the program.
    pub fn program(&self) -> PathBuf {
        self.folder.path().join("pushflo")
    }

    /// Puts a script in the place of the program.
    pub fn replace_program(&self, script: &str) {
        let fresh = self.folder.path().join("fresh");
        std::fs::write(&fresh, script).unwrap();
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(fresh, self.program()).unwrap();
    }

    /// Puts the program back in its place.
    pub fn restore_program(&self) {
        let fresh = self.folder.path().join("fresh");
        std::fs::copy(program::path(), &fresh).unwrap();
        std::fs::rename(fresh, self.program()).unwrap();
    }

    /// Runs `pushflo upgrade` to its end.
    pub fn upgrade(&self) -> Output {
        program::run(&["upgrade", "--data-dir", self.data_dir().to_str().unwrap()])
    }

    /// As [`Upgraded::upgrade`], which must succeed; returns for how long nobody was served.
    pub fn upgraded(&self) -> Duration {
        let before = self.processes();
        let output = self.upgrade();
        let (said, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}{error}");
        let pause =
            said.split("nobody was served for ").nth(1).and_then(|rest| rest.split(' ').next());
        let pause = pause.and_then(|pause| pause.parse().ok()).unwrap_or_else(|| panic!("{said}"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.processes().iter().any(|process| before.contains(process)) {
            assert!(Instant::now() < deadline, "the process before goes on");
            std::thread::sleep(Duration::from_millis(2));
        }
        Duration::from_millis(pause)
    }

    /// The processes that serve, or are about to; the oldest first.
    pub fn processes(&self) -> Vec<i32> {
        servers_with(self.folder.path())
    }
}

/// The servers whose command names a file or folder below `path`, running or starting; the oldest first.
pub fn servers_with(path: &Path) -> Vec<i32> {
    let path = path.as_os_str().as_encoded_bytes();
    let found = |entry: std::fs::DirEntry| {
        let process: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let is_ours = line.windows(path.len()).any(|part| part == path);
        let is_server = line.split(|byte| *byte == 0).any(|word| word == b"serve");
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let rest: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
        let is_there = !matches!(*rest.first()?, "Z" | "X");
        let began: u64 = rest.get(19)?.parse().ok()?;
        (is_ours && is_server && is_there).then_some((began, process))
    };
    let mut found: Vec<(u64, i32)> =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(found).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, process)| process).collect()
}

/// Ends the servers whose command names a file or folder below a path when it is dropped.
pub struct EndServers(pub PathBuf);

impl Drop for EndServers {
    fn drop(&mut self) {
        servers_with(&self.0).into_iter().for_each(|process| signal(process, Signal::KILL));
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        for process in self.processes() {
            signal(process, Signal::KILL);
        }
    }
}

/// Sends a signal to a process, which may be gone.
pub fn signal(process: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(process).unwrap(), signal);
}

fn configure(folder: &Path, port: u16, extra: &str) {
    let text = format!(
        "listen = '127.0.0.1:{port}'\ndata_dir = '{}'\ndrain_spread_ms = 0\n{extra}\n[keys]\n\
         publish = '{PUBLISH_KEY}'\nsecret = '{SECRET_KEY}'\nmgmt = '{MANAGE_KEY}'\n",
        folder.join("data").display()
    );
    std::fs::write(folder.join("pushflo.toml"), text).unwrap();
}

fn serve(folder: &Path, change: impl FnOnce(&mut Command)) -> (Program, SocketAddr) {
    let mut command = Command::new(folder.join("pushflo"));
    command.args(["serve", "--config"]).arg(folder.join("pushflo.toml"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PUSHFLO_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    change(&mut command);
    let mut program = Program::spawn(command);
    let address = program.address();
    (program, address)
}
