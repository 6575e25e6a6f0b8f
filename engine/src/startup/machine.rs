//! What the machine must have before anything is started.

use core_affinity::CoreId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::StartupError;
use crate::config::Config;

/// Fewer open files than this make a fan-out server pointless; a warning says so.
const FILES_WANTED: u64 = 10_000;

pub(super) fn check_io_uring() -> Result<(), StartupError> {
    let Err(source) = io_uring::IoUring::new(8) else { return Ok(()) };
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let cure = match (source.raw_os_error(), disabled.as_deref().map(str::trim)) {
        (_, Ok("1" | "2")) => {
            "it is switched off: sysctl kernel.io_uring_disabled=0 switches it on"
        }
        (Some(libc::ENOSYS), _) => {
            "the kernel is too old (5.19 or newer is needed) or was built without it"
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            "a seccomp profile forbids it, as containers often do: allow io_uring_setup, \
             io_uring_enter and io_uring_register"
        }
        (Some(libc::ENOMEM), _) => "too little memory may be locked: raise ulimit -l",
        _ => "Linux 5.19 or newer is needed",
    };
    Err(StartupError::IoUring { source, cure })
}

/// Raises the soft limit on open files to the hard one.
pub(super) fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if let Some(files) = getrlimit(Resource::Nofile).current
        && files < FILES_WANTED
    {
        tracing::warn!(
            files,
            "few open files are allowed, each shard takes no more connections than that; raise it \
             with ulimit -n or LimitNOFILE="
        );
    }
}

/// A core for each shard: those that are named, in turn, or one of its own for each.
pub(super) fn choose_cores(config: &Config) -> Result<Vec<CoreId>, StartupError> {
    let there = core_affinity::get_core_ids().unwrap_or_default();
    let named = config.cores.iter().map(|&core| {
        let found = there.iter().find(|id| id.id == core).copied();
        let cores = || there.iter().map(|id| id.id).collect();
        found.ok_or_else(|| StartupError::NoSuchCore { core, cores: cores() })
    });
    let named = named.collect::<Result<Vec<_>, _>>()?;
    let is_named = !named.is_empty();
    let from = if is_named { named } else { there };
    let shards = config.shards.unwrap_or(from.len().max(1));
    if !is_named && shards > from.len() {
        return Err(StartupError::Cores { shards, cores: from.len() });
    }
    Ok(from.into_iter().cycle().take(shards).collect())
}
