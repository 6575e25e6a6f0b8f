//! A WebSocket client on tungstenite's blocking stream.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::http::PATIENCE;
use crate::server::PUBLISH_KEY;

/// A stream that goes on after an interruption: a socket with a time-out does not by itself, and
/// rings that end in the same process interrupt.
pub struct Stream(pub TcpStream);

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}

/// A connection.
pub struct Subscriber {
    pub socket: WebSocket<Stream>,
}

/// A message as a subscriber sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub channel: String,
    pub id: String,
    pub offset: u64,
    pub data: Value,
}

impl Subscriber {
    pub fn connect(address: SocketAddr) -> Self {
        let mut subscriber = Self::connect_with(address, PUBLISH_KEY);
        let connected = subscriber.event();
        assert_eq!(connected["type"], "connected", "{connected}");
        subscriber
    }

    /// Without waiting for the first event.
    pub fn connect_with(address: SocketAddr, key: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let url = format!("ws://{address}/ws?token={key}");
        let (socket, _) = tungstenite::client(url, Stream(stream)).unwrap();
        Self { socket }
    }

    pub fn send(&mut self, command: Value) {
        self.socket.send(Message::text(command.to_string())).unwrap();
    }

    /// The next text frame.
    pub fn event(&mut self) -> Value {
        loop {
            match self.socket.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    pub fn subscribe(&mut self, channel: &str) -> Value {
        self.subscribe_with(json!({ "type": "subscribe", "channel": channel }))
    }

    /// Sends a command and waits for `subscribed`, which must be next.
    pub fn subscribe_with(&mut self, command: Value) -> Value {
        self.send(command);
        let event = self.event();
        assert_eq!(event["type"], "subscribed", "{event}");
        event
    }

    /// Connects and subscribes as soon as that is possible: a channel that moves between nodes refuses, and says to
    /// come again.
    pub fn subscribed_soon(address: SocketAddr, command: &Value) -> (Self, Value) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut subscriber = Self::connect(address);
            subscriber.send(command.clone());
            let event = subscriber.event();
            if event["type"] == "subscribed" {
                return (subscriber, event);
            }
            assert!(event["code"] == "OVERLOADED" && Instant::now() < deadline, "{event}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The next event, which must be a message.
    pub fn message(&mut self) -> Seen {
        let event = self.event();
        seen(&event).unwrap_or_else(|| panic!("not a message: {event}"))
    }

    pub fn messages(&mut self, count: usize) -> Vec<Seen> {
        (0..count).map(|_| self.message()).collect()
    }

    /// Reads on to the close frame: its code and reason.
    pub fn close_code(&mut self) -> (u16, String) {
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(frame))) => {
                    return (frame.code.into(), frame.reason.to_string());
                }
                Ok(_) => {}
                Err(error) => panic!("no close frame: {error}"),
            }
        }
    }
}

/// The message in an event, if it is one.
pub fn seen(event: &Value) -> Option<Seen> {
    (event["type"] == "message").then(|| Seen {
        channel: event["channel"].as_str().unwrap().into(),
        id: event["messageId"].as_str().unwrap().into(),
        offset: event["offset"].as_u64().unwrap(),
        data: event["data"].clone(),
    })
}
