//! A shard's thread, from pinning to its end.
#![allow(unsafe_code, reason = "unshare(2) changes what descriptors mean in this thread")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;
use monoio::IoUringDriver;
use thiserror::Error;

use super::accepting::Listeners;
use super::courier::Courier;
use super::handover::{Heirloom, Heritage};
use super::listener::listen;
use super::mailbox::{Inbox, Mailbox};
use super::parking::Parking;
use super::steering::Ways;
use super::turn::{Events, Kept, Turns};
use super::writing::Writing;
use crate::clock::{Clock, TICK_MS};
use crate::host::Host;
use crate::ids::ShardId;
use crate::settings::Settings;
use crate::shard::{Shard, Stored};
use crate::shared::Shared;

/// Entries of monoio's ring, which accepts, reads the eventfd and keeps time.
const RING_ENTRIES: u32 = 256;

/// How long the eventfd is left alone after it could not be read.
const WAKE_PAUSE: Duration = Duration::from_millis(100);

/// What a shard's thread is to be.
#[derive(Debug)]
pub struct ShardPlan {
    /// Which shard.
    pub id: ShardId,
    /// The core it is pinned to.
    pub core: core_affinity::CoreId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Limits, time-outs and what else the server was told.
    pub settings: Arc<Settings>,
    /// What the shards share.
    pub shared: Arc<Shared>,
    /// Its own end of its mailbox.
    pub inbox: Inbox,
    /// All shards' mailboxes.
    pub mailboxes: Vec<Mailbox>,
    /// Its ways to what serves all shards.
    pub ways: Ways,
    /// Where descriptors come from that are made when it runs.
    pub uplink: Courier,
    /// What it takes over from the process before, whose place this one takes.
    pub heritage: Option<Heritage>,
    /// What it begins with.
    pub stored: Stored,
    /// Decides what is random in it.
    pub seed: u64,
    /// The clock all shards go by.
    pub clock: Clock,
    /// How long a drain spreads its closes.
    pub drain_spread_ms: u64,
    /// What the program does for it.
    pub host: Host,
}

/// Why a shard did not start.
#[derive(Debug, Error)]
#[error("shard {shard}: cannot {what}: {source}")]
pub struct ShardError {
    /// Which shard.
    pub shard: ShardId,
    /// What failed.
    pub what: &'static str,
    /// The cause.
    pub source: io::Error,
}

/// A running shard.
pub type ShardThread = JoinHandle<()>;

/// Starts a shard's thread, which reports on `ready` once it listens or why it cannot.
///
/// # Errors
/// The kernel gives no thread.
pub fn start_shard(
    plan: ShardPlan,
    ready: Sender<Result<ShardId, ShardError>>,
) -> io::Result<ShardThread> {
    std::thread::Builder::new().name(format!("shard-{}", plan.id)).spawn(move || {
        let id = plan.id;
        let failed = |(what, source)| ShardError { shard: id, what, source };
        if let Err(error) = run(plan, &ready).map_err(failed) {
            let _ = ready.send(Err(error));
        }
    })
}

fn run(
    mut plan: ShardPlan,
    ready: &Sender<Result<ShardId, ShardError>>,
) -> Result<(), (&'static str, io::Error)> {
    let id = plan.id;
    if !core_affinity::set_for_current(plan.core) {
        return Err(("pin its thread to a core", io::Error::last_os_error()));
    }
    part_file_table().map_err(|error| ("get a file table of its own", error))?;
    let mut heirloom = Heirloom::default();
    if let Some(heritage) = plan.heritage.take() {
        let taken = heritage.receive();
        heirloom = taken.map_err(|error| ("take over from the process before", error))?;
    }
    let listeners = match std::mem::take(&mut heirloom.listeners) {
        listeners if listeners.is_empty() => {
            vec![listen(plan.address).map_err(|error| ("listen", error))?]
        }
        listeners => listeners,
    };
    let parking = Parking::new(plan.inbox.waker()).map_err(|error| ("make a poll ring", error))?;
    let writing =
        Writing::new(plan.inbox.waker()).map_err(|error| ("make a ring of writes", error))?;
    let mut runtime = monoio::RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(RING_ENTRIES)
        .enable_all()
        .build()
        .map_err(|error| ("make its ring", error))?;
    let mut shard =
        Shard::new(id, plan.settings, Arc::clone(&plan.shared), plan.seed, plan.clock.now());
    shard.load_all(plan.stored);
    runtime.block_on(async move {
        let events = Rc::new(Events::default());
        let eventfd = plan.inbox.waker().as_fd().try_clone_to_owned();
        let eventfd = eventfd.and_then(|eventfd| monoio::fs::File::from_std(eventfd.into()));
        let eventfd = eventfd.map_err(|error| ("read what wakes it", error))?;
        let listeners = Listeners::new(id, listeners, Arc::clone(&plan.shared), plan.clock);
        let listeners = listeners.map_err(|error| ("listen", error))?;
        monoio::spawn(tick(Rc::clone(&events)));
        monoio::spawn(wake(eventfd, Rc::clone(&events)));
        let mut turns = Turns {
            id,
            shard,
            shared: plan.shared,
            clock: plan.clock,
            inbox: plan.inbox,
            mailboxes: plan.mailboxes,
            ways: plan.ways,
            parking,
            writing,
            events,
            drain_spread_ms: plan.drain_spread_ms,
            host: plan.host,
            listeners,
            uplink: plan.uplink,
            is_frozen: false,
            is_attaching: false,
            envelopes: 0,
            kept: Kept::default(),
        };
        if let Some(connections) = heirloom.connections {
            turns.inherit(connections);
        }
        let _ = ready.send(Ok(id));
        // As a task, not as the main future: a main future that wakes itself is polled again
        // before the ring gets its turn.
        monoio::spawn(turns.run()).await;
        Ok(())
    })
}

/// Gives this thread a file table of its own: look-ups need no atomic counts then, and the limit
/// on open files holds for each shard. Descriptors made before keep their numbers.
fn part_file_table() -> io::Result<()> {
    // SAFETY: no descriptor that another thread makes later is used here, nor one of ours there;
    // the eventfds and standard streams were made before.
    match unsafe { libc::unshare(libc::CLONE_FILES) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

async fn tick(events: Rc<Events>) {
    loop {
        monoio::time::sleep(Duration::from_millis(TICK_MS)).await;
        events.notify.notify();
    }
}

/// Passes on what rings the eventfd: other shards, parked sockets, a drain.
async fn wake(eventfd: monoio::fs::File, events: Rc<Events>) {
    let mut count = vec![0u8; 8];
    loop {
        let (result, buffer) = eventfd.read_at(count, 0).await;
        count = buffer;
        events.notify.notify();
        // A shard that stopped listening here would be deaf: whatever it is, it is tried again.
        if let Err(error) = result
            && error.kind() != io::ErrorKind::Interrupted
        {
            tracing::error!(%error, "what wakes the shard cannot be read for the moment");
            monoio::time::sleep(WAKE_PAUSE).await;
        }
    }
}
