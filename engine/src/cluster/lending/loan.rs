//! A node's part of an app's limits, without I/O: what it does to the book of the app, and what the shards may
//! take when that is done.
//!
//! The order keeps the limits: what a node gives back its shards have no more when the book says so, and what it
//! takes they have only when the book has said so.

use std::sync::Arc;

use super::book::{Account, Book};
use crate::accounts::{ByResource, Lent, Resource, Supply, Usage};
use crate::bucket::WriteError;

/// For how long something counts as wanted after somebody wanted it, in milliseconds.
const WANTED_MS: u64 = 5_000;

/// How long a node waits for others to give back before it says that there is no more, in milliseconds.
const WISH_MS: u64 = 300;

/// After what time a count of channels is too old to say that there is no more, in milliseconds.
const COUNT_MS: u64 = 5_000;

/// What surrounds a loan for the moment.
#[derive(Clone, Copy)]
pub(super) struct Now<'a> {
    /// This node: its name and when it began.
    pub(super) node: &'a str,
    /// Milliseconds of a clock that never falls back.
    pub(super) ms: u64,
    /// The month.
    pub(super) month: u16,
    /// How many messages of it all nodes have published.
    pub(super) messages: u64,
    /// Whether a node may still use what was lent to it.
    pub(super) is_there: &'a dyn Fn(&str) -> bool,
}

/// A node's part of an app's limits.
pub(super) struct Loan {
    usage: Arc<Usage>,
    book: Book,
    /// The revision of that; 0 where there is none.
    revision: u64,
    parts: ByResource<Part>,
    pending: Option<Pending>,
    /// Shards are to try again.
    is_to_wake: bool,
}

/// Of one resource.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    /// What the plan has; 0 where nobody has asked.
    limit: u64,
    /// The book may have another one.
    is_limit_new: bool,
    /// What the book says is lent to this node was lent to this process.
    is_begun: bool,
    wanted_ms: Option<u64>,
    /// Since when the book has a wish of this node.
    wished_ms: Option<u64>,
    counted: Counted,
}

/// A count of what there is, where that can change without anybody who would tell.
#[derive(Clone, Copy, Debug, Default)]
enum Counted {
    #[default]
    No,
    /// Since this revision, when so much was used that the book does not know of.
    Begun { revision: u64, spent: u64 },
    /// So much there was, and the book was the one of this revision.
    Found { count: u64, revision: u64, spent: u64 },
    /// The book has it, since this time.
    Known(u64),
}

/// A write whose outcome is not known yet.
struct Pending {
    /// Names it.
    write: u64,
    step: Step,
    /// When it was begun.
    ms: u64,
    /// It was sent, and no answer came.
    is_lost: bool,
}

impl Loan {
    pub(super) fn new(usage: Arc<Usage>) -> Self {
        Self {
            usage,
            book: Book::default(),
            revision: 0,
            parts: ByResource::default(),
            pending: None,
            is_to_wake: false,
        }
    }

    fn lent(&self, resource: Resource) -> Option<&Lent> {
        self.usage.lent(resource)
    }

    /// Shards want some of a resource of which the plan has `limit`.
    pub(super) fn want(&mut self, resource: Resource, limit: u64, now_ms: u64) {
        let month = self.book.month;
        let part = self.parts.of_mut(resource);
        part.is_limit_new |= part.limit != limit;
        (part.limit, part.wanted_ms) = (limit, Some(now_ms));
        // It may have been helped since it looked.
        self.is_to_wake |= self.lent(resource).is_some_and(|lent| {
            lent.hear();
            lent.supply() != Supply::Open || lent.left(period(resource, month)) > 0
        });
    }

    /// The book stands like this in the bucket.
    pub(super) fn learn(&mut self, node: &str, book: Book, revision: u64) {
        if revision <= self.revision {
            return;
        }
        // Others may have written behind it.
        let last = book.writes.get(node).copied();
        if let Some(pending) = self.pending.take_if(|pending| last == Some(pending.write)) {
            self.is_done(pending, self.revision);
        }
        // A later write than the one that waits for its answer: that one was not made, and never will be.
        if let Some(pending) = self.pending.take_if(|pending| pending.is_lost) {
            self.is_not_done(&pending);
        }
        (self.book, self.revision) = (book, revision);
    }

    /// What became of a write.
    pub(super) fn written(&mut self, write: u64, outcome: Result<u64, WriteError>) {
        // Of one of which the bucket has told nothing is new.
        let Some(mut pending) = self.pending.take_if(|pending| pending.write == write) else {
            return;
        };
        match outcome {
            Ok(revision) => self.is_done(pending, revision),
            Err(WriteError::Conflict) => self.is_not_done(&pending),
            Err(WriteError::NotWritten(_)) => {
                self.is_not_done(&pending);
                self.tell(Supply::Unknown);
            }
            Err(WriteError::Unknown(_)) => {
                // The bucket tells, later.
                pending.is_lost = true;
                self.pending = Some(pending);
                self.tell(Supply::Unknown);
            }
        }
    }

