//! Every bound of the wire, each with its reason. Bounds an operator may change are defaults here
//! and keys of the configuration in the engine.

/// Longest channel slug in bytes: long enough for two UUIDs and a prefix, short enough for records.
pub const SLUG_BYTES_MAX: usize = 128;

/// Longest event type in bytes: a name, not a document.
pub const EVENT_TYPE_BYTES_MAX: usize = 128;

/// Longest client id in bytes: room for two UUIDs.
pub const CLIENT_ID_BYTES_MAX: usize = 128;

/// Longest idempotency key in bytes: room for two UUIDs.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;

/// Longest `ref` of a client's command in bytes: it is only sent back.
pub const REFERENCE_BYTES_MAX: usize = 64;

/// Most channel patterns of a token, in each of its lists. Tokens travel in URLs.
pub const PATTERNS_MAX: usize = 100;

/// Longest connection token in bytes: it fits into a request head with room to spare.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Largest presence data of a member in bytes: every other member is sent it.
pub const PRESENCE_DATA_BYTES_MAX: usize = 1024;

/// Longest name of an app, a key or a channel in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Longest description of a channel in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 1024;

/// Largest metadata of a channel in bytes of JSON.
pub const METADATA_BYTES_MAX: usize = 8 * 1024;

/// Most allowed origins of an app, or of the server: each request is compared with them.
pub const ORIGINS_MAX: usize = 100;

/// Longest allowed origin in bytes: a host name has at most 253.
pub const ORIGIN_BYTES_MAX: usize = 300;

/// Default for the largest content of one message in bytes (the published figure: 32 KiB).
pub const PAYLOAD_BYTES_MAX: usize = 32 * 1024;

/// Deepest nesting of a message's content. Every JSON reader a subscriber may use copes with it;
/// recursive ones overflow their stack not far beyond.
pub const JSON_DEPTH_MAX: usize = 128;

/// Room around the content in a request or a frame: names, ids, JSON keys.
pub const ENVELOPE_BYTES_MAX: usize = 4 * 1024;

/// Most messages of one batch, and most items: enough to be worth a request, few enough that one
/// request does not keep the others waiting.
pub const BATCH_MESSAGES_MAX: usize = 1_000;

/// Largest body of a batch in bytes.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Room in a WebSocket client's message beside the largest content that it may publish: for the rest of
/// the command, and for content somewhat over its limit, which is then refused in words. What is larger
/// still closes the connection.
pub const CLIENT_MESSAGE_ROOM_BYTES: usize = 64 * 1024;

/// Largest message a WebSocket client may send, over all its fragments, where the content of one
/// publish may have `payload_bytes_max`.
pub const fn client_message_bytes_max(payload_bytes_max: usize) -> usize {
    payload_bytes_max.saturating_add(CLIENT_MESSAGE_ROOM_BYTES)
}

/// Largest payload of a control frame (RFC 6455 section 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// Largest HTTP request head in bytes: the common bound of servers and proxies.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Most header fields in a request: more than a browser and several proxies in a row send. The bytes of
/// the head bound them anyway; this bounds the table they are parsed into.
pub const HTTP_HEADERS_MAX: usize = 100;

/// Most bytes of one chunk-size line with its extensions.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;

/// Most bytes of trailer fields after a chunked body; they are read and dropped.
pub const TRAILER_BYTES_MAX: usize = 4 * 1024;

// A command always fits beside a full payload, and a control frame always fits into a message.
const _: () = assert!(CONTROL_PAYLOAD_BYTES_MAX < CLIENT_MESSAGE_ROOM_BYTES);
const _: () = assert!(PAYLOAD_BYTES_MAX + ENVELOPE_BYTES_MAX <= BATCH_BYTES_MAX);
const _: () = assert!(ENVELOPE_BYTES_MAX < CLIENT_MESSAGE_ROOM_BYTES);
