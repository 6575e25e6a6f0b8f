//! Frames from a client, put together to messages.
//!
//! A [`MessageReader`] holds nothing between messages: a frame that lies whole in the caller's
//! buffer is unmasked there. Only fragments of an unfinished message are kept, up to a limit.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{CloseCode, ProtocolError};
use crate::limits::CONTROL_PAYLOAD_BYTES_MAX;

/// Reads one client's frames.
#[derive(Debug, Default)]
pub struct MessageReader {
    /// Payload of the fragments so far, unmasked.
    message: Vec<u8>,
    /// The opcode of the first fragment, while a message is unfinished.
    unfinished: bool,
    /// How much of `message` is known to be UTF-8.
    utf8_bytes: usize,
    /// The message was handed out and is to be forgotten at the next call.
    handed_out: bool,
}

/// What one frame brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A fragment; the message goes on.
    Fragment,
    /// A ping that wants a pong with the same payload.
    Ping(&'a [u8]),
    /// A pong.
    Pong,
    /// The peer closes; `code` to echo, 0 if it sent none.
    Close {
        /// The code, valid to be sent back.
        code: u16,
    },
}

impl MessageReader {
    /// Whether nothing is held, so that the reader may be dropped until more bytes come.
    pub fn is_idle(&self) -> bool {
        !self.unfinished
    }

    /// Bytes it keeps in memory: the fragments of an unfinished message.
    pub fn kept_bytes(&self) -> usize {
        self.message.capacity()
    }

    /// The fragments of an unfinished message, for a reader that goes on in the place of this one.
    pub fn fragments(&self) -> Option<&[u8]> {
        self.unfinished.then_some(&*self.message)
    }

    /// A reader that goes on where one had these fragments of an unfinished message.
    pub fn resume(fragments: Vec<u8>) -> Self {
        let utf8_bytes = match str::from_utf8(&fragments) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        Self { message: fragments, unfinished: true, utf8_bytes, handed_out: false }
    }

    /// Reads one frame from the start of `buffer`. `None`: it is not whole yet. Otherwise the
    /// number of bytes it took, and what it brought. The frame is unmasked in place. A message has at
    /// most `message_bytes_max` bytes over all its fragments.
    ///
    /// # Errors
    /// [`ProtocolError`] with the close code of RFC 6455 section 7.4.1; the connection is over. It
    /// comes as early as the header tells, before the payload is there.
    pub fn read<'a>(
        &'a mut self,
        buffer: &'a mut [u8],
        message_bytes_max: usize,
    ) -> Result<Option<(usize, Received<'a>)>, ProtocolError> {
        if std::mem::take(&mut self.handed_out) {
            self.message = Vec::new();
            self.utf8_bytes = 0;
        }
        let mut cursor = Cursor::new(&*buffer);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| protocol("unknown opcode"))?;
        let header_bytes = cursor.position() as usize;
        let Some((header, payload_bytes)) = parsed else {
            // The first byte alone can already be wrong; a peer that then stops must not linger.
            return buffer
                .first()
                .map_or(Ok(None), |&first| check_first_byte(first).map(|()| None));
        };
        self.check(&header, payload_bytes, message_bytes_max)?;
        // RFC 6455 section 5.2: the shortest form must be used.
        if header_bytes != header.len(payload_bytes) {
            return Err(protocol("the length is not in its shortest form"));
        }
        let mask = header.mask.ok_or(protocol("frames of a client must be masked"))?;
        let payload_bytes = payload_bytes as usize;
        let frame_bytes = header_bytes + payload_bytes;
        let Some(payload) = buffer.get_mut(header_bytes..frame_bytes) else { return Ok(None) };
        unmask(payload, mask);
        let received = match header.opcode {
            OpCode::Control(Control::Ping) => Received::Ping(payload),
            OpCode::Control(Control::Pong) => Received::Pong,
            OpCode::Control(_) => Received::Close { code: close_code(payload)? },
            OpCode::Data(_) => self.data(&header, payload)?,
        };
        Ok(Some((frame_bytes, received)))
    }

    fn data<'a>(
        &'a mut self,
        header: &FrameHeader,
        payload: &'a [u8],
    ) -> Result<Received<'a>, ProtocolError> {
        if header.is_final && !self.unfinished {
            return str::from_utf8(payload).map(Received::Text).map_err(|_| NOT_UTF8);
        }
        self.message.extend_from_slice(payload);
        self.unfinished = !header.is_final;
        // Broken text ends the connection at the fragment that breaks it, not at the last one.
        let unchecked = self.message.get(self.utf8_bytes..).unwrap_or_default();
        match str::from_utf8(unchecked) {
            Ok(_) => self.utf8_bytes = self.message.len(),
            Err(error) if error.error_len().is_none() && self.unfinished => {
                self.utf8_bytes += error.valid_up_to();
            }
            Err(_) => return Err(NOT_UTF8),
        }
        if self.unfinished {
            return Ok(Received::Fragment);
        }
        self.handed_out = true;
        str::from_utf8(&self.message).map(Received::Text).map_err(|_| NOT_UTF8)
    }

    fn check(
        &self,
        header: &FrameHeader,
        payload_bytes: u64,
        message_bytes_max: usize,
    ) -> Result<(), ProtocolError> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(RESERVED_BITS);
        }
        if let OpCode::Control(_) = header.opcode {
            if !header.is_final {
                return Err(protocol("control frames must not be fragmented"));
            }
            if payload_bytes > CONTROL_PAYLOAD_BYTES_MAX as u64 {
                return Err(protocol("a control frame has at most 125 bytes"));
            }
            return Ok(());
        }
        match (header.opcode, self.unfinished) {
            (OpCode::Data(Data::Continue), false) => {
                return Err(protocol("a continuation without a message to continue"));
            }
            (OpCode::Data(Data::Text | Data::Binary), true) => {
                return Err(protocol("a new message before the last one was finished"));
            }
            (OpCode::Data(Data::Binary), false) => {
                return Err(ProtocolError {
                    code: CloseCode::Unsupported,
                    reason: "binary messages are not accepted",
                });
            }
            _ => {}
        }
        if payload_bytes > message_bytes_max.saturating_sub(self.message.len()) as u64 {
            return Err(ProtocolError {
                code: CloseCode::TooBig,
                reason: "the message is too big",
            });
        }
        Ok(())
    }
}

