//! Metrics on an address of their own: one thread that serves several peers at a time and waits for
//! none of them.
//!
//! A peer has one deadline for its whole request and the whole answer, so one that sends or reads byte
//! by byte is cut off as one that says nothing is. Where more come than there may be, or more waits to
//! be sent than may wait, the one that came first has had the most time and goes.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use pushflo_protocol::http::{Progress, Request, RequestReader, Response, date};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::{Clock, unix_ms};
use crate::exposition::CONTENT_TYPE;

/// How long a peer has, from its connection to the end of its answer.
const DEADLINE_MS: u64 = 5_000;

/// Peers at a time. A few programs scrape, each for some milliseconds; each peer may hold a request
/// head and an answer.
const PEERS_MAX: usize = 64;

/// Bytes of answers that peers have not taken yet; one answer may be larger. With many apps one is some
/// megabytes.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Connections taken, and reads of one peer, before the others have their turn.
const CALLS_PER_ROUND: usize = 64;

/// How long accepting waits after it failed, for lack of descriptors above all.
const PAUSE: Duration = Duration::from_millis(100);

/// Gives the metrics as they are now.
pub type Render = Box<dyn Fn() -> String + Send>;

/// The thread that serves metrics.
#[derive(Debug)]
pub struct MetricsListener {
    /// Where it listens.
    pub address: SocketAddr,
    /// Ends the thread by a byte.
    stop: UnixStream,
    thread: JoinHandle<()>,
}

impl MetricsListener {
    /// Serves what `render` gives on `listener`.
    ///
    /// # Errors
    /// The kernel gives no descriptor or thread.
    pub fn start(listener: TcpListener, render: Render) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = UnixStream::pair()?;
        let scrapes = Scrapes {
            listener,
            stopped,
            render,
            clock: Clock::start(),
            peers: VecDeque::new(),
            accept_from_ms: 0,
        };
        let thread = std::thread::Builder::new().name("metrics".into());
        Ok(Self { address, stop, thread: thread.spawn(move || scrapes.run())? })
    }

    /// Stops listening and cuts off who is there.
    pub fn close(mut self) {
        // By a byte rather than by its end: other threads' file tables may have a copy.
        if self.stop.write_all(&[1]).is_ok() {
            let _ = self.thread.join();
        }
    }
}

struct Scrapes {
    listener: TcpListener,
    stopped: UnixStream,
    render: Render,
    clock: Clock,
    /// In the order in which they came, which is that of their deadlines.
    peers: VecDeque<Peer>,
    /// No connection is taken before.
    accept_from_ms: u64,
}

/// What is to be waited for.
struct Ready {
    stopped: bool,
    listener: bool,
    /// By peer.
    peers: Vec<bool>,
}

impl Scrapes {
    fn run(mut self) {
        loop {
            match self.wait() {
                Ok(Ready { stopped: true, .. }) => return,
                Ok(ready) => self.round(&ready),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "metrics cannot be served for the moment");
                    self.peers.clear();
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    fn wait(&self) -> rustix::io::Result<Ready> {
        let now_ms = self.clock.elapsed_ms();
        let is_pausing = now_ms < self.accept_from_ms;
        let accept = if is_pausing { PollFlags::empty() } else { PollFlags::IN };
        let mut fds =
            vec![PollFd::new(&self.stopped, PollFlags::IN), PollFd::new(&self.listener, accept)];
        fds.extend(self.peers.iter().map(|peer| PollFd::new(&peer.socket, peer.waits_for())));
        let deadline_ms = self.peers.front().map(|peer| peer.deadline_ms);
        let until_ms =
            deadline_ms.into_iter().chain(is_pausing.then_some(self.accept_from_ms)).min();
        // A millisecond more, so that it is past and not just there.
        let timeout = until_ms.map(|until_ms| {
            let ms = until_ms.saturating_sub(now_ms) + 1;
            Timespec { tv_sec: (ms / 1_000) as i64, tv_nsec: (ms % 1_000 * 1_000_000) as i64 }
        });
        poll(&mut fds, timeout.as_ref())?;
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        Ok(Ready {
            stopped: ready.next().unwrap_or(true),
            listener: ready.next().unwrap_or(false),
            peers: ready.collect(),
        })
    }

    fn round(&mut self, ready: &Ready) {
        let now_ms = self.clock.elapsed_ms();
        let peers = std::mem::take(&mut self.peers);
        for (mut peer, is_ready) in peers.into_iter().zip(&ready.peers) {
            let goes_on = now_ms < peer.deadline_ms && (!is_ready || peer.go_on(&self.render));
            if goes_on {
                self.keep(peer);
            }
        }
        if ready.listener {
            self.accept(now_ms);
        }
    }

    fn accept(&mut self, now_ms: u64) {
        for _ in 0..CALLS_PER_ROUND {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    let Ok(mut peer) = Peer::new(socket, now_ms + DEADLINE_MS) else { continue };
                    // It has said what it wants by now, as a rule.
                    if peer.go_on(&self.render) {
                        self.keep(peer);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::debug!(%error, "cannot accept connections for metrics");
                    self.accept_from_ms = now_ms + PAUSE.as_millis() as u64;
                    return;
                }
            }
        }
    }

    /// Keeps the one that came last, at the cost of those that came first if there are too many.
    fn keep(&mut self, peer: Peer) {
        self.peers.push_back(peer);
        if self.peers.len() > PEERS_MAX {
            self.peers.pop_front();
        }
        let mut bytes: usize = self.peers.iter().map(Peer::answer_bytes).sum();
        while bytes > ANSWER_BYTES_MAX && self.peers.len() > 1 {
            bytes -= self.peers.pop_front().as_ref().map_or(0, Peer::answer_bytes);
        }
    }
}

/// One connection: its request, the answer, its end.
struct Peer {
    socket: TcpStream,
    deadline_ms: u64,
    reader: RequestReader,
    /// The request as far as it came.
    request: Vec<u8>,
    /// There is none before the request is whole, and nothing of it once all is sent.
    answer: Option<Vec<u8>>,
    sent: usize,
}

impl Peer {
    fn new(socket: TcpStream, deadline_ms: u64) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let (reader, request) = (RequestReader::default(), Vec::new());
        Ok(Self { socket, deadline_ms, reader, request, answer: None, sent: 0 })
    }

