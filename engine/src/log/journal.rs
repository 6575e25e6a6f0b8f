//! The journals of a database, as files: what the log and the directory both need to know of them.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::repair;
pub(crate) use super::repair::Cut;

/// What the journals of a database have, in memory: opening it cuts off what it cannot read.
///
/// A database's `max_journaling_size` bounds them; only one that is small is worth it.
#[derive(Debug)]
pub(crate) struct Copies(Vec<Copy>);

#[derive(Debug)]
struct Copy {
    path: PathBuf,
    written: Vec<u8>,
    /// With the zeros that are there for what is written next.
    length: u64,
}

impl Copies {
    /// Reads the journals in `path`, if there are any.
    ///
    /// # Errors
    /// One cannot be read.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let copy = |path: PathBuf| {
            let mut written = Vec::new();
            File::open(&path)?.take(repair::written_bytes(&path)).read_to_end(&mut written)?;
            let length = fs::metadata(&path)?.len();
            Ok(Copy { path, written, length })
        };
        repair::journals(path).into_iter().map(copy).collect::<io::Result<_>>().map(Self)
    }

    /// Has the journals be what they were; the database must be closed.
    ///
    /// # Errors
    /// One cannot be written.
    pub(crate) fn put_back(self) -> io::Result<()> {
        for Copy { path, written, length } in self.0 {
            let is_as_it_was = fs::metadata(&path).is_ok_and(|about| about.len() == length)
                && repair::written_bytes(&path) == written.len() as u64
                && fs::read(&path)?.starts_with(&written);
            if !is_as_it_was {
                let next = path.with_extension("jnl.next");
                let mut file = File::create(&next)?;
                file.write_all(&written)?;
                file.set_len(length)?;
                file.sync_all()?;
                fs::rename(next, path)?;
            }
        }
        Ok(())
    }
}

/// Cuts journals with damage in their middle back to the last whole write, and keeps copies of them as
/// they were.
///
/// # Errors
/// The disk.
pub(crate) fn cut_to_whole(path: &Path) -> io::Result<Vec<Cut>> {
    repair::cut_to_whole(path)
}

/// Writes the journal onto itself, as a sync that failed may have left it out.
///
/// # Errors
/// The disk.
pub(crate) fn rewrite(path: &Path) -> io::Result<()> {
    repair::rewrite(path).map_err(io::Error::other)
}
