//! Publishing at a channel's home: it alone gives offsets, so all subscribers see one order.
//!
//! Invariant: a message that got its offset is posted to every shard with subscribers as soon as the
//! log has it, or at once where there is no log. Whether they all have room is asked first.

use pushflo_protocol::time::Month;
use pushflo_protocol::{ErrorCode, MessageId, Offset, Parts, Receipt, Record, Refusal};

use super::Home;
use super::channel::lost_channel;
use super::idempotency::{Asked, Keyed, WINDOW_MS};
use super::logging::LoggedMessage;
use crate::accounts::Taken;
use crate::accounts::plan::limit;
use crate::context::Context;
use crate::ids::{ChannelKey, HomeKey};
use crate::mail::{
    Answer, BatchMessage, BatchResult, BatchResults, Message, NewMessage, PublishBatch, ReplyTo,
    ToEdge, no_room, not_now,
};

/// A message that got its offset.
struct Given {
    home: HomeKey,
    record: Record,
    /// It is to be logged before it is sent.
    is_logged: bool,
}

impl Home {
    /// Gives a message its offset, sends it to every shard with subscribers and answers the
    /// publisher. Where a shard with subscribers has no room, or a limit is reached, the publisher is
    /// refused and the message is sent to nobody.
    pub(super) fn publish(&mut self, cx: &mut Context, message: NewMessage, reply_to: ReplyTo) {
        cx.charge(1);
        let NewMessage { ref channel, parts, key } = message;
        let keyed = match key.map(|key| self.take_key(cx, channel, &key, &parts, reply_to)) {
            None => None,
            Some(Ok(Asked::New(keyed))) => Some(keyed),
            Some(Ok(Asked::Known(receipt))) => {
                return self.publish_done(cx, reply_to, Ok(receipt));
            }
            Some(Ok(Asked::Waits)) => return,
            Some(Err(refusal)) => return self.publish_done(cx, reply_to, Err(refusal)),
        };
        match self.give_offset(cx, channel, parts) {
            Ok(Given { home, record, is_logged: true }) => {
                let month = cx.month();
                let logged = LoggedMessage {
                    home,
                    app: channel.app,
                    record,
                    month,
                    reply_to: Some(reply_to),
                    keyed,
                };
                self.log_message(cx, logged);
            }
            Ok(Given { home, record, .. }) => {
                self.deliver(cx, home, record, Some(reply_to), keyed);
            }
            Err(refusal) => {
                self.publish_failed(cx, Some(reply_to), keyed, &refusal);
                // What was made for it alone goes again.
                if let Some(&home) = self.by_name.get(channel) {
                    self.uncount_if_unused(cx, home);
                    self.forget_if_untouched(cx, home);
                }
            }
        }
    }

    fn take_key(
        &mut self,
        cx: &mut Context,
        channel: &ChannelKey,
        key: &str,
        parts: &Parts,
        reply_to: ReplyTo,
    ) -> Result<Asked, Refusal> {
        let home = self.home(cx, channel)?;
        let parts = (parts.event_type(), parts.client_id(), parts.content());
        let now_ms = cx.now.elapsed_ms;
        let asked = self.idempotency.begin(channel.app, home, key, parts, now_ms, reply_to);
        if asked.is_err() {
            self.forget_if_untouched(cx, home);
        } else if let Some(home) = self.channels.get_mut(home) {
            home.keyed_until_ms = now_ms + WINDOW_MS;
        }
        asked
    }

    fn give_offset(
        &mut self,
        cx: &mut Context,
        channel: &ChannelKey,
        parts: Parts,
    ) -> Result<Given, Refusal> {
        let key = self.home(cx, channel)?;
        self.count_channel(cx, key)?;
        let (now_ms, month) = (cx.now.unix_ms, cx.month());
        let random = cx.random.u128(..);
        let home = self.channels.get(key).ok_or_else(|| lost_channel(cx))?;
        let is_logged = home.log.is_some();
        if is_logged {
            self.check_log(channel.app)?;
        }
        if home.tails.iter().any(|audience| cx.is_way_full(audience.shard)) {
            return Err(no_room());
        }
        let app = cx.directory.require(channel.app)?;
        let most = app.plan.messages_per_month_max;
        match app.usage.take_message(month, most) {
            Taken::Yes => {}
            Taken::Ask | Taken::NotNow => return Err(not_now(limit::MESSAGES_PER_MONTH)),
            Taken::No => {
                let wait_s = month.end_ms.saturating_sub(cx.now.steady_ms) / 1000 + 1;
                let text = format!(
                    "the app has published {most} messages this month, as many as its plan has"
                );
                let (code, wait_s) =
                    (ErrorCode::QuotaExceeded, u32::try_from(wait_s).unwrap_or(u32::MAX));
                return Err(Refusal::limit(code, limit::MESSAGES_PER_MONTH, wait_s, text));
            }
        }
        let home = self.channels.get_mut(key).ok_or_else(|| lost_channel(cx))?;
        let (mut prev, mut offset) = (home.given, home.next);
        match home.log.and_then(|log| log.stream) {
            // The stream gives them.
            Some(_) => (prev, offset) = (Offset(0), Offset(0)),
            None => (home.given, home.next) = (offset, offset.next()),
        }
        home.last_ms = home.last_ms.max(now_ms);
        let timestamp_ms = home.last_ms;
        let id = MessageId::new(timestamp_ms, random);
        let record = Record { id, offset, prev, timestamp_ms, parts };
        Ok(Given { home: key, record, is_logged })
    }

