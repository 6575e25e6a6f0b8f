//! PushFlo's engine: a realtime fan-out server.
//!
//! * [`shard`]: the core of a shard, a state machine without I/O
//! * [`connection`], [`ingress`]: what connections say, and what it does
//! * [`history`]: the logs of channels
//! * [`auth`]: keys and roles
//! * [`metrics`], [`clock`], [`hash`]: numbers, time, the hasher
#![cfg(target_os = "linux")]

pub mod auth;
pub mod clock;
pub mod connection;
pub mod hash;
pub mod history;
pub mod ingress;
pub mod metrics;
pub mod shard;
