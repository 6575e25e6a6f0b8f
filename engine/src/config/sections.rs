//! The sections of the configuration file, as they are written and what they mean.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;
use crate::accounts::{plan::Plan, plan::Plans};
use crate::cluster::{ClusterPlan, NatsPlan};
use crate::proxies::{Network, ProxyProtocol, TrustedProxies};
use crate::retention::{Durability, Retention};
use crate::settings::{
    HistoryLimits, HistorySection, Limits, LimitsSection, PresenceSection, TimeoutsSection,
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) listen: Option<String>,
    pub(super) metrics_listen: Option<String>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) shards: Option<usize>,
    pub(super) cores: Option<Vec<usize>>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) drain_spread_ms: Option<u64>,
    pub(super) allowed_origins: Option<Vec<String>>,
    pub(super) keys: KeysSection,
    pub(super) limits: LimitsSection,
    pub(super) timeouts: TimeoutsSection,
    pub(super) history: HistorySection,
    pub(super) plans: BTreeMap<String, PlanSection>,
    pub(super) presence: PresenceSection,
    pub(super) proxy: ProxySection,
    pub(super) cluster: ClusterSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct KeysSection {
    pub(super) publish: Option<String>,
    pub(super) secret: Option<String>,
    pub(super) mgmt: Option<String>,
}

/// What history keeps where a plan says nothing else.
pub(super) fn retention(history: &HistoryLimits) -> Retention {
    Retention {
        age_ms_max: history.age_ms_max,
        messages_max: history.messages_per_channel_max,
        channel_bytes_max: history.bytes_per_channel_max,
    }
}

/// A plan; what is absent is as in the built-in plan of that name, or unlimited.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PlanSection {
    connections: Option<u64>,
    messages_per_month: Option<u64>,
    channels: Option<u64>,
    publishes_per_second: Option<u64>,
    subscribes_per_second: Option<u64>,
    payload_bytes: Option<u64>,
    subscriptions_per_connection: Option<u64>,
    history_age_ms: Option<u64>,
    history_messages_per_channel: Option<usize>,
    history_bytes_per_channel: Option<usize>,
    durability: Option<String>,
}

/// The cluster that this node is part of.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ClusterSection {
    pub(super) nats: Option<String>,
    pub(super) node: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) credentials: Option<PathBuf>,
    pub(super) tls_ca: Option<PathBuf>,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    pub(super) replicas: Option<usize>,
}

impl ClusterSection {
    /// What the cluster is told; nothing where no NATS is named.
    pub(super) fn validate(self, max_age_ms: u64) -> Result<Option<ClusterPlan>, ConfigError> {
        let Self { nats, node, prefix, replicas, credentials, tls_ca, tls_cert, tls_key } = self;
        let Some(nats) = nats.filter(|nats| !nats.is_empty()) else {
            let path = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
            let given = [
                ("cluster.node", node),
                ("cluster.prefix", prefix),
                ("cluster.credentials", path(credentials)),
                ("cluster.tls_ca", path(tls_ca)),
                ("cluster.tls_cert", path(tls_cert)),
                ("cluster.tls_key", path(tls_key)),
            ];
            let useless = given.into_iter().find_map(|(key, text)| Some((key, text?)));
            return match useless {
                None => Ok(None),
                Some((key, text)) => {
                    Err(value(key, text, "means nothing without cluster.nats, the address of NATS"))
                }
            };
        };
        let name = |key: &str, text: String| {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            match !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.chars().all(is_name) {
                true => Ok(text),
                false => {
                    let reason = format!("must be 1 to {NAME_BYTES_MAX} letters, digits, - and _");
                    Err(value(key, text, reason))
                }
            }
        };
        let Some(node) = node else {
            let reason = "must name this node, each of a cluster otherwise, such as node-1";
            return Err(value("cluster.node", "", reason));
        };
        let replicas = replicas.unwrap_or(REPLICAS_DEFAULT);
        if !(1..=5).contains(&replicas) {
            return Err(value("cluster.replicas", replicas, "must be from 1 to 5"));
        }
        let nats = NatsPlan::parse(&nats).map_err(|error| ConfigError::Value {
            key: "cluster.nats".into(),
            value: "(hidden)".into(),
            reason: error.to_string(),
        })?;
        for (key, file) in [
            ("cluster.credentials", &credentials),
            ("cluster.tls_ca", &tls_ca),
            ("cluster.tls_cert", &tls_cert),
            ("cluster.tls_key", &tls_key),
        ] {
            if let Some(file) = file
                && let Err(error) = std::fs::File::open(file)
            {
                return Err(value(key, file.display(), format!("cannot be read: {error}")));
            }
        }
        let tls_identity = match (tls_cert, tls_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(file), None) => {
                return Err(value(
                    "cluster.tls_cert",
                    file.display(),
                    "needs cluster.tls_key, too",
                ));
            }
            (None, Some(file)) => {
                return Err(value(
                    "cluster.tls_key",
                    file.display(),
                    "needs cluster.tls_cert, too",
                ));
            }
        };
        let nats = NatsPlan { credentials, tls_ca, tls_identity, ..nats };
        Ok(Some(ClusterPlan {
            nats,
            node: name("cluster.node", node)?,
            prefix: name("cluster.prefix", prefix.unwrap_or_else(|| PREFIX_DEFAULT.into()))?,
            replicas,
            max_age_s: max_age_ms.div_ceil(1000),
        }))
    }
}

