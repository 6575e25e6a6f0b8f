//! One write: whole frames in order, of which any part may have been taken by the socket.

use bytes::{Buf as _, Bytes};
use smallvec::SmallVec;

/// Most bytes of one write. More would only sit in the kernel's queue, or in ours if the peer does
/// not read.
pub(super) const WRITE_BYTES_MAX: usize = 256 * 1024;

/// Most segments of one write; IOV_MAX is 1,024, and long lists cost more than they save.
pub(super) const SEGMENTS_MAX: usize = 64;

/// Bytes on their way to a socket.
#[derive(Debug, Default)]
pub struct Write {
    segments: SmallVec<[Bytes; 2]>,
    bytes: usize,
}

impl Write {
    /// Appends a segment.
    pub fn push(&mut self, segment: Bytes) {
        if !segment.is_empty() {
            self.bytes += segment.len();
            self.segments.push(segment);
        }
    }

    /// Whether the write is as large as it should get.
    pub fn is_full(&self) -> bool {
        self.bytes >= WRITE_BYTES_MAX || self.segments.len() >= SEGMENTS_MAX
    }

    /// Takes `written` bytes off the front.
    pub fn advance(&mut self, mut written: usize) {
        self.bytes = self.bytes.saturating_sub(written);
        let mut done = 0;
        for segment in &mut self.segments {
            let taken = written.min(segment.len());
            segment.advance(taken);
            written -= taken;
            if !segment.is_empty() {
                break;
            }
            done += 1;
        }
        self.segments.drain(..done);
    }

    /// What is left.
    pub fn segments(&self) -> &[Bytes] {
        &self.segments
    }

    /// How many bytes are left.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_may_be_taken() {
        for first in 0..=9 {
            let mut write = Write::default();
            for part in ["ab", "", "cde", "fghi"] {
                write.push(Bytes::from_static(part.as_bytes()));
            }
            write.advance(first);
            assert_eq!(write.len(), 9 - first);
            assert_eq!(write.segments().concat(), "abcdefghi".as_bytes()[first..].to_vec());
            write.advance(9 - first);
            assert!(write.is_empty() && write.segments().is_empty());
        }
    }
}
