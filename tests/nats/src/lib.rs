//! NATS servers for tests: real ones with JetStream, one alone or three as a cluster, on ports that the
//! kernel gives. They end with the value.
//!
//! `tests/nats/install` puts the program into `target/nats`; `NATS_SERVER` names another one.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where a server runs: on this machine, or as if on another, in a network namespace.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The address that others know it by.
    pub address: IpAddr,
    /// The command that runs another one there; empty for this machine.
    pub enter: Vec<String>,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::LOCALHOST), enter: Vec::new() }
    }

    /// Has a program run there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let Some((enter, arguments)) = self.enter.split_first() else {
            return Command::new(program);
        };
        let mut command = Command::new(enter);
        command.args(arguments).arg(program);
        command
    }
}

/// A server, running or not.
#[derive(Debug)]
struct Server {
    machine: Machine,
    port: u16,
    config: PathBuf,
    child: Option<Child>,
}

/// Servers that know each other.
#[derive(Debug)]
pub struct Nats {
    folder: tempfile::TempDir,
    servers: Vec<Server>,
    /// What stands before the addresses, such as `name:password@`.
    user: String,
    scheme: &'static str,
}

impl Nats {
    /// Starts so many, 1 or 3, with JetStream.
    ///
    /// # Errors
    /// The program is not there or does not start.
    pub fn start(count: usize) -> io::Result<Self> {
        Self::start_on(&vec![Machine::this(); count], "", "")
    }

    /// Starts one on each machine. `jetstream` is what else JetStream is told, and `rest` what else a server
    /// is, in the form of its configuration.
    ///
    /// # Errors
    /// As of [`Nats::start`].
    pub fn start_on(machines: &[Machine], jetstream: &str, rest: &str) -> io::Result<Self> {
        let mut nats = Self::prepare_on(machines, jetstream, rest)?;
        for index in 0..nats.servers.len() {
            nats.run(index)?;
        }
        nats.wait_until_ready(Duration::from_secs(30))?;
        Ok(nats)
    }

    /// As [`Nats::start_on`], and none runs yet.
    ///
    /// # Errors
    /// As of [`Nats::start`].
    pub fn prepare_on(machines: &[Machine], jetstream: &str, rest: &str) -> io::Result<Self> {
        let count = machines.len();
        let folder = tempfile::tempdir()?;
        let ports = free_ports(2 * count)?;
        let (client_ports, cluster_ports) = ports.split_at(count);
        let routes: Vec<_> = cluster_ports
            .iter()
            .zip(machines)
            .map(|(port, machine)| format!("nats://{}:{port}", machine.address))
            .collect();
        let mut nats = Self { folder, servers: Vec::new(), user: String::new(), scheme: "nats" };
        let machines = machines.iter().zip(client_ports.iter().zip(cluster_ports));
        for (index, (machine, (port, cluster_port))) in machines.enumerate() {
            let (folder, address) = (nats.folder.path(), machine.address);
            let store = folder.join(format!("store-{index}"));
            let config = folder.join(format!("{index}.conf"));
            let mut file = File::create(&config)?;
            writeln!(file, "server_name: n{index}\nlisten: \"{address}:{port}\"")?;
            writeln!(file, "lame_duck_duration: 30s\nlame_duck_grace_period: 1s")?;
            writeln!(file, "jetstream {{ store_dir: {store:?}\n{jetstream} }}\n{rest}")?;
            if count > 1 {
                let routes = routes.join(", ");
                writeln!(
                    file,
                    "cluster {{ name: tests, listen: \"{address}:{cluster_port}\", routes: [{routes}] }}"
                )?;
            }
            let machine = machine.clone();
            nats.servers.push(Server { machine, port: *port, config, child: None });
        }
        Ok(nats)
    }

    /// Has the addresses be those of TLS.
    pub fn name_tls(&mut self) {
        self.scheme = "tls";
    }

    /// Has the addresses name a user and a password, as `name:password`.
    pub fn name_user(&mut self, user: &str) {
        self.user = format!("{user}@");
    }

    /// The addresses of all, for a client.
    pub fn urls(&self) -> Vec<String> {
        let url = |server: &Server| {
            let (scheme, address) = (self.scheme, server.machine.address);
            format!("{scheme}://{}{address}:{}", self.user, server.port)
        };
        self.servers.iter().map(url).collect()
    }

