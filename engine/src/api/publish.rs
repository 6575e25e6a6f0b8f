//! `POST /api/v1/publish` and `POST /api/v1/channels/:slug/messages`, and what all ways to publish
//! share.

use std::sync::Arc;

use pushflo_protocol::http::Request;
use pushflo_protocol::publish::{self, Publish};
use pushflo_protocol::{ChannelSlug, Refusal};

use crate::accounts::plan::limit;
use crate::accounts::{App, Role};
use crate::context::Context;
use crate::edge::Answering;
use crate::edge::Edge;
use crate::ids::{AppId, ChannelKey, RequestId};
use crate::mail;
use crate::mail::NewMessage;
use crate::mail::ReplyTo;
use crate::mail::ToHome;
use crate::mail::no_room;

impl Edge {
    pub(super) fn publish(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize(cx, id, request, Role::Secret)?.app;
        let publish = Publish::parse(&request.body, self.payload_bytes_max(cx, app.id))?;
        self.publish_one(cx, id, request, &app, publish, 200)
    }

    pub(super) fn publish_message(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        slug: &str,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize(cx, id, request, Role::Secret)?.app;
        let (slug, most) = (ChannelSlug::parse(slug)?, self.payload_bytes_max(cx, app.id));
        let publish = Publish::parse_message(slug, &request.body, most)?;
        self.publish_one(cx, id, request, &app, publish, 201)
    }

    fn publish_one(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        app: &Arc<App>,
        publish: Publish<'_>,
        status: u16,
    ) -> Result<Answering, Refusal> {
        let key = idempotency_key(request)?;
        self.take_publish(cx, app)?;
        let channel = ChannelKey { app: app.id, slug: publish.channel.clone() };
        let key = publish.key.as_deref().or(key.as_deref());
        let message = new_message(channel, &publish, publish.client_id.as_deref(), key);
        self.publish_at_home(cx, message, ReplyTo::Request { request: id, status })?;
        Ok(Answering::Later)
    }

    /// The largest content of a message of an app.
    pub(crate) fn payload_bytes_max(&self, cx: &Context, app: AppId) -> usize {
        let of_plan = cx.directory.app(app).map_or(0, |app| app.plan.payload_bytes_max);
        cx.settings.limits.payload_bytes_max.min(usize::try_from(of_plan).unwrap_or(usize::MAX))
    }

    /// Counts a publish against the rate of the app's plan.
    ///
    /// # Errors
    /// `RATE_LIMITED` with the time after which to try again.
    pub(crate) fn take_publish(&self, cx: &Context, app: &App) -> Result<(), Refusal> {
        let most = app.plan.publishes_per_second_max;
        app.usage.take_publish(cx.now.elapsed_ms, most).map_err(|wait_ms| {
            let text = format!("the app may publish {most} messages a second");
            Refusal::over_rate(limit::PUBLISHES_PER_SECOND, wait_ms, text)
        })
    }

    /// Sends a publish to the home of its channel.
    ///
    /// # Errors
    /// `OVERLOADED` where there is no room on the way; nobody is answered then.
    pub(crate) fn publish_at_home(
        &mut self,
        cx: &mut Context,
        message: NewMessage,
        reply_to: ReplyTo,
    ) -> Result<(), Refusal> {
        let home = cx.home_shard(&message.channel);
        if cx.is_way_full(home) {
            return Err(no_room());
        }
        let publish = mail::Publish { reply_to, message };
        cx.post_home(home, ToHome::Publish(Box::new(publish)));
        Ok(())
    }
}

/// The header `Idempotency-Key`, where there is one.
pub(super) fn idempotency_key(request: &Request<'_>) -> Result<Option<String>, Refusal> {
    let Some(value) = request.header("idempotency-key") else { return Ok(None) };
    let key = String::from_utf8_lossy(value);
    publish::check_key("Idempotency-Key", &key)?;
    Ok(Some(key.into_owned()))
}

/// A publish on its way to the home of its channel.
pub(crate) fn new_message(
    channel: ChannelKey,
    publish: &Publish<'_>,
    client_id: Option<&str>,
    key: Option<&str>,
) -> NewMessage {
    NewMessage {
        channel,
        event_type: publish.event_type.as_ref().into(),
        client_id: client_id.map(Into::into),
        content: publish.content.into(),
        key: key.map(Into::into),
    }
}
