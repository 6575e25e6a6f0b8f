//! `POST /api/v1/publish` and `POST /api/v1/channels/:slug/messages`, and what all ways to publish
//! share.

use std::borrow::Cow;
use std::sync::Arc;

use pushflo_protocol::http::Request;
use pushflo_protocol::publish::{self, Publish};
use pushflo_protocol::{ChannelSlug, Refusal};

use crate::accounts::plan::limit;
use crate::accounts::{App, Role};
use crate::edge::Answering;
use crate::ids::{AppId, ChannelKey, RequestId};
use crate::shard::{
    Draft, Envelope, NewMessage, PublishRequest, ReplyTo, Shard, no_room, over_rate,
};

impl Shard {
    pub(super) fn publish(
        &mut self,
        id: RequestId,
        request: &Request<'_>,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize(id, request, Role::Secret)?.app;
        let publish = Publish::parse(&request.body, self.payload_bytes_max(app.id))?;
        self.publish_one(id, request, &app, publish, 200)
    }

    pub(super) fn publish_message(
        &mut self,
        id: RequestId,
        request: &Request<'_>,
        slug: &str,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize(id, request, Role::Secret)?.app;
        let (slug, most) = (ChannelSlug::parse(slug)?, self.payload_bytes_max(app.id));
        let publish = Publish::parse_message(slug, &request.body, most)?;
        self.publish_one(id, request, &app, publish, 201)
    }

    fn publish_one(
        &mut self,
        id: RequestId,
        request: &Request<'_>,
        app: &Arc<App>,
        publish: Publish<'_>,
        status: u16,
    ) -> Result<Answering, Refusal> {
        let key = idempotency_key(request)?;
        self.take_publish(app)?;
        let channel = ChannelKey { app: app.id, slug: publish.channel.clone() };
        let draft = draft(&publish, key.as_deref());
        self.publish_at_home(channel, draft, ReplyTo::Request { request: id, status })?;
        Ok(Answering::Later)
    }

    /// The largest content of a message of an app.
    pub(crate) fn payload_bytes_max(&self, app: AppId) -> usize {
        let of_plan = self.directory.app(app).map_or(0, |app| app.plan.payload_bytes_max);
        self.settings.limits.payload_bytes_max.min(usize::try_from(of_plan).unwrap_or(usize::MAX))
    }

    /// Counts a publish against the rate of the app's plan.
    ///
    /// # Errors
    /// `RATE_LIMITED` with the time after which to try again.
    pub(crate) fn take_publish(&self, app: &App) -> Result<(), Refusal> {
        let most = app.plan.publishes_per_second_max;
        app.usage.take_publish(self.now.elapsed_ms, most).map_err(|wait_ms| {
            let text = format!("the app may publish {most} messages a second");
            over_rate(limit::PUBLISHES_PER_SECOND, wait_ms, text)
        })
    }

    /// Publishes here, or hands over to the channel's home shard.
    ///
    /// # Errors
    /// `OVERLOADED` where there is no room on the way; nobody is answered then.
    pub(crate) fn publish_at_home(
        &mut self,
        channel: ChannelKey,
        draft: Draft<'_>,
        reply_to: ReplyTo,
    ) -> Result<(), Refusal> {
        let home = self.home_shard(&channel);
        if home == self.id {
            self.home_publish(&channel, draft, reply_to);
            return Ok(());
        }
        if self.is_way_full(home) {
            return Err(no_room());
        }
        let message = new_message(channel, draft);
        let request = PublishRequest { reply_to, message };
        self.post(home, Envelope::Publish(Box::new(request)));
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

/// A publish as the home shard takes it; `key` is the request's idempotency key, over which the
/// publish's own wins.
pub(super) fn draft<'a>(publish: &'a Publish<'_>, key: Option<&'a str>) -> Draft<'a> {
    Draft {
        event_type: &publish.event_type,
        client_id: publish.client_id.as_deref(),
        content: publish.content,
        key: publish.key.as_ref().map(Cow::as_ref).or(key),
    }
}

/// A publish on its way to another shard.
pub(super) fn new_message(channel: ChannelKey, draft: Draft<'_>) -> NewMessage {
    NewMessage {
        channel,
        event_type: draft.event_type.into(),
        client_id: draft.client_id.map(Into::into),
        content: draft.content.into(),
        key: draft.key.map(Into::into),
    }
}
