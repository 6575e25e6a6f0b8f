//! What a run found: a table for people, JSON for programs, a page with plots for both.
#![allow(clippy::print_stdout, reason = "the table is the program's output")]

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::html::{self, Plot, Series};
use crate::plan::Plan;
use crate::process::Machine;
use crate::run::{Measured, Sample};
use crate::worker::{Findings, histogram};

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
    /// All latencies, over all threads and the whole time.
    latency: Histogram<u64>,
}

impl Report {
    pub(crate) fn new(plan: Plan, measured: Measured, findings: Vec<Findings>) -> io::Result<Self> {
        let merged = findings.into_iter().map(Ok).reduce(|all: io::Result<Findings>, one| {
            let (mut all, one) = (all?, one?);
            for (index, latency) in one.latency.into_iter().enumerate() {
                match all.latency.get_mut(index) {
                    Some(of_all) => of_all.add(&latency).map_err(io::Error::other)?,
                    None => all.latency.push(latency),
                }
            }
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
        let mut latency = histogram()?;
        for part in &all.latency {
            latency.add(part).map_err(io::Error::other)?;
        }
        Ok(Self { plan, measured, all, latency })
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
            (self.measured.unpublished, "messages that were not published in time"),
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
        println!("{}", self.title());
        for (name, value) in self.rows() {
            println!("  {name:<26} {value}");
        }
        for note in self.notes() {
            println!("  {note}");
        }
    }

    fn title(&self) -> String {
        format!("{} against {}", self.plan.scenario, self.plan.server)
    }

    fn rows(&self) -> Vec<(String, String)> {
        let Plan { subscribers, channels, payload_bytes, publishers, pipeline, .. } = &self.plan;
        let m = &self.measured;
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        row("subscribers, channels", format!("{subscribers}, {channels}"));
        let rate = self.plan.rate.map_or("max".into(), |rate| format!("{rate}/s"));
        if *publishers > 0 {
            let batch = match self.plan.batch {
                1 => String::new(),
                batch => format!(" × {batch} messages"),
            };
            row(
                "publishing",
                format!("{rate}, {payload_bytes} B, {publishers} connections × {pipeline}{batch}"),
            );
        }
        row("connected", format!("{} in {:.2} s", m.live, m.connect_ns as f64 / 1e9));
        row("measured", format!("{:.2} s", self.seconds()));
        let per_second = |count: u64| count as f64 / self.seconds().max(1e-9);
        let with_rate = |count: u64| format!("{count} ({:.0}/s)", per_second(count));
        if m.publishes > 0 {
            row("publishes", with_rate(m.publishes));
        }
        if m.refused > 0 {
            row("refused with 503", m.refused.to_string());
        }
        if m.deliveries > 0 {
            row("deliveries", with_rate(m.deliveries));
        }
        if let Some(messages) = self.messages_per_flush() {
            row("messages per flush", format!("{messages:.2}"));
        }
        if let Some(server) = m.server {
            let share = server.cpu_ns as f64 / m.measured_ns as f64 * 100.0;
            row("server CPU", format!("{share:.2} % of a core"));
            if let Some(cpu) = self.cpu_per_unit() {
                let unit = if m.deliveries > 0 { "delivery" } else { "publish" };
                row(&format!("server CPU per {unit}"), format!("{cpu:.3} µs"));
            }
            row("server memory", format!("{:.1} MB", server.resident_bytes as f64 / 1e6));
            let switches = (server.voluntary_switches, server.involuntary_switches);
            row("server context switches", format!("{} + {}", switches.0, switches.1));
        }
        if let Some(bytes) = self.memory_per_connection() {
            let slab = m.slab.1.saturating_sub(m.slab.0) as f64 / m.live.max(1) as f64;
            row(
                "memory per connection",
                format!("{bytes:.0} B (and {slab:.0} B in the kernel, both ends)"),
            );
        }
        for (name, histogram) in [
            ("latency", &self.latency),
            ("publish answered", &self.all.answer),
            ("return to whole", &self.all.recovery),
        ] {
            if !histogram.is_empty() {
                row(name, in_words(histogram));
            }
        }
        if !m.idle.is_empty() {
            row("generator's headroom", format!("{:.0} %", self.headroom() * 100.0));
        }
        rows
    }

    /// The share of the measured time in which the busiest generating thread waited.
    fn headroom(&self) -> f64 {
        self.measured.idle.iter().copied().fold(1.0, f64::min)
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.headroom() < HEADROOM_MIN {
            let text =
                "note: the generator was busy all the time and may be the limit, not the server";
            notes.push(text.into());
        }
        if self.measured.interrupted {
            notes.push("note: interrupted before its end".into());
        }
        let problems = self.problems();
        if problems.is_empty() {
            notes.push("every message arrived once, in order and intact".into());
        }
        notes.extend(problems.iter().map(|problem| format!("FAILED: {problem}")));
        notes.extend(self.all.losses.iter().take(5).map(|loss| format!("        {loss}")));
        notes
    }

    /// Writes the report with its plots as one HTML file.
    pub(crate) fn write_html(&self, path: &Path) -> io::Result<()> {
        let mut rows = self.rows();
        let machine = Machine::here();
        let text = format!("{} × {}, Linux {}", machine.cores, machine.cpu, machine.kernel);
        rows.insert(0, ("machine".into(), text));
        let page = html::page(&self.title(), &rows, &self.notes(), &self.plots());
        File::create(path)?.write_all(page.as_bytes())
    }

    fn plots(&self) -> Vec<Plot<'static>> {
        let rate = |of: fn(&Sample) -> u64| -> Vec<(f64, f64)> {
            let pairs = self.measured.samples.windows(2);
            pairs
                .filter_map(|pair| {
                    let [before, after] = pair else { return None };
                    let seconds = after.seconds - before.seconds;
                    Some((after.seconds, (of(after) - of(before)) as f64 / seconds.max(1e-9)))
                })
                .collect()
        };
        let deliveries = rate(|sample| sample.deliveries);
        let flushes = rate(|sample| sample.flushes);
        let gathered = deliveries.iter().zip(&flushes).filter(|(_, flushes)| flushes.1 > 0.0);
        let gathered = gathered.map(|(d, f)| (d.0, d.1 / f.1)).collect();
        let over_time = |title, y_label, name, points| Plot {
            title,
            x_label: "seconds",
            y_label,
            x_ticks: Vec::new(),
            series: vec![Series { name, points }],
        };
        vec![
            over_time("Deliveries", "per second", "deliveries", deliveries),
            over_time("Publishes", "per second", "publishes", rate(|sample| sample.publishes)),
            over_time("Messages gathered into one write", "messages", "messages", gathered),
            self.latency_over_time_plot(),
            self.latency_plot(),
        ]
    }

    /// The middle of each interval in seconds, and its latencies.
    fn intervals(&self) -> impl Iterator<Item = (f64, &Histogram<u64>)> {
        let seconds = self.plan.interval().as_secs_f64();
        let intervals = self.all.latency.iter().enumerate().filter(|(_, h)| !h.is_empty());
        intervals.map(move |(index, histogram)| ((index as f64 + 0.5) * seconds, histogram))
    }

    fn latency_over_time(&self) -> Value {
        let interval = |(seconds, histogram)| json!({ "seconds": seconds, "latencyNanoseconds": percentiles(histogram) });
        self.intervals().map(interval).collect()
    }

    fn latency_over_time_plot(&self) -> Plot<'static> {
        let series = |name, percentile| {
            let value = |h: &Histogram<u64>| h.value_at_percentile(percentile) as f64 / 1e6;
            Series { name, points: self.intervals().map(|(at, h)| (at, value(h))).collect() }
        };
        Plot {
            title: "Latency over time",
            x_label: "seconds",
            y_label: "milliseconds",
            x_ticks: Vec::new(),
            series: vec![series("p50", 50.0), series("p99", 99.0), series("max", 100.0)],
        }
    }

