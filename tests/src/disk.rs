//! A disk with faults below a program: its writes, syncs and opens fail when a test says so, and
//! what was not synced can be taken away as a power loss would.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fjall::{Database, KeyspaceCreateOptions, PersistMode};
use rustix::io::Errno;
use tempfile::TempDir;

/// Calls of one kind that fail; the kinds are told in `disk.c`.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub call: &'static str,
    pub error: Errno,
    /// Calls that go well before that.
    pub passes: u32,
}

/// A disk with faults, for the files of one folder.
pub struct Disk {
    below: PathBuf,
    folder: TempDir,
}

impl Disk {
    /// For the files below this folder, which need not be there yet.
    pub fn new(below: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = Self { below: below.to_owned(), folder };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/disk.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(disk.library()).arg(source);
        let status = compiler.status().expect("a C compiler");
        assert!(status.success(), "disk.c does not compile");
        disk
    }

    /// Has a program run on this disk.
    pub fn put_below(&self, command: &mut Command) {
        command.env("LD_PRELOAD", self.library());
        command.env("FAULTY_FOLDER", &self.below);
        command.env("FAULTY_CONTROL", self.control());
        command.env("FAULTY_SYNCED", self.synced());
    }

    /// Has calls fail from now on.
    pub fn fail(&self, faults: &[Fault]) {
        let line = |fault: &Fault| {
            let Fault { call, error, passes } = fault;
            format!("{call} {} {passes}\n", error.raw_os_error())
        };
        let lines: String = faults.iter().map(line).collect();
        let next = self.folder.path().join("next");
        fs::write(&next, lines).unwrap();
        fs::rename(next, self.control()).unwrap();
    }

    /// Has all calls go well again.
    pub fn heal(&self) {
        let _ = fs::remove_file(self.control());
    }

    /// Takes away what the journals have behind their last sync: all of it, or a part, or it is
    /// zeros. The program must be gone. Tables are synced before anything refers to them, so they
    /// stay.
    pub fn lose_unsynced(&self, random: &mut fastrand::Rng) {
        let mut synced = BTreeMap::new();
        let notes = fs::read_to_string(self.synced()).unwrap_or_default();
        for line in notes.lines() {
            let (bytes, path) = line.split_once(' ').unwrap();
            synced.insert(path, bytes.parse::<u64>().unwrap());
        }
        for (path, synced) in synced {
            if !path.ends_with(".jnl") || !Path::new(path).exists() {
                continue;
            }
            let file = fs::File::options().write(true).open(path).unwrap();
            let bytes = file.metadata().unwrap().len();
            let kept = if random.bool() { synced } else { synced + random.u64(..4096) };
            file.set_len(bytes.min(kept)).unwrap();
            if random.bool() {
                file.set_len(bytes).unwrap();
            }
        }
        let _ = fs::remove_file(self.synced());
    }

    /// Has the log in this folder find that it was not closed before the machine went down: the boot
    /// in which it was opened is another one. A log that nobody can read is left to be repaired.
    pub fn reboot(log: &Path) {
        let Ok(database) = Database::builder(log).worker_threads(1).open() else { return };
        let state = database.keyspace("state-2", KeyspaceCreateOptions::default).unwrap();
        assert!(state.get("open").unwrap().is_some(), "the log was closed");
        state.insert("open", "another boot").unwrap();
        database.persist(PersistMode::SyncAll).unwrap();
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("disk.so")
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    fn synced(&self) -> PathBuf {
        self.folder.path().join("synced")
    }
}
