//! Frames with descriptors over a Unix socket (`SCM_RIGHTS`, see unix(7)): how a process hands its sockets to
//! another one.
//!
//! A frame is a head of 8 bytes, with which the descriptors travel, and its bytes.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors of a frame: as many as the kernel takes at a time (`SCM_MAX_FD`).
pub(super) const DESCRIPTORS_MAX: usize = 253;

/// Bytes of a frame.
const FRAME_BYTES_MAX: usize = 1 << 30;

/// Bytes of a frame's head: how many bytes follow, and how many descriptors there are.
const HEAD_BYTES: usize = 8;

/// How often it is looked whether fewer descriptors are on their way, and what is waited in between.
const LOOKS_MAX: u32 = 10_000;
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// One end of a way for frames.
#[derive(Debug)]
pub struct Courier(UnixStream);

/// A frame that has come.
#[derive(Debug)]
pub struct Frame {
    /// What it says.
    pub bytes: Vec<u8>,
    /// Its descriptors, which belong to the file table of the thread that has received it.
    pub descriptors: Vec<OwnedFd>,
}

impl Courier {
    /// A way with two ends, on which nothing takes longer than `patience`.
    ///
    /// # Errors
    /// The kernel gives no sockets.
    pub fn pair(patience: Duration) -> io::Result<(Self, Self)> {
        let (one, other) = UnixStream::pair()?;
        Ok((Self::over(one, patience)?, Self::over(other, patience)?))
    }

    /// A way over a socket that is connected.
    ///
    /// # Errors
    /// It is none.
    pub fn over(socket: UnixStream, patience: Duration) -> io::Result<Self> {
        let courier = Self(socket);
        courier.set_patience(patience)?;
        Ok(courier)
    }

    /// Whether an error says that nobody is at the other end any more.
    pub fn is_gone(error: &io::Error) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
    }

    /// Has nothing take longer than `patience` from now on.
    ///
    /// # Errors
    /// It is no socket any more.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(patience))?;
        self.0.set_write_timeout(Some(patience))
    }

    /// Sends a frame, with at most 253 descriptors. These stay open here.
    ///
    /// # Errors
    /// Nobody receives it, or not in time; `InvalidInput` where it is more than 1 GiB.
    pub fn send(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        assert!(descriptors.len() <= DESCRIPTORS_MAX, "more than travel at a time");
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut head = [0; HEAD_BYTES];
        let (length, count) = head.split_at_mut(HEAD_BYTES / 2);
        length.copy_from_slice(&(bytes.len() as u32).to_ne_bytes());
        count.copy_from_slice(&(descriptors.len() as u32).to_ne_bytes());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let is_room = control.push(SendAncillaryMessage::ScmRights(descriptors));
            assert!(is_room, "as much room as the most descriptors need");
        }
        let mut looks = 0;
        let sent = loop {
            // Rings that end interrupt whoever waits.
            let sent = retry_on_intr(|| {
                sendmsg(&self.0, &[IoSlice::new(&head)], &mut control, SendFlags::NOSIGNAL)
            });
            match sent {
                // As many are on their way as the kernel allows, in all: others take theirs off.
                Err(rustix::io::Errno::TOOMANYREFS) if looks < LOOKS_MAX => {
                    looks += 1;
                    std::thread::sleep(LOOK_AGAIN);
                }
                sent => break sent?,
            }
        };
        // What is left of it has no descriptors.
        self.0.write_all(head.get(sent..).unwrap_or_default())?;
        self.0.write_all(bytes)
    }

    /// Waits for a frame.
    ///
    /// # Errors
    /// `UnexpectedEof` where the other end is gone, `WouldBlock` where nothing comes in time; `Other` where some
    /// descriptors found no place in this thread's table.
    pub fn receive(&mut self) -> io::Result<Frame> {
        let mut head = [0; HEAD_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut head)];
        let received =
            retry_on_intr(|| recvmsg(&self.0, parts, &mut control, RecvFlags::CMSG_CLOEXEC))?.bytes;
        if received == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
        self.0.read_exact(head.get_mut(received..).unwrap_or_default())?;
        let number = |at: usize| {
            let bytes = head.get(at..at + HEAD_BYTES / 2).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(usize::MAX, |bytes| u32::from_ne_bytes(bytes) as usize)
        };
        let (length, count) = (number(0), number(HEAD_BYTES / 2));
        if length > FRAME_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if descriptors.len() != count {
            let text = format!(
                "{count} descriptors were sent and {} came: too many are open",
                descriptors.len()
            );
            return Err(io::Error::other(text));
        }
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes)?;
        Ok(Frame { bytes, descriptors })
    }
}

impl AsFd for Courier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Courier> for OwnedFd {
    fn from(courier: Courier) -> Self {
        courier.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_whole_and_with_their_descriptors() {
        let patience = Duration::from_secs(10);
        let (mut here, mut there) = Courier::pair(patience).unwrap();
        let large = vec![7; 1 << 20];
        let sender = std::thread::spawn(move || {
            let pairs: Vec<_> = (0..300).map(|_| UnixStream::pair().unwrap()).collect();
            for (at, part) in pairs.chunks(DESCRIPTORS_MAX).enumerate() {
                let descriptors: Vec<_> = part.iter().map(|(one, _)| one.as_fd()).collect();
                here.send(&[at as u8], &descriptors).unwrap();
            }
            here.send(&large, &[]).unwrap();
            here.send(&[], &[]).unwrap();
            pairs.into_iter().map(|(_, other)| other).collect::<Vec<_>>()
        });
        let frames: Vec<_> = (0..4).map(|_| there.receive().unwrap()).collect();
        let others = sender.join().unwrap();
        let sizes = frames.iter().map(|frame| (frame.bytes.len(), frame.descriptors.len()));
        assert_eq!(sizes.collect::<Vec<_>>(), [(1, 253), (1, 47), (1 << 20, 0), (0, 0)]);
        let sockets = frames.into_iter().flat_map(|frame| frame.descriptors);
        for (at, (socket, mut other)) in sockets.zip(others).enumerate() {
            UnixStream::from(socket).write_all(&[at as u8]).unwrap();
            let mut byte = [0];
            other.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [at as u8]);
        }
        let error = there.receive().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    }
}