    fn waits_for(&self) -> PollFlags {
        if self.answer_bytes() > 0 { PollFlags::OUT } else { PollFlags::IN }
    }

    /// Bytes of an answer that is not all sent.
    fn answer_bytes(&self) -> usize {
        self.answer.as_ref().map_or(0, Vec::len)
    }

    /// Reads and writes what can be without waiting. Returns whether there is more to come.
    fn go_on(&mut self, render: &Render) -> bool {
        let is_for_now =
            |kind| matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
        self.try_go_on(render).unwrap_or_else(|error| is_for_now(error.kind()))
    }

    fn try_go_on(&mut self, render: &Render) -> io::Result<bool> {
        let mut piece = [0; 4096];
        for _ in 0..CALLS_PER_ROUND {
            let rest = self.answer.as_ref().and_then(|answer| answer.get(self.sent..));
            if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
                let sent = self.socket.write(rest)?;
                self.sent += sent;
                if sent == rest.len() {
                    // What it still sends is read to its end, or the kernel would take the answer back.
                    (self.answer, self.sent) = (Some(Vec::new()), 0);
                    self.socket.shutdown(Shutdown::Write)?;
                }
                continue;
            }
            let bytes = self.socket.read(&mut piece)?;
            if bytes == 0 {
                return Ok(false);
            }
            if self.answer.is_none() {
                self.request.extend_from_slice(piece.get(..bytes).unwrap_or_default());
                self.answer = answer(&mut self.reader, &self.request, render);
            }
        }
        Ok(true)
    }
}

/// The answer, once the request is whole or cannot become one. It has no use for a body.
fn answer(reader: &mut RequestReader, bytes: &[u8], render: &Render) -> Option<Vec<u8>> {
    let (status, text, head_only) = match reader.read(bytes, |_, _| Ok(0)) {
        Ok(Progress::More { .. }) => return None,
        Ok(Progress::Request(Request { method, path, .. }, _)) => match (method, path) {
            ("GET" | "HEAD", "/metrics" | "/") => (200, render(), method == "HEAD"),
            ("GET" | "HEAD", _) => (404, "metrics are at /metrics\n".into(), method == "HEAD"),
            _ => (405, "metrics are for GET and HEAD\n".into(), false),
        },
        Err(refusal) => (refusal.code.status(), format!("{refusal}\n"), false),
    };
    let response = Response {
        status,
        content_type: Some(if status == 200 { CONTENT_TYPE } else { "text/plain; charset=utf-8" }),
        headers: if status == 405 { &["Allow: GET, HEAD"] } else { &[] },
        body: text.as_bytes(),
        keep_alive: false,
        head_only,
    };
    let mut out = Vec::new();
    response.encode(&date(unix_ms() / 1_000), &mut out);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two answers are more than may wait: the peer that came first and takes nothing makes room.
    #[test]
    fn who_does_not_take_its_answer_costs_no_memory_without_bound() {
        const SIZE: usize = ANSWER_BYTES_MAX / 4 * 3;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let metrics = MetricsListener::start(listener, Box::new(|| "m".repeat(SIZE))).unwrap();
        let ask = || {
            let mut socket = TcpStream::connect(metrics.address).unwrap();
            socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket
        };
        let all_of = |mut socket: TcpStream| {
            let mut bytes = Vec::new();
            socket.read_to_end(&mut bytes).map(|_| bytes.len())
        };
        let first = ask();
        // It is being answered.
        assert_eq!(first.peek(&mut [0]).unwrap(), 1);
        assert!(all_of(ask()).is_ok_and(|bytes| bytes > SIZE));
        assert!(!all_of(first).is_ok_and(|bytes| bytes > SIZE));
        metrics.close();
    }
}
