//! Bodies that a model client sends with a length or in chunks come out as they went in, and the
//! request behind them is found.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pushflo_protocol::http::{Progress, RequestReader};

#[derive(Arbitrary, Debug)]
struct Input {
    body: Vec<u8>,
    /// Chunk sizes; a body with a length where there are none.
    chunks: Option<Vec<u8>>,
    extension: bool,
    trailer: bool,
    split: usize,
}

const BODY_BYTES_MAX: usize = 1 << 20;

fuzz_target!(|input: Input| {
    let Input { body, chunks, extension, trailer, split } = input;
    let mut bytes = b"POST /a HTTP/1.1\r\nHost: h\r\n".to_vec();
    match &chunks {
        None => {
            bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
            bytes.extend(&body);
        }
        Some(sizes) => {
            bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            let (mut rest, mut sizes) = (body.as_slice(), sizes.iter());
            while !rest.is_empty() {
                let size = sizes.next().map_or(rest.len(), |size| usize::from(*size).max(1));
                let (chunk, after) = rest.split_at(size.min(rest.len()));
                let extension = if extension { ";a=b" } else { "" };
                bytes.extend(format!("{:x}{extension}\r\n", chunk.len()).into_bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
                rest = after;
            }
            bytes.extend(b"0\r\n");
            if trailer {
                bytes.extend(b"T: x\r\n");
            }
            bytes.extend(b"\r\n");
        }
    }
    let request_bytes = bytes.len();
    bytes.extend(b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut reader = RequestReader::default();
    let first = split % request_bytes;
    assert!(matches!(reader.read(&bytes[..first], |_, _| Ok(BODY_BYTES_MAX)), Ok(Progress::More { .. })));
    let Ok(Progress::Request(request, taken)) = reader.read(&bytes, |_, _| Ok(BODY_BYTES_MAX)) else {
        panic!("not read");
    };
    assert_eq!((request.path, &*request.body, taken), ("/a", body.as_slice(), request_bytes));
    let Ok(Progress::Request(request, _)) = reader.read(&bytes[taken..], |_, _| Ok(BODY_BYTES_MAX)) else {
        panic!("the second is not read");
    };
    assert_eq!(request.path, "/b");
});
