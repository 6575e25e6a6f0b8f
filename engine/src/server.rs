//! The server as a whole: checks, shards, draining.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

use crate::accounts;
use crate::accounts::{Accepted, Accounts, App, ChannelMeta, DirectoryError, Role, Usages};
use crate::clock::Clock;
use crate::config::Config;
use crate::hash::HashMap;
use crate::ids::{AppId, ChannelKey, LogId, ShardId};
use crate::log::{
    self, Append, Contents, LoadedChannel, Log, LogCall, LogError, LogPlan, StoredAnswer,
};
use crate::retention::Retentions;
use crate::retention::{Durability, Retention};
use crate::runtime::mailbox::{Inbox, Mailbox, mailbox};
use crate::runtime::{
    PortReservation, ShardError, ShardPlan, ShardThread, reserve_port, start_shard,
};
use crate::settings::Settings;
use crate::shard::Envelope;
use crate::shared::Shared;

/// Fewer open files than this make a fan-out server pointless; a warning says so.
const FILES_WANTED: u64 = 10_000;

/// Why the server does not start: the cause, and what helps.
#[derive(Debug, Error)]
pub enum StartupError {
    /// The data folder cannot be made or written.
    #[error("cannot use the data folder {path}: {source}; choose another with --data-dir")]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another server holds the data folder.
    #[error(
        "the data folder {path} is in use by another pushflo; stop that one, or choose another with --data-dir"
    )]
    DataDirLocked {
        /// The folder.
        path: PathBuf,
    },
    /// Apps and keys cannot be read.
    #[error("cannot open the apps and keys in {path}: {source}{}", directory_cure(.source))]
    Directory {
        /// Where they are.
        path: PathBuf,
        /// The cause.
        source: DirectoryError,
    },
    /// Nobody can listen there.
    #[error("cannot listen on {address}: {source}{}", listen_cure(.source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The kernel gives no io_uring.
    #[error("io_uring does not work here: {source}; {cure}")]
    IoUring {
        /// The cause.
        source: io::Error,
        /// What helps.
        cure: &'static str,
    },
    /// More shards than cores.
    #[error(
        "{shards} shards were asked for, but there are {cores} cores for them; a shard needs a core of its own, so lower --shards, or name the cores they are to share with --cores"
    )]
    Cores {
        /// Shards asked for.
        shards: usize,
        /// Cores this process may use.
        cores: usize,
    },
    /// A core that was named is not there, or not for this process.
    #[error("there is no core {core} for this process; --cores may name {}", list(.cores))]
    NoSuchCore {
        /// The core.
        core: usize,
        /// Those there are.
        cores: Vec<usize>,
    },
    /// A shard did not start.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The log cannot be opened.
    #[error("cannot open the log {path}: {source}{}", log_cure(.source))]
    Log {
        /// Where it is.
        path: PathBuf,
        /// The cause.
        source: LogError,
    },
    /// The machine is out of threads, descriptors or memory.
    #[error("the machine has no more resources: {0}")]
    Resources(#[from] io::Error),
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

fn listen_cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there, choose another with --listen",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        _ => "",
    }
}

fn directory_cure(error: &DirectoryError) -> &'static str {
    match error {
        DirectoryError::Store(_) | DirectoryError::Unknown(_) => "",
        DirectoryError::Damaged { .. } | DirectoryError::Lost(_) => {
            "; apps may be missing, revoked keys may work and private channels may be open, so the \
             server does not start. Restore the folder `directory` and the files `directory.seal` and \
             `directory.private` beside it from a copy of one moment. Without a copy, `pushflo \
             directory accept` goes on with what can be read, or move the folder and \
             `directory.seal` (not `directory.private`) away to begin with new apps and keys; \
             history stays"
        }
        DirectoryError::Plan { .. } => "; add it to the configuration again",
    }
}

