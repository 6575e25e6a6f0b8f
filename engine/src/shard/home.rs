//! Channels whose home is this shard: it alone gives their offsets, so all subscribers see one
//! order.
//!
//! Invariant: a message that got its offset is posted to every shard with subscribers as soon as the
//! log has it, or at once where there is no log. Whether they all have room is asked first.

use std::sync::Arc;

use bytes::Bytes;
use pushflo_protocol::command::Start;
use pushflo_protocol::event::Recovered;
use pushflo_protocol::message::{Message, MessageId, Parts};
use pushflo_protocol::time::Month;
use pushflo_protocol::{ErrorCode, Offset, Refusal, StreamPosition};
use smallvec::SmallVec;

use super::Shard;
use super::envelope::{
    Asker, BatchRequest, ChannelKey, Envelope, NewMessage, Outcome, PublishRequest, ReplyTo,
    RequestId, Subscribed,
};
use super::id::{HomeKey, ShardId, TailKey};
use super::idempotency::{Asked, Keyed};
use super::logging::{LoggedMessage, Missed};
use super::presence::Presence;
use crate::auth::plan::{UNLIMITED, limit};
use crate::auth::{App, ChannelMeta};
use crate::connection::Client;
use crate::history::log::{LoadedChannel, LogId, PageCall, ReadFrom, StoredAnswer};
use crate::history::{Durability, PageQuery, Retention, page_body};

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
    pub(super) last_ms: u64,
    /// When it was first used, in Unix milliseconds.
    pub(super) created_ms: u64,
    /// All messages it ever had.
    pub(super) messages: u64,
    /// Its place in the log, if it has one.
    pub(super) log: Option<HomeLog>,
    /// Reads of the log under way.
    pub(super) reads: u32,
    /// The tails that get its messages.
    tails: SmallVec<[Audience; 2]>,
    /// What few channels have.
    pub(super) extra: Option<Box<Extra>>,
}

/// What few channels have.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// What the API added to it.
    pub(super) meta: Option<Arc<ChannelMeta>>,
    /// Its members, if they are known to each other.
    pub(super) presence: Option<Presence>,
    /// A change of its metadata that is being kept, or its deletion: who waits for that, and the
    /// status of the answer.
    pub(super) change: Option<(RequestId, u16)>,
    /// It is deleted and only waits for the log; nothing finds it any more.
    pub(super) is_closed: bool,
}

impl HomeChannel {
    /// Who gets its messages.
    pub(super) fn audiences(&self) -> impl Iterator<Item = (ShardId, TailKey)> {
        self.tails.iter().map(|audience| (audience.shard, audience.tail))
    }

    /// How many subscribers it has, over all shards.
    pub(super) fn subscribers(&self) -> u64 {
        self.tails.iter().map(|audience| u64::from(audience.subscribers)).sum()
    }

    pub(super) fn meta(&self) -> Option<&Arc<ChannelMeta>> {
        self.extra.as_ref()?.meta.as_ref()
    }

    pub(super) fn presence(&self) -> Option<&Presence> {
        self.extra.as_ref()?.presence.as_ref()
    }

