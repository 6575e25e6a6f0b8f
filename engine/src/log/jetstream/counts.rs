//! How many messages apps have published in a month, over all nodes and exactly.
//!
//! The owner of a slot counts what is stored in its stream, and writes that into the bucket every now and then,
//! with the sequence up to which it is counted. A new owner counts what is behind that in the stream, so nothing
//! is lost where one ends without a word, and writes before it goes on: what the one before writes later is
//! refused.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use pushflo_protocol::time::Month;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::appender::Sequence;
use super::gets::AskError;
use super::read::Source;
use crate::bucket::{Bucket, Entry, WriteError};
use crate::hash::HashMap;
use crate::ids::{AppId, SlotId};

/// What keys of counts begin with.
const USAGE: &str = "usage.";

/// How often a slot's counts are written where they have changed, and how many bytes of them make that twice as
/// long: a slot with many apps is not written all the time.
const FLUSH: Duration = Duration::from_secs(2);
const FLUSH_BYTES: usize = 16 * 1024;

/// How often all that is known is told again: an app may not have been there when it was told first.
const TELL_ALL: Duration = Duration::from_secs(10);

/// Messages of one app in one month.
type ByApp = BTreeMap<(AppId, u16), u64>;

/// The counts of a slot as they stand in the bucket.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Counted {
    /// The process that has written it.
    writer: u64,
    /// The stream's.
    incarnation: u64,
    /// All up to here is counted.
    upto: Sequence,
    counts: Vec<(u32, u16, u64)>,
}

/// The counts of a slot.
#[derive(Debug, Default)]
struct SlotCounts {
    /// That of the entry in the bucket; 0 where there is none.
    revision: u64,
    incarnation: u64,
    upto: Sequence,
    counts: ByApp,
    /// This node counts, since it owns the slot for this time.
    own: Option<u64>,
    is_changed: bool,
    is_written: bool,
    due: Option<Instant>,
}

/// Takes how many messages an app has published in a month, as far as is known here.
pub(crate) type CountTold = Box<dyn Fn(AppId, u16, u64)>;

/// The counts of all slots.
pub(super) struct Counts {
    /// Names this process.
    writer: u64,
    bucket: Rc<Bucket>,
    told: CountTold,
    unix_ms: fn() -> u64,
    slots: RefCell<Vec<SlotCounts>>,
    totals: RefCell<HashMap<(AppId, u16), u64>>,
    told_all: Cell<Instant>,
    /// The month of the last message.
    month: Cell<Month>,
}

fn slot_of(key: &str) -> Option<SlotId> {
    let number = key.strip_prefix(USAGE)?.parse().ok();
    number.filter(|number| *number < SlotId::COUNT).map(SlotId)
}

fn key_of(slot: SlotId) -> String {
    format!("{USAGE}{slot}")
}

impl SlotCounts {
    /// In the bucket's form, without months that are long over.
    fn encode(&self, writer: u64, month: u16) -> Vec<u8> {
        let recent = self.counts.iter().filter(|((_, of), _)| of + 1 >= month);
        let counts = recent.map(|((app, month), count)| (app.0, *month, *count)).collect();
        let counted = Counted { writer, incarnation: self.incarnation, upto: self.upto, counts };
        // Into memory, of types that have a form: it cannot fail.
        postcard::to_allocvec(&counted).unwrap_or_default()
    }
}

impl Counts {
    pub(super) fn new(bucket: Rc<Bucket>, told: CountTold, unix_ms: fn() -> u64) -> Self {
        Self {
            writer: fastrand::u64(..),
            bucket,
            told,
            unix_ms,
            slots: RefCell::new(SlotId::all().map(|_| SlotCounts::default()).collect()),
            totals: RefCell::default(),
            told_all: Cell::new(Instant::now()),
            month: Cell::default(),
        }
    }

    /// The month of a time.
    pub(super) fn month_of(&self, unix_ms: u64) -> u16 {
        let known = self.month.get();
        if (known.start_ms..known.end_ms).contains(&unix_ms) {
            return known.number;
        }
        let month = Month::of(unix_ms);
        self.month.set(month);
        month.number
    }

    /// Messages of an app in a month, as far as is known here.
    pub(super) fn messages(&self, app: AppId, month: u16) -> u64 {
        self.totals.borrow().get(&(app, month)).copied().unwrap_or_default()
    }

    /// An entry of the bucket.
    pub(super) fn learn(&self, entry: &Entry) {
        let Some(slot) = slot_of(&entry.key) else { return };
        let counted = match &entry.value {
            None => Counted::default(),
            Some(value) => match postcard::from_bytes(value) {
                Ok(counted) => counted,
                Err(error) => {
                    return tracing::error!(%slot, %error, "counts of messages cannot be read");
                }
            },
        };
        self.with(slot, |known| {
            if known.revision >= entry.revision {
                return;
            }
            if known.own.is_some() && counted.writer == self.writer {
                // It has counted on since.
                known.revision = entry.revision;
                return;
            }
            // What another has written while this node thought that it counts.
            known.own = None;
            known.revision = if entry.value.is_some() { entry.revision } else { 0 };
            (known.incarnation, known.upto) = (counted.incarnation, counted.upto);
            let counts =
                counted.counts.iter().map(|(app, month, count)| ((AppId(*app), *month), *count));
            self.replace(known, counts.collect());
        });
    }

    fn with<T: Default>(&self, slot: SlotId, act: impl FnOnce(&mut SlotCounts) -> T) -> T {
        self.slots.borrow_mut().get_mut(slot.index()).map(act).unwrap_or_default()
    }

