//! Where idle sockets wait: a ring that holds one multishot poll for each, and nothing else.
//!
//! A parked connection has no task, no buffer and no pending read; it is one poll entry in the
//! kernel. Completions ring the shard's eventfd, so the shard's own ring wakes up. The poll stays
//! armed; it fires when bytes or the end of the stream arrive, not while they lie there unread.
#![allow(unsafe_code, reason = "submission entries name descriptors the compiler cannot check")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use slotmap::{Key as _, KeyData};

use super::mailbox::Waker;
use crate::shard::ConnectionKey;

/// Entries of the submission queue: how many sockets can be parked between two submits.
const ENTRIES: u32 = 1024;

/// Entries of the completion queue. The kernel keeps what does not fit, at a cost.
const COMPLETIONS: u32 = 8 * 1024;

/// The user data of submissions whose completion does not matter. No key has it.
const NOBODY: u64 = u64::MAX;

/// A shard's parked sockets.
pub(super) struct Parking {
    ring: IoUring,
}

/// What happened to a parked socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) connection: ConnectionKey,
    /// The peer closed or the socket failed: it is to be read to its end.
    pub(super) ended: bool,
    /// The poll is over and must be armed again.
    pub(super) disarmed: bool,
}

impl Parking {
    /// An empty ring that rings `waker`.
    pub(super) fn new(waker: &Waker) -> io::Result<Self> {
        let ring = IoUring::builder().setup_cqsize(COMPLETIONS).build(ENTRIES)?;
        ring.submitter().register_eventfd(waker.as_fd().as_raw_fd())?;
        Ok(Self { ring })
    }

    /// Watches a socket.
    pub(super) fn watch(&mut self, socket: &impl AsFd, connection: ConnectionKey) {
        let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
        let entry = opcode::PollAdd::new(types::Fd(socket.as_fd().as_raw_fd()), events)
            .multi(true)
            .build()
            .user_data(connection.data().as_ffi());
        self.push(&entry);
    }

    /// Stops watching a socket. To be called before it is closed: the poll holds it open.
    pub(super) fn forget(&mut self, connection: ConnectionKey) {
        let entry = opcode::PollRemove::new(connection.data().as_ffi()).build().user_data(NOBODY);
        self.push(&entry);
    }

    /// Hands what was asked for to the kernel.
    pub(super) fn submit(&mut self) {
        if !self.ring.submission().is_empty() {
            // EBUSY and EINTR leave the entries where they are, for the next turn.
            let _ = self.ring.submit();
        }
    }

    /// Appends what arrived.
    pub(super) fn drain(&mut self, arrivals: &mut Vec<Arrival>) {
        for completion in self.ring.completion() {
            if completion.user_data() == NOBODY {
                continue;
            }
            let result = completion.result();
            if result == -libc::ECANCELED {
                continue;
            }
            let end = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as i32;
            arrivals.push(Arrival {
                connection: KeyData::from_ffi(completion.user_data()).into(),
                ended: result < 0 || result & end != 0,
                disarmed: !cqueue::more(completion.flags()),
            });
        }
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: polls refer to no memory, only to a descriptor. If that were closed too early
            // the poll would fail or watch another socket of this shard, whose reader copes with
            // being woken for nothing.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            let _ = self.ring.submit();
        }
    }
}
