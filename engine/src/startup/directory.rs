//! The directory of apps and keys: opened at the start, or repaired while no server runs.

use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::StartupError;
use super::data_dir::lock_data_dir;
use crate::accounts::{self, Accepted, DirectoryError, DirectoryOf, Role};
use crate::config::Config;
use crate::ids::AppId;

pub(super) fn open_directory(config: &Config) -> Result<accounts::OpenedDirectory, StartupError> {
    let path = config.data_dir.join("directory");
    let of = match config.cluster {
        Some(_) => DirectoryOf::ClusterNode,
        None => DirectoryOf::OneServer,
    };
    accounts::open(&path, &config.plans, &config.keys, of)
        .map_err(|source| StartupError::Directory { path, source })
}

/// Makes a key in the data folder of a server that is stopped, for those who lost theirs.
///
/// # Errors
/// [`StartupError`]: the folder is in use, or cannot be read or written.
pub fn recover_key(config: &Config, app: AppId, role: Role) -> Result<String, StartupError> {
    while_stopped(config, |path| {
        accounts::open(path, &config.plans, &config.keys, DirectoryOf::OneServer)?
            .add_key(app, role)
    })
}

/// Takes apps and keys as they are, although part of what was in force is lost; see [`accounts::accept`].
///
/// # Errors
/// As for [`recover_key`].
pub fn accept_directory(config: &Config) -> Result<Accepted, StartupError> {
    while_stopped(config, accounts::accept)
}

/// Has the history of an app that is not known be deleted at the next start.
///
/// # Errors
/// As for [`recover_key`]; or the app is known.
pub fn delete_history(config: &Config, app: AppId) -> Result<(), StartupError> {
    while_stopped(config, |path| {
        accounts::open(path, &config.plans, &config.keys, DirectoryOf::OneServer)?
            .delete_history(app)
    })
}

/// Does something with the directory while no server has it.
fn while_stopped<T>(
    config: &Config,
    act: impl FnOnce(&Path) -> Result<T, DirectoryError>,
) -> Result<T, StartupError> {
    let lock = lock_data_dir(&config.data_dir)?;
    let path = config.data_dir.join("directory");
    let result = act(&path).map_err(|source| StartupError::Directory { path, source });
    let _ = flock(&lock, FlockOperation::Unlock);
    result
}
