//! The data folder: made, locked for one server, and closed to everybody but its owner.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, flock};

use super::StartupError;

/// How often a folder that is in use is looked at again, and what is waited in between.
const LOCK_LOOKS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

pub(super) fn lock_data_dir(path: &PathBuf) -> Result<OwnedFd, StartupError> {
    let failed = |source| StartupError::DataDir { path: path.clone(), source };
    // Whatever is made from now on is for nobody else to read: keys' signing secrets, messages.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    std::fs::create_dir_all(path).map_err(failed)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join("lock"))
        .map_err(failed)?;
    let mut taken = flock(&lock, FlockOperation::NonBlockingLockExclusive);
    // A server that was killed may have it for a moment longer than the process is there.
    for _ in 0..LOCK_LOOKS {
        if taken != Err(rustix::io::Errno::WOULDBLOCK) {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
        taken = flock(&lock, FlockOperation::NonBlockingLockExclusive);
    }
    match taken {
        Ok(()) => {
            tighten(path).map_err(failed)?;
            Ok(lock.into())
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(StartupError::DataDirLocked { path: path.clone() })
        }
        Err(error) => Err(failed(error.into())),
    }
}

/// Takes from others what an earlier version, or a copy, left them: everything of the server's in the
/// data folder is for its owner only.
fn tighten(data_dir: &Path) -> io::Result<()> {
    let is_ours = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let first = name.split('.').next().unwrap_or_default();
        ["log", "directory", "generated-keys", "lock", "control"].contains(&first)
    };
    let entries = std::fs::read_dir(data_dir)?.map(|entry| Ok(entry?.path()));
    let mut paths = entries.collect::<io::Result<Vec<PathBuf>>>()?;
    paths.retain(|path| is_ours(path));
    while let Some(path) = paths.pop() {
        let about = std::fs::symlink_metadata(&path)?;
        if about.is_symlink() {
            continue;
        }
        let mode = about.permissions().mode();
        if mode & 0o077 != 0 {
            std::fs::set_permissions(&path, Permissions::from_mode(mode & 0o700))?;
        }
        if about.is_dir() {
            let entries = std::fs::read_dir(&path)?.map(|entry| Ok(entry?.path()));
            paths.extend(entries.collect::<io::Result<Vec<PathBuf>>>()?);
        }
    }
    Ok(())
}
