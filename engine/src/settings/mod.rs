//! The limits and time-outs of the server, each one entry of one table.
//!
//! From an entry come its key in the configuration, its default, what it may be, the error where it is
//! something else, the field that the server reads, with its documentation, and its row of the table
//! that `pushflo limits` prints and docs/configuring.md has. So a new limit is one entry here, and a
//! run of `pushflo limits` for the page.
//!
//! Nothing here knows what the limits are for; everybody who has one reads it.

mod print;
mod setting;
mod shard;

use pushflo_protocol::limits::PAYLOAD_BYTES_MAX;

pub use print::table;
use setting::settings;
pub use setting::{Machine, MemoryShare, OutOfRange, Setting};
pub use shard::{AllowedOrigins, Settings};

settings! {
    /// Bounds on what connections, channels and shards may hold and send.
    "limits" => Limits, LimitsSection {
        /// Most connections of the whole server.
        connections => connections_max: usize
            = 1_000_000, or memory / 4096, from 1, to 100_000_000;
        /// Most connections of one client address (IPv6: one /64).
        connections_per_address => connections_per_address_max: u32 = 10_000, from 1, to 100_000_000;
        /// Most subscriptions of one connection.
        subscriptions_per_connection => subscriptions_per_connection_max: usize
            = 1_000, from 1, to 100_000;
        /// Most channels whose home is one shard. The apps share them: each always has room for one
        /// more.
        channels_per_shard => channels_per_shard_max: usize
            = 1_000_000, or memory / 4096 / shards, from 1, to 100_000_000;
        /// Largest content of one message.
        payload_bytes => payload_bytes_max: usize = PAYLOAD_BYTES_MAX as u64, from 64, to 16 * MIB;
        /// Furthest that a subscriber may fall behind, in bytes of one channel, before it is closed
        /// with 4008.
        tail_bytes => tail_bytes_max: u64 = 4 * MIB, from 1024, to 1 << 40;
        /// Most messages that a subscriber may ask to have replayed.
        replay_messages => replay_messages_max: u64 = 10_000, from 0, to 1_000_000;
        /// Most requests of one connection that are under way; more are not read until some are
        /// answered.
        pipelined_requests => pipelined_requests_max: usize = 256, from 1, to 100_000;
        /// Answers and events that one connection may have waiting before its bytes are not read any
        /// more.
        out_bytes => out_bytes_max: usize = MIB, from 4096, to 1 << 32;
        /// What a shard holds in memory for peers that have not finished a request, or do not read what
        /// they are sent. The apps share it; who is over its share loses the connection that holds most.
        held_bytes_per_shard => held_bytes_max: usize
            = 256 * MIB, or memory / 8 / shards, from 65_536, to 1 << 40;
        /// Most envelopes that wait in the mailbox of a shard.
        mailbox_envelopes => mailbox_envelopes_max: usize
            = 4096, or memory / 262_144 / shards, from 1, to 1 << 20;
        /// Most envelopes that wait at a shard for room in the mailboxes of others before publishes are
        /// refused; those to one shard take little from others. Answers are taken beyond it: they are
        /// bounded by the requests that are under way.
        outbox_envelopes => outbox_envelopes_max: usize = 16 * 1024, from 1, to 1 << 24;
        /// The same in bytes of content.
        outbox_bytes => outbox_bytes_max: usize
            = 32 * MIB, or memory / 32 / shards, from 1024, to 1 << 40;
        /// Most idempotency keys of the last 5 minutes that a shard remembers, up to 1.5 KB each. The
        /// apps share them likewise.
        idempotency_keys_per_shard => idempotency_keys_max: usize
            = 256 * 1024, or memory / 24_576 / shards, from 16, to 1 << 24;
        /// Most bytes of messages of a shard that wait for the log before publishes are refused. The apps
        /// share them, and take turns.
        logging_bytes_per_shard => logging_bytes_max: usize
            = 64 * MIB, or memory / 16 / shards, from MIB, to 1 << 40;
        /// Wrong keys that one address may come with in a second, and at once, before it is told to
        /// wait.
        wrong_keys_per_second => wrong_keys_per_second_max: u64 = 10, from 1, to 1_000_000;
    }

    /// Time-outs in ticks.
    "timeouts" => Timeouts, TimeoutsSection {
        /// From the first byte of a request, or from connecting, to the end of its head.
        head_ms => head: ticks = 10_000, from TICK_MS, to HOUR_MS;
        /// From the first byte of a request to the end of its body.
        body_ms => body: ticks = 30_000, from TICK_MS, to HOUR_MS;
        /// Between two requests.
        keep_alive_ms => keep_alive: ticks = 75_000, from TICK_MS, to HOUR_MS;
        /// Silence after which a WebSocket peer is sent a ping.
        ping_ms => ping: ticks = 55_000, from TICK_MS, to HOUR_MS;
        /// Silence after that ping until it is given up.
        pong_ms => pong: ticks = 25_000, from TICK_MS, to HOUR_MS;
        /// How long a write may be stuck.
        write_ms => write: ticks = 30_000, from TICK_MS, to HOUR_MS;
        /// How long a closing connection may take to end.
        linger_ms => linger: ticks = 5_000, from TICK_MS, to HOUR_MS;
    }

    /// What history keeps where an app's plan says nothing else, and what of it is in memory.
    "history" => HistoryLimits, HistorySection with durability: String {
        /// Oldest age of a message; 0 keeps nothing.
        age_ms => age_ms_max: u64 = DAY_MS, from 0, to 3650 * DAY_MS;
        /// Most messages of one channel.
        messages_per_channel => messages_per_channel_max: usize = 10_000, from 1, to 1 << 32;
        /// Most bytes of one channel.
        bytes_per_channel => bytes_per_channel_max: usize = 16 * MIB, from 1024, to 1 << 40;
        /// Recent messages that a shard also keeps in memory.
        bytes_per_shard => recent_bytes_max: usize
            = 256 * MIB, or memory / 8 / shards, from 1024, to 1 << 50;
        /// What the log keeps in memory of what was written and read lately.
        log_memory_bytes => log_memory_bytes: u64 = 256 * MIB, or memory / 8, from 8 * MIB, to 1 << 40;
    }

    /// Times of presence.
    "presence" => PresenceTimes, PresenceSection {
        /// Least time between two events of a channel.
        interval_ms => interval_ms: u64 = 1_000, from 0, to HOUR_MS;
        /// How long a member may be away before it has left.
        grace_ms => grace_ms: u64 = 10_000, from 0, to HOUR_MS;
    }
}