    /// A message that was counted is not published after all.
    pub(super) fn return_message(&mut self, cx: &mut Context, key: HomeKey, month: Month) {
        let app = self.channels.get(key).and_then(|home| cx.directory.app(home.channel.app));
        if let Some(app) = app {
            app.usage.return_message(month);
        }
    }

    /// Sends a message to every shard with subscribers and answers its publisher.
    pub(super) fn deliver(
        &mut self,
        cx: &mut Context,
        key: HomeKey,
        record: Record,
        reply_to: Option<ReplyTo>,
        keyed: Option<Box<Keyed>>,
    ) {
        let Some(home) = self.channels.get_mut(key) else {
            let refusal = cx.lost("a message of a channel that is not there");
            return self.publish_failed(cx, reply_to, keyed, &refusal);
        };
        home.head.offset = record.offset;
        home.messages += 1;
        let receipt = home.receipt(&record, home.subscribers());
        let app = cx.directory.app(home.channel.app).filter(|_| !home.is_closed());
        let retention = app.map(|app| app.plan.retention);
        for (shard, tail) in home.audiences() {
            let (epoch, record) = (receipt.epoch, record.clone());
            let message = Message { tail, epoch, record };
            cx.post_edge(shard, ToEdge::Message(message));
        }
        if let Some(retention) = retention {
            self.recent.append(key, record, &retention);
        }
        cx.metrics().publishes_total.increment();
        if let Some(keyed) = keyed {
            for waiting in self.idempotency.finish(&keyed, receipt) {
                self.publish_done(cx, waiting, Ok(receipt));
            }
        }
        if let Some(reply_to) = reply_to {
            self.publish_done(cx, reply_to, Ok(receipt));
        }
    }

    /// A publish failed: its key is free again, and whoever waited for it failed too.
    pub(super) fn publish_failed(
        &mut self,
        cx: &mut Context,
        reply_to: Option<ReplyTo>,
        keyed: Option<Box<Keyed>>,
        refusal: &Refusal,
    ) {
        let waiting = keyed.map(|keyed| self.idempotency.abandon(&keyed)).unwrap_or_default();
        for reply_to in reply_to.into_iter().chain(waiting) {
            self.publish_done(cx, reply_to, Err(refusal.clone()));
        }
    }

    /// Tells a publisher what became of its message.
    pub(super) fn publish_done(
        &mut self,
        cx: &mut Context,
        reply_to: ReplyTo,
        result: Result<Receipt, Refusal>,
    ) {
        match reply_to {
            ReplyTo::Request(request) => cx.answer(request, result.map(Answer::Published)),
            ReplyTo::Batch { shard, batch, position } => {
                // All results of the call go back together.
                let result = BatchResult { position, result };
                match self.batch_results.last_mut() {
                    Some((s, results)) if *s == shard && results.batch == batch => {
                        results.results.push(result);
                    }
                    _ => {
                        let results = BatchResults { batch, results: vec![result] };
                        self.batch_results.push((shard, results));
                    }
                }
            }
        }
    }

    /// Sends the results of messages of batches. Returns whether there were any.
    pub(crate) fn send_batch_results(&mut self, cx: &mut Context) -> bool {
        let is_any = !self.batch_results.is_empty();
        for (shard, results) in self.batch_results.drain(..) {
            cx.post_edge(shard, ToEdge::BatchResults(Box::new(results)));
        }
        is_any
    }

    pub(super) fn publish_batch(&mut self, cx: &mut Context, request: PublishBatch) {
        let PublishBatch { shard, batch, messages } = request;
        for BatchMessage { position, message } in messages {
            self.publish(cx, message, ReplyTo::Batch { shard, batch, position });
        }
    }
}
