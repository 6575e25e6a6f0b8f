//! The sockets of a shard, by connection: a descriptor each, and whether a write is in flight.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use slotmap::SecondaryMap;

use crate::hash::HashMap;
use crate::ids::ConnectionKey;

/// A shard's sockets.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: SecondaryMap<ConnectionKey, Socket>,
    /// Closed, but the ring still writes to them.
    dying: HashMap<ConnectionKey, Socket>,
}

#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    is_writing: bool,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The end of the stream.
    End,
    /// The socket failed.
    Failed,
}

impl Sockets {
    pub(super) fn insert(&mut self, connection: ConnectionKey, fd: OwnedFd) {
        self.open.insert(connection, Socket { fd, is_writing: false });
    }

    pub(super) fn fd(&self, connection: ConnectionKey) -> Option<&OwnedFd> {
        self.open.get(connection).map(|socket| &socket.fd)
    }

    /// Reads what is there into `buffer`, without waiting.
    pub(super) fn receive(&self, connection: ConnectionKey, buffer: &mut [u8]) -> ReadOutcome {
        let Some(socket) = self.open.get(connection) else { return ReadOutcome::Nothing };
        match recv(&socket.fd, buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => ReadOutcome::End,
            Ok((bytes, _)) => ReadOutcome::Bytes(bytes),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => ReadOutcome::Nothing,
            Err(_) => ReadOutcome::Failed,
        }
    }

    /// A write begins on this descriptor.
    pub(super) fn begin_write(&mut self, connection: ConnectionKey) -> Option<RawFd> {
        let socket = self.open.get_mut(connection)?;
        socket.is_writing = true;
        Some(socket.fd.as_raw_fd())
    }

    /// The write ended. A socket that was to be closed is closed now.
    pub(super) fn end_write(&mut self, connection: ConnectionKey) {
        match self.open.get_mut(connection) {
            Some(socket) => socket.is_writing = false,
            None => drop(self.dying.remove(&connection)),
        }
    }

    /// Sends FIN.
    pub(super) fn half_close(&self, connection: ConnectionKey) {
        if let Some(socket) = self.open.get(connection) {
            let _ = shutdown(&socket.fd, Shutdown::Write);
        }
    }

    /// Closes a socket, or sees to it that the write in flight ends and closes it then.
    pub(super) fn close(&mut self, connection: ConnectionKey) {
        if let Some(socket) = self.open.remove(connection)
            && socket.is_writing
        {
            let _ = shutdown(&socket.fd, Shutdown::Both);
            self.dying.insert(connection, socket);
        }
    }
}
