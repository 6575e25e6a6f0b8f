//! What serves all shards: the log, the accounts and the cluster, each with threads of its own, and the data folder
//! that is locked for them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use super::StartupError;
use super::data_dir::lock_data_dir;
use super::directory::open_directory;
use super::keys::UnshownKeys;
use super::random_seed;
use crate::accounts::{Accounts, OpenedDirectory, Usages};
use crate::cluster::{Cluster, FromCluster, ShardWays};
use crate::config::Config;
use crate::host::Host;
use crate::log::{self, Contents, Log, LogFolder, LogPlan, LogStatus};
use crate::mail::{Mail, ToEdge};
use crate::retention::{Durability, Retentions};
use crate::runtime::Ways;
use crate::runtime::mailbox::Mailbox;
use crate::shard::Envelope;
use crate::shared::Shared;

/// What services of one process have in common with those that are started in their place.
#[derive(Debug)]
pub(super) struct Lasting {
    pub(super) mailboxes: Vec<Mailbox>,
    pub(super) retentions: Arc<Retentions>,
    pub(super) usages: Arc<Usages>,
    pub(super) log_status: Arc<LogStatus>,
    pub(super) host: Host,
}

/// The data folder, and what there is in it.
pub(super) struct OpenedData {
    pub(super) lock: OwnedFd,
    pub(super) directory: OpenedDirectory,
    pub(super) log: Option<(Log, Contents)>,
}

/// The services while they run.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) log: Option<Log>,
    pub(super) cluster: Option<Cluster>,
    pub(super) accounts: Accounts,
    /// Held as long as they are there.
    lock: OwnedFd,
}

impl OpenedData {
    /// Opens the folder, and starts the log.
    pub(super) fn open(config: &Config, lasting: &Lasting) -> Result<Self, StartupError> {
        let lock = lock_data_dir(&config.data_dir)?;
        let mut directory = open_directory(config)?;
        // Keys that were made just now are kept also where the log cannot be opened.
        let generated = std::mem::take(&mut directory.generated);
        let mut unshown = UnshownKeys { data_dir: &config.data_dir, keys: generated };
        let has_log = config.cluster.is_none() && config.durability != Durability::Memory;
        let log = has_log.then(|| open_log(config, lasting)).transpose()?;
        directory.generated = std::mem::take(&mut unshown.keys);
        Ok(Self { lock, directory, log })
    }
}

impl Services {
    /// Starts what is not started by opening the data.
    pub(super) fn start(
        config: &Config,
        lock: OwnedFd,
        directory: OpenedDirectory,
        log: Option<Log>,
        shared: &Arc<Shared>,
        lasting: &Lasting,
    ) -> Result<Self, StartupError> {
        let usages = &lasting.usages;
        let cluster = config.cluster.clone().map(|plan| {
            let (shared, usages) = (Arc::clone(shared), Arc::clone(usages));
            let ways = ways(&lasting.mailboxes);
            Cluster::start(plan, shared, ways, usages, crate::clock::unix_ms)
        });
        let (cluster, bucket) = cluster.transpose()?.unzip();
        let ports = lasting.mailboxes.iter().map(|mailbox| mailbox.port(Envelope::Accounts));
        let accounts = Accounts::start(
            directory,
            config.plans.clone(),
            Arc::clone(&shared.deletions),
            ports.collect(),
            Arc::clone(&lasting.retentions),
            Arc::clone(usages),
            bucket,
        )?;
        Ok(Self { log, cluster, accounts, lock })
    }

    /// The ways of a shard to them.
    pub(super) fn ways(&self) -> Ways {
        Ways {
            log: match &self.cluster {
                Some(cluster) => Some(cluster.log()),
                None => self.log.as_ref().map(Log::handle),
            },
            accounts: Some(self.accounts.handle()),
            cluster: self.cluster.as_ref().map(Cluster::handle),
        }
    }

    /// Finishes what was begun, and lets the data folder go. No shard may have a way to them any more.
    pub(super) fn close(self) {
        if let Some(log) = self.log {
            log.close();
        }
        // What the accounts have begun is finished with the cluster.
        self.accounts.close();
        if let Some(cluster) = self.cluster {
            cluster.close();
        }
        // The shards' file tables had copies of it, and may outlive their threads by a moment.
        let _ = flock(&self.lock, FlockOperation::Unlock);
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

/// Opens the log and starts its threads.
fn open_log(config: &Config, lasting: &Lasting) -> Result<(Log, Contents), StartupError> {
    let memory_bytes = config.history.log_memory_bytes;
    let folder = LogFolder { path: config.data_dir.join("log"), memory_bytes };
    let opened = log::open(&folder, random_seed());
    let opened =
        opened.map_err(|source| StartupError::Log { path: folder.path.clone(), source })?;
    let contents = opened.contents.clone();
    let ports = lasting.mailboxes.iter().map(|mailbox| mailbox.port(Envelope::Log)).collect();
    let (retentions, status) = (Arc::clone(&lasting.retentions), Arc::clone(&lasting.log_status));
    let plan = LogPlan { folder, retentions, ports, status, host: lasting.host };
    Ok((Log::start(opened, plan)?, contents))
}
