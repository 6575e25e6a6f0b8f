//! Links over a transport that does its worst: frames are lost, doubled and reordered, cut off for long,
//! and sides begin anew.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Link, LinkEvent, PART_BYTES_MAX};

struct Side {
    link: Link,
    /// Counts the times that the link was up; it goes into what is sent.
    life: u64,
    sent: u64,
    /// What came last since the link is up: in which life of the other side it was sent, and as which.
    came: Option<(u64, u64)>,
    is_up: bool,
    all: u64,
    downs: u64,
}

struct World {
    random: fastrand::Rng,
    now_ms: u64,
    sides: [Side; 2],
    /// On their way to each side.
    ways: [VecDeque<Bytes>; 2],
    is_cut: bool,
    is_quiet: bool,
    next_life: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let side = |session| Side {
            link: Link::new(session, 0),
            life: session,
            sent: 0,
            came: None,
            is_up: false,
            all: 0,
            downs: 0,
        };
        Self {
            random: fastrand::Rng::with_seed(seed),
            now_ms: 0,
            sides: [side(1), side(2)],
            ways: Default::default(),
            is_cut: false,
            is_quiet: false,
            next_life: 1 << 20,
        }
    }

    fn step(&mut self) {
        let at = self.random.usize(..2);
        match self.random.u32(..1_000) {
            0..2 if !self.is_quiet => self.is_cut = !self.is_cut,
            2..4 if !self.is_quiet => self.begin_anew(at),
            4..300 => self.now_ms += self.random.u64(..200),
            300..500 if !self.is_quiet => self.send(at),
            _ => self.arrive(at),
        }
        for at in 0..2 {
            let side = &mut self.sides[at];
            side.link.tick(self.now_ms);
            side.link.flush(self.now_ms);
            while let Some(frame) = side.link.next_frame() {
                let is_lost = !self.is_quiet && (self.is_cut || self.random.u8(..10) == 0);
                if !is_lost {
                    self.ways[1 - at].push_back(frame);
                }
            }
            self.look(at);
        }
    }

    fn begin_anew(&mut self, at: usize) {
        self.next_life += 1 << 20;
        let side = &mut self.sides[at];
        side.link = Link::new(self.next_life, self.now_ms);
        (side.life, side.sent, side.came, side.is_up) = (self.next_life, 0, None, false);
    }

    fn send(&mut self, at: usize) {
        let side = &mut self.sides[at];
        if !side.is_up {
            return;
        }
        side.sent += 1;
        let mut message = [side.life.to_le_bytes(), side.sent.to_le_bytes()].concat();
        if self.random.u8(..50) == 0 {
            message.resize(PART_BYTES_MAX + self.random.usize(..PART_BYTES_MAX * 2), 7);
        }
        side.link.send(&message.into(), self.now_ms);
    }

    fn arrive(&mut self, at: usize) {
        let way = &mut self.ways[at];
        if way.is_empty() {
            return;
        }
        let (is_odd, is_twice) = (self.random.u8(..10) == 0, self.random.u8(..20) == 0);
        let from = if is_odd { self.random.usize(..way.len()) } else { 0 };
        let Some(frame) = way.remove(from) else { return };
        self.sides[at].link.receive(&frame, self.now_ms);
        if is_twice && !self.is_quiet {
            self.ways[at].push_back(frame);
        }
    }

    fn look(&mut self, at: usize) {
        let is_slow = !self.is_quiet && self.random.u8(..4) == 0;
        while let Some(event) = self.sides[at].link.next_event() {
            let side = &mut self.sides[at];
            match event {
                LinkEvent::Up => {
                    assert!(!side.is_up, "up twice");
                    self.next_life += 1;
                    (side.is_up, side.came, side.sent, side.life) = (true, None, 0, self.next_life);
                }
                LinkEvent::Down => {
                    assert!(side.is_up, "down twice");
                    side.is_up = false;
                    side.downs += 1;
                }
                LinkEvent::Message(message) => {
                    assert!(side.is_up, "a message of a link that is down");
                    let number =
                        |at: usize| u64::from_le_bytes(message[at..at + 8].try_into().unwrap());
                    let (life, sent) = (number(0), number(8));
                    let expected = side.came.map_or(1, |(_, sent)| sent + 1);
                    assert_eq!(sent, expected, "in order, from the first, without a hole");
                    assert!(
                        side.came.is_none_or(|(before, _)| before == life),
                        "of another session"
                    );
                    side.came = Some((life, sent));
                    side.all += 1;
                    side.link.taken(1);
                }
            }
            if is_slow {
                break;
            }
        }
    }

    /// With nothing in its way, a link comes up and all that was sent over it arrives.
    fn settle(&mut self) {
        (self.is_quiet, self.is_cut) = (true, false);
        for _ in 0..2_000 {
            self.step();
        }
        let lives = self.sides.each_ref().map(|side| side.life);
        for at in 0..2 {
            let (side, other) = (&self.sides[at], &self.sides[1 - at]);
            assert!(side.is_up, "it stays down");
            assert_eq!(side.link.waiting_bytes(), 0, "it waits for ever");
            let came = side.came.map_or(0, |(life, sent)| {
                assert_eq!(life, lives[1 - at], "of another session");
                sent
            });
            assert_eq!(came, other.sent, "all has arrived");
        }
    }
}

#[test]
fn what_comes_over_a_link_is_whole_and_in_order() {
    let (mut all, mut downs) = (0, 0);
    for seed in 0..300 {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..2_000 {
                world.step();
            }
            world.settle();
            let sides = world.sides.iter();
            sides.map(|side| (side.all, side.downs)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
        });
        let (messages, down) = run.unwrap_or_else(|_| panic!("seed {seed}"));
        all += messages;
        downs += down;
    }
    assert!(all > 20_000 && downs > 300, "{all} messages, {downs} times down");
}

#[test]
fn who_does_not_take_what_is_sent_loses_the_link() {
    let mut world = World::new(1);
    world.is_quiet = true;
    while !world.sides[0].is_up || !world.sides[1].is_up {
        world.step();
    }
    let megabyte = Bytes::from(vec![1; 1 << 20]);
    for _ in 0..40 {
        world.sides[0].link.send(&megabyte, world.now_ms);
    }
    assert!(!world.sides[0].link.is_up());
    assert_eq!(world.sides[0].link.waiting_bytes(), 0);
}