fn log_cure(error: &LogError) -> &'static str {
    match error {
        LogError::Newer { .. } => "",
        LogError::Store(_) => "; history needs a disk that can be written, or --durability memory",
        LogError::Damaged(_) => {
            "; move it away to begin with an empty one, or restore it from a copy"
        }
        LogError::Stopped => "; look for the cause in the lines before this one",
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many shards it has.
    pub shards: usize,
    /// Keys of the default app that were made just now; they are not kept.
    pub generated: Vec<(Role, String)>,
    shared: Arc<Shared>,
    threads: Vec<ShardThread>,
    mailboxes: Vec<Mailbox>,
    log: Option<Log>,
    accounts: Option<Accounts>,
    /// Held as long as the server is there.
    lock: OwnedFd,
}

impl Server {
    /// Checks the machine and starts all shards, each on a core of its own.
    ///
    /// # Errors
    /// [`StartupError`] with cause and cure. Nothing is left running then.
    pub fn start(config: &Config) -> Result<Self, StartupError> {
        let there = core_affinity::get_core_ids().unwrap_or_default();
        let named: Result<Vec<_>, _> = config
            .cores
            .iter()
            .map(|&core| {
                let found = there.iter().find(|id| id.id == core).copied();
                let cores = || there.iter().map(|id| id.id).collect();
                found.ok_or_else(|| StartupError::NoSuchCore { core, cores: cores() })
            })
            .collect();
        let (named, is_named) = (named?, !config.cores.is_empty());
        let from = if is_named { named } else { there };
        let shards = config.shards.unwrap_or(from.len().max(1));
        if !is_named && shards > from.len() {
            return Err(StartupError::Cores { shards, cores: from.len() });
        }
        let cores: Vec<_> = from.iter().cycle().take(shards).copied().collect();
        Self::start_on(config, &cores)
    }

    /// As [`Server::start`], with one shard for each entry of `cores`, which may name a core more
    /// than once.
    ///
    /// # Errors
    /// As for [`Server::start`].
    pub fn start_on(
        config: &Config,
        cores: &[core_affinity::CoreId],
    ) -> Result<Self, StartupError> {
        check_io_uring()?;
        raise_file_limit();
        let shards = cores.len();
        let lock = lock_data_dir(&config.data_dir)?;
        let listen = |source| StartupError::Listen { address: config.listen, source };
        let reservation = reserve_port(config.listen).map_err(listen)?;
        let settings = Arc::new(Settings {
            origins: config.origins.clone(),
            limits: config.limits,
            timeouts: config.timeouts,
            has_log: config.durability != Durability::Memory,
            presence: config.presence,
            proxies: config.proxies.clone(),
            outbox: config.outbox,
            metrics_on_main_port: config.metrics_listen.is_none(),
        });
        let (mut mailboxes, mut inboxes) = (Vec::new(), Vec::new());
        // All eventfds are made before the first shard parts its file table.
        for _ in 0..shards {
            let (mailbox, inbox) = mailbox(config.mailbox_envelopes_max)?;
            mailboxes.push(mailbox);
            inboxes.push(inbox);
        }
        let mut directory = open_directory(config)?;
        let generated = std::mem::take(&mut directory.generated);
        let mut unshown = UnshownKeys { data_dir: &config.data_dir, keys: generated };
        let retentions = Arc::new(Retentions::default());
        let mut shared = Shared::new(shards, random_seed()).with_deletions(directory.deletions);
        let (mut log, mut stored) = (None, Stored::default());
        if settings.has_log {
            let (opened, contents) = open_log(config, &mailboxes, Arc::clone(&retentions))?;
            let status = Arc::clone(&opened.status);
            shared = shared.with_log(status, contents.incarnation, contents.next_log);
            shared.begin_generations(&contents.generations);
            let channels = contents.channels.iter().map(|loaded| (loaded.log, &loaded.channel));
            let met = directory.meet_log(channels);
            let path = config.data_dir.join("directory");
            met.map_err(|source| StartupError::Directory { path, source })?;
            stored.add(contents, &opened, &directory, &retentions);
            log = Some(opened);
        }
        stored.apps = directory.apps.values().cloned().collect();
        stored.metas = std::mem::take(&mut directory.channels);
        let shared = Arc::new(shared);
        let accounts = Accounts::start(
            directory,
            config.plans.clone(),
            Arc::clone(&shared.deletions),
            mailboxes.iter().map(|mailbox| mailbox.port(Envelope::Accounts)).collect(),
            retentions,
        )?;
        let mut server = Self {
            address: reservation.address,
            shards,
            generated: unshown.keys.clone(),
            shared,
            threads: Vec::new(),
            mailboxes,
            log,
            accounts: Some(accounts),
            lock,
        };
        match server.start_shards(config, &settings, cores, &reservation, inboxes, stored) {
            Ok(()) => {
                unshown.keys.clear();
                Ok(server)
            }
            Err(error) => {
                server.drain();
                server.join();
                Err(error)
            }
        }
    }

