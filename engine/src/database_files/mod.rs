//! The files that a database keeps for itself, as far as more must be known of them than the database
//! (fjall) tells: which there have to be, how much of a journal is whole, which of its tables is damaged.
//!
//! All of it is the library's private layout, for which it gives no word. So its version is pinned, only
//! this room knows it, and the tests below see whether another version still has it. The database must be
//! closed while its files are changed here.

mod journal;
mod tables;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub(crate) use journal::{Copies, Cut, JournalEnd, cut_to_whole, rewrite};
pub(crate) use tables::{Mended, mend};

/// The number of the keyspace where the store keeps what it knows of its keyspaces. Without that it takes
/// them for leftovers and removes them.
const STORE_KEYSPACE: &str = "0";

/// Why files of a database cannot be seen to.
#[derive(Debug, Error)]
pub(crate) enum FilesError {
    /// The disk does not read or write.
    #[error("{0}")]
    Disk(#[from] io::Error),
    /// What is there is damaged, and nothing can be made in its place.
    #[error("{path}: {reason}")]
    Damaged { path: String, reason: String },
}

/// The first file that a database that was written once must have and has not, or has empty. Opening it
/// makes what is missing and deletes what looks half made.
pub(crate) fn first_missing(database: &Path) -> Option<PathBuf> {
    let version = database.join("version");
    if !version.is_file() {
        return Some(version);
    }
    let keyspaces = database.join("keyspaces");
    let Ok(entries) = fs::read_dir(&keyspaces) else { return Some(keyspaces) };
    let currents = entries.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
    currents.map(|entry| entry.path().join("current")).find(|current| !current.is_file())
}

/// The folder of tables of each keyspace.
fn table_folders(database: &Path) -> io::Result<Vec<PathBuf>> {
    let keyspaces = entries(&database.join("keyspaces"))?;
    Ok(keyspaces.into_iter().map(|keyspace| keyspace.join("tables")).collect())
}

/// The entries of a folder, or none if it is not there.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use fjall::{Database, KeyspaceCreateOptions, PersistMode};

    use super::*;

    /// A database with a table of some blocks, and something in its journal.
    fn database(path: &Path) -> PathBuf {
        let database = Database::builder(path).worker_threads(1).open().unwrap();
        let keyspace = database.keyspace("items", KeyspaceCreateOptions::default).unwrap();
        for number in 0..2_000u32 {
            let value: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(64).collect();
            keyspace.insert(number.to_be_bytes(), value).unwrap();
        }
        keyspace.rotate_memtable_and_wait().unwrap();
        keyspace.insert("last", "in the journal").unwrap();
        database.persist(PersistMode::SyncAll).unwrap();
        keyspace.path().to_owned()
    }

    fn count(path: &Path) -> usize {
        let database = Database::builder(path).worker_threads(1).open().unwrap();
        let keyspace = database.keyspace("items", KeyspaceCreateOptions::default).unwrap();
        keyspace.iter().map(|item| item.into_inner().unwrap()).fold(0, |count, _| count + 1)
    }

    #[test]
    fn the_store_has_the_layout_that_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let keyspace = database(path);
        assert_eq!(first_missing(path), None);
        let mut names: Vec<_> = entries(path).unwrap().iter().map(|path| name(path)).collect();
        names.sort();
        assert_eq!(names, ["0.jnl", "keyspaces", "lock", "version"]);
        let mut keyspaces: Vec<_> =
            entries(&path.join("keyspaces")).unwrap().iter().map(|path| name(path)).collect();
        keyspaces.sort();
        assert_eq!(keyspaces, [STORE_KEYSPACE, "1"]);
        assert_eq!(keyspace, path.join("keyspaces/1"));
        let tables = entries(&keyspace.join("tables")).unwrap();
        assert_eq!(tables.len(), 1);
        assert!(name(&tables[0]).parse::<u64>().is_ok(), "{tables:?}");
    }

    #[test]
    fn what_must_be_there_is_missed() {
        let folder = tempfile::tempdir().unwrap();
        let keyspace = database(folder.path());
        for file in [folder.path().join("version"), keyspace.join("current")] {
            fs::rename(&file, folder.path().join("away")).unwrap();
            assert_eq!(first_missing(folder.path()), Some(file.clone()));
            fs::rename(folder.path().join("away"), file).unwrap();
        }
    }

    #[test]
    fn a_damaged_table_is_made_anew_of_what_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        let keyspace = database(&path);
        let table = entries(&keyspace.join("tables")).unwrap().remove(0);
        assert!(mend(&path, &folder.path().join("none")).unwrap().is_empty());
        let mut bytes = fs::read(&table).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(&table, &bytes).unwrap();
        let aside = folder.path().join("aside");
        let mended = mend(&path, &aside).unwrap();
        assert_eq!(mended.len(), 1);
        assert_eq!(mended[0].keyspace, keyspace);
        let (first, last) = mended[0].lost.as_ref().unwrap();
        let number = |key: &Option<lsm_tree::UserKey>| {
            u32::from_be_bytes(key.as_ref().unwrap()[..].try_into().unwrap())
        };
        let lost = (number(last) - number(first) - 1) as usize;
        assert!((1..1_000).contains(&lost), "{lost} of 2,000 items lost with one block");
        assert_eq!(count(&path), 2_001 - lost);
        assert_eq!(fs::read(aside.join(format!("1-table-{}", name(&table)))).unwrap(), bytes);
        assert!(mend(&path, &folder.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn a_journal_is_cut_before_what_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        database(&path);
        let end = JournalEnd::of(&path);
        assert_eq!(end.torn_bytes(), 0);
        assert!(cut_to_whole(&path).unwrap().is_empty());
        let journal = path.join("0.jnl");
        let whole = fs::read(&journal).unwrap();
        let at = whole.windows(4).rposition(|bytes| bytes == b"last").unwrap();
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        fs::write(&journal, &bytes).unwrap();
        let copies = Copies::of(&path).unwrap();
        let cuts = cut_to_whole(&path).unwrap();
        assert_eq!(cuts.len(), 1);
        assert_eq!(
            (&cuts[0].journal, cuts[0].whole),
            (&journal, fs::metadata(&journal).unwrap().len())
        );
        // What is left of the write that was damaged is a torn end.
        let (cut, written) = (cuts[0].whole, whole.iter().rposition(|&byte| byte != 0).unwrap());
        assert!((1..=written as u64).contains(&cut), "cut at {cut} of {written}");
        assert_eq!(fs::read(&cuts[0].copy).unwrap(), bytes);
        assert_eq!(count(&path), 2_000);
        copies.put_back().unwrap();
        assert_eq!(fs::read(&journal).unwrap(), bytes);
    }

    fn name(path: &Path) -> String {
        path.file_name().unwrap().to_str().unwrap().to_owned()
    }
}
