//! What a WebSocket client is told, as encoded frames. Messages are in `message`.

use std::io::Write as _;

use bytes::Bytes;

use crate::answer::Member;
use crate::channel::ChannelSlug;
use crate::error::Refusal;
use crate::json::push_string;
use crate::position::{Recovered, StreamPosition};
use crate::record::Receipt;
use crate::websocket::text_frame;

/// Room for the fixed part of an event.
const EVENT_BYTES_HINT: usize = 192;

/// `connected`, always the first frame.
pub fn connected(client_id: &str, timestamp_ms: u64) -> Bytes {
    text_frame(EVENT_BYTES_HINT, |out| {
        out.extend_from_slice(br#"{"type":"connected","clientId":"#);
        push_string(out, client_id);
        let _ = write!(out, r#","timestamp":{timestamp_ms}}}"#);
    })
}

/// `subscribed`: `head` is the channel's head at that moment.
pub fn subscribed(channel: &ChannelSlug, head: StreamPosition, past: Option<Recovered>) -> Bytes {
    text_frame(EVENT_BYTES_HINT, |out| {
        let StreamPosition { epoch, offset } = head;
        let _ = write!(
            out,
            r#"{{"type":"subscribed","channel":"{channel}","epoch":"{epoch}","offset":{offset}"#
        );
        if let Some(Recovered { recovered, replayed }) = past {
            let _ = write!(out, r#","recovered":{recovered},"replayed":{replayed}"#);
        }
        out.push(b'}');
    })
}

/// `unsubscribed`: no message of the channel follows.
pub fn unsubscribed(channel: &ChannelSlug) -> Bytes {
    text_frame(EVENT_BYTES_HINT, |out| {
        let _ = write!(out, r#"{{"type":"unsubscribed","channel":"{channel}"}}"#);
    })
}

/// `error`, with the channel it concerns and the `ref` of what was refused where there is one.
pub fn error(refusal: &Refusal, channel: Option<&ChannelSlug>, reference: Option<&str>) -> Bytes {
    text_frame(EVENT_BYTES_HINT, |out| {
        out.extend_from_slice(br#"{"type":"error","error":"#);
        push_string(out, &refusal.message);
        let _ = write!(out, r#","code":"{}""#, refusal.code.as_str());
        if let Some(channel) = channel {
            let _ = write!(out, r#","channel":"{channel}""#);
        }
        if let (Some(limit), true) = (&refusal.field, refusal.code.is_limit()) {
            let _ = write!(out, r#","limit":"{limit}""#);
        }
        push_reference(out, reference);
        out.push(b'}');
    })
}

/// `published`, the answer to a client's publish.
pub fn published(channel: &ChannelSlug, receipt: &Receipt, reference: Option<&str>) -> Bytes {
    text_frame(EVENT_BYTES_HINT, |out| {
        let Receipt { id, offset, timestamp_ms, .. } = receipt;
        let _ = write!(
            out,
            r#"{{"type":"published","channel":"{channel}","messageId":"{id}","offset":{offset},"timestamp":{timestamp_ms}"#
        );
        push_reference(out, reference);
        out.push(b'}');
    })
}

/// `token_expiring`: the client is to send a fresh token before that time.
pub fn token_expiring(expires_ms: u64) -> Bytes {
    text_frame(EVENT_BYTES_HINT, |out| {
        let _ = write!(out, r#"{{"type":"token_expiring","expiresAt":{expires_ms}}}"#);
    })
}

/// `refreshed`: a fresh token was taken.
pub fn refreshed(expires_ms: u64) -> Bytes {
    text_frame(EVENT_BYTES_HINT, |out| {
        let _ = write!(out, r#"{{"type":"refreshed","expiresAt":{expires_ms}}}"#);
    })
}

/// `presence` with all members, for one who subscribes.
pub fn presence<'a>(
    channel: &ChannelSlug,
    members: impl Iterator<Item = Member<'a>>,
    count: u64,
) -> Bytes {
    text_frame(EVENT_BYTES_HINT, |out| {
        let _ = write!(out, r#"{{"type":"presence","channel":"{channel}","members":["#);
        push_members(out, members);
        let _ = write!(out, r#"],"count":{count}}}"#);
    })
}

/// `presence` with who joined and left.
pub fn presence_change<'a>(
    channel: &ChannelSlug,
    joined: impl Iterator<Item = Member<'a>>,
    left: impl Iterator<Item = Member<'a>>,
    count: u64,
) -> Bytes {
    text_frame(EVENT_BYTES_HINT, |out| {
        let _ = write!(out, r#"{{"type":"presence","channel":"{channel}","joined":["#);
        push_members(out, joined);
        out.extend_from_slice(br#"],"left":["#);
        push_members(out, left);
        let _ = write!(out, r#"],"count":{count}}}"#);
    })
}

fn push_members<'a>(out: &mut Vec<u8>, members: impl Iterator<Item = Member<'a>>) {
    for (index, member) in members.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        // Writing into memory cannot fail, and a member always has a JSON form.
        let _ = serde_json::to_writer(&mut *out, &member);
    }
}

fn push_reference(out: &mut Vec<u8>, reference: Option<&str>) {
    if let Some(reference) = reference {
        out.extend_from_slice(br#","ref":"#);
        push_string(out, reference);
    }
}

/// `pong`, the answer to a client's `ping` command.
pub fn pong() -> Bytes {
    Bytes::from_static(b"\x81\x0f{\"type\":\"pong\"}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pong_is_a_whole_frame() {
        assert_eq!(pong(), text_frame(0, |out| out.extend_from_slice(br#"{"type":"pong"}"#)));
    }
}
