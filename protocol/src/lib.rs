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
//!
//! A request as its bytes come in, what it asks for, and what a subscriber would hear:
//!
//! ```
//! use pushflo_protocol::http::{Progress, RequestReader};
//! use pushflo_protocol::publish::Publish;
//!
//! let mut reader = RequestReader::default();
//! let bytes = b"POST /api/v1/publish HTTP/1.1\r\nHost: h\r\nContent-Length: 36\r\n\r\n\
//!               {\"channel\":\"orders\",\"data\":{\"id\":7}}";
//! // The head is there and half of the body.
//! let half = reader.read(&bytes[..80], |_, _| Ok(1024))?;
//! assert!(matches!(half, Progress::More { .. }));
//! let Progress::Request(request, taken) = reader.read(bytes, |_, _| Ok(1024))? else { panic!() };
//! assert_eq!((request.method, request.path, taken), ("POST", "/api/v1/publish", bytes.len()));
//! let publish = Publish::parse(&request.body, 1024)?;
//! assert_eq!((publish.channel.as_str(), publish.content), ("orders", r#"{"id":7}"#));
//! # Ok::<(), pushflo_protocol::Refusal>(())
//! ```

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
