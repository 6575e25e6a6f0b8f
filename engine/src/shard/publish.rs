//! Publishing at a channel's home: it alone gives offsets, so all subscribers see one order.
//!
//! Invariant: a message that got its offset is posted to every shard with subscribers as soon as the
//! log has it, or at once where there is no log. Whether they all have room is asked first.

use bytes::Bytes;
use pushflo_protocol::message::{Message, MessageId, Parts};
use pushflo_protocol::time::Month;
use pushflo_protocol::{ErrorCode, Offset, Refusal};
use smallvec::SmallVec;

use super::Shard;
use super::envelope::{BatchRequest, Envelope, NewMessage, Outcome, PublishRequest, ReplyTo};
use super::idempotency::{Asked, Keyed, WINDOW_MS};
use super::logging::LoggedMessage;
use crate::accounts::plan::limit;
use crate::ids::{ChannelKey, HomeKey, RequestId, ShardId, TailKey};

/// What a message is made from, before it has an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft<'a> {
    /// The event type.
    pub(crate) event_type: &'a str,
    /// The sender.
    pub(crate) client_id: Option<&'a str>,
    /// The content.
    pub(crate) content: &'a str,
    /// The idempotency key.
    pub(crate) key: Option<&'a str>,
}

/// A message that got its offset.
struct Given {
    home: HomeKey,
    prev: Offset,
    message: Message,
    /// It is to be logged before it is sent.
    is_logged: bool,
}

impl Shard {
    /// Gives a message its offset, sends it to every shard with subscribers and answers the
    /// publisher. Where a shard with subscribers has no room, or a limit is reached, the publisher is
    /// refused and the message is sent to nobody.
    pub(crate) fn home_publish(
        &mut self,
        channel: &ChannelKey,
        draft: Draft<'_>,
        reply_to: ReplyTo,
    ) {
        let keyed = match draft.key.map(|key| self.take_key(channel, key, &draft, reply_to)) {
            None => None,
            Some(Ok(Asked::New(keyed))) => Some(keyed),
            Some(Ok(Asked::Known(answer))) => return self.publish_done(reply_to, Ok(answer)),
            Some(Ok(Asked::Waits)) => return,
            Some(Err(refusal)) => return self.publish_done(reply_to, Err(refusal)),
        };
        match self.give_offset(channel, draft) {
            Ok(Given { home, prev, message, is_logged: true }) => {
                let month = self.month();
                self.log_message(LoggedMessage { home, prev, message, month, reply_to, keyed });
            }
            Ok(Given { home, message, .. }) => self.deliver(home, message, reply_to, keyed),
            Err(refusal) => {
                self.publish_failed(reply_to, keyed, &refusal);
                // What was made for it alone goes again.
                if let Some(&home) = self.home_of.get(channel) {
                    self.uncount_if_unused(home);
                    self.forget_if_untouched(home);
                }
            }
        }
    }

    fn take_key(
        &mut self,
        channel: &ChannelKey,
        key: &str,
        draft: &Draft<'_>,
        reply_to: ReplyTo,
    ) -> Result<Asked, Refusal> {
        let home = self.home(channel)?;
        let parts = (draft.event_type, draft.client_id, draft.content);
        let now_ms = self.now.elapsed_ms;
        let asked = self.idempotency.begin(channel.app, home, key, parts, now_ms, reply_to);
        if asked.is_err() {
            self.forget_if_untouched(home);
        } else if let Some(home) = self.homes.get_mut(home) {
            home.keyed_until_ms = now_ms + WINDOW_MS;
        }
        asked
    }

    fn give_offset(&mut self, channel: &ChannelKey, draft: Draft<'_>) -> Result<Given, Refusal> {
        let key = self.home(channel)?;
        self.count_channel(key)?;
        let (now_ms, month) = (self.now.unix_ms, self.month());
        let random = self.random.u128(..);
        let home = self.homes.get(key).ok_or_else(no_room)?;
        let is_logged = home.log.is_some();
        if is_logged {
            self.check_log()?;
        }
        if home.tails.iter().any(|audience| self.is_way_full(audience.shard)) {
            return Err(no_room());
        }
        let app = self.directory.require(channel.app)?;
        let most = app.plan.messages_per_month_max;
        if !app.usage.take_message(month, most) {
            let wait_s = month.end_ms.saturating_sub(self.now.steady_ms) / 1000 + 1;
            let text = format!(
                "the app has published {most} messages this month, as many as its plan has"
            );
            let (code, wait_s) =
                (ErrorCode::QuotaExceeded, u32::try_from(wait_s).unwrap_or(u32::MAX));
            return Err(Refusal::limit(code, limit::MESSAGES_PER_MONTH, wait_s, text));
        }
        let home = self.homes.get_mut(key).ok_or_else(no_room)?;
        let (prev, offset) = (home.given, home.next);
        home.given = offset;
        home.next = offset.next();
        home.last_ms = home.last_ms.max(now_ms);
        let message = Message::encode(Parts {
            channel: &channel.slug,
            id: MessageId::new(home.last_ms, random),
            offset,
            prev: (prev.next() != offset).then_some(prev),
            timestamp_ms: home.last_ms,
            event_type: draft.event_type,
            client_id: draft.client_id,
            content: draft.content,
        });
        Ok(Given { home: key, prev, message, is_logged })
    }

