//! What is done about a log that is not as it was written.
//!
//! A crash in the middle of a write leaves a torn end, which the store cuts off by itself; here it
//! is noticed, so that offsets go on behind a leap. A journal with damage in its middle is cut back
//! to the last whole write, and a damaged table is made anew of what can be read of it. If that does
//! not help, the log is set aside and an empty one begun. In each case it is said what happened, and
//! nothing is deleted.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::store::{Found, LogStore, open_database};
use super::{LoadedChannel, LogError, LogFolder};
use crate::database_files::{self, Cut, JournalEnd, Mended};
use crate::ids::LogId;

/// A log that was opened, with what was lost on the way.
pub(super) struct Repaired {
    pub(super) store: LogStore,
    pub(super) found: Found,
    /// Messages may have been lost that somebody has seen.
    pub(super) is_cut: bool,
    /// Tables and channels that are damaged.
    pub(super) damaged: u64,
}

/// Most channels that are named when a table is damaged.
const NAMES_MAX: usize = 20;

/// Opens the log, and repairs it where that is needed.
pub(super) fn open(folder: &LogFolder, seed: u64) -> Result<Repaired, LogError> {
    let end = JournalEnd::of(&folder.path);
    let open = || {
        let database = open_database(folder)?;
        let bytes = end.torn_bytes();
        let is_cut = bytes > 0;
        if is_cut {
            tracing::warn!(
                bytes,
                "the end of the log was torn and is cut off: a write that was under way when the server \
                 ended"
            );
        }
        let (store, found) = LogStore::of(database, folder, seed)?;
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
    repair(folder, seed)
}

/// Makes damaged tables anew and opens the log. Channels whose end cannot be read even so are left as
/// they are.
pub(super) fn mend(folder: &LogFolder, seed: u64) -> Result<Repaired, LogError> {
    let mended = database_files::mend(&folder.path, &free_name(&folder.path))?;
    let (store, found) = LogStore::open(folder, seed)?;
    for logs in mended.iter().filter_map(|table| lost_logs(table, store.records_path())) {
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

/// The channels that may have lost messages with a table; none if it is not one of `records`, a keyspace's
/// folder.
fn lost_logs(table: &Mended, records: &Path) -> Option<RangeInclusive<LogId>> {
    if table.keyspace.file_name() != records.file_name() {
        return None;
    }
    let log = |key: &[u8]| key.first_chunk().copied().map(u64::from_be_bytes).map(LogId);
    let (first, last) = table.lost.as_ref()?;
    let first = first.as_deref().and_then(log).unwrap_or(LogId(0));
    let last = last.as_deref().and_then(log).unwrap_or(LogId(u64::MAX));
    Some(first..=last)
}

fn repair(folder: &LogFolder, seed: u64) -> Result<Repaired, LogError> {
    let io = |error: io::Error| LogError::Store(error.to_string());
    for Cut { journal, copy, whole } in database_files::cut_to_whole(&folder.path).map_err(io)? {
        tracing::error!(
            journal = %journal.display(),
            copy = %copy.display(),
            whole,
            "a journal was cut back to its last whole write; what was behind it is lost from history \
             and kept in the copy"
        );
    }
    let reason = match mend(folder, seed) {
        Ok(mut repaired) => {
            repaired.store.begin_anew(&mut repaired.found, seed)?;
            return Ok(repaired);
        }
        Err(LogError::Damaged(reason)) => reason,
        // A disk that cannot be read or written now may have all of it.
        Err(error) => return Err(error),
    };
    let aside = free_name(&folder.path);
    fs::rename(&folder.path, &aside).map_err(io)?;
    tracing::error!(
        aside = %aside.display(),
        reason,
        "the log cannot be repaired: it is set aside and an empty one begun; channels begin a new \
         epoch"
    );
    let (store, found) = LogStore::open(folder, seed)?;
    Ok(Repaired { store, found, is_cut: false, damaged: 1 })
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
