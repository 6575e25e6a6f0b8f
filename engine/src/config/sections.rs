//! The sections of the configuration file, as they are written and what they mean.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;
use crate::accounts::{plan::Plan, plan::Plans};
use crate::clock::ticks;
use crate::proxies::Network;
use crate::proxies::ProxyProtocol;
use crate::proxies::TrustedProxies;
use crate::retention::{Durability, Retention};
use crate::settings::Limits;
use crate::settings::PresenceTimes;
use crate::settings::Timeouts;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) listen: Option<String>,
    pub(super) metrics_listen: Option<String>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) shards: Option<usize>,
    pub(super) cores: Option<Vec<usize>>,
    pub(super) drain_spread_ms: Option<u64>,
    pub(super) allowed_origins: Option<Vec<String>>,
    pub(super) keys: KeysSection,
    pub(super) limits: LimitsSection,
    pub(super) timeouts: TimeoutsSection,
    pub(super) history: HistorySection,
    pub(super) plans: BTreeMap<String, PlanSection>,
    pub(super) presence: PresenceSection,
    pub(super) proxy: ProxySection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct KeysSection {
    pub(super) publish: Option<String>,
    pub(super) secret: Option<String>,
    pub(super) mgmt: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsSection {
    pub(super) connections: Option<usize>,
    pub(super) connections_per_address: Option<u32>,
    pub(super) subscriptions_per_connection: Option<usize>,
    pub(super) channels_per_shard: Option<usize>,
    pub(super) payload_bytes: Option<usize>,
    pub(super) tail_bytes: Option<u64>,
    pub(super) replay_messages: Option<u64>,
    pub(super) pipelined_requests: Option<usize>,
    pub(super) out_bytes: Option<usize>,
    pub(super) mailbox_envelopes: Option<usize>,
    pub(super) outbox_envelopes: Option<usize>,
    pub(super) outbox_bytes: Option<usize>,
    pub(super) idempotency_keys_per_shard: Option<usize>,
    pub(super) wrong_keys_per_second: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TimeoutsSection {
    pub(super) head_ms: Option<u64>,
    pub(super) body_ms: Option<u64>,
    pub(super) keep_alive_ms: Option<u64>,
    pub(super) ping_ms: Option<u64>,
    pub(super) pong_ms: Option<u64>,
    pub(super) write_ms: Option<u64>,
    pub(super) linger_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HistorySection {
    pub(super) durability: Option<String>,
    pub(super) age_ms: Option<u64>,
    pub(super) messages_per_channel: Option<usize>,
    pub(super) bytes_per_channel: Option<usize>,
    pub(super) bytes_per_shard: Option<usize>,
}

impl LimitsSection {
    pub(super) fn validate(&self, history: &HistorySection) -> Result<Limits, ConfigError> {
        let d = Limits::default();
        let bytes = 16 * 1024 * 1024;
        Ok(Limits {
            connections_max: range(
                "limits.connections",
                self.connections,
                1,
                100_000_000,
                d.connections_max,
            )?,
            connections_per_address_max: range(
                "limits.connections_per_address",
                self.connections_per_address,
                1,
                100_000_000,
                d.connections_per_address_max,
            )?,
            subscriptions_per_connection_max: range(
                "limits.subscriptions_per_connection",
                self.subscriptions_per_connection,
                1,
                100_000,
                d.subscriptions_per_connection_max,
            )?,
            channels_per_shard_max: range(
                "limits.channels_per_shard",
                self.channels_per_shard,
                1,
                100_000_000,
                d.channels_per_shard_max,
            )?,
            payload_bytes_max: range(
                "limits.payload_bytes",
                self.payload_bytes,
                64,
                bytes,
                d.payload_bytes_max,
            )?,
            tail_bytes_max: range(
                "limits.tail_bytes",
                self.tail_bytes,
                1024,
                1 << 40,
                d.tail_bytes_max,
            )?,
            replay_messages_max: range(
                "limits.replay_messages",
                self.replay_messages,
                0,
                1_000_000,
                d.replay_messages_max,
            )?,
            pipelined_requests_max: range(
                "limits.pipelined_requests",
                self.pipelined_requests,
                1,
                100_000,
                d.pipelined_requests_max,
            )?,
            out_bytes_max: range(
                "limits.out_bytes",
                self.out_bytes,
                4096,
                1 << 32,
                d.out_bytes_max,
            )?,
            idempotency_keys_max: range(
                "limits.idempotency_keys_per_shard",
                self.idempotency_keys_per_shard,
                16,
                1 << 24,
                d.idempotency_keys_max,
            )?,
            wrong_keys_per_second_max: range(
                "limits.wrong_keys_per_second",
                self.wrong_keys_per_second,
                1,
                1_000_000,
                d.wrong_keys_per_second_max,
            )?,
            recent_bytes_max: range(
                "history.bytes_per_shard",
                history.bytes_per_shard,
                1024,
                1 << 50,
                d.recent_bytes_max,
            )?,
        })
    }
}

impl TimeoutsSection {
    pub(super) fn validate(&self) -> Result<Timeouts, ConfigError> {
        let hour = 3_600_000;
        let ms = |key, ms, default| range(key, ms, 250, hour, default).map(ticks);
        Ok(Timeouts {
            head: ms("timeouts.head_ms", self.head_ms, 10_000)?,
            body: ms("timeouts.body_ms", self.body_ms, 30_000)?,
            keep_alive: ms("timeouts.keep_alive_ms", self.keep_alive_ms, 75_000)?,
            ping: ms("timeouts.ping_ms", self.ping_ms, 55_000)?,
            pong: ms("timeouts.pong_ms", self.pong_ms, 25_000)?,
            write: ms("timeouts.write_ms", self.write_ms, 30_000)?,
            linger: ms("timeouts.linger_ms", self.linger_ms, 5_000)?,
        })
    }
}

impl HistorySection {
    pub(super) fn validate(&self) -> Result<Retention, ConfigError> {
        let day = 24 * 3_600_000;
        Ok(Retention {
            age_ms_max: range("history.age_ms", self.age_ms, 0, 3650 * day, day)?,
            messages_max: range(
                "history.messages_per_channel",
                self.messages_per_channel,
                1,
                1 << 32,
                10_000,
            )?,
            channel_bytes_max: range(
                "history.bytes_per_channel",
                self.bytes_per_channel,
                1024,
                1 << 40,
                16 * 1024 * 1024,
            )?,
        })
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

/// Times of presence.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PresenceSection {
    interval_ms: Option<u64>,
    grace_ms: Option<u64>,
}

/// Proxies that are believed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ProxySection {
    trusted: Vec<String>,
    protocol: Option<String>,
}

impl PlanSection {
    fn validate(&self, name: &str, base: Plan, has_log: bool) -> Result<Plan, ConfigError> {
        let limit = |key: &str, given: Option<u64>, base: u64| match given {
            Some(0) => Err(value(format!("plans.{name}.{key}"), 0, "must be at least 1")),
            given => Ok(given.unwrap_or(base)),
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
            connections_max: limit("connections", self.connections, base.connections_max)?,
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
            payload_bytes_max: limit("payload_bytes", self.payload_bytes, base.payload_bytes_max)?,
            subscriptions_per_connection_max: limit(
                "subscriptions_per_connection",
                self.subscriptions_per_connection,
                base.subscriptions_per_connection_max,
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
        let plan = section.validate(name, base, durability != Durability::Memory)?;
        plans.insert(name, plan);
    }
    Ok(plans)
}

impl PresenceSection {
    pub(super) fn validate(&self) -> Result<PresenceTimes, ConfigError> {
        let d = PresenceTimes::default();
        let (interval, hour) = (self.interval_ms, 3_600_000);
        Ok(PresenceTimes {
            interval_ms: range("presence.interval_ms", interval, 0, hour, d.interval_ms)?,
            grace_ms: range("presence.grace_ms", self.grace_ms, 0, hour, d.grace_ms)?,
        })
    }
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

pub(super) fn range<T: PartialOrd + std::fmt::Display + Copy>(
    key: &'static str,
    given: Option<T>,
    least: T,
    most: T,
    default: T,
) -> Result<T, ConfigError> {
    let given = given.unwrap_or(default);
    if given < least || given > most {
        return Err(value(key, given, format!("must be from {least} to {most}")));
    }
    Ok(given)
}

pub(super) fn value(
    key: impl Into<String>,
    value: impl std::fmt::Display,
    reason: impl Into<String>,
) -> ConfigError {
    ConfigError::Value { key: key.into(), value: value.to_string(), reason: reason.into() }
}
