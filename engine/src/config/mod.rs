//! Configuration: what the file, the environment and the command line say becomes one validated
//! [`Config`], once. The command line wins over the environment, which wins over the file.

mod machine;
mod sections;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use pushflo_protocol::origin::OriginError;
use thiserror::Error;

use crate::accounts::{Plans, Role};
use crate::cluster::ClusterPlan;
use crate::proxies::TrustedProxies;
use crate::retention::Durability;
use crate::settings::{
    self, AllowedOrigins, DRAIN_SPREAD_MS, HistoryLimits, Limits, OutOfRange, PresenceTimes,
    Timeouts,
};
use sections::{File, KeysSection, value};

/// Where the server listens if nothing else is said.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7070";

/// Where the server keeps its data if nothing else is said.
pub const DATA_DIR_DEFAULT: &str = "./pushflo-data";

/// Why a configuration is refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not what is expected; the text names line and key.
    #[error("the configuration {path} is wrong: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, key and cause.
        reason: String,
    },
    /// A value is out of range.
    #[error("{key} = {value}: {reason}")]
    Value {
        /// The key as in the file.
        key: String,
        /// What it is set to.
        value: String,
        /// What it may be.
        reason: String,
    },
}

/// What the command line or the environment says over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `listen`: the address of the server.
    pub listen: Option<String>,
    /// `data_dir`: the folder of all that is kept.
    pub data_dir: Option<PathBuf>,
    /// `shards`: how many threads.
    pub shards: Option<usize>,
    /// `cores`: what they are pinned to, in turn.
    pub cores: Option<Vec<usize>>,
    /// `history.durability`
    pub durability: Option<String>,
    /// `cluster.nats`: where NATS is, if this is a node of a cluster.
    pub cluster_nats: Option<String>,
    /// `cluster.node`: the name of this node.
    pub cluster_node: Option<String>,
    /// Keys by role.
    pub keys: Vec<(Role, String)>,
}

/// Everything the server is told, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where metrics are served; `None`: on the main port.
    pub metrics_listen: Option<SocketAddr>,
    /// Where it keeps its data.
    pub data_dir: PathBuf,
    /// How many shards; `None`: one for each core.
    pub shards: Option<usize>,
    /// The cores that shards are pinned to, in turn; empty: all this process may use.
    pub cores: Vec<usize>,
    /// Bytes of memory that the server may use.
    pub memory_bytes: u64,
    /// Defaults that are less than on a machine with more memory: key and value.
    pub fitted: Vec<(&'static str, u64)>,
    /// How long a drain spreads its closes.
    pub drain_spread_ms: u64,
    /// Configured keys; a role without one gets a generated key.
    pub keys: Vec<(Role, String)>,
    /// Origins of browsers.
    pub origins: AllowedOrigins,
    /// Bounds.
    pub limits: Limits,
    /// Time-outs.
    pub timeouts: Timeouts,
    /// The plans that apps may have.
    pub plans: Plans,
    /// What history keeps.
    pub history: HistoryLimits,
    /// Times of presence.
    pub presence: PresenceTimes,
    /// Proxies that are believed.
    pub proxies: TrustedProxies,
    /// What an answered publish has survived, where the app's plan says nothing else.
    pub durability: Durability,
    /// The cluster that this node is part of, if it is of one.
    pub cluster: Option<ClusterPlan>,
}

impl From<OutOfRange> for ConfigError {
    fn from(error: OutOfRange) -> Self {
        value(error.setting.key, error.given, error.reason())
    }
}

impl Config {
    /// Reads `file` if there is one, puts `overrides` over it and validates the whole.
    ///
    /// # Errors
    /// [`ConfigError`] with file, line and key.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let file = match file {
            None => File::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| ConfigError::Read { path: path.into(), source })?;
                toml::from_str(&text).map_err(|error| ConfigError::Parse {
                    path: path.into(),
                    reason: error.to_string().trim_end().into(),
                })?
            }
        };
        Self::validate(file, overrides)
    }

    fn validate(file: File, overrides: Overrides) -> Result<Self, ConfigError> {
        let listen = overrides.listen.or(file.listen).unwrap_or_else(|| LISTEN_DEFAULT.into());
        let shards = overrides.shards.or(file.shards);
        if shards.is_some_and(|n| n == 0 || n > 1024) {
            return Err(value("shards", shards.unwrap_or(0), "must be from 1 to 1024"));
        }
        let cores = overrides.cores.or(file.cores).unwrap_or_default();
        if file.memory_bytes.is_some_and(|bytes| bytes < MEMORY_BYTES_MIN) {
            let reason = format!("must be at least {MEMORY_BYTES_MIN}");
            return Err(value("memory_bytes", file.memory_bytes.unwrap_or(0), reason));
        }
        let machine = machine::find(shards, &cores, file.memory_bytes);
        let (limits, history) = (file.limits.check(&machine)?, file.history.check(&machine)?);
        let durability = overrides.durability.as_ref().or(file.history.durability.as_ref());
        let durability =
            durability.map(|text| sections::durability("history.durability", text)).transpose()?;
        let durability = durability.unwrap_or_default();
        let mut cluster = file.cluster;
        cluster.nats = overrides.cluster_nats.or(cluster.nats);
        cluster.node = overrides.cluster_node.or(cluster.node);
        Ok(Self {
            cluster: cluster.validate(history.age_ms_max)?,
            listen: address("listen", &listen)?,
            metrics_listen: file
                .metrics_listen
                .map(|text| address("metrics_listen", &text))
                .transpose()?,
            data_dir: data_dir(overrides.data_dir.or(file.data_dir))?,
            shards,
            cores,
            memory_bytes: machine.memory_bytes,
            fitted: settings::all()
                .map(|setting| (setting, setting.default_on(&machine)))
                .filter(|(setting, default)| *default < setting.default)
                .map(|(setting, default)| (setting.key, default))
                .collect(),
            drain_spread_ms: DRAIN_SPREAD_MS.check(file.drain_spread_ms, &machine)?,
            keys: keys(file.keys, overrides.keys)?,
            origins: origins(file.allowed_origins.as_deref())?,
            limits,
            timeouts: file.timeouts.check(&machine)?,
            plans: sections::plans(
                &file.plans,
                &limits,
                sections::retention(&history),
                durability,
            )?,
            history,
            presence: file.presence.check(&machine)?,
            proxies: file.proxy.validate()?,
            durability,
        })
    }
}

