//! Who appends to a stream: a state machine without I/O.
//!
//! What waits is sent as one batch, which the stream takes as a whole or not at all: that is what makes many
//! appends cheap. Batches are sent without waiting for those before them. Each names the sequence that the stream
//! must be at, so if one is refused or lost, those behind it are refused too. The appender then reads what is behind
//! the last append that it knows to be stored, and sends again what it does not find there, with the same
//! sequences: an append of the first time that is still on its way can only be stored in its own place.
//!
//! An owner begins with a record of its term, behind whatever the stream has. The stream compares numbers
//! only: where an append of the owner before was lost and the record of a term has its place, the one behind
//! it still fits. So each record names the term in which it was written, and is *void* behind the record of
//! another term: whoever reads passes over it. For the same reason an acknowledgement counts only when all
//! before it are there: where one is missing, the next term may begin.
//!
//! What was sent and is to have another place, or none, needs a new term of the same owner first: what is
//! still on its way is void from then on.
//!
//! A refusal for another sequence proves nothing: while a leader that is none any more goes on, both it and the new
//! one hear of an append, and one may refuse what the other stores. It only says that something is to be looked at;
//! the append stays open until its place is known to be another's. Nor is the sequence believed that a refusal
//! names: it counts what its leader has not stored and may never store.
//!
//! The contract: each [`Output::Send`] is answered by one [`Input`] of its attempt, sooner or later, each
//! [`Output::Read`] and [`Output::Ask`] by one of its kind. Answers may come in any order, and late. Nobody
//! deletes what is not known to be stored.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use smallvec::SmallVec;

/// A place in a stream, from 1; 0 is before the first.
pub(super) type Sequence = u64;

/// Appends that are on their way at a time: enough for the round trip of a replicated stream at full
/// speed, few enough to be read again in one piece.
pub(super) const IN_FLIGHT_MAX: usize = 512;

/// Batches that are on their way at a time: while they are, what comes gathers for the next.
const BATCHES_MAX: usize = 2;

/// Appends of a batch, and their bytes: few enough that others have their turn between two.
const BATCH_MAX: usize = 64;
const BATCH_BYTES_MAX: usize = 512 * 1024;

/// A message as the stream is to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Tells it from all others.
    pub(super) id: u128,
    /// The subject it is stored under.
    pub(super) subject: Bytes,
    /// What is stored.
    pub(super) payload: Bytes,
    /// Counts the messages of its channel, if it is one: the number it has is that of the last one before it, and
    /// one more.
    pub(super) counter: Option<Rc<Cell<u64>>>,
}

/// What comes to an appender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// The last sequence of the stream.
    Last(Sequence),
    /// A batch was stored, its last append under this sequence.
    Stored(Attempt, Sequence),
    /// Somebody says that the stream is at another sequence.
    Refused(Attempt, Sequence),
    /// Nobody is there to take a batch.
    Untaken(Attempt),
    /// A batch was refused: the stream is full.
    Full(Attempt),
    /// It is not known what became of a batch.
    Lost(Attempt),
    /// What the stream has behind a sequence, up to its last or as much as can be read at a time.
    Tail(Vec<Found>),
    /// The stream ends before a sequence that it had.
    Shrunk,
    /// The stream could not be asked or read. The appender asks again.
    Failed,
}

/// A record that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Where it is.
    pub(super) sequence: Sequence,
    /// Which one.
    pub(super) id: u128,
    /// The term that it was written in; 0 for a record that begins one.
    pub(super) term: Sequence,
}

/// What an appender wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Append these, all or none, if the stream is at `expected`.
    Send {
        /// By which the answer is known.
        attempt: Attempt,
        /// The last sequence that the stream must have.
        expected: Sequence,
        /// The term it is written in; 0 for the record that begins it.
        term: Sequence,
        /// What is stored, at least one.
        entries: Vec<Entry>,
    },
    /// Ask for the last sequence.
    Ask,
    /// Read what is behind a sequence, up to the last one.
    Read {
        /// Behind which.
        after: Sequence,
        /// What the stream is known to have: an answer that ends before is of one that lags.
        until: Sequence,
    },
    /// The stream is the appender's. This or another of its terms has begun, with the record of this
    /// sequence.
    Begun(Sequence),
    /// An append is stored, and so are all before it that were not refused.
    Stored {
        /// Which one.
        id: u128,
        /// Where.
        sequence: Sequence,
    },
    /// An append is not stored, and never will be; nor is any of those behind it that were handed over before this
    /// was told.
    Refused(u128),
    /// It will not be known whether an append is stored.
    Unknown(u128),
    /// The appender is done.
    Ended(End),
}

