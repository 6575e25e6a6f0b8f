//! HTTP routes: what each address does. Parsing is in the protocol crate, the connection in
//! [`crate::connection`].

mod batch;
mod live;
mod messages;
mod publish;
mod websocket;

use std::borrow::Cow;

use bytes::Bytes;
use pushflo_protocol::http::{Request, percent_decode};
use pushflo_protocol::limits::{BATCH_BYTES_MAX, ENVELOPE_BYTES_MAX};
use pushflo_protocol::{ErrorCode, Refusal};

use crate::auth::{Access, Role};
use crate::connection::{AllowOrigin, Answering, Reply};
use crate::metrics;
use crate::shard::{AllowedOrigins, Limits, RequestId, Shard};

pub(crate) use batch::PendingBatch;

impl Shard {
    /// Does what a request asks for. `unanswered`: earlier requests of the connection still wait.
    pub(crate) fn route(
        &mut self,
        id: RequestId,
        request: &Request<'_>,
        unanswered: bool,
    ) -> Answering {
        let method = if request.method == "HEAD" { "GET" } else { request.method };
        let result = match (method, request.path) {
            ("OPTIONS", _) => Ok(Answering::Now(preflight())),
            ("GET", "/health") => Ok(Answering::Now(self.health())),
            ("GET", "/metrics") if self.settings.metrics_on_main_port => {
                Ok(Answering::Now(self.metrics_page()))
            }
            ("GET", "/" | "/live") => Ok(Answering::Now(live::page())),
            ("GET", "/ws") => self.upgrade(id, request, unanswered),
            ("POST", "/api/v1/publish") => self.publish(id, request),
            ("POST", batch::PATH) => self.publish_batch(id, request),
            (method, path) => match (method, channel_messages(path)) {
                ("POST", Some(slug)) => self.publish_message(id, request, &slug),
                ("GET", Some(slug)) => self.messages(id, request, &slug),
                _ => {
                    let reply = no_route(method, path);
                    self.metrics().refused(reply.0);
                    Ok(Answering::Now(reply.1))
                }
            },
        };
        result.unwrap_or_else(|refusal| {
            self.metrics().refused(refusal.code);
            Answering::Now(Reply::refusal(&refusal))
        })
    }

    /// The largest body a request to `path` may have.
    pub(crate) fn body_bytes_max(path: &str, limits: &Limits) -> usize {
        let one = limits.payload_bytes_max + ENVELOPE_BYTES_MAX;
        if path == batch::PATH { one.max(BATCH_BYTES_MAX) } else { one }
    }

    /// What a request's key grants, if it is at least `role`.
    ///
    /// # Errors
    /// `UNAUTHORIZED` without a known key, `FORBIDDEN` with one that may not do this.
    pub(crate) fn authorize(&self, request: &Request<'_>, role: Role) -> Result<Access, Refusal> {
        let unauthorized = |text| Refusal::new(ErrorCode::Unauthorized, text);
        let header = request.header("authorization").and_then(|value| str::from_utf8(value).ok());
        let header =
            header.ok_or_else(|| unauthorized("a key is required: 'Authorization: Bearer KEY'"))?;
        let (scheme, key) = header.split_once(' ').unwrap_or((header, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(unauthorized("the header must have the form 'Authorization: Bearer KEY'"));
        }
        let access = self
            .settings
            .keys
            .find(key.trim())
            .ok_or_else(|| unauthorized("the key is not known"))?;
        if access.role < role {
            let text = format!(
                "this needs a key that starts with {}, the key given starts with {}",
                role.prefix(),
                access.role.prefix()
            );
            return Err(Refusal::new(ErrorCode::Forbidden, text));
        }
        Ok(access)
    }

    /// What a browser's script is told about who may read the answer.
    pub(crate) fn allow_origin(&self, request: &Request<'_>) -> AllowOrigin {
        let Some(origin) = request.header("origin").and_then(|value| str::from_utf8(value).ok())
        else {
            return AllowOrigin::None;
        };
        match &self.settings.origins {
            AllowedOrigins::All => AllowOrigin::Any,
            list if list.allows(Some(origin.as_bytes())) => {
                AllowOrigin::One(format!("Access-Control-Allow-Origin: {origin}"))
            }
            AllowedOrigins::List(_) => AllowOrigin::None,
        }
    }

    fn health(&self) -> Reply {
        let log_fails = self.shared.log.as_ref().is_some_and(|log| log.is_failing());
        let (code, status) = match (self.is_draining(), log_fails) {
            (true, _) => (503, "draining"),
            (_, true) => (503, "history cannot be written"),
            _ => (200, "ok"),
        };
        let timestamp = pushflo_protocol::time::iso8601(self.now.unix_ms);
        let body = format!(r#"{{"status":"{status}","timestamp":"{timestamp}"}}"#);
        Reply::json(code, body)
    }

    fn metrics_page(&self) -> Reply {
        Reply {
            status: 200,
            content_type: Some("text/plain; version=0.0.4; charset=utf-8"),
            body: metrics::render(&self.shared).into(),
            headers: Vec::new(),
        }
    }
}

/// The answer to a browser that asks whether its script may call (the Fetch standard's preflight).
fn preflight() -> Reply {
    Reply {
        status: 204,
        content_type: None,
        body: Bytes::new(),
        headers: vec![
            "Access-Control-Allow-Methods: GET, POST, PATCH, DELETE, OPTIONS".into(),
            "Access-Control-Allow-Headers: Authorization, Content-Type, Idempotency-Key".into(),
            "Access-Control-Max-Age: 86400".into(),
        ],
    }
}

/// The slug in `/api/v1/channels/SLUG/messages`, percent-decoded.
fn channel_messages(path: &str) -> Option<Cow<'_, str>> {
    let slug = path.strip_prefix("/api/v1/channels/")?.strip_suffix("/messages")?;
    Some(percent_decode(slug))
}

/// The answer where no route fits: 405 with the methods there are (RFC 9110 section 15.5.6), or 404.
fn no_route(method: &str, path: &str) -> (ErrorCode, Reply) {
    let shown: String = path.chars().take(80).collect();
    let allow = match path {
        "/health" | "/metrics" | "/" | "/live" | "/ws" => Some("Allow: GET, HEAD, OPTIONS"),
        "/api/v1/publish" | batch::PATH => Some("Allow: POST, OPTIONS"),
        _ => channel_messages(path).map(|_| "Allow: GET, HEAD, POST, OPTIONS"),
    };
    let Some(allow) = allow else {
        let text = format!("there is nothing at {shown}");
        let refusal = Refusal::new(ErrorCode::NotFound, text);
        return (refusal.code, Reply::refusal(&refusal));
    };
    let method: String = method.chars().take(16).collect();
    let refusal =
        Refusal::new(ErrorCode::MethodNotAllowed, format!("{shown} does not take {method}"));
    let mut reply = Reply::refusal(&refusal);
    reply.headers.push(allow.into());
    (refusal.code, reply)
}
