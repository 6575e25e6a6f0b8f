//! RFC 6455 over real sockets: a table of cases with the coverage of Autobahn's testsuite, each
//! sent in one write, byte by byte, and in every split in two.
//!
//! That a split reaches the server as separate reads is seen in its own count of bytes received:
//! the next part is only sent when the last one was read.

mod cases;
mod frame;
mod utf8;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use cases::{Case, Expected};
use frame::{Said, said};
use pushflo_tests::http::{HttpClient, PATIENCE, request};
use pushflo_tests::server::{PUBLISH_KEY, TestServer, start};

/// Connections open at a time.
const BATCH: usize = 500;

/// Longer cases are sent in pieces of this size where others go byte by byte.
const PIECE_BYTES: usize = 4_099;

/// A case on its way: one connection and the pieces still to be sent.
struct Run<'a> {
    case: &'a Case,
    pieces: Vec<&'a [u8]>,
    stream: TcpStream,
    received: Vec<u8>,
}

#[test]
fn in_one_write() {
    let server = start(2, "");
    let cases = cases::all();
    assert!(cases.len() > 500, "{} cases", cases.len());
    run_all(&server, cases.iter().map(|case| (case, vec![case.client.as_slice()])));
}

#[test]
fn byte_by_byte() {
    let server = start(2, "");
    let cases = cases::all();
    let pieces = |case: &'_ Case| if case.client.len() > 2_000 { PIECE_BYTES } else { 1 };
    run_all(&server, cases.iter().map(|case| (case, case.client.chunks(pieces(case)).collect())));
}

#[test]
fn in_every_split() {
    let server = start(2, "");
    let cases = cases::all();
    let splits = cases.iter().flat_map(|case| {
        let length = case.client.len();
        // A long case: everywhere around its ends and the edges of its frames' headers, and a
        // sample between.
        let cuts = (1..length)
            .filter(move |cut| length < 600 || *cut < 40 || length - cut < 40 || cut % 1_009 < 3);
        cuts.map(move |cut| {
            let (first, second) = case.client.split_at(cut);
            (case, vec![first, second])
        })
    });
    run_all(&server, splits);
}

fn run_all<'a>(server: &TestServer, runs: impl Iterator<Item = (&'a Case, Vec<&'a [u8]>)>) {
    let mut counter = ByteCounter::new(server.address);
    let mut runs = runs.peekable();
    while runs.peek().is_some() {
        let mut batch: Vec<Run<'_>> = (&mut runs)
            .take(BATCH)
            .map(|(case, pieces)| Run::open(server.address, case, pieces))
            .collect();
        counter.restart();
        let rounds = batch.iter().map(|run| run.pieces.len()).max().unwrap_or_default();
        for round in 0..rounds {
            let sent = batch.iter_mut().map(|run| run.send(round)).sum();
            counter.wait_for(sent);
        }
        for run in batch {
            run.check();
        }
    }
}

impl<'a> Run<'a> {
    fn open(server: SocketAddr, case: &'a Case, pieces: Vec<&'a [u8]>) -> Self {
        let mut stream = TcpStream::connect(server).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let handshake = format!(
            "GET /ws?token={PUBLISH_KEY} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(handshake.as_bytes()).unwrap();
        let mut run = Self { case, pieces, stream, received: Vec::new() };
        // The answer and the first event, whose frame is whole where its JSON is.
        while !run.received.ends_with(b"}") {
            run.read().unwrap();
        }
        let head = run.received.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        assert!(run.received.starts_with(b"HTTP/1.1 101 "));
        run.received.drain(..head + 4);
        run
    }

    /// Sends a piece, unless the server has hung up; says how many bytes.
    fn send(&mut self, round: usize) -> usize {
        let Some(piece) = self.pieces.get(round) else { return 0 };
        match self.stream.write_all(piece) {
            Ok(()) => piece.len(),
            Err(_) => 0,
        }
    }

    fn read(&mut self) -> std::io::Result<usize> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(bytes) => {
                    self.received.extend_from_slice(&buffer[..bytes]);
                    return Ok(bytes);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads to the end and compares.
    fn check(mut self) {
        let name = format!(
            "{} in {} pieces of {:?}",
            self.case.name,
            self.pieces.len(),
            self.pieces.first().map(|p| p.len())
        );
        loop {
            match self.read() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => panic!("{name}: {error} after {:?}", said(&self.received)),
            }
        }
        let said = said(&self.received).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (connected, said) = said.split_first().unwrap();
        assert!(matches!(connected, Said::Text(text) if text.contains("connected")), "{name}");
        let fits = said.len() == self.case.server.len()
            && said.iter().zip(&self.case.server).all(|(said, expected)| match expected {
                Expected::Exactly(frame) => said == frame,
                Expected::Refusal => {
                    matches!(said, Said::Text(text) if text.contains("VALIDATION_ERROR"))
                }
            });
        assert!(fits, "{name}: {said:?}");
    }
}

/// Watches how many bytes the server has received.
struct ByteCounter {
    http: HttpClient,
    request: Vec<u8>,
    expected: u64,
}

impl ByteCounter {
    fn new(server: SocketAddr) -> Self {
        let request = request("GET", "/metrics", None, "");
        Self { http: HttpClient::connect(server), request, expected: 0 }
    }

    fn read(&mut self) -> u64 {
        self.http.send(&self.request);
        self.expected += self.request.len() as u64;
        let text = self.http.answer().unwrap().text();
        let lines = text.lines().filter(|line| line.starts_with("pushflo_bytes_received_total{"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    fn restart(&mut self) {
        // What the connections said before was all read, since it was answered.
        self.expected = self.read();
    }

    /// Waits until so many more bytes were read. A connection that the server has closed reads no
    /// more, so the wait has an end.
    fn wait_for(&mut self, bytes: usize) {
        self.expected += bytes as u64;
        let deadline = Instant::now() + Duration::from_millis(30);
        let mut read = self.read();
        while read < self.expected && Instant::now() < deadline {
            read = self.read();
        }
        self.expected = read;
    }
}