/// Why an appender is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Another has begun a term.
    Superseded,
    /// The stream is not what it was: it ends earlier, or has holes where nothing was to be deleted.
    Altered,
}

/// Names one sending of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Attempt(u64);

impl Attempt {
    /// Its number, for an address.
    pub(super) fn number(self) -> u64 {
        self.0
    }

    /// The attempt of a number that was given before.
    pub(super) fn of_number(number: u64) -> Self {
        Self(number)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It asks for the last sequence, to begin its term behind that.
    Asking,
    /// The record of its term is on its way.
    Beginning,
    /// The stream is its own.
    Appending,
    /// Something was refused or lost; it reads what is stored.
    Reading,
    /// The stream is another's.
    Ended,
}

/// An append that is not known to be stored.
#[derive(Debug)]
struct Pending {
    entry: Entry,
    /// Its last sending, and whether that was acknowledged.
    sent: Option<(Attempt, bool)>,
    /// Sendings of this term that may still be stored, and behind which sequence: all behind the same.
    open: SmallVec<[(Attempt, Sequence); 1]>,
}

/// Who appends to a stream.
#[derive(Debug)]
pub(super) struct Appender {
    phase: Phase,
    /// All up to here is known: stored, void, or another's.
    settled: Sequence,
    /// The term that what is behind `settled` was written in, if it is valid.
    settled_term: Sequence,
    /// What comes behind that, in order. Those that were sent come first.
    pending: VecDeque<Pending>,
    /// How many were sent since it last read, and in how many batches.
    in_flight: usize,
    batches: usize,
    /// The record that begins its terms.
    beginning: Entry,
    /// The sequence of the last one.
    term: Sequence,
    /// What it was sent by; what was sent before is of an earlier term.
    term_attempt: Attempt,
    /// The stream was full when it was last asked.
    is_full: bool,
    /// What is read has this sequence at least.
    read_until: Sequence,
    attempts: u64,
    outputs: VecDeque<Output>,
}

impl Appender {
    /// One that begins its terms with this record, whose id nobody else has.
    pub(super) fn new(beginning: Entry) -> Self {
        Self {
            phase: Phase::Asking,
            settled: 0,
            settled_term: 0,
            pending: VecDeque::new(),
            in_flight: 0,
            batches: 0,
            beginning,
            term: 0,
            term_attempt: Attempt(0),
            is_full: false,
            read_until: 0,
            attempts: 0,
            outputs: VecDeque::from([Output::Ask]),
        }
    }

    /// What it wants next.
    pub(super) fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// How many appends are not known to be stored.
    #[cfg(test)]
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Appends behind all others, with the next [`Appender::send`]. Whoever calls sees to it that not too many
    /// wait.
    pub(super) fn append(&mut self, entry: Entry) {
        if self.phase == Phase::Ended {
            return self.outputs.push_back(Output::Refused(entry.id));
        }
        self.pending.push_back(Pending { entry, sent: None, open: SmallVec::new() });
    }

    /// Ends waiting: what is not known to be stored stays unknown, and the appender is done.
    pub(super) fn give_up(&mut self) {
        self.end(End::Superseded, Output::Unknown);
    }

