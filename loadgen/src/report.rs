//! What a run found: a table for people, JSON for programs.
#![allow(clippy::print_stdout, reason = "the table is the program's output")]

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::plan::Plan;
use crate::process::Machine;
use crate::run::Measured;
use crate::worker::Findings;

/// A generating thread that waits less than this may be what limits the run.
const HEADROOM_MIN: f64 = 0.05;

/// Percentiles that are told.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("max", 100.0)];

/// Everything a run found.
pub(crate) struct Report {
    plan: Plan,
    measured: Measured,
    /// All threads' findings in one.
    all: Findings,
}

impl Report {
    pub(crate) fn new(plan: Plan, measured: Measured, findings: Vec<Findings>) -> io::Result<Self> {
        let merged = findings.into_iter().map(Ok).reduce(|all: io::Result<Findings>, one| {
            let (mut all, one) = (all?, one?);
            all.latency.add(&one.latency).map_err(io::Error::other)?;
            all.answer.add(&one.answer).map_err(io::Error::other)?;
            all.recovery.add(&one.recovery).map_err(io::Error::other)?;
            all.tally.delivered += one.tally.delivered;
            all.tally.gaps += one.tally.gaps;
            all.tally.duplicates += one.tally.duplicates;
            all.tally.damaged += one.tally.damaged;
            all.tally.unexpected += one.tally.unexpected;
            all.not_recovered += one.not_recovered;
            all.failed_publishes += one.failed_publishes;
            all.lost += one.lost;
            all.losses.extend(one.losses);
            all.missing += one.missing;
            Ok(all)
        });
        let all = merged.ok_or_else(|| io::Error::other("no thread ran"))??;
        Ok(Self { plan, measured, all })
    }

    /// Whether every message arrived once, in order and intact, at everyone.
    pub(crate) fn is_whole(&self) -> bool {
        self.problems().is_empty()
    }

    fn problems(&self) -> Vec<String> {
        let Findings { tally, .. } = &self.all;
        let counts = [
            (tally.gaps, "gaps"),
            (tally.duplicates, "duplicates"),
            (tally.damaged, "damaged messages"),
            (tally.unexpected, "unexpected frames"),
            (self.all.missing, "messages missing at the end"),
            (self.all.not_recovered, "subscribers that could not recover"),
            (self.all.failed_publishes, "publishes that failed"),
            (self.all.lost, "connections lost"),
            (
                (self.plan.subscribers as u64).saturating_sub(self.measured.live),
                "subscribers that never came to be",
            ),
        ];
        let some = counts.into_iter().filter(|(count, _)| *count > 0);
        some.map(|(count, what)| format!("{count} {what}")).collect()
    }

    fn seconds(&self) -> f64 {
        self.measured.measured_ns as f64 / 1e9
    }

    /// Microseconds of the server's CPU for each delivery, or each publish where there are none.
    fn cpu_per_unit(&self) -> Option<f64> {
        let units = match self.measured.deliveries {
            0 => self.measured.publishes,
            deliveries => deliveries,
        };
        let server = self.measured.server?;
        (units > 0).then(|| server.cpu_ns as f64 / 1e3 / units as f64)
    }

    fn messages_per_flush(&self) -> Option<f64> {
        let (flushes, deliveries) = self.measured.flushes?;
        (flushes > 0).then(|| deliveries as f64 / flushes as f64)
    }

