//! Messages: what one publish makes, encoded once.
//!
//! A [`Message`] is its WebSocket frame plus the places in it of the parts that are asked for
//! again. It never changes, and a clone costs a reference count, so history, mailboxes and
//! subscribers share one allocation.

use std::io::Write as _;
use std::ops::Range;

use bytes::Bytes;
use ulid::Ulid;

use crate::channel::ChannelSlug;
use crate::json::push_string;
use crate::position::Offset;
use crate::time::iso8601;
use crate::websocket::text_frame;

/// A message's identity: a ULID, 26 characters on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId(pub u128);

impl MessageId {
    /// An id from the time it is given at and 80 random bits.
    pub fn new(timestamp_ms: u64, random: u128) -> Self {
        Self(Ulid::from_parts(timestamp_ms, random).0)
    }
}

impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ulid(self.0).fmt(f)
    }
}

/// What a message is made from.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The channel it belongs to.
    pub channel: &'a ChannelSlug,
    /// Its identity.
    pub id: MessageId,
    /// Its place in the channel.
    pub offset: Offset,
    /// The offset before it, only where that is not `offset - 1`.
    pub prev: Option<Offset>,
    /// When it got its offset, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// Its event type.
    pub event_type: &'a str,
    /// Who sent it, if it was said.
    pub client_id: Option<&'a str>,
    /// Its content: valid JSON, copied as it is.
    pub content: &'a str,
}

/// One message of a channel, encoded.
#[derive(Clone, Debug)]
pub struct Message {
    /// The frame that every subscriber gets.
    pub frame: Bytes,
    /// Its identity.
    pub id: MessageId,
    /// Its place in the channel.
    pub offset: Offset,
    /// When it got its offset, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// Where its parts stand in the frame.
    pub layout: Layout,
}

/// Where the parts of a message stand in its frame, in bytes from the frame's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The event type as a JSON string, quotes included.
    pub event_type: Range<u32>,
    /// The client id as a JSON string, or `null`.
    pub client_id: Range<u32>,
    /// The content.
    pub content: Range<u32>,
}

impl Message {
    /// Encodes the message.
    pub fn encode(parts: Parts<'_>) -> Self {
        let mut ranges = [0..0, 0..0, 0..0];
        let mut json_bytes = 0;
        let frame = text_frame(ENVELOPE_BYTES_HINT + parts.content.len(), |out| {
            let start = out.len();
            let mut field = |out: &mut Vec<u8>, index: usize, write: &dyn Fn(&mut Vec<u8>)| {
                let from = out.len() - start;
                write(out);
                if let Some(range) = ranges.get_mut(index) {
                    *range = from as u32..(out.len() - start) as u32;
                }
            };
            let _ = write!(
                out,
                r#"{{"type":"message","channel":"{}","messageId":"{}","eventType":"#,
                parts.channel, parts.id
            );
            field(out, 0, &|out| push_string(out, parts.event_type));
            out.extend_from_slice(br#","clientId":"#);
            field(out, 1, &|out| match parts.client_id {
                Some(id) => push_string(out, id),
                None => out.extend_from_slice(b"null"),
            });
            let _ = write!(out, r#","timestamp":{},"offset":{}"#, parts.timestamp_ms, parts.offset);
            if let Some(prev) = parts.prev {
                let _ = write!(out, r#","prev":{prev}"#);
            }
            out.extend_from_slice(br#","data":"#);
            field(out, 2, &|out| out.extend_from_slice(parts.content.as_bytes()));
            out.push(b'}');
            json_bytes = out.len() - start;
        });
        let header_bytes = (frame.len() - json_bytes) as u32;
        let [event_type, client_id, content] =
            ranges.map(|range| range.start + header_bytes..range.end + header_bytes);
        Self {
            frame,
            id: parts.id,
            offset: parts.offset,
            timestamp_ms: parts.timestamp_ms,
            layout: Layout { event_type, client_id, content },
        }
    }

    /// The event type as a JSON string, quotes included.
    pub fn event_type_json(&self) -> &[u8] {
        self.part(&self.layout.event_type)
    }

    /// The content, byte for byte as it was published.
    pub fn content(&self) -> &[u8] {
        self.part(&self.layout.content)
    }

    /// Appends the message as an item of `GET /api/v1/channels/:slug/messages`.
    pub fn push_history_item(&self, channel: &ChannelSlug, out: &mut Vec<u8>) {
        let _ = write!(out, r#"{{"id":"{}","channel":"{channel}","eventType":"#, self.id);
        out.extend_from_slice(self.event_type_json());
        out.extend_from_slice(br#","clientId":"#);
        out.extend_from_slice(self.part(&self.layout.client_id));
        out.extend_from_slice(br#","content":"#);
        out.extend_from_slice(self.content());
        let _ = write!(
            out,
            r#","timestamp":{},"createdAt":"{}","offset":{}}}"#,
            self.timestamp_ms,
            iso8601(self.timestamp_ms),
            self.offset
        );
    }

    /// Appends the publish result: what the publisher is answered.
    pub fn push_publish_result(
        &self,
        channel: &ChannelSlug,
        epoch: crate::Epoch,
        delivered: u64,
        out: &mut Vec<u8>,
    ) {
        let _ = write!(out, r#"{{"id":"{}","channelSlug":"{channel}","eventType":"#, self.id);
        out.extend_from_slice(self.event_type_json());
        out.extend_from_slice(br#","clientId":"#);
        out.extend_from_slice(self.part(&self.layout.client_id));
        let _ = write!(
            out,
            r#","delivered":{delivered},"createdAt":"{}","offset":{},"epoch":"{epoch}"}}"#,
            iso8601(self.timestamp_ms),
            self.offset
        );
    }

    fn part(&self, range: &Range<u32>) -> &[u8] {
        self.frame.get(range.start as usize..range.end as usize).unwrap_or_default()
    }
}

/// Room for all of a message but its content, with names of usual length.
const ENVELOPE_BYTES_HINT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(content: &str, client_id: Option<&str>) -> Message {
        Message::encode(Parts {
            channel: &ChannelSlug::parse("orders").unwrap(),
            id: MessageId::new(1_700_000_000_000, 42),
            offset: Offset(7),
            prev: None,
            timestamp_ms: 1_700_000_000_000,
            event_type: "new \"order\"",
            client_id,
            content,
        })
    }

    #[test]
    fn frame_and_history_carry_the_same_parts() {
        for content in [
            "null".to_owned(),
            r#"{"a": 12345678901234567890}"#.into(),
            format!("\"{}\"", "x".repeat(70_000)),
        ] {
            let message = message(&content, Some("me"));
            let header = if message.frame.len() > 65_536 { 10 } else { 4 };
            let json: serde_json::Value = serde_json::from_slice(&message.frame[header..]).unwrap();
            assert_eq!(json["eventType"], "new \"order\"");
            assert_eq!(json["clientId"], "me");
            assert_eq!(message.content(), content.as_bytes());
            let mut item = Vec::new();
            message.push_history_item(&ChannelSlug::parse("orders").unwrap(), &mut item);
            let item: serde_json::Value = serde_json::from_slice(&item).unwrap();
            assert_eq!(item["id"], json["messageId"]);
            assert_eq!(item["createdAt"], "2023-11-14T22:13:20.000Z");
            assert_eq!(item["offset"], 7);
        }
    }
}
