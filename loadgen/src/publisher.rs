//! One publishing connection: HTTP/1.1 with keep-alive and pipelining, or what a peer speaks.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use memchr::memmem;

use crate::driver::{Destination, Driver};
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
    pub(crate) fn push(
        &mut self,
        to: &Destination<'_>,
        channel: usize,
        payload_bytes: usize,
        number: u64,
        at_ns: u64,
    ) {
        self.body.clear();
        payload::push(&mut self.body, number, at_ns, payload_bytes);
        self.driver.push_publish(&mut self.out, to, &self.body);
        self.in_flight.push_back(InFlight { channel, number, at_ns });
    }

    /// The first answer of `bytes` and its length; `None` while it is not whole.
    pub(crate) fn parse_answer(&self, bytes: &[u8]) -> Option<(Answer, usize)> {
        match self.driver {
            Driver::Pushflo => parse_http(bytes),
            // Their answers tell no place; the number of the publish is the message's.
            Driver::Plain | Driver::Centrifugo => {
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
    let head_end = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = bytes.get(..head_end)?;
    let status = number(head.get(9..12)?)? as u16;
    let length =
        find_length(head).and_then(|at| head.get(at + 16..)).and_then(number).unwrap_or(0) as usize;
    let body = bytes.get(head_end..head_end + length)?;
    let answer = match status {
        200 => {
            let at = memmem::find(body, br#""offset":"#);
            let offset = at.and_then(|at| body.get(at + 9..)).and_then(number);
            offset.map_or(Answer::Failed(status), Answer::Published)
        }
        503 | 429 => Answer::Refused,
        _ => Answer::Failed(status),
    };
    Some((answer, head_end + length))
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