/// How many NATS servers have each stream, if nothing else is said: one may die.
const REPLICAS_DEFAULT: usize = 3;

/// What names in NATS begin with.
const PREFIX_DEFAULT: &str = "pushflo";

/// Names of nodes and prefixes.
const NAME_BYTES_MAX: usize = 64;

/// Proxies that are believed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ProxySection {
    trusted: Vec<String>,
    protocol: Option<String>,
}

impl PlanSection {
    fn validate(
        &self,
        name: &str,
        base: Plan,
        limits: &Limits,
        has_log: bool,
    ) -> Result<Plan, ConfigError> {
        let limit = |key: &str, given: Option<u64>, base: u64| match given {
            Some(0) => Err(value(format!("plans.{name}.{key}"), 0, "must be at least 1")),
            given => Ok(given.unwrap_or(base)),
        };
        // The server's own limit would hold all the same, and nobody would know why.
        let within = |key: &str, given: Option<u64>, base: u64, of_server: usize| match given {
            Some(given) if given > of_server as u64 => {
                let reason = format!(
                    "the server's own limits.{key} is {of_server}; lower this one or raise that one"
                );
                Err(value(format!("plans.{name}.{key}"), given, reason))
            }
            given => limit(key, given, base),
        };
        let durability = match self.durability.as_deref() {
            None => base.durability,
            Some(text) => {
                let key = format!("plans.{name}.durability");
                let durability = durability(&key, text)?;
                if durability != Durability::Memory && !has_log {
                    let reason = "the server keeps no log: history.durability is memory";
                    return Err(value(key, text, reason));
                }
                durability
            }
        };
        let r = base.retention;
        Ok(Plan {
            connections_max: within(
                "connections",
                self.connections,
                base.connections_max,
                limits.connections_max,
            )?,
            messages_per_month_max: limit(
                "messages_per_month",
                self.messages_per_month,
                base.messages_per_month_max,
            )?,
            channels_max: limit("channels", self.channels, base.channels_max)?,
            publishes_per_second_max: limit(
                "publishes_per_second",
                self.publishes_per_second,
                base.publishes_per_second_max,
            )?,
            subscribes_per_second_max: limit(
                "subscribes_per_second",
                self.subscribes_per_second,
                base.subscribes_per_second_max,
            )?,
            payload_bytes_max: within(
                "payload_bytes",
                self.payload_bytes,
                base.payload_bytes_max,
                limits.payload_bytes_max,
            )?,
            subscriptions_per_connection_max: within(
                "subscriptions_per_connection",
                self.subscriptions_per_connection,
                base.subscriptions_per_connection_max,
                limits.subscriptions_per_connection_max,
            )?,
            retention: Retention {
                age_ms_max: self.history_age_ms.unwrap_or(r.age_ms_max),
                messages_max: self.history_messages_per_channel.unwrap_or(r.messages_max),
                channel_bytes_max: self.history_bytes_per_channel.unwrap_or(r.channel_bytes_max),
            },
            durability,
        })
    }
}

/// The built-in plans, and those of the file.
pub(super) fn plans(
    sections: &BTreeMap<String, PlanSection>,
    limits: &Limits,
    retention: Retention,
    durability: Durability,
) -> Result<Plans, ConfigError> {
    let mut plans = Plans::built_in(retention, durability);
    for (name, section) in sections {
        if name.is_empty() || name.len() > 64 || name.chars().any(|c| !c.is_ascii_graphic()) {
            let reason = "a plan's name has 1 to 64 visible ASCII characters";
            return Err(value("plans", name, reason));
        }
        let unlimited = Plan::unlimited(retention, durability);
        let base = plans.find(name).unwrap_or(unlimited);
        let plan = section.validate(name, base, limits, durability != Durability::Memory)?;
        plans.insert(name, plan);
    }
    Ok(plans)
}

impl ProxySection {
    pub(super) fn validate(&self) -> Result<TrustedProxies, ConfigError> {
        let network = |text: &String| {
            let reason = "must be an address or a network such as 10.0.0.0/8";
            Network::parse(text).ok_or_else(|| value("proxy.trusted", text, reason))
        };
        let protocol = match self.protocol.as_deref() {
            None | Some("x-forwarded-for") => ProxyProtocol::ForwardedFor,
            Some("proxy") => ProxyProtocol::Proxy,
            Some(other) => {
                return Err(value("proxy.protocol", other, "must be x-forwarded-for or proxy"));
            }
        };
        let networks = self.trusted.iter().map(network).collect::<Result<_, _>>()?;
        Ok(TrustedProxies { networks, protocol })
    }
}

/// Reads the name of a durability.
pub(super) fn durability(key: &str, text: &str) -> Result<Durability, ConfigError> {
    match text {
        "memory" => Ok(Durability::Memory),
        "os" => Ok(Durability::Os),
        "disk" => Ok(Durability::Disk),
        other => Err(value(key, other, "must be memory, os or disk")),
    }
}

pub(super) fn value(
    key: impl Into<String>,
    value: impl std::fmt::Display,
    reason: impl Into<String>,
) -> ConfigError {
    ConfigError::Value { key: key.into(), value: value.to_string(), reason: reason.into() }
}