    /// Stops taking connections and closes those there are; [`Server::join`] waits for the end.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        for mailbox in &self.mailboxes {
            mailbox.wake();
        }
    }

    /// Connections open now.
    pub fn connection_count(&self) -> usize {
        self.shared.connection_count()
    }

    /// What the shards share, for metrics.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What apps use, for metrics.
    pub fn usages(&self) -> Arc<Usages> {
        self.accounts.as_ref().map(|accounts| Arc::clone(&accounts.usages)).unwrap_or_default()
    }

    /// Waits until all shards have drained.
    pub fn join(self) {
        for thread in self.threads {
            // A shard that panicked has ended the process already.
            let _ = thread.join();
        }
        if let Some(log) = self.log {
            log.close();
        }
        if let Some(accounts) = self.accounts {
            accounts.close();
        }
        // The shards' file tables had copies of it, and may outlive their threads by a moment.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }

    fn start_shards(
        &mut self,
        config: &Config,
        settings: &Arc<Settings>,
        cores: &[core_affinity::CoreId],
        reservation: &PortReservation,
        inboxes: Vec<Inbox>,
        stored: Stored,
    ) -> Result<(), StartupError> {
        let clock = Clock::start();
        let stored = stored.by_shard(&self.shared, self.shards);
        let (ready, started) = crossbeam_channel::bounded(self.shards);
        let inboxes = inboxes.into_iter().zip(stored).zip(cores);
        for (index, ((inbox, stored), core)) in inboxes.enumerate() {
            let plan = ShardPlan {
                id: ShardId(index as u16),
                core: *core,
                address: reservation.address,
                settings: Arc::clone(settings),
                shared: Arc::clone(&self.shared),
                inbox,
                mailboxes: self.mailboxes.clone(),
                log: self.log.as_ref().map(Log::handle),
                accounts: self.accounts.as_ref().map(Accounts::handle),
                stored,
                seed: random_seed(),
                clock,
                drain_spread_ms: config.drain_spread_ms,
            };
            self.threads.push(start_shard(plan, ready.clone())?);
        }
        drop(ready);
        for _ in 0..self.shards {
            if let Ok(result) = started.recv() {
                result?;
            }
        }
        Ok(())
    }
}

/// What the shards begin with.
#[derive(Debug, Default)]
pub struct Stored {
    /// All apps.
    pub apps: Vec<App>,
    /// Channels with metadata.
    pub metas: Vec<(ChannelKey, ChannelMeta)>,
    /// Channels that the log has.
    pub channels: Vec<LoadedChannel>,
    /// Answers for publishers who ask again.
    pub answers: Vec<(ChannelKey, StoredAnswer)>,
}

