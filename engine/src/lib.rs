//! PushFlo's engine: a realtime fan-out server.
//!
//! * [`shard`]: the core of a shard, a state machine without I/O
//! * [`edge`], [`api`]: what connections say, and what it does
//! * [`server`], [`config`]: the whole, and what it is told
//! * [`runtime`]: threads, sockets and rings around it
//! * [`log`]: what is kept of channels on disk
//! * [`accounts`]: apps, keys, plans and tokens
//! * [`ids`], [`metrics`], [`clock`], [`hash`]: names, numbers, time, the hasher
#![cfg(target_os = "linux")]
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod accounts;
pub mod api;
pub mod clock;
pub mod config;
pub mod edge;
pub mod hash;
pub mod ids;
pub mod log;
pub mod metrics;
mod pages;
pub mod retention;
pub mod runtime;
pub mod server;
pub mod shard;
