//! Writes to sockets: a ring that holds one for each connection at most. Those of a turn are submitted
//! together; what a socket takes at once, which is the rule, is complete by then and wakes nobody.
#![allow(
    unsafe_code,
    reason = "a ring reads memory and uses a descriptor until the write is complete"
)]

use std::io;
use std::os::fd::RawFd;

use bytes::Bytes;
use io_uring::{opcode, squeue, types};
use slotmap::{Key as _, KeyData, SlotMap, new_key_type};

use super::mailbox::Waker;
use super::ring::{Rest, Ring};
use crate::ids::ConnectionKey;
use crate::shard::Write;

/// Writes that are submitted together. More at a time cost no less, and would have more of them in memory.
const ENTRIES: usize = 256;

/// Ends of writes that the ring has room for.
const COMPLETIONS: u32 = 8 * 1024;

/// The user data of what is called off. No key has it.
const NOBODY: u64 = u64::MAX;

new_key_type! {
    /// A write under way.
    struct FlightKey;
}

/// A shard's writes.
pub(super) struct Writing {
    flights: SlotMap<FlightKey, Flight>,
    /// How many were begun since the last submit.
    begun: usize,
    ring: Ring,
}

/// A write that the kernel may read.
struct Flight {
    connection: ConnectionKey,
    write: Write,
    /// Where its segments are, if there are several.
    _vector: Box<[libc::iovec]>,
}

/// A write that has ended.
pub(super) struct Written {
    pub(super) connection: ConnectionKey,
    pub(super) write: Write,
    /// How many bytes the socket has taken; none where the write was called off.
    pub(super) outcome: io::Result<usize>,
}

impl Writing {
    /// Without a write; the ends of writes that the kernel does not make at once ring `waker`.
    pub(super) fn new(waker: &Waker) -> io::Result<Self> {
        let ring = Ring::new(waker, ENTRIES as u32, COMPLETIONS)?;
        Ok(Self { flights: SlotMap::with_key(), begun: 0, ring })
    }

    /// Writes what the socket takes of `write`. The socket must stay open until that has ended.
    pub(super) fn begin(&mut self, socket: RawFd, connection: ConnectionKey, write: Write) {
        let socket = types::Fd(socket);
        let (entry, vector) = match write.segments() {
            [one] => {
                let entry = opcode::Send::new(socket, one.as_ptr(), length(one));
                (entry.flags(libc::MSG_NOSIGNAL).build(), Box::default())
            }
            many => {
                let vector: Box<[libc::iovec]> = many.iter().map(place).collect();
                let entry = opcode::Writev::new(socket, vector.as_ptr(), vector.len() as u32);
                (entry.build(), vector)
            }
        };
        let key = self.flights.insert(Flight { connection, write, _vector: vector });
        let entry: squeue::Entry = entry.user_data(key.data().as_ffi());
        // SAFETY: the flight keeps the segments, whose memory neither moves nor changes, and the vector that
        // tells where they are, until the write is complete; the caller keeps the socket open.
        unsafe { self.ring.push(entry) };
        self.begun += 1;
    }

    /// Whether as many were begun as are submitted together.
    pub(super) fn is_full(&self) -> bool {
        self.begun >= ENTRIES
    }

    /// See [`Ring::submit`]. [`Writing::drain`] must follow: what the sockets take at once wakes nobody.
    pub(super) fn submit(&mut self) -> Rest {
        self.begun = 0;
        self.ring.submit_quietly()
    }

    /// Has all writes end that wait for their sockets. Each says in [`Writing::drain`] what was taken of it.
    pub(super) fn cancel(&mut self) {
        for key in self.flights.keys() {
            let entry = opcode::AsyncCancel::new(key.data().as_ffi()).build().user_data(NOBODY);
            // SAFETY: it refers to no memory and no descriptor.
            unsafe { self.ring.push(entry) };
        }
    }

    /// Whether none is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Appends the writes that have ended.
    pub(super) fn drain(&mut self, written: &mut Vec<Written>) {
        for completion in self.ring.completions() {
            let key = KeyData::from_ffi(completion.user_data()).into();
            let Some(Flight { connection, write, .. }) = self.flights.remove(key) else { continue };
            let outcome = match completion.result() {
                // Called off before the socket has taken anything.
                result if result == -libc::ECANCELED => Ok(0),
                result if result < 0 => Err(io::Error::from_raw_os_error(-result)),
                0 => Err(io::ErrorKind::WriteZero.into()),
                bytes => Ok(bytes as usize),
            };
            written.push(Written { connection, write, outcome });
        }
        if self.flights.is_empty() && self.flights.capacity() > ENTRIES {
            self.flights = SlotMap::with_key();
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // The kernel may read what is under way for a moment longer than the ring is there.
        std::mem::forget(std::mem::take(&mut self.flights));
    }
}

fn length(bytes: &Bytes) -> u32 {
    // A write has at most `WRITE_BYTES_MAX` and one message more.
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn place(bytes: &Bytes) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}
