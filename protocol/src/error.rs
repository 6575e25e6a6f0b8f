//! Refusals: every way in which the server says no, with its code, status and sentence.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::json;

/// The `code` of an error, on HTTP and on the WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorCode {
    /// The request is malformed or a field has a bad value.
    ValidationError,
    /// No key, or one that is not known.
    Unauthorized,
    /// A known key that may not do this.
    Forbidden,
    /// No such resource.
    NotFound,
    /// The method does not exist here.
    MethodNotAllowed,
    /// The resource exists already.
    Conflict,
    /// The body or the content is over its limit.
    PayloadTooLarge,
    /// The request's head is over its limit.
    HeadTooLarge,
    /// The address speaks only WebSocket, of the one version there is.
    UpgradeRequired,
    /// The request did not arrive in time.
    RequestTimeout,
    /// Too many in a time.
    RateLimited,
    /// Over a plan's or the server's quota.
    QuotaExceeded,
    /// The server is full for the moment; nothing was accepted.
    Overloaded,
    /// It may have been done: who was asked to do it cannot be reached any more.
    UnknownOutcome,
    /// A bug or a failing machine.
    ServerError,
}

impl ErrorCode {
    /// All codes, for tables such as metrics.
    pub const ALL: [Self; 15] = [
        Self::ValidationError,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::PayloadTooLarge,
        Self::HeadTooLarge,
        Self::UpgradeRequired,
        Self::RequestTimeout,
        Self::RateLimited,
        Self::QuotaExceeded,
        Self::Overloaded,
        Self::UnknownOutcome,
        Self::ServerError,
    ];

    /// The code as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ValidationError
            | Self::HeadTooLarge
            | Self::UpgradeRequired
            | Self::RequestTimeout => "VALIDATION_ERROR",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Forbidden => "FORBIDDEN",
            Self::NotFound | Self::MethodNotAllowed => "NOT_FOUND",
            Self::Conflict => "CONFLICT",
            Self::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Self::RateLimited => "RATE_LIMITED",
            Self::QuotaExceeded => "QUOTA_EXCEEDED",
            Self::Overloaded => "OVERLOADED",
            Self::UnknownOutcome => "UNKNOWN_OUTCOME",
            Self::ServerError => "SERVER_ERROR",
        }
    }

    /// A distinct name for each code, for metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ValidationError => "validation",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Conflict => "conflict",
            Self::PayloadTooLarge => "payload_too_large",
            Self::HeadTooLarge => "head_too_large",
            Self::UpgradeRequired => "upgrade_required",
            Self::RequestTimeout => "request_timeout",
            Self::RateLimited => "rate_limited",
            Self::QuotaExceeded => "quota_exceeded",
            Self::Overloaded => "overloaded",
            Self::UnknownOutcome => "unknown_outcome",
            Self::ServerError => "server_error",
        }
    }

    /// The HTTP status (RFC 9110 section 15) that goes with the code.
    pub fn status(self) -> u16 {
        match self {
            Self::ValidationError => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict => 409,
            Self::PayloadTooLarge => 413,
            Self::UpgradeRequired => 426,
            Self::HeadTooLarge => 431,
            Self::RateLimited | Self::QuotaExceeded => 429,
            Self::Overloaded | Self::UnknownOutcome => 503,
            Self::ServerError => 500,
        }
    }

    /// Whether a limit was reached, whose name is then the refusal's field.
    pub fn is_limit(self) -> bool {
        matches!(self, Self::RateLimited | Self::QuotaExceeded)
    }

    /// Whether the same request may succeed a little later, so that `Retry-After` belongs to it.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::RateLimited | Self::QuotaExceeded | Self::Overloaded | Self::UnknownOutcome
        )
    }
}

/// One refusal: a code, a sentence for a person, and where it applies the field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of no.
    pub code: ErrorCode,
    /// A sentence that says what was wrong.
    pub message: Cow<'static, str>,
    /// The field of the request that was wrong, or the limit that was reached.
    pub field: Option<Cow<'static, str>>,
    /// After how many seconds the same request may succeed, where it may at all.
    pub retry_after_s: Option<u32>,
}

impl Refusal {
    /// A refusal that concerns the request as a whole.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        let retry_after_s = code.is_transient().then_some(1);
        Self { code, message: message.into(), field: None, retry_after_s }
    }

    /// A validation error of one field.
    pub fn field(field: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: Some(field.into()), ..Self::new(ErrorCode::ValidationError, message) }
    }

    /// A limit that is reached, by its name; it may be free again after `retry_after_s` seconds.
    pub fn limit(
        code: ErrorCode,
        limit: &'static str,
        retry_after_s: u32,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let retry_after_s = Some(retry_after_s.max(1));
        Self { field: Some(limit.into()), retry_after_s, ..Self::new(code, message) }
    }

    /// A rate that is gone over; it may be tried again after `wait_ms`.
    pub fn over_rate(
        limit: &'static str,
        wait_ms: u64,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let wait_s = u32::try_from(wait_ms.div_ceil(1000)).unwrap_or(u32::MAX);
        Self::limit(ErrorCode::RateLimited, limit, wait_s, message)
    }

    /// The body of the HTTP answer.
    pub fn to_json(&self) -> String {
        let mut body = json!({
            "success": false, "error": self.message, "code": self.code.as_str(),
        });
        if let (Some(field), Some(object)) = (&self.field, body.as_object_mut()) {
            object.insert("details".into(), json!({ (field.as_ref()): [self.message] }));
        }
        body.to_string()
    }
}
