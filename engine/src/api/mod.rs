//! HTTP routes: what each address does. Parsing is in the protocol crate, the connection in
//! [`crate::edge`].

mod apps;
mod batch;
mod channels;
mod live;
mod messages;
mod publish;
mod tokens;
mod websocket;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use pushflo_protocol::http::{Request, percent_decode};
use pushflo_protocol::limits::{BATCH_BYTES_MAX, ENVELOPE_BYTES_MAX};
use pushflo_protocol::proxy::forwarded_for;
use pushflo_protocol::{ErrorCode, Refusal};

use crate::accounts::{Access, Role};
use crate::context::Context;
use crate::edge::Edge;
use crate::edge::{AllowOrigin, Answering, Reply};
use crate::exposition;
use crate::ids::{AppId, RequestId};
use crate::proxies::ProxyProtocol;
use crate::settings::AllowedOrigins;
use crate::settings::Limits;

pub(crate) use batch::PendingBatch;
pub(crate) use channels::PendingList;
pub(crate) use publish::new_message;

/// Largest body of a request that changes apps, keys or channels.
const MANAGEMENT_BYTES_MAX: usize = 64 * 1024;

/// What stands at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route<'a> {
    Live,
    Health,
    Metrics,
    OpenApi,
    WebSocket,
    Publish,
    PublishBatch,
    Token,
    Usage,
    Channels,
    Channel(Cow<'a, str>),
    ChannelMessages(Cow<'a, str>),
    ChannelPresence(Cow<'a, str>),
    Apps,
    App(Cow<'a, str>),
    AppKeys(Cow<'a, str>),
    AppKey(Cow<'a, str>, Cow<'a, str>),
}

impl<'a> Route<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let Some(rest) = path.strip_prefix("/api/v1/") else {
            return Some(match path {
                "/" | "/live" => Self::Live,
                "/health" => Self::Health,
                "/metrics" => Self::Metrics,
                "/ws" => Self::WebSocket,
                _ => return None,
            });
        };
        let mut parts = rest.split('/');
        let parts = [parts.next(), parts.next(), parts.next(), parts.next(), parts.next()];
        let name = percent_decode;
        Some(match parts {
            [Some("publish"), None, ..] => Self::Publish,
            [Some("publish"), Some("batch"), None, ..] => Self::PublishBatch,
            [Some("auth"), Some("token"), None, ..] => Self::Token,
            [Some("usage"), None, ..] => Self::Usage,
            [Some("openapi.json"), None, ..] => Self::OpenApi,
            [Some("channels"), None, ..] => Self::Channels,
            [Some("channels"), Some(slug), None, ..] => Self::Channel(name(slug)),
            [Some("channels"), Some(slug), Some("messages"), None, _] => {
                Self::ChannelMessages(name(slug))
            }
            [Some("channels"), Some(slug), Some("presence"), None, _] => {
                Self::ChannelPresence(name(slug))
            }
            [Some("apps"), None, ..] => Self::Apps,
            [Some("apps"), Some(app), None, ..] => Self::App(name(app)),
            [Some("apps"), Some(app), Some("keys"), None, _] => Self::AppKeys(name(app)),
            [Some("apps"), Some(app), Some("keys"), Some(key), None] => {
                Self::AppKey(name(app), name(key))
            }
            _ => return None,
        })
    }

    /// The methods there are, as in the `Allow` header.
    fn allow(&self) -> &'static str {
        match self {
            Self::Live | Self::Health | Self::Metrics | Self::OpenApi | Self::WebSocket => {
                "Allow: GET, HEAD, OPTIONS"
            }
            Self::Publish | Self::PublishBatch | Self::Token => "Allow: POST, OPTIONS",
            Self::Usage | Self::ChannelPresence(_) => "Allow: GET, HEAD, OPTIONS",
            Self::Channels | Self::ChannelMessages(_) | Self::Apps | Self::AppKeys(_) => {
                "Allow: GET, HEAD, POST, OPTIONS"
            }
            Self::Channel(_) | Self::App(_) => "Allow: GET, HEAD, PATCH, DELETE, OPTIONS",
            Self::AppKey(..) => "Allow: DELETE, OPTIONS",
        }
    }
}

