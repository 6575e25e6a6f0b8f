//! What PushFlo says on the wire, and nothing else.
//!
//! Bytes come in, values go out, and the other way round. This crate does no I/O, reads no clock
//! and knows no runtime, so every part of it can be fuzzed and driven byte by byte.
//!
//! * [`channel`], [`position`]: names of channels, places in their logs
//! * [`record`]: what one publish makes, in no dialect
//! * [`publish`], [`answer`]: what the HTTP API is asked, and what it answers
//! * [`dialect`]: what WebSocket clients say, and what they are told
//! * [`websocket`]: handshake and frames (RFC 6455)
//! * [`http`]: an incremental HTTP/1.1 request reader and a response writer (RFC 9112)
//! * [`origin`]: where browsers may come from
//! * [`proxy`]: addresses of clients behind proxies
//! * [`error`], [`limits`]: codes with their statuses, and every bound with its reason
#![warn(missing_docs)]

pub mod answer;
pub mod channel;
pub mod dialect;
pub mod error;
pub mod http;
pub mod json;
pub mod limits;
pub mod origin;
pub mod position;
pub mod proxy;
pub mod publish;
pub mod record;
pub mod time;
pub mod websocket;

pub use channel::ChannelSlug;
pub use error::{ErrorCode, Refusal};
pub use position::{Epoch, Offset, StreamPosition};
pub use record::{MessageId, Parts, Receipt, Record};
