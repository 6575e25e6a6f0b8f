//! PushFlo's engine: a realtime fan-out server.
//!
//! * [`shard`]: the core of a shard, a state machine without I/O
//! * [`connection`], [`ingress`]: what connections say, and what it does
//! * [`startup`], [`config`]: the whole, and what it is told
//! * [`settings`]: the table of limits and time-outs
//! * [`runtime`]: threads, sockets and rings around it
//! * [`history`]: the logs of channels
//! * [`auth`]: keys and roles
//! * [`metrics`], [`exposition`]: numbers, and the text that tells them
//! * [`clock`], [`hash`]: time, the hasher
#![cfg(target_os = "linux")]
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod auth;
pub mod clock;
pub mod config;
pub mod connection;
pub mod exposition;
pub mod hash;
pub mod history;
pub mod ingress;
pub mod metrics;
pub mod runtime;
pub mod settings;
pub mod shard;
pub mod startup;
