//! What a process used, as `/proc` tells it.

use std::fs;

use serde::Serialize;

/// One reading.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// CPU time of all threads in nanoseconds.
    pub(crate) cpu_ns: u64,
    /// Resident memory in bytes.
    pub(crate) resident_bytes: u64,
    /// Times a thread waited, and times it was made to.
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
}

impl Usage {
    /// Reads what a process used so far; `None` if it is gone or not ours to look at.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let mut usage =
            Self { resident_bytes: field(&status, "VmRSS:")? * 1024, ..Self::default() };
        for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
            let path = task.path();
            // Nanoseconds on a CPU; the ticks of `stat` are too coarse for short runs.
            let schedstat = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
            let cpu_ns = schedstat.split(' ').next().and_then(|n| n.parse::<u64>().ok());
            usage.cpu_ns += cpu_ns.unwrap_or_default();
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            usage.voluntary_switches += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            usage.involuntary_switches +=
                field(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
        }
        Some(usage)
    }

    /// What was used since an earlier reading; the memory is that of this one.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            resident_bytes: self.resident_bytes,
            voluntary_switches: self.voluntary_switches.saturating_sub(earlier.voluntary_switches),
            involuntary_switches: self
                .involuntary_switches
                .saturating_sub(earlier.involuntary_switches),
        }
    }
}

/// The kernel's own memory for sockets and the like, over the whole machine.
pub(crate) fn slab_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&text, "Slab:").unwrap_or(0) * 1024
}

fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Machine and kernel, for the report.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name").map(|rest| rest.replace(':', "")))
            .unwrap_or_default();
        Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: cpu.trim().to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
        }
    }
}
