//! Counters and gauges, one set per shard. Only its shard writes a set; anyone may read it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use pushflo_protocol::ErrorCode;
use pushflo_protocol::time::Month;

use crate::accounts::Usage;
use crate::ids::AppId;
use crate::shared::Shared;

/// A number that one thread writes and all may read.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds `n`. Not an atomic addition: there is one writer.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Takes one away.
    pub fn decrement(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(1), Relaxed);
    }

    /// Replaces the number.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The number.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $field:ident: $kind:literal,)+) => {
        /// The numbers of one shard.
        #[derive(Debug, Default)]
        pub struct ShardMetrics {
            $($(#[doc = $doc])+ pub $field: Number,)+
            /// Refusals, by the position of their code in [`ErrorCode::ALL`].
            pub refusals: [Number; ErrorCode::ALL.len()],
        }

        /// Name, type, help text and accessor of each number.
        const SERIES: &[(&str, &str, &str, fn(&ShardMetrics) -> &Number)] = &[
            $((concat!("pushflo_", stringify!($field)), $kind, concat!($($doc),+), |m| &m.$field),)+
        ];
    };
}

metrics! {
    /// Open connections, HTTP and WebSocket.
    connections: "gauge",
    /// Open WebSocket connections.
    websocket_connections: "gauge",
    /// Connections accepted.
    connections_accepted_total: "counter",
    /// Connections refused over a limit.
    connections_refused_total: "counter",
    /// Subscriptions held by connections of this shard.
    subscriptions: "gauge",
    /// Channels whose home is this shard.
    channels: "gauge",
    /// Idempotency keys of the last minutes.
    idempotency_keys: "gauge",
    /// HTTP requests read.
    http_requests_total: "counter",
    /// Messages that got their offset here.
    publishes_total: "counter",
    /// Messages handed to sockets, one for each subscriber.
    deliveries_total: "counter",
    /// Bytes received.
    bytes_received_total: "counter",
    /// Bytes sent.
    bytes_sent_total: "counter",
    /// Writes to sockets that carried messages; deliveries per flush is how well they gather.
    flushes_total: "counter",
    /// Messages acknowledged by clients.
    acks_total: "counter",
    /// Connections closed because they fell too far behind.
    slow_consumers_total: "counter",
    /// Connections closed because they stayed silent.
    idle_closed_total: "counter",
    /// Connections closed because the peer broke a protocol.
    protocol_errors_total: "counter",
    /// Subscriptions that asked for the past and got all of it.
    recoveries_total: "counter",
    /// Subscriptions that asked for the past and could not get it.
    recovery_gaps_total: "counter",
    /// Bytes of history in memory.
    history_bytes: "gauge",
    /// Bytes of recent messages kept for subscribers that are behind.
    tail_bytes: "gauge",
    /// Envelopes waiting in this shard's mailbox at its last turn.
    mailbox_depth: "gauge",
    /// Envelopes that wait for room in other shards' mailboxes.
    outbox_depth: "gauge",
    /// Wake-ups sent to sleeping shards.
    wakeups_total: "counter",
    /// Turns of the shard's loop.
    turns_total: "counter",
    /// The longest turn of the last 10 to 20 seconds.
    longest_turn_microseconds: "gauge",
}

impl ShardMetrics {
    /// Counts a refusal.
    pub fn refused(&self, code: ErrorCode) {
        let index = ErrorCode::ALL.iter().position(|&c| c == code);
        if let Some(number) = index.and_then(|index| self.refusals.get(index)) {
            number.increment();
        }
    }
}

/// Name, help text and accessor of a number that is told of each app.
type AppSeries = (&'static str, &'static str, fn(&Usage, Month) -> u64);

/// What is told of each app.
const APP_SERIES: [AppSeries; 3] = [
    ("pushflo_app_connections", "WebSocket connections of the app.", |usage, _| {
        usage.connections()
    }),
    ("pushflo_app_channels", "Channels of the app.", |usage, _| usage.channels()),
    (
        "pushflo_app_messages_this_month",
        "Messages the app published this month (UTC).",
        Usage::messages,
    ),
];

/// All numbers in the text format of Prometheus (version 0.0.4). `month` is the current one.
pub fn render(shared: &Shared, apps: &[(AppId, Arc<Usage>)], month: Month) -> String {
    let shards = &shared.metrics;
    let mut out = String::with_capacity(16 * 1024);
    for (name, kind, help, number) in SERIES {
        let _ = writeln!(out, "# HELP {name}{}\n# TYPE {name} {kind}", help);
        for (shard, metrics) in shards.iter().enumerate() {
            let _ = writeln!(out, "{name}{{shard=\"{shard}\"}} {}", number(metrics).value());
        }
    }
    let name = "pushflo_refusals_total";
    let _ = writeln!(out, "# HELP {name} Requests and commands refused, by reason.");
    let _ = writeln!(out, "# TYPE {name} counter");
    for (shard, metrics) in shards.iter().enumerate() {
        for (code, number) in ErrorCode::ALL.iter().zip(&metrics.refusals) {
            let (reason, value) = (code.reason(), number.value());
            let _ = writeln!(out, "{name}{{shard=\"{shard}\",reason=\"{reason}\"}} {value}");
        }
    }
    if let Some(log) = &shared.log {
        for (name, kind, help, value) in log.series() {
            let _ = writeln!(
                out,
                "# HELP pushflo_{name} {help}\n# TYPE pushflo_{name} {kind}\npushflo_{name} {value}"
            );
        }
    }
    for (name, help, number) in APP_SERIES.iter().filter(|_| !apps.is_empty()) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (app, usage) in apps {
            let _ = writeln!(out, "{name}{{app=\"{app}\"}} {}", number(usage, month));
        }
    }
    let _ = writeln!(out, "# HELP pushflo_build_info Always 1, with the version.");
    let _ = writeln!(out, "# TYPE pushflo_build_info gauge");
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(out, "pushflo_build_info{{version=\"{version}\"}} 1");
    out
}
