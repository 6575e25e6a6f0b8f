//! The log of a cluster: a NATS JetStream stream for each slot of channels.
//!
//! A stream has one order and numbers what it stores. Only the owner of a slot appends to its stream, each
//! message with the sequence that it expects before it: the stream refuses it where another has appended
//! meanwhile. So two who both believe that they own a slot cannot both write, whatever clocks and leases
//! say, and what is stored of many appends on their way is always a first part of them.

mod appender;
mod counts;
mod gets;
mod import;
mod metas;
#[cfg(test)]
mod model;
mod read;
mod slot;
mod stored;
mod streams;
#[cfg(test)]
mod trial;

pub(crate) use counts::count_entry;
pub(crate) use import::{Import, ImportError};
pub(crate) use metas::key as meta_key;
pub(crate) use streams::{Streams, StreamsPlan};
