//! Journals: how far they are written, cutting off what cannot be read, keeping them as they were.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use fjall::Database;

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
            File::open(&path)?.take(written_bytes(&path)).read_to_end(&mut written)?;
            let length = fs::metadata(&path)?.len();
            Ok(Copy { path, written, length })
        };
        journals(path).into_iter().map(copy).collect::<io::Result<_>>().map(Self)
    }

    /// Has the journals be what they were; the database must be closed.
    ///
    /// # Errors
    /// One cannot be written.
    pub(crate) fn put_back(self) -> io::Result<()> {
        for Copy { path, written, length } in self.0 {
            let is_as_it_was = fs::metadata(&path).is_ok_and(|about| about.len() == length)
                && written_bytes(&path) == written.len() as u64
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

/// How far the journal that is written to was written before the database was opened.
#[derive(Debug)]
pub(crate) struct JournalEnd(Option<(PathBuf, u64)>);

impl JournalEnd {
    /// Of the database in `path`, which is closed.
    pub(crate) fn of(path: &Path) -> Self {
        Self(active_journal(path).map(|journal| {
            let written = written_bytes(&journal);
            (journal, written)
        }))
    }

    /// What opening the database has cut off: a torn write. To be asked before anything is written again.
    pub(crate) fn torn_bytes(&self) -> u64 {
        let Some((journal, written)) = &self.0 else { return 0 };
        fs::metadata(journal).map_or(0, |about| written.saturating_sub(about.len()))
    }
}

/// Writes the journal onto itself. When a sync fails, the kernel takes what it could not write for
/// written, and the next sync succeeds without it: only what is written again gets to the disk.
/// Nobody else may write to the log meanwhile.
///
/// # Errors
/// The disk.
pub(crate) fn rewrite(path: &Path) -> io::Result<()> {
    const STEP: u64 = 1 << 20;
    let Some(journal) = active_journal(path) else { return Ok(()) };
    let file = File::options().read(true).write(true).open(journal)?;
    let (mut at, bytes) = (0, file.metadata()?.len());
    let mut chunk = Vec::new();
    while at < bytes {
        chunk.resize(STEP.min(bytes - at) as usize, 0);
        file.read_exact_at(&mut chunk, at)?;
        file.write_all_at(&chunk, at)?;
        at += chunk.len() as u64;
    }
    file.sync_data()
}

/// A journal that was cut back to its last whole write.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) journal: PathBuf,
    /// What it was.
    pub(crate) copy: PathBuf,
    /// Its bytes now.
    pub(crate) whole: u64,
}

/// Cuts journals with damage in their middle back to the last whole write, and keeps copies of them as
/// they were.
///
/// # Errors
/// The disk.
pub(crate) fn cut_to_whole(path: &Path) -> io::Result<Vec<Cut>> {
    let mut cuts = Vec::new();
    for journal in journals(path) {
        let bytes = fs::metadata(&journal)?.len();
        let whole = whole_bytes(&journal, path)?;
        if whole < bytes {
            let copy = journal.with_extension("jnl.damaged");
            fs::copy(&journal, &copy)?;
            File::options().write(true).open(&journal).and_then(|f| f.set_len(whole))?;
            cuts.push(Cut { journal, copy, whole });
        }
    }
    Ok(cuts)
}

/// How much of a journal, from its start, the store can read. It is asked, with copies of ever
/// better guesses in a folder of its own: the format is its own affair.
fn whole_bytes(journal: &Path, path: &Path) -> io::Result<u64> {
    let scratch = path.with_extension("repair");
    let reads = |bytes: u64| -> io::Result<bool> {
        let _ = fs::remove_dir_all(&scratch);
        let make = Database::builder(&scratch).worker_threads(1).open();
        drop(make.map_err(|error| io::Error::other(error.to_string()))?);
        let name = scratch.join("0.jnl");
        let mut copy = File::create(&name)?;
        io::copy(&mut File::open(journal)?.take(bytes), &mut copy)?;
        copy.flush()?;
        Ok(Database::builder(&scratch).worker_threads(1).open().is_ok())
    };
    let (mut good, mut bad) = (0, fs::metadata(journal)?.len() + 1);
    while bad - good > 1 {
        let guess = if good == 0 && bad == fs::metadata(journal)?.len() + 1 {
            bad - 1
        } else {
            good + (bad - good) / 2
        };
        if reads(guess)? {
            good = guess;
        } else {
            bad = guess;
        }
    }
    let _ = fs::remove_dir_all(&scratch);
    Ok(good)
}

fn journals(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    files.filter(|path| path.extension().is_some_and(|e| e == "jnl")).collect()
}

fn active_journal(path: &Path) -> Option<PathBuf> {
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    journals(path).into_iter().max_by_key(number)
}

/// Where the last byte stands that is not zero: journals are longer than what is written in them.
fn written_bytes(path: &Path) -> u64 {
    const STEP: u64 = 1 << 20;
    let find = || -> io::Result<u64> {
        let mut file = File::open(path)?;
        let mut end = file.metadata()?.len();
        let mut chunk = Vec::new();
        while end > 0 {
            let start = end.saturating_sub(STEP);
            file.seek(SeekFrom::Start(start))?;
            chunk.clear();
            (&mut file).take(end - start).read_to_end(&mut chunk)?;
            if let Some(last) = chunk.iter().rposition(|&byte| byte != 0) {
                return Ok(start + last as u64 + 1);
            }
            end = start;
        }
        Ok(0)
    };
    find().unwrap_or(0)
}
