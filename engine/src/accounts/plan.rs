//! Plans: what an app may use. They have names, stand in the configuration, and an app has one.

use std::collections::BTreeMap;

use pushflo_protocol::limits::PAYLOAD_BYTES_MAX;

use crate::retention::{Durability, Retention};

/// No limit.
pub const UNLIMITED: u64 = u64::MAX;

/// The limits of an app. What is [`UNLIMITED`] here is still bounded by the limits of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Most WebSocket connections at a time.
    pub connections_max: u64,
    /// Most messages published in a calendar month of UTC.
    pub messages_per_month_max: u64,
    /// Most channels at a time.
    pub channels_max: u64,
    /// Most publishes in a second, and as many at once.
    pub publishes_per_second_max: u64,
    /// Most subscriptions begun in a second, and as many at once.
    pub subscribes_per_second_max: u64,
    /// Largest content of a message in bytes.
    pub payload_bytes_max: u64,
    /// Most subscriptions of one connection.
    pub subscriptions_per_connection_max: u64,
    /// What history keeps of each channel.
    pub retention: Retention,
    /// What an answered publish has survived.
    pub durability: Durability,
}

/// Names of limits, as errors and the API call them.
pub mod limit {
    /// [`super::Plan::connections_max`]
    pub const CONNECTIONS: &str = "connections";
    /// [`super::Plan::messages_per_month_max`]
    pub const MESSAGES_PER_MONTH: &str = "messagesPerMonth";
    /// [`super::Plan::channels_max`]
    pub const CHANNELS: &str = "channels";
    /// [`super::Plan::publishes_per_second_max`]
    pub const PUBLISHES_PER_SECOND: &str = "publishesPerSecond";
    /// [`super::Plan::subscribes_per_second_max`]
    pub const SUBSCRIBES_PER_SECOND: &str = "subscribesPerSecond";
    /// [`super::Plan::payload_bytes_max`]
    pub const PAYLOAD_BYTES: &str = "payloadBytes";
    /// [`super::Plan::subscriptions_per_connection_max`]
    pub const SUBSCRIPTIONS_PER_CONNECTION: &str = "subscriptionsPerConnection";
}

impl Plan {
    /// No limit but the server's own; history as the server keeps it.
    pub fn unlimited(retention: Retention, durability: Durability) -> Self {
        Self {
            connections_max: UNLIMITED,
            messages_per_month_max: UNLIMITED,
            channels_max: UNLIMITED,
            publishes_per_second_max: UNLIMITED,
            subscribes_per_second_max: UNLIMITED,
            payload_bytes_max: UNLIMITED,
            subscriptions_per_connection_max: UNLIMITED,
            retention,
            durability,
        }
    }
}

/// All plans by name. `unlimited`, `free` and `starter` are always there.
#[derive(Clone, Debug)]
pub struct Plans(BTreeMap<Box<str>, Plan>);

/// The plan of an app that was given none.
pub const PLAN_DEFAULT: &str = "unlimited";

impl Plans {
    /// The plans that are there without configuration. `free` and `starter` have the figures of
    /// PushFlo's hosted service.
    pub fn built_in(retention: Retention, durability: Durability) -> Self {
        let day_ms = 24 * 3_600_000;
        let unlimited = Plan::unlimited(retention, durability);
        let free = Plan {
            connections_max: 50,
            messages_per_month_max: 500_000,
            channels_max: 10,
            payload_bytes_max: PAYLOAD_BYTES_MAX as u64,
            retention: Retention { age_ms_max: day_ms, ..retention },
            ..unlimited
        };
        let starter = Plan {
            connections_max: 500,
            messages_per_month_max: 5_000_000,
            channels_max: 100,
            retention: Retention { age_ms_max: 3 * day_ms, ..retention },
            ..free
        };
        let all = [(PLAN_DEFAULT, unlimited), ("free", free), ("starter", starter)];
        Self(all.into_iter().map(|(name, plan)| (name.into(), plan)).collect())
    }

    /// Adds a plan, or replaces the one of that name.
    pub fn insert(&mut self, name: &str, plan: Plan) {
        self.0.insert(name.into(), plan);
    }

    /// The plan of that name.
    pub fn find(&self, name: &str) -> Option<Plan> {
        self.0.get(name).copied()
    }

    /// All names, for an error that tells them.
    pub fn names(&self) -> String {
        self.0.keys().map(|name| &**name).collect::<Vec<_>>().join(", ")
    }
}
