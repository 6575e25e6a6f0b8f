//! A seeded simulation of several shards in one thread, with an oracle.
//!
//! The shards are the real cores. The world around them is not: mailboxes fill up, bytes arrive in
//! pieces, sockets take a part of a write or nothing for long, clients read slowly, leave in the
//! middle of a frame and come back with the last position they saw, time jumps, the log and the accounts
//! are slow or fail, rights come and go, the machine goes down and comes back,
//! another process takes the place of the one there is. Everything is decided by
//! one seed, so a run that fails can be replayed.
//!
//! * [`world`]: shards, mailboxes, sockets, and what happens next; [`rest`]: what must hold when nothing
//!   is under way
//! * [`upgrade`]: other shards in the place of these
//! * [`scenario`]: worlds in which nothing is left to the seed
//! * [`client`]: clients over WebSocket; [`backend`]: backends over HTTP; both on a [`network`], byte by
//!   byte
//! * [`log`], [`accounts`]: models of the log on disk and of apps, keys and metadata
//! * [`oracle`]: what must hold of what they saw
//! * [`trace`], [`tally`]: what happened, in lines and in numbers

pub mod accounts;
pub mod backend;
pub mod client;
pub mod log;
pub mod network;
pub mod oracle;
pub mod rest;
pub mod scenario;
pub mod tally;
pub mod trace;
pub mod upgrade;
pub mod world;

pub use world::run;