    /// Asks a server that runs, as a client does, and returns its answer. Requests to JetStream are JSON to
    /// subjects that begin with `$JS.API.`.
    ///
    /// # Errors
    /// None runs, or it does not answer.
    pub fn ask(&self, subject: &str, payload: &str) -> io::Result<String> {
        let running = self.servers.iter().find(|server| server.child.is_some());
        let server = running.ok_or_else(|| io::Error::other("no NATS server runs"))?;
        let stream = TcpStream::connect((server.machine.address, server.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut lines = BufReader::new(&stream);
        let hello = "CONNECT {\"verbose\":false}\r\nSUB answer 1\r\n";
        let request = format!("{hello}PUB {subject} answer {}\r\n{payload}\r\n", payload.len());
        (&stream).write_all(request.as_bytes())?;
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                return Err(io::Error::other("the NATS server has hung up"));
            }
            if let Some(message) = line.strip_prefix("MSG ") {
                let length = message.split_whitespace().last().and_then(|n| n.parse().ok());
                let mut answer = vec![0; length.unwrap_or_default()];
                lines.read_exact(&mut answer)?;
                return String::from_utf8(answer).map_err(io::Error::other);
            }
            if line.starts_with("-ERR") {
                return Err(io::Error::other(line));
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.servers.len()
    }

    /// Runs one that does not run.
    ///
    /// # Errors
    /// The program is not there.
    pub fn run(&mut self, index: usize) -> io::Result<()> {
        let Some(server) = self.servers.get_mut(index).filter(|server| server.child.is_none())
        else {
            return Ok(());
        };
        let log = new_log(&server.config.with_extension("log"))?;
        let child = server
            .machine
            .command(program())
            .arg("-c")
            .arg(&server.config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| {
                io::Error::other(format!(
                    "{}: {error}; run tests/nats/install",
                    program().display()
                ))
            })?;
        server.child = Some(child);
        Ok(())
    }

    /// Ends one without a word, as a power cut does.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.servers.get_mut(index).and_then(|server| server.child.take())
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal, such as `SIGSTOP`, to one.
    #[allow(unsafe_code, reason = "kill(2) of a child that was not waited for")]
    pub fn signal(&self, index: usize, signal: i32) {
        let child = self.servers.get(index).and_then(|server| server.child.as_ref());
        if let Some(child) = child {
            // SAFETY: the child was not waited for, so its id is its own.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
    }

    /// Has one go away in good order, its leaders first: lame duck mode.
    pub fn send_away(&mut self, index: usize) {
        self.signal(index, libc::SIGUSR2);
    }

    /// Whether one has ended by itself.
    pub fn has_ended(&mut self, index: usize) -> bool {
        let child = self.servers.get_mut(index).and_then(|server| server.child.as_mut());
        child.is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// Waits until all that run have a leader for JetStream.
    ///
    /// # Errors
    /// It took too long.
    pub fn wait_until_ready(&self, most: Duration) -> io::Result<()> {
        let ready = |server: &Server| {
            let log = std::fs::read_to_string(server.config.with_extension("log"));
            let log = log.unwrap_or_default();
            log.contains("Server is ready")
                && (self.servers.len() == 1 || log.contains("metadata leader"))
        };
        let pause = Duration::from_millis(50);
        for _ in 0..most.as_millis() / pause.as_millis() {
            if self.servers.iter().filter(|server| server.child.is_some()).all(ready) {
                return Ok(());
            }
            std::thread::sleep(pause);
        }
        let log = |server: &Server| {
            let log = std::fs::read_to_string(server.config.with_extension("log"));
            let log = log.unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            lines.iter().rev().take(3).rev().copied().collect::<Vec<_>>().join("\n")
        };
        let logs: Vec<_> = self.servers.iter().map(log).collect();
        Err(io::Error::other(format!("the NATS servers are not ready:\n{}", logs.join("\n"))))
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        keep_if_failed(&mut self.folder);
        for index in 0..self.servers.len() {
            self.kill(index);
        }
    }
}

/// A new file for the log of a program that runs again; what is there stays beside it.
///
/// # Errors
/// As of the file system.
pub fn new_log(path: &Path) -> io::Result<File> {
    if let Ok(before) = std::fs::read(path) {
        let all = path.with_extension("before.log");
        OpenOptions::new().create(true).append(true).open(all)?.write_all(&before)?;
    }
    File::create(path)
}

/// Keeps the folder of a test that fails, where `PUSHFLO_TEST_KEEP` is set to anything.
#[allow(clippy::print_stdout, reason = "for whoever has asked for it")]
pub fn keep_if_failed(folder: &mut tempfile::TempDir) {
    if std::thread::panicking() && std::env::var_os("PUSHFLO_TEST_KEEP").is_some() {
        folder.disable_cleanup(true);
        println!("kept {}", folder.path().display());
    }
}

fn program() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/nats/bin/nats-server");
    std::env::var_os("NATS_SERVER").map_or(installed, PathBuf::from)
}

/// Ports that nobody has just now.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let taken: Vec<_> =
        (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<io::Result<_>>()?;
    taken.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
