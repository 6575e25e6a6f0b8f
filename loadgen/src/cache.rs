//! Frames that were checked once, so that the same bytes at another subscriber are checked by one
//! comparison.

/// Most bytes kept by a thread.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most frames kept of a channel.
const FRAMES_MAX: usize = 16 * 1024;

/// The last checked frames of each channel.
#[derive(Debug)]
pub(crate) struct FrameCache {
    channels: Vec<Box<[Entry]>>,
    frames_max: usize,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    offset: u64,
    intended_ns: u64,
    /// The whole frame with its header.
    bytes: Vec<u8>,
}

impl FrameCache {
    /// For so many channels with frames of about this size.
    pub(crate) fn new(channels: usize, frame_bytes: usize) -> Self {
        let fit = BYTES_MAX / (channels.max(1) * (frame_bytes + size_of::<Entry>()));
        let frames_max = fit.clamp(1, FRAMES_MAX).next_power_of_two() / 2;
        Self { channels: vec![Box::default(); channels], frames_max: frames_max.max(1) }
    }

    /// The length and intended time of the frame with `offset`, if `bytes` begins with it.
    #[inline]
    pub(crate) fn find(&self, channel: usize, offset: u64, bytes: &[u8]) -> Option<(usize, u64)> {
        let entries = self.channels.get(channel)?;
        let entry = entries.get(offset as usize & (self.frames_max - 1))?;
        let same = entry.offset == offset && bytes.starts_with(&entry.bytes);
        (same && !entry.bytes.is_empty()).then_some((entry.bytes.len(), entry.intended_ns))
    }

    pub(crate) fn insert(&mut self, channel: usize, offset: u64, intended_ns: u64, bytes: &[u8]) {
        let Some(entries) = self.channels.get_mut(channel) else { return };
        if entries.is_empty() {
            *entries = vec![Entry::default(); self.frames_max].into();
        }
        if let Some(entry) = entries.get_mut(offset as usize & (self.frames_max - 1)) {
            (entry.offset, entry.intended_ns) = (offset, intended_ns);
            entry.bytes.clear();
            entry.bytes.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_bytes_are_found() {
        let mut cache = FrameCache::new(2, 100);
        cache.insert(1, 7, 9, b"frame");
        assert_eq!(cache.find(1, 7, b"frame and more"), Some((5, 9)));
        assert_eq!(cache.find(1, 7, b"frane and more"), None);
        assert_eq!(cache.find(1, 7, b"fram"), None);
        assert_eq!(cache.find(1, 8, b"frame"), None);
        assert_eq!(cache.find(0, 7, b"frame"), None);
    }
}
