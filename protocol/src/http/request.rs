//! An incremental reader of HTTP/1.1 requests.
//!
//! The caller keeps the bytes; the reader remembers how far it looked, so that bytes which come one
//! by one cost one look each. Where two readings of a request are possible (RFC 9112 section 6.3,
//! request smuggling), it is refused and the connection ends.

use std::borrow::Cow;

use crate::error::{ErrorCode, Refusal};
use crate::limits::{
    CHUNK_LINE_BYTES_MAX, HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX, TRAILER_BYTES_MAX,
};

/// Reads the requests of one connection, one after the other.
#[derive(Debug, Default)]
pub struct RequestReader {
    state: State,
    /// Bytes of the buffer that were already searched for the end of the head.
    searched: usize,
    /// `Expect: 100-continue` was seen and not yet answered.
    continue_wanted: bool,
}

/// What the bytes so far amount to.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one call; a box would cost an allocation per request"
)]
pub enum Progress<'a> {
    /// Not a whole request yet.
    More {
        /// The client waits for [`super::CONTINUE`] before it sends the body. Said once.
        send_continue: bool,
    },
    /// A whole request, which took so many bytes of the buffer.
    Request(Request<'a>, usize),
}

/// One request. Header names compare without case; values are raw bytes.
#[derive(Debug)]
pub struct Request<'a> {
    /// The method as sent.
    pub method: &'a str,
    /// The path of the target, without the query.
    pub path: &'a str,
    /// The query without `?`, empty where there is none. It may carry keys: never log it.
    pub query: &'a str,
    /// HTTP/1.0 rather than 1.1.
    pub http_10: bool,
    /// The body, chunks joined.
    pub body: Cow<'a, [u8]>,
    fields: [httparse::Header<'a>; HTTP_HEADERS_MAX],
    field_count: usize,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Head,
    Length {
        head_bytes: usize,
        body_bytes: usize,
    },
    Chunked {
        head_bytes: usize,
        position: usize,
        body: Vec<u8>,
        body_bytes_max: usize,
        trailers: bool,
    },
}

impl RequestReader {
    /// Looks at `buffer`, which holds everything since the last request. Once a request was
    /// returned, the next call starts anew after the bytes it took. Of a request that comes with a body,
    /// `admit` is shown the head as soon as that is there, once, with the bytes of the body if it tells
    /// them, and says how many it may have, or that none of it is wanted.
    ///
    /// # Errors
    /// The refusal to answer with, also that of `admit`; no further request can be read from this
    /// connection.
    pub fn read<'a>(
        &mut self,
        buffer: &'a [u8],
        admit: impl FnOnce(&Request<'_>, Option<u64>) -> Result<usize, Refusal>,
    ) -> Result<Progress<'a>, Refusal> {
        if matches!(self.state, State::Head) && !self.read_head(buffer, admit)? {
            return Ok(Progress::More { send_continue: false });
        }
        let (head_bytes, body, end) = match &mut self.state {
            State::Head => return Ok(Progress::More { send_continue: false }),
            State::Length { head_bytes, body_bytes } => {
                let end = *head_bytes + *body_bytes;
                match buffer.get(*head_bytes..end) {
                    Some(body) => (*head_bytes, Cow::Borrowed(body), end),
                    None => return Ok(self.more()),
                }
            }
            State::Chunked { head_bytes, position, body, body_bytes_max, trailers } => {
                if !read_chunks(buffer, position, body, trailers, *body_bytes_max)? {
                    return Ok(self.more());
                }
                (*head_bytes, Cow::Owned(std::mem::take(body)), *position)
            }
        };
        *self = Self::default();
        let mut request = parse_head(buffer.get(..head_bytes).unwrap_or_default())?;
        request.body = body;
        Ok(Progress::Request(request, end))
    }

    /// Bytes it keeps in memory: those of a body that comes in chunks.
    pub fn kept_bytes(&self) -> usize {
        match &self.state {
            State::Chunked { body, .. } => body.capacity(),
            State::Head | State::Length { .. } => 0,
        }
    }

    /// Whether the client is in the middle of a request.
    pub fn is_reading_body(&self) -> bool {
        !matches!(self.state, State::Head)
    }

    fn more(&mut self) -> Progress<'static> {
        Progress::More { send_continue: std::mem::take(&mut self.continue_wanted) }
    }

    /// Whether the head is there; then the state tells how the body is framed.
    fn read_head(
        &mut self,
        buffer: &[u8],
        admit: impl FnOnce(&Request<'_>, Option<u64>) -> Result<usize, Refusal>,
    ) -> Result<bool, Refusal> {
        if let Some(&first) = buffer.first() {
            check_first_byte(first)?;
        }
        let Some(head_bytes) = self.find_head_end(buffer) else {
            if buffer.len() > HTTP_HEAD_BYTES_MAX {
                return Err(head_too_large());
            }
            return Ok(false);
        };
        if head_bytes > HTTP_HEAD_BYTES_MAX {
            return Err(head_too_large());
        }
        let request = parse_head(buffer.get(..head_bytes).unwrap_or_default())?;
        self.state = match framing(&request)? {
            Framing::Length(0) => State::Length { head_bytes, body_bytes: 0 },
            Framing::Length(length) => {
                let body_bytes_max = admit(&request, Some(length))?;
                if length > body_bytes_max as u64 {
                    return Err(body_too_large(body_bytes_max));
                }
                State::Length { head_bytes, body_bytes: length as usize }
            }
            Framing::Chunked => State::Chunked {
                head_bytes,
                position: head_bytes,
                body: Vec::new(),
                body_bytes_max: admit(&request, None)?,
                trailers: false,
            },
        };
        // Any other expectation is ignored, as RFC 9110 section 10.1.1 allows.
        self.continue_wanted =
            !request.http_10 && request.header_has_token("expect", "100-continue");
        Ok(true)
    }

    fn find_head_end(&mut self, buffer: &[u8]) -> Option<usize> {
        let blank = buffer.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        let from = self.searched.saturating_sub(2).max(blank);
        self.searched = buffer.len();
        let rest = buffer.get(from..)?;
        let mut at = 0;
        while let Some(newline) = rest.get(at..)?.iter().position(|&b| b == b'\n') {
            at += newline + 1;
            let after = rest.get(at..).unwrap_or_default();
            if after.starts_with(b"\n") {
                return Some(from + at + 1);
            }
            if after.starts_with(b"\r\n") {
                return Some(from + at + 2);
            }
        }
        None
    }
}

