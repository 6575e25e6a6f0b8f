//! Answers, one buffer each: head and body together, so that one write carries them.

use std::io::Write as _;

/// The interim answer to `Expect: 100-continue` (RFC 9110 section 10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// An answer being put together.
#[derive(Debug)]
pub struct Response<'a> {
    /// The status code.
    pub status: u16,
    /// The media type of the body; none for an empty one.
    pub content_type: Option<&'a str>,
    /// Further header fields, each `Name: value` without line end.
    pub headers: &'a [&'a str],
    /// What follows the head; empty for none.
    pub body: &'a [u8],
    /// Whether the connection goes on after this answer.
    pub keep_alive: bool,
    /// Whether the request was HEAD: the length is told, the body is not sent.
    pub head_only: bool,
}

impl Response<'_> {
    /// Appends the answer; `date` is the value of [`date`] for now.
    pub fn encode(&self, date: &str, out: &mut Vec<u8>) {
        out.reserve(HEAD_BYTES_HINT + self.body.len());
        let _ = write!(out, "HTTP/1.1 {} {}\r\nDate: {date}\r\n", self.status, reason(self.status));
        if let Some(content_type) = self.content_type {
            let _ = write!(out, "Content-Type: {content_type}\r\n");
        }
        // RFC 9110 section 8.6: none in a 1xx or a 204.
        if self.status >= 200 && self.status != 204 {
            let _ = write!(out, "Content-Length: {}\r\n", self.body.len());
        }
        for header in self.headers {
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if !self.keep_alive && self.status != 101 {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !self.head_only {
            out.extend_from_slice(self.body);
        }
    }
}

/// The `Date` header's value (RFC 9110 section 5.6.7), for a second of Unix time.
pub fn date(unix_seconds: u64) -> String {
    let seconds = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    let timestamp = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    timestamp.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

const HEAD_BYTES_HINT: usize = 256;

fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_imf_fixdates() {
        assert_eq!(super::date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
