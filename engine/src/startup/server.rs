//! The server as a whole: everything wired together, started, drained.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pushflo_protocol::time::Month;
use rustix::fs::{FlockOperation, flock};

use super::StartupError;
use super::data_dir::lock_data_dir;
use super::directory::open_directory;
use super::keys::UnshownKeys;
use super::machine::{check_io_uring, choose_cores, raise_file_limit};
use super::stored;
use crate::accounts::{Accounts, Role, Usages};
use crate::clock::{Clock, unix_ms};
use crate::cluster::{Cluster, FromCluster, ShardWays};
use crate::config::Config;
use crate::exposition;
use crate::host::Host;
use crate::ids::ShardId;
use crate::log::{self, Contents, Log, LogFolder, LogPlan};
use crate::mail::{Mail, ToEdge};
use crate::retention::{Durability, Retentions};
use crate::runtime::mailbox::{Inbox, Mailbox, mailbox};
use crate::runtime::{
    MetricsListener, PortReservation, Render, ShardPlan, ShardThread, reserve_port, start_shard,
};
use crate::settings::Settings;
use crate::shard::{Envelope, Stored};
use crate::shared::{Owners, Shared};

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it serves metrics, if not there.
    pub metrics_address: Option<SocketAddr>,
    /// How many shards it has.
    pub shards: usize,
    /// Keys of the default app that were made just now; they are not kept.
    pub generated: Vec<(Role, String)>,
    shared: Arc<Shared>,
    threads: Vec<ShardThread>,
    mailboxes: Vec<Mailbox>,
    log: Option<Log>,
    cluster: Option<Cluster>,
    accounts: Option<Accounts>,
    metrics: Option<MetricsListener>,
    host: Host,
    /// Held as long as the server is there.
    lock: OwnedFd,
}

impl Server {
    /// Checks the machine and starts all shards, each on a core of its own.
    ///
    /// # Errors
    /// [`StartupError`] with cause and cure. Nothing is left running then.
    pub fn start(config: &Config, host: Host) -> Result<Self, StartupError> {
        Self::start_on(config, host, &choose_cores(config)?)
    }

