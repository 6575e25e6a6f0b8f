//! From a configuration to a running server, and back to a machine without one.
//!
//! * `server`: the shards and what serves them, wired together, started and ended
//! * `services`: the log, the accounts and the cluster
//! * `handover`: another process in the place of this one
//! * `machine`: what the machine must have
//! * `data_dir`: the folder with all that is kept, locked and closed to others
//! * `directory`: apps and keys, opened at the start or repaired while no server runs
//! * `keys`: keys that were made at a start and may have been shown to nobody
//! * `stored`: what the shards begin with
//! * `error`: why a start fails, and what helps

mod data_dir;
mod directory;
mod error;
mod handover;
mod keys;
mod machine;
mod server;
mod services;
mod stored;

pub use directory::{accept_directory, delete_history, import, recover_key};
pub use error::StartupError;
pub use handover::{HandOverError, HandedOver, Launch, Predecessor};
pub use keys::keep_keys;
pub use server::Server;

fn random_seed() -> u64 {
    getrandom::u64().unwrap_or_else(|_| crate::clock::unix_ms())
}
