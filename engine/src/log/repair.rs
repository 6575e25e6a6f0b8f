//! What is done about a log that is not as it was written.
//!
//! A crash in the middle of a write leaves a torn end, which the store cuts off by itself; here it
//! is noticed, so that offsets go on behind a leap. A journal with damage in its middle is cut back
//! to the last whole write, and a damaged table is made anew of what can be read of it. If that does
//! not help, the log is set aside and an empty one begun. In each case it is said what happened, and
//! nothing is deleted.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use fjall::Database;

use super::store::{Found, Store, open_database};
use super::{LoadedChannel, LogError, tables};

/// A log that was opened, with what was lost on the way.
pub(super) struct Repaired {
    pub(super) store: Store,
    pub(super) found: Found,
    /// Messages may have been lost that somebody has seen.
    pub(super) is_cut: bool,
    /// Tables and channels that are damaged.
    pub(super) damaged: u64,
}

/// Most channels that are named when a table is damaged.
const NAMES_MAX: usize = 20;

/// Opens the log, and repairs it where that is needed.
pub(super) fn open(path: &Path, seed: u64) -> Result<Repaired, LogError> {
    let written = active_journal(path).map(|journal| (written_bytes(&journal), journal));
    let open = || {
        let database = open_database(path)?;
        // Before anything is written again.
        let is_cut = written.is_some_and(|(written, journal)| {
            let left = fs::metadata(&journal).map_or(written, |about| about.len());
            if left < written {
                tracing::warn!(
                    bytes = written - left,
                    "the end of the log was torn and is cut off: a write that was under way when the \
                     server ended"
                );
            }
            left < written
        });
        let (store, found) = Store::of(database, seed)?;
        Ok((store, found, is_cut))
    };
    let reason = match open() {
        Ok((store, found, is_cut)) => match found.unreadable.first() {
            None => return Ok(Repaired { store, found, is_cut, damaged: 0 }),
            Some(unreadable) => {
                format!("channel {}: {}", unreadable.channel.slug, unreadable.reason)
            }
        },
        Err(LogError::Damaged(reason)) => reason,
        Err(error) => return Err(error),
    };
    tracing::error!(reason, "the log is damaged; looking for what of it is whole");
    repair(path, seed)
}

/// Makes damaged tables anew and opens the log. Channels whose end cannot be read even so are left as
/// they are.
pub(super) fn mend(path: &Path, seed: u64) -> Result<Repaired, LogError> {
    let mended = tables::mend(path, &free_name(path))?;
    let (store, found) = Store::open(path, seed)?;
    for logs in mended.iter().filter_map(|table| table.logs(store.records_path())) {
        let is_lost = |loaded: &&LoadedChannel| logs.contains(&loaded.log);
        let channels = found.channels.iter().filter(is_lost);
        let names: Vec<_> =
            channels.clone().take(NAMES_MAX).map(|loaded| loaded.channel.slug.as_str()).collect();
        tracing::error!(
            channels = channels.count(),
            first = names.join(","),
            "channels that may have lost messages with a damaged table; who asks for those is told \
             that they are not kept any more"
        );
    }
    let damaged = (mended.len() + found.unreadable.len()) as u64;
    Ok(Repaired { store, found, is_cut: true, damaged })
}

/// Writes the journal onto itself. When a sync fails, the kernel takes what it could not write for
/// written, and the next sync succeeds without it: only what is written again gets to the disk.
/// Nobody else may write to the log meanwhile.
pub(super) fn rewrite(path: &Path) -> Result<(), LogError> {
    const STEP: u64 = 1 << 20;
    let Some(journal) = active_journal(path) else { return Ok(()) };
    let rewrite = || -> io::Result<()> {
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
    };
    rewrite().map_err(|error| LogError::Store(error.to_string()))
}

fn repair(path: &Path, seed: u64) -> Result<Repaired, LogError> {
    let io = |error: io::Error| LogError::Store(error.to_string());
    for Cut { journal, copy, whole } in cut_to_whole(path).map_err(io)? {
        tracing::error!(
            journal = %journal.display(),
            copy = %copy.display(),
            whole,
            "a journal was cut back to its last whole write; what was behind it is lost from history \
             and kept in the copy"
        );
    }
    let reason = match mend(path, seed) {
        Ok(mut repaired) => {
            repaired.store.begin_anew(&mut repaired.found, seed)?;
            return Ok(repaired);
        }
        Err(LogError::Damaged(reason)) => reason,
        // A disk that cannot be read or written now may have all of it.
        Err(error) => return Err(error),
    };
    let aside = free_name(path);
    fs::rename(path, &aside).map_err(io)?;
    tracing::error!(
        aside = %aside.display(),
        reason,
        "the log cannot be repaired: it is set aside and an empty one begun; channels begin a new \
         epoch"
    );
    let (store, found) = Store::open(path, seed)?;
    Ok(Repaired { store, found, is_cut: false, damaged: 1 })
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
pub(super) fn cut_to_whole(path: &Path) -> io::Result<Vec<Cut>> {
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

pub(super) fn journals(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    files.filter(|path| path.extension().is_some_and(|e| e == "jnl")).collect()
}

fn active_journal(path: &Path) -> Option<PathBuf> {
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    journals(path).into_iter().max_by_key(number)
}

/// Where the last byte stands that is not zero: journals are longer than what is written in them.
pub(super) fn written_bytes(path: &Path) -> u64 {
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

/// `log.damaged-1`, `log.damaged-2` and so on, beside the log.
fn free_name(path: &Path) -> PathBuf {
    let mut number = 1;
    loop {
        let name = path.with_extension(format!("damaged-{number}"));
        if !name.exists() {
            return name;
        }
        number += 1;
    }
}