const NOT_UTF8: ProtocolError =
    ProtocolError { code: CloseCode::InvalidData, reason: "the text is not valid UTF-8" };
const RESERVED_BITS: ProtocolError = protocol("reserved bits are set");

const fn protocol(reason: &'static str) -> ProtocolError {
    ProtocolError { code: CloseCode::ProtocolError, reason }
}

fn check_first_byte(first: u8) -> Result<(), ProtocolError> {
    if first & 0x70 != 0 {
        return Err(RESERVED_BITS);
    }
    if !matches!(first & 0x0f, 0..=2 | 8..=10) {
        return Err(protocol("unknown opcode"));
    }
    Ok(())
}

fn close_code(payload: &[u8]) -> Result<u16, ProtocolError> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(0) } else { Err(protocol("a close code has 2 bytes")) };
    };
    let code = u16::from_be_bytes(*code);
    // RFC 6455 section 7.4: what may stand in a close frame.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(protocol("that close code must not be sent"));
    }
    str::from_utf8(reason).map_err(|_| NOT_UTF8)?;
    Ok(code)
}

/// XOR with the mask (RFC 6455 section 5.3), eight bytes at a time so that it vectorises.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 64 * 1024;

    fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut out = vec![first];
        match payload.len() {
            n @ 0..=125 => out.push(0x80 | n as u8),
            n => {
                out.push(0x80 | 126);
                out.extend((n as u16).to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        out
    }

    #[test]
    fn text_in_one_frame_and_in_fragments() {
        let mut reader = MessageReader::default();
        let mut bytes = client_frame(0x81, b"hello");
        let length = bytes.len();
        assert_eq!(reader.read(&mut bytes, MOST), Ok(Some((length, Received::Text("hello")))));
        let snowman = "\u{2603}".as_bytes();
        let mut first = client_frame(0x01, &snowman[..1]);
        assert!(matches!(reader.read(&mut first, MOST), Ok(Some((_, Received::Fragment)))));
        let mut ping = client_frame(0x89, b"?");
        assert!(matches!(reader.read(&mut ping, MOST), Ok(Some((_, Received::Ping(b"?"))))));
        let mut last = client_frame(0x80, &snowman[1..]);
        assert!(matches!(reader.read(&mut last, MOST), Ok(Some((_, Received::Text("\u{2603}"))))));
        assert!(reader.is_idle());
        let mut next = client_frame(0x81, b"x");
        assert!(matches!(reader.read(&mut next, MOST), Ok(Some((_, Received::Text("x"))))));
    }

    #[test]
    fn an_unfinished_frame_takes_nothing() {
        let whole = client_frame(0x81, &[b'x'; 300]);
        for cut in 0..whole.len() {
            let mut part = whole[..cut].to_vec();
            assert_eq!(MessageReader::default().read(&mut part, MOST), Ok(None), "{cut}");
        }
    }

    #[test]
    fn a_message_has_a_limit_over_all_its_fragments() {
        let read = |frames: &[(u8, usize)]| {
            let mut reader = MessageReader::default();
            let mut results = frames.iter().map(|&(first, bytes)| {
                let mut frame = client_frame(first, &vec![b'x'; bytes]);
                reader.read(&mut frame, 1_000).map(drop)
            });
            results.find(Result::is_err).map(|error| error.unwrap_err().code.value())
        };
        assert_eq!(read(&[(0x81, 1_000)]), None);
        assert_eq!(read(&[(0x81, 1_001)]), Some(1009));
        assert_eq!(read(&[(0x01, 500), (0x00, 500), (0x80, 0)]), None);
        assert_eq!(read(&[(0x01, 500), (0x00, 500), (0x80, 1)]), Some(1009));
    }

    #[test]
    fn broken_frames_name_their_close_code() {
        let code = |bytes: &[u8]| {
            MessageReader::default().read(&mut bytes.to_vec(), MOST).unwrap_err().code.value()
        };
        assert_eq!(code(&[0x81, 0x01, b'x']), 1002);
        assert_eq!(code(&[0xc1]), 1002);
        assert_eq!(code(&[0x83]), 1002);
        assert_eq!(code(&client_frame(0x09, b"")), 1002);
        assert_eq!(code(&client_frame(0x80, b"x")), 1002);
        assert_eq!(code(&client_frame(0x82, b"x")), 1003);
        assert_eq!(code(&client_frame(0x81, b"\xff")), 1007);
        assert_eq!(code(&client_frame(0x01, b"\xff")), 1007);
        assert_eq!(code(&[0x81, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4]), 1009);
        assert_eq!(code(&client_frame(0x88, b"\x03")), 1002);
        assert_eq!(code(&client_frame(0x88, b"\x03\xed")), 1002);
        assert_eq!(code(&client_frame(0x88, b"\x03\xe8\xff")), 1007);
    }
}
