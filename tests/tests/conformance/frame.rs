//! Frames as bytes: a client's, masked, and a server's, read strictly.

/// Opcodes of RFC 6455 section 5.2.
pub const CONTINUE: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

const FINAL: u8 = 0x80;

/// A frame of a client, of which any part may be wrong.
#[derive(Clone)]
pub struct Frame<'a> {
    pub opcode: u8,
    pub payload: &'a [u8],
    pub is_final: bool,
    /// The three reserved bits.
    pub reserved: u8,
    pub mask: Option<[u8; 4]>,
}

impl<'a> Frame<'a> {
    pub fn new(opcode: u8, payload: &'a [u8]) -> Self {
        Self { opcode, payload, is_final: true, reserved: 0, mask: Some([0xa1, 0x02, 0xff, 0x37]) }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let length = self.payload.len();
        match length {
            0..=125 => self.bytes_with_length(length as u8, &[]),
            126..=65_535 => self.bytes_with_length(126, &(length as u16).to_be_bytes()),
            _ => self.bytes_with_length(127, &(length as u64).to_be_bytes()),
        }
    }

    /// With a length field of the caller's.
    pub fn bytes_with_length(&self, length: u8, extended: &[u8]) -> Vec<u8> {
        let first = if self.is_final { FINAL } else { 0 } | (self.reserved << 4) | self.opcode;
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![first, masked | length];
        bytes.extend_from_slice(extended);
        bytes.extend(self.mask.iter().flatten());
        let mask = self.mask.unwrap_or_default();
        bytes.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }
}

pub fn text(payload: impl AsRef<[u8]>) -> Vec<u8> {
    Frame::new(TEXT, payload.as_ref()).bytes()
}

pub fn ping(payload: impl AsRef<[u8]>) -> Vec<u8> {
    Frame::new(PING, payload.as_ref()).bytes()
}

pub fn pong(payload: impl AsRef<[u8]>) -> Vec<u8> {
    Frame::new(PONG, payload.as_ref()).bytes()
}

/// A close frame with these bytes as its payload.
pub fn close(payload: impl AsRef<[u8]>) -> Vec<u8> {
    Frame::new(CLOSE, payload.as_ref()).bytes()
}

pub fn close_with(code: u16, reason: impl AsRef<[u8]>) -> Vec<u8> {
    close([&code.to_be_bytes(), reason.as_ref()].concat())
}

/// A message in fragments of one opcode, the last one final.
pub fn fragments<'a>(opcode: u8, parts: &[impl AsRef<[u8]> + 'a]) -> Vec<Vec<u8>> {
    let last = parts.len() - 1;
    let frame = |(index, part): (usize, &_)| {
        let opcode = if index == 0 { opcode } else { CONTINUE };
        let part: &dyn AsRef<[u8]> = part;
        Frame { is_final: index == last, ..Frame::new(opcode, part.as_ref()) }.bytes()
    };
    parts
        .iter()
        .map(|part| part as &dyn AsRef<[u8]>)
        .enumerate()
        .map(|(i, p)| frame((i, &p)))
        .collect()
}

/// What a server said.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Text(String),
    Pong(Vec<u8>),
    Close(u16),
}

/// Reads all frames of a server; each must be whole, unmasked, final and as short as it can be.
pub fn said(mut bytes: &[u8]) -> Result<Vec<Said>, String> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (&[first, second], rest) =
            bytes.split_first_chunk().ok_or("a frame is cut in its header")?;
        let (length, rest) = match second {
            0..=125 => (usize::from(second), rest),
            126 => {
                let (length, rest) = rest.split_first_chunk().ok_or("a length is cut")?;
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            _ => return Err("a masked or giant frame".into()),
        };
        if second == 126 && length < 126 {
            return Err("a length that is not minimal".into());
        }
        let (payload, rest) = rest.split_at_checked(length).ok_or("a payload is cut")?;
        all.push(match first {
            0x81 => Said::Text(String::from_utf8(payload.into()).map_err(|e| e.to_string())?),
            0x8a => Said::Pong(payload.into()),
            0x88 if payload.is_empty() => Said::Close(0),
            0x88 => {
                let (code, reason) = payload.split_first_chunk().ok_or("a close of one byte")?;
                str::from_utf8(reason).map_err(|e| e.to_string())?;
                Said::Close(u16::from_be_bytes(*code))
            }
            0x89 => return Err("a ping nobody waited for".into()),
            other => return Err(format!("a first byte {other:#x}")),
        });
        bytes = rest;
    }
    Ok(all)
}
