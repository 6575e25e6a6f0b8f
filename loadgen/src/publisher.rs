//! One publishing connection: HTTP/1.1 with keep-alive and pipelining.

use std::collections::VecDeque;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use memchr::memmem;

use crate::payload;

/// A connection that publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) socket: OwnedFd,
    /// The next number at a fixed rate.
    pub(crate) next: u64,
    pub(crate) out: Vec<u8>,
    pub(crate) partial: Vec<u8>,
    /// Channel and intended time of each request without an answer.
    pub(crate) in_flight: VecDeque<(usize, u64)>,
    body: Vec<u8>,
}

/// An answer to a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It got this offset.
    Published(u64),
    /// The server is full for the moment; nothing was accepted.
    Refused,
    /// Anything else, with its status.
    Failed(u16),
}

/// What stands around the contents of a publisher's requests.
pub(crate) struct Request<'a> {
    pub(crate) channel: &'a str,
    pub(crate) host: &'a str,
    pub(crate) key: &'a str,
    pub(crate) payload_bytes: usize,
}

impl Publisher {
    pub(crate) fn new(socket: OwnedFd, next: u64) -> Self {
        let (out, partial, body) = (Vec::new(), Vec::new(), Vec::new());
        Self { socket, next, out, partial, in_flight: VecDeque::new(), body }
    }

    /// Puts one publish into the buffer for sending.
    pub(crate) fn push(&mut self, request: &Request<'_>, channel: usize, number: u64, at_ns: u64) {
        self.body.clear();
        // Writing into memory cannot fail.
        let _ = write!(self.body, r#"{{"channel":"{}","event":"load","data":"#, request.channel);
        payload::push(&mut self.body, number, at_ns, request.payload_bytes);
        self.body.push(b'}');
        let _ = write!(
            self.out,
            "POST /api/v1/publish HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            request.host,
            request.key,
            self.body.len()
        );
        self.out.extend_from_slice(&self.body);
        self.in_flight.push_back((channel, at_ns));
    }
}

/// The first answer of `bytes` and its length; `None` while it is not whole.
pub(crate) fn parse_answer(bytes: &[u8]) -> Option<(Answer, usize)> {
    let head_end = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = bytes.get(..head_end)?;
    let status = number(head.get(9..12)?)? as u16;
    let length = memmem::find(head, b"Content-Length: ")
        .and_then(|at| head.get(at + 16..))
        .and_then(number)
        .unwrap_or(0) as usize;
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
            assert_eq!(parse_answer(&text.as_bytes()[..cut]), None);
        }
        assert_eq!(parse_answer(text.as_bytes()), Some((Answer::Published(42), text.len())));
        let full = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parse_answer(full.as_bytes()), Some((Answer::Refused, full.len())));
        let wrong = "HTTP/1.1 401 Unauthorized\r\n\r\n";
        assert_eq!(parse_answer(wrong.as_bytes()), Some((Answer::Failed(401), wrong.len())));
    }
}
