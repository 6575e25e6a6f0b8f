//! kill -9 at random moments, many times over, and what each durability promises then.
//!
//! `os` and `disk`: what was acknowledged is in history exactly once and in order, and every
//! subscriber that comes back sees all of it without a gap or anything twice. `memory`: a new epoch
//! each time, and whoever comes back is told so.
//!
//! `PUSHFLO_CRASHES=n` crashes that often; `PUSHFLO_SEED=n` repeats the moments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use pushflo_tests::load::{History, Load, Told, histories};
use pushflo_tests::number;
use pushflo_tests::program::{Program, serve_load};
use rustix::process::Signal;

/// Crashes of one server's data; more begin anew, so that what is checked fits into memory.
const CRASHES_AT_A_TIME: u64 = 100;

fn serve(data: &Path, durability: &str) -> (Program, SocketAddr) {
    serve_load(data, durability, |_| {})
}

/// Crashes under load, and gives what everybody was told and what is in history to `check`, together
/// with the number of crashes.
fn crash(durability: &str, check: impl Fn(&Told, &BTreeMap<&'static str, History>, u64)) {
    let seed = number("PUSHFLO_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("PUSHFLO_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut left = number("PUSHFLO_CRASHES").unwrap_or(10);
    let mut done = 0;
    while left > 0 {
        let crashes = left.min(CRASHES_AT_A_TIME);
        left -= crashes;
        done += crashes;
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("data");
        let (mut program, mut address) = serve(&folder, durability);
        let load = Load::start(address);
        for _ in 0..crashes {
            thread::sleep(Duration::from_millis(random.u64(20..400)));
            program.signal(Signal::KILL);
            drop(program);
            (program, address) = serve(&folder, durability);
            load.moved(address);
        }
        thread::sleep(Duration::from_millis(300));
        let told = load.stop();
        let histories = histories(address);
        told.check_offsets(&histories);
        let kept = told.check_kept(&histories);
        told.check_seen(&histories);
        check(&told, &histories, crashes);
        let all = told.acknowledged.len();
        println!("{durability}: {done} crashes, {kept} of {all} messages acknowledged are kept");
    }
}

/// Everything is there, in the first epoch, and every subscriber saw all of it in one piece.
fn all_is_kept(told: &Told, histories: &BTreeMap<&'static str, History>, _: u64) {
    assert!(told.acknowledged.len() > 100 && told.refused.is_empty());
    for acknowledged in &told.acknowledged {
        assert_eq!(acknowledged.epoch, histories[acknowledged.channel].epoch);
    }
    for (channel, views) in &told.views {
        assert_eq!(views.len(), 1, "a subscriber of {channel} was told of a gap");
        assert_eq!(views[0].messages, histories[channel].messages, "{channel}");
    }
}

#[test]
fn what_the_operating_system_has_survives_the_process() {
    crash("os", all_is_kept);
}

#[test]
fn what_the_disk_has_survives_the_process() {
    crash("disk", all_is_kept);
}

#[test]
fn memory_promises_nothing_and_says_so() {
    crash("memory", |told, _, crashes| {
        for (channel, views) in &told.views {
            let epochs: BTreeSet<&String> = views.iter().map(|view| &view.epoch).collect();
            assert_eq!(epochs.len(), views.len(), "{channel}: a gap within an epoch");
            // One that comes back late may miss one altogether.
            assert!(views.len() as u64 <= crashes + 1 && views.len() > 1, "{channel}");
        }
        let epochs = |channel| {
            let told = told.acknowledged.iter().filter(move |a| a.channel == channel);
            told.map(|a| &a.epoch).collect::<BTreeSet<_>>().len() as u64
        };
        assert!(epochs("a") <= crashes + 1 && epochs("a") > 1);
    });
}
