//! Counters and gauges: what one is, how one is declared, and those of shards.
//!
//! Whoever has numbers to tell declares them with `metrics!` beside them; [`crate::exposition`] puts
//! all of them together. Nothing here knows who that is.

mod cluster;
mod metric;
mod number;
mod shard;

pub use cluster::{CLUSTER, ClusterMetrics};
pub use metric::Metric;
pub(crate) use metric::metrics;
pub use number::Number;
pub use shard::{REFUSALS, SHARD, ShardMetrics};
