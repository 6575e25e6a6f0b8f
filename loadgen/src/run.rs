//! The phases of a run: connect, warm up, measure, drain; for a storm, drop, miss, return.

use std::error::Error;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use crate::clock::now_ns;
use crate::options::Options;
use crate::plan::Plan;
use crate::process::{Usage, slab_bytes};
use crate::report::Report;
use crate::worker::{Findings, Phase, Shared, Worker};

/// How long subscribers may need for what is left when publishing has ended.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// How long nothing may get ahead while connecting.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at the counters.
const LOOK: Duration = Duration::from_millis(5);

/// One moment of the measured time.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    /// Since measuring began.
    pub(crate) seconds: f64,
    pub(crate) deliveries: u64,
    pub(crate) publishes: u64,
    /// Writes with messages in them, as the server counts them.
    pub(crate) flushes: u64,
}

/// What was measured besides the threads' findings.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) connect_ns: u64,
    pub(crate) measured_ns: u64,
    pub(crate) deliveries: u64,
    pub(crate) publishes: u64,
    pub(crate) refused: u64,
    /// Messages of a storm that could not be published in time.
    pub(crate) unpublished: u64,
    /// The server's process over the measured time.
    pub(crate) server: Option<Usage>,
    /// Its memory before and after the connections were made.
    pub(crate) memory: Option<(u64, u64)>,
    pub(crate) slab: (u64, u64),
    /// Flushes and deliveries as the server counts them.
    pub(crate) flushes: Option<(u64, u64)>,
    /// Share of the measured time in which each thread waited.
    pub(crate) idle: Vec<f64>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) live: u64,
    pub(crate) return_ns: u64,
    pub(crate) interrupted: bool,
}

/// Runs a scenario and reports; `false` if anything was lost.
pub(crate) fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let (plan, parameters) = Plan::new(options)?;
    TcpStream::connect(plan.server)
        .map_err(|error| format!("nobody answers at {}: {error}", plan.server))?;
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted))?;
    let shared = Arc::new(Shared::new(plan.clone()));
    let mut leader = Leader { shared, interrupted, measured: Measured::default() };
    let threads = leader.start()?;
    leader.lead();
    let mut findings = Vec::new();
    for thread in threads {
        findings.push(thread.join().map_err(|_| "a generating thread panicked")??);
    }
    let report = Report::new(plan, leader.measured, findings)?;
    report.print();
    if let Some(path) = &parameters.json {
        report.write_json(path)?;
    }
    if let Some(path) = &parameters.html {
        report.write_html(path)?;
    }
    Ok(report.is_whole())
}

struct Leader {
    shared: Arc<Shared>,
    interrupted: Arc<AtomicBool>,
    measured: Measured,
}

impl Leader {
    fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    fn start(&self) -> std::io::Result<Vec<JoinHandle<std::io::Result<Findings>>>> {
        let cores = self.plan().cores.clone();
        let thread = |index: usize| {
            let shared = Arc::clone(&self.shared);
            let core = cores.get(index % cores.len().max(1)).copied();
            std::thread::Builder::new().name(format!("load-{index}")).spawn(move || {
                if let Some(id) = core {
                    core_affinity::set_for_current(core_affinity::CoreId { id });
                }
                Worker::new(shared, index)?.run()
            })
        };
        (0..self.plan().threads).map(thread).collect()
    }

    fn lead(&mut self) {
        let usage = |leader: &Self| leader.plan().server_pid.and_then(Usage::of);
        let memory_before = usage(self).map(|usage| usage.resident_bytes);
        self.measured.slab.0 = slab_bytes();
        let started = now_ns();
        self.connect();
        self.measured.connect_ns = now_ns() - started;
        self.measured.live = self.shared.sum(|c| &c.live);
        if self.plan().missed > 0 {
            self.storm();
        } else {
            self.enter(Phase::WarmUp);
            self.sleep(self.plan().warm_up);
            if self.plan().publishers == 0 {
                // Idle: what the connections hold is read before anything else happens.
                let after = usage(self).map(|usage| usage.resident_bytes);
                self.measured.memory = memory_before.zip(after);
                self.measured.slab.1 = slab_bytes();
            }
            self.measure();
            self.drain();
        }
        self.measured.interrupted = self.interrupted.load(Ordering::Relaxed);
        self.shared.enter(Phase::Done);
    }

    fn connect(&mut self) {
        let wanted = self.plan().subscribers as u64;
        let (mut last, mut last_change) = (0, now_ns());
        loop {
            let live = self.shared.sum(|c| &c.live);
            progress("connected", live, wanted);
            if live >= wanted || self.is_interrupted() {
                break;
            }
            let now = now_ns();
            if live != last {
                (last, last_change) = (live, now);
            } else if now - last_change > CONNECT_PATIENCE.as_nanos() as u64 {
                break;
            }
            std::thread::sleep(LOOK);
        }
        progress_end();
    }

