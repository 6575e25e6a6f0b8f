//! Channels whose home is this shard: it alone gives their offsets, so all subscribers see one
//! order.
//!
//! Invariant: a message that got its offset is posted to every shard with subscribers as soon as the
//! log has it, or at once where there is no log. Whether they all have room is asked first.

use bytes::Bytes;
use pushflo_protocol::command::Start;
use pushflo_protocol::event::Recovered;
use pushflo_protocol::message::{Message, MessageId, Parts};
use pushflo_protocol::{Epoch, ErrorCode, Offset, Refusal, StreamPosition};
use smallvec::SmallVec;

use super::Shard;
use super::envelope::{
    Asker, BatchRequest, ChannelKey, Envelope, NewMessage, PublishRequest, ReplyTo, RequestId,
    Subscribed,
};
use super::id::{HomeKey, ShardId, TailKey};
use super::logging::{LoggedMessage, Missed};
use crate::history::log::{LoadedChannel, LogId, PageCall, ReadFrom};
use crate::history::{PageQuery, page_body};

/// A channel at its home.
#[derive(Debug)]
pub(super) struct HomeChannel {
    pub(super) channel: ChannelKey,
    /// The last message that was sent to subscribers.
    pub(super) head: StreamPosition,
    /// The last offset given; that message may still be on its way to the log.
    pub(super) given: Offset,
    /// The next offset. Behind a leap it is not the one after `given`.
    pub(super) next: Offset,
    /// The time of the newest message; a clock that is set back does not show.
    last_ms: u64,
    /// Its place in the log, if it has one.
    pub(super) log: Option<HomeLog>,
    /// Reads of the log under way.
    pub(super) reads: u32,
    /// The tails that get its messages.
    tails: SmallVec<[Audience; 2]>,
}