    /// A message that was counted is not published after all.
    pub(super) fn return_message(&mut self, key: HomeKey, month: Month) {
        let app = self.homes.get(key).and_then(|home| self.directory.app(home.channel.app));
        if let Some(app) = app {
            app.usage.return_message(month);
        }
    }

    /// Sends a message to every shard with subscribers and answers its publisher.
    pub(super) fn deliver(
        &mut self,
        key: HomeKey,
        message: Message,
        reply_to: ReplyTo,
        keyed: Option<Box<Keyed>>,
    ) {
        let Some(home) = self.homes.get_mut(key) else { return };
        home.head.offset = message.offset;
        home.messages += 1;
        let head = home.head;
        let posts: SmallVec<[(ShardId, TailKey); 4]> = home.audiences().collect();
        let result = home.publish_result(&message, home.subscribers());
        let app = self.directory.app(home.channel.app).filter(|_| !home.is_closed());
        let retention = app.map(|app| app.plan.retention);
        for (shard, tail) in posts {
            let frame = message.frame.clone();
            if shard == self.id {
                self.tail_push(tail, frame, head);
            } else {
                self.post(shard, Envelope::Message { tail, frame, head });
            }
        }
        if let Some(retention) = retention {
            self.recent.append(key, message, &retention);
        }
        self.metrics().publishes_total.increment();
        if let Some(keyed) = keyed {
            for waiting in self.idempotency.finish(&keyed, result.clone()) {
                self.publish_done(waiting, Ok(result.clone()));
            }
        }
        self.publish_done(reply_to, Ok(result));
    }

    /// A publish failed: its key is free again, and whoever waited for it failed too.
    pub(super) fn publish_failed(
        &mut self,
        reply_to: ReplyTo,
        keyed: Option<Box<Keyed>>,
        refusal: &Refusal,
    ) {
        let waiting = keyed.map(|keyed| self.idempotency.abandon(&keyed)).unwrap_or_default();
        for reply_to in std::iter::once(reply_to).chain(waiting) {
            self.publish_done(reply_to, Err(refusal.clone()));
        }
    }

    /// Tells a publisher what became of its message: the result as JSON, or why not.
    pub(super) fn publish_done(&mut self, reply_to: ReplyTo, result: Result<Bytes, Refusal>) {
        match reply_to {
            ReplyTo::Request { request, status } => {
                self.answer_request(request, result.map(|body| (status, body)));
            }
            ReplyTo::Client(request) => {
                // Told apart from an answer to HTTP by what the connection speaks.
                self.answer_request(request, result.map(|body| (200, body)));
            }
            ReplyTo::Batch { shard, batch, position } if shard == self.id => {
                self.batch_answer(batch, vec![(position, result)]);
            }
            ReplyTo::Batch { shard, batch, position } => {
                // All results of the turn go back in one envelope.
                match self.batch_results.last_mut() {
                    Some((s, b, results)) if *s == shard && *b == batch => {
                        results.push((position, result));
                    }
                    _ => self.batch_results.push((shard, batch, vec![(position, result)])),
                }
            }
        }
    }

    /// Answers a request, wherever it waits.
    pub(super) fn answer_request(&mut self, request: RequestId, outcome: Outcome) {
        if request.shard == self.id {
            self.answer(request.connection, request.sequence, outcome);
        } else {
            self.post(request.shard, Envelope::Answer(Box::new((request, outcome))));
        }
    }

    pub(super) fn home_publish_request(&mut self, publish: &PublishRequest) {
        self.home_publish_message(&publish.message, publish.reply_to);
    }

    pub(super) fn home_publish_batch(&mut self, request: &BatchRequest) {
        let BatchRequest { shard, batch, messages } = request;
        for (position, message) in messages {
            let reply_to = ReplyTo::Batch { shard: *shard, batch: *batch, position: *position };
            self.home_publish_message(message, reply_to);
        }
    }

    fn home_publish_message(&mut self, message: &NewMessage, reply_to: ReplyTo) {
        let draft = Draft {
            event_type: &message.event_type,
            client_id: message.client_id.as_deref(),
            content: &message.content,
            key: message.key.as_deref(),
        };
        self.home_publish(&message.channel, draft, reply_to);
    }
}

/// The refusal of a publish that finds no room.
pub(crate) fn no_room() -> Refusal {
    let text = "the server is full for the moment, nothing was published; try again shortly";
    Refusal::new(ErrorCode::Overloaded, text)
}
