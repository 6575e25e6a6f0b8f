//! Any text as a command: what is accepted is what serde_json reads in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pushflo_protocol::ChannelSlug;
use pushflo_protocol::dialect::pushflo::{Command, RefusedCommand};
use pushflo_protocol::position::Start;
use serde_json::Value;

fuzz_target!(|text: &str| {
    let command = match Command::parse(text, 1_000) {
        Ok(command) => command,
        Err(RefusedCommand { refusal, channel, .. }) => {
            assert!(!refusal.message.is_empty());
            assert!(matches!(refusal.code.status(), 400 | 413));
            assert!(serde_json::from_str::<Value>(&refusal.to_json()).is_ok());
            assert!(channel.is_none_or(|channel| text.contains("channel") || text.contains('\\') || channel.as_str().is_empty()));
            return;
        }
    };
    // Past its limit on nesting the model gives up; such text may still be a command.
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        assert!(text.matches(['[', '{']).count() > 100, "{text:?} is no JSON");
        return;
    };
    // Commands may also come as an array of fields' values in order; the model reads objects.
    let Some(object) = value.as_object() else { panic!("{text:?} is no object") };
    let is = |slug: &ChannelSlug| object.get("channel").and_then(Value::as_str) == Some(slug.as_str());
    let kind = object.get("type").and_then(Value::as_str);
    match command {
        Command::Ping => assert_eq!(kind, Some("ping")),
        Command::Ack => assert_eq!(kind, Some("ack")),
        Command::Unsubscribe { channel } => assert!(kind == Some("unsubscribe") && is(&channel)),
        Command::Refresh { token } => {
            assert_eq!(kind, Some("refresh"));
            assert_eq!(object.get("token").and_then(Value::as_str), Some(&*token));
        }
        Command::Publish { publish, reference } => {
            assert!(kind == Some("publish") && is(&publish.channel));
            assert_eq!(object.get("ref").and_then(Value::as_str), reference.as_deref());
            assert!(publish.content.len() <= 1_000 && text.contains(publish.content));
        }
        Command::Subscribe { channel, start, presence } => {
            assert!(kind == Some("subscribe") && is(&channel));
            assert_eq!(object.get("presence").and_then(Value::as_bool).unwrap_or(false), presence);
            // A whole number may be written as a fraction.
            let whole = |v: &Value| v.as_u64().or_else(|| v.as_f64().map(|number| number as u64));
            let at = |pointer: &str| value.pointer(pointer).and_then(whole);
            match start {
                Start::Live | Start::Recover(None) => {}
                Start::Recover(Some(position)) => {
                    assert_eq!(at("/recover/offset"), Some(position.offset.0));
                    let epoch = value.pointer("/recover/epoch").and_then(Value::as_str);
                    assert_eq!(epoch, Some(position.epoch.to_string().as_str()));
                }
                Start::Since(since) => assert_eq!(at("/replay/since"), Some(since)),
                Start::Last(last) => assert_eq!(at("/replay/last"), Some(last)),
            }
        }
    }
});
