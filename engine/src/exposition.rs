//! All metrics in the text format of Prometheus (version 0.0.4).

use std::borrow::Borrow;
use std::fmt::Write as _;
use std::sync::Arc;

use pushflo_protocol::ErrorCode;
use pushflo_protocol::time::Month;

use crate::accounts::{APP_METRICS, Usage};
use crate::ids::AppId;
use crate::log::{LOG_METRICS, LogStatus};
use crate::metrics::{CLUSTER, ClusterMetrics, Metric, REFUSALS, SHARD, ShardMetrics, metrics};

/// The media type of what [`render`] gives.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

metrics! {
    /// What is told of the program.
    const BUILD of () {
        /// Always 1, with the version.
        gauge build_info = |()| 1;
    }
}

/// The metrics of all shards, of the log and the cluster if there are any, and of `apps` in the current `month`.
pub fn render(
    shards: &[ShardMetrics],
    log: Option<&LogStatus>,
    cluster: Option<&ClusterMetrics>,
    apps: &[(AppId, Arc<Usage>)],
    month: Month,
) -> String {
    let of_shards: Vec<_> = shards
        .iter()
        .enumerate()
        .map(|(shard, numbers)| (format!(r#"{{shard="{shard}"}}"#), numbers))
        .collect();
    let refusals: Vec<_> = shards
        .iter()
        .enumerate()
        .flat_map(|(shard, numbers)| {
            ErrorCode::ALL.iter().zip(&numbers.refusals).map(move |(code, number)| {
                (format!(r#"{{shard="{shard}",reason="{}"}}"#, code.reason()), number)
            })
        })
        .collect();
    let apps: Vec<_> = apps
        .iter()
        .map(|(app, usage)| (format!(r#"{{app="{app}"}}"#), usage.numbers(month)))
        .collect();
    let log: Vec<_> = log.into_iter().map(|log| (String::new(), log)).collect();
    let cluster: Vec<_> = cluster.into_iter().map(|cluster| (String::new(), cluster)).collect();
    let version = format!(r#"{{version="{}"}}"#, env!("CARGO_PKG_VERSION"));

    let mut out = String::with_capacity(16 * 1024);
    push(&mut out, SHARD, &of_shards);
    push(&mut out, REFUSALS, &refusals);
    push(&mut out, LOG_METRICS, &log);
    push(&mut out, CLUSTER, &cluster);
    push(&mut out, APP_METRICS, &apps);
    push(&mut out, BUILD, &[(version, ())]);
    out
}

/// Appends metrics of all sources there are, each with its labels.
fn push<Source, S: Borrow<Source>>(
    out: &mut String,
    metrics: &[Metric<Source>],
    sources: &[(String, S)],
) {
    if sources.is_empty() {
        return;
    }
    for Metric { name, kind, help, read } in metrics {
        // Writing into memory cannot fail. The help begins with a blank.
        let _ = writeln!(out, "# HELP {name}{help}\n# TYPE {name} {kind}");
        for (labels, source) in sources {
            let _ = writeln!(out, "{name}{labels} {}", read(source.borrow()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_metric_is_told_once_with_its_kind() {
        let shards = [ShardMetrics::default(), ShardMetrics::default()];
        shards[1].connections.add(3);
        shards[1].refused(ErrorCode::ALL[0]);
        let month = Month { number: 1, end_ms: 0, start_ms: 0 };
        let apps = [(AppId::DEFAULT, Arc::default())];
        let text = render(
            &shards,
            Some(&LogStatus::default()),
            Some(&ClusterMetrics::default()),
            &apps,
            month,
        );
        assert!(text.starts_with(
            "# HELP pushflo_connections Open connections, HTTP and WebSocket.\n\
             # TYPE pushflo_connections gauge\n\
             pushflo_connections{shard=\"0\"} 0\n\
             pushflo_connections{shard=\"1\"} 3\n"
        ));
        let reason = ErrorCode::ALL[0].reason();
        let refusal = format!("pushflo_refusals_total{{shard=\"1\",reason=\"{reason}\"}} 1\n");
        assert!(text.contains(&refusal), "{text}");
        let mut names = BTreeSet::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let name = line.strip_prefix("# HELP ").unwrap().split(' ').next().unwrap();
            assert!(names.insert(name), "{name} is told twice");
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            let is_value = |line: &&str| line.starts_with(name);
            assert!(lines.next_if(is_value).is_some(), "{name} has no value");
            while lines.next_if(is_value).is_some() {}
        }
    }
}
