//! What a shard is configured with.

use crate::clock::ticks;
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
    /// Times of presence.
    pub presence: PresenceTimes,
    /// Which peers are proxies that tell the address of the client.
    pub proxies: TrustedProxies,
    /// Bounds on what waits between shards.
    pub outbox: OutboxLimits,
    /// Whether `/metrics` is served on the main port.
    pub metrics_on_main_port: bool,
}

/// Bounds on what connections may hold and send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most connections of the whole server.
    pub connections_max: usize,
    /// Most connections of one address (IPv6: one /64).
    pub connections_per_address_max: u32,
    /// Most subscriptions of one connection.
    pub subscriptions_per_connection_max: usize,
    /// Most channels whose home is one shard; its apps share them.
    pub channels_per_shard_max: usize,
    /// Largest content of one message in bytes.
    pub payload_bytes_max: usize,
    /// Furthest that a subscriber may fall behind, in bytes of one channel.
    pub tail_bytes_max: u64,
    /// Most messages that `replay` may ask for with `last`.
    pub replay_messages_max: u64,
    /// Most requests of one connection that are under way; more are not read until some are
    /// answered.
    pub pipelined_requests_max: usize,
    /// Bytes of answers and events a connection may have waiting before its bytes are not read
    /// any more.
    pub out_bytes_max: usize,
    /// Most bytes of recent messages that a shard keeps in memory.
    pub recent_bytes_max: usize,
    /// Most idempotency keys of the last five minutes that a shard remembers, some 900 bytes each.
    pub idempotency_keys_max: usize,
    /// Wrong keys that an address may come with in a second, and at once, before it is told to wait.
    pub wrong_keys_per_second_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1_000_000,
            connections_per_address_max: 10_000,
            subscriptions_per_connection_max: 1_000,
            channels_per_shard_max: 1_000_000,
            payload_bytes_max: pushflo_protocol::limits::PAYLOAD_BYTES_MAX,
            tail_bytes_max: 4 * 1024 * 1024,
            replay_messages_max: 10_000,
            pipelined_requests_max: 256,
            out_bytes_max: 1024 * 1024,
            recent_bytes_max: 256 * 1024 * 1024,
            idempotency_keys_max: 256 * 1024,
            wrong_keys_per_second_max: 10,
        }
    }
}

/// Time-outs in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From the first byte of a request, or from connecting, to the end of its head.
    pub head: u32,
    /// From the first byte of a request to the end of its body.
    pub body: u32,
    /// Between two requests.
    pub keep_alive: u32,
    /// Silence after which a WebSocket peer is sent a ping.
    pub ping: u32,
    /// Silence after that ping until it is given up.
    pub pong: u32,
    /// How long a write may be stuck.
    pub write: u32,
    /// How long a closing connection may take to end.
    pub linger: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: ticks(10_000),
            body: ticks(30_000),
            keep_alive: ticks(75_000),
            ping: ticks(55_000),
            pong: ticks(25_000),
            write: ticks(30_000),
            linger: ticks(5_000),
        }
    }
}

/// Times of presence.
#[derive(Clone, Copy, Debug)]
pub struct PresenceTimes {
    /// Between two events of a channel, in milliseconds.
    pub interval_ms: u64,
    /// How long a member may be away before it has left, in milliseconds.
    pub grace_ms: u64,
}

impl Default for PresenceTimes {
    fn default() -> Self {
        Self { interval_ms: 1_000, grace_ms: 10_000 }
    }
}

/// Bounds of one outbox.
#[derive(Clone, Copy, Debug)]
pub struct OutboxLimits {
    /// Most envelopes before publishes are refused. Answers are taken beyond it: they are bounded
    /// by the requests that are under way.
    pub envelopes_max: usize,
    /// Most bytes of content before publishes are refused.
    pub bytes_max: usize,
}
