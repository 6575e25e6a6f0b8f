//! Any bytes as requests: the same in one piece as in any pieces, within the limits, and as
//! httparse reads the head.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pushflo_protocol::http::{Progress, RequestReader};
use pushflo_protocol::limits::{HTTP_HEAD_BYTES_MAX, TRAILER_BYTES_MAX};

const BODY_BYTES_MAX: usize = 300;

/// Reads as the server does: what is left of a read is put before the next.
fn read(pieces: &[&[u8]]) -> (Vec<String>, usize) {
    let (mut reader, mut held, mut out) = (RequestReader::default(), Vec::new(), Vec::new());
    let mut taken_in_all = 0;
    for piece in pieces {
        held.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match reader.read(&held[at..], |_, _| Ok(BODY_BYTES_MAX)) {
                Ok(Progress::More { .. }) => {
                    let held = held.len() - at;
                    let most = HTTP_HEAD_BYTES_MAX + 2 * BODY_BYTES_MAX + 2 * TRAILER_BYTES_MAX;
                    assert!(held <= most.max(piece.len()) + piece.len(), "{held} bytes are held");
                    break;
                }
                Ok(Progress::Request(request, taken)) => {
                    assert!(request.body.len() <= BODY_BYTES_MAX);
                    assert!(taken > 0 && taken <= held.len() - at);
                    assert_eq!(request.headers("host").count(), usize::from(!request.http_10 || request.header("host").is_some()));
                    let mut fields = [httparse::EMPTY_HEADER; 64];
                    let mut model = httparse::Request::new(&mut fields);
                    let blank = held[at..].iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
                    assert!(model.parse(&held[at + blank..]).expect("httparse reads it").is_complete());
                    assert_eq!(model.method, Some(request.method));
                    assert!(model.path.expect("a target").contains(request.path) || request.path == "/");
                    out.push(format!(
                        "{} {} {} {:?} {}",
                        request.method, request.path, request.query, request.body, request.keep_alive()
                    ));
                    at += taken;
                }
                Err(refusal) => {
                    assert!(!refusal.message.is_empty());
                    assert!(matches!(refusal.code.status(), 400 | 413 | 431));
                    out.push(refusal.code.as_str().to_owned());
                    return (out, taken_in_all + at);
                }
            }
        }
        taken_in_all += at;
        held.drain(..at);
    }
    (out, taken_in_all)
}

fuzz_target!(|input: (usize, &[u8])| {
    let (seed, bytes) = input;
    let whole = read(&[bytes]);
    let (first, second) = bytes.split_at(seed % (bytes.len() + 1));
    let both = read(&[first, second]);
    // In pieces an error may come before the bytes that would have made another error of it.
    let errors = |out: &[String]| out.last().is_some_and(|last| !last.contains(' '));
    if errors(&whole.0) || errors(&both.0) {
        assert_eq!(errors(&whole.0), errors(&both.0), "{:?} {:?}", whole.0, both.0);
        assert_eq!(whole.0[..whole.0.len() - 1], both.0[..both.0.len() - 1]);
    } else {
        assert_eq!(whole, both);
    }
    if bytes.len() < 600 {
        let one_by_one: Vec<&[u8]> = bytes.chunks(1).collect();
        let pieces = read(&one_by_one);
        assert_eq!(errors(&whole.0), errors(&pieces.0), "{:?} {:?}", whole.0, pieces.0);
        if !errors(&whole.0) {
            assert_eq!(whole, pieces);
        }
    }
});