    /// Percentiles on a scale on which each nine takes the same room.
    fn latency_plot(&self) -> Plot<'static> {
        let marks = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99];
        let place = |percentile: f64| -(1.0 - percentile / 100.0).log10();
        let points = |histogram: &Histogram<u64>| -> Vec<(f64, f64)> {
            if histogram.is_empty() {
                return Vec::new();
            }
            (0..=200)
                .map(|step| f64::from(step) / 50.0)
                .map(|at| {
                    let percentile = 100.0 * (1.0 - 10f64.powf(-at));
                    (at, histogram.value_at_percentile(percentile) as f64 / 1e6)
                })
                .collect()
        };
        Plot {
            title: "Latency from the intended time, by percentile",
            x_label: "percentile",
            y_label: "milliseconds",
            x_ticks: marks.iter().map(|mark| (place(*mark), mark.to_string())).collect(),
            series: [
                ("message", &self.latency),
                ("publish answered", &self.all.answer),
                ("return", &self.all.recovery),
            ]
            .into_iter()
            .filter(|(_, histogram)| !histogram.is_empty())
            .map(|(name, histogram)| Series { name, points: points(histogram) })
            .collect(),
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
            "latencyNanoseconds": percentiles(&self.latency),
            "answerNanoseconds": percentiles(&self.all.answer),
            "recoveryNanoseconds": percentiles(&self.all.recovery),
            "latencyOverTime": self.latency_over_time(),
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

fn in_words(histogram: &Histogram<u64>) -> String {
    let value = |percentile| time(histogram.value_at_percentile(percentile));
    let values: Vec<String> = PERCENTILES
        .iter()
        .map(|(label, percentile)| format!("{label} {}", value(*percentile)))
        .collect();
    values.join("  ")
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