fn keys(
    file: KeysSection,
    overrides: Vec<(Role, String)>,
) -> Result<Vec<(Role, String)>, ConfigError> {
    let of_file =
        [(Role::Publish, file.publish), (Role::Secret, file.secret), (Role::Manage, file.mgmt)];
    let mut keys = Vec::new();
    for (role, in_file) in of_file {
        let over = overrides.iter().find(|(r, _)| *r == role).map(|(_, key)| key.clone());
        let Some(key) = over.or(in_file) else { continue };
        let name = match role {
            Role::Publish => "keys.publish",
            Role::Secret => "keys.secret",
            Role::Manage => "keys.mgmt",
        };
        // The value is not repeated in the error: it is a secret.
        if Role::of(&key) != Some(role) {
            let reason = format!("must start with {}", role.prefix());
            return Err(ConfigError::Value { key: name.into(), value: "(hidden)".into(), reason });
        }
        // A dot would make it look like a token.
        if key.len() < KEY_BYTES_MIN || key.chars().any(|c| !c.is_ascii_graphic() || c == '.') {
            let reason =
                format!("must have at least {KEY_BYTES_MIN} visible ASCII characters, and no dot");
            return Err(ConfigError::Value { key: name.into(), value: "(hidden)".into(), reason });
        }
        keys.push((role, key));
    }
    Ok(keys)
}

fn origins(list: Option<&[String]>) -> Result<AllowedOrigins, ConfigError> {
    let Some(list) = list else { return Ok(AllowedOrigins::All) };
    let wrong =
        |error: OriginError| value("allowed_origins", format!("{list:?}"), error.to_string());
    AllowedOrigins::parse(list).map_err(wrong)
}

fn data_dir(given: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
    match given {
        Some(path) if path.as_os_str().is_empty() => {
            let reason = format!("must name a folder; without it, it is {DATA_DIR_DEFAULT}");
            Err(value("data_dir", "\"\"", reason))
        }
        given => Ok(given.unwrap_or_else(|| DATA_DIR_DEFAULT.into())),
    }
}

/// With less, not even an idle server runs well.
const MEMORY_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Shorter keys can be guessed.
const KEY_BYTES_MIN: usize = 16;

fn address(key: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    let reason = "must be an address and a port, such as 127.0.0.1:7070 or [::]:7070";
    text.to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .ok_or_else(|| value(key, text, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        Config::validate(file, Overrides::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_and_overrides() {
        let config = load("").unwrap();
        assert_eq!(config.listen.to_string(), LISTEN_DEFAULT);
        assert_eq!(config.limits.payload_bytes_max, 32 * 1024);
        let file: File = toml::from_str("listen = '127.0.0.1:1'\nshards = 3").unwrap();
        let overrides = Overrides { listen: Some("127.0.0.1:2".into()), ..Overrides::default() };
        let config = Config::validate(file, overrides).unwrap();
        assert_eq!((config.listen.port(), config.shards), (2, Some(3)));
    }

    #[test]
    fn mistakes_name_line_and_key() {
        let error = load("listen = '127.0.0.1:1'\nlimit = 3").unwrap_err();
        assert!(error.contains("line 2") && error.contains("limit"), "{error}");
        assert!(load("[history]\ndurability = 'ssd'").unwrap_err().contains("memory, os or disk"));
        assert!(load("shards = 0").unwrap_err().contains("from 1 to 1024"));
        let error = load("allowed_origins = ['https://a.example', 'b.example']").unwrap_err();
        assert!(error.starts_with("allowed_origins = ") && error.contains("no scheme"), "{error}");
        assert_eq!(load("allowed_origins = ['*']").unwrap().origins, AllowedOrigins::All);
        assert!(load("listen = 'x'").unwrap_err().starts_with("listen = x"));
        assert!(load("[limits]\npayload_bytes = 1").unwrap_err().contains("limits.payload_bytes"));
        let error = load("[keys]\nsecret = 'pub_0123456789abcdef'").unwrap_err();
        assert!(error.contains("sec_") && !error.contains("0123"), "{error}");
    }
}
