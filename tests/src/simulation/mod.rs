//! A seeded simulation of several shards in one thread, with an oracle.
//!
//! The shards are the real cores. The world around them is not: mailboxes fill up, bytes arrive in
//! pieces, sockets take a part of a write or nothing for long, clients read slowly, leave in the
//! middle of a frame and come back with the last position they saw, time jumps, the log is slow or
//! fails, the machine goes down and comes back. Everything is decided by one seed, so a run that
//! fails can be replayed.
//!
//! * [`world`]: shards, mailboxes, sockets, and what happens next
//! * [`client`]: subscribers and publishers, byte by byte
//! * [`log`]: a model of the log on disk
//! * [`oracle`]: what must hold of what they saw

pub mod client;
pub mod log;
pub mod oracle;
pub mod world;

pub use world::run;
