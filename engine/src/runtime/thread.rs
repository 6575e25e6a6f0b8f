//! A shard's thread, from pinning to its end.
#![allow(unsafe_code, reason = "unshare(2) changes what descriptors mean in this thread")]

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;
use monoio::IoUringDriver;
use thiserror::Error;

use super::listener::listen;
use super::mailbox::{Inbox, Mailbox};
use super::parking::Parking;
use super::turn::{Events, Kept, Turns};
use crate::accounts::AccountsHandle;
use crate::clock::{Clock, TICK_MS};
use crate::cluster::ClusterHandle;
use crate::host::Host;
use crate::ids::ShardId;
use crate::log::LogHandle;
use crate::settings::Settings;
use crate::shard::{Shard, Stored};
use crate::shared::Shared;

/// Entries of the shard's ring: writes that one turn can start without an extra submit.
const RING_ENTRIES: u32 = 4096;

/// Accepts under way at a time, so that a burst of connections does not cost a turn each.
const ACCEPTS: usize = 8;

/// How long accepting waits after it failed, for lack of descriptors above all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long the eventfd is left alone after it could not be read.
const WAKE_PAUSE: Duration = Duration::from_millis(100);

/// Ticks between two lines about it in the log.
const ACCEPT_TOLD_TICKS: u32 = (5_000 / TICK_MS) as u32;

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
    /// Its way to the log, if there is one.
    pub log: Option<LogHandle>,
    /// Its way to other nodes, if there are any.
    pub cluster: Option<ClusterHandle>,
    /// Its way to the accounts.
    pub accounts: Option<AccountsHandle>,
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
    let listener = listen(plan.address).map_err(|error| ("listen", error))?;
    let parking = Parking::new(plan.inbox.waker()).map_err(|error| ("make a poll ring", error))?;
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
        let listening = listener.try_clone().map_err(|error| ("listen", error))?;
        let stop_listening = Box::new(move || {
            // Ends the accepts that are under way, which closing the descriptor would not.
            let _ = rustix::net::shutdown(&listening, rustix::net::Shutdown::Both);
        });
        let listener =
            monoio::net::TcpListener::from_std(listener).map_err(|error| ("listen", error))?;
        let listener = Rc::new(listener);
        let failures = Rc::new(AcceptFailures::default());
        for _ in 0..ACCEPTS {
            let (listener, events) = (Rc::clone(&listener), Rc::clone(&events));
            let accepting = Accepting {
                shard: id,
                listener,
                events,
                shared: Arc::clone(&plan.shared),
                clock: plan.clock,
                failures: Rc::clone(&failures),
            };
            monoio::spawn(accepting.run());
        }
        monoio::spawn(tick(Rc::clone(&events)));
        monoio::spawn(wake(eventfd, Rc::clone(&events)));
        let turns = Turns {
            id,
            shard,
            shared: plan.shared,
            clock: plan.clock,
            inbox: plan.inbox,
            mailboxes: plan.mailboxes,
            log: plan.log,
            accounts: plan.accounts,
            cluster: plan.cluster,
            parking,
            events,
            drain_spread_ms: plan.drain_spread_ms,
            host: plan.host,
            stop_listening,
            kept: Kept::default(),
        };
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

/// Takes connections, one after the other; a shard has [`ACCEPTS`] of these.
struct Accepting {
    shard: ShardId,
    listener: Rc<monoio::net::TcpListener>,
    events: Rc<Events>,
    shared: Arc<Shared>,
    clock: Clock,
    failures: Rc<AcceptFailures>,
}

impl Accepting {
    async fn run(mut self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // SAFETY: the stream gives up the descriptor it owned.
                    let socket = unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) };
                    self.events.accepted.borrow_mut().push((socket, peer.ip()));
                    self.events.notify.notify();
                }
                Err(_) if self.shared.is_draining() => return,
                Err(error) => {
                    let fatal = error.kind() == io::ErrorKind::InvalidInput;
                    if let Some(failures) = self.failures.count(self.clock.now().tick) {
                        let (shard, cure) = (self.shard, accept_cure(&error));
                        tracing::warn!(
                            %shard, failures, %error, "cannot accept connections for the moment{cure}"
                        );
                    }
                    if fatal {
                        return;
                    }
                    monoio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Failures of a shard to accept. They come many a second for as long as the cause lasts; the log is
/// told at the first, and then now and then how many there were.
#[derive(Debug, Default)]
struct AcceptFailures {
    untold: Cell<u64>,
    told_tick: Cell<Option<u32>>,
}

impl AcceptFailures {
    /// Counts one more; `Some` if those since the last time are to be told.
    fn count(&self, tick: u32) -> Option<u64> {
        self.untold.set(self.untold.get().saturating_add(1));
        let told = self.told_tick.get();
        if told.is_some_and(|told| tick.saturating_sub(told) < ACCEPT_TOLD_TICKS) {
            return None;
        }
        self.told_tick.set(Some(tick));
        Some(self.untold.take())
    }
}

fn accept_cure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => {
            ": the shard has as many open files as it may; raise that with ulimit -n or LimitNOFILE="
        }
        Some(libc::ENFILE) => ": the machine has as many open files as it may; raise fs.file-max",
        Some(libc::ENOBUFS | libc::ENOMEM) => ": the kernel has no memory for more",
        _ => "",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_failures_to_accept_are_few_lines() {
        let failures = AcceptFailures::default();
        assert_eq!(failures.count(7), Some(1));
        let told: Vec<u64> = (7..7 + 2 * ACCEPT_TOLD_TICKS)
            .flat_map(|tick| [failures.count(tick), failures.count(tick)])
            .flatten()
            .collect();
        assert_eq!(told, [u64::from(2 * ACCEPT_TOLD_TICKS) + 1]);
    }
}
