//! HTTP routes: a request and a [`Context`] in, an [`Action`] out. Parsing is in the protocol crate, the
//! connection in `edge`.

mod action;
mod apps;
mod batch;
mod channels;
mod live;
mod messages;
mod publish;
mod reply;
mod tokens;
mod websocket;

use std::borrow::Cow;
use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use pushflo_protocol::answer::{Health, Iso8601, Ready};
use pushflo_protocol::http::{Request, percent_decode};
use pushflo_protocol::limits::{BATCH_BYTES_MAX, ENVELOPE_BYTES_MAX, HTTP_HEAD_BYTES_MAX};
use pushflo_protocol::proxy::forwarded_for;
use pushflo_protocol::{ErrorCode, Refusal};

use crate::accounts::{Access, Role};
use crate::context::Context;
use crate::exposition;
use crate::ids::{AppId, RequestId};
use crate::proxies::ProxyProtocol;
use crate::shared::{AddressSlot, Owners};

pub(crate) use action::{Action, Admitted, Awaited, ListQuery, Upgrade, member};
pub(crate) use apps::usage_reply;
pub(crate) use batch::{batch_refusal, batch_reply, batch_result};
pub(crate) use channels::list_reply;
pub(crate) use publish::{payload_bytes_max, take_publish};
pub(crate) use reply::Reply;

/// Largest body of a request that changes apps, keys or channels.
const MANAGEMENT_BYTES_MAX: usize = 64 * 1024;

/// Largest body of a request for a token, which may come without a key in its head: patterns and data at
/// their longest.
const TOKEN_BODY_BYTES_MAX: usize = 64 * 1024;

/// Largest body of a request that has no use for one.
const UNUSED_BODY_BYTES_MAX: usize = 1024;

/// What stands at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route<'a> {
    Live,
    Health,
    Ready,
    Cluster,
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
                "/ready" => Self::Ready,
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
            [Some("cluster"), None, ..] => Self::Cluster,
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
            Self::Live
            | Self::Health
            | Self::Ready
            | Self::Cluster
            | Self::Metrics
            | Self::OpenApi
            | Self::WebSocket => "Allow: GET, HEAD, OPTIONS",
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

/// Who sends a request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peer {
    /// How the proxy it comes through tells whose it is.
    pub(crate) proxy: Option<ProxyProtocol>,
    /// Where its connection is counted.
    pub(crate) address: Option<AddressSlot>,
}

/// A request that was read, and what must be known beside it.
pub(crate) struct Call<'a> {
    /// Whom to answer.
    pub(crate) id: RequestId,
    /// Who sends it.
    pub(crate) peer: Peer,
    /// Earlier requests of the connection still wait.
    pub(crate) is_pipelined: bool,
    /// The request.
    pub(crate) request: &'a Request<'a>,
    /// In whose name it asks, once its key is known.
    pub(crate) payer: Cell<Option<AppId>>,
}