    /// The bucket has no other book than the one that is known: a write of which nothing is known was not made.
    pub(super) fn is_settled(&mut self) {
        if let Some(pending) = self.pending.take_if(|pending| pending.is_lost) {
            self.is_not_done(&pending);
        }
    }

    /// Whether it is not known what became of a write.
    pub(super) fn is_lost(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.is_lost)
    }

    fn is_done(&mut self, pending: Pending, revision: u64) {
        let Pending { step: Step { book, changes, counts, .. }, ms, .. } = pending;
        for resource in Resource::ALL {
            let Change { taken, begins, .. } = *changes.of(resource);
            self.parts.of_mut(resource).is_begun |= begins;
            let Some(lent) = self.usage.lent(resource) else { continue };
            if lent.supply() == Supply::Unknown {
                lent.set_supply(Supply::Open);
            }
            if taken > 0 {
                lent.add(period(resource, book.month), taken);
                lent.set_supply(Supply::Open);
                self.is_to_wake = true;
            }
        }
        let counted = &mut self.parts.of_mut(Resource::Channels).counted;
        if counts && matches!(counted, Counted::Found { .. }) {
            *counted = Counted::Known(ms);
        }
        if revision > self.revision {
            (self.book, self.revision) = (book, revision);
        }
    }

    fn is_not_done(&mut self, pending: &Pending) {
        let Step { book, changes, .. } = &pending.step;
        for resource in Resource::ALL {
            let withdrawn = changes.of(resource).withdrawn;
            if let Some(lent) = self.lent(resource).filter(|_| withdrawn > 0) {
                lent.add(period(resource, book.month), withdrawn);
            }
        }
    }

    /// What those are told who want something, until there is some.
    fn tell(&mut self, supply: Supply) {
        for resource in Resource::ALL {
            let is_wanted = self.parts.of_mut(resource).wanted_ms.is_some();
            if let Some(lent) = self.lent(resource).filter(|_| is_wanted) {
                lent.set_supply(supply);
                self.is_to_wake = true;
            }
        }
    }

    /// Nobody can be asked for the moment.
    pub(super) fn cannot_ask(&mut self) {
        self.tell(Supply::Unknown);
    }

    /// Whether shards are to try again, once.
    pub(super) fn take_wake(&mut self) -> bool {
        std::mem::take(&mut self.is_to_wake)
    }

    /// Whether channels are to be counted, and from now on are.
    pub(super) fn begin_count(&mut self, now: Now<'_>) -> bool {
        let (revision, spent) = (self.revision, self.spent(now.node, Resource::Channels));
        let account = self.book.accounts.of(Resource::Channels);
        let is_new = account.limit == 0;
        let is_settled = account.lent.keys().all(|node| **node == *now.node);
        let part = self.parts.of_mut(Resource::Channels);
        let is_wanted = part.wanted_ms.is_some();
        let is_old = match (part.counted, part.wished_ms) {
            (Counted::No, wished) => wished.is_some() || is_new && !part.is_begun,
            (Counted::Known(at), Some(wished)) => at < wished || now.ms > at + COUNT_MS,
            _ => false,
        };
        // What others have made and not told of would be counted twice.
        let is_time = part.wished_ms.is_none_or(|at| is_settled || now.ms >= at + WISH_MS / 2);
        let is_to_count = is_wanted && is_old && is_time;
        if is_to_count {
            part.counted = Counted::Begun { revision, spent };
        }
        is_to_count
    }

    /// So many channels there are; nothing where they cannot be counted.
    pub(super) fn count(&mut self, found: Option<u64>) {
        let part = self.parts.of_mut(Resource::Channels);
        let Counted::Begun { revision, spent } = part.counted else { return };
        part.counted = match found {
            Some(count) => Counted::Found { count, revision, spent },
            None => Counted::No,
        };
    }

    /// What was used of what is lent, and the book does not know of.
    fn spent(&self, node: &str, resource: Resource) -> u64 {
        let period = period(resource, self.book.month);
        let left = self.lent(resource).map_or(0, |lent| lent.left(period));
        self.book.accounts.of(resource).lent_to(node).saturating_sub(left)
    }

    /// Whether nothing is to be done: nobody wants anything, here or elsewhere, and nobody waits.
    pub(super) fn is_idle(&self) -> bool {
        let is_idle = Resource::ALL.into_iter().all(|resource| {
            let part = self.parts.of(resource);
            let account = self.book.accounts.of(resource);
            let is_wanted = self.lent(resource).is_some_and(Lent::is_wanted);
            !is_wanted
                && part.wanted_ms.is_none()
                && matches!(part.counted, Counted::No | Counted::Known(_))
                && account.wishes.is_empty()
                && !account.is_over()
        });
        is_idle && self.pending.is_none() && !self.is_to_wake
    }

    /// The node was cut off for long: others may have what it had for connections, of which it has none soon.
    pub(super) fn give_up_connections(&mut self) {
        if let Some(lent) = self.lent(Resource::Connections) {
            lent.withdraw(0);
        }
        self.parts.of_mut(Resource::Connections).is_begun = false;
    }

    /// What is to be written; `None` where all is as it should be.
    pub(super) fn next_write(&mut self, now: Now<'_>) -> Option<Write> {
        if self.pending.is_some() {
            return None;
        }
        let mut step = Step {
            book: self.book.clone(),
            changes: ByResource::default(),
            counts: false,
            is_needed: false,
        };
        for resource in Resource::ALL {
            self.step(resource, now, &mut step);
        }
        if !step.is_needed {
            return None;
        }
        let write = fastrand::u64(..);
        step.book.writes.retain(|node, _| is_alive(node, now));
        step.book.writes.insert(now.node.into(), write);
        let bytes = step.book.encode();
        self.pending = Some(Pending { write, step, ms: now.ms, is_lost: false });
        Some(Write { bytes, revision: self.revision, write })
    }

    fn step(&mut self, resource: Resource, now: Now<'_>, next: &mut Step) {
        let usage = Arc::clone(&self.usage);
        let Some(lent) = usage.lent(resource) else { return };
        if lent.was_wanted() && self.parts.of_mut(resource).limit > 0 {
            self.parts.of_mut(resource).wanted_ms = Some(now.ms);
        }
        let revision = self.revision;
        let part = self.parts.of_mut(resource);
        if part.limit == 0 {
            return;
        }
        if part.wanted_ms.is_some_and(|at| now.ms > at + WANTED_MS) {
            part.wanted_ms = None;
        }
        let limit = part.limit;
        let is_forgotten = lent.limit() == 0;
        if is_forgotten {
            part.is_begun = false;
        }
        // What stands for channels before a limit is known is that they are counted.
        let is_counted = matches!(part.counted, Counted::Found { .. } | Counted::Known(_));
        let is_new = next.book.accounts.of(resource).limit == 0;
        if resource == Resource::Channels && !part.is_begun && is_new && !is_counted {
            return;
        }
        let month = now.month;
        let period = period(resource, month);
        if resource == Resource::Messages && next.book.month != month {
            next.book.month = month;
            *next.book.accounts.of_mut(resource) = Account { limit, ..Account::default() };
            next.is_needed |= part.wanted_ms.is_some();
        }
        let account = next.book.accounts.of_mut(resource);
        if (part.is_limit_new || account.limit == 0) && account.limit != limit {
            account.limit = limit;
            next.is_needed = true;
        }
        part.is_limit_new = false;
        if !part.is_begun {
            next.is_needed |= part.wanted_ms.is_some();
            next.changes.of_mut(resource).begins = true;
            begin(resource, now, account, lent, &usage, is_forgotten);
        }
        lent.set_limit(limit);
        // Whoever is not there any more uses nothing, or what it used is not known.
        let gone: Vec<_> =
            account.lent.keys().filter(|node| !is_alive(node, now)).cloned().collect();
        for node in gone {
            let of_gone = account.lent.remove(&node).unwrap_or_default();
            if resource != Resource::Connections {
                account.used = account.used.saturating_add(of_gone);
            }
        }
        account.wishes.retain(|node| is_alive(node, now));
        if resource == Resource::Messages {
            // What was published while there was no limit.
            account.used += now.messages.saturating_sub(account.taken());
        }
        let left = lent.left(period);
        if resource != Resource::Connections {
            let all = account.used.saturating_add(account.lent_to(now.node));
            account.used = all.saturating_sub(left);
            account.lend(now.node, left.min(all));
        }
        if let Counted::Found { count, revision: of, spent } = part.counted {
            if of == revision {
                // What was made since the count began, it may have missed.
                let before = self.book.accounts.of(resource).lent_to(now.node);
                let since = before.saturating_sub(left).saturating_sub(spent);
                account.used = count.saturating_add(since);
                next.counts = true;
                next.is_needed = true;
            } else {
                self.parts.of_mut(resource).counted = Counted::No;
            }
        }
        self.ask_or_give(resource, now, lent, left, next);
    }

    /// Takes what is wanted, asks for it, or gives back what others want.
    fn ask_or_give(
        &mut self,
        resource: Resource,
        now: Now<'_>,
        lent: &Lent,
        left: u64,
        next: &mut Step,
    ) {
        let period = period(resource, now.month);
        let is_known = self.book.accounts.of(resource).wishes.contains(now.node);
        let part = self.parts.of_mut(resource);
        let account = next.book.accounts.of_mut(resource);
        let is_wanted = part.wanted_ms.is_some();
        let is_low = left <= account.block() / 4;
        let is_wished = account.is_wished_by_others(now.node) || account.is_over();
        if is_wanted && is_low && (left == 0 || !is_wished) {
            let free = account.free();
            if free > 0 {
                let count = account.block().min((free / 2).max(1));
                account.lend(now.node, account.lent_to(now.node) + count);
                account.wishes.remove(now.node);
                part.wished_ms = None;
                next.changes.of_mut(resource).taken = count;
                next.is_needed = true;
            } else if left == 0 {
                if account.wishes.insert(now.node.into()) {
                    next.is_needed = true;
                }
                let Some(since) = part.wished_ms.or_else(|| is_known.then_some(now.ms)) else {
                    return;
                };
                part.wished_ms = Some(since);
                let is_counted = resource != Resource::Channels
                    || matches!(part.counted, Counted::Known(at) if at >= since);
                let is_told = lent.supply() == Supply::Exhausted;
                if now.ms >= since + WISH_MS && is_counted && !is_told {
                    lent.set_supply(Supply::Exhausted);
                    self.is_to_wake = true;
                }
            }
            return;
        }
        if account.wishes.remove(now.node) {
            next.is_needed = true;
        }
        part.wished_ms = None;
        if !is_wanted {
            lent.set_supply(Supply::Open);
        }
        if is_wished && left > 0 {
            let withdrawn = lent.withdraw(period);
            let rest = account.lent_to(now.node).saturating_sub(withdrawn);
            account.lend(now.node, rest);
            next.changes.of_mut(resource).withdrawn = withdrawn;
            next.is_needed |= withdrawn > 0;
        }
        // So that it can be counted what there is.
        let before = self.book.accounts.of(resource).lent_to(now.node);
        if is_wished && resource == Resource::Channels && before > left {
            next.is_needed = true;
        }
    }

    /// Gives back all that is not used: the node goes away.
    pub(super) fn leave(&mut self, now: Now<'_>) -> Option<(Vec<u8>, u64)> {
        if self.pending.is_some() || self.revision == 0 {
            return None;
        }
        let mut book = self.book.clone();
        for resource in Resource::ALL {
            let Some(lent) = self.usage.lent(resource) else { continue };
            let left = lent.withdraw(period(resource, book.month));
            let account = book.accounts.of_mut(resource);
            let of_node = account.lent_to(now.node);
            if resource != Resource::Connections {
                account.used = account.used.saturating_add(of_node).saturating_sub(left);
            }
            account.lend(now.node, 0);
            account.wishes.remove(now.node);
        }
        if book == self.book {
            return None;
        }
        book.writes.remove(now.node);
        Some((book.encode(), self.revision))
    }

    /// The book is not there any more.
    pub(super) fn forget(&mut self) {
        (self.book, self.revision) = (Book::default(), 0);
        for part in self.parts.iter_mut() {
            (part.is_begun, part.counted) = (false, Counted::No);
        }
        if let Some(pending) = self.pending.take() {
            self.is_not_done(&pending);
        }
    }
}

