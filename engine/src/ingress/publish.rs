//! `POST /api/v1/publish` and `POST /api/v1/channels/:slug/messages`.

use pushflo_protocol::http::Request;
use pushflo_protocol::publish::Publish;
use pushflo_protocol::{ChannelSlug, Refusal};

use crate::auth::{AppId, Role};
use crate::connection::Answering;
use crate::shard::{
    ChannelKey, Draft, Envelope, NewMessage, PublishRequest, ReplyTo, RequestId, Shard, no_room,
};

impl Shard {
    pub(super) fn publish(
        &mut self,
        id: RequestId,
        request: &Request<'_>,
    ) -> Result<Answering, Refusal> {
        let access = self.authorize(request, Role::Secret)?;
        let publish = Publish::parse(&request.body, self.settings.limits.payload_bytes_max)?;
        self.send_home(id, access.app, publish, 200)
    }

    pub(super) fn publish_message(
        &mut self,
        id: RequestId,
        request: &Request<'_>,
        slug: &str,
    ) -> Result<Answering, Refusal> {
        let access = self.authorize(request, Role::Secret)?;
        let most = self.settings.limits.payload_bytes_max;
        let publish = Publish::parse_message(ChannelSlug::parse(slug)?, &request.body, most)?;
        self.send_home(id, access.app, publish, 201)
    }

    /// Publishes here, or hands over to the channel's home shard.
    fn send_home(
        &mut self,
        id: RequestId,
        app: AppId,
        publish: Publish<'_>,
        status: u16,
    ) -> Result<Answering, Refusal> {
        let channel = ChannelKey { app, slug: publish.channel.clone() };
        let reply_to = ReplyTo::Request { request: id, status };
        let home = self.home_shard(&channel);
        if home == self.id {
            self.home_publish(&channel, draft(&publish), reply_to);
            return Ok(Answering::Later);
        }
        if self.is_way_full(home) {
            return Err(no_room());
        }
        let message = new_message(channel, publish);
        let request = PublishRequest { reply_to, message };
        self.post(home, Envelope::Publish(Box::new(request)));
        Ok(Answering::Later)
    }
}

/// A publish to a channel whose home is here.
pub(super) fn draft<'a>(publish: &'a Publish<'_>) -> Draft<'a> {
    Draft {
        event_type: &publish.event_type,
        client_id: publish.client_id.as_deref(),
        content: publish.content,
    }
}

/// A publish on its way to another shard.
pub(super) fn new_message(channel: ChannelKey, publish: Publish<'_>) -> NewMessage {
    NewMessage {
        channel,
        event_type: publish.event_type.into(),
        client_id: publish.client_id.map(Into::into),
        content: publish.content.into(),
    }
}
