//! Answers to requests, before their head is known.

use bytes::Bytes;
use pushflo_protocol::{ErrorCode, Refusal};

/// An answer to a request.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: Option<&'static str>,
    pub(crate) body: Bytes,
    /// Further header lines.
    pub(crate) headers: Vec<String>,
}

impl Reply {
    /// A JSON answer.
    pub(crate) fn json(status: u16, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self { status, content_type: Some("application/json"), body, headers: Vec::new() }
    }

    /// An answer without a body.
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, content_type: None, body: Bytes::new(), headers: Vec::new() }
    }

    /// A refusal as JSON.
    pub(crate) fn refusal(refusal: &Refusal) -> Self {
        let mut reply = Self::json(refusal.code.status(), refusal.to_json());
        if let Some(seconds) = refusal.retry_after_s {
            reply.headers.push(format!("Retry-After: {seconds}"));
        }
        if refusal.code == ErrorCode::Unauthorized {
            reply.headers.push("WWW-Authenticate: Bearer".into());
        }
        if refusal.code == ErrorCode::UpgradeRequired {
            // RFC 9110 section 15.5.22 and RFC 6455 section 4.4.
            reply.headers.push("Connection: Upgrade".into());
            reply.headers.push("Upgrade: websocket".into());
            reply.headers.push("Sec-WebSocket-Version: 13".into());
        }
        reply
    }
}
