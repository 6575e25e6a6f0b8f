//! The shell around the shards: threads, sockets, rings, mailboxes. Only here is anything awaited.
//!
//! Each shard is a thread pinned to its core, with its own file table, its own listener on the
//! shared port (`SO_REUSEPORT`), and two rings: monoio's, which accepts, writes and keeps time, and
//! one that only watches idle sockets (see `parking`). Metrics on an address of their own have a thread
//! that is no shard (see `scrape`).

mod listener;
pub mod mailbox;
mod notify;
mod parking;
mod scrape;
mod sockets;
mod thread;
mod turn;
mod write;

pub use listener::{PortReservation, reserve_port};
pub use scrape::{MetricsListener, Render};
pub use thread::{ShardError, ShardPlan, ShardThread, start_shard};