impl<'a> Request<'a> {
    /// The first value of a header field.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers(name).next()
    }

    /// All values of a header field.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let fields = self.fields.get(..self.field_count).unwrap_or_default();
        fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|f| f.value)
    }

    /// Whether a comma-separated header field lists `token`, without case.
    pub fn header_has_token(&self, name: &str, token: &str) -> bool {
        self.headers(name)
            .flat_map(|value| value.split(|&b| b == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Whether the client wants the connection to go on (RFC 9112 section 9.3).
    pub fn keep_alive(&self) -> bool {
        if self.http_10 {
            return self.header_has_token("connection", "keep-alive");
        }
        !self.header_has_token("connection", "close")
    }

    /// The first value of a query parameter, percent-decoded where that gives UTF-8.
    pub fn query_parameter(&self, name: &str) -> Option<Cow<'a, str>> {
        let pairs = self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| percent_decode(value))
    }
}

enum Framing {
    Length(u64),
    Chunked,
}

/// How the body is framed, RFC 9112 section 6.3.
fn framing(request: &Request<'_>) -> Result<Framing, Refusal> {
    let mut codings = request.headers("transfer-encoding");
    let mut lengths = request.headers("content-length");
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(Framing::Length(0)),
        (Some(_), Some(_)) => {
            Err(invalid("Content-Length and Transfer-Encoding exclude each other"))
        }
        (Some(coding), None) => {
            let chunked = coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
            if !chunked || codings.next().is_some() || request.http_10 {
                return Err(invalid("the only Transfer-Encoding that is understood is chunked"));
            }
            Ok(Framing::Chunked)
        }
        (None, Some(length)) => {
            let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let value = str::from_utf8(length).ok().filter(|_| digits).and_then(|t| t.parse().ok());
            match (value, lengths.next()) {
                (Some(value), None) => Ok(Framing::Length(value)),
                (None, _) => Err(invalid("Content-Length must be a number")),
                (_, Some(_)) => Err(invalid("there must be at most one Content-Length")),
            }
        }
    }
}

fn parse_head(head: &[u8]) -> Result<Request<'_>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(bytes)) if bytes == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(too_many_fields()),
        Err(error) => return Err(invalid(format!("this is not an HTTP/1.1 request: {error}"))),
        Ok(_) => return Err(invalid("this is not an HTTP/1.1 request")),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(invalid("this is not an HTTP/1.1 request"));
    };
    let field_count = parsed.headers.len();
    // RFC 9112 section 3.2.2: a target in absolute form must be understood.
    let origin_form = match target.find("://") {
        Some(scheme) if !target.starts_with('/') => {
            let authority = target.get(scheme + 3..).unwrap_or_default();
            authority.find('/').and_then(|slash| authority.get(slash..)).unwrap_or("/")
        }
        _ => target,
    };
    let (path, query) = origin_form.split_once('?').unwrap_or((origin_form, ""));
    let http_10 = version == 0;
    let request =
        Request { method, path, query, http_10, body: Cow::Borrowed(&[]), fields, field_count };
    let hosts = request.headers("host").count();
    if hosts > 1 || (hosts == 0 && !http_10) {
        return Err(invalid("there must be exactly one Host header"));
    }
    Ok(request)
}

