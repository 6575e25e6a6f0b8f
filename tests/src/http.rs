//! A small HTTP client that keeps its connection and can pipeline.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Longer than anything may take; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to the server.
pub struct HttpClient {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

impl HttpClient {
    pub fn connect(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).unwrap())
    }

    /// On a connection that was made already.
    pub fn on(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next answer; `None` at the end of the stream.
    pub fn answer(&mut self) -> Option<Answer> {
        self.try_answer()
    }

    /// The next answer; `None` if the connection ends before it is whole.
    pub fn try_answer(&mut self) -> Option<Answer> {
        let mut line = String::new();
        self.reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            line.clear();
            self.reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_owned(), value.to_owned()));
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        let length = answer.header("content-length").map_or(Some(0), |text| text.parse().ok())?;
        answer.body = vec![0; length];
        self.reader.read_exact(&mut answer.body).ok()?;
        Some(answer)
    }

    /// Everything until the end of the stream.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset after the last word is as good an end as any.
        let _ = self.reader.read_to_end(&mut rest);
        rest
    }

    pub fn publish(&mut self, key: &str, body: &str) -> Answer {
        self.send(&request("POST", "/api/v1/publish", Some(key), body));
        self.answer().expect("an answer")
    }
}

/// The bytes of a request.
pub fn request(method: &str, target: &str, key: Option<&str>, body: &str) -> Vec<u8> {
    let authorization = key.map_or(String::new(), |k| format!("Authorization: Bearer {k}\r\n"));
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\n{authorization}Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

pub fn get(address: SocketAddr, target: &str, key: Option<&str>) -> Answer {
    let mut client = HttpClient::connect(address);
    client.send(&request("GET", target, key, ""));
    client.answer().expect("an answer")
}

pub fn post(address: SocketAddr, target: &str, key: Option<&str>, body: &str) -> Answer {
    let mut client = HttpClient::connect(address);
    client.send(&request("POST", target, key, body));
    client.answer().expect("an answer")
}

/// A publish with the header `Idempotency-Key`.
pub fn publish_keyed(address: SocketAddr, secret: &str, key: &str, body: &str) -> Answer {
    let head = format!(
        "POST /api/v1/publish HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {secret}\r\n\
         Idempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut client = HttpClient::connect(address);
    client.send(head.as_bytes());
    client.answer().unwrap()
}

/// The body of a publish.
pub fn publish_body(channel: &str, data: &Value) -> String {
    serde_json::json!({ "channel": channel, "data": data }).to_string()
}

/// Any call, with a JSON body.
pub fn call(
    address: SocketAddr,
    method: &str,
    target: &str,
    key: Option<&str>,
    body: &Value,
) -> Answer {
    let mut client = HttpClient::connect(address);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    client.send(&request(method, target, key, &body));
    client.answer().expect("an answer")
}
