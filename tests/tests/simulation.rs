//! Ten thousand worlds, each from its seed. `PUSHFLO_SEED=n` runs one of them again and prints all that
//! happens in it; `PUSHFLO_SEEDS=n` runs more.
#![allow(clippy::disallowed_types, reason = "tests may lock")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use pushflo_tests::number;
use pushflo_tests::simulation::tally::{KINDS, Tally};
use pushflo_tests::simulation::trace::{self, Trace};
use pushflo_tests::simulation::{run, scenario};

const SEEDS: u64 = 10_000;

/// What must happen in ten thousand worlds, besides mail of every kind.
const EVENTS: [&str; 49] = [
    "accepted",
    "apps changed",
    "apps deleted",
    "apps made",
    "batches",
    "certain changes",
    "channels forgotten",
    "closed as away or silent",
    "closed as unauthorized",
    "crashes",
    "deliveries",
    "descriptions",
    "forbidden",
    "gaps",
    "grace times",
    "health told",
    "histories",
    "keys made",
    "keys revoked",
    "lists",
    "members as they are",
    "no such channel",
    "nothing there",
    "own messages",
    "pages of history",
    "pages of members",
    "presence changes",
    "presence snapshots",
    "published over WebSocket",
    "publishes asked for again",
    "publishes forbidden",
    "recoveries",
    "refreshes",
    "refreshes refused",
    "refused",
    "replays",
    "requests unauthorized",
    "subscribed twice",
    "taken keys tried",
    "tokens expiring",
    "too slow",
    "unsubscribed by the server",
    "upgrades",
    "upgrades taken back",
    "usage told",
    "log: logged",
    "log: page",
    "news: app gone",
    "news: done by all",
];

/// How often each must happen in ten thousand worlds, at least.
const FLOOR: u64 = 100;

#[test]
fn nothing_is_lost_doubled_or_reordered_in_ten_thousand_worlds() {
    if let Some(seed) = number("PUSHFLO_SEED") {
        trace::set(Trace::Print);
        println!("{:?}", run(seed));
        return;
    }
    let seeds = number("PUSHFLO_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let failed = Mutex::new(None);
    let total = Mutex::new(Tally::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || failed.lock().unwrap().is_some() {
                        return;
                    }
                    match catch_unwind(AssertUnwindSafe(|| run(seed))) {
                        Ok(tally) => {
                            let mut total = total.lock().unwrap();
                            for (what, count) in tally {
                                *total.entry(what).or_default() += count;
                            }
                        }
                        Err(_) => *failed.lock().unwrap() = Some(seed),
                    }
                }
            });
        }
    });
    if let Some(seed) = *failed.lock().unwrap() {
        tell(seed);
    }
    let total = total.into_inner().unwrap();
    println!("{seeds} worlds: {total:#?}");
    // A world in which nothing of a kind ever happens does not test it.
    let floor = FLOOR * seeds / SEEDS;
    for what in EVENTS.into_iter().chain(KINDS) {
        let count = total.get(what).copied().unwrap_or_default();
        assert!(count >= floor, "{what}: {count} times in all worlds");
    }
}

/// Runs a seed that fails once more, and tells how it came to that.
fn tell(seed: u64) -> ! {
    trace::set(Trace::Keep);
    let again = catch_unwind(AssertUnwindSafe(|| run(seed)));
    println!("The last steps of seed {seed}:");
    trace::kept().iter().for_each(|line| println!("{line}"));
    let test = "cargo test -p pushflo-tests --test simulation -- --nocapture nothing_is_lost";
    let is_same = if again.is_err() { "" } else { ", which passed when it ran again" };
    panic!("seed {seed} fails{is_same}. All its steps: PUSHFLO_SEED={seed} {test}");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
    }
}

#[test]
fn who_leaves_late_takes_nobody_along() {
    scenario::who_leaves_late_takes_nobody_along();
}
