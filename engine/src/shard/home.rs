//! Channels whose home is this shard: it alone gives their offsets, so all subscribers see one
//! order.
//!
//! Invariant: a message that got its offset was posted to every shard with subscribers. Whether
//! they all have room is asked first.

use std::fmt::Write as _;

use bytes::Bytes;
use pushflo_protocol::command::Start;
use pushflo_protocol::event::Recovered;
use pushflo_protocol::message::{Message, MessageId, Parts};
use pushflo_protocol::{Epoch, ErrorCode, Offset, Refusal, StreamPosition};
use smallvec::SmallVec;

use super::Shard;
use super::envelope::{
    BatchRequest, ChannelKey, Envelope, NewMessage, Outcome, PublishRequest, ReplyTo, Subscribed,
};
use super::id::{HomeKey, ShardId, TailKey};
use crate::history::PageQuery;

/// A channel at its home.
#[derive(Debug)]
pub(super) struct HomeChannel {
    channel: ChannelKey,
    head: StreamPosition,
    /// The time of the newest message; a clock that is set back does not show.
    last_ms: u64,
    /// The tails that get its messages.
    tails: SmallVec<[Audience; 2]>,
}

/// The subscribers of a channel on one shard.
#[derive(Debug)]
struct Audience {
    shard: ShardId,
    tail: TailKey,
    subscribers: u32,
}

/// What a message is made from, before it has an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft<'a> {
    /// The event type.
    pub(crate) event_type: &'a str,
    /// The sender.
    pub(crate) client_id: Option<&'a str>,
    /// The content.
    pub(crate) content: &'a str,
}

impl Shard {
    /// Gives a message its offset, sends it to every shard with subscribers and answers the
    /// publisher. Where a shard with subscribers has no room, or there are too many channels, the
    /// publisher is refused and the message is sent to nobody.
    pub(crate) fn home_publish(
        &mut self,
        channel: &ChannelKey,
        draft: Draft<'_>,
        reply_to: ReplyTo,
    ) {
        match self.give_offset(channel, draft) {
            Ok((home, message)) => self.deliver(home, message, reply_to),
            Err(refusal) => self.publish_done(reply_to, Err(refusal)),
        }
    }

    fn give_offset(
        &mut self,
        channel: &ChannelKey,
        draft: Draft<'_>,
    ) -> Result<(HomeKey, Message), Refusal> {
        let key = self.home(channel)?;
        let now_ms = self.now.unix_ms;
        let random = self.random.u128(..);
        let home = self.homes.get(key).ok_or_else(no_room)?;
        if home.tails.iter().any(|audience| self.is_way_full(audience.shard)) {
            return Err(no_room());
        }
        let home = self.homes.get_mut(key).ok_or_else(no_room)?;
        home.head.offset = home.head.offset.next();
        home.last_ms = home.last_ms.max(now_ms);
        let message = Message::encode(Parts {
            channel: &channel.slug,
            id: MessageId::new(home.last_ms, random),
            offset: home.head.offset,
            prev: None,
            timestamp_ms: home.last_ms,
            event_type: draft.event_type,
            client_id: draft.client_id,
            content: draft.content,
        });
        Ok((key, message))
    }

    /// Sends a message to every shard with subscribers and answers its publisher.
    fn deliver(&mut self, key: HomeKey, message: Message, reply_to: ReplyTo) {
        let Some(home) = self.homes.get(key) else { return };
        let head = home.head;
        let mut delivered = 0;
        let mut posts: SmallVec<[(ShardId, TailKey); 4]> = SmallVec::new();
        for audience in &home.tails {
            delivered += u64::from(audience.subscribers);
            posts.push((audience.shard, audience.tail));
        }
        let mut result = br#"{"success":true,"data":"#.to_vec();
        message.push_publish_result(&home.channel.slug, head.epoch, delivered, &mut result);
        result.push(b'}');
        for (shard, tail) in posts {
            let frame = message.frame.clone();
            if shard == self.id {
                self.tail_push(tail, frame, head);
            } else {
                self.post(shard, Envelope::Message { tail, frame, head });
            }
        }
        self.history.append(key, message);
        self.metrics().publishes_total.increment();
        self.publish_done(reply_to, Ok(result.into()));
    }

