//! A shard's listeners, and the tasks that take connections from them.
#![allow(unsafe_code, reason = "a stream of monoio gives up its descriptor as a number")]

use std::cell::Cell;
use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use monoio::io::{CancelHandle, Canceller};
use monoio::net::TcpListener;
use rustix::net::{Shutdown, shutdown};

use super::turn::Events;
use crate::clock::{Clock, TICK_MS};
use crate::ids::ShardId;
use crate::shared::Shared;

/// Accepts under way at a time on a listener, so that a burst of connections does not cost a turn each.
const ACCEPTS: usize = 8;

/// How long accepting waits after it failed, for lack of descriptors above all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Ticks between two lines about it in the log.
const ACCEPT_TOLD_TICKS: u32 = (5_000 / TICK_MS) as u32;

/// A shard's listeners: its own, and those of shards of the process before, which may have been more.
pub(super) struct Listeners {
    shard: ShardId,
    shared: Arc<Shared>,
    clock: Clock,
    /// Each twice: for the ring, and for what is done to it beside that.
    all: Vec<(Rc<TcpListener>, StdTcpListener)>,
    failures: Rc<AcceptFailures>,
    canceller: Canceller,
}

impl Listeners {
    /// To be called within the shard's runtime.
    pub(super) fn new(
        shard: ShardId,
        listeners: Vec<StdTcpListener>,
        shared: Arc<Shared>,
        clock: Clock,
    ) -> io::Result<Self> {
        let both = |listener: StdTcpListener| {
            let other = listener.try_clone()?;
            Ok((Rc::new(TcpListener::from_std(listener)?), other))
        };
        let all = listeners.into_iter().map(both).collect::<io::Result<_>>()?;
        let (failures, canceller) = (Rc::default(), Canceller::new());
        Ok(Self { shard, shared, clock, all, failures, canceller })
    }

    /// Has connections be taken; [`Events`] gets them.
    pub(super) fn accept(&self, events: &Rc<Events>) {
        for (listener, _) in &self.all {
            for _ in 0..ACCEPTS {
                let accepting = Accepting {
                    shard: self.shard,
                    listener: Rc::clone(listener),
                    events: Rc::clone(events),
                    shared: Arc::clone(&self.shared),
                    clock: self.clock,
                    failures: Rc::clone(&self.failures),
                    cancelled: self.canceller.handle(),
                };
                events.accepting.set(events.accepting.get() + 1);
                monoio::spawn(accepting.run());
            }
        }
    }

    /// Has no more be taken for the moment: who comes waits in the kernel's queue. [`Events`] says when those that
    /// were about to be taken are.
    pub(super) fn pause(&mut self) {
        self.canceller = std::mem::take(&mut self.canceller).cancel();
    }

    /// Has nobody come any more. This ends also the accepts that are under way, which closing the descriptors would
    /// not.
    pub(super) fn close(&self) {
        for (_, listener) in &self.all {
            let _ = shutdown(listener, Shutdown::Both);
        }
    }

    /// Their descriptors.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.all.iter().map(|(_, listener)| listener.as_fd()).collect()
    }
}

/// Takes connections, one after the other; a listener has [`ACCEPTS`] of these.
struct Accepting {
    shard: ShardId,
    listener: Rc<TcpListener>,
    events: Rc<Events>,
    shared: Arc<Shared>,
    clock: Clock,
    failures: Rc<AcceptFailures>,
    cancelled: CancelHandle,
}

impl Accepting {
    async fn run(mut self) {
        loop {
            match self.listener.cancelable_accept(self.cancelled.clone()).await {
                Ok((stream, peer)) => {
                    // SAFETY: the stream gives up the descriptor it owned.
                    let socket = unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) };
                    self.events.accepted.borrow_mut().push((socket, peer.ip()));
                    self.events.notify.notify();
                }
                Err(_) if self.shared.is_draining() => break,
                Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => break,
                Err(error) => {
                    let fatal = error.kind() == io::ErrorKind::InvalidInput;
                    if let Some(failures) = self.failures.count(self.clock.now().tick) {
                        let (shard, cure) = (self.shard, accept_cure(&error));
                        tracing::warn!(
                            %shard, failures, %error, "cannot accept connections for the moment{cure}"
                        );
                    }
                    if fatal {
                        break;
                    }
                    monoio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        self.events.accepting.set(self.events.accepting.get() - 1);
        self.events.notify.notify();
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