/// A channel's place in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct HomeLog {
    pub(super) id: LogId,
    /// Whether the log is known to know the channel.
    pub(super) is_known: bool,
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
            Ok((home, prev, message)) if self.has_log() => {
                self.log_message(LoggedMessage { home, prev, message, reply_to });
            }
            Ok((home, _, message)) => self.deliver(home, message, reply_to),
            Err(refusal) => self.publish_done(reply_to, Err(refusal)),
        }
    }

    fn give_offset(
        &mut self,
        channel: &ChannelKey,
        draft: Draft<'_>,
    ) -> Result<(HomeKey, Offset, Message), Refusal> {
        self.check_log()?;
        let key = self.home(channel)?;
        let now_ms = self.now.unix_ms;
        let random = self.random.u128(..);
        let home = self.homes.get(key).ok_or_else(no_room)?;
        if home.tails.iter().any(|audience| self.is_way_full(audience.shard)) {
            return Err(no_room());
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
        Ok((key, prev, message))
    }

    /// Sends a message to every shard with subscribers and answers its publisher.
    pub(super) fn deliver(&mut self, key: HomeKey, message: Message, reply_to: ReplyTo) {
        let Some(home) = self.homes.get_mut(key) else { return };
        home.head.offset = message.offset;
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
        self.recent.append(key, message);
        self.metrics().publishes_total.increment();
        self.publish_done(reply_to, Ok(result.into()));
    }

    /// Tells a publisher what became of its message: the result as JSON, or why not.
    pub(super) fn publish_done(&mut self, reply_to: ReplyTo, result: Result<Bytes, Refusal>) {
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
    pub(super) fn home_page(&mut self, request: RequestId, channel: ChannelKey, query: PageQuery) {
        let key = self.home_of.get(&channel).copied();
        let home = key.and_then(|key| self.homes.get(key));
        if let Some(log) = home.and_then(|home| home.log) {
            self.ask_log_page(PageCall { request, channel, log: log.id, query });
            return;
        }
        let page = key.map_or_else(Default::default, |key| self.recent.page(key, &query));
        let body = page_body(&channel, &query, &page.0, page.1);
        self.post(request.shard, Envelope::Answer(Box::new((request, Ok((200, body))))));
    }

    pub(super) fn home_subscribe(&mut self, asker: Asker, channel: &ChannelKey, start: Start) {
        let key = match self.home(channel) {
            Ok(key) => key,
            Err(refusal) => return self.subscribe_done(asker, Err(refusal)),
        };
        let Some(home) = self.homes.get(key) else { return };
        let (head, log) = (home.head, home.log);
        let since_ms = self.now.unix_ms.saturating_sub(self.settings.retention.age_ms_max);
        let missed = match start {
            Start::Live => None,
            Start::Recover(None) => Some(None),
            Start::Recover(Some(position)) if position.epoch != head.epoch => Some(None),
            Start::Recover(Some(position)) if position.offset > head.offset => Some(None),
            Start::Recover(Some(position)) => {
                match (self.recent.after(key, position.offset, head.offset), log) {
                    (None, Some(log)) => {
                        let from = ReadFrom::After(position.offset);
                        return self.ask_log(asker, key, log.id, from);
                    }
                    (missed, _) => Some(missed),
                }
            }
            Start::Since(since) => match log {
                Some(log) if !self.recent.reaches(key, |m| m.timestamp_ms < since) => {
                    let (since_ms, messages_max) = (since.max(since_ms), u64::MAX);
                    let from = ReadFrom::Recent { since_ms, messages_max };
                    return self.ask_log(asker, key, log.id, from);
                }
                _ => Some(Some(self.recent.since(key, since))),
            },
            Start::Last(count) => match log {
                Some(log)
                    if self.recent.len(key) < count && !self.recent.reaches(key, |_| false) =>
                {
                    let from = ReadFrom::Recent { since_ms, messages_max: count };
                    return self.ask_log(asker, key, log.id, from);
                }
                _ => Some(Some(self.recent.last(key, count))),
            },
        };
        let missed = missed
            .map(|missed| missed.map(|frames| Missed { messages: frames.len() as u64, frames }));
        self.join(asker, key, missed);
    }

    /// Makes a subscriber one, with what it missed: `None` if it asked for nothing, `Some(None)` if
    /// what it asked for is not kept. From here on it gets what is sent.
    pub(super) fn join(&mut self, asker: Asker, key: HomeKey, missed: Option<Option<Missed>>) {
        let Asker { shard, tail, .. } = asker;
        let Some(home) = self.homes.get_mut(key) else { return };
        match home.tails.iter_mut().find(|a| a.shard == shard && a.tail == tail) {
            Some(audience) => audience.subscribers += 1,
            None => home.tails.push(Audience { shard, tail, subscribers: 1 }),
        }
        let head = home.head;
        match &missed {
            Some(Some(_)) => self.metrics().recoveries_total.increment(),
            Some(None) => self.metrics().recovery_gaps_total.increment(),
            None => {}
        }
        let past = missed.as_ref().map(|missed| Recovered {
            recovered: missed.is_some(),
            replayed: missed.as_ref().map_or(0, |missed| missed.messages),
        });
        let missed = missed.flatten().map(|missed| missed.frames).unwrap_or_default();
        self.subscribe_done(asker, Ok(Box::new(Subscribed { home: key, head, past, missed })));
    }

    fn subscribe_done(&mut self, asker: Asker, outcome: Result<Box<Subscribed>, Refusal>) {
        let Asker { shard, tail, subscription } = asker;
        self.post(shard, Envelope::Subscribed { subscription, tail, outcome });
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
        self.forget_if_untouched(key);
    }

    /// A channel that never had a message and has no subscribers leaves no trace: if it is made
    /// again it gets the same epoch, so nobody can tell.
    pub(super) fn forget_if_untouched(&mut self, key: HomeKey) {
        let Some(home) = self.homes.get(key) else { return };
        if home.tails.is_empty() && home.next == Offset(1) && home.reads == 0 {
            self.home_of.remove(&home.channel);
            self.homes.remove(key);
        }
    }

    /// Takes over a channel from the log, before the shard runs.
    pub fn load(&mut self, loaded: LoadedChannel) {
        let LoadedChannel { channel, log, epoch, head, next, last_ms, .. } = loaded;
        let key = self.homes.insert(HomeChannel {
            channel: channel.clone(),
            head: StreamPosition { epoch, offset: head },
            given: head,
            next,
            last_ms,
            log: Some(HomeLog { id: log, is_known: true }),
            reads: 0,
            tails: SmallVec::new(),
        });
        self.recent.begin_behind(key);
        self.home_of.insert(channel, key);
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
        let epoch = Epoch(self.shared.epochs.hash(channel));
        let log = self.has_log().then(|| HomeLog { id: self.shared.new_log(), is_known: false });
        let key = self.homes.insert(HomeChannel {
            channel: channel.clone(),
            head: StreamPosition { epoch, offset: Offset(0) },
            given: Offset(0),
            next: Offset(1),
            last_ms: 0,
            log,
            reads: 0,
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
