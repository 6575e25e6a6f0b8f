//! Frames from the server: never masked, never fragmented.

use bytes::Bytes;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::limits::CONTROL_PAYLOAD_BYTES_MAX;

/// The longest header of an unmasked frame (RFC 6455 section 5.2): 2 bytes and a 64-bit length.
const HEADER_BYTES_MAX: usize = 10;

/// A text frame whose payload `write` appends to the buffer it is given; `payload_bytes_hint` saves
/// growing it. The header is put in front without moving the payload.
pub fn text_frame(payload_bytes_hint: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    frame(OpCode::Data(Data::Text), payload_bytes_hint, write)
}

/// Appends a text frame whose payload `write` appends behind it.
pub(crate) fn push_text_frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    // The header of nearly all messages; where another one is needed the payload is moved.
    const HEADER_BYTES: usize = 4;
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    write(out);
    let length = (out.len() - start - HEADER_BYTES) as u64;
    let header = FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
    let header_bytes = header.len(length);
    if header_bytes != HEADER_BYTES {
        let _ = out.splice(start..start + HEADER_BYTES, std::iter::repeat_n(0, header_bytes));
    }
    if let Some(mut room) = out.get_mut(start..start + header_bytes) {
        // The room has exactly the header's length, so writing it cannot fail.
        let written = header.format(length, &mut room);
        debug_assert!(written.is_ok() && room.is_empty());
    }
}

/// A ping without payload.
pub fn ping_frame() -> Bytes {
    frame(OpCode::Control(Control::Ping), 0, |_| {})
}

/// The answer to a ping with `payload`, at most [`CONTROL_PAYLOAD_BYTES_MAX`] bytes of it.
pub fn pong_frame(payload: &[u8]) -> Bytes {
    control(Control::Pong, payload)
}

/// A close frame. `code` 0 stands for "no code", the reason is cut to what fits a control frame.
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    if code == 0 {
        return control(Control::Close, &[]);
    }
    let fits = reason.floor_char_boundary(CONTROL_PAYLOAD_BYTES_MAX - 2);
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.get(..fits).unwrap_or_default().as_bytes());
    control(Control::Close, &payload)
}

fn control(opcode: Control, payload: &[u8]) -> Bytes {
    let payload = payload.get(..CONTROL_PAYLOAD_BYTES_MAX).unwrap_or(payload);
    frame(OpCode::Control(opcode), payload.len(), |out| out.extend_from_slice(payload))
}

fn frame(opcode: OpCode, payload_bytes_hint: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(HEADER_BYTES_MAX + payload_bytes_hint);
    out.resize(HEADER_BYTES_MAX, 0);
    write(&mut out);
    let length = (out.len() - HEADER_BYTES_MAX) as u64;
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    let start = HEADER_BYTES_MAX - header.len(length);
    if let Some(mut room) = out.get_mut(start..HEADER_BYTES_MAX) {
        // The room has exactly the header's length, so writing it cannot fail.
        let written = header.format(length, &mut room);
        debug_assert!(written.is_ok() && room.is_empty());
    }
    Bytes::from(out).slice(start..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_stand_right_before_their_payload() {
        for length in [0usize, 1, 125, 126, 65_535, 65_536] {
            let frame = text_frame(0, |out| out.resize(out.len() + length, b'x'));
            let header = match length {
                0..=125 => vec![0x81, length as u8],
                126..=65_535 => [&[0x81, 126][..], &(length as u16).to_be_bytes()].concat(),
                _ => [&[0x81, 127][..], &(length as u64).to_be_bytes()].concat(),
            };
            assert!(frame.starts_with(&header));
            assert_eq!(frame.len(), header.len() + length);
        }
    }

    #[test]
    fn close_reasons_are_cut_at_a_character() {
        let frame = close_frame(1001, &"ä".repeat(100));
        assert_eq!(frame.len(), 2 + 2 + 122);
        assert!(str::from_utf8(&frame[4..]).is_ok());
        assert_eq!(close_frame(0, ""), Bytes::from_static(&[0x88, 0]));
    }
}