    /// Takes what has come.
    pub(super) fn take(&mut self, input: Input) {
        let is_awaited = self.note(&input);
        match (self.phase, input) {
            (Phase::Asking, Input::Last(last)) => self.begin(last),
            (Phase::Asking, Input::Failed) => self.outputs.push_back(Output::Ask),
            (Phase::Beginning, input) => self.beginning(&input),
            (Phase::Appending, Input::Stored(attempt, sequence)) => self.stored(attempt, sequence),
            (Phase::Appending, Input::Full(_)) if is_awaited => {
                self.is_full = true;
                self.read(self.settled);
            }
            (Phase::Appending, Input::Refused(..) | Input::Untaken(_) | Input::Lost(_))
                if is_awaited =>
            {
                self.read(self.settled);
            }
            (Phase::Reading, Input::Tail(found)) => self.found(&found),
            (Phase::Reading, Input::Shrunk) => self.end(End::Altered, Output::Unknown),
            (Phase::Reading, Input::Failed) => self.read(self.settled),
            // Late: what it tells was read, or will be.
            _ => {}
        }
    }

    /// Notes a sending that is not stored, and never will be. Returns whether it, or one of which that is not
    /// known, is the last of its append.
    fn note(&mut self, input: &Input) -> bool {
        let (attempt, is_closed) = match *input {
            Input::Untaken(attempt) | Input::Full(attempt) => (attempt, true),
            Input::Refused(attempt, _) | Input::Lost(attempt) => (attempt, false),
            _ => return false,
        };
        let mut is_awaited = false;
        for (at, pending) in self.pending.iter_mut().enumerate() {
            let is_it = pending.open.iter().any(|(open, _)| *open == attempt);
            if is_it && is_closed {
                pending.open.retain(|(open, _)| *open != attempt);
            }
            is_awaited |= is_it && at < self.in_flight && pending.sent == Some((attempt, false));
        }
        is_awaited
    }

    /// Asks where the stream is, to begin a term.
    fn ask(&mut self) {
        self.phase = Phase::Asking;
        (self.in_flight, self.batches) = (0, 0);
        self.outputs.push_back(Output::Ask);
    }

    /// Sends the record that begins the term, behind `last`.
    fn begin(&mut self, last: Sequence) {
        self.phase = Phase::Beginning;
        let (attempt, entries) = (self.next_attempt(), vec![self.beginning.clone()]);
        self.outputs.push_back(Output::Send { attempt, expected: last, term: 0, entries });
    }

    fn beginning(&mut self, input: &Input) {
        let last_attempt = Attempt(self.attempts);
        match *input {
            Input::Stored(attempt, sequence) if attempt == last_attempt => {
                let is_first = self.term == 0;
                (self.term, self.term_attempt) = (sequence, attempt);
                self.outputs.push_back(Output::Begun(sequence));
                self.is_full = false;
                if is_first {
                    (self.settled, self.settled_term) = (sequence, sequence);
                    self.phase = Phase::Appending;
                    self.send();
                } else {
                    // What was sent in the term before has its place by now, or never will.
                    self.read(sequence);
                }
            }
            Input::Refused(attempt, last) if attempt == last_attempt => self.begin(last),
            Input::Lost(attempt) | Input::Untaken(attempt) if attempt == last_attempt => self.ask(),
            Input::Full(attempt) if attempt == last_attempt => {
                self.refuse_all();
                self.ask();
            }
            _ => {}
        }
    }

    fn stored(&mut self, attempt: Attempt, sequence: Sequence) {
        let mut last = None;
        for (at, pending) in self.pending.iter_mut().take(self.in_flight).enumerate() {
            if pending.sent == Some((attempt, false)) {
                pending.sent = Some((attempt, true));
                last = Some(at);
            }
        }
        let Some(last) = last else { return };
        if sequence != self.settled + 1 + last as u64 {
            debug_assert!(false, "stored under another sequence than it was to be");
            return self.end(End::Altered, Output::Unknown);
        }
        self.batches = self.batches.saturating_sub(1);
        while let Some(Pending { sent: Some((_, true)), .. }) = self.pending.front() {
            self.in_flight -= 1;
            self.settle(0, self.settled + 1);
        }
        self.send();
    }

    /// A pending append has its place.
    fn settle(&mut self, at: usize, sequence: Sequence) {
        self.settled = sequence;
        if let Some(pending) = self.pending.remove(at) {
            self.outputs.push_back(Output::Stored { id: pending.entry.id, sequence });
        }
    }

