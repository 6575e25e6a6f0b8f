//! What the behaviour tests share: a real server in this process, and clients on real sockets.

pub mod client;
pub mod http;
pub mod program;
pub mod server;
pub mod simulation;
