//! Who subscribes to a channel, and who leaves.

use pushflo_protocol::position::Recovered;
use pushflo_protocol::{ErrorCode, Refusal};

use super::Home;
use super::channel::{Audience, HomeChannel};
use crate::bug::bug;
use crate::context::Context;
use crate::ids::{ChannelKey, HomeKey};
use crate::log::Located;
use crate::mail::{
    Attach, Attached, Attachment, Subscribe, Subscribed, Subscriber, SubscriptionStart, ToEdge,
    Unsubscribe, no_owner, private_channel,
};

impl Home {
    pub(super) fn subscribe(&mut self, cx: &mut Context, subscribe: Subscribe) {
        cx.charge(1);
        match self.enter(cx, &subscribe.channel, subscribe.subscriber.may_enter) {
            Ok(key) => self.find_start(cx, key, subscribe),
            Err(refusal) => self.subscribe_done(cx, subscribe.subscriber, Err(refusal)),
        }
    }

    /// The channel that somebody wants to subscribe to.
    fn enter(
        &mut self,
        cx: &mut Context,
        channel: &ChannelKey,
        may_enter: bool,
    ) -> Result<HomeKey, Refusal> {
        let key = self.home(cx, channel)?;
        if !may_enter && self.channels.get(key).is_some_and(HomeChannel::is_private) {
            return Err(private_channel());
        }
        Ok(key)
    }

    /// Makes a subscriber one. `past` is where it starts: `None` if it asked for nothing, `Some(None)` if
    /// what it asked for is not kept. From here on it gets what is sent.
    pub(super) fn join(
        &mut self,
        cx: &mut Context,
        subscribe: Subscribe,
        key: HomeKey,
        past: Option<Option<Located>>,
    ) {
        let Subscribe { subscriber, wants_presence, window_bytes, .. } = subscribe;
        let Some(home) = self.channels.get_mut(key).filter(|home| !home.is_closed()) else {
            let refusal = match cx.is_cluster() {
                true => no_owner(),
                false => Refusal::new(ErrorCode::NotFound, "the channel was deleted"),
            };
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
        let (mut roster, mut members) = (None, None);
        if let Some(presence) = home.presence_mut() {
            roster = presence.join_at(shard, &subscriber.client).then(|| presence.roster());
            members = wants_presence.then(|| presence.list());
        }
        if roster.is_some() {
            self.presence_changed(key);
        }
        match past {
            Some(Some(_)) => cx.metrics().recoveries_total.increment(),
            Some(None) => cx.metrics().recovery_gaps_total.increment(),
            None => {}
        }
        let after = past.flatten().map_or(head.offset, |located| located.after);
        let past = past.map(|located| Recovered {
            recovered: located.is_some(),
            replayed: located.map_or(0, |located| located.messages),
        });
        let window = match window_bytes {
            bytes_max if bytes_max > 0 && after < head.offset => {
                self.recent.window(key, after, bytes_max).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let subscription =
            SubscriptionStart { home: key, head, past, after, window, roster, is_private, members };
        self.subscribe_done(cx, subscriber, Ok(subscription));
    }

    pub(super) fn subscribe_done(
        &mut self,
        cx: &mut Context,
        subscriber: Subscriber,
        outcome: Result<SubscriptionStart, Refusal>,
    ) {
        let shard = subscriber.shard;
        cx.post_edge(shard, ToEdge::Subscribed(Box::new(Subscribed { subscriber, outcome })));
    }

    /// The subscribers of a tail whose channel has moved here are its own from now on.
    pub(super) fn attach(&mut self, cx: &mut Context, attach: Attach) {
        let Attach { shard, tail, channel, subscribers, clients } = attach;
        let found =
            self.by_name.get(&channel).and_then(|key| Some((*key, self.channels.get_mut(*key)?)));
        let outcome = found.map(|(key, home)| {
            home.tails.retain(|audience| (audience.shard, audience.tail) != (shard, tail));
            if subscribers > 0 {
                home.tails.push(Audience { shard, tail, subscribers });
            }
            let (head, is_private) = (home.head, home.is_private());
            let roster = home.presence_mut().map(|presence| {
                let (now_ms, times) = (cx.now.elapsed_ms, cx.settings.presence);
                presence.attach_at(shard, &clients, now_ms, times);
                presence.begin_anew(now_ms, times);
                presence.roster()
            });
            Attachment { home: key, head, is_private, roster }
        });
        if let Some(Attachment { home, roster: Some(_), .. }) = &outcome {
            self.presence_changed(*home);
        }
        cx.post_edge(shard, ToEdge::Attached(Box::new(Attached { tail, outcome })));
    }

    pub(super) fn unsubscribe(&mut self, cx: &mut Context, unsubscribe: &Unsubscribe) {
        cx.charge(1);
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
            if !home.is_closed() && !cx.is_cluster() {
                bug!(cx, "a subscriber leaves that was none");
            }
            return;
        };
        if let Some(audience) = home.tails.get_mut(index) {
            audience.subscribers = audience.subscribers.saturating_sub(1);
            if audience.subscribers == 0 {
                home.tails.swap_remove(index);
            }
        }
        // Presence may have been switched off and on again since it joined.
        if let (Some(presence), Some(member)) = (home.presence_mut(), member)
            && presence.roster() == member.roster
        {
            presence.leave_at(shard, &member.client, now_ms, times);
            self.presence_changed(key);
        }
        self.forget_if_untouched(cx, key);
    }
}
