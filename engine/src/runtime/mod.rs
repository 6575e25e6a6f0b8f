//! The shell around the shards: threads, sockets, rings, mailboxes. Only here is anything awaited.
//!
//! Each shard is a thread pinned to its core, with its own file table, its own listener on the
//! shared port (`SO_REUSEPORT`), and three rings: monoio's, which accepts and keeps time, one that only
//! watches idle sockets (see `parking`), and one that only writes (see `writing`). Metrics on an address of their own have a thread
//! that is no shard (see `scrape`).

mod accepting;
mod courier;
mod handover;
mod listener;
pub mod mailbox;
mod notify;
mod parking;
mod ring;
mod scrape;
mod sockets;
mod steering;
mod thread;
mod turn;
mod writing;

pub use courier::{Courier, Frame};
pub use handover::Heritage;
pub use listener::{PortReservation, join_port, reserve_port};
pub use scrape::{MetricsListener, Render};
pub use steering::{Command, Done, Order, Stillness, Ways};
pub use thread::{ShardError, ShardPlan, ShardThread, start_shard};
