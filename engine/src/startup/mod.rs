//! From a configuration to a running server, and back to a machine without one.
//!
//! * `server`: the shards, the log, the accounts, wired together, started and ended
//! * `machine`: what the machine must have
//! * `data_dir`: the folder with all that is kept, locked and closed to others
//! * `directory`: apps and keys, opened at the start or repaired while no server runs
//! * `keys`: keys that were made at a start and may have been shown to nobody
//! * `stored`: what the shards begin with
//! * `error`: why a start fails, and what helps

mod data_dir;
mod directory;
mod error;
mod keys;
mod machine;
mod server;
mod stored;

pub use directory::{accept_directory, delete_history, import, recover_key};
pub use error::StartupError;
pub use keys::keep_keys;
pub use server::Server;
