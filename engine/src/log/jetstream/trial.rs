//! Owners of a slot that follow each other, on real NATS servers that die, come back and change their leader.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use pushflo_nats::Nats;
use pushflo_protocol::{MessageId, Parts};
use tokio::sync::mpsc::{Sender, channel, error::TrySendError};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::appender::{Entry, Sequence};
use super::gets::{Get, Gets};
use super::slot::{Slot, StreamPlan, Told};
use super::stored::{Content, Stored, StoredMessage};

const SLOT: &str = "pf.0";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waits,
    Stored(Sequence),
    Refused,
    Unknown,
}

type Fates = Rc<RefCell<BTreeMap<u128, Fate>>>;

struct Owner {
    appends: Sender<Entry>,
    has_begun: Rc<Cell<bool>>,
    is_over: Rc<Cell<bool>>,
}

struct Trial {
    nats: Nats,
    owners: Vec<Owner>,
    fates: Fates,
    random: fastrand::Rng,
    next_id: u128,
}

fn plan() -> StreamPlan {
    StreamPlan {
        name: "pf-0".into(),
        subjects: SLOT.into(),
        replicas: 3,
        max_age_s: 3600,
        bytes_max: -1,
    }
}

impl Trial {
    async fn client(&self) -> async_nats::Client {
        async_nats::ConnectOptions::new()
            .max_reconnects(None)
            .reconnect_delay_callback(|_| Duration::from_millis(100))
            .connect(self.nats.urls())
            .await
            .unwrap()
    }

    /// A node takes the slot, with a connection of its own.
    async fn take_over(&mut self) {
        let client = self.client().await;
        let gets = Gets::new(client.clone()).await.unwrap();
        self.next_id += 1;
        let id = MessageId(self.next_id);
        let (appends, for_slot) = channel(256);
        let (has_begun, is_over, fates) = (Rc::default(), Rc::default(), Rc::clone(&self.fates));
        self.owners.push(Owner {
            appends,
            has_begun: Rc::clone(&has_begun),
            is_over: Rc::clone(&is_over),
        });
        let told = move |told| {
            let (id, fate) = match told {
                Told::Begun(_) => return has_begun.set(true),
                Told::Ended(_) => return is_over.set(true),
                Told::Stored(id, sequence) => (id, Fate::Stored(sequence)),
                Told::Refused(id) => (id, Fate::Refused),
                Told::Unknown(id) => (id, Fate::Unknown),
            };
            let before = fates.borrow_mut().insert(id, fate);
            assert_eq!(before, Some(Fate::Waits), "told twice, or of what was not sent");
        };
        tokio::task::spawn_local(async move {
            Slot::run(client, gets, plan(), (id, "node"), for_slot, told).await;
        });
    }

    /// Whoever believes to own the slot appends, also those who do not any more.
    fn append(&mut self) {
        let ready: Vec<usize> = (0..self.owners.len())
            .filter(|owner| {
                self.owners[*owner].has_begun.get() && !self.owners[*owner].is_over.get()
            })
            .collect();
        let Some(owner) = self.random.choice(ready) else { return };
        self.next_id += 1;
        let message = StoredMessage {
            timestamp_ms: 1,
            life: Default::default(),
            number: 1,
            parts: Parts::new("e", None, &self.next_id.to_string()),
            key: None,
            keyed_ms: 0,
        };
        let id = MessageId(self.next_id);
        let payload = Stored { id, term: 0, content: Content::Message(message) }.encode();
        let subject = format!("{SLOT}.c.0.{}", self.random.u8(..20)).into();
        let entry = Entry { id: self.next_id, subject, payload, counter: None };
        self.fates.borrow_mut().insert(self.next_id, Fate::Waits);
        match self.owners[owner].appends.try_send(entry) {
            Ok(()) => {}
            // It was never taken.
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {
                self.fates.borrow_mut().remove(&self.next_id);
            }
        }
    }

    async fn step_down(&self) {
        let client = self.client().await;
        let answer = client.request("$JS.API.STREAM.LEADER.STEPDOWN.pf-0", "".into());
        let _ = timeout(Duration::from_secs(2), answer).await;
    }

    /// All that the stream has, in order.
    async fn all(&self) -> Vec<(Sequence, Stored)> {
        let gets = Gets::new(self.client().await).await.unwrap();
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let get = Get {
                seq: Some(after + 1),
                next_by_subj: Some(format!("{SLOT}.>")),
                batch: 1000,
                ..Get::default()
            };
            let got = gets.get("pf-0", &get).await.unwrap();
            let Some(last) = got.messages.last() else { return all };
            after = last.sequence;
            for message in got.messages {
                all.push((message.sequence, Stored::decode(&message.payload).unwrap()));
            }
        }
    }

    /// What whoever reads takes for valid.
    async fn check(&self) -> usize {
        let (mut term, mut valid) = (0, BTreeMap::new());
        let mut voids = 0;
        for (sequence, stored) in self.all().await {
            if stored.term == 0 {
                term = sequence;
            } else if stored.term == term {
                assert_eq!(valid.insert(stored.id.0, sequence), None, "stored twice");
            } else {
                voids += 1;
            }
        }
        let fates = self.fates.borrow();
        for (id, fate) in &*fates {
            match fate {
                Fate::Stored(sequence) => assert_eq!(valid.get(id), Some(sequence), "{id} is lost"),
                Fate::Refused => assert!(!valid.contains_key(id), "{id} was refused and is there"),
                Fate::Unknown => {}
                Fate::Waits => panic!("{id} waits for ever"),
            }
        }
        assert!(valid.keys().all(|id| fates.contains_key(id)));
        println!("{} stored, {} told, {voids} void", valid.len(), fates.len());
        valid.len()
    }
}

async fn trial(rounds: u32, seed: u64) {
    let nats = Nats::start(3).unwrap();
    let random = fastrand::Rng::with_seed(seed);
    let mut trial = Trial { nats, owners: Vec::new(), fates: Rc::default(), random, next_id: 0 };
    trial.take_over().await;
    for round in 0..rounds {
        match trial.random.u8(..6) {
            0 | 1 => trial.take_over().await,
            2 | 3 => trial.step_down().await,
            // One at a time, so that most of them are there.
            4 if round % 3 == 0 => {
                let at = trial.random.usize(..trial.nats.count());
                trial.nats.kill(at);
                trial.nats.run(at).unwrap();
            }
            _ => {}
        }
        for _ in 0..trial.random.u32(5..40) {
            for _ in 0..20 {
                trial.append();
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
    trial.nats.wait_until_ready(Duration::from_secs(30)).unwrap();
    trial.take_over().await;
    for _ in 0..300 {
        sleep(Duration::from_millis(100)).await;
        let is_any_waiting = trial.fates.borrow().values().any(|fate| *fate == Fate::Waits);
        if !is_any_waiting && trial.owners.last().is_some_and(|owner| owner.has_begun.get()) {
            break;
        }
    }
    let stored = trial.check().await;
    assert!(stored > 100 * rounds as usize, "{stored} stored");
}

#[test]
fn what_owners_are_told_is_so_on_real_servers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let number = |name: &str, else_: u64| {
        std::env::var(name).map_or(else_, |number| number.parse().unwrap())
    };
    let (rounds, seed) = (number("NATS_ROUNDS", 20), number("NATS_SEED", 1));
    LocalSet::new().block_on(&runtime, trial(rounds as u32, seed));
}
