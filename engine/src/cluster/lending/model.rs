//! Nodes that lend each other parts of limits, with a bucket whose answers and news come late or never, and nodes
//! that end without a word. No limit is passed, and who wants some gets it while there is some.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use pushflo_protocol::time::Month;

use super::book::Book;
use super::loan::{Loan, Now, Write};
use crate::accounts::{Resource, Taken, Usage};
use crate::bucket::WriteError;

const LIMITS: [u64; 3] = [12, 7, 40];
const MONTH: Month = Month { number: 7, end_ms: u64::MAX, start_ms: 0 };

struct Node {
    name: String,
    usage: Arc<Usage>,
    loan: Loan,
    /// Up to which revision it has been told.
    seen: usize,
    connections: u64,
    write: Option<Write>,
    /// Of writes that were made or not: what it is told.
    answers: VecDeque<(u64, Result<u64, WriteError>)>,
    /// What a count that is under way will say.
    count: Option<u64>,
}

struct World {
    random: fastrand::Rng,
    nodes: Vec<Node>,
    entries: Vec<Vec<u8>>,
    ms: u64,
    born: usize,
    messages: u64,
    /// What is known of them everywhere.
    known_messages: u64,
    channels: u64,
    /// What was lent to nodes that have ended, and is used up for all that is known.
    lost: u64,
    is_quiet: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: fastrand::Rng::with_seed(seed),
            nodes: Vec::new(),
            entries: Vec::new(),
            ms: 0,
            born: 0,
            messages: 0,
            known_messages: 0,
            channels: 0,
            lost: 0,
            is_quiet: false,
        };
        for _ in 0..3 {
            let node = world.node();
            world.nodes.push(node);
        }
        world
    }

    fn node(&mut self) -> Node {
        self.born += 1;
        let usage = Arc::new(Usage::shared());
        Node {
            name: format!("n:{}", self.born),
            loan: Loan::new(Arc::clone(&usage)),
            usage,
            seen: 0,
            connections: 0,
            write: None,
            answers: VecDeque::new(),
            count: None,
        }
    }

    /// Somebody wants one, or has one no more.
    fn use_one(&mut self, at: usize, resource: Resource) -> Taken {
        let node = &mut self.nodes[at];
        let limit = LIMITS[resource as usize];
        let taken = match resource {
            Resource::Connections => node.usage.take_connection(limit),
            Resource::Channels => node.usage.take_channel(limit),
            Resource::Messages => node.usage.take_message(MONTH, limit),
        };
        match taken {
            Taken::Yes => match resource {
                Resource::Connections => node.connections += 1,
                Resource::Channels => self.channels += 1,
                Resource::Messages => self.messages += 1,
            },
            Taken::Ask => {
                if node.usage.ask(resource) {
                    node.loan.want(resource, limit, self.ms);
                }
            }
            Taken::No | Taken::NotNow => {}
        }
        taken
    }

    fn leave_one(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        match self.random.u8(..4) {
            0..2 if node.connections > 0 => {
                node.usage.leave_connection();
                node.connections -= 1;
            }
            2 if self.channels > 0 && node.usage.channels() > 0 => {
                node.usage.leave_channel();
                self.channels -= 1;
            }
            // One expires, and nobody is told.
            3 if self.channels > 0 => self.channels -= 1,
            _ => {}
        }
    }

    fn step(&mut self, at: usize) {
        let names: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        let is_there = |name: &str| names.iter().any(|known| known == name);
        let node = &mut self.nodes[at];
        if node.loan.is_idle() {
            return;
        }
        let now = Now {
            node: &node.name,
            ms: self.ms,
            month: MONTH.number,
            messages: self.known_messages,
            is_there: &is_there,
        };
        if node.loan.begin_count(now) {
            node.count = Some(self.channels);
        }
        if let Some(write) = node.loan.next_write(now) {
            node.write = Some(write);
        }
        node.loan.take_wake();
    }

    fn is_lossy(&mut self) -> bool {
        !self.is_quiet && self.random.u8(..8) == 0
    }

    /// A write arrives, or does not.
    fn write(&mut self, at: usize) {
        let Some(Write { bytes, revision, write }) = self.nodes[at].write.take() else { return };
        let (is_lost, is_answer_lost) = (self.is_lossy(), self.is_lossy());
        let is_current = self.entries.len() as u64 == revision;
        let answer = match (is_lost, is_current) {
            (true, _) => None,
            (false, false) => Some(Err(WriteError::Conflict)),
            (false, true) => {
                self.entries.push(bytes);
                Some(Ok(self.entries.len() as u64))
            }
        };
        let unknown = || Err(WriteError::Unknown(String::new()));
        let answer = answer.filter(|_| !is_answer_lost);
        self.nodes[at].answers.push_back((write, answer.unwrap_or_else(unknown)));
    }

    fn hear(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        match self.random.u8(..3) {
            0 => {
                if let Some((write, answer)) = node.answers.pop_front() {
                    node.loan.written(write, answer);
                }
            }
            1 => {
                if node.seen < self.entries.len() {
                    // A bucket tells the last ones only.
                    node.seen = self.random.usize(node.seen + 1..=self.entries.len());
                    let book = Book::decode(&self.entries[node.seen - 1]).unwrap();
                    node.loan.learn(&node.name, book, node.seen as u64);
                } else if node.loan.is_lost() {
                    node.loan.is_settled();
                }
            }
            _ => {
                // What is counted may be counted at any time until now.
                if let Some(count) = node.count.take() {
                    let is_early = self.random.bool();
                    node.loan.count(Some(if is_early { count } else { self.channels }));
                }
            }
        }
    }

    fn end(&mut self, at: usize) {
        let new = self.node();
        let old = std::mem::replace(&mut self.nodes[at], new);
        // A write that is on its way may be made yet.
        if let Some(Write { bytes, revision, .. }) = old.write
            && self.entries.len() as u64 == revision
            && self.random.bool()
        {
            self.entries.push(bytes);
        }
        let book = self.entries.last().map(|entry| Book::decode(entry).unwrap());
        self.lost += book.map_or(0, |book| book.accounts.of(Resource::Messages).lent_to(&old.name));
    }

    fn check(&self) {
        let connections: u64 = self.nodes.iter().map(|node| node.connections).sum();
        assert!(connections <= LIMITS[0], "{connections} connections");
        assert!(self.channels <= LIMITS[1], "{} channels", self.channels);
        assert!(self.messages <= LIMITS[2], "{} messages", self.messages);
    }

    fn turn(&mut self) {
        let at = self.random.usize(..3);
        // Turns are many where all goes well.
        self.ms += match self.is_quiet {
            true => u64::from(self.random.u8(..8) == 0),
            false => self.random.u64(..40),
        };
        match self.random.u8(..20) {
            0..3 if !self.is_quiet => {
                let resource = Resource::ALL[self.random.usize(..3)];
                self.use_one(at, resource);
            }
            3 if !self.is_quiet => self.leave_one(at),
            4 if !self.is_quiet && self.random.u8(..40) == 0 => self.end(at),
            5 => self.known_messages = self.messages,
            6..10 => self.step(at),
            10..13 => self.write(at),
            _ => self.hear(at),
        }
        self.check();
    }

    /// All that can be had is had by a node that wants it.
    fn use_all(&mut self) {
        self.is_quiet = true;
        // Once more, since whoever is slow to give back may be taken for one who has nothing.
        for resource in [Resource::ALL, Resource::ALL].concat() {
            // What was said before is not true any more.
            self.ms += 10_000;
            (0..1_000).for_each(|_| self.turn());
            for _ in 0..100_000 {
                self.turn();
                if self.use_one(1, resource) == Taken::No {
                    break;
                }
                self.check();
            }
        }
        let connections: u64 = self.nodes.iter().map(|node| node.connections).sum();
        assert_eq!(connections, LIMITS[0], "there are more");
        assert_eq!(self.channels, LIMITS[1], "there are more");
        assert!(self.messages + self.lost >= LIMITS[2], "{} and {}", self.messages, self.lost);
    }
}

#[test]
fn no_limit_is_passed_and_what_there_is_can_be_had() {
    let seeds = std::env::var("LENDING_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let mut by_turns = BTreeMap::new();
    for seed in 0..seeds.unwrap_or(300) {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            let turns = world.random.usize(..4_000);
            (0..turns).for_each(|_| world.turn());
            world.use_all();
            turns
        });
        match run {
            Ok(turns) => *by_turns.entry(turns / 1_000).or_insert(0) += 1,
            Err(panic) => {
                println!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(by_turns.values().sum::<u64>() > 0);
}

/// Whoever has asked is told something, sooner or later: that there is some, or that there is none.
#[test]
fn whoever_asks_is_answered() {
    let mut world = World::new(5);
    world.is_quiet = true;
    let mut answers = VecDeque::new();
    for _ in 0..LIMITS[1] + 2 {
        for _ in 0..5_000 {
            world.turn();
            let taken = world.use_one(0, Resource::Channels);
            if taken != Taken::Ask {
                answers.push_back(taken);
                break;
            }
        }
    }
    let all = answers.iter().filter(|taken| **taken == Taken::Yes).count();
    assert_eq!((all as u64, answers.pop_back()), (LIMITS[1], Some(Taken::No)));
}