    fn memory_per_connection(&self) -> Option<f64> {
        let (before, after) = self.measured.memory?;
        let live = self.measured.live.max(1) as f64;
        Some((after as f64 - before as f64) / live)
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        let Plan { subscribers, channels, payload_bytes, publishers, pipeline, .. } = &self.plan;
        let m = &self.measured;
        let row = |name: &str, value: String| println!("  {name:<26} {value}");
        println!("{} against {}", self.plan.scenario, self.plan.server);
        row("subscribers, channels", format!("{subscribers}, {channels}"));
        let rate = self.plan.rate.map_or("max".into(), |rate| format!("{rate}/s"));
        if *publishers > 0 {
            row(
                "publishing",
                format!("{rate}, {payload_bytes} B, {publishers} connections × {pipeline}"),
            );
        }
        let connect_s = m.connect_ns as f64 / 1e9;
        row("connected", format!("{} in {connect_s:.2} s", m.live));
        row("measured", format!("{:.2} s", self.seconds()));
        let per_second = |count: u64| count as f64 / self.seconds().max(1e-9);
        if m.publishes > 0 {
            row("publishes", format!("{} ({:.0}/s)", m.publishes, per_second(m.publishes)));
        }
        if m.refused > 0 {
            row("refused with 503", m.refused.to_string());
        }
        if m.deliveries > 0 {
            row("deliveries", format!("{} ({:.0}/s)", m.deliveries, per_second(m.deliveries)));
        }
        if let Some(messages) = self.messages_per_flush() {
            row("messages per flush", format!("{messages:.2}"));
        }
        if let Some(server) = m.server {
            row(
                "server CPU",
                format!("{:.1} % of a core", server.cpu_ns as f64 / m.measured_ns as f64 * 100.0),
            );
            if let Some(cpu) = self.cpu_per_unit() {
                row("server CPU per delivery", format!("{cpu:.3} µs"));
            }
            row("server memory", format!("{:.1} MB", server.resident_bytes as f64 / 1e6));
            row(
                "server context switches",
                format!("{} + {}", server.voluntary_switches, server.involuntary_switches),
            );
        }
        if let Some(bytes) = self.memory_per_connection() {
            let slab = m.slab.1.saturating_sub(m.slab.0) as f64 / m.live.max(1) as f64;
            row(
                "memory per connection",
                format!("{bytes:.0} B (and {slab:.0} B in the kernel, both ends)"),
            );
        }
        print_histogram("latency", &self.all.latency);
        print_histogram("publish answered", &self.all.answer);
        print_histogram("reconnect to whole", &self.all.recovery);
        let least = m.idle.iter().copied().fold(1.0, f64::min);
        if !m.idle.is_empty() {
            row("generator's headroom", format!("{:.0} %", least * 100.0));
        }
        if least < HEADROOM_MIN {
            println!(
                "  note: the generator was busy all the time and may be the limit, not the server"
            );
        }
        if m.interrupted {
            println!("  note: interrupted before its end");
        }
        let problems = self.problems();
        if problems.is_empty() {
            println!("  every message arrived once, in order and intact");
        }
        for problem in &problems {
            println!("  FAILED: {problem}");
        }
        for loss in self.all.losses.iter().take(5) {
            println!("          {loss}");
        }
    }

    /// Writes everything as JSON.
    pub(crate) fn write_json(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_string_pretty(&self.json()).map_err(io::Error::other)?;
        if path == Path::new("-") {
            println!("{text}");
            return Ok(());
        }
        File::create(path)?.write_all(text.as_bytes())
    }

    fn json(&self) -> Value {
        let m = &self.measured;
        let Findings { tally, .. } = &self.all;
        json!({
            "command": std::env::args().collect::<Vec<_>>().join(" "),
            "machine": Machine::here(),
            "plan": self.plan,
            "seconds": self.seconds(),
            "connectSeconds": m.connect_ns as f64 / 1e9,
            "connected": m.live,
            "publishes": m.publishes,
            "refused": m.refused,
            "deliveries": m.deliveries,
            "deliveriesPerSecond": m.deliveries as f64 / self.seconds().max(1e-9),
            "messagesPerFlush": self.messages_per_flush(),
            "serverCpuMicrosecondsPerDelivery": self.cpu_per_unit(),
            "serverCpuNanoseconds": m.server.map(|s| s.cpu_ns),
            "serverResidentBytes": m.server.map(|s| s.resident_bytes),
            "serverContextSwitches":
                m.server.map(|s| [s.voluntary_switches, s.involuntary_switches]),
            "memoryPerConnectionBytes": self.memory_per_connection(),
            "kernelSlabBytes": m.slab.1.saturating_sub(m.slab.0),
            "latencyNanoseconds": percentiles(&self.all.latency),
            "answerNanoseconds": percentiles(&self.all.answer),
            "recoveryNanoseconds": percentiles(&self.all.recovery),
            "generatorIdleShares": m.idle,
            "samples": m.samples,
            "checked": {
                "delivered": tally.delivered, "gaps": tally.gaps, "duplicates": tally.duplicates,
                "damaged": tally.damaged, "unexpected": tally.unexpected,
                "missing": self.all.missing, "lost": self.all.lost,
                "notRecovered": self.all.not_recovered,
                "failedPublishes": self.all.failed_publishes,
            },
            "interrupted": m.interrupted,
            "whole": self.is_whole(),
        })
    }
}

fn print_histogram(name: &str, histogram: &Histogram<u64>) {
    if histogram.is_empty() {
        return;
    }
    let values: Vec<String> = PERCENTILES
        .iter()
        .map(|(label, percentile)| {
            format!("{label} {}", time(histogram.value_at_percentile(*percentile)))
        })
        .collect();
    println!("  {name:<26} {}", values.join("  "));
}

fn time(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{:.0} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

fn percentiles(histogram: &Histogram<u64>) -> Value {
    if histogram.is_empty() {
        return Value::Null;
    }
    let values = PERCENTILES.iter().map(|(label, percentile)| {
        ((*label).to_owned(), json!(histogram.value_at_percentile(*percentile)))
    });
    Value::Object(values.collect())
}
