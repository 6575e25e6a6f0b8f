//! `message`: what a subscriber is sent.

use std::io::Write as _;

use crate::channel::ChannelSlug;
use crate::json::push_string;
use crate::record::Record;
use crate::websocket::push_text_frame;

/// Room for all of a message but its parts.
pub(crate) const MESSAGE_BYTES_HINT: usize = 192;

/// Appends the frame of a record.
pub(crate) fn push_message(channel: &ChannelSlug, record: &Record, out: &mut Vec<u8>) {
    push_text_frame(out, |out| {
        // Writing into memory cannot fail.
        let _ = write!(
            out,
            r#"{{"type":"message","channel":"{channel}","messageId":"{}","eventType":"#,
            record.id
        );
        push_string(out, record.parts.event_type());
        out.extend_from_slice(br#","clientId":"#);
        match record.parts.client_id() {
            Some(id) => push_string(out, id),
            None => out.extend_from_slice(b"null"),
        }
        let _ = write!(out, r#","timestamp":{},"offset":{}"#, record.timestamp_ms, record.offset);
        if record.prev.next() != record.offset {
            let _ = write!(out, r#","prev":{}"#, record.prev);
        }
        out.extend_from_slice(br#","data":"#);
        out.extend_from_slice(record.parts.content().as_bytes());
        out.push(b'}');
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Offset;
    use crate::record::{MessageId, Parts};

    #[test]
    fn frames_behind_each_other_carry_their_parts() {
        let channel = ChannelSlug::parse("orders").unwrap();
        let contents = [
            "null".to_owned(),
            r#"{"a": 12345678901234567890}"#.into(),
            format!("\"{}\"", "x".repeat(70_000)),
            "1".into(),
        ];
        let record = |content: &String| Record {
            id: MessageId::new(1_700_000_000_000, 42),
            offset: Offset(7),
            prev: Offset(5),
            timestamp_ms: 1_700_000_000_000,
            parts: Parts::new("new \"order\"", Some("me"), content),
        };
        let mut block = Vec::new();
        for content in &contents {
            push_message(&channel, &record(content), &mut block);
        }
        let mut rest = block.as_slice();
        for content in &contents {
            let (header, length) = match rest[1] {
                126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
                127 => (10, u64::from_be_bytes(rest[2..10].try_into().unwrap()) as usize),
                length => (2, usize::from(length)),
            };
            assert_eq!(rest[0], 0x81);
            let json = &rest[header..header + length];
            assert!(json.ends_with(format!(r#","data":{content}}}"#).as_bytes()));
            let json: serde_json::Value = serde_json::from_slice(json).unwrap();
            assert_eq!(json["eventType"], "new \"order\"");
            assert_eq!((&json["clientId"], &json["prev"]), (&"me".into(), &5.into()));
            rest = &rest[header + length..];
        }
        assert!(rest.is_empty());
    }
}