    /// Has a slot's counts be these.
    fn replace(&self, known: &mut SlotCounts, counts: ByApp) {
        let before = std::mem::replace(&mut known.counts, counts);
        let all: BTreeSet<_> = before.keys().chain(known.counts.keys()).copied().collect();
        for of in all {
            let count = |counts: &ByApp| counts.get(&of).copied().unwrap_or_default();
            let (before, now) = (count(&before), count(&known.counts));
            if before != now {
                let mut totals = self.totals.borrow_mut();
                let total = totals.entry(of).or_default();
                *total = total.saturating_sub(before) + now;
                self.tell(of, *total);
            }
        }
    }

    fn tell(&self, (app, month): (AppId, u16), total: u64) {
        (self.told)(app, month, total);
    }

    /// This node counts what is stored in a slot, from the record of `term` on, which is its own. What is behind
    /// the entry of the bucket, all of which is known here, is counted first.
    pub(super) async fn begin(
        &self,
        slot: SlotId,
        time: u64,
        source: &Source,
        term: Sequence,
    ) -> Result<(), CountError> {
        let (revision, mut upto, mut counts) = self.with(slot, |known| {
            let is_same = known.incarnation == source.incarnation;
            (known.revision, if is_same { known.upto } else { 0 }, known.counts.clone())
        });
        while upto < term {
            let (messages, end) = source.stored_behind(upto, term).await?;
            for (app, timestamp_ms) in messages {
                *counts.entry((app, self.month_of(timestamp_ms))).or_default() += 1;
            }
            upto = end;
        }
        let begun = SlotCounts {
            incarnation: source.incarnation,
            upto,
            counts: counts.clone(),
            ..SlotCounts::default()
        };
        let month = self.month_of((self.unix_ms)());
        let bytes = begun.encode(self.writer, month).into();
        let revision = self.bucket.write(&key_of(slot), Some(bytes), revision).await?;
        self.with(slot, |known| {
            known.revision = known.revision.max(revision);
            (known.incarnation, known.upto) = (source.incarnation, upto);
            (known.own, known.is_changed) = (Some(time), false);
            self.replace(known, counts);
        });
        Ok(())
    }

    /// Something is stored in a slot that this node owns for `time`: a message of an app in a month, or something
    /// else.
    pub(super) fn stored(
        &self,
        slot: SlotId,
        time: u64,
        message: Option<(AppId, u16)>,
        sequence: Sequence,
    ) {
        let is_own = self.with(slot, |known| {
            let is_own = known.own == Some(time);
            if is_own {
                (known.upto, known.is_changed) = (known.upto.max(sequence), true);
                if let Some(of) = message {
                    *known.counts.entry(of).or_default() += 1;
                }
            }
            is_own
        });
        if let Some(of) = message.filter(|_| is_own) {
            let mut totals = self.totals.borrow_mut();
            let total = totals.entry(of).or_default();
            *total += 1;
            self.tell(of, *total);
        }
    }

    /// This node does not own the slot any more.
    pub(super) fn end(&self, slot: SlotId, time: u64) {
        self.with(slot, |known| known.own.take_if(|own| *own == time));
    }

    /// Writes what has changed and is due.
    pub(super) fn flush(this: &Rc<Self>) {
        let now = Instant::now();
        if now.duration_since(this.told_all.get()) > TELL_ALL {
            this.told_all.set(now);
            for (of, total) in this.totals.borrow().iter() {
                this.tell(*of, *total);
            }
        }
        for slot in SlotId::all() {
            let is_due = this.with(slot, |known| {
                known.own.is_some()
                    && known.is_changed
                    && !known.is_written
                    && *known.due.get_or_insert(now + FLUSH) <= now
            });
            if is_due {
                let this = Rc::clone(this);
                spawn_local(async move { this.write(slot).await });
            }
        }
    }

    /// Writes the counts of a slot, if this node counts there.
    pub(super) async fn write(&self, slot: SlotId) {
        let month = self.month_of((self.unix_ms)());
        let to_write = self.with(slot, |known| {
            if known.own.is_none() || !known.is_changed || known.is_written {
                return None;
            }
            known.counts.retain(|(_, of), _| *of + 1 >= month);
            (known.is_changed, known.is_written) = (false, true);
            Some((known.encode(self.writer, month), known.revision, known.own))
        });
        let Some((bytes, revision, own)) = to_write else { return };
        let pause = FLUSH * (1 + bytes.len() / FLUSH_BYTES) as u32;
        let written = self.bucket.write(&key_of(slot), Some(bytes.into()), revision).await;
        self.with(slot, |known| {
            known.is_written = false;
            known.due = Some(Instant::now() + pause);
            match written {
                Ok(revision) => known.revision = known.revision.max(revision),
                // It is another's slot by now.
                Err(WriteError::Conflict) => {
                    known.own.take_if(|of| Some(*of) == own);
                }
                Err(WriteError::NotWritten(_) | WriteError::Unknown(_)) => known.is_changed = true,
            }
        });
    }
}

/// An entry of the bucket with messages of apps that are in no stream; those of the streams are counted by the
/// first owner of each slot.
pub(crate) fn count_entry(messages: impl Iterator<Item = (AppId, u16, u64)>) -> (String, Vec<u8>) {
    let counts = messages.map(|(app, month, count)| (app.0, month, count)).collect();
    let counted = Counted { counts, ..Counted::default() };
    // Into memory, of types that have a form: it cannot fail.
    (key_of(SlotId(0)), postcard::to_allocvec(&counted).unwrap_or_default())
}

/// Why counting has not begun.
#[derive(Debug, thiserror::Error)]
pub(super) enum CountError {
    /// What is behind the last count cannot be read.
    #[error("{0}")]
    Read(#[from] AskError),
    /// The count cannot be written.
    #[error("{0:?}")]
    Write(WriteError),
}

impl From<WriteError> for CountError {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}
