//! The directory of apps and keys: opened at the start, or repaired while no server runs.

use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::StartupError;
use super::data_dir::lock_data_dir;
use super::keys::UnshownKeys;
use crate::accounts::{self, Accepted, DirectoryError, DirectoryOf, Role};
use crate::cluster::{self, ImportProgress, Imported};
use crate::config::Config;
use crate::ids::AppId;
use crate::log::{self, LogFolder};

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

/// Brings what a stopped server by itself has into a cluster that has nothing yet, by the configuration of a
/// node of it; see [`cluster::import`]. Returns keys of the default app that were made for roles that had none,
/// too: they exist nowhere else.
///
/// # Errors
/// As for [`recover_key`]; or why not all could be brought over.
pub fn import(
    config: &Config,
    from: &Path,
    told: impl FnMut(ImportProgress),
) -> Result<(ImportProgress, Vec<(Role, String)>), StartupError> {
    let Some(plan) = &config.cluster else { return Err(StartupError::ImportWithoutCluster) };
    let is_there = from.join("directory").is_dir();
    if !is_there {
        return Err(StartupError::NothingToImport { path: from.to_owned() });
    }
    let lock = lock_data_dir(&from.to_owned())?;
    let path = from.join("directory");
    let directory = accounts::open(&path, &config.plans, &config.keys, DirectoryOf::OneServer);
    let mut directory = directory.map_err(|source| StartupError::Directory { path, source })?;
    let generated = std::mem::take(&mut directory.generated);
    let mut unshown = UnshownKeys { data_dir: from, keys: generated.clone() };
    let path = from.join("log");
    let memory_bytes = config.history.log_memory_bytes;
    let log = path.is_dir().then(|| log::open(&LogFolder { path: path.clone(), memory_bytes }, 0));
    let log = log.transpose().map_err(|source| StartupError::Log { path, source })?;
    if let Some(log) = &log {
        let channels = log.contents.channels.iter().map(|loaded| (loaded.log, &loaded.channel));
        let path = from.join("directory");
        let met = directory.meet_log(channels);
        met.map_err(|source| StartupError::Directory { path, source })?;
    }
    let imported = cluster::import(plan, &Imported { directory, log }, told);
    let _ = flock(&lock, FlockOperation::Unlock);
    let progress = imported.map_err(StartupError::Import)?;
    unshown.keys.clear();
    Ok((progress, generated))
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