/// Moves `position` over the chunks that are whole, and says whether the last one was among them.
fn read_chunks(
    buffer: &[u8],
    position: &mut usize,
    body: &mut Vec<u8>,
    trailers: &mut bool,
    body_bytes_max: usize,
) -> Result<bool, Refusal> {
    loop {
        let rest = buffer.get(*position..).unwrap_or_default();
        let line_bytes_max = if *trailers { TRAILER_BYTES_MAX } else { CHUNK_LINE_BYTES_MAX };
        let Some(newline) = rest.iter().take(line_bytes_max).position(|&b| b == b'\n') else {
            if rest.len() >= line_bytes_max {
                return Err(invalid("a line of the chunked body is too long"));
            }
            return Ok(false);
        };
        let line = rest.get(..newline).unwrap_or_default();
        let Some(line) = line.strip_suffix(b"\r") else {
            return Err(invalid("lines of a chunked body end in CR LF"));
        };
        if *trailers {
            *position += newline + 1;
            if line.is_empty() {
                return Ok(true);
            }
            // Trailer fields are dropped; many small ones must not keep the connection busy.
            if *position > HTTP_HEAD_BYTES_MAX + 2 * body_bytes_max + TRAILER_BYTES_MAX {
                return Err(head_too_large());
            }
            continue;
        }
        let size = chunk_size(line)?;
        if size > body_bytes_max.saturating_sub(body.len()) {
            return Err(body_too_large(body_bytes_max));
        }
        // A body in chunks of a few bytes costs more framing than content; both are bounded.
        if *position > HTTP_HEAD_BYTES_MAX + 2 * body_bytes_max + TRAILER_BYTES_MAX {
            return Err(body_too_large(body_bytes_max));
        }
        if size == 0 {
            *trailers = true;
            *position += newline + 1;
            continue;
        }
        let Some(chunk) = rest.get(newline + 1..newline + 1 + size + 2) else { return Ok(false) };
        let Some(content) = chunk.strip_suffix(b"\r\n") else {
            return Err(invalid("a chunk does not end where its size says"));
        };
        body.extend_from_slice(content);
        *position += newline + 1 + size + 2;
    }
}

fn chunk_size(line: &[u8]) -> Result<usize, Refusal> {
    let digits = line.split(|&b| b == b';').next().unwrap_or_default();
    let digits = digits.trim_ascii_end();
    let valid = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = str::from_utf8(digits).ok().filter(|_| valid);
    text.and_then(|text| usize::from_str_radix(text, 16).ok())
        .ok_or_else(|| invalid("a chunk size must be 1 to 8 hexadecimal digits"))
}

/// Decodes `%XX` (RFC 3986 section 2.1) where that gives UTF-8; `+` stays, since keys and tokens may
/// hold it.
pub fn percent_decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        // The number's own parser would take a sign as well.
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                out.push(decoded);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(text), Cow::Owned)
}

fn invalid(message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(ErrorCode::ValidationError, message)
}

fn head_too_large() -> Refusal {
    let text = format!("the request head is larger than {HTTP_HEAD_BYTES_MAX} bytes");
    Refusal::new(ErrorCode::HeadTooLarge, text)
}

fn too_many_fields() -> Refusal {
    let text = format!("the request has more than {HTTP_HEADERS_MAX} header fields");
    Refusal::new(ErrorCode::HeadTooLarge, text)
}

/// Tells at the first byte who speaks something else, and then perhaps waits for us to speak.
///
/// # Errors
/// No request begins so: with a line end that a client sends too many (RFC 9112 section 2.2), or with
/// the first character of a method (RFC 9110 section 5.6.2).
fn check_first_byte(first: u8) -> Result<(), Refusal> {
    match first {
        TLS_HANDSHAKE => Err(invalid(
            "this port speaks plain HTTP, and this is TLS: use http:// and ws://, or a proxy with TLS",
        )),
        b'\r' | b'\n' => Ok(()),
        first if first.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&first) => Ok(()),
        _ => Err(invalid("this is not an HTTP/1.1 request")),
    }
}

/// The type of the record with which a TLS client begins (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