/// What a request comes to.
///
/// # Errors
/// Why it is refused.
pub(crate) fn route(cx: &mut Context, call: &Call<'_>) -> Result<Action, Refusal> {
    let request = call.request;
    let method = if request.method == "HEAD" { "GET" } else { request.method };
    let route = Route::parse(request.path)
        .filter(|route| *route != Route::Metrics || cx.settings.metrics_on_main_port);
    match (method, &route) {
        (_, route) if !admits_origin(cx, request, route.as_ref()) => {
            let text = "this origin may not call: it is not among the server's allowed_origins";
            Err(Refusal::new(ErrorCode::Forbidden, text))
        }
        ("OPTIONS", _) => Ok(Action::Reply(preflight())),
        ("POST", Some(Route::Publish)) => publish::publish(cx, call),
        ("POST", Some(Route::PublishBatch)) => batch::publish_batch(cx, call),
        ("GET", Some(Route::WebSocket)) => websocket::upgrade(cx, call),
        ("GET", Some(Route::Health)) => Ok(Action::Reply(health(cx))),
        ("GET", Some(Route::Ready)) => Ok(Action::Reply(ready(cx))),
        ("GET", Some(Route::Cluster)) => cluster(cx, call),
        ("GET", Some(Route::Metrics)) => Ok(Action::Reply(metrics_page(cx, request))),
        ("GET", Some(Route::Live)) => Ok(Action::Reply(live::page())),
        ("GET", Some(Route::OpenApi)) => Ok(Action::Reply(openapi())),
        ("POST", Some(Route::Token)) => tokens::issue_token(cx, call),
        ("GET", Some(Route::Usage)) => apps::usage(cx, call),
        ("GET", Some(Route::Channels)) => channels::list_channels(cx, call),
        ("POST", Some(Route::Channels)) => channels::create_channel(cx, call),
        ("GET", Some(Route::Channel(slug))) => channels::channel(cx, call, slug),
        ("PATCH", Some(Route::Channel(slug))) => channels::change_channel(cx, call, slug),
        ("DELETE", Some(Route::Channel(slug))) => channels::delete_channel(cx, call, slug),
        ("POST", Some(Route::ChannelMessages(slug))) => publish::publish_message(cx, call, slug),
        ("GET", Some(Route::ChannelMessages(slug))) => messages::messages(cx, call, slug),
        ("GET", Some(Route::ChannelPresence(slug))) => channels::presence(cx, call, slug),
        ("GET", Some(Route::Apps)) => apps::list_apps(cx, call),
        ("POST", Some(Route::Apps)) => apps::create_app(cx, call),
        ("GET", Some(Route::App(app))) => apps::app(cx, call, app),
        ("PATCH", Some(Route::App(app))) => apps::change_app(cx, call, app),
        ("DELETE", Some(Route::App(app))) => apps::delete_app(cx, call, app),
        ("GET", Some(Route::AppKeys(app))) => apps::list_keys(cx, call, app),
        ("POST", Some(Route::AppKeys(app))) => apps::create_key(cx, call, app),
        ("DELETE", Some(Route::AppKey(app, key))) => apps::revoke_key(cx, call, app, key),
        (method, route) => {
            let (refusal, headers) = no_route(method, request.path, route.as_ref());
            cx.metrics().refused(refusal.code);
            let (shard, connection) = (call.id.shard.0, call.id.connection);
            let (code, path) = (refusal.code.as_str(), request.path);
            tracing::debug!(shard, ?connection, code, method, path, "refused: no route");
            let mut reply = Reply::refusal(&refusal);
            reply.headers.extend(headers);
            Ok(Action::Reply(reply))
        }
    }
}

/// How large the body of a request may be, told by its head, with its bytes if that tells them.
///
/// # Errors
/// Nothing of the body is wanted: there is nothing at the address, or the request has no key that is
/// known. One that costs no more than a head is taken all the same, so that the connection goes on.
pub(crate) fn admit_body(
    cx: &mut Context,
    call: &Call<'_>,
    body_bytes: Option<u64>,
) -> Result<usize, Refusal> {
    let is_small = body_bytes.is_some_and(|bytes| bytes <= HTTP_HEAD_BYTES_MAX as u64);
    let Some(route) = Route::parse(call.request.path) else {
        if is_small {
            return Ok(HTTP_HEAD_BYTES_MAX);
        }
        return Err(no_route(call.request.method, call.request.path, None).0);
    };
    let one = cx.settings.limits.payload_bytes_max + ENVELOPE_BYTES_MAX;
    let body_bytes_max = match route {
        Route::PublishBatch => one.max(BATCH_BYTES_MAX),
        Route::Publish | Route::ChannelMessages(_) => one,
        // The key may stand in the body.
        Route::Token if bearer(call.request).is_err() => return Ok(TOKEN_BODY_BYTES_MAX),
        Route::Token => TOKEN_BODY_BYTES_MAX,
        Route::Channels | Route::Channel(_) | Route::Apps | Route::App(_) => MANAGEMENT_BYTES_MAX,
        Route::AppKeys(_) | Route::AppKey(..) => MANAGEMENT_BYTES_MAX,
        Route::Live
        | Route::Health
        | Route::Ready
        | Route::Cluster
        | Route::Metrics
        | Route::OpenApi
        | Route::WebSocket
        | Route::Usage
        | Route::ChannelPresence(_) => return Ok(UNUSED_BODY_BYTES_MAX),
    };
    if !is_small {
        call.find_key(cx, bearer(call.request)?)?;
    }
    Ok(body_bytes_max)
}

