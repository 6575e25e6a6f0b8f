//! Appenders against a model of a stream: a leader that checks sequences and may lose what is not
//! committed, appends that are late, lost, or arrive in another order, reads that lag, and owners that
//! follow each other while those before them still write.
//!
//! Whatever happens, each append that was told to be stored is there once and valid, each that was told to
//! be refused never is, and when it is quiet all is known.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::appender::{Appender, Attempt, End, Entry, Found, Input, Output, Sequence};

/// What is left out of the model or of whoever reads, to see that it would be missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Nothing,
    /// The stream takes whatever comes.
    Fence,
    /// Void records count like others.
    Terms,
}

/// A batch, which is taken as a whole.
#[derive(Clone, Debug)]
struct Append {
    owner: usize,
    attempt: Attempt,
    expected: Sequence,
    records: Vec<Stored>,
}

#[derive(Clone, Copy, Debug)]
struct Stored {
    id: u128,
    term: Sequence,
}

struct Owner {
    appender: Appender,
    has_begun: bool,
    is_over: bool,
}

struct World {
    random: fastrand::Rng,
    missing: Missing,
    owners: Vec<Owner>,
    /// On their way to the leader.
    on_way: Vec<Append>,
    /// At the leader, not committed.
    staged: Vec<Append>,
    stream: Vec<Stored>,
    /// Reads and questions to be answered.
    asked: Vec<(usize, Output)>,
    next_id: u128,
    /// What owners were told: where it is stored; none where it is refused or unknown.
    told: BTreeMap<u128, Result<Sequence, Told>>,
    is_full: bool,
    is_quiet: bool,
    seen: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Refused,
    Unknown,
}

/// How often what matters has happened.
#[derive(Debug, Default)]
struct Seen {
    stored: usize,
    refused: usize,
    ended: usize,
    void: usize,
    twice_sent: usize,
    batches: usize,
}

