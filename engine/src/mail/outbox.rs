//! What waits to be put into other shards' mailboxes.
//!
//! A mailbox may be full; a shard never waits for room. It keeps what it already accepted here, in
//! order, and refuses new publishes that would need a way that is full. The ways to all shards share what
//! a shard may keep, so that one who is late takes little from the others.

use std::collections::VecDeque;

use super::Mail;
use crate::ids::ShardId;
use crate::settings::Limits;
use crate::share;

/// The mail of a shard on its way to others.
#[derive(Debug)]
pub(crate) struct Outboxes {
    ways: Box<[Way]>,
    /// What all ways have.
    load: Load,
}

/// The mail on its way to one shard.
#[derive(Debug, Default)]
struct Way {
    queue: VecDeque<Mail>,
    load: Load,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    envelopes: usize,
    bytes: usize,
}

impl Load {
    fn add(&mut self, bytes: usize) {
        self.envelopes += 1;
        self.bytes += bytes;
    }

    fn take(&mut self, bytes: usize) {
        self.envelopes -= 1;
        self.bytes -= bytes;
    }
}

impl Outboxes {
    /// To so many shards.
    pub(crate) fn new(shards: usize) -> Self {
        Self { ways: (0..shards).map(|_| Way::default()).collect(), load: Load::default() }
    }

    /// The shards that there are ways to.
    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.ways.len()).map(|index| ShardId(index as u16))
    }

    /// Whether a publish that needs the way to `shard` must be refused.
    pub(crate) fn is_full(&self, shard: ShardId, limits: &Limits) -> bool {
        let Some(Way { load: Load { envelopes, bytes }, .. }) = self.ways.get(shard.index()) else {
            return true;
        };
        !share::has_room(*envelopes, self.load.envelopes, limits.outbox_envelopes_max)
            || !share::has_room(*bytes, self.load.bytes, limits.outbox_bytes_max)
    }

    /// Appends.
    ///
    /// # Errors
    /// There is no such shard.
    pub(crate) fn push(&mut self, to: ShardId, mail: Mail) -> Result<(), Mail> {
        let Some(way) = self.ways.get_mut(to.index()) else { return Err(mail) };
        let bytes = mail.kept_bytes();
        way.load.add(bytes);
        self.load.add(bytes);
        way.queue.push_back(mail);
        Ok(())
    }

    /// Hands over in order until `post` gives one back because the mailbox is full. Returns how
    /// many went.
    pub(crate) fn drain(
        &mut self,
        to: ShardId,
        mut post: impl FnMut(Mail) -> Result<(), Mail>,
    ) -> usize {
        let Some(way) = self.ways.get_mut(to.index()) else { return 0 };
        let mut sent = 0;
        while let Some(mail) = way.queue.pop_front() {
            let bytes = mail.kept_bytes();
            if let Err(mail) = post(mail) {
                way.queue.push_front(mail);
                break;
            }
            way.load.take(bytes);
            self.load.take(bytes);
            sent += 1;
        }
        sent
    }

    /// How much mail waits for all shards.
    pub(crate) fn len(&self) -> usize {
        self.load.envelopes
    }

    /// Checks that what is counted is there.
    pub(crate) fn check(&self) {
        let mut all = Load::default();
        for way in &self.ways {
            let mut load = Load::default();
            way.queue.iter().for_each(|mail| load.add(mail.kept_bytes()));
            assert_eq!(way.load, load, "what waits for a shard");
            all.envelopes += load.envelopes;
            all.bytes += load.bytes;
        }
        assert_eq!(self.load, all, "what waits for all shards");
    }
}
