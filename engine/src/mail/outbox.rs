//! What waits to be put into other shards' mailboxes.
//!
//! A mailbox may be full; a shard never waits for room. It keeps what it already accepted here, in
//! order, and refuses new publishes that would need a way that is full. The ways to all shards share what
//! a shard may keep, so that one who is late takes little from the others.
//!
//! Answers do not count: who waits for them pays for them, and nobody else is refused for their sake.

use std::collections::VecDeque;

use super::Mail;
use crate::ids::{NodeSlot, ShardId};
use crate::settings::Limits;
use crate::share;

/// The mail of a shard on its way to others.
#[derive(Debug)]
pub(crate) struct Outboxes {
    ways: Box<[Way]>,
    /// The mail on its way to other nodes, which goes through one hand.
    abroad: VecDeque<(ShardId, Mail)>,
    abroad_load: Load,
    /// What all ways have that counts.
    load: Load,
    /// All mail.
    len: usize,
}

/// The mail on its way to one shard.
#[derive(Debug, Default)]
struct Way {
    queue: VecDeque<Mail>,
    /// What counts of it.
    load: Load,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    envelopes: usize,
    bytes: usize,
}

impl Load {
    fn of(mail: &Mail) -> Self {
        match mail.is_answer() {
            true => Self::default(),
            false => Self { envelopes: 1, bytes: mail.kept_bytes() },
        }
    }

    fn add(&mut self, other: Self) {
        self.envelopes += other.envelopes;
        self.bytes += other.bytes;
    }

    fn take(&mut self, other: Self) {
        self.envelopes -= other.envelopes;
        self.bytes -= other.bytes;
    }
}

impl Outboxes {
    /// To so many shards.
    pub(crate) fn new(shards: usize) -> Self {
        let ways = (0..shards).map(|_| Way::default()).collect();
        let (abroad, abroad_load, load) = Default::default();
        Self { ways, abroad, abroad_load, load, len: 0 }
    }

    /// The shards that there are ways to.
    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.ways.len()).map(|index| ShardId(index as u16))
    }

    /// Whether a publish that needs the way to `shard` must be refused.
    pub(crate) fn is_full(&self, shard: ShardId, limits: &Limits) -> bool {
        let load = match shard.node() {
            NodeSlot::OWN => self.ways.get(shard.index()).map(|way| &way.load),
            _ => Some(&self.abroad_load),
        };
        let Some(Load { envelopes, bytes }) = load else { return true };
        !share::has_room(*envelopes, self.load.envelopes, limits.outbox_envelopes_max)
            || !share::has_room(*bytes, self.load.bytes, limits.outbox_bytes_max)
    }

    /// Appends.
    ///
    /// # Errors
    /// There is no such shard.
    pub(crate) fn push(&mut self, to: ShardId, mail: Mail) -> Result<(), Mail> {
        if to.node() != NodeSlot::OWN {
            let load = Load::of(&mail);
            self.abroad_load.add(load);
            self.load.add(load);
            self.len += 1;
            self.abroad.push_back((to, mail));
            return Ok(());
        }
        let Some(way) = self.ways.get_mut(to.index()) else { return Err(mail) };
        let load = Load::of(&mail);
        way.load.add(load);
        self.load.add(load);
        self.len += 1;
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
            let load = Load::of(&mail);
            if let Err(mail) = post(mail) {
                way.queue.push_front(mail);
                break;
            }
            way.load.take(load);
            self.load.take(load);
            sent += 1;
        }
        self.len -= sent;
        sent
    }

    /// As [`Outboxes::drain`], for mail to other nodes.
    pub(crate) fn drain_abroad(
        &mut self,
        mut post: impl FnMut(ShardId, Mail) -> Result<(), Mail>,
    ) -> usize {
        let mut sent = 0;
        while let Some((to, mail)) = self.abroad.pop_front() {
            let load = Load::of(&mail);
            if let Err(mail) = post(to, mail) {
                self.abroad.push_front((to, mail));
                break;
            }
            self.abroad_load.take(load);
            self.load.take(load);
            sent += 1;
        }
        self.len -= sent;
        sent
    }

    /// How much mail waits for all shards.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Checks that what is counted is there.
    pub(crate) fn check(&self) {
        let (mut all, mut len) = (Load::default(), 0);
        for way in &self.ways {
            let mut load = Load::default();
            way.queue.iter().for_each(|mail| load.add(Load::of(mail)));
            assert_eq!(way.load, load, "what waits for a shard");
            all.add(load);
            len += way.queue.len();
        }
        let mut load = Load::default();
        self.abroad.iter().for_each(|(_, mail)| load.add(Load::of(mail)));
        assert_eq!(self.abroad_load, load, "what waits for other nodes");
        all.add(load);
        len += self.abroad.len();
        assert_eq!((self.load, self.len), (all, len), "what waits for all shards");
    }
}