    fn read(&mut self, until: Sequence) {
        self.phase = Phase::Reading;
        self.read_until = until;
        (self.in_flight, self.batches) = (0, 0);
        // Acknowledgements that do not count yet are forgotten: it is read what they were for.
        for pending in &mut self.pending {
            if let Some((_, is_stored)) = &mut pending.sent {
                *is_stored = false;
            }
        }
        self.outputs.push_back(Output::Read { after: self.settled, until });
    }

    /// What there is behind what was known.
    fn found(&mut self, found: &[Found]) {
        for Found { sequence, id, term } in found.iter().copied() {
            if sequence != self.settled + 1 {
                return self.end(End::Altered, Output::Unknown);
            }
            if term == 0 && id == self.beginning.id {
                (self.settled, self.settled_term) = (sequence, sequence);
            } else if term == 0 {
                // What is still on its way is void from here on.
                return self.end(End::Superseded, Output::Refused);
            } else if term != self.settled_term {
                self.settled = sequence;
            } else {
                match self.pending.iter().position(|pending| pending.entry.id == id) {
                    Some(at) => self.settle(at, sequence),
                    None => self.settled = sequence,
                }
            }
        }
        if self.settled < self.read_until {
            // There is more than was read at a time.
            return self.read(self.read_until);
        }
        // Where something else has the place of a sending, that never arrives.
        for pending in &mut self.pending {
            pending.open.retain(|(_, place)| *place >= self.settled);
        }
        if self.settled_term == self.term {
            // What was on its way in the terms before never arrives.
            self.pending.iter_mut().for_each(|pending| {
                pending.open.retain(|(attempt, _)| *attempt > self.term_attempt);
            });
        }
        if std::mem::take(&mut self.is_full) {
            self.refuse_all();
        }
        let mut places = self.pending.iter().zip(self.settled..);
        let is_displaced = places.any(|(p, place)| p.open.iter().any(|(_, was)| *was != place));
        if is_displaced || self.settled_term != self.term {
            return self.ask();
        }
        self.phase = Phase::Appending;
        self.send();
    }

    /// Refuses what is surely not stored, behind all that may be: who waits for it need not wait any longer. Last
    /// first, as they were numbered.
    pub(super) fn refuse_all(&mut self) {
        let last_open = self.pending.iter().rposition(|pending| !pending.open.is_empty());
        let refused = self.pending.drain(last_open.map_or(0, |at| at + 1)..).rev();
        self.outputs.extend(refused.map(|pending| Output::Refused(pending.entry.id)));
    }

    fn end(&mut self, end: End, of_pending: fn(u128) -> Output) {
        self.phase = Phase::Ended;
        (self.in_flight, self.batches) = (0, 0);
        for pending in self.pending.drain(..) {
            let output = if pending.open.is_empty() { Output::Refused } else { of_pending };
            self.outputs.push_back(output(pending.entry.id));
        }
        self.outputs.push_back(Output::Ended(end));
    }

    /// Sends what waits, as far as not too much is on its way.
    pub(super) fn send(&mut self) {
        if self.phase != Phase::Appending {
            return;
        }
        while self.in_flight < IN_FLIGHT_MAX && self.batches < BATCHES_MAX {
            let (attempt, expected) = (self.next_attempt(), self.settled + self.in_flight as u64);
            let (mut entries, mut bytes) = (Vec::new(), 0);
            let waiting = self.pending.iter_mut().skip(self.in_flight).take(BATCH_MAX);
            for (pending, place) in waiting.zip(expected..) {
                bytes += pending.entry.payload.len();
                if !entries.is_empty() && bytes > BATCH_BYTES_MAX {
                    break;
                }
                pending.sent = Some((attempt, false));
                pending.open.push((attempt, place));
                entries.push(pending.entry.clone());
            }
            if entries.is_empty() {
                return;
            }
            self.in_flight += entries.len();
            self.batches += 1;
            self.outputs.push_back(Output::Send { attempt, expected, term: self.term, entries });
        }
    }

    fn next_attempt(&mut self) -> Attempt {
        self.attempts += 1;
        Attempt(self.attempts)
    }
}