impl Stored {
    /// Adds what the log has. Channels that were deleted, alone or with their app, and are still
    /// there, are deleted now. Those of apps that are not known are kept, and nobody sees them.
    fn add(
        &mut self,
        contents: Contents,
        log: &Log,
        directory: &accounts::Opened,
        retentions: &Retentions,
    ) {
        for (id, month, messages) in contents.usage {
            if let Some(app) = directory.apps.get(&id) {
                app.usage.restore(month, messages);
            }
        }
        let (deleted, others): (Vec<_>, Vec<_>) =
            contents.channels.into_iter().partition(|loaded| {
                directory.deleted.contains(&loaded.log)
                    || directory.deleted_apps.contains(&loaded.channel.app)
            });
        if !deleted.is_empty() {
            let deletes = deleted.into_iter().map(|gone| (gone.log, gone.channel)).collect();
            let (entries, generations) = (Vec::new(), Vec::new());
            let append =
                Append { shard: NO_SHARD, term: 0, entries, deletes, generations, sync: false };
            // The queue is empty before the shards run.
            let _ = log.handle().post(LogCall::Append(append));
        }
        let (kept, strangers): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|loaded| directory.apps.contains_key(&loaded.channel.app));
        let mut unknown: BTreeMap<AppId, usize> = BTreeMap::new();
        for loaded in strangers {
            *unknown.entry(loaded.channel.app).or_default() += 1;
        }
        for (app, channels) in unknown {
            retentions.set(app, Retention::EVERYTHING);
            tracing::warn!(
                %app,
                channels,
                "the log has channels of an app that is not known; they are kept and nobody sees \
                 them: restore the directory with the app, or stop the server and delete them with \
                 `pushflo directory delete-history`"
            );
        }
        let names: HashMap<LogId, ChannelKey> =
            kept.iter().map(|channel| (channel.log, channel.channel.clone())).collect();
        let named = contents.answers.into_iter().filter_map(|loaded| {
            names.get(&loaded.log).map(|channel| (channel.clone(), loaded.answer))
        });
        self.answers.extend(named);
        self.channels = kept;
    }

    /// What each shard begins with: all apps, and the channels whose home it is.
    fn by_shard(self, shared: &Shared, shards: usize) -> Vec<Self> {
        let of_all = || Self { apps: self.apps.clone(), ..Self::default() };
        let mut all: Vec<Self> = (0..shards).map(|_| of_all()).collect();
        let mut place = |channel: &ChannelKey, put: &mut dyn FnMut(&mut Self)| {
            if let Some(stored) = all.get_mut(shared.home_shard(channel).index()) {
                put(stored);
            }
        };
        for channel in self.channels {
            place(&channel.channel.clone(), &mut |stored| stored.channels.push(channel.clone()));
        }
        for (channel, meta) in self.metas {
            place(&channel, &mut |stored| stored.metas.push((channel.clone(), meta.clone())));
        }
        for (channel, answer) in self.answers {
            place(&channel, &mut |stored| stored.answers.push((channel.clone(), answer.clone())));
        }
        all
    }
}

/// Nobody waits for what becomes of these appends.
const NO_SHARD: ShardId = ShardId(u16::MAX);

fn open_directory(config: &Config) -> Result<accounts::Opened, StartupError> {
    let path = config.data_dir.join("directory");
    accounts::open(&path, &config.plans, &config.keys)
        .map_err(|source| StartupError::Directory { path, source })
}

/// Opens the log and starts its threads.
fn open_log(
    config: &Config,
    mailboxes: &[Mailbox],
    retentions: Arc<Retentions>,
) -> Result<(Log, Contents), StartupError> {
    let path = config.data_dir.join("log");
    let opened = log::open(&path, random_seed());
    let opened = opened.map_err(|source| StartupError::Log { path: path.clone(), source })?;
    let contents = opened.contents.clone();
    let ports = mailboxes.iter().map(|mailbox| mailbox.port(Envelope::Log)).collect();
    let plan = LogPlan { path, retentions, ports };
    Ok((Log::start(opened, plan)?, contents))
}

/// Makes a key in the data folder of a server that is stopped, for those who lost theirs.
///
/// # Errors
/// [`StartupError`]: the folder is in use, or cannot be read or written.
pub fn recover_key(config: &Config, app: AppId, role: Role) -> Result<String, StartupError> {
    while_stopped(config, |path| {
        accounts::open(path, &config.plans, &config.keys)?.add_key(app, role)
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
        accounts::open(path, &config.plans, &config.keys)?.delete_history(app)
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

/// Keys that were made at this start: they stand in no other place. If the start fails after that they
/// are kept, since the next one makes none.
struct UnshownKeys<'a> {
    data_dir: &'a Path,
    keys: Vec<(Role, String)>,
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

fn lock_data_dir(path: &PathBuf) -> Result<OwnedFd, StartupError> {
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
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
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
        ["log", "directory", "generated-keys", "lock"].contains(&first)
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

fn check_io_uring() -> Result<(), StartupError> {
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
fn raise_file_limit() {
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

fn random_seed() -> u64 {
    getrandom::u64().unwrap_or_else(|_| crate::clock::unix_ms())
}
