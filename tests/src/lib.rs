//! What the behaviour tests share: a real server in this process, and clients on real sockets.

pub mod api;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod http;
pub mod load;
pub mod network;
pub mod pages;
pub mod program;
pub mod server;
pub mod simulation;
pub mod upgraded;

/// A number that whoever runs the tests may set in the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}
