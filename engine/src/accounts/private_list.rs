//! The list of private channels, beside the database: should the database lose what it has of a
//! channel, or be moved away, the channel stays closed.
//!
//! A channel's line is written before the change that makes it private; the seal says how much of the
//! file belongs to what is in force, so that what a refused change left behind is overwritten. A
//! directory that is as the seal says knows better than the list, which keeps the lines of channels
//! that became public or went. Only for one that is not whole, or new, the list decides.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use pushflo_protocol::ChannelSlug;

use super::seal::{check, replace};
use crate::ids::{AppId, ChannelKey};

/// Lines of channels that became public since are left in the file until it is so much longer than
/// it need be, twice over: some ten thousand lines.
const SLACK_BYTES: u64 = 1024 * 1024;

/// Appends the line of a channel.
pub(super) fn push_line(channel: &ChannelKey, out: &mut String) {
    let text = format!("{} {}", channel.app, channel.slug);
    // Writing into memory cannot fail.
    let _ = writeln!(out, "{text} {}", check(&text));
}

fn parse_line(line: &str) -> Option<ChannelKey> {
    let (text, sum) = line.rsplit_once(' ')?;
    let (app, slug) = text.split_once(' ')?;
    let channel = ChannelKey { app: AppId::parse(app)?, slug: ChannelSlug::parse(slug).ok()? };
    (check(text) == sum).then_some(channel)
}

/// What was read.
#[derive(Debug)]
pub(super) struct Listed {
    /// The channels of all lines that are whole.
    pub(super) channels: Vec<ChannelKey>,
    /// Bytes that were read.
    pub(super) bytes: u64,
    /// Nothing is missing and no line is damaged.
    pub(super) is_whole: bool,
    /// There was such a file.
    pub(super) was_there: bool,
}

/// The file.
#[derive(Debug)]
pub(super) struct PrivateList {
    path: PathBuf,
    file: File,
    /// What its length would be without the lines of channels that are private no more, when that
    /// was last looked at.
    needed_bytes: u64,
}

impl PrivateList {
    /// Opens the file, or makes it, and reads what of it is in force: `sealed_bytes`, or all of it
    /// where no seal tells.
    pub(super) fn open(path: &Path, sealed_bytes: Option<u64>) -> io::Result<(Self, Listed)> {
        let was_there = path.try_exists()?;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path)?;
        let mut bytes = std::fs::read(path)?;
        let wanted = sealed_bytes.unwrap_or(bytes.len() as u64);
        let is_long_enough = bytes.len() as u64 >= wanted;
        bytes.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        let text = String::from_utf8_lossy(&bytes);
        let (mut channels, mut is_whole) = (Vec::new(), is_long_enough);
        for line in text.lines() {
            match parse_line(line) {
                Some(channel) => channels.push(channel),
                None => is_whole = false,
            }
        }
        let bytes = bytes.len() as u64;
        let list = Self { path: path.to_owned(), file, needed_bytes: bytes };
        Ok((list, Listed { channels, bytes, is_whole, was_there }))
    }

    /// Writes lines behind the first `at` bytes and has them reach the disk. Returns where they end.
    pub(super) fn write(&self, at: u64, lines: &str) -> io::Result<u64> {
        self.file.write_all_at(lines.as_bytes(), at)?;
        self.file.sync_data()?;
        Ok(at + lines.len() as u64)
    }

    /// Whether most of its `bytes` are of channels that are private no more.
    pub(super) fn is_overgrown(&self, bytes: u64) -> bool {
        bytes > 2 * (self.needed_bytes + SLACK_BYTES)
    }

    /// So many bytes would do.
    pub(super) fn need(&mut self, bytes: u64) {
        self.needed_bytes = bytes;
    }

    /// Puts a list of these lines in its place, and returns its length; the seal is to follow at
    /// once.
    pub(super) fn rewrite(&mut self, lines: &str) -> io::Result<u64> {
        self.file = replace(&self.path, lines.as_bytes())?;
        self.needed_bytes = lines.len() as u64;
        Ok(self.needed_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_seal_counts_is_read_and_what_is_missing_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        let channel =
            |(app, slug)| ChannelKey { app: AppId(app), slug: ChannelSlug::parse(slug).unwrap() };
        let channels = [(0, "a:b"), (4_000_000_000, "c"), (2, "d,e=f;g@h")].map(channel);
        let (list, found) = PrivateList::open(&path, None).unwrap();
        assert!(found.is_whole && !found.was_there && found.channels.is_empty());
        let mut bytes = 0;
        for channel in &channels {
            let mut line = String::new();
            push_line(channel, &mut line);
            bytes = list.write(bytes, &line).unwrap();
        }
        let read = |sealed| PrivateList::open(&path, sealed).unwrap().1;
        let all = read(Some(bytes));
        assert!(all.is_whole && all.was_there && all.channels == channels && all.bytes == bytes);
        assert_eq!(read(None).channels, channels);
        // What was written behind what is in force does not count.
        list.write(bytes, "a refused cha").unwrap();
        assert!(read(Some(bytes)).is_whole && !read(None).is_whole);
        assert_eq!(read(None).channels, channels);
        let written = std::fs::read(&path).unwrap();
        for at in 0..bytes as usize {
            std::fs::write(&path, &written[..at]).unwrap();
            assert!(!read(Some(bytes)).is_whole, "{at}");
            let mut flipped = written.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, flipped).unwrap();
            let found = read(Some(bytes));
            assert!(!found.is_whole && !found.channels.is_empty(), "{at}");
        }
    }
}