    fn measure(&mut self) {
        let pid = self.plan().server_pid;
        let server_before = pid.and_then(Usage::of);
        let flushes_before = flushes(self.plan().server);
        let count = |leader: &Self| {
            let delivered = leader.shared.sum(|c| &c.delivered);
            (delivered, leader.shared.sum(|c| &c.published), leader.shared.sum(|c| &c.refused))
        };
        let (before, idle_before, started) = (count(self), self.idle_ns(), now_ns());
        self.shared.enter(Phase::Measure);
        let until = started + self.plan().duration.as_nanos() as u64;
        let every = self.plan().interval().as_nanos() as u64;
        let mut next = started + every;
        while now_ns() < until && !self.is_interrupted() {
            std::thread::sleep(LOOK);
            if now_ns() >= next {
                next += every;
                let now = count(self);
                self.measured.samples.push(Sample {
                    seconds: (now_ns() - started) as f64 / 1e9,
                    deliveries: now.0 - before.0,
                    publishes: now.1 - before.1,
                    // Asking costs the server something, which an idle one must not be charged.
                    flushes: if self.plan().publishers == 0 {
                        0
                    } else {
                        flushes(self.plan().server).map_or(0, |(flushes, _)| flushes)
                    },
                });
            }
        }
        let after = count(self);
        let server_after = pid.and_then(Usage::of);
        self.measured.measured_ns = now_ns() - started;
        self.measured.deliveries = after.0 - before.0;
        self.measured.publishes = after.1 - before.1;
        self.measured.refused = after.2 - before.2;
        self.measured.server = server_before.zip(server_after).map(|(a, b)| b.since(a));
        let flushes_after = flushes(self.plan().server);
        self.measured.flushes =
            flushes_before.zip(flushes_after).map(|(a, b)| (b.0 - a.0, b.1 - a.1));
        self.count_idle(&idle_before);
    }

    /// How long each thread has waited so far.
    fn idle_ns(&self) -> Vec<u64> {
        self.shared.workers.iter().map(|w| w.idle_ns.load(Ordering::Relaxed)).collect()
    }

    fn count_idle(&mut self, before: &[u64]) {
        let length = self.measured.measured_ns as f64;
        let shares = before.iter().zip(self.idle_ns()).map(|(a, b)| (b - a) as f64 / length);
        self.measured.idle = shares.collect();
    }

    /// Waits until everything that was published has arrived everywhere.
    fn drain(&mut self) {
        self.enter(Phase::Drain);
        self.wait(DRAIN_PATIENCE, |shared| shared.sum(|c| &c.in_flight) == 0);
        self.settle(Phase::Settle, DRAIN_PATIENCE);
    }

    fn storm(&mut self) {
        // A first message on each channel, so that there is a position to recover from.
        let wanted = self.plan().missed * self.plan().channels as u64;
        self.publish_all(wanted);
        self.drain();
        self.enter(Phase::Drop);
        self.publish_all(wanted);
        if let Some(command) = self.plan().before_return.clone() {
            self.enter(Phase::Away);
            self.run_command(&command);
        }
        let pid = self.plan().server_pid;
        let (server_before, delivered, started) =
            (pid.and_then(Usage::of), self.shared.sum(|c| &c.delivered), now_ns());
        let idle_before = self.idle_ns();
        self.settle(Phase::Return, 2 * DRAIN_PATIENCE);
        self.measured.return_ns = now_ns() - started;
        let server_after = pid.and_then(Usage::of);
        self.measured.server = server_before.zip(server_after).map(|(a, b)| b.since(a));
        self.measured.measured_ns = self.measured.return_ns;
        self.count_idle(&idle_before);
        self.measured.deliveries = self.shared.sum(|c| &c.delivered) - delivered;
        self.measured.publishes = wanted;
        self.measured.live = self.shared.sum(|c| &c.live);
    }

    /// Runs a command and waits until the server answers. What goes wrong shows when nobody can return.
    fn run_command(&self, command: &str) {
        match Command::new("sh").args(["-c", command]).status() {
            Ok(status) if status.success() => {}
            Ok(status) => eprintln!("--before-return: {status}"),
            Err(error) => eprintln!("--before-return: {error}"),
        }
        self.wait(CONNECT_PATIENCE, |shared| TcpStream::connect(shared.plan.server).is_ok());
    }

    /// Publishes so many messages.
    fn publish_all(&mut self, wanted: u64) {
        let before = self.shared.sum(|c| &c.published);
        self.enter(Phase::Miss);
        self.wait(DRAIN_PATIENCE, |shared| shared.sum(|c| &c.published) >= before + wanted);
        let published = self.shared.sum(|c| &c.published) - before;
        self.measured.unpublished += wanted.saturating_sub(published);
    }

    /// Enters a phase and waits until nobody is behind.
    fn settle(&mut self, phase: Phase, patience: Duration) {
        self.enter(phase);
        self.wait(patience, |shared| shared.sum(|c| &c.behind) == 0);
    }

    /// Enters a phase; returns when all threads have.
    fn enter(&self, phase: Phase) {
        self.shared.enter(phase);
        self.wait(DRAIN_PATIENCE, |shared| shared.all_in(phase));
    }

    fn wait(&self, patience: Duration, done: impl Fn(&Shared) -> bool) {
        let until = now_ns() + patience.as_nanos() as u64;
        while !done(&self.shared) && now_ns() < until && !self.is_interrupted() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn sleep(&self, time: Duration) {
        self.wait(time, |_| false);
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// Shows how far it is, on a terminal.
fn progress(what: &str, count: u64, of: u64) {
    if std::io::stderr().is_terminal() && of > 0 {
        eprint!("\r{what} {count} of {of}");
    }
}

fn progress_end() {
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
}

/// Flushes and deliveries of a PushFlo server so far, from its metrics.
fn flushes(server: SocketAddr) -> Option<(u64, u64)> {
    let mut stream = TcpStream::connect(server).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let sum = |name: &str| -> Option<u64> {
        let lines = text.lines().filter(|line| line.starts_with(name));
        let values = lines.map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        values.sum::<Option<u64>>()
    };
    Some((sum("pushflo_flushes_total{")?, sum("pushflo_deliveries_total{")?))
}