impl World {
    fn new(seed: u64, missing: Missing) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            missing,
            owners: Vec::new(),
            on_way: Vec::new(),
            staged: Vec::new(),
            stream: Vec::new(),
            asked: Vec::new(),
            next_id: 0,
            told: BTreeMap::new(),
            is_full: false,
            is_quiet: false,
            seen: Seen::default(),
        }
    }

    fn entry(&mut self) -> Entry {
        self.next_id += 1;
        Entry { id: self.next_id, subject: Bytes::new(), payload: Bytes::new(), counter: None }
    }

    fn new_owner(&mut self) {
        let beginning = self.entry();
        let appender = Appender::new(beginning);
        self.owners.push(Owner { appender, has_begun: false, is_over: false });
    }

    fn step(&mut self) {
        match self.random.u32(..100) {
            0..2 if !self.is_quiet => self.new_owner(),
            2..4 if !self.is_quiet => self.change_leader(),
            4..5 if !self.is_quiet => self.is_full = self.random.u8(..4) == 0,
            5..8 if !self.is_quiet => self.lose_one(),
            8..9 if !self.is_quiet && self.random.u8(..4) == 0 => self.give_up(),
            9..10 if !self.is_quiet => self.refuse_all(),
            8..30 if !self.is_quiet => self.append(),
            30..60 => self.arrive(),
            60..85 => self.commit(),
            _ => self.answer(),
        }
        self.carry_out();
    }

    fn append(&mut self) {
        let Some(owner) = self.random_owner() else { return };
        if self.owners[owner].has_begun && self.owners[owner].appender.pending() < 40 {
            for _ in 0..self.random.usize(1..4) {
                let entry = self.entry();
                self.owners[owner].appender.append(entry);
            }
            self.owners[owner].appender.send();
        }
    }

    /// An owner tells those who wait for what is surely not stored.
    fn refuse_all(&mut self) {
        if let Some(owner) = self.random_owner() {
            self.owners[owner].appender.refuse_all();
        }
    }

    /// An owner waits no longer.
    fn give_up(&mut self) {
        if let Some(owner) = self.random_owner()
            && !self.owners[owner].is_over
        {
            self.owners[owner].appender.give_up();
        }
    }

    /// As a rule one of the last, but also those that do not know yet that they are over.
    fn random_owner(&mut self) -> Option<usize> {
        let first = self.owners.len().saturating_sub(3);
        (first < self.owners.len()).then(|| self.random.usize(first..self.owners.len()))
    }

    fn take(&mut self, owner: usize, input: Input) {
        self.owners[owner].appender.take(input);
    }

    /// The leader falls: of what was not committed, a first part is kept and nobody is told.
    fn change_leader(&mut self) {
        let kept = self.random.usize(..=self.staged.len());
        for (at, append) in std::mem::take(&mut self.staged).into_iter().enumerate() {
            if at < kept {
                self.stream.extend(append.records);
            }
            self.take(append.owner, Input::Lost(append.attempt));
        }
    }

    /// An append is lost, or is believed to be and arrives later.
    fn lose_one(&mut self) {
        if self.on_way.is_empty() {
            return;
        }
        let at = self.random.usize(..self.on_way.len());
        let append = self.on_way[at].clone();
        if self.random.bool() {
            self.on_way.swap_remove(at);
        }
        self.take(append.owner, Input::Lost(append.attempt));
    }

    fn last(&self) -> Sequence {
        let staged: usize = self.staged.iter().map(|append| append.records.len()).sum();
        (self.stream.len() + staged) as u64
    }

    /// As a rule the first that was sent arrives.
    fn arrive(&mut self) {
        if self.on_way.is_empty() {
            return;
        }
        let is_first = self.is_quiet || self.random.u8(..10) > 0;
        let at = if is_first { 0 } else { self.random.usize(..self.on_way.len()) };
        let append = self.on_way.remove(at);
        // One that is leader no more refuses as well, and believes to be anywhere.
        if !self.is_quiet && self.random.u8(..20) == 0 {
            let last = self.random.u64(..self.last() + 5);
            self.take(append.owner, Input::Refused(append.attempt, last));
        }
        if self.is_full && !self.is_quiet {
            self.take(append.owner, Input::Full(append.attempt));
        } else if append.expected == self.last() || self.missing == Missing::Fence {
            self.staged.push(append);
        } else if !self.is_quiet && self.random.u8(..20) == 0 {
            self.take(append.owner, Input::Untaken(append.attempt));
        } else {
            self.take(append.owner, Input::Refused(append.attempt, self.last()));
        }
    }

    fn commit(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        let append = self.staged.remove(0);
        self.stream.extend(append.records);
        let sequence = self.stream.len() as u64;
        let is_told = self.is_quiet || self.random.u8(..20) > 0;
        let (stored, lost) = (Input::Stored(append.attempt, sequence), Input::Lost(append.attempt));
        self.take(append.owner, if is_told { stored } else { lost });
    }

    fn answer(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let (owner, asked) = self.asked.swap_remove(self.random.usize(..self.asked.len()));
        let is_failing = !self.is_quiet && self.random.u8(..10) == 0;
        let answer = match asked {
            _ if is_failing => Input::Failed,
            // A replica that lags may answer.
            Output::Ask if self.is_quiet => Input::Last(self.stream.len() as u64),
            Output::Ask => Input::Last(
                self.random.u64(..=self.stream.len() as u64).max(self.stream.len() as u64 / 2),
            ),
            Output::Read { after, until } => self.read(after, until),
            other => panic!("{other:?} is no question"),
        };
        self.take(owner, answer);
    }

    fn read(&mut self, after: Sequence, until: Sequence) -> Input {
        let last = self.stream.len() as u64;
        if last < until {
            // It is staged, and not committed yet.
            return Input::Failed;
        }
        let most = if self.is_quiet { last } else { self.random.u64(until..=last) };
        let most = most.min(after + 64);
        let found = (after + 1..=most).map(|sequence| {
            let Stored { id, term } = self.stream[sequence as usize - 1];
            Found { sequence, id, term }
        });
        Input::Tail(found.collect())
    }

    fn carry_out(&mut self) {
        for owner in 0..self.owners.len() {
            while let Some(output) = self.owners[owner].appender.next_output() {
                self.do_one(owner, output);
            }
        }
    }

    fn do_one(&mut self, owner: usize, output: Output) {
        match output {
            Output::Send { attempt, expected, term, entries } => {
                let records = entries.iter().map(|entry| Stored { id: entry.id, term });
                let records: Vec<Stored> = records.collect();
                let on_way = self.on_way.iter().flat_map(|append| &append.records);
                let ids: BTreeSet<u128> = on_way.map(|record| record.id).collect();
                self.seen.twice_sent +=
                    usize::from(records.iter().any(|record| ids.contains(&record.id)));
                self.seen.batches += usize::from(records.len() > 1);
                self.on_way.push(Append { owner, attempt, expected, records });
            }
            Output::Ask | Output::Read { .. } => self.asked.push((owner, output)),
            Output::Begun(_) => self.owners[owner].has_begun = true,
            Output::Stored { id, sequence } => self.tell(id, Ok(sequence)),
            Output::Refused(id) => self.tell(id, Err(Told::Refused)),
            Output::Unknown(id) => self.tell(id, Err(Told::Unknown)),
            Output::Ended(end) => {
                assert_eq!(end, End::Superseded, "the stream is as it was");
                self.seen.ended += 1;
                self.owners[owner].is_over = true;
            }
        }
    }

    fn tell(&mut self, id: u128, what: Result<Sequence, Told>) {
        match what {
            Ok(sequence) => {
                self.seen.stored += 1;
                let stored = self.stream.get(sequence as usize - 1).map(|stored| stored.id);
                assert_eq!(stored, Some(id), "it is stored where it was told to be");
            }
            Err(_) => self.seen.refused += 1,
        }
        assert!(self.told.insert(id, what).is_none(), "told twice");
    }

    /// Everything arrives, and one more owner begins, as after the last trouble.
    fn settle(&mut self) {
        self.is_quiet = true;
        self.new_owner();
        for _ in 0..4_000 {
            self.step();
        }
        for owner in &self.owners {
            assert_eq!(owner.appender.pending(), 0, "it waits for ever");
        }
        let over = self.owners.iter().filter(|owner| !owner.is_over && owner.has_begun).count();
        assert!(over >= 1, "nobody owns the stream");
    }

    /// What whoever reads the stream takes for valid, by id.
    fn valid(&mut self) -> BTreeMap<u128, Sequence> {
        let (mut term, mut valid) = (0, BTreeMap::new());
        for (at, stored) in self.stream.iter().enumerate() {
            let sequence = at as u64 + 1;
            if stored.term == 0 {
                term = sequence;
            } else if stored.term == term || self.missing == Missing::Terms {
                assert!(valid.insert(stored.id, sequence).is_none(), "stored twice");
            } else {
                self.seen.void += 1;
            }
        }
        valid
    }

    fn check(&mut self) {
        let valid = self.valid();
        for (id, told) in &self.told {
            match told {
                Ok(sequence) => assert_eq!(valid.get(id), Some(sequence), "told to be stored"),
                Err(Told::Refused) => assert!(!valid.contains_key(id), "told to be refused"),
                Err(Told::Unknown) => {}
            }
        }
        let known: BTreeSet<&u128> = self.told.keys().collect();
        assert!(valid.keys().all(|id| known.contains(id)), "stored, and nobody was told");
    }
}

