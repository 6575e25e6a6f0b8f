//! PushFlo's own dialect: JSON in WebSocket text frames.

pub mod command;
pub mod event;
mod message;

pub use command::{Command, RefusedCommand};
pub(super) use message::{MESSAGE_BYTES_HINT, push_message};
