//! WebSocket frames (RFC 6455 section 5.2) as a client sees them: a server's unmasked, its own
//! masked.

/// One frame of a server.
#[derive(Debug, PartialEq)]
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
    /// Bytes of the whole frame.
    pub(crate) bytes: usize,
}

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// A server must not fragment here, mask or use extensions that were not agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadFrame;

/// The first frame of `bytes`; `None` while it is not whole.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Frame<'_>>, BadFrame> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let (head, length) = match (second, rest) {
        (0..=125, _) => (2, u64::from(*second)),
        (126, [a, b, ..]) => (4, u64::from(u16::from_be_bytes([*a, *b]))),
        (127, rest) => match rest.first_chunk() {
            Some(length) => (10, u64::from_be_bytes(*length)),
            None => return Ok(None),
        },
        (126, _) => return Ok(None),
        (128.., _) => return Err(BadFrame),
    };
    if first & 0xf0 != 0x80 {
        return Err(BadFrame);
    }
    let Some(end) = usize::try_from(length).ok().and_then(|length| length.checked_add(head)) else {
        return Err(BadFrame);
    };
    let Some(payload) = bytes.get(head..end) else { return Ok(None) };
    Ok(Some(Frame { opcode: first & 0x0f, payload, bytes: end }))
}

/// Appends a client's frame of at most 65,535 bytes.
pub(crate) fn push(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_in_every_cut() {
        for length in [0usize, 1, 125, 126, 65_535, 65_536] {
            let mut bytes = match length {
                0..=125 => vec![0x81, length as u8],
                126..=65_535 => vec![0x81, 126, (length >> 8) as u8, length as u8],
                _ => [&[0x81, 127][..], &(length as u64).to_be_bytes()].concat(),
            };
            let head = bytes.len();
            bytes.resize(head + length, b'a');
            for cut in (0..bytes.len()).filter(|cut| *cut < 20 || *cut + 5 > bytes.len()) {
                assert_eq!(parse(&bytes[..cut]), Ok(None));
            }
            let frame = parse(&bytes).unwrap().unwrap();
            assert_eq!(
                (frame.bytes, frame.payload.len(), frame.opcode),
                (bytes.len(), length, TEXT)
            );
        }
        assert_eq!(parse(&[0x01, 1, b'a']), Err(BadFrame));
        assert_eq!(parse(&[0x81, 0x81, 0, 0, 0, 0, b'a']), Err(BadFrame));
        assert_eq!(parse(&[0xc1, 1, b'a']), Err(BadFrame));
    }
}
