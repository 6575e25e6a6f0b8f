//! What a shard is configured with.

use super::{HistoryLimits, Limits, PresenceTimes, Timeouts};
use crate::proxies::TrustedProxies;
pub use pushflo_protocol::origin::AllowedOrigins;

/// Settings that do not change while the server runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which browsers' origins may connect and call.
    pub origins: AllowedOrigins,
    /// Bounds.
    pub limits: Limits,
    /// Time-outs.
    pub timeouts: Timeouts,
    /// Whether there is a log on disk; without one all history is in memory.
    pub has_log: bool,
    /// What of history is in memory.
    pub history: HistoryLimits,
    /// Times of presence.
    pub presence: PresenceTimes,
    /// Which peers are proxies that tell the address of the client.
    pub proxies: TrustedProxies,
    /// Whether `/metrics` is served on the main port.
    pub metrics_on_main_port: bool,
}
