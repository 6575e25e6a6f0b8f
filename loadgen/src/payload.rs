//! The content of a message: its number, the time it was meant to be sent at, and filler that can
//! be checked byte by byte.

use std::io::Write as _;

use serde::Deserialize;

/// `{"n":…,"t":…,"pad":""}` with the longest numbers.
pub(crate) const PAYLOAD_BYTES_MIN: usize = 64;

/// The filler.
const PAD: u8 = b'x';

#[derive(Debug, Deserialize)]
pub(crate) struct Payload<'a> {
    /// Counts the publishes of a run.
    #[serde(rename = "n")]
    pub(crate) number: u64,
    /// When it was to be sent, on the generator's clock.
    #[serde(rename = "t")]
    pub(crate) intended_ns: u64,
    pad: &'a str,
}

/// Appends a payload of exactly `bytes`, at least [`PAYLOAD_BYTES_MIN`].
pub(crate) fn push(out: &mut Vec<u8>, number: u64, intended_ns: u64, bytes: usize) {
    let start = out.len();
    // Writing into memory cannot fail.
    let _ = write!(out, r#"{{"n":{number},"t":{intended_ns},"pad":""#);
    out.resize((start + bytes).saturating_sub(2).max(out.len()), PAD);
    out.extend_from_slice(b"\"}");
}

impl Payload<'_> {
    /// Whether it is as it was sent; `text` is all of it.
    pub(crate) fn is_intact(&self, text: &str, bytes: usize) -> bool {
        text.len() == bytes && self.pad.bytes().all(|byte| byte == PAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_their_size_and_tell_damage() {
        for bytes in [PAYLOAD_BYTES_MIN, 200, 10_000] {
            let mut out = Vec::new();
            push(&mut out, u64::MAX, u64::MAX, bytes);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.len(), bytes);
            let payload: Payload<'_> = serde_json::from_str(&text).unwrap();
            assert_eq!((payload.number, payload.intended_ns), (u64::MAX, u64::MAX));
            assert!(payload.is_intact(&text, bytes));
        }
        let text = r#"{"n":1,"t":2,"pad":"xxxyxx"}"#;
        let payload: Payload<'_> = serde_json::from_str(text).unwrap();
        assert!(!payload.is_intact(text, text.len()));
    }
}