fn run(seed: u64, missing: Missing) -> Seen {
    let mut world = World::new(seed, missing);
    world.new_owner();
    for _ in 0..400 {
        world.step();
    }
    world.settle();
    world.check();
    world.seen
}

const SEEDS: u64 = 10_000;

#[test]
fn what_is_told_of_an_append_is_so() {
    let mut all = Seen::default();
    let seeds = std::env::var("STREAM_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let seen = std::panic::catch_unwind(|| run(seed, Missing::Nothing));
        let seen = seen.unwrap_or_else(|_| panic!("seed {seed}"));
        all.stored += seen.stored;
        all.refused += seen.refused;
        all.ended += seen.ended;
        all.void += seen.void;
        all.twice_sent += seen.twice_sent;
        all.batches += seen.batches;
    }
    let counts = [all.stored, all.refused, all.ended, all.void, all.twice_sent, all.batches];
    assert!(counts.iter().all(|count| *count > seeds as usize / 20), "{all:?}");
}

#[test]
fn a_missing_fence_is_noticed() {
    for missing in [Missing::Fence, Missing::Terms] {
        std::panic::set_hook(Box::new(|_| {}));
        let is_noticed =
            (0..500).any(|seed| std::panic::catch_unwind(|| run(seed, missing)).is_err());
        let _ = std::panic::take_hook();
        assert!(is_noticed, "{missing:?}");
    }
}
