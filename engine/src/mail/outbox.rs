//! What waits to be put into another shard's mailbox.
//!
//! A mailbox may be full; a shard never waits for room. It keeps what it already accepted here, in
//! order, and refuses new publishes that would need this outbox once it is full.

use std::collections::VecDeque;

use super::Mail;
use crate::settings::Limits;

/// The mail on their way to one shard.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<Mail>,
    bytes: usize,
}

impl Outbox {
    /// Whether a publish that needs this way must be refused.
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.queue.len() >= limits.outbox_envelopes_max || self.bytes >= limits.outbox_bytes_max
    }

    /// Appends.
    pub fn push(&mut self, mail: Mail) {
        self.bytes += mail.kept_bytes();
        self.queue.push_back(mail);
    }

    /// Hands over in order until `post` gives one back because the mailbox is full. Returns how
    /// many went.
    pub fn drain(&mut self, mut post: impl FnMut(Mail) -> Result<(), Mail>) -> usize {
        let mut sent = 0;
        while let Some(mail) = self.queue.pop_front() {
            let bytes = mail.kept_bytes();
            if let Err(mail) = post(mail) {
                self.queue.push_front(mail);
                break;
            }
            self.bytes -= bytes;
            sent += 1;
        }
        sent
    }

    /// Checks that the bytes are those of the mail.
    pub(crate) fn check(&self) {
        assert_eq!(self.bytes, self.queue.iter().map(Mail::kept_bytes).sum::<usize>());
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
