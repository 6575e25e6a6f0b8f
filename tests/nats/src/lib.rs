//! NATS servers for tests: real ones with JetStream, one alone or three as a cluster, on ports that the
//! kernel gives. They end with the value.
//!
//! `tests/nats/install` puts the program into `target/nats`; `NATS_SERVER` names another one.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server, running or not.
#[derive(Debug)]
struct Server {
    port: u16,
    config: PathBuf,
    child: Option<Child>,
}

/// Servers that know each other.
#[derive(Debug)]
pub struct Nats {
    folder: tempfile::TempDir,
    servers: Vec<Server>,
}

impl Nats {
    /// Starts so many, 1 or 3, with JetStream.
    ///
    /// # Errors
    /// The program is not there or does not start.
    pub fn start(count: usize) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let ports = free_ports(2 * count)?;
        let (client_ports, cluster_ports) = ports.split_at(count);
        let routes: Vec<_> =
            cluster_ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut nats = Self { folder, servers: Vec::new() };
        for (index, (port, cluster_port)) in client_ports.iter().zip(cluster_ports).enumerate() {
            let folder = nats.folder.path();
            let store = folder.join(format!("store-{index}"));
            let config = folder.join(format!("{index}.conf"));
            let mut file = std::fs::File::create(&config)?;
            writeln!(file, "server_name: n{index}\nlisten: \"127.0.0.1:{port}\"")?;
            writeln!(file, "jetstream {{ store_dir: {store:?} }}")?;
            if count > 1 {
                let routes = routes.join(", ");
                writeln!(
                    file,
                    "cluster {{ name: tests, listen: \"127.0.0.1:{cluster_port}\", routes: [{routes}] }}"
                )?;
            }
            nats.servers.push(Server { port: *port, config, child: None });
        }
        for index in 0..count {
            nats.run(index)?;
        }
        nats.wait_until_ready(Duration::from_secs(30))?;
        Ok(nats)
    }

    /// The addresses of all, for a client.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(|server| format!("nats://127.0.0.1:{}", server.port)).collect()
    }

    /// Asks a server that runs, as a client does, and returns its answer. Requests to JetStream are JSON to
    /// subjects that begin with `$JS.API.`.
    ///
    /// # Errors
    /// None runs, or it does not answer.
    pub fn ask(&self, subject: &str, payload: &str) -> io::Result<String> {
        let running = self.servers.iter().find(|server| server.child.is_some());
        let server = running.ok_or_else(|| io::Error::other("no NATS server runs"))?;
        let stream = TcpStream::connect(("127.0.0.1", server.port))?;
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
        let log = std::fs::File::create(server.config.with_extension("log"))?;
        let child = Command::new(program())
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
        Err(io::Error::other("the NATS servers are not ready"))
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        for index in 0..self.servers.len() {
            self.kill(index);
        }
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
