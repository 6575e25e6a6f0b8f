//! What a WebSocket client is told, as encoded frames. (Messages are in [`crate::message`].)

use std::io::Write as _;

use bytes::Bytes;

use crate::channel::ChannelSlug;
use crate::error::Refusal;
use crate::json::push_string;
use crate::position::StreamPosition;
use crate::websocket::text_frame;

/// Room for the fixed part of an event.
const EVENT_BYTES_HINT: usize = 192;

/// How a request for the past was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Whether everything asked for follows.
    pub recovered: bool,
    /// How many messages follow.
    pub replayed: u64,
}

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

/// `error`, with the channel it concerns where there is one.
pub fn error(refusal: &Refusal, channel: Option<&ChannelSlug>) -> Bytes {
    text_frame(EVENT_BYTES_HINT, |out| {
        out.extend_from_slice(br#"{"type":"error","error":"#);
        push_string(out, &refusal.message);
        let _ = write!(out, r#","code":"{}""#, refusal.code.as_str());
        if let Some(channel) = channel {
            let _ = write!(out, r#","channel":"{channel}""#);
        }
        out.push(b'}');
    })
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
