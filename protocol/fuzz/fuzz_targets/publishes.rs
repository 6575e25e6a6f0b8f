//! Any bytes as a publish: what is accepted is valid, comes through byte for byte, and makes a
//! frame and a history item that are JSON with the same fields.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pushflo_protocol::answer::{HistoryItem, success};
use pushflo_protocol::dialect::Encoding;
use pushflo_protocol::json::depth;
use pushflo_protocol::limits::{
    BATCH_MESSAGES_MAX, CLIENT_ID_BYTES_MAX, EVENT_TYPE_BYTES_MAX, JSON_DEPTH_MAX,
};
use pushflo_protocol::publish::Publish;
use pushflo_protocol::{ChannelSlug, MessageId, Offset, Record};
use serde_json::Value;

const PAYLOAD_BYTES_MAX: usize = 2_000;

fn value_depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(value_depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(value_depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn check(body: &[u8], publish: &Publish<'_>) {
    assert!(publish.content.len() <= PAYLOAD_BYTES_MAX);
    assert!((1..=EVENT_TYPE_BYTES_MAX).contains(&publish.event_type.len()));
    assert!(publish.client_id.as_ref().is_none_or(|id| id.len() <= CLIENT_ID_BYTES_MAX));
    // Another line of a batch may be no UTF-8.
    let text = String::from_utf8_lossy(body);
    assert!(text.contains(publish.content), "the content stands in the body");
    let content = serde_json::from_str::<Value>(publish.content);
    if let Ok(content) = &content {
        assert_eq!(depth(publish.content), value_depth(content));
    }
    assert!(depth(publish.content) <= JSON_DEPTH_MAX);
    let record = Record {
        id: MessageId::new(7, 9),
        offset: Offset(5),
        prev: Offset(3),
        timestamp_ms: 1_700_000_000_000,
        parts: publish.parts(publish.client_id.as_deref()),
    };
    let mut frame = Vec::new();
    Encoding::PushFlo.push_record(&publish.channel, &record, &mut frame);
    let payload = match frame[1] {
        length @ 0..=125 => {
            assert_eq!(frame.len(), 2 + usize::from(length));
            &frame[2..]
        }
        126 => {
            assert_eq!(frame.len(), 4 + usize::from(u16::from_be_bytes([frame[2], frame[3]])));
            &frame[4..]
        }
        _ => panic!("a giant frame"),
    };
    assert_eq!(frame[0], 0x81);
    let item = success(HistoryItem::new(&publish.channel, &record));
    let item = item.strip_prefix(br#"{"success":true,"data":"#).and_then(|s| s.strip_suffix(b"}"));
    for (json, field) in [(payload, "data"), (item.expect("the envelope"), "content")] {
        let text = str::from_utf8(json).expect("UTF-8");
        assert!(text.contains(&format!("\"{field}\":{}", publish.content)));
        // The model gives up past its limit on nesting, and on numbers and half pairs of
        // surrogates it cannot hold; the content alone tells whether it would.
        if content.is_err() || depth(publish.content) > 100 {
            continue;
        }
        let value: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(value["channel"], publish.channel.as_str());
        assert_eq!(value["eventType"], *publish.event_type);
        assert_eq!(value["clientId"].as_str(), publish.client_id.as_deref());
        assert_eq!(value["offset"], 5);
        assert_eq!(Some(&value[field]), content.as_ref().ok());
    }
}

fuzz_target!(|body: &[u8]| {
    let channel = ChannelSlug::parse("c").expect("a slug");
    let alone = Publish::parse(body, PAYLOAD_BYTES_MAX);
    let mut all = vec![Publish::parse_message(channel, body, PAYLOAD_BYTES_MAX)];
    match Publish::parse_batch(body, PAYLOAD_BYTES_MAX) {
        Ok(messages) => {
            assert!((1..=BATCH_MESSAGES_MAX).contains(&messages.len()));
            // One that stands alone is a batch of one, and the same message.
            if let Ok(alone) = &alone {
                let first = messages.first().and_then(|message| message.as_ref().ok());
                assert!(messages.len() != 1 || first.is_none_or(|first| first == alone));
            }
            all.extend(messages);
        }
        Err(refusal) => all.push(Err(refusal)),
    }
    all.push(alone);
    for publish in all {
        match publish {
            Ok(publish) => check(body, &publish),
            Err(refusal) => {
                assert!(!refusal.message.is_empty());
                assert!(matches!(refusal.code.status(), 400 | 413));
            }
        }
    }
});
