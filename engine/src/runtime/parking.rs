//! Where idle sockets wait: a ring that holds one multishot poll for each, and nothing else.
//!
//! A parked connection has no task, no buffer and no pending read; it is one poll entry in the
//! kernel. Completions ring the shard's eventfd, so the shard's own ring wakes up. The poll stays
//! armed; it fires when bytes or the end of the stream arrive, not while they lie there unread.
#![allow(unsafe_code, reason = "submission entries name descriptors the compiler cannot check")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::{cqueue, opcode, squeue, types};
use slotmap::{Key as _, KeyData};

use super::mailbox::Waker;
use super::ring::{Rest, Ring};
use crate::ids::ConnectionKey;

/// Sockets that can be parked between two submits.
const ENTRIES: u32 = 1024;

/// Arrivals that the ring has room for.
const COMPLETIONS: u32 = 8 * 1024;

/// The user data of submissions whose completion does not matter. No key has it.
const NOBODY: u64 = u64::MAX;

/// A shard's parked sockets: at most two entries each that the ring had no room for.
pub(super) struct Parking(Ring);

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
        Self::with_sizes(waker, ENTRIES, COMPLETIONS)
    }

    fn with_sizes(waker: &Waker, entries: u32, completions: u32) -> io::Result<Self> {
        Ring::new(waker, entries, completions).map(Self)
    }

    /// Watches a socket.
    pub(super) fn watch(&mut self, socket: &impl AsFd, connection: ConnectionKey) {
        let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
        let entry = opcode::PollAdd::new(types::Fd(socket.as_fd().as_raw_fd()), events)
            .multi(true)
            .build()
            .user_data(connection.data().as_ffi());
        self.push(entry);
    }

    /// Stops watching a socket. To be called before it is closed: the poll holds it open.
    pub(super) fn forget(&mut self, connection: ConnectionKey) {
        let entry = opcode::PollRemove::new(connection.data().as_ffi()).build().user_data(NOBODY);
        self.push(entry);
    }

    /// See [`Ring::submit`]; to be called in each turn after [`Parking::drain`].
    pub(super) fn submit(&mut self) -> Rest {
        self.0.submit()
    }

    /// Appends what arrived.
    pub(super) fn drain(&mut self, arrivals: &mut Vec<Arrival>) {
        for completion in self.0.completions() {
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

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: polls refer to no memory, only to a descriptor. If that were closed too early the
        // poll would fail or watch another socket of this shard, whose reader copes with being woken
        // for nothing.
        unsafe { self.0.push(entry) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use slotmap::SlotMap;

    use super::*;
    use crate::runtime::mailbox::mailbox;

    /// Sleeps as a shard does: until the eventfd says that something came.
    fn sleep(waker: &Waker) {
        let mut descriptors = [PollFd::new(waker, PollFlags::IN)];
        let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
        let ready = poll(&mut descriptors, Some(&patience)).unwrap();
        assert_eq!(ready, 1, "nobody wakes the shard, and sockets are not heard");
        rustix::io::read(waker, &mut [0u8; 8]).unwrap();
    }

    #[test]
    fn more_arrivals_than_the_rings_hold_are_all_heard_again_and_again() {
        const SOCKETS: usize = 300;
        let (_mailbox, inbox) = mailbox(1).unwrap();
        let waker = inbox.waker();
        let mut parking = Parking::with_sizes(waker, 4, 8).unwrap();
        let mut sockets: SlotMap<ConnectionKey, (UnixStream, usize)> = SlotMap::with_key();
        let mut peers = Vec::new();
        for _ in 0..SOCKETS {
            let (socket, peer) = UnixStream::pair().unwrap();
            let key = sockets.insert((socket, 0));
            parking.watch(&sockets[key].0, key);
            peers.push(peer);
        }
        let mut arrivals = Vec::new();
        for round in 1..=3 {
            for peer in &mut peers {
                peer.write_all(b"x").unwrap();
            }
            while sockets.values().any(|(_, heard)| *heard < round) {
                parking.drain(&mut arrivals);
                for Arrival { connection, disarmed, .. } in arrivals.drain(..) {
                    let (socket, heard) = &mut sockets[connection];
                    socket.set_nonblocking(true).unwrap();
                    *heard += socket.read(&mut [0; 8]).unwrap_or(0);
                    if disarmed {
                        parking.watch(&sockets[connection].0, connection);
                    }
                }
                if parking.submit() == Rest::Nothing {
                    if sockets.values().all(|(_, heard)| *heard == round) {
                        break;
                    }
                    sleep(waker);
                }
            }
        }
        // All are let go of, however few entries fit at a time.
        for key in sockets.keys() {
            parking.forget(key);
        }
        while parking.submit() != Rest::Nothing {
            parking.drain(&mut arrivals);
        }
        drop(sockets);
        for mut peer in peers {
            assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "a socket is still held open");
        }
    }
}
