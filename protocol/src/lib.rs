//! What PushFlo says on the wire, and nothing else.
//!
//! Bytes come in, values go out, and the other way round. This crate does no I/O, reads no clock
//! and knows no runtime, so every part of it can be fuzzed and driven byte by byte.
//!
//! * [`channel`], [`position`]: names of channels, places in their logs
//! * [`message`]: what one publish makes, and its frame
//! * [`command`], [`event`]: what a WebSocket client says, and what it is told
//! * [`websocket`]: handshake and frames (RFC 6455)
//! * [`http`]: an incremental HTTP/1.1 request reader and a response writer (RFC 9112)
//! * [`origin`]: where browsers may come from
//! * [`proxy`]: addresses of clients behind proxies
//! * [`error`], [`limits`]: codes with their statuses, and every bound with its reason
#![warn(missing_docs)]

pub mod channel;
pub mod command;
pub mod error;
pub mod event;
pub mod http;
pub mod json;
pub mod limits;
pub mod message;
pub mod origin;
pub mod position;
pub mod proxy;
pub mod publish;
pub mod time;
pub mod websocket;

pub use channel::ChannelSlug;
pub use error::{ErrorCode, Refusal};
pub use message::Message;
pub use position::{Epoch, Offset, StreamPosition};
