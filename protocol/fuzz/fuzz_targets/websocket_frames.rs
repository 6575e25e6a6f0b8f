//! Any bytes as frames: the same in one piece as in any pieces, and never more held than allowed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pushflo_protocol::limits::{PAYLOAD_BYTES_MAX, client_message_bytes_max};
use pushflo_protocol::websocket::{MessageReader, Received};

const MESSAGE_BYTES_MAX: usize = client_message_bytes_max(PAYLOAD_BYTES_MAX);

/// Reads as the server does: what is left of a read is put before the next.
fn read(pieces: &[&[u8]]) -> Vec<String> {
    let (mut reader, mut held, mut out) = (MessageReader::default(), Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match reader.read(&mut held[at..], MESSAGE_BYTES_MAX) {
                Ok(None) => break,
                Ok(Some((bytes, received))) => {
                    assert!(bytes >= 6, "a masked frame has at least 6 bytes");
                    if let Received::Text(text) = &received {
                        assert!(text.len() <= MESSAGE_BYTES_MAX);
                    }
                    out.push(format!("{received:?}"));
                    at += bytes;
                    if matches!(received, Received::Close { .. }) {
                        return out;
                    }
                }
                Err(error) => {
                    assert!(!error.reason.is_empty() && error.reason.len() <= 123);
                    out.push(format!("{:?}", error.code));
                    return out;
                }
            }
        }
        held.drain(..at);
    }
    out
}

fuzz_target!(|input: (usize, &[u8])| {
    let (seed, bytes) = input;
    let whole = read(&[bytes]);
    let one_by_one: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(whole, read(&one_by_one));
    let (first, second) = bytes.split_at(seed % (bytes.len() + 1));
    assert_eq!(whole, read(&[first, second]));
});
