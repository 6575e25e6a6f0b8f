//! Reading a channel at its home: who subscribes, from where on, and pages of its history.

use pushflo_protocol::command::Start;
use pushflo_protocol::event::Recovered;
use pushflo_protocol::{ErrorCode, Refusal};

use super::Shard;
use super::envelope::{Asker, Envelope, Subscribed};
use super::home::{Audience, HomeChannel};
use super::logging::Missed;
use crate::edge::Client;
use crate::ids::{ChannelKey, HomeKey, RequestId, ShardId, TailKey};
use crate::log::{PageCall, ReadFrom};
use crate::pages::{PageQuery, page_body};
use crate::retention::Retention;

impl Shard {
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
        let since_ms = retention.since_ms(self.now.steady_ms);
        let page = key.map_or_else(Default::default, |key| self.recent.page(key, &query, since_ms));
        let body = page_body(&channel, &query, &page.0, page.1);
        self.answer_request(request, Ok((200, body)));
    }

    pub(super) fn home_subscribe(
        &mut self,
        asker: Asker,
        channel: &ChannelKey,
        start: Start,
        wants_presence: bool,
    ) {
        let (key, retention) = match self.enter(channel, asker.may_enter) {
            Ok(entered) => entered,
            Err(refusal) => return self.subscribe_done(asker, Err(refusal)),
        };
        let Some(home) = self.homes.get(key) else { return };
        let (head, log) = (home.head, home.log);
        let since_ms = retention.since_ms(self.now.steady_ms);
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
        if !may_enter && self.homes.get(key).is_some_and(HomeChannel::is_private) {
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
        let is_private = home.is_private();
        // It may have been made private while what was missed was read.
        if is_private && !asker.may_enter {
            return self.subscribe_done(asker, Err(self::is_private()));
        }
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
        let subscribed =
            Subscribed { home: key, head, past, missed, is_member, is_private, presence };
        self.subscribe_done(asker, Ok(Box::new(subscribed)));
    }

    pub(super) fn subscribe_done(
        &mut self,
        asker: Asker,
        outcome: Result<Box<Subscribed>, Refusal>,
    ) {
        self.post(asker.shard, Envelope::Subscribed { asker, outcome });
    }

    pub(super) fn home_unsubscribe(
        &mut self,
        shard: ShardId,
        tail: TailKey,
        key: HomeKey,
        member: Option<&Client>,
    ) {
        let (now_ms, times) = (self.now.elapsed_ms, self.settings.presence);
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
}

/// The refusal of one who may not enter a private channel.
pub(super) fn is_private() -> Refusal {
    let text = "the channel is private: a token that grants it is needed";
    Refusal::new(ErrorCode::Forbidden, text)
}
