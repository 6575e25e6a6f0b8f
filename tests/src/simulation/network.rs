//! Connections as the network sees them, and the frames on them.

use std::collections::VecDeque;

use pushflo_engine::ids::ConnectionKey;

/// A connection of a client.
#[derive(Debug)]
pub struct Link {
    pub shard: usize,
    pub connection: ConnectionKey,
    pub to_server: VecDeque<u8>,
    pub to_client: VecDeque<u8>,
    /// The server sends nothing more.
    pub server_done: bool,
    /// The client sends nothing more.
    pub client_done: bool,
    /// The server was told so.
    pub end_told: bool,
    /// Bytes of an unfinished frame or answer.
    pub received: Vec<u8>,
}

impl Link {
    pub fn new(shard: usize, connection: ConnectionKey) -> Self {
        Self {
            shard,
            connection,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            server_done: false,
            client_done: false,
            end_told: false,
            received: Vec::new(),
        }
    }

    /// What it is called in a trace.
    pub fn connection_name(&self) -> String {
        format!("shard {} {:?}", self.shard, self.connection)
    }

    pub fn send(&mut self, text: &str) {
        self.to_server.extend(text.bytes());
    }

    /// Sends a masked text frame.
    pub fn send_text(&mut self, text: &str, mask: [u8; 4]) {
        assert!(text.len() < 65536);
        self.to_server.push_back(0x81);
        if text.len() < 126 {
            self.to_server.push_back(0x80 | text.len() as u8);
        } else {
            self.to_server.push_back(0x80 | 126);
            self.to_server.extend((text.len() as u16).to_be_bytes());
        }
        self.to_server.extend(mask);
        self.to_server.extend(text.bytes().zip(mask.into_iter().cycle()).map(|(b, m)| b ^ m));
    }

    /// Answers a ping.
    pub fn send_pong(&mut self) {
        self.to_server.extend([0x8a, 0x80, 0, 0, 0, 0]);
    }

    /// Takes up to `most` bytes off the network.
    pub fn receive(&mut self, most: usize) {
        let most = most.min(self.to_client.len());
        self.received.extend(self.to_client.drain(..most));
    }
}

/// Where `needle` begins.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// The first frame of `bytes`: opcode, payload, length of the whole.
pub fn frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(first & 0xf0, 0x80, "the server does not fragment");
    let (header, length) = match second {
        0..=125 => (2, usize::from(second)),
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize),
        _ => panic!("the server does not mask"),
    };
    Some((first & 0x0f, bytes.get(header..header + length)?, header + length))
}
