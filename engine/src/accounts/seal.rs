//! The seal of the directory: a small file beside the database that says which change is the last one
//! in force, and what the content is with it.
//!
//! Invariant: a change is in force once the seal that names it has reached the disk, and not before.
//! What the database has beyond that was never answered as done, and is taken back; what it lacks was
//! lost. The file has the size of one sector and is written in place, so it needs no room on a full
//! disk, and a crash leaves either what was there before or what was written.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Bytes of the file: a sector, the most that every disk writes as a whole.
const SEAL_BYTES: usize = 512;

/// What the text in the file begins with; the number is that of the format.
const TITLE: &str = "pushflo-directory-seal 1";

/// A digest of a set of entries, whatever their order: the sum of their SHA-256, as four numbers. It
/// finds what got lost or came back, not what somebody forged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Content([u64; 4]);

impl Content {
    /// Adds an entry of the part `space` of the directory.
    pub(super) fn add(&mut self, space: u8, key: &[u8], value: &[u8]) {
        for (sum, number) in self.0.iter_mut().zip(numbers(space, key, value)) {
            *sum = sum.wrapping_add(number);
        }
    }

    /// Takes out an entry that was added.
    pub(super) fn remove(&mut self, space: u8, key: &[u8], value: &[u8]) {
        for (sum, number) in self.0.iter_mut().zip(numbers(space, key, value)) {
            *sum = sum.wrapping_sub(number);
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = [0; 4];
        for (index, number) in numbers.iter_mut().enumerate() {
            *number = u64::from_str_radix(text.get(index * 16..index * 16 + 16)?, 16).ok()?;
        }
        Some(Self(numbers))
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|number| write!(f, "{number:016x}"))
    }
}

fn numbers(space: u8, key: &[u8], value: &[u8]) -> [u64; 4] {
    let mut digest = Sha256::new_with_prefix([space]);
    digest.update((key.len() as u64).to_be_bytes());
    digest.update(key);
    digest.update(value);
    let digest = digest.finalize();
    let mut numbers = [0; 4];
    for (number, bytes) in numbers.iter_mut().zip(digest.chunks_exact(8)) {
        *number = bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    }
    numbers
}

/// The first 64 bits of a text's SHA-256 in hexadecimal: tells whether it is as it was written.
pub(super) fn check(text: &str) -> String {
    Sha256::digest(text).iter().take(8).fold(String::new(), |mut hex, byte| {
        // Writing into memory cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// What is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seal {
    /// The number of the last change; 0 before the first.
    pub(super) change: u64,
    /// What the directory has then.
    pub(super) content: Content,
    /// Bytes of the list of private channels that belong to it; see `private_list`.
    pub(super) private_list_bytes: u64,
}

impl Seal {
    fn to_text(self) -> String {
        let Self { change, content, private_list_bytes } = self;
        let text = format!("{TITLE} {change} {content} {private_list_bytes}");
        let check = check(&text);
        format!("{text} {check}")
    }

    fn parse(text: &str) -> Option<Self> {
        let (text, sum) = text.trim_end().rsplit_once(' ')?;
        let mut words = text.strip_prefix(TITLE)?.split_whitespace();
        let change = words.next()?.parse().ok()?;
        let content = Content::parse(words.next()?)?;
        let private_list_bytes = words.next()?.parse().ok()?;
        (check(text) == sum).then_some(Self { change, content, private_list_bytes })
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct SealFile(File);

impl SealFile {
    /// Opens the file if it is there, and reads it; `None` in the second place if it is damaged.
    pub(super) fn open(path: &Path) -> io::Result<Option<(Self, Option<Seal>)>> {
        let file = match File::options().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let text = std::fs::read(path)?;
        let is_whole = text.len() == SEAL_BYTES;
        let text = str::from_utf8(&text).ok().filter(|_| is_whole);
        Ok(Some((Self(file), text.and_then(Seal::parse))))
    }

    /// Makes the file, or another in the place of a damaged one.
    pub(super) fn create(path: &Path, seal: &Seal) -> io::Result<Self> {
        Ok(Self(replace(path, &padded(seal))?))
    }

    /// Writes what is in force from now on, and has it reach the disk.
    pub(super) fn write(&self, seal: &Seal) -> io::Result<()> {
        self.0.write_all_at(&padded(seal), 0)?;
        self.0.sync_data()
    }
}

fn padded(seal: &Seal) -> Vec<u8> {
    let mut bytes = seal.to_text().into_bytes();
    bytes.resize(SEAL_BYTES - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// Puts a file with this content in the place of another, if there is one: whatever happens, one of
/// the two is there as a whole. Nobody but its owner may read it.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<File> {
    let mut next = PathBuf::from(path).into_os_string();
    next.push(".next");
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&next)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&next, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_read_as_it_was_written_and_a_damaged_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal");
        assert!(SealFile::open(&path).unwrap().is_none());
        let mut seal = Seal { change: u64::MAX, private_list_bytes: u64::MAX, ..Seal::default() };
        seal.content.add(1, b"key", b"value");
        let file = SealFile::create(&path, &Seal::default()).unwrap();
        assert_eq!(SealFile::open(&path).unwrap().unwrap().1, Some(Seal::default()));
        file.write(&seal).unwrap();
        assert_eq!(SealFile::open(&path).unwrap().unwrap().1, Some(seal));
        let written = std::fs::read(&path).unwrap();
        let text = seal.to_text().len();
        for at in 0..text {
            let mut flipped = written.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, flipped).unwrap();
            assert_eq!(SealFile::open(&path).unwrap().unwrap().1, None, "{at}");
            std::fs::write(&path, &written[..at]).unwrap();
            assert_eq!(SealFile::open(&path).unwrap().unwrap().1, None, "{at}");
        }
    }

    #[test]
    fn content_is_what_is_there_in_whatever_order_it_came() {
        let (mut one, mut other) = (Content::default(), Content::default());
        one.add(1, b"a", b"b");
        one.add(1, b"c", b"d");
        other.add(1, b"c", b"x");
        other.add(1, b"c", b"d");
        other.add(1, b"a", b"b");
        assert_ne!(one, other);
        other.remove(1, b"c", b"x");
        assert_eq!(one, other);
        // Neither the part nor where a key ends is lost.
        let sum = |space, key: &[u8], value: &[u8]| {
            let mut sum = Content::default();
            sum.add(space, key, value);
            sum
        };
        assert_ne!(sum(1, b"ab", b"c"), sum(1, b"a", b"bc"));
        assert_ne!(sum(1, b"ab", b"c"), sum(2, b"ab", b"c"));
    }
}
