//! Mailboxes: one bounded lock-free queue per shard that all other shards post to.
//!
//! A wake-up costs a system call only if the other side sleeps: `asleep` is set by the receiver
//! before it looks into the queue for the last time, and read by the sender after it posted. The two
//! sequentially consistent fences make sure that at least one of them sees the other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustix::event::{EventfdFlags, eventfd};

use super::steering::Command;
use crate::mail::Mail;
use crate::port::Port;
use crate::shard::Envelope;

/// Wakes a sleeping shard. The eventfd must be made before the shards part their file tables: its
/// number then means the same in all of them.
#[derive(Debug)]
pub struct Waker {
    asleep: AtomicBool,
    eventfd: OwnedFd,
}

impl Waker {
    fn new() -> std::io::Result<Self> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Self { asleep: AtomicBool::new(false), eventfd })
    }

    /// Wakes the shard if it sleeps, and says whether it did.
    pub fn wake(&self) -> bool {
        fence(Ordering::SeqCst);
        if !self.asleep.load(Ordering::Relaxed) || !self.asleep.swap(false, Ordering::AcqRel) {
            return false;
        }
        // An eventfd takes 2^64 - 2 wake-ups before a write would block.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
        true
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

/// Commands that wait: one is given at a time, and one more that ends it.
const COMMANDS_MAX: usize = 2;

/// The way into a shard's mailbox.
#[derive(Clone, Debug)]
pub struct Mailbox {
    sender: Sender<Envelope>,
    commands: Sender<Command>,
    waker: Arc<Waker>,
}

impl Mailbox {
    /// Posts an envelope, or gives it back if there is no room.
    ///
    /// # Errors
    /// The envelope. A shard that has ended takes everything and does nothing with it.
    pub fn post(&self, envelope: Envelope) -> Result<(), Envelope> {
        match self.sender.try_send(envelope) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(envelope)) => Err(envelope),
        }
    }

    /// As [`Mailbox::post`], for mail of another shard.
    ///
    /// # Errors
    /// The mail.
    pub fn post_mail(&self, mail: Mail) -> Result<(), Mail> {
        match self.post(Envelope::Mail(mail)) {
            Err(Envelope::Mail(mail)) => Err(mail),
            _ => Ok(()),
        }
    }

    /// Tells the shard to do something, before its mail.
    ///
    /// # Errors
    /// The command, where the shard has ended or several others wait.
    pub fn command(&self, command: Command) -> Result<(), Command> {
        let sent = self.commands.try_send(command);
        self.wake();
        sent.map_err(TrySendError::into_inner)
    }

    /// Wakes the shard if it sleeps; see [`Waker::wake`].
    pub fn wake(&self) -> bool {
        self.waker.wake()
    }

    /// A port for answers of one kind, whose sender waits for room.
    pub fn port<T: 'static>(&self, envelope: fn(T) -> Envelope) -> Port<T> {
        let mailbox = self.clone();
        Port::new(move |answer| mailbox.post_and_wait(envelope(answer)))
    }

    /// Posts an envelope and waits for room. Only for threads that may wait: a shard never does.
    fn post_and_wait(&self, envelope: Envelope) {
        const PAUSE: Duration = Duration::from_micros(200);
        let mut next = envelope;
        while let Err(full) = self.post(next) {
            next = full;
            self.wake();
            std::thread::sleep(PAUSE);
        }
        self.wake();
    }
}

/// A shard's own end of its mailbox.
#[derive(Debug)]
pub struct Inbox {
    receiver: Receiver<Envelope>,
    commands: Receiver<Command>,
    waker: Arc<Waker>,
}

impl Inbox {
    /// The next envelope.
    pub fn pop(&self) -> Option<Envelope> {
        self.receiver.try_recv().ok()
    }

    /// The next command.
    pub(super) fn command(&self) -> Option<Command> {
        self.commands.try_recv().ok()
    }

    /// How many envelopes wait.
    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// Announces that this shard is about to sleep. False: something came, do not.
    pub fn may_sleep(&self) -> bool {
        self.waker.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.receiver.is_empty() && self.commands.is_empty() {
            return true;
        }
        self.waker.asleep.store(false, Ordering::Relaxed);
        false
    }

    /// Announces that this shard is awake, so that nobody spends a system call on it.
    pub fn awake(&self) {
        self.waker.asleep.store(false, Ordering::Relaxed);
    }

    /// What wakes this shard.
    pub fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }
}

/// A mailbox for `envelopes_max` envelopes.
///
/// # Errors
/// The kernel gives no eventfd: out of descriptors or memory.
pub fn mailbox(envelopes_max: usize) -> std::io::Result<(Mailbox, Inbox)> {
    let (sender, receiver) = bounded(envelopes_max);
    let (commander, commands) = bounded(COMMANDS_MAX);
    let waker = Arc::new(Waker::new()?);
    let mailbox = Mailbox { sender, commands: commander, waker: Arc::clone(&waker) };
    Ok((mailbox, Inbox { receiver, commands, waker }))
}
