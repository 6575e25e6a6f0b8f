//! A ring of the shard's own, beside monoio's: entries that name descriptors of sockets, and completions that
//! ring the shard's eventfd, so that whoever waits for that alone hears of them.
#![allow(
    unsafe_code,
    reason = "submission entries name descriptors and memory the compiler cannot check"
)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use io_uring::{IoUring, cqueue, squeue};

use super::mailbox::Waker;

/// A ring and what it had no room for.
pub(super) struct Ring {
    ring: IoUring,
    /// What the submission queue had no room for.
    unsubmitted: VecDeque<squeue::Entry>,
}

/// What is left of a ring's work after [`Ring::submit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing: the eventfd tells of what comes.
    Nothing,
    /// Completions that the eventfd does not tell of: take them before sleeping.
    Completions,
    /// Entries that the kernel does not take for the moment: submit again shortly.
    Entries,
}

impl Ring {
    /// An empty ring that rings `waker`, with room for so many entries between two submits, and for so many
    /// completions. The kernel keeps completions that do not fit until the ring is entered, and rings no
    /// eventfd for them: see [`Ring::submit`].
    pub(super) fn new(waker: &Waker, entries: u32, completions: u32) -> io::Result<Self> {
        let ring = IoUring::builder().setup_cqsize(completions).build(entries)?;
        ring.submitter().register_eventfd(waker.as_fd().as_raw_fd())?;
        Ok(Self { ring, unsubmitted: VecDeque::new() })
    }

    /// Hands what was asked for to the kernel, and has it hand over completions that it kept because
    /// the queue was full. To be called in each turn after [`Ring::completions`], which makes the room.
    pub(super) fn submit(&mut self) -> Rest {
        let is_overflown = self.ring.submission().cq_overflow();
        while is_overflown || !self.is_submitted() {
            // Entering is what moves kept completions into the queue.
            let entered = self.ring.submit();
            let before = self.unsubmitted.len();
            while let Some(entry) = self.unsubmitted.pop_front() {
                if !self.try_push(&entry) {
                    self.unsubmitted.push_front(entry);
                    break;
                }
            }
            // A full completion queue or a lack of memory leaves the entries where they are.
            if entered.is_err() || self.unsubmitted.len() == before {
                break;
            }
        }
        match (is_overflown, self.is_submitted()) {
            (true, _) => Rest::Completions,
            (false, false) => Rest::Entries,
            (false, true) => Rest::Nothing,
        }
    }

    /// As [`Ring::submit`], but the eventfd is not rung for what completes meanwhile: [`Ring::completions`] must
    /// follow.
    pub(super) fn submit_quietly(&mut self) -> Rest {
        self.ring.completion().disable_eventfd();
        let rest = self.submit();
        // Before the completions are looked at: what comes later is rung for.
        self.ring.completion().enable_eventfd();
        rest
    }

    /// What is complete.
    pub(super) fn completions(&mut self) -> impl Iterator<Item = cqueue::Entry> {
        self.ring.completion()
    }

    /// Asks for something, at the next [`Ring::submit`] at the latest.
    ///
    /// # Safety
    /// The memory that the entry refers to must stay until its completion. Its descriptor should stay open as
    /// long, or the entry concerns another file of this thread.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        if self.unsubmitted.is_empty() {
            if self.try_push(&entry) {
                return;
            }
            let _ = self.ring.submit();
            if self.try_push(&entry) {
                return;
            }
        }
        self.unsubmitted.push_back(entry);
    }

    fn is_submitted(&mut self) -> bool {
        self.unsubmitted.is_empty() && self.ring.submission().is_empty()
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: whoever called `push` sees to it.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }
}
