//! The server as a whole: everything wired together, started, drained.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pushflo_protocol::time::Month;

use super::StartupError;
use super::handover::{Predecessor, Taken};
use super::keys::UnshownKeys;
use super::machine::{check_io_uring, choose_cores, raise_file_limit};
use super::random_seed;
use super::services::{Lasting, OpenedData, Services};
use super::stored;
use crate::accounts::Role;
use crate::clock::{Clock, unix_ms};
use crate::config::Config;
use crate::exposition;
use crate::host::Host;
use crate::ids::ShardId;
use crate::retention::Durability;
use crate::runtime::mailbox::{Inbox, mailbox};
use crate::runtime::{
    Courier, Heritage, MetricsListener, PortReservation, Render, ShardPlan, ShardThread, join_port,
    reserve_port, start_shard,
};
use crate::settings::Settings;
use crate::shard::Stored;
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
    pub(super) shared: Arc<Shared>,
    threads: Vec<ShardThread>,
    pub(super) lasting: Lasting,
    /// None while another process has them.
    pub(super) services: Option<Services>,
    /// Ways for descriptors to the shards.
    pub(super) uplinks: Vec<Courier>,
    pub(super) metrics: Option<MetricsListener>,
    /// Where metrics are served, for another process too.
    pub(super) metrics_listener: Option<TcpListener>,
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
        Self::begin(config, host, cores, None)
    }

    /// Takes the place of another process: all that is a matter of time is done before that stands still. The
    /// server stands still itself until [`Server::thaw`].
    pub(super) fn begin(
        config: &Config,
        host: Host,
        cores: &[core_affinity::CoreId],
        predecessor: Option<&mut Predecessor>,
    ) -> Result<Self, StartupError> {
        check_io_uring()?;
        raise_file_limit();
        let shards = cores.len();
        let settings = Arc::new(settings(config));
        // All eventfds are made before the first shard parts its file table.
        let ends = (0..shards).map(|_| mailbox(config.limits.mailbox_envelopes_max));
        let ends = ends.collect::<Result<Vec<_>, _>>()?;
        let (mailboxes, inboxes): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        let lasting = Lasting {
            mailboxes,
            retentions: Arc::default(),
            usages: Arc::default(),
            log_status: Arc::default(),
            host,
        };
        let taken = predecessor.map(|predecessor| predecessor.take(config, shards)).transpose()?;
        let mut taken = taken.unwrap_or_default();
        let (reservation, metrics) = listeners(config, &mut taken)?;
        let OpenedData { lock, mut directory, log } = OpenedData::open(config, &lasting)?;
        let generated = std::mem::take(&mut directory.generated);
        let mut unshown = UnshownKeys { data_dir: &config.data_dir, keys: generated };
        let seed = taken.shared.as_ref().map_or_else(random_seed, |shared| shared.seed);
        let mut shared = Shared::new(shards, seed).with_deletions(directory.deletions);
        let mut stored = Stored { channel_states: taken.channels, ..Stored::default() };
        if config.cluster.is_some() {
            shared.owners = Some(Owners::default());
        }
        let mut opened_log = None;
        if let Some((log, contents)) = log {
            let status = Arc::clone(&lasting.log_status);
            shared = shared.with_log(status, contents.incarnation, contents.next_log);
            shared.begin_generations(&contents.generations);
            let channels = contents.channels.iter().map(|loaded| (loaded.log, &loaded.channel));
            let met = directory.meet_log(channels);
            let path = config.data_dir.join("directory");
            met.map_err(|source| StartupError::Directory { path, source })?;
            stored::of_log(&mut stored, contents, &log, &directory, &lasting.retentions);
            opened_log = Some(log);
        }
        if let Some(state) = &taken.shared {
            shared.take_over(state);
        }
        stored.apps = directory.apps.values().cloned().collect();
        stored.metas = std::mem::take(&mut directory.channels);
        let shared = Arc::new(shared);
        let services = Services::start(config, lock, directory, opened_log, &shared, &lasting)?;
        let mut server = Self {
            address: reservation.address,
            metrics_address: None,
            shards,
            generated: unshown.keys.clone(),
            shared,
            threads: Vec::new(),
            lasting,
            services: Some(services),
            uplinks: Vec::new(),
            metrics: None,
            metrics_listener: None,
        };
        let started = server
            .start_shards(config, &settings, cores, &reservation, inboxes, stored, taken.heritage)
            .and_then(|()| server.start_metrics(metrics));
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
        let cluster = self.services.as_ref().and_then(|services| services.cluster.as_ref());
        if let Some(cluster) = cluster {
            cluster.leave();
        }
        for mailbox in &self.lasting.mailboxes {
            mailbox.wake();
        }
    }

    /// Waits for keys of the default app that are made while the server runs, as the first node of a cluster
    /// does; `None` where none will be made any more. They exist nowhere else.
    pub fn made_keys(&self) -> Option<crossbeam_channel::Receiver<Vec<(Role, String)>>> {
        self.services.as_ref().map(|services| services.accounts.made_keys.clone())
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
        if let Some(services) = self.services {
            services.close();
        }
        // To the last, so that a drain can be watched.
        if let Some(metrics) = self.metrics {
            metrics.close();
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is made by another part of the start")]
    fn start_shards(
        &mut self,
        config: &Config,
        settings: &Arc<Settings>,
        cores: &[core_affinity::CoreId],
        reservation: &PortReservation,
        inboxes: Vec<Inbox>,
        stored: Stored,
        mut heritage: Vec<Option<Heritage>>,
    ) -> Result<(), StartupError> {
        let clock = Clock::start();
        let stored = stored.by_shard(&self.shared, self.shards);
        heritage.resize_with(self.shards, || None);
        let ends = (0..self.shards).map(|_| Courier::pair(UPLINK_PATIENCE));
        let (ends, uplinks): (Vec<_>, Vec<_>) =
            ends.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        self.uplinks = ends;
        let (ready, started) = crossbeam_channel::bounded(self.shards);
        let shards = inboxes.into_iter().zip(stored).zip(cores).zip(uplinks).zip(heritage);
        for (index, ((((inbox, stored), core), uplink), heritage)) in shards.enumerate() {
            let plan = ShardPlan {
                id: ShardId(index as u16),
                core: *core,
                address: reservation.address,
                settings: Arc::clone(settings),
                shared: Arc::clone(&self.shared),
                inbox,
                mailboxes: self.lasting.mailboxes.clone(),
                ways: self.services.as_ref().map(Services::ways).unwrap_or_default(),
                uplink,
                heritage,
                stored,
                seed: random_seed(),
                clock,
                drain_spread_ms: config.drain_spread_ms,
                host: self.lasting.host,
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

    pub(super) fn start_metrics(
        &mut self,
        listener: Option<TcpListener>,
    ) -> Result<(), StartupError> {
        let Some(listener) = listener else { return Ok(()) };
        let (shared, usages) = (Arc::clone(&self.shared), Arc::clone(&self.lasting.usages));
        let render: Render = Box::new(move || {
            let (log, month) = (shared.log.as_deref(), Month::of(unix_ms()));
            let cluster = shared.owners.as_ref().map(|_| &*shared.cluster);
            exposition::render(&shared.metrics, log, cluster, &usages.all(), month)
        });
        let metrics = MetricsListener::start(listener.try_clone()?, render)?;
        self.metrics_address = Some(metrics.address);
        (self.metrics, self.metrics_listener) = (Some(metrics), Some(listener));
        Ok(())
    }
}

/// How long a shard waits for a descriptor that it was told of.
const UPLINK_PATIENCE: Duration = Duration::from_secs(5);

/// Where the server listens: anew, or where the process before did if the configuration says the same.
fn listeners(
    config: &Config,
    taken: &mut Taken,
) -> Result<(PortReservation, Option<TcpListener>), StartupError> {
    let listen = |source| StartupError::Listen { address: config.listen, source };
    let reservation = match taken.address {
        Some(address) => join_port(address),
        None => reserve_port(config.listen),
    };
    let metrics = match taken.metrics.take() {
        Some(listener) => Some(listener),
        None => config.metrics_listen.map(listen_for_metrics).transpose()?,
    };
    Ok((reservation.map_err(listen)?, metrics))
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