    /// Tells a publisher what became of its message: the result as JSON, or why not.
    fn publish_done(&mut self, reply_to: ReplyTo, result: Result<Bytes, Refusal>) {
        match reply_to {
            ReplyTo::Request { request, status } => {
                let outcome = result.map(|body| (status, body));
                if request.shard == self.id {
                    self.answer(request.connection, request.sequence, outcome);
                } else {
                    self.post(request.shard, Envelope::Answer(Box::new((request, outcome))));
                }
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
        };
        self.home_publish(&message.channel, draft, reply_to);
    }

    /// A page of history as the JSON of the answer. A channel that nobody used yet has none, which
    /// is an answer and not an error.
    pub(super) fn home_page(&self, channel: &ChannelKey, query: &PageQuery) -> Outcome {
        let key = self.home_of.get(channel);
        let (items, total) =
            key.map_or_else(Default::default, |key| self.history.page(*key, query));
        let mut body = br#"{"success":true,"data":{"items":["#.to_vec();
        for (index, message) in items.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            message.push_history_item(&channel.slug, &mut body);
        }
        let mut end = String::new();
        let PageQuery { page, page_size, .. } = query;
        let pages = total.div_ceil(*page_size);
        let _ = write!(
            end,
            r#"],"pagination":{{"page":{page},"pageSize":{page_size},"total":{total},"totalPages":{pages}}}}}}}"#
        );
        body.extend_from_slice(end.as_bytes());
        Ok((200, body.into()))
    }

    pub(super) fn home_subscribe(
        &mut self,
        shard: ShardId,
        tail: TailKey,
        channel: ChannelKey,
        start: Start,
    ) -> Result<Box<Subscribed>, Refusal> {
        let key = self.home(&channel)?;
        let Some(home) = self.homes.get_mut(key) else { return Err(no_room()) };
        match home.tails.iter_mut().find(|a| a.shard == shard && a.tail == tail) {
            Some(audience) => audience.subscribers += 1,
            None => home.tails.push(Audience { shard, tail, subscribers: 1 }),
        }
        let head = home.head;
        let missed = match start {
            Start::Live => None,
            Start::Recover(None) => Some(None),
            Start::Recover(Some(position)) if position.epoch != head.epoch => Some(None),
            Start::Recover(Some(position)) => {
                Some(self.history.after(key, position.offset, head.offset))
            }
            Start::Since(unix_ms) => Some(Some(self.history.since(key, unix_ms))),
            Start::Last(count) => Some(Some(self.history.last(key, count))),
        };
        match &missed {
            Some(Some(_)) => self.metrics().recoveries_total.increment(),
            Some(None) => self.metrics().recovery_gaps_total.increment(),
            None => {}
        }
        let past = missed.as_ref().map(|missed| Recovered {
            recovered: missed.is_some(),
            replayed: missed.as_ref().map_or(0, |missed| missed.len() as u64),
        });
        let missed = missed.flatten().unwrap_or_default();
        Ok(Box::new(Subscribed { home: key, head, past, missed }))
    }

    pub(super) fn home_unsubscribe(&mut self, shard: ShardId, tail: TailKey, key: HomeKey) {
        let Some(home) = self.homes.get_mut(key) else { return };
        let Some(index) = home.tails.iter().position(|a| a.shard == shard && a.tail == tail) else {
            return;
        };
        if let Some(audience) = home.tails.get_mut(index) {
            audience.subscribers = audience.subscribers.saturating_sub(1);
            if audience.subscribers == 0 {
                home.tails.swap_remove(index);
            }
        }
        // A channel that never had a message and has no subscribers leaves no trace: if it is made
        // again it gets the same epoch, so nobody can tell.
        if home.tails.is_empty() && home.head.offset == Offset(0) {
            self.home_of.remove(&home.channel);
            self.homes.remove(key);
        }
    }

    /// The channel, made if it is not there.
    fn home(&mut self, channel: &ChannelKey) -> Result<HomeKey, Refusal> {
        if let Some(&key) = self.home_of.get(channel) {
            return Ok(key);
        }
        let channels_max = self.settings.limits.channels_per_shard_max;
        if self.homes.len() >= channels_max {
            let text =
                format!("there are {channels_max} channels already, the most this shard takes");
            return Err(Refusal::new(ErrorCode::QuotaExceeded, text));
        }
        let epoch = Epoch(self.shared.placement.hash((channel, self.shared.incarnation)));
        let key = self.homes.insert(HomeChannel {
            channel: channel.clone(),
            head: StreamPosition { epoch, offset: Offset(0) },
            last_ms: 0,
            tails: SmallVec::new(),
        });
        self.home_of.insert(channel.clone(), key);
        Ok(key)
    }
}

/// The refusal of a publish that finds no room.
pub(crate) fn no_room() -> Refusal {
    let text = "the server is full for the moment, nothing was published; try again shortly";
    Refusal::new(ErrorCode::Overloaded, text)
}
