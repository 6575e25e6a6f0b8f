//! `POST /api/v1/publish` and `POST /api/v1/channels/:slug/messages`, and what all ways to publish
//! share.

use pushflo_protocol::http::Request;
use pushflo_protocol::publish::{self, Publish};
use pushflo_protocol::{ChannelSlug, Refusal};

use super::Call;
use super::action::{Action, Awaited};
use crate::accounts::plan::limit;
use crate::accounts::{App, Role};
use crate::context::Context;
use crate::ids::{AppId, ChannelKey};
use crate::mail::{self, NewMessage, ReplyTo, ToHome};

pub(super) fn publish(cx: &mut Context, call: &Call<'_>) -> Result<Action, Refusal> {
    let app = call.authorize(cx, Role::Secret)?.app;
    let publish = Publish::parse(&call.request.body, payload_bytes_max(cx, app.id))?;
    publish_one(cx, call, &app, publish, 200)
}

pub(super) fn publish_message(
    cx: &mut Context,
    call: &Call<'_>,
    slug: &str,
) -> Result<Action, Refusal> {
    let app = call.authorize(cx, Role::Secret)?.app;
    let (slug, most) = (ChannelSlug::parse(slug)?, payload_bytes_max(cx, app.id));
    let publish = Publish::parse_message(slug, &call.request.body, most)?;
    publish_one(cx, call, &app, publish, 201)
}

fn publish_one(
    cx: &mut Context,
    call: &Call<'_>,
    app: &App,
    publish: Publish<'_>,
    status: u16,
) -> Result<Action, Refusal> {
    let key = idempotency_key(call.request)?;
    take_publish(cx, app)?;
    let parts = publish.parts(publish.client_id.as_deref());
    let key = publish.key.as_deref().or(key.as_deref()).map(Into::into);
    let channel = ChannelKey { app: app.id, slug: publish.channel };
    let awaited = Awaited::Publish { status, channel: channel.slug.clone(), parts: parts.clone() };
    let home = cx.home_shard(&channel);
    let message = NewMessage { channel, parts, key };
    let publish = mail::Publish { reply_to: ReplyTo::Request(call.id), message };
    Ok(Action::Ask { home, mail: ToHome::Publish(publish), awaited })
}

/// The largest content of a message of an app.
pub(crate) fn payload_bytes_max(cx: &Context, app: AppId) -> usize {
    let of_plan = cx.directory.app(app).map_or(0, |app| app.plan.payload_bytes_max);
    cx.settings.limits.payload_bytes_max.min(usize::try_from(of_plan).unwrap_or(usize::MAX))
}

/// Counts a publish against the rate of the app's plan.
///
/// # Errors
/// `RATE_LIMITED` with the time after which to try again.
pub(crate) fn take_publish(cx: &Context, app: &App) -> Result<(), Refusal> {
    let most = app.plan.publishes_per_second_max;
    app.usage.take_publish(cx.now.elapsed_ms, most).map_err(|wait_ms| {
        let text = format!("the app may publish {most} messages a second");
        Refusal::over_rate(limit::PUBLISHES_PER_SECOND, wait_ms, text)
    })
}

/// The header `Idempotency-Key`, where there is one.
pub(super) fn idempotency_key(request: &Request<'_>) -> Result<Option<String>, Refusal> {
    let Some(value) = request.header("idempotency-key") else { return Ok(None) };
    let key = String::from_utf8_lossy(value);
    publish::check_key("Idempotency-Key", &key)?;
    Ok(Some(key.into_owned()))
}
