//! What two nodes say to each other, as bytes: whole frames of a transport that may lose them, deliver them
//! twice, or in another order.
//!
//! All numbers are little-endian. A frame of another version is not read: nodes of versions that cannot talk
//! to each other have no link.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// The version of the frames, in the first byte of each.
const VERSION: u8 = 1;

/// Bytes before the parts.
const HEAD_BYTES: usize = 1 + 5 * 8;

/// Marks a part that the next one goes on with.
const GOES_ON: u32 = 1 << 31;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// The session of the sender.
    pub(super) from: u64,
    /// That of the receiver, as the sender knows it; 0 if it does not.
    pub(super) to: u64,
    /// All parts of the receiver before this one have come.
    pub(super) received: u64,
    /// The receiver may send parts before this one.
    pub(super) window: u64,
    /// The number of the first part.
    pub(super) first: u64,
    /// Parts that follow each other.
    pub(super) parts: Vec<Part>,
}

/// A message, or a piece of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The next part belongs to the same message.
    pub(super) goes_on: bool,
    /// What it is.
    pub(super) bytes: Bytes,
}

impl Part {
    /// Bytes it takes in a frame.
    pub(super) fn framed_bytes(&self) -> usize {
        4 + self.bytes.len()
    }
}

impl Frame {
    /// As it is sent.
    pub(super) fn encode(&self) -> Bytes {
        let bytes = HEAD_BYTES + self.parts.iter().map(Part::framed_bytes).sum::<usize>();
        let mut encoded = BytesMut::with_capacity(bytes);
        encoded.put_u8(VERSION);
        for number in [self.from, self.to, self.received, self.window, self.first] {
            encoded.put_u64_le(number);
        }
        for Part { goes_on, bytes } in &self.parts {
            let mark = if *goes_on { GOES_ON } else { 0 };
            encoded.put_u32_le(bytes.len() as u32 | mark);
            encoded.put_slice(bytes);
        }
        encoded.freeze()
    }

    /// Reads what [`Frame::encode`] wrote; `None` for anything else.
    pub(super) fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.len() < HEAD_BYTES || bytes.get_u8() != VERSION {
            return None;
        }
        let [from, to, received, window, first] = std::array::from_fn(|_| bytes.get_u64_le());
        let mut parts = Vec::new();
        while !bytes.is_empty() {
            let length = bytes.try_get_u32_le().ok()?;
            let (goes_on, length) = (length & GOES_ON != 0, (length & !GOES_ON) as usize);
            if bytes.len() < length {
                return None;
            }
            parts.push(Part { goes_on, bytes: bytes.split_to(length) });
        }
        Some(Self { from, to, received, window, first, parts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were_sent_and_others_are_not_read() {
        let part = |goes_on, text: &'static str| Part {
            goes_on,
            bytes: Bytes::from_static(text.as_bytes()),
        };
        let parts = vec![part(false, "one"), part(true, ""), part(false, "two")];
        let frame = Frame { from: 1, to: 2, received: 3, window: 4, first: 5, parts };
        let encoded = frame.encode();
        assert_eq!(Frame::decode(encoded.clone()), Some(frame));
        for cut in [0, 1, 40, encoded.len() - 1] {
            assert_eq!(Frame::decode(encoded.slice(..cut)), None, "{cut} bytes");
        }
        let mut other = BytesMut::from(&encoded[..]);
        other[0] = 2;
        assert_eq!(Frame::decode(other.freeze()), None);
    }
}
