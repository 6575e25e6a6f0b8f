//! The numbers of a shard.

use pushflo_protocol::ErrorCode;

use super::{Number, metrics};

/// How many of the things that cannot be a shard logs.
const BUGS_TOLD_MAX: u64 = 100;

metrics! {
    /// The numbers of one shard. Only the shard writes them; anyone may read them.
    pub struct ShardMetrics as SHARD {
        /// Open connections, HTTP and WebSocket.
        gauge connections;
        /// Open WebSocket connections.
        gauge websocket_connections;
        /// Connections accepted.
        counter connections_accepted_total;
        /// Connections refused over a limit.
        counter connections_refused_total;
        /// Subscriptions held by connections of this shard.
        gauge subscriptions;
        /// Channels with subscribers here whose home is another node of the cluster.
        gauge attachments;
        /// Messages of other nodes that did not follow the last one here; what was missing was read, and told.
        counter attachment_gaps_total;
        /// Channels whose home is this shard.
        gauge channels;
        /// Idempotency keys of the last minutes.
        gauge idempotency_keys;
        /// HTTP requests read.
        counter http_requests_total;
        /// Messages that got their offset here.
        counter publishes_total;
        /// Messages handed to sockets, one for each subscriber.
        counter deliveries_total;
        /// Bytes received.
        counter bytes_received_total;
        /// Bytes sent.
        counter bytes_sent_total;
        /// Writes to sockets that carried messages; deliveries per flush is how well they gather.
        counter flushes_total;
        /// Messages acknowledged by clients.
        counter acks_total;
        /// Bytes held for peers that have not finished a request, or do not read what they are sent.
        gauge held_bytes;
        /// Connections cut off because they held too much.
        counter shed_connections_total;
        /// Connections closed because they fell too far behind.
        counter slow_consumers_total;
        /// Connections closed because they stayed silent.
        counter idle_closed_total;
        /// Connections closed because the peer broke a protocol.
        counter protocol_errors_total;
        /// Subscriptions that asked for the past and got all of it.
        counter recoveries_total;
        /// Subscriptions that asked for the past and could not get it.
        counter recovery_gaps_total;
        /// Bytes of history in memory.
        gauge history_bytes;
        /// Bytes of messages that wait for the log.
        gauge logging_bytes;
        /// Bytes of recent messages kept for subscribers that are behind.
        gauge tail_bytes;
        /// Envelopes waiting in this shard's mailbox at its last turn.
        gauge mailbox_depth;
        /// Envelopes that wait for room in other shards' mailboxes.
        gauge outbox_depth;
        /// Things found to be as they cannot be: bugs of the server, told in its log.
        counter bugs_total;
        /// Wake-ups sent to sleeping shards.
        counter wakeups_total;
        /// Turns of the shard's loop.
        counter turns_total;
        /// The longest turn of the last 10 to 20 seconds.
        gauge longest_turn_microseconds;
    }
    with
    /// Refusals, by the position of their code in [`ErrorCode::ALL`].
    refusals: [Number; ErrorCode::ALL.len()]
}

metrics! {
    /// What is told of each shard and code.
    pub const REFUSALS of Number {
        /// Requests and commands refused, by reason.
        counter refusals_total = Number::value;
    }
}

impl ShardMetrics {
    /// Counts something that is as it cannot be, and logs it; of many only the first.
    pub(crate) fn bug(&self, what: std::fmt::Arguments<'_>) {
        self.bugs_total.increment();
        if self.bugs_total.value() <= BUGS_TOLD_MAX {
            tracing::error!("a bug of the server: {what}");
        }
    }

    /// Counts a refusal.
    pub fn refused(&self, code: ErrorCode) {
        let index = ErrorCode::ALL.iter().position(|&c| c == code);
        if let Some(number) = index.and_then(|index| self.refusals.get(index)) {
            number.increment();
        }
    }
}