/// How long a drain spreads the closing of connections, so that they do not all come back at once.
pub const DRAIN_SPREAD_MS: Setting = Setting {
    key: "drain_spread_ms",
    default: 5_000,
    of_memory: None,
    least: 0,
    most: HOUR_MS,
    meaning: "Time over which a drain spreads the closing of connections.",
};

/// All of them, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Setting> {
    SECTIONS.iter().copied().flatten().chain([&DRAIN_SPREAD_MS])
}

const TICK_MS: u64 = crate::clock::TICK_MS;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const MIB: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_has_its_default_and_what_is_too_much_is_told() {
        let limits = LimitsSection { connections: Some(7), ..LimitsSection::default() };
        let limits = limits.check(&Machine::LARGE).unwrap();
        assert_eq!(limits, Limits { connections_max: 7, ..Limits::default() });
        assert_eq!(TimeoutsSection::default().check(&Machine::LARGE).unwrap(), Timeouts::default());
        assert_eq!(Timeouts::default().linger, 20);
        let timeouts = TimeoutsSection { ping_ms: Some(1), ..TimeoutsSection::default() };
        let error = timeouts.check(&Machine::LARGE).unwrap_err().to_string();
        assert_eq!(error, "timeouts.ping_ms = 1: must be from 250 to 3600000");
    }

    #[test]
    fn where_there_is_little_memory_defaults_are_less_and_what_is_said_is_not() {
        let machine = Machine { memory_bytes: 256 * MIB, shards: 2 };
        let said = LimitsSection { outbox_bytes: Some(7 * MIB), ..LimitsSection::default() };
        let limits = said.check(&machine).unwrap();
        assert_eq!(limits.held_bytes_max as u64, 16 * MIB);
        assert_eq!(limits.outbox_bytes_max as u64, 7 * MIB);
        assert_eq!(limits.connections_max, 65_536);
        assert_eq!(limits.tail_bytes_max, Limits::default().tail_bytes_max);
        let none = Machine { memory_bytes: 0, shards: 0 };
        assert_eq!(LimitsSection::default().check(&none).unwrap().held_bytes_max, 65_536);
    }

    #[test]
    fn no_key_stands_twice() {
        let mut keys: Vec<_> = all().map(|setting| setting.key).collect();
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    /// The page tells an operator what the program goes by.
    #[test]
    fn the_page_has_the_table_as_it_is() {
        let page = include_str!("../../../docs/configuring.md");
        let (_, rest) = page.split_once("<!-- limits:begin -->\n").unwrap();
        let (written, _) = rest.split_once("\n<!-- limits:end -->").unwrap();
        assert_eq!(written, table(), "put the output of `pushflo limits` into docs/configuring.md");
    }
}