/// A book that is to be written.
pub(super) struct Write {
    pub(super) bytes: Vec<u8>,
    /// Behind which revision.
    pub(super) revision: u64,
    /// Names it.
    pub(super) write: u64,
}

/// What a write is made of.
struct Step {
    book: Book,
    changes: ByResource<Change>,
    /// It has what was counted.
    counts: bool,
    /// It differs from what stands there in something that others are to know.
    is_needed: bool,
}

/// What is done to a resource with a write.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    /// What the shards get when it is done.
    taken: u64,
    /// What they had, and get again when it is not.
    withdrawn: u64,
    /// The part begins with it.
    begins: bool,
}

/// What a node has when it begins to be lent to.
fn begin(
    resource: Resource,
    now: Now<'_>,
    account: &mut Account,
    lent: &Lent,
    usage: &Usage,
    is_forgotten: bool,
) {
    if is_forgotten {
        // What was counted before there was a limit counts for nothing.
        lent.withdraw(period(resource, now.month));
        lent.set_limit(account.limit);
    }
    // First those who are there, then those who have left since: none is missed.
    let used = match resource {
        Resource::Connections => usage.own_connections(),
        Resource::Channels | Resource::Messages => 0,
    };
    let left = lent.left(period(resource, now.month));
    account.lend(now.node, used.saturating_add(left));
}

fn is_alive(node: &str, now: Now<'_>) -> bool {
    node == now.node || (now.is_there)(node)
}

/// The period that a resource is counted in.
fn period(resource: Resource, month: u16) -> u16 {
    if resource == Resource::Messages { month } else { 0 }
}