    /// As [`Server::start`], with one shard for each entry of `cores`, which may name a core more
    /// than once.
    ///
    /// # Errors
    /// As for [`Server::start`].
    pub fn start_on(
        config: &Config,
        host: Host,
        cores: &[core_affinity::CoreId],
    ) -> Result<Self, StartupError> {
        check_io_uring()?;
        raise_file_limit();
        let shards = cores.len();
        let lock = lock_data_dir(&config.data_dir)?;
        let listen = |source| StartupError::Listen { address: config.listen, source };
        let reservation = reserve_port(config.listen).map_err(listen)?;
        let metrics_listener = config.metrics_listen.map(listen_for_metrics).transpose()?;
        let settings = Arc::new(settings(config));
        // All eventfds are made before the first shard parts its file table.
        let ends = (0..shards).map(|_| mailbox(config.limits.mailbox_envelopes_max));
        let ends = ends.collect::<Result<Vec<_>, _>>()?;
        let (mailboxes, inboxes): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        let mut directory = open_directory(config)?;
        let generated = std::mem::take(&mut directory.generated);
        let mut unshown = UnshownKeys { data_dir: &config.data_dir, keys: generated };
        let retentions = Arc::new(Retentions::default());
        let mut shared = Shared::new(shards, random_seed()).with_deletions(directory.deletions);
        let (mut log, mut stored) = (None, Stored::default());
        if config.cluster.is_some() {
            shared.owners = Some(Owners::default());
        } else if settings.has_log {
            let (opened, contents) = open_log(config, host, &mailboxes, Arc::clone(&retentions))?;
            let status = Arc::clone(&opened.status);
            shared = shared.with_log(status, contents.incarnation, contents.next_log);
            shared.begin_generations(&contents.generations);
            let channels = contents.channels.iter().map(|loaded| (loaded.log, &loaded.channel));
            let met = directory.meet_log(channels);
            let path = config.data_dir.join("directory");
            met.map_err(|source| StartupError::Directory { path, source })?;
            stored = stored::of_log(contents, &opened, &directory, &retentions);
            log = Some(opened);
        }
        stored.apps = directory.apps.values().cloned().collect();
        stored.metas = std::mem::take(&mut directory.channels);
        let (shared, usages) = (Arc::new(shared), Arc::new(Usages::default()));
        let cluster = config.cluster.clone().map(|plan| {
            let (shared, usages) = (Arc::clone(&shared), Arc::clone(&usages));
            Cluster::start(plan, shared, ways(&mailboxes), usages, crate::clock::unix_ms)
        });
        let (cluster, bucket) = cluster.transpose()?.unzip();
        let accounts = Accounts::start(
            directory,
            config.plans.clone(),
            Arc::clone(&shared.deletions),
            mailboxes.iter().map(|mailbox| mailbox.port(Envelope::Accounts)).collect(),
            retentions,
            usages,
            bucket,
        )?;
        let mut server = Self {
            address: reservation.address,
            metrics_address: None,
            shards,
            generated: unshown.keys.clone(),
            shared,
            threads: Vec::new(),
            mailboxes,
            log,
            cluster,
            accounts: Some(accounts),
            metrics: None,
            host,
            lock,
        };
        let started = server
            .start_shards(config, &settings, cores, &reservation, inboxes, stored)
            .and_then(|()| server.start_metrics(metrics_listener));
        match started {
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
        if let Some(cluster) = &self.cluster {
            cluster.leave();
        }
        for mailbox in &self.mailboxes {
            mailbox.wake();
        }
    }

    /// Waits for keys of the default app that are made while the server runs, as the first node of a cluster
    /// does; `None` where none will be made any more. They exist nowhere else.
    pub fn made_keys(&self) -> Option<crossbeam_channel::Receiver<Vec<(Role, String)>>> {
        self.accounts.as_ref().map(|accounts| accounts.made_keys.clone())
    }

    /// Connections open now.
    pub fn connection_count(&self) -> usize {
        self.shared.connection_count()
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
        // What the accounts have begun is finished with the cluster.
        if let Some(accounts) = self.accounts {
            accounts.close();
        }
        if let Some(cluster) = self.cluster {
            cluster.close();
        }
        // To the last, so that a drain can be watched.
        if let Some(metrics) = self.metrics {
            metrics.close();
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
                log: match &self.cluster {
                    Some(cluster) => Some(cluster.log()),
                    None => self.log.as_ref().map(Log::handle),
                },
                cluster: self.cluster.as_ref().map(Cluster::handle),
                accounts: self.accounts.as_ref().map(Accounts::handle),
                stored,
                seed: random_seed(),
                clock,
                drain_spread_ms: config.drain_spread_ms,
                host: self.host,
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

    fn start_metrics(&mut self, listener: Option<TcpListener>) -> Result<(), StartupError> {
        let (Some(listener), Some(accounts)) = (listener, &self.accounts) else { return Ok(()) };
        let (shared, usages) = (Arc::clone(&self.shared), Arc::clone(&accounts.usages));
        let render: Render = Box::new(move || {
            let (log, month) = (shared.log.as_deref(), Month::of(unix_ms()));
            let cluster = shared.owners.as_ref().map(|_| &*shared.cluster);
            exposition::render(&shared.metrics, log, cluster, &usages.all(), month)
        });
        let metrics = MetricsListener::start(listener, render)?;
        self.metrics_address = Some(metrics.address);
        self.metrics = Some(metrics);
        Ok(())
    }
}

/// The ways from the cluster to the shards.
fn ways(mailboxes: &[Mailbox]) -> Vec<ShardWays> {
    let of = |mailbox: &Mailbox| {
        let (log, mailbox) = (mailbox.port(Envelope::Log), mailbox.clone());
        let inlet = Box::new(move |news| {
            let envelope = match news {
                FromCluster::Mail(from, mail) => Envelope::Abroad(from, mail),
                FromCluster::News(news) => Envelope::Cluster(news),
                FromCluster::Answer(answer) => Envelope::Mail(Mail::Edge(ToEdge::Answered(answer))),
            };
            let posted = mailbox.post(envelope);
            mailbox.wake();
            posted.map_err(|envelope| match envelope {
                Envelope::Abroad(from, mail) => FromCluster::Mail(from, mail),
                Envelope::Cluster(news) => FromCluster::News(news),
                Envelope::Mail(Mail::Edge(ToEdge::Answered(answer))) => FromCluster::Answer(answer),
                other => unreachable!("{other:?} was not posted"),
            })
        });
        ShardWays { log, inlet }
    };
    mailboxes.iter().map(of).collect()
}

/// Listens before anything runs, so that an address that is taken stops the start.
fn listen_for_metrics(address: SocketAddr) -> Result<TcpListener, StartupError> {
    TcpListener::bind(address).map_err(|source| StartupError::MetricsListen { address, source })
}

/// What the shards are to know of the configuration.
fn settings(config: &Config) -> Settings {
    Settings {
        origins: config.origins.clone(),
        limits: config.limits,
        timeouts: config.timeouts,
        has_log: config.cluster.is_some() || config.durability != Durability::Memory,
        history: config.history,
        presence: config.presence,
        proxies: config.proxies.clone(),
        metrics_on_main_port: config.metrics_listen.is_none(),
    }
}

/// Opens the log and starts its threads.
fn open_log(
    config: &Config,
    host: Host,
    mailboxes: &[Mailbox],
    retentions: Arc<Retentions>,
) -> Result<(Log, Contents), StartupError> {
    let memory_bytes = config.history.log_memory_bytes;
    let folder = LogFolder { path: config.data_dir.join("log"), memory_bytes };
    let opened = log::open(&folder, random_seed());
    let opened =
        opened.map_err(|source| StartupError::Log { path: folder.path.clone(), source })?;
    let contents = opened.contents.clone();
    let ports = mailboxes.iter().map(|mailbox| mailbox.port(Envelope::Log)).collect();
    let plan = LogPlan { folder, retentions, ports, host };
    Ok((Log::start(opened, plan)?, contents))
}

fn random_seed() -> u64 {
    getrandom::u64().unwrap_or_else(|_| crate::clock::unix_ms())
}
