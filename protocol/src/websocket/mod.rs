//! WebSocket (RFC 6455), server side, driven without I/O: the handshake and the frames.
//!
//! tungstenite parses and writes the frame headers and derives the accept key. Its stream type is
//! not used: it owns a buffer per connection and reads by itself.

mod encode;
mod handshake;
mod read;

pub(crate) use encode::push_text_frame;
pub use encode::{close_frame, ping_frame, pong_frame, text_frame};
pub use handshake::{accept, is_upgrade};
pub use read::{MessageReader, Received};

use thiserror::Error;

/// A close code (RFC 6455 section 7.4 and PushFlo's own from 4000).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// The purpose was fulfilled.
    Normal = 1000,
    /// The server is going away.
    GoingAway = 1001,
    /// The peer broke the protocol.
    ProtocolError = 1002,
    /// A kind of data that is not accepted: binary messages.
    Unsupported = 1003,
    /// Text that is not UTF-8.
    InvalidData = 1007,
    /// A message over [`crate::limits::client_message_bytes_max`].
    TooBig = 1009,
    /// A bad or expired token.
    Unauthorized = 4001,
    /// A key or origin that may not connect.
    Forbidden = 4003,
    /// A subscriber that fell too far behind.
    TooSlow = 4008,
    /// Over a quota.
    OverQuota = 4029,
}

impl CloseCode {
    /// The code as a number.
    pub fn value(self) -> u16 {
        self as u16
    }
}

/// Why the peer's bytes end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct ProtocolError {
    /// The close code to answer with.
    pub code: CloseCode,
    /// The close reason, at most 123 bytes.
    pub reason: &'static str,
}
