//! Who may do what: apps, their keys and plans, connection tokens, and what apps use.
//!
//! * `keys`, `app`, `plan`: what they are
//! * `directory`: what a shard knows of them
//! * `token`: tokens that let clients in; `jwt` is their form
//! * `usage`: counters that all shards share; `lent` is what a node of a cluster may use of a plan's limits
//! * `store`: what is kept of them on disk; `seal` and `private_list` lie beside it, `changes` is what
//!   it writes
//! * `writer`: the thread that changes them, in the order of `queue`
//! * `replica`: that thread in a cluster, whose nodes have all of this in common
//!
//! A shard only ever reads. A change goes to the writer, which writes it to disk, tells every shard and
//! then answers.

mod app;
mod changes;
mod channel;
mod client;
mod directory;
mod jwt;
mod keys;
mod lent;
pub mod plan;
mod private_list;
mod queue;
mod replica;
mod seal;
mod store;
pub mod token;
mod usage;
mod writer;

pub use app::{App, AppRecord, AppSettings, SettingsChange};
pub use channel::ChannelMeta;
pub use client::Client;
pub use directory::{Access, Directory};
pub use keys::{Key, KeyDigest, KeyId, Role, SigningKey, random_bytes};
pub use lent::Taken;
pub(crate) use lent::{ByResource, Lent, Resource, Supply};
pub use plan::{Plan, Plans};
pub(crate) use replica::{app_of, deleted_app, deleted_key, is_of_accounts, replica_entries};
pub use store::{Accepted, DirectoryError, DirectoryOf, OpenedDirectory, accept, open};
pub use token::{Grant, Identity};
pub use usage::{APP_METRICS, AppNumbers, Usage, Usages, Want};
pub(crate) use usage::{CHANGES_PER_SECOND_MAX, Rate, WHOLE};
pub use writer::{
    Accounts, AccountsCall, AccountsHandle, AppChange, Changed, ChannelStored, Done, NewKey, News,
};
