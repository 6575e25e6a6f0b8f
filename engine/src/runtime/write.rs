//! One write to a socket through monoio's ring: a single segment by `send`, several by `writev`.
#![allow(unsafe_code, reason = "a ring reads memory and uses a descriptor while a task waits")]

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::{FromRawFd, IntoRawFd, RawFd};

use crate::shard::Write;
use bytes::Bytes;
use monoio::buf::IoVecBuf;
use monoio::io::AsyncWriteRent;
use monoio::net::TcpStream;

/// Writes what the socket takes of `batch`. `socket` must stay open until this is done.
pub(super) async fn write(socket: RawFd, batch: Write) -> (Write, io::Result<usize>) {
    // SAFETY: the caller keeps the descriptor open; it is given back below and not closed here.
    let borrowed = unsafe { StdTcpStream::from_raw_fd(socket) };
    let mut stream = match TcpStream::from_std(borrowed) {
        Ok(stream) => stream,
        Err(error) => return (batch, Err(error)),
    };
    let result = match batch.segments() {
        [one] => stream.write(one.clone()).await.0,
        many => stream.writev(Segments::new(many)).await.0,
    };
    let _ = stream.into_raw_fd();
    (batch, result)
}

/// Segments with the vector that tells the kernel where they are.
struct Segments {
    vector: Vec<libc::iovec>,
    _bytes: Vec<Bytes>,
}

impl Segments {
    fn new(segments: &[Bytes]) -> Self {
        let entry = |bytes: &Bytes| libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        Self { vector: segments.iter().map(entry).collect(), _bytes: segments.to_vec() }
    }
}

// SAFETY: the vector lives on the heap and is not changed, so its address stays; each entry points
// into a `Bytes` that is kept beside it, whose memory neither moves nor changes.
unsafe impl IoVecBuf for Segments {
    fn read_iovec_ptr(&self) -> *const libc::iovec {
        self.vector.as_ptr()
    }

    fn read_iovec_len(&self) -> usize {
        self.vector.len()
    }
}