impl Call<'_> {
    /// What a request's key grants, if it is at least `role`.
    ///
    /// # Errors
    /// `UNAUTHORIZED` without a known key, `FORBIDDEN` with one that may not do this or from an origin
    /// that its app does not allow, `RATE_LIMITED` where an address comes with wrong keys again and
    /// again.
    fn authorize(&self, cx: &mut Context, role: Role) -> Result<Access, Refusal> {
        self.authorize_key(cx, bearer(self.request)?, role)
    }

    /// What a key grants.
    ///
    /// # Errors
    /// `UNAUTHORIZED` where it is not known, `RATE_LIMITED` where an address comes with wrong keys again
    /// and again.
    fn find_key(&self, cx: &Context, key: &str) -> Result<Access, Refusal> {
        match cx.directory.find(key) {
            Some(access) => {
                self.payer.set(Some(access.app.id));
                Ok(access)
            }
            None if !cx.knows_all_keys() => Err(unknown_key()),
            None => {
                self.count_wrong_key(cx)?;
                Err(Refusal::new(ErrorCode::Unauthorized, "the key is not known"))
            }
        }
    }

    fn authorize_key(&self, cx: &mut Context, key: &str, role: Role) -> Result<Access, Refusal> {
        let access = self.find_key(cx, key)?;
        if access.role < role {
            let text = format!(
                "this needs a key that starts with {}, the key given starts with {}",
                role.prefix(),
                access.role.prefix()
            );
            return Err(Refusal::new(ErrorCode::Forbidden, text));
        }
        if !access.app.record.settings.allowed_origins.allows(self.request.header("origin")) {
            let text = "the app does not allow calls from this origin";
            return Err(Refusal::new(ErrorCode::Forbidden, text));
        }
        Ok(access)
    }

    /// Counts a wrong key against the address it came from.
    ///
    /// # Errors
    /// `RATE_LIMITED` where there are too many.
    fn count_wrong_key(&self, cx: &Context) -> Result<(), Refusal> {
        let is_forwarded = self.peer.proxy == Some(ProxyProtocol::ForwardedFor);
        let told = self.forwarded_for(cx).filter(|_| is_forwarded);
        let slot = told.map(|client| cx.shared.address_slot(client)).or(self.peer.address);
        let Some(slot) = slot else { return Ok(()) };
        let slots = cx.wrong_keys.len().max(1);
        let Some(rate) = cx.wrong_keys.get(slot.index() % slots) else { return Ok(()) };
        let most = cx.settings.limits.wrong_keys_per_second_max;
        rate.take(cx.now.elapsed_ms, most).map_err(|_| {
            let text = "too many wrong keys from this address";
            Refusal::limit(ErrorCode::RateLimited, "wrongKeysPerSecond", 1, text)
        })
    }

    /// The address behind a trusted proxy, as it tells it in a header.
    fn forwarded_for(&self, cx: &Context) -> Option<IpAddr> {
        let proxies = &cx.settings.proxies;
        let values: Vec<&[u8]> = self.request.headers("x-forwarded-for").collect();
        forwarded_for(values.into_iter(), |address| proxies.trusts(address))
    }
}

/// The refusal of a key by a node that cannot know whether it is one.
fn unknown_key() -> Refusal {
    let text =
        "this node cannot reach its cluster and does not know the key; try again, or another node";
    Refusal::new(ErrorCode::Overloaded, text)
}

/// Whether a browser's script may ask this of the server at all. What tells nothing of any app is for
/// all; a WebSocket is told only after its upgrade, where a script can read it.
fn admits_origin(cx: &Context, request: &Request<'_>, route: Option<&Route<'_>>) -> bool {
    let is_open = match route {
        Some(Route::WebSocket) => true,
        Some(Route::Live | Route::Health | Route::Ready | Route::Metrics | Route::OpenApi)
        | None => request.method != "OPTIONS",
        Some(_) => false,
    };
    is_open || cx.settings.origins.allows(request.header("origin"))
}

