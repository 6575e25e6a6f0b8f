//! A real server on a port of its own, with known keys, gone when it is dropped.

use std::net::SocketAddr;
use std::path::Path;

use pushflo_engine::config::{Config, Overrides};
use pushflo_engine::host::Host;
use pushflo_engine::startup::Server;
use tempfile::TempDir;

pub const PUBLISH_KEY: &str = "pub_0123456789abcdef0123";
pub const SECRET_KEY: &str = "sec_0123456789abcdef0123";
pub const MANAGE_KEY: &str = "mgmt_0123456789abcdef012";

/// A server under test.
pub struct TestServer {
    server: Option<Server>,
    pub address: SocketAddr,
    _data: TempDir,
}

/// Starts a server with so many shards; more than there are cores share them. `extra` is TOML that
/// goes into the configuration.
pub fn start(shards: usize, extra: &str) -> TestServer {
    let data = tempfile::tempdir().unwrap();
    let config = config(data.path(), extra);
    let cores = core_affinity::get_core_ids().unwrap();
    let cores: Vec<_> = cores.iter().cycle().take(shards).copied().collect();
    let server = Server::start_on(&config, Host::default(), &cores).unwrap();
    TestServer { address: server.address, server: Some(server), _data: data }
}

/// The configuration of a server under test.
pub fn config(data: &Path, extra: &str) -> Config {
    let file = data.join("pushflo.toml");
    let text = format!(
        "listen = '127.0.0.1:0'\ndata_dir = '{}'\ndrain_spread_ms = 0\n{extra}\n[keys]\n\
         publish = '{PUBLISH_KEY}'\nsecret = '{SECRET_KEY}'\nmgmt = '{MANAGE_KEY}'\n",
        data.join("data").display()
    );
    std::fs::write(&file, text).unwrap();
    Config::load(Some(&file), Overrides::default()).unwrap()
}

impl TestServer {
    pub fn drain(&self) {
        self.server.as_ref().unwrap().drain();
    }

    /// Where it serves metrics, if that was asked for.
    pub fn metrics_address(&self) -> SocketAddr {
        self.server.as_ref().unwrap().metrics_address.unwrap()
    }

    /// Waits until a drain has ended.
    pub fn join(mut self) {
        self.server.take().unwrap().join();
    }

    /// The sum of a metric over all shards, as `/metrics` tells it.
    pub fn metric(&self, name: &str) -> u64 {
        let text = crate::http::get(self.address, "/metrics", None).text();
        let series = format!("{name}{{");
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with(&series)).collect();
        assert!(!lines.is_empty(), "there is no metric {name}");
        lines.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.drain();
            server.join();
        }
    }
}
