//! Ten thousand worlds, each from its seed. `PUSHFLO_SEED=n` runs one of them again;
//! `PUSHFLO_SEEDS=n` runs more.
#![allow(clippy::disallowed_types, reason = "tests may lock")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use pushflo_tests::number;
use pushflo_tests::simulation::client::Tally;
use pushflo_tests::simulation::run;

const SEEDS: u64 = 10_000;

#[test]
fn nothing_is_lost_doubled_or_reordered_in_ten_thousand_worlds() {
    if let Some(seed) = number("PUSHFLO_SEED") {
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
        panic!("seed {seed} fails; PUSHFLO_SEED={seed} runs it again");
    }
    let total = total.into_inner().unwrap();
    println!("{seeds} worlds: {total:?}");
    // A world in which nothing of a kind ever happens does not test it.
    for (what, count) in total {
        assert!(count > 0, "no {what} in any world");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
    }
}