    pub(super) fn presence_mut(&mut self) -> Option<&mut Presence> {
        self.extra.as_mut()?.presence.as_mut()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.is_closed)
    }

    /// Nobody gets its messages any more.
    pub(super) fn take_audiences(&mut self) -> impl Iterator<Item = (ShardId, TailKey)> + use<> {
        std::mem::take(&mut self.tails).into_iter().map(|audience| (audience.shard, audience.tail))
    }

    /// What the publisher of a message is answered.
    pub(super) fn publish_result(&self, message: &Message, delivered: u64) -> Bytes {
        let mut result = br#"{"success":true,"data":"#.to_vec();
        message.push_publish_result(&self.channel.slug, self.head.epoch, delivered, &mut result);
        result.push(b'}');
        result.into()
    }

    /// Whether nothing would be lost if it were made anew.
    fn is_untouched(&self) -> bool {
        self.tails.is_empty()
            && self.next == Offset(1)
            && self.reads == 0
            && self
                .extra
                .as_ref()
                .is_none_or(|extra| extra.meta.is_none() && extra.change.is_none())
    }
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
    /// The idempotency key.
    pub(crate) key: Option<&'a str>,
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
                self.log_message(LoggedMessage { home, prev, message, reply_to, keyed });
            }
            Ok(Given { home, message, .. }) => self.deliver(home, message, reply_to, keyed),
            Err(refusal) => self.publish_failed(reply_to, keyed, &refusal),
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
        self.idempotency.begin(home, key, parts, self.now.unix_ms, reply_to)
    }

    fn give_offset(&mut self, channel: &ChannelKey, draft: Draft<'_>) -> Result<Given, Refusal> {
        let key = self.home(channel)?;
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
            let wait_s = (month.end_ms - now_ms) / 1000 + 1;
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
    pub(super) fn return_message(&mut self, key: HomeKey, timestamp_ms: u64) {
        let app = self.homes.get(key).and_then(|home| self.directory.app(home.channel.app));
        if let Some(app) = app {
            app.usage.return_message(Month::of(timestamp_ms));
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

    /// A page of history as the JSON of the answer. A channel that nobody used yet has none, which
    /// is an answer and not an error.
    pub(super) fn home_page(&mut self, request: RequestId, channel: ChannelKey, query: PageQuery) {
        let app = self.directory.app(channel.app);
        let retention = app.map_or(Retention::NOTHING, |app| app.plan.retention);
        let key = self.home_of.get(&channel).copied();
        let home = key.and_then(|key| self.homes.get(key));
        if let Some(log) = home.and_then(|home| home.log) {
            self.ask_log_page(PageCall { request, channel, log: log.id, query, retention });
            return;
        }
        let since_ms = retention.since_ms(self.now.unix_ms);
        let page = key.map_or_else(Default::default, |key| self.recent.page(key, &query, since_ms));
        let body = page_body(&channel, &query, &page.0, page.1);
        self.answer_request(request, Ok((200, body)));
    }

    pub(super) fn home_subscribe(
        &mut self,
        asker: Asker,
        channel: &ChannelKey,
        start: Start,
        may_enter: bool,
        wants_presence: bool,
    ) {
        let (key, retention) = match self.enter(channel, may_enter) {
            Ok(entered) => entered,
            Err(refusal) => return self.subscribe_done(asker, Err(refusal)),
        };
        let Some(home) = self.homes.get(key) else { return };
        let (head, log) = (home.head, home.log);
        let since_ms = retention.since_ms(self.now.unix_ms);
        let missed = match start {
            Start::Live => None,
            Start::Recover(None) => Some(None),
            Start::Recover(Some(position)) if position.epoch != head.epoch => Some(None),
            Start::Recover(Some(position)) if position.offset > head.offset => Some(None),
            Start::Recover(Some(position)) => {
                let missed = self.recent.after(key, position.offset, head.offset, since_ms);
                match (missed, log) {
                    (None, Some(log)) => {
                        let from = ReadFrom::After(position.offset);
                        return self.ask_log((asker, wants_presence), key, log.id, from);
                    }
                    (missed, _) => Some(missed),
                }
            }
            Start::Since(since) => match log {
                Some(log) if !self.recent.reaches(key, |m| m.timestamp_ms < since) => {
                    let (since_ms, messages_max) = (since.max(since_ms), u64::MAX);
                    let from = ReadFrom::Recent { since_ms, messages_max };
                    return self.ask_log((asker, wants_presence), key, log.id, from);
                }
                _ => Some(Some(self.recent.since(key, since.max(since_ms)))),
            },
            Start::Last(count) => match log {
                Some(log)
                    if self.recent.len(key) < count && !self.recent.reaches(key, |_| false) =>
                {
                    let from = ReadFrom::Recent { since_ms, messages_max: count };
                    return self.ask_log((asker, wants_presence), key, log.id, from);
                }
                _ => Some(Some(self.recent.last(key, count, since_ms))),
            },
        };
        let missed = missed
            .map(|missed| missed.map(|frames| Missed { messages: frames.len() as u64, frames }));
        self.join(asker, key, missed, wants_presence);
    }

    /// The channel that somebody wants to subscribe to, and what is kept of it.
    fn enter(
        &mut self,
        channel: &ChannelKey,
        may_enter: bool,
    ) -> Result<(HomeKey, Retention), Refusal> {
        let key = self.home(channel)?;
        let meta = self.homes.get(key).and_then(HomeChannel::meta);
        if !may_enter && meta.is_some_and(|meta| meta.is_private) {
            return Err(is_private());
        }
        Ok((key, self.directory.require(channel.app)?.plan.retention))
    }

    /// Makes a subscriber one, with what it missed: `None` if it asked for nothing, `Some(None)` if
    /// what it asked for is not kept. From here on it gets what is sent.
    pub(super) fn join(
        &mut self,
        asker: Asker,
        key: HomeKey,
        missed: Option<Option<Missed>>,
        wants_presence: bool,
    ) {
        let Some(home) = self.homes.get_mut(key).filter(|home| !home.is_closed()) else {
            let refusal = Refusal::new(ErrorCode::NotFound, "the channel was deleted");
            return self.subscribe_done(asker, Err(refusal));
        };
        let (shard, tail) = (asker.shard, asker.tail);
        match home.tails.iter_mut().find(|a| a.shard == shard && a.tail == tail) {
            Some(audience) => audience.subscribers += 1,
            None => home.tails.push(Audience { shard, tail, subscribers: 1 }),
        }
        let head = home.head;
        let slug = home.channel.slug.clone();
        let (mut is_member, mut snapshot) = (false, None);
        if let Some(presence) = home.presence_mut() {
            is_member = presence.join(&asker.client);
            snapshot = wants_presence.then(|| presence.snapshot(slug.as_str()));
        }
        if is_member {
            self.presence_changed(key);
        }
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
        let presence = snapshot;
        let subscribed = Subscribed { home: key, head, past, missed, is_member, presence };
        self.subscribe_done(asker, Ok(Box::new(subscribed)));
    }

    fn subscribe_done(&mut self, asker: Asker, outcome: Result<Box<Subscribed>, Refusal>) {
        self.post(asker.shard, Envelope::Subscribed { asker, outcome });
    }

    pub(super) fn home_unsubscribe(
        &mut self,
        shard: ShardId,
        tail: TailKey,
        key: HomeKey,
        member: Option<&Client>,
    ) {
        let (now_ms, times) = (self.now.unix_ms, self.settings.presence);
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
        if let (Some(presence), Some(member)) = (home.presence_mut(), member) {
            presence.leave(member, now_ms, times);
            self.presence_changed(key);
        }
        self.forget_if_untouched(key);
    }

    /// A channel that never had a message and has no subscribers leaves no trace: if it is made
    /// again it gets the same epoch, so nobody can tell.
    pub(super) fn forget_if_untouched(&mut self, key: HomeKey) {
        if self.homes.get(key).is_some_and(|home| home.is_untouched() && !home.is_closed()) {
            self.hide(key);
            self.homes.remove(key);
        }
    }

    /// Has nothing find a channel any more.
    pub(super) fn hide(&mut self, key: HomeKey) {
        let Some(home) = self.homes.get(key) else { return };
        let ChannelKey { app, slug } = &home.channel;
        self.home_of.remove(&home.channel);
        if let Some(slugs) = self.slugs.get_mut(app) {
            slugs.remove(slug);
        }
        if let Some(app) = self.directory.app(*app) {
            app.usage.leave_channel();
        }
    }

    /// Takes over a channel from the log, before the shard runs. Its app must be known.
    pub fn load(&mut self, loaded: LoadedChannel) {
        let LoadedChannel { channel, log, epoch, head, next, last_ms, totals, created_ms } = loaded;
        if let Some(app) = self.directory.app(channel.app) {
            app.usage.take_channel(UNLIMITED);
        }
        let key = self.insert_home(HomeChannel {
            channel,
            head: StreamPosition { epoch, offset: head },
            given: head,
            next,
            last_ms,
            created_ms,
            messages: totals.messages,
            log: Some(HomeLog { id: log, is_known: true }),
            reads: 0,
            tails: SmallVec::new(),
            extra: None,
        });
        self.recent.begin_behind(key);
    }

    /// Takes over what the API added to a channel, before the shard runs.
    pub fn load_meta(&mut self, channel: &ChannelKey, meta: ChannelMeta) {
        let Some(app) = self.directory.app(channel.app).cloned() else { return };
        let key = match self.home_of.get(channel) {
            Some(&key) => key,
            None => {
                app.usage.take_channel(UNLIMITED);
                self.make_home(channel, &app)
            }
        };
        let Some(home) = self.homes.get_mut(key) else { return };
        let presence = meta.presence.then(Presence::default);
        home.created_ms = home.created_ms.min(meta.created_ms);
        home.extra =
            Some(Box::new(Extra { meta: Some(meta.into()), presence, ..Extra::default() }));
    }

    /// Takes over an answer of the log for a publisher who asks again, before the shard runs.
    pub fn load_answer(&mut self, channel: &ChannelKey, answer: StoredAnswer) {
        if let Some(&key) = self.home_of.get(channel) {
            self.idempotency.load(key, answer);
        }
    }

    /// The channel, made if it is not there and may be made by using it.
    pub(super) fn home(&mut self, channel: &ChannelKey) -> Result<HomeKey, Refusal> {
        let app = Arc::clone(self.directory.require(channel.app)?);
        let found = self.home_of.get(channel).copied();
        if app.record.settings.require_channels {
            let meta = found.and_then(|key| self.homes.get(key)?.meta());
            if meta.is_none() {
                let text = format!(
                    "there is no channel {}; channels of this app must be created first",
                    channel.slug
                );
                return Err(Refusal::new(ErrorCode::NotFound, text));
            }
        }
        match found {
            Some(key) => Ok(key),
            None => self.new_home(channel),
        }
    }

    /// A channel that is not there yet.
    pub(super) fn new_home(&mut self, channel: &ChannelKey) -> Result<HomeKey, Refusal> {
        let app = Arc::clone(self.directory.require(channel.app)?);
        let channels_max = self.settings.limits.channels_per_shard_max;
        let full = |text| Refusal::limit(ErrorCode::QuotaExceeded, limit::CHANNELS, 60, text);
        if self.homes.len() >= channels_max {
            let text =
                format!("there are {channels_max} channels already, the most this shard takes");
            return Err(full(text));
        }
        let most = app.plan.channels_max;
        if !app.usage.take_channel(most) {
            return Err(full(format!("the app has {most} channels, as many as its plan has")));
        }
        Ok(self.make_home(channel, &app))
    }

    fn make_home(&mut self, channel: &ChannelKey, app: &App) -> HomeKey {
        let is_logged = self.settings.has_log && app.plan.durability != Durability::Memory;
        let log = is_logged.then(|| HomeLog { id: self.shared.new_log(), is_known: false });
        self.insert_home(HomeChannel {
            channel: channel.clone(),
            head: StreamPosition { epoch: self.shared.epoch(channel), offset: Offset(0) },
            given: Offset(0),
            next: Offset(1),
            last_ms: 0,
            created_ms: self.now.unix_ms,
            messages: 0,
            log,
            reads: 0,
            tails: SmallVec::new(),
            extra: None,
        })
    }

    fn insert_home(&mut self, home: HomeChannel) -> HomeKey {
        let channel = home.channel.clone();
        let key = self.homes.insert(home);
        self.slugs.entry(channel.app).or_default().insert(channel.slug.clone());
        self.home_of.insert(channel, key);
        key
    }
}

/// A message that got its offset.
struct Given {
    home: HomeKey,
    prev: Offset,
    message: Message,
    /// It is to be logged before it is sent.
    is_logged: bool,
}

/// The refusal of one who may not enter a private channel.
pub(super) fn is_private() -> Refusal {
    let text = "the channel is private: a token that grants it is needed";
    Refusal::new(ErrorCode::Forbidden, text)
}

/// The refusal of a publish that finds no room.
pub(crate) fn no_room() -> Refusal {
    let text = "the server is full for the moment, nothing was published; try again shortly";
    Refusal::new(ErrorCode::Overloaded, text)
}