fn body_too_large(body_bytes_max: usize) -> Refusal {
    let text = format!("the body is larger than the {body_bytes_max} bytes that are allowed");
    Refusal::new(ErrorCode::PayloadTooLarge, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in pieces of `step` and returns method, path and body of each request.
    fn read_all(bytes: &[u8], step: usize) -> Result<Vec<(String, String, Vec<u8>)>, Refusal> {
        let (mut reader, mut buffer, mut out) = (RequestReader::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Progress::Request(request, taken) = reader.read(&buffer, |_, _| Ok(100))? {
                out.push((request.method.into(), request.path.into(), request.body.to_vec()));
                buffer.drain(..taken);
            }
        }
        assert!(buffer.is_empty(), "left over: {:?}", String::from_utf8_lossy(&buffer));
        Ok(out)
    }

    const PIPELINED: &[u8] = b"POST /a?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello\
        GET /b HTTP/1.1\r\nhost: h\r\n\r\n\r\n\
        POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
        3;ext=1\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nTrailer: x\r\n\r\n\
        GET http://h/d HTTP/1.1\r\nHost: h\r\n\r\n";

    #[test]
    fn pipelined_requests_in_all_splits() {
        for step in 1..PIPELINED.len() {
            let got = read_all(PIPELINED, step).unwrap();
            let paths: Vec<_> = got.iter().map(|(_, path, _)| path.as_str()).collect();
            assert_eq!(paths, ["/a", "/b", "/c", "/d"], "step {step}");
            assert_eq!(got[0].2, b"hello");
            assert_eq!(got[2].2, b"abc0123456789abcdef");
        }
    }

    #[test]
    fn ambiguous_and_broken_requests_are_refused() {
        let status = |request: &str| read_all(request.as_bytes(), 1).unwrap_err().code.status();
        let post = |rest: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{rest}");
        assert_eq!(status(&post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")), 400);
        assert_eq!(status(&post("Content-Length: 1\r\nContent-Length: 1\r\n\r\n")), 400);
        assert_eq!(status(&post("Content-Length: +1\r\n\r\n")), 400);
        assert_eq!(status(&post("Content-Length: 101\r\n\r\n")), 413);
        assert_eq!(status(&post("Content-Length: 99999999999999999999\r\n\r\n")), 400);
        assert_eq!(status(&post("Transfer-Encoding: gzip\r\n\r\n")), 400);
        for size in ["x", "-1", "", "0x1", "fffffffff", "1 1"] {
            assert_eq!(
                status(&post(&format!("Transfer-Encoding: chunked\r\n\r\n{size}\r\n"))),
                400
            );
        }
        assert_eq!(status(&post("Transfer-Encoding: chunked\r\n\r\nff\r\n")), 413);
        assert_eq!(status(&post("Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n")), 400);
        assert_eq!(status("GARBAGE\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status(&post("A : b\r\n\r\n")), 400);
        assert_eq!(status(&post(&format!("{}\r\n", "A: b\r\n".repeat(100)))), 431);
        assert_eq!(status(&post(&format!("A: {}", "b".repeat(20_000)))), 431);
        // One of them is the host.
        assert!(read_all(post(&format!("{}\r\n", "A: b\r\n".repeat(99))).as_bytes(), 1).is_ok());
    }

    #[test]
    fn another_protocol_is_told_at_its_first_byte() {
        let refused = |bytes: &[u8]| {
            let mut reader = RequestReader::default();
            reader.read(bytes, |_, _| Ok(9)).unwrap_err().message.into_owned()
        };
        assert!(refused(b"\x16").contains("plain HTTP"));
        for byte in [0, b' ', b'{', b'"', 0x80, 0xff] {
            assert!(refused(&[byte]).contains("not an HTTP/1.1 request"), "{byte}");
        }
        assert!(read_all(b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 1).is_ok());
    }

    #[test]
    fn continue_is_asked_for_once() {
        let head =
            b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        let mut reader = RequestReader::default();
        assert!(matches!(
            reader.read(head, |_, _| Ok(9)),
            Ok(Progress::More { send_continue: true })
        ));
        assert!(matches!(
            reader.read(head, |_, _| Ok(9)),
            Ok(Progress::More { send_continue: false })
        ));
    }

    #[test]
    fn query_parameters_are_decoded() {
        let head = b"GET /ws?token=a%20b+c&x HTTP/1.1\r\nHost: h\r\n\r\n";
        let mut reader = RequestReader::default();
        let Ok(Progress::Request(request, _)) = reader.read(head, |_, _| Ok(9)) else { panic!() };
        assert_eq!(request.query_parameter("token").as_deref(), Some("a b+c"));
        assert_eq!(request.query_parameter("x").as_deref(), Some(""));
        assert_eq!(request.query_parameter("y"), None);
        for whole in ["%", "%4", "%+f", "%-1", "%ff", "%zz"] {
            assert_eq!(percent_decode(whole), whole);
        }
    }
}