impl Edge {
    /// Does what a request asks for. `unanswered`: earlier requests of the connection still wait.
    pub(crate) fn route(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        unanswered: bool,
    ) -> Answering {
        let method = if request.method == "HEAD" { "GET" } else { request.method };
        let route = Route::parse(request.path)
            .filter(|route| *route != Route::Metrics || cx.settings.metrics_on_main_port);
        let result = match (method, &route) {
            (_, route) if !self.admits_origin(cx, request, route.as_ref()) => {
                let text = "this origin may not call: it is not among the server's allowed_origins";
                Err(Refusal::new(ErrorCode::Forbidden, text))
            }
            ("OPTIONS", _) => Ok(Answering::Now(preflight())),
            ("POST", Some(Route::Publish)) => self.publish(cx, id, request),
            ("POST", Some(Route::PublishBatch)) => self.publish_batch(cx, id, request),
            ("GET", Some(Route::WebSocket)) => self.upgrade(cx, id, request, unanswered),
            ("GET", Some(Route::Health)) => Ok(Answering::Now(self.health(cx))),
            ("GET", Some(Route::Metrics)) => Ok(Answering::Now(self.metrics_page(cx, request))),
            ("GET", Some(Route::Live)) => Ok(Answering::Now(live::page())),
            ("GET", Some(Route::OpenApi)) => Ok(Answering::Now(openapi())),
            ("POST", Some(Route::Token)) => self.issue_token(cx, id, request),
            ("GET", Some(Route::Usage)) => self.usage(cx, id, request),
            ("GET", Some(Route::Channels)) => self.list_channels(cx, id, request),
            ("POST", Some(Route::Channels)) => self.create_channel_request(cx, id, request),
            ("GET", Some(Route::Channel(slug))) => self.channel(cx, id, request, slug),
            ("PATCH", Some(Route::Channel(slug))) => {
                self.change_channel_request(cx, id, request, slug)
            }
            ("DELETE", Some(Route::Channel(slug))) => {
                self.delete_channel_request(cx, id, request, slug)
            }
            ("POST", Some(Route::ChannelMessages(slug))) => {
                self.publish_message(cx, id, request, slug)
            }
            ("GET", Some(Route::ChannelMessages(slug))) => self.messages(cx, id, request, slug),
            ("GET", Some(Route::ChannelPresence(slug))) => self.presence(cx, id, request, slug),
            ("GET", Some(Route::Apps)) => self.list_apps(cx, id, request),
            ("POST", Some(Route::Apps)) => self.create_app(cx, id, request),
            ("GET", Some(Route::App(app))) => self.app(cx, id, request, app),
            ("PATCH", Some(Route::App(app))) => self.change_app(cx, id, request, app),
            ("DELETE", Some(Route::App(app))) => self.delete_app(cx, id, request, app),
            ("GET", Some(Route::AppKeys(app))) => self.list_keys(cx, id, request, app),
            ("POST", Some(Route::AppKeys(app))) => self.create_key(cx, id, request, app),
            ("DELETE", Some(Route::AppKey(app, key))) => self.revoke_key(cx, id, request, app, key),
            (method, route) => {
                let reply = no_route(method, request.path, route.as_ref());
                cx.metrics().refused(reply.0);
                Ok(Answering::Now(reply.1))
            }
        };
        result.unwrap_or_else(|refusal| {
            cx.metrics().refused(refusal.code);
            Answering::Now(Reply::refusal(&refusal))
        })
    }

    /// The largest body a request to `path` may have.
    pub(crate) fn body_bytes_max(path: &str, limits: &Limits) -> usize {
        let one = limits.payload_bytes_max + ENVELOPE_BYTES_MAX;
        match Route::parse(path) {
            Some(Route::PublishBatch) => one.max(BATCH_BYTES_MAX),
            Some(Route::Publish | Route::ChannelMessages(_)) => one,
            _ => one.max(MANAGEMENT_BYTES_MAX),
        }
    }

    /// What a request's key grants, if it is at least `role`.
    ///
    /// # Errors
    /// `UNAUTHORIZED` without a known key, `FORBIDDEN` with one that may not do this or from an origin
    /// that its app does not allow, `RATE_LIMITED` where an address comes with wrong keys again and
    /// again.
    pub(crate) fn authorize(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        role: Role,
    ) -> Result<Access, Refusal> {
        let key = bearer(request)?;
        self.authorize_key(cx, id, request, key, role)
    }

    fn authorize_key(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        key: &str,
        role: Role,
    ) -> Result<Access, Refusal> {
        let Some(access) = cx.directory.find(key) else {
            self.count_wrong_key(cx, id, request)?;
            return Err(Refusal::new(ErrorCode::Unauthorized, "the key is not known"));
        };
        if access.role < role {
            let text = format!(
                "this needs a key that starts with {}, the key given starts with {}",
                role.prefix(),
                access.role.prefix()
            );
            return Err(Refusal::new(ErrorCode::Forbidden, text));
        }
        if !access.app.record.settings.allowed_origins.allows(request.header("origin")) {
            let text = "the app does not allow calls from this origin";
            return Err(Refusal::new(ErrorCode::Forbidden, text));
        }
        Ok(access)
    }

    /// Counts a wrong key against the address it came from.
    ///
    /// # Errors
    /// `RATE_LIMITED` where there are too many.
    fn count_wrong_key(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
    ) -> Result<(), Refusal> {
        let connection = self.connections.get(id.connection);
        let through_proxy =
            connection.is_some_and(|c| c.proxy == Some(ProxyProtocol::ForwardedFor));
        let told = self.forwarded_for(cx, request).filter(|_| through_proxy);
        let slot = told.map(|client| cx.shared.address_slot(client));
        let slot = slot.or(connection.and_then(|c| c.address()));
        let Some(slot) = slot else { return Ok(()) };
        let slots = self.wrong_keys.len().max(1);
        let Some(rate) = self.wrong_keys.get(slot.index() % slots) else { return Ok(()) };
        rate.take(cx.now.elapsed_ms, cx.settings.limits.wrong_keys_per_second_max).map_err(|_| {
            let text = "too many wrong keys from this address";
            Refusal::limit(ErrorCode::RateLimited, "wrongKeysPerSecond", 1, text)
        })
    }

