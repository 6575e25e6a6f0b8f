//! Tables of the store that are not as they were written: found, kept aside, and made anew of all
//! that can be read.
//!
//! The store has no way around a block that it cannot read: a compaction that comes upon one ends the
//! store's worker, and then nothing is written any more, now and after each start. So the table goes
//! and another of the same number takes its place, with all items outside of the damaged block. That
//! keeps their sequence numbers and the marks of what was removed.
//!
//! What is read and written here is the library's own format, through the library's own reader and writer.

use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lsm_tree::table::{Scanner, Writer};
use lsm_tree::{Cache, Checksum, CompressionType, InternalValue, Table, UserKey, ValueType};

use super::{FilesError, STORE_KEYSPACE, entries, table_folders};

/// A table that was made anew.
#[derive(Debug)]
pub(crate) struct Mended {
    /// The folder of its keyspace.
    pub(crate) keyspace: PathBuf,
    /// The last key before what was lost, and the first behind it; `None` if all of it was read.
    pub(crate) lost: Option<(Option<UserKey>, Option<UserKey>)>,
}

/// Looks through all tables of the database in `path` and makes those anew that are damaged. Each is kept
/// in `aside`, which is made if there is one.
///
/// # Errors
/// The disk takes no writes, or what the database knows of itself is damaged.
pub(crate) fn mend(path: &Path, aside: &Path) -> Result<Vec<Mended>, FilesError> {
    let mut mended = Vec::new();
    for folder in table_folders(path)? {
        let keyspace = folder.parent().unwrap_or(path);
        let tables = entries(&folder)?;
        for table in &tables {
            // What the store passes over at its start as well.
            let name = table.file_name().and_then(|name| name.to_str());
            let Some(number) = name.and_then(|name| name.parse().ok()) else { continue };
            let Err(reason) = check(table) else { continue };
            let damaged =
                |reason| Err(FilesError::Damaged { path: table.display().to_string(), reason });
            if keyspace.file_name().is_some_and(|name| name == STORE_KEYSPACE) {
                return damaged(reason);
            }
            let readable = readable(table);
            if readable.is_empty() && readable.min.is_none() && tables.len() > 1 {
                // Nobody knows its place among the others.
                return damaged(reason);
            }
            keep(table, keyspace, aside, &reason, &readable)?;
            let lost = readable.lost();
            replace(table, number, readable).map_err(io::Error::other)?;
            mended.push(Mended { keyspace: keyspace.to_owned(), lost });
        }
    }
    Ok(mended)
}

fn open(table: &Path) -> lsm_tree::Result<Table> {
    // A cache of its own, as what it holds is what the store must not see again.
    let cache = Arc::new(Cache::with_capacity_bytes(0));
    Table::recover(table.to_owned(), Checksum::from_raw(0), 0, 0, cache, None, true, true)
}

/// Reads all of a table. Says what is wrong with it.
fn check(table: &Path) -> Result<(), String> {
    let read =
        || -> lsm_tree::Result<()> { open(table)?.iter().try_for_each(|item| item.map(drop)) };
    read().map_err(|error| format!("{error:?}"))
}

/// What can be read of a table.
#[derive(Default)]
struct Readable {
    /// Its items up to the first damage.
    before: Vec<InternalValue>,
    /// Those behind the last damage.
    behind: Vec<InternalValue>,
    /// All items were read.
    is_whole: bool,
    /// Its lowest key, if its end can be read, where that is told.
    min: Option<UserKey>,
}

impl Readable {
    fn is_empty(&self) -> bool {
        self.before.is_empty() && self.behind.is_empty()
    }

    fn lost(&self) -> Option<(Option<UserKey>, Option<UserKey>)> {
        let key = |item: &InternalValue| item.key.user_key.clone();
        (!self.is_whole).then(|| (self.before.last().map(key), self.behind.first().map(key)))
    }
}

fn readable(path: &Path) -> Readable {
    let Ok(table) = open(path) else {
        return Readable { before: without_index(path), ..Readable::default() };
    };
    let mut is_whole = true;
    let before = table.iter().map_while(|item| item.inspect_err(|_| is_whole = false).ok());
    let before: Vec<_> = before.collect();
    let from = match before.last() {
        Some(item) => Bound::Excluded(item.key.user_key.clone()),
        None => Bound::Unbounded,
    };
    let behind = table.range((from, Bound::Unbounded)).rev();
    let mut behind: Vec<_> = behind.map_while(Result::ok).collect();
    behind.reverse();
    let min = Some(table.metadata.key_range.min().clone());
    Readable { before, behind, is_whole, min }
}

/// The items of a table whose end, where its index is, cannot be read: its blocks from the start on.
fn without_index(path: &Path) -> Vec<InternalValue> {
    // Whether it is compressed is told at its end too. What is not cannot be decompressed, so that is
    // tried first.
    let scan = |compression| Scanner::new(path, usize::MAX, compression, 0);
    let Ok(items) = scan(CompressionType::Lz4).or_else(|_| scan(CompressionType::None)) else {
        return Vec::new();
    };
    items.map_while(Result::ok).collect()
}

/// Keeps a damaged table aside. It is a second name, so that a full disk has room for it.
fn keep(
    table: &Path,
    keyspace: &Path,
    aside: &Path,
    reason: &str,
    readable: &Readable,
) -> io::Result<()> {
    fs::create_dir_all(aside)?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kept = aside.join(format!("{}-table-{}", name(keyspace), name(table)));
    fs::hard_link(table, &kept)?;
    tracing::error!(
        table = %table.display(),
        kept = %kept.display(),
        reason,
        items = readable.before.len() + readable.behind.len(),
        "a table of the log is damaged: it is kept aside, and another takes its place with the items \
         that can be read"
    );
    Ok(())
}

fn replace(table: &Path, number: u64, readable: Readable) -> lsm_tree::Result<()> {
    // The store passes over names that begin so, should this end half-way.
    let draft = table.with_file_name(format!("._{number}"));
    let _ = fs::remove_file(&draft);
    let mut writer = Writer::new(draft.clone(), number, 0)?;
    if readable.is_empty() {
        // The store wants a table of this number. This one says of a key that was lost that it is.
        let key = readable.min.unwrap_or_else(|| UserKey::from([0]));
        writer.write(InternalValue::from_components(key, [], 0, ValueType::Tombstone))?;
    }
    for item in readable.before.into_iter().chain(readable.behind) {
        writer.write(item)?;
    }
    writer.finish()?;
    fs::rename(&draft, table)?;
    Ok(table.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?)
}