fn health(cx: &Context) -> Reply {
    let log_fails = cx.shared.log.as_ref().is_some_and(|log| log.is_failing());
    let is_cut_off = cx.shared.owners.as_ref().is_some_and(|owners| !owners.is_reached());
    let (code, status) = match (cx.shared.is_draining(), log_fails, is_cut_off) {
        (true, ..) => (503, "draining"),
        (_, true, _) => (503, "history cannot be written"),
        (.., true) => (503, "the cluster's NATS cannot be reached"),
        _ => (200, "ok"),
    };
    Reply::json(code, Health { status, timestamp: Iso8601(cx.now.unix_ms) }.to_json())
}

/// Whether a load balancer is to send anybody here.
fn ready(cx: &Context) -> Reply {
    let owners = cx.shared.owners.as_ref();
    let is_not = [
        (cx.shared.is_draining(), "the server drains"),
        (cx.shared.log.as_ref().is_some_and(|log| log.is_failing()), "history cannot be written"),
        (owners.is_some_and(|owners| !owners.is_reached()), "the cluster's NATS cannot be reached"),
        (
            owners.is_some_and(|owners| !owners.is_informed()),
            "the cluster's apps and keys are not known yet",
        ),
        (owners.is_some_and(Owners::is_ownerless), "the cluster's channels have no owner yet"),
    ];
    let reasons: Vec<_> =
        is_not.into_iter().filter_map(|(is_so, reason)| is_so.then_some(reason)).collect();
    let status = if reasons.is_empty() { 200 } else { 503 };
    let ready = Ready { ready: reasons.is_empty(), reasons, timestamp: Iso8601(cx.now.unix_ms) };
    Reply::json(status, ready.to_json())
}

/// How the cluster is, for who administers the server.
fn cluster(cx: &mut Context, call: &Call<'_>) -> Result<Action, Refusal> {
    apps::authorize_operator(cx, call)?;
    if !cx.is_cluster() {
        let text = "this server is no node of a cluster: it runs without cluster.nats";
        return Err(Refusal::new(ErrorCode::NotFound, text));
    }
    if !cx.shared.owners.as_ref().is_some_and(Owners::is_informed) {
        let text = "this node has not reached the cluster's NATS since it started";
        return Err(Refusal::new(ErrorCode::Overloaded, text));
    }
    Ok(Action::AskCluster)
}

/// The numbers of the server; those of apps only for who administers it.
fn metrics_page(cx: &Context, request: &Request<'_>) -> Reply {
    let access = bearer(request).ok().and_then(|key| cx.directory.find(key));
    let is_operator =
        access.is_some_and(|access| access.role == Role::Manage && access.app.id == AppId::DEFAULT);
    let apps = cx.directory.apps().filter(|_| is_operator);
    let mut apps: Vec<_> = apps.map(|app| (app.id, Arc::clone(&app.usage))).collect();
    apps.sort_unstable_by_key(|(app, _)| *app);
    Reply {
        status: 200,
        content_type: Some(exposition::CONTENT_TYPE),
        body: exposition::render(
            &cx.shared.metrics,
            cx.shared.log.as_deref(),
            cx.shared.owners.as_ref().map(|_| &*cx.shared.cluster),
            &apps,
            cx.month(),
        )
        .into(),
        headers: Vec::new(),
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
fn no_route(method: &str, path: &str, route: Option<&Route<'_>>) -> (Refusal, Option<String>) {
    let shown: String = path.chars().take(80).collect();
    let Some(route) = route else {
        let text = format!("there is nothing at {shown}");
        return (Refusal::new(ErrorCode::NotFound, text), None);
    };
    let method: String = method.chars().take(16).collect();
    let text = format!("{shown} does not take {method}");
    (Refusal::new(ErrorCode::MethodNotAllowed, text), Some(route.allow().into()))
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