    /// The address behind a trusted proxy, as it tells it in a header.
    fn forwarded_for(&self, cx: &Context, request: &Request<'_>) -> Option<IpAddr> {
        let proxies = &cx.settings.proxies;
        let values: Vec<&[u8]> = request.headers("x-forwarded-for").collect();
        forwarded_for(values.into_iter(), |address| proxies.trusts(address))
    }

    /// Whether a browser's script may ask this of the server at all. What tells nothing of any app is for
    /// all; a WebSocket is told only after its upgrade, where a script can read it.
    fn admits_origin(
        &self,
        cx: &Context,
        request: &Request<'_>,
        route: Option<&Route<'_>>,
    ) -> bool {
        let is_open = match route {
            Some(Route::WebSocket) => true,
            Some(Route::Live | Route::Health | Route::Metrics | Route::OpenApi) | None => {
                request.method != "OPTIONS"
            }
            Some(_) => false,
        };
        is_open || cx.settings.origins.allows(request.header("origin"))
    }

    /// What a browser's script is told about who may read the answer.
    pub(crate) fn allow_origin(&self, cx: &Context, request: &Request<'_>) -> AllowOrigin {
        let Some(origin) = request.header("origin").and_then(|value| str::from_utf8(value).ok())
        else {
            return AllowOrigin::None;
        };
        match &cx.settings.origins {
            AllowedOrigins::All => AllowOrigin::Any,
            list if list.allows(Some(origin.as_bytes())) => {
                AllowOrigin::One(format!("Access-Control-Allow-Origin: {origin}"))
            }
            AllowedOrigins::List(_) => AllowOrigin::None,
        }
    }

    fn health(&self, cx: &Context) -> Reply {
        let log_fails = cx.shared.log.as_ref().is_some_and(|log| log.is_failing());
        let (code, status) = match (self.is_draining(), log_fails) {
            (true, _) => (503, "draining"),
            (_, true) => (503, "history cannot be written"),
            _ => (200, "ok"),
        };
        let timestamp = pushflo_protocol::time::iso8601(cx.now.unix_ms);
        let body = format!(r#"{{"status":"{status}","timestamp":"{timestamp}"}}"#);
        Reply::json(code, body)
    }

    /// The numbers of the server; those of apps only for who administers it.
    fn metrics_page(&mut self, cx: &mut Context, request: &Request<'_>) -> Reply {
        let month = cx.month();
        let access = bearer(request).ok().and_then(|key| cx.directory.find(key));
        let is_operator = access
            .is_some_and(|access| access.role == Role::Manage && access.app.id == AppId::DEFAULT);
        let apps = cx.directory.apps().filter(|_| is_operator);
        let mut apps: Vec<_> = apps.map(|app| (app.id, Arc::clone(&app.usage))).collect();
        apps.sort_unstable_by_key(|(app, _)| *app);
        Reply {
            status: 200,
            content_type: Some(exposition::CONTENT_TYPE),
            body: exposition::render(&cx.shared.metrics, cx.shared.log.as_deref(), &apps, month)
                .into(),
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

/// The answer where no route fits: 405 with the methods there are (RFC 9110 section 15.5.6), or 404.
fn no_route(method: &str, path: &str, route: Option<&Route<'_>>) -> (ErrorCode, Reply) {
    let shown: String = path.chars().take(80).collect();
    let Some(route) = route else {
        let text = format!("there is nothing at {shown}");
        let refusal = Refusal::new(ErrorCode::NotFound, text);
        return (refusal.code, Reply::refusal(&refusal));
    };
    let method: String = method.chars().take(16).collect();
    let refusal =
        Refusal::new(ErrorCode::MethodNotAllowed, format!("{shown} does not take {method}"));
    let mut reply = Reply::refusal(&refusal);
    reply.headers.push(route.allow().into());
    (refusal.code, reply)
}

/// The key of the `Authorization` header (RFC 6750 section 2.1).
///
/// # Errors
/// `UNAUTHORIZED` where there is none.
fn bearer<'a>(request: &Request<'a>) -> Result<&'a str, Refusal> {
    let unauthorized = |text| Refusal::new(ErrorCode::Unauthorized, text);
    let header = request.header("authorization").and_then(|value| str::from_utf8(value).ok());
    let header =
        header.ok_or_else(|| unauthorized("a key is required: 'Authorization: Bearer KEY'"))?;
    let (scheme, key) = header.split_once(' ').unwrap_or((header, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unauthorized("the header must have the form 'Authorization: Bearer KEY'"));
    }
    Ok(key.trim())
}

/// The description of all of this for programs (OpenAPI 3.1).
fn openapi() -> Reply {
    Reply::json(200, Bytes::from_static(include_bytes!("openapi.json")))
}
