//! PushFlo's engine: a realtime fan-out server.
//!
//! From the bottom up; nothing knows what stands behind it in this list:
//!
//! * [`ids`], [`clock`], [`hash`], [`port`], [`retention`], [`metrics`]: names, time, what others are
//!   made of
//! * `database_files`: what must be known of the files of a database
//! * [`link`]: messages between nodes, whole and in order
//! * [`bucket`]: what nodes have in common
//! * [`accounts`], [`log`]: apps, keys, plans and tokens; what is kept of channels on disk
//! * [`settings`], [`exposition`], [`shared`]: what a shard is told, the text that tells what it
//!   counts, what all share
//! * [`mail`]: what the halves of shards say to each other
//! * [`handover`]: what a process hands to the one that takes its place
//! * `home`, `edge`, `api`: channels; connections; what requests ask for
//! * [`shard`]: both halves together, a state machine without I/O
//! * [`runtime`]: threads, sockets and rings around it
//! * [`startup`], [`config`]: the whole, and what it is told
#![cfg(target_os = "linux")]
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod accounts;
pub mod after_all;
mod api;
pub mod bucket;
mod bug;
mod census;
pub mod clock;
pub mod cluster;
pub mod config;
mod context;
mod database_files;
mod edge;
pub mod exposition;
pub mod handover;
pub mod hash;
mod home;
pub mod host;
pub mod ids;
mod in_turn;
pub mod link;
pub mod log;
pub mod mail;
pub mod metrics;
pub mod port;
pub mod proxies;
mod raw_json;
pub mod retention;
pub mod runtime;
pub mod settings;
pub mod shard;
mod share;
pub mod shared;
pub mod startup;
