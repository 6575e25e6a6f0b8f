//! Reading a channel at its home: who subscribes, from where on, and pages of its history.

use pushflo_protocol::position::{Recovered, Start};
use pushflo_protocol::{ErrorCode, Refusal};

use super::Home;
use super::channel::{Audience, HomeChannel};
use crate::context::Context;
use crate::ids::{ChannelKey, HomeKey};
use crate::log::{PageCall, ReadFrom};
use crate::mail::Answer;
use crate::mail::ReadPage;
use crate::mail::Subscribe;
use crate::mail::Subscribed;
use crate::mail::Subscriber;
use crate::mail::Subscription;
use crate::mail::ToEdge;
use crate::mail::Unsubscribe;
use crate::mail::private_channel;
use crate::retention::Retention;
use pushflo_protocol::Record;

impl Home {
    /// A page of history as the JSON of the answer. A channel that nobody used yet has none, which
    /// is an answer and not an error.
    pub(super) fn read_page(&mut self, cx: &mut Context, page: ReadPage) {
        let ReadPage { request, channel, query } = page;
        let app = cx.directory.app(channel.app);
        let retention = app.map_or(Retention::NOTHING, |app| app.plan.retention);
        let key = self.by_name.get(&channel).copied();
        let home = key.and_then(|key| self.channels.get(key));
        if let Some(log) = home.and_then(|home| home.log) {
            self.ask_log_page(PageCall { request, log: log.id, query, retention });
            return;
        }
        let since_ms = retention.since_ms(cx.now.steady_ms);
        let page = key.map(|key| self.recent.page(key, &query, since_ms)).unwrap_or_default();
        cx.answer(request, Ok(Answer::Page(page)));
    }

    pub(super) fn subscribe(&mut self, cx: &mut Context, subscribe: Subscribe) {
        let Subscribe { subscriber, ref channel, start, wants_presence } = subscribe;
        let (key, retention) = match self.enter(cx, channel, subscriber.may_enter) {
            Ok(entered) => entered,
            Err(refusal) => return self.subscribe_done(cx, subscriber, Err(refusal)),
        };
        let Some(home) = self.channels.get(key) else { return };
        let (head, log) = (home.head, home.log);
        let since_ms = retention.since_ms(cx.now.steady_ms);
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
                        return self.ask_log(cx, (subscriber, wants_presence), key, log.id, from);
                    }
                    (missed, _) => Some(missed),
                }
            }
            Start::Since(since) => match log {
                Some(log) if !self.recent.reaches(key, |m| m.timestamp_ms < since) => {
                    let (since_ms, messages_max) = (since.max(since_ms), u64::MAX);
                    let from = ReadFrom::Recent { since_ms, messages_max };
                    return self.ask_log(cx, (subscriber, wants_presence), key, log.id, from);
                }
                _ => Some(Some(self.recent.since(key, since.max(since_ms)))),
            },
            Start::Last(count) => match log {
                Some(log)
                    if self.recent.len(key) < count && !self.recent.reaches(key, |_| false) =>
                {
                    let from = ReadFrom::Recent { since_ms, messages_max: count };
                    return self.ask_log(cx, (subscriber, wants_presence), key, log.id, from);
                }
                _ => Some(Some(self.recent.last(key, count, since_ms))),
            },
        };
        self.join(cx, subscriber, key, missed, wants_presence);
    }

    /// The channel that somebody wants to subscribe to, and what is kept of it.
    fn enter(
        &mut self,
        cx: &mut Context,
        channel: &ChannelKey,
        may_enter: bool,
    ) -> Result<(HomeKey, Retention), Refusal> {
        let key = self.home(cx, channel)?;
        if !may_enter && self.channels.get(key).is_some_and(HomeChannel::is_private) {
            return Err(private_channel());
        }
        Ok((key, cx.directory.require(channel.app)?.plan.retention))
    }

    /// Makes a subscriber one, with what it missed: `None` if it asked for nothing, `Some(None)` if
    /// what it asked for is not kept. From here on it gets what is sent.
    pub(super) fn join(
        &mut self,
        cx: &mut Context,
        subscriber: Subscriber,
        key: HomeKey,
        missed: Option<Option<Vec<Record>>>,
        wants_presence: bool,
    ) {
        let Some(home) = self.channels.get_mut(key).filter(|home| !home.is_closed()) else {
            let refusal = Refusal::new(ErrorCode::NotFound, "the channel was deleted");
            return self.subscribe_done(cx, subscriber, Err(refusal));
        };
        let is_private = home.is_private();
        // It may have been made private while what was missed was read.
        if is_private && !subscriber.may_enter {
            return self.subscribe_done(cx, subscriber, Err(private_channel()));
        }
        let (shard, tail) = (subscriber.shard, subscriber.tail);
        match home.tails.iter_mut().find(|a| a.shard == shard && a.tail == tail) {
            Some(audience) => audience.subscribers += 1,
            None => home.tails.push(Audience { shard, tail, subscribers: 1 }),
        }
        let head = home.head;
        let (mut is_member, mut members) = (false, None);
        if let Some(presence) = home.presence_mut() {
            is_member = presence.join(&subscriber.client);
            members = wants_presence.then(|| presence.list());
        }
        if is_member {
            self.presence_changed(key);
        }
        match &missed {
            Some(Some(_)) => cx.metrics().recoveries_total.increment(),
            Some(None) => cx.metrics().recovery_gaps_total.increment(),
            None => {}
        }
        let past = missed.as_ref().map(|missed| Recovered {
            recovered: missed.is_some(),
            replayed: missed.as_ref().map_or(0, |missed| missed.len() as u64),
        });
        let missed = missed.flatten().unwrap_or_default();
        let subscription =
            Subscription { home: key, head, past, missed, is_member, is_private, members };
        self.subscribe_done(cx, subscriber, Ok(subscription));
    }

    pub(super) fn subscribe_done(
        &mut self,
        cx: &mut Context,
        subscriber: Subscriber,
        outcome: Result<Subscription, Refusal>,
    ) {
        let shard = subscriber.shard;
        cx.post_edge(shard, ToEdge::Subscribed(Box::new(Subscribed { subscriber, outcome })));
    }

    pub(super) fn unsubscribe(&mut self, cx: &mut Context, unsubscribe: &Unsubscribe) {
        self.leave(cx, unsubscribe);
        if let Some(subscription) = unsubscribe.subscription {
            cx.post_edge(unsubscribe.shard, ToEdge::Unsubscribed(subscription));
        }
    }

    fn leave(&mut self, cx: &mut Context, unsubscribe: &Unsubscribe) {
        let Unsubscribe { shard, tail, home: key, ref member, .. } = *unsubscribe;
        let (now_ms, times) = (cx.now.elapsed_ms, cx.settings.presence);
        let Some(home) = self.channels.get_mut(key) else { return };
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
        self.forget_if_untouched(cx, key);
    }
}
