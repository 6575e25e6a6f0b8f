//! Any text as a slug, an epoch, a percent-encoded part of an address or a query: what is accepted
//! is in range, and the way back leads to the same text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pushflo_protocol::http::{Progress, RequestReader, percent_decode};
use pushflo_protocol::json::push_string;
use pushflo_protocol::limits::SLUG_BYTES_MAX;
use pushflo_protocol::{ChannelSlug, Epoch};

fn percent_encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fuzz_target!(|text: &str| {
    let valid = (1..=SLUG_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:@=,;".contains(&b))
        // HTTP clients take these out of an address.
        && !matches!(text, "." | "..");
    match ChannelSlug::parse(text) {
        Ok(slug) => assert!(valid && slug.as_str() == text && slug.to_string() == text),
        Err(error) => assert!(!valid && !error.to_string().is_empty()),
    }
    if let Some(epoch) = Epoch::parse(text) {
        assert_eq!(epoch.to_string(), text);
    }
    let number = text.bytes().fold(0u64, |n, byte| n.wrapping_mul(131).wrapping_add(u64::from(byte)));
    assert_eq!(Epoch::parse(&Epoch(number).to_string()), Some(Epoch(number)));
    let mut json = Vec::new();
    push_string(&mut json, text);
    assert_eq!(serde_json::from_slice::<String>(&json).expect("JSON"), text);
    // Decoding never fails, and undoes encoding.
    let _ = percent_decode(text);
    assert_eq!(percent_decode(&percent_encode(text)), text);
    let encoded = percent_encode(text);
    if encoded.len() > 8_000 {
        return;
    }
    let head = format!("GET /ws?a=b&token={encoded}&token=c HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut reader = RequestReader::default();
    let Ok(Progress::Request(request, _)) = reader.read(head.as_bytes(), |_, _| Ok(0)) else {
        panic!("not read");
    };
    assert_eq!(request.query_parameter("token").as_deref(), Some(text));
});
