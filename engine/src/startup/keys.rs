//! Keys that were made at a start. They are kept nowhere but as digests, so whoever starts the server
//! must be shown them; where nobody is, they go to a file for the folder's owner.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::accounts::Role;

/// Keys that were made at this start: they stand in no other place. If the start fails after that they
/// are kept, since the next one makes none.
pub(super) struct UnshownKeys<'a> {
    pub(super) data_dir: &'a Path,
    pub(super) keys: Vec<(Role, String)>,
}

impl Drop for UnshownKeys<'_> {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        match keep_keys(self.data_dir, &self.keys) {
            Ok(path) => tracing::warn!("the keys that were made are in {}", path.display()),
            Err(error) => tracing::error!(
                %error, "the keys that were made are lost; pushflo keys recover makes another one"
            ),
        }
    }
}

/// Keeps keys that nobody could be shown in a file of the data folder that only its owner reads, and
/// says where that is.
///
/// # Errors
/// The file cannot be written.
pub fn keep_keys(data_dir: &Path, keys: &[(Role, String)]) -> io::Result<PathBuf> {
    let path = data_dir.join("generated-keys");
    let mut file = File::options();
    // Those of an earlier start stay, and a link leads nowhere.
    file.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut file = file.open(&path)?;
    for (role, key) in keys {
        writeln!(file, "{:<8} {key}", role.name())?;
    }
    file.sync_all()?;
    Ok(path)
}
