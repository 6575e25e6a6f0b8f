//! One publishing connection: HTTP/1.1 with keep-alive and pipelining, or what a peer speaks.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use memchr::memmem;
use serde::Deserialize;

use crate::driver::{self, Destination, Driver};
use crate::payload;

/// A connection that publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) socket: OwnedFd,
    /// The next number at a fixed rate.
    pub(crate) next: u64,
    pub(crate) out: Vec<u8>,
    pub(crate) partial: Vec<u8>,
    /// Requests without an answer.
    pub(crate) in_flight: VecDeque<InFlight>,
    driver: Driver,
    body: Vec<u8>,
}

/// A publish that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub(crate) channel: usize,
    pub(crate) number: u64,
    /// When it was to be sent.
    pub(crate) at_ns: u64,
}

/// An answer to a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It got this offset.
    Published(u64),
    /// It was taken; no offset is told.
    Accepted,
    /// The server is full for the moment; nothing was accepted.
    Refused,
    /// Anything else, with its status.
    Failed(u16),
}

impl Publisher {
    pub(crate) fn new(socket: OwnedFd, next: u64, driver: Driver) -> Self {
        let (mut out, partial, body) = (Vec::new(), Vec::new(), Vec::new());
        driver.push_greeting(&mut out);
        Self { socket, driver, next, out, partial, in_flight: VecDeque::new(), body }
    }

    /// Puts one publish into the buffer for sending.
    pub(crate) fn push(&mut self, to: &Destination<'_>, payload_bytes: usize, publish: InFlight) {
        self.body.clear();
        payload::push(&mut self.body, publish.number, publish.at_ns, payload_bytes);
        self.driver.push_publish(&mut self.out, to, &self.body);
        self.in_flight.push_back(publish);
    }

    /// Adds a publish to the batch that [`Publisher::push_batch`] sends.
    pub(crate) fn add(&mut self, channel: &str, payload_bytes: usize, publish: InFlight) {
        self.body.push(if self.body.is_empty() { b'[' } else { b',' });
        driver::push_body(&mut self.body, channel, |out| {
            payload::push(out, publish.number, publish.at_ns, payload_bytes);
        });
        self.in_flight.push_back(publish);
    }

    /// Puts the batch into the buffer for sending.
    pub(crate) fn push_batch(&mut self, host: &str, key: &str) {
        self.body.push(b']');
        driver::push_batch(&mut self.out, host, key, &self.body);
        self.body.clear();
    }

    /// The answers that the first HTTP answer of `bytes` gives to batches or single publishes, and
    /// its length; `None` while it is not whole.
    pub(crate) fn parse_answers(&self, bytes: &[u8], batch: usize) -> Option<(Vec<Answer>, usize)> {
        if batch == 1 {
            return self.parse_answer(bytes).map(|(answer, taken)| (vec![answer], taken));
        }
        let (status, body, taken) = split_http(bytes)?;
        if status != 200 {
            let all = self.in_flight.len().min(batch);
            return Some((vec![of_status(status); all], taken));
        }
        #[derive(Deserialize)]
        struct Body {
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            results: Vec<Outcome>,
        }
        #[derive(Deserialize)]
        struct Outcome {
            data: Option<Published>,
            code: Option<String>,
        }
        #[derive(Deserialize)]
        struct Published {
            offset: u64,
        }
        let body: Option<Body> = serde_json::from_slice(body).ok();
        let results = body.map(|body| body.data.results).unwrap_or_default();
        let answer = |result: &Outcome| match (&result.data, result.code.as_deref()) {
            (Some(published), _) => Answer::Published(published.offset),
            (None, Some("OVERLOADED")) => Answer::Refused,
            (None, _) => Answer::Failed(status),
        };
        Some((results.iter().map(answer).collect(), taken))
    }

    /// Whether the server says in these answers that it ends the connection.
    pub(crate) fn ends_with(&self, bytes: &[u8]) -> bool {
        self.driver == Driver::Pusher && memmem::find(bytes, b"\r\nconnection: close").is_some()
    }

    /// The first answer of `bytes` and its length; `None` while it is not whole.
    fn parse_answer(&self, bytes: &[u8]) -> Option<(Answer, usize)> {
        match self.driver {
            Driver::Pushflo => parse_http(bytes),
            // Their answers tell no place; the number of the publish is the message's.
            Driver::Plain | Driver::Centrifugo | Driver::Pusher => {
                let (answer, taken) = parse_http(bytes)?;
                let is_good = |status: &u16| (200..300).contains(status);
                Some(match answer {
                    Answer::Failed(status) if is_good(&status) => (Answer::Accepted, taken),
                    other => (other, taken),
                })
            }
            Driver::Nats => {
                let end = memmem::find(bytes, b"PONG\r\n")? + 6;
                Some((Answer::Accepted, end))
            }
        }
    }
}

/// The first HTTP answer of `bytes` and its length; `None` while it is not whole.
fn parse_http(bytes: &[u8]) -> Option<(Answer, usize)> {
    let (status, body, taken) = split_http(bytes)?;
    let answer = match status {
        200 => {
            let at = memmem::find(body, br#""offset":"#);
            let offset = at.and_then(|at| body.get(at + 9..)).and_then(number);
            offset.map_or(Answer::Failed(status), Answer::Published)
        }
        _ => of_status(status),
    };
    Some((answer, taken))
}

fn of_status(status: u16) -> Answer {
    if matches!(status, 429 | 503) { Answer::Refused } else { Answer::Failed(status) }
}

/// Status, body and length of the first HTTP answer of `bytes`; `None` while it is not whole.
fn split_http(bytes: &[u8]) -> Option<(u16, &[u8], usize)> {
    let head_end = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = bytes.get(..head_end)?;
    let status = number(head.get(9..12)?)? as u16;
    let length =
        find_length(head).and_then(|at| head.get(at + 16..)).and_then(number).unwrap_or(0) as usize;
    let body = bytes.get(head_end..head_end + length)?;
    Some((status, body, head_end + length))
}

/// Where `Content-Length: ` stands, in either of the usual spellings.
fn find_length(head: &[u8]) -> Option<usize> {
    memmem::find(head, b"Content-Length: ").or_else(|| memmem::find(head, b"content-length: "))
}

/// The number at the start of `text`.
fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    str::from_utf8(text.get(..digits)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_when_they_are_whole() {
        let body = r#"{"success":true,"data":{"id":"x","offset":42,"epoch":"e"}}"#;
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        for cut in 0..text.len() {
            assert_eq!(parse_http(&text.as_bytes()[..cut]), None);
        }
        assert_eq!(parse_http(text.as_bytes()), Some((Answer::Published(42), text.len())));
        let full = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parse_http(full.as_bytes()), Some((Answer::Refused, full.len())));
        let wrong = "HTTP/1.1 401 Unauthorized\r\n\r\n";
        assert_eq!(parse_http(wrong.as_bytes()), Some((Answer::Failed(401), wrong.len())));
    }
}
