//! Subscriptions of this shard's connections, from the command to the last message.
//!
//! The seam between the past and live is exact because the home shard's answer travels in the same
//! queue as the messages: what the tail gets after the answer is what the answer does not hold.

use pushflo_protocol::dialect::pushflo::event;
use pushflo_protocol::position::{Recovered, Start};
use pushflo_protocol::{ChannelSlug, Epoch, ErrorCode, Offset, Record, Refusal, StreamPosition};

use super::Edge;
use super::close::CloseReason;
use super::connection::{Connection, Farewell};
use super::session::Session;
use super::subscription::{Place, Subscription, SubscriptionState};
use super::tail::{Attachedness, Tail};
use super::window::WINDOW_BYTES;
use crate::accounts::Client;
use crate::accounts::plan::limit;
use crate::api;
use crate::bug::bug;
use crate::context::Context;
use crate::ids::{ChannelKey, ConnectionKey, SubscriptionKey, TailKey};
use crate::mail;
use crate::mail::{
    MemberChange, MemberList, Members, Membership, PresenceNews, PresenceSnapshot, Roster,
    Subscribe, Subscribed, Subscriber, ToHome, Unsubscribe, WantPresence, private_channel,
};
use std::sync::Arc;

impl Edge {
    /// A client's `subscribe`.
    ///
    /// # Errors
    /// A refusal for the client; nothing has changed then.
    pub(crate) fn subscribe(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        channel: ChannelKey,
        start: Start,
        presence: bool,
    ) -> Result<(), Refusal> {
        let Some(c) = self.connections.get(connection) else { return Ok(()) };
        let Some(session) = c.session() else { return Ok(()) };
        if !session.may_subscribe(&channel.slug) {
            return Err(not_granted());
        }
        if let Some(subscription) = self.find_subscription(connection, &channel) {
            self.subscribe_again(cx, connection, subscription, start, presence);
            return Ok(());
        }
        let Some(c) = self.connections.get(connection) else { return Ok(()) };
        let app = cx.directory.require(channel.app)?;
        let of_server = cx.settings.limits.subscriptions_per_connection_max;
        let most = app.plan.subscriptions_per_connection_max.min(of_server as u64);
        if c.subscriptions.len() as u64 >= most {
            let text = format!("a connection has at most {most} subscriptions");
            let name = limit::SUBSCRIPTIONS_PER_CONNECTION;
            return Err(Refusal::limit(ErrorCode::QuotaExceeded, name, 1, text));
        }
        let most = app.plan.subscribes_per_second_max;
        if let Err(wait_ms) = app.usage.take_subscribe(cx.now.elapsed_ms, most) {
            let text = format!("the app may begin {most} subscriptions a second");
            return Err(Refusal::over_rate(limit::SUBSCRIBES_PER_SECOND, wait_ms, text));
        }
        let tail = self.tail_of.get(&channel).and_then(|key| self.tails.get(*key));
        let is_moving = tail.is_some_and(|tail| !matches!(tail.attached, Attachedness::Settled));
        if is_moving {
            return Err(mail::no_owner());
        }
        if cx.is_way_full(cx.home_shard(&channel)) {
            let text = "the server is full for the moment; subscribe again shortly";
            return Err(Refusal::new(ErrorCode::Overloaded, text));
        }
        self.ask_home(cx, connection, channel, start, presence);
        Ok(())
    }

    /// A client's `unsubscribe`. One for a channel that is not subscribed is answered as well: what
    /// the client wants is so.
    pub(crate) fn unsubscribe(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        channel: &ChannelKey,
    ) {
        let Some(key) = self.find_subscription(connection, channel) else {
            self.send(connection, event::unsubscribed(&channel.slug));
            return;
        };
        self.leave(cx, key);
    }

    /// Whether the home shard still has to answer what a connection said about a channel. What it says
    /// next about it must wait for that; see [`Edge::settled`].
    pub(crate) fn is_settling(&self, connection: ConnectionKey, channel: &ChannelKey) -> bool {
        let subscription = self.find_subscription(connection, channel);
        let subscription = subscription.and_then(|key| self.subscriptions.get(key));
        subscription.is_some_and(|found| found.state != SubscriptionState::Live)
    }

    /// A subscription of a connection waits for its home no more.
    fn subscribe_answered(&mut self, cx: &Context, connection: ConnectionKey) {
        if let Some(active) = self.connections.get_mut(connection).and_then(|c| c.active.as_mut()) {
            debug_assert!(active.subscribes > 0, "an answer that nobody waits for");
            active.subscribes -= 1;
        }
        self.end_pause(cx, connection);
    }

    /// The home shard has answered: a command that waited for it is read on.
    fn settled(&mut self, connection: ConnectionKey) {
        if self.connections.get(connection).is_some_and(Connection::has_deferred) {
            self.resumed.push_back(connection);
        }
    }

    /// Drops all subscriptions of a connection, without a word to it.
    pub(crate) fn drop_subscriptions(&mut self, cx: &mut Context, connection: ConnectionKey) {
        let Some(c) = self.connections.get_mut(connection) else { return };
        let client = c.session().map(|session| session.client().clone());
        cx.charge(c.subscriptions.len());
        for key in std::mem::take(&mut c.subscriptions) {
            let Some(subscription) = self.subscriptions.remove(key) else { continue };
            let tail_key = subscription.tail;
            match subscription.state {
                // The answer will find nobody; it is then that the home shard is told.
                SubscriptionState::Pending { .. } => continue,
                SubscriptionState::Live => {
                    let leaver = Leaver::of(client.as_ref(), subscription.roster);
                    self.tell_home_of_leaving(cx, tail_key, None, leaver);
                }
                SubscriptionState::Leaving | SubscriptionState::Ending => {}
            }
            self.detach(cx, tail_key, &subscription);
        }
    }

    /// The home's answer to a subscription.
    pub(super) fn subscribed(&mut self, cx: &mut Context, subscribed: Subscribed) {
        let Subscribed { subscriber, outcome } = subscribed;
        let (key, tail_key) = (subscriber.subscription, subscriber.tail);
        // By the time that it comes, the channel may have moved.
        let is_moving = |tail: &Tail| !matches!(tail.attached, Attachedness::Settled);
        let outcome = match self.tails.get(tail_key) {
            Some(tail) if is_moving(tail) => outcome.and(Err(mail::no_owner())),
            _ => outcome,
        };
        if let Some(tail) = self.tails.get_mut(tail_key).filter(|tail| tail.pending > 0) {
            tail.pending -= 1;
            if let Ok(start) = &outcome {
                tail.home = Some(start.home);
                tail.is_private = start.is_private;
                tail.head = Some(start.head);
            }
        } else {
            bug!(cx, "an answer to a subscription that nobody waits for");
        }
        let Some(subscription) = self.subscriptions.get_mut(key) else {
            // The connection went away in the meantime.
            if let Ok(start) = outcome {
                let leaver = Leaver::of(Some(&subscriber.client), start.roster);
                self.tell_home_of_leaving(cx, tail_key, None, leaver);
            }
            self.drop_tail_if_unused(cx, tail_key);
            return;
        };
        let connection = subscription.connection;
        let has_room = subscription.state == SubscriptionState::Pending { has_room: true };
        subscription.state = SubscriptionState::Pending { has_room: false };
        self.subscribe_answered(cx, connection);
        if has_room {
            self.window_ended(cx, connection);
        }
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        let Some(tail) = self.tails.get_mut(tail_key) else { return };
        let slug = tail.channel.slug.clone();
        let start = match outcome {
            Ok(start) => start,
            Err(refusal) => {
                self.forget_in_connection(connection, tail_key);
                self.subscriptions.remove(key);
                self.drop_tail_if_unused(cx, tail_key);
                self.refused(cx, connection, &refusal, Some(&slug));
                self.send(connection, event::error(&refusal, Some(&slug), None));
                self.settled(connection);
                return;
            }
        };
        // What was appended so far is not for this subscription: its past comes in windows.
        tail.seal();
        let mail::SubscriptionStart {
            head, past, after, window, roster, members, is_private, ..
        } = start;
        let is_at_head = after == head.offset;
        subscription.place =
            if is_at_head { Place::Tail(tail.end()) } else { Place::Behind(after) };
        subscription.slot = tail.subscribers.len() as u32;
        tail.subscribers.push(key);
        subscription.state = SubscriptionState::Live;
        subscription.roster = roster;
        // Its right may have gone while the answer was under way.
        if is_private && !self.may_stay(connection, &slug, true) {
            self.cut(cx, key, &private_channel());
            return;
        }
        self.send(connection, event::subscribed(&slug, head, past));
        match members {
            Some(members) => self.send_members(connection, tail_key, &members),
            // It was asked for while the home's answer was under way.
            None => self.want_presence(cx, key),
        }
        // What comes with the answer goes out with it, before the answers to later commands.
        if !window.is_empty() {
            self.begin_with_window(cx, key, &window);
        } else if !is_at_head {
            self.want_window(cx, connection, key);
        }
        self.settled(connection);
    }

    /// The home shard's last word on a subscription.
    pub(super) fn unsubscribed(&mut self, cx: &mut Context, key: SubscriptionKey) {
        self.end(cx, key, None);
    }

    /// Ends a subscription that has no right to be there any more, without waiting for the home shard:
    /// what is published from now on does not reach it.
    fn cut(&mut self, cx: &mut Context, key: SubscriptionKey, refusal: &Refusal) {
        let Some(subscription) = self.subscriptions.get(key) else { return };
        if subscription.state == SubscriptionState::Ending {
            return;
        }
        let slug = self.tails.get(subscription.tail).map(|tail| &tail.channel.slug);
        self.refused(cx, subscription.connection, refusal, slug);
        // The home learns of one that is still pending when its answer finds nobody.
        if subscription.state == SubscriptionState::Live {
            let (tail, roster) = (subscription.tail, subscription.roster);
            let session = self.connections.get(subscription.connection).and_then(|c| c.session());
            let leaver = Leaver::of(session.map(Session::client), roster);
            self.tell_home_of_leaving(cx, tail, None, leaver);
        }
        self.end(cx, key, Some(refusal));
    }

    /// Ends a subscription: what came before belongs to it, and then its connection is told, with the
    /// reason if there is one.
    fn end(&mut self, cx: &mut Context, key: SubscriptionKey, reason: Option<&Refusal>) {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        let (connection, reason) = (subscription.connection, reason.cloned());
        let before = std::mem::replace(&mut subscription.state, SubscriptionState::Ending);
        if before == SubscriptionState::Ending {
            return;
        }
        let Some(tail) = self.tails.get_mut(subscription.tail) else { return };
        tail.seal();
        // What is to be sent already is; of what is further behind there is no more.
        let until = tail.end();
        let is_done = match subscription.place {
            Place::Tail(block) => block >= until && !subscription.is_behind,
            Place::Behind(_) => !subscription.is_behind,
        };
        if !is_done && !subscription.is_behind {
            tail.behind += 1;
        }
        let Some(c) = self.connections.get_mut(connection) else { return };
        c.active().farewells.push(Farewell { subscription: key, until, reason });
        if before.is_pending() {
            // The answer will find nobody; it is then that the home is told.
            self.subscribe_answered(cx, connection);
            self.finish(cx, key, false);
        } else if is_done {
            self.finish(cx, key, true);
        } else {
            self.go_behind(key);
        }
        if before == (SubscriptionState::Pending { has_room: true }) {
            self.window_ended(cx, connection);
        }
    }

    /// All that came before the end of a subscription is sent, or on its way.
    pub(super) fn finish(&mut self, cx: &mut Context, key: SubscriptionKey, is_joined: bool) {
        let Some(subscription) = self.subscriptions.get(key) else { return };
        let (connection, tail_key) = (subscription.connection, subscription.tail);
        self.forget_in_connection(connection, tail_key);
        let Some(subscription) = self.subscriptions.remove(key) else { return };
        let Some(slug) = self.tails.get(tail_key).map(|tail| tail.channel.slug.clone()) else {
            return bug!(cx, "a subscription without a tail");
        };
        let farewell = self.connections.get_mut(connection).and_then(|c| c.take_farewell(key));
        if is_joined {
            self.detach(cx, tail_key, &subscription);
        }
        match farewell {
            Some(farewell) => farewell.words(&slug).for_each(|word| self.send(connection, word)),
            None => {
                bug!(cx, "a subscription ends without a last word");
                self.send(connection, event::unsubscribed(&slug));
            }
        }
        self.settled(connection);
    }

    /// Whether a connection may stay subscribed to a channel.
    fn may_stay(&self, connection: ConnectionKey, slug: &ChannelSlug, is_private: bool) -> bool {
        let session = self.connections.get(connection).and_then(|c| c.session());
        session.is_some_and(|session| match is_private {
            true => session.may_subscribe_private(slug),
            false => session.may_subscribe(slug),
        })
    }

    /// Ends the subscriptions of a connection that its token does not grant any more.
    pub(crate) fn drop_what_is_not_granted(&mut self, cx: &mut Context, connection: ConnectionKey) {
        let Some(c) = self.connections.get(connection) else { return };
        let is_lost = |key: &&SubscriptionKey| {
            let tail = self.subscriptions.get(**key).and_then(|found| self.tails.get(found.tail));
            tail.is_some_and(|tail| !self.may_stay(connection, &tail.channel.slug, tail.is_private))
        };
        let lost: Vec<SubscriptionKey> = c.subscriptions.iter().filter(is_lost).copied().collect();
        for key in lost {
            self.cut(cx, key, &not_granted());
        }
    }

    /// The channel was deleted: all its subscribers here are told, and whoever was about to come
    /// back asks again.
    pub(super) fn tail_closed(&mut self, cx: &mut Context, key: TailKey) {
        let Some(tail) = self.tails.get_mut(key) else { return };
        tail.home = None;
        for subscription in tail.subscribers.clone() {
            self.unsubscribed(cx, subscription);
        }
    }

    /// The channel is private now, or is not any more: whoever may not be there has to go.
    pub(super) fn tail_privacy(&mut self, cx: &mut Context, key: TailKey, is_private: bool) {
        let Some(tail) = self.tails.get_mut(key) else { return };
        tail.is_private = is_private;
        if !is_private {
            return;
        }
        let slug = tail.channel.slug.clone();
        for key in tail.subscribers.clone() {
            let Some(subscription) = self.subscriptions.get(key) else { continue };
            if !self.may_stay(subscription.connection, &slug, true) {
                self.cut(cx, key, &private_channel());
            }
        }
    }

    /// Tells those who want to know who is there. Whoever has too much waiting is too slow.
    pub(super) fn tail_presence(&mut self, cx: &mut Context, presence: &mail::Presence) {
        let mail::Presence { tail: key, ref news } = *presence;
        let Some(tail) = self.tails.get(key) else { return };
        let slug = &tail.channel.slug;
        let frame = match news {
            PresenceNews::Changed(change) => {
                let MemberChange { joined, left, count } = &**change;
                let (joined, left) = (joined.iter().map(api::member), left.iter().map(api::member));
                event::presence_change(slug, joined, left, *count)
            }
            PresenceNews::All(list) => {
                event::presence(slug, list.members.iter().map(api::member), list.count)
            }
        };
        let most = cx.settings.limits.tail_bytes_max;
        for subscription in tail.subscribers.clone() {
            let Some(found) = self.subscriptions.get(subscription) else { continue };
            if !found.wants_presence || found.state != SubscriptionState::Live {
                continue;
            }
            let connection = found.connection;
            let waiting = self.connections.get(connection).map_or(0, |c| c.out_bytes() as u64);
            if waiting > most {
                cx.metrics().slow_consumers_total.increment();
                self.close_websocket(cx, connection, CloseReason::TOO_SLOW);
            } else {
                self.send(connection, frame.clone());
            }
        }
    }

    /// The next message of a tail.
    pub(super) fn message(&mut self, cx: &Context, message: mail::Message) {
        let mail::Message { tail: key, epoch, record } = message;
        let Some(tail) = self.tails.get_mut(key) else { return };
        match &mut tail.attached {
            Attachedness::Settled => {}
            // It is read with what was missed before it.
            Attachedness::Reading { until, .. } => {
                *until = record.offset.max(*until);
                return;
            }
            // Of a home that is none any more.
            Attachedness::Wanted | Attachedness::Asked { .. } => return,
        }
        if !tail.subscribers.is_empty() && tail.head.is_some_and(|head| head.offset != record.prev)
        {
            if cx.is_cluster() {
                // What is missing is in the stream of its slot.
                cx.metrics().attachment_gaps_total.increment();
                return self.tail_moved(key);
            }
            bug!(cx, "message {:?} follows {:?}, not {:?}", record.offset, record.prev, tail.head);
        }
        self.append(key, Some(epoch), record);
    }

    /// Appends a message to a tail; of the epoch that this has, if no other is told.
    pub(super) fn append(&mut self, key: TailKey, epoch: Option<Epoch>, record: Record) {
        let Some(tail) = self.tails.get_mut(key) else { return };
        let epoch = epoch.or(tail.head.map(|head| head.epoch));
        tail.head = epoch.map(|epoch| StreamPosition { epoch, offset: record.offset });
        tail.push(record);
        if !tail.is_dirty {
            tail.is_dirty = true;
            self.dirty.push(key);
        }
    }

    fn ask_home(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        channel: ChannelKey,
        start: Start,
        wants_presence: bool,
    ) {
        let session = self.connections.get(connection).and_then(|c| c.session());
        let Some(session) = session else { return };
        let client = session.client().clone();
        let may_enter = session.may_subscribe_private(&channel.slug);
        let tail = match self.tail_of.get(&channel) {
            Some(&tail) => tail,
            None => {
                let tail = self.tails.insert(Tail::new(channel.clone()));
                self.tail_of.insert(channel.clone(), tail);
                tail
            }
        };
        let is_room = start != Start::Live
            && self.connections.get_mut(connection).is_some_and(Connection::begin_window);
        let window_bytes = if is_room { WINDOW_BYTES } else { 0 };
        let (Ok(index) | Err(index)) = self.position(connection, tail);
        let subscription = self.subscriptions.insert(Subscription {
            connection,
            tail,
            place: Place::Behind(Offset(0)),
            slot: 0,
            windows: 0,
            is_behind: false,
            wants_presence,
            roster: None,
            state: SubscriptionState::Pending { has_room: is_room },
        });
        if let Some(tail) = self.tails.get_mut(tail) {
            tail.pending += 1;
        }
        if let Some(c) = self.connections.get_mut(connection) {
            c.subscriptions.insert(index, subscription);
            c.active().subscribes += 1;
        }
        let (shard, home) = (cx.shard, cx.home_shard(&channel));
        let subscriber = Subscriber { shard, tail, subscription, client, may_enter };
        let subscribe = Subscribe { subscriber, channel, start, wants_presence, window_bytes };
        cx.post_home(home, ToHome::Subscribe(Box::new(subscribe)));
    }

    /// A second subscribe to a channel is answered again.
    fn subscribe_again(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        key: SubscriptionKey,
        start: Start,
        presence: bool,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        if subscription.state != SubscriptionState::Live {
            bug!(cx, "a command about a subscription that is {:?}", subscription.state);
        }
        subscription.wants_presence |= presence;
        let Some(tail) = self.tails.get(subscription.tail) else { return };
        let Some(head) = tail.head else { return };
        let past = (start != Start::Live).then_some(NOTHING_REPLAYED);
        let answer = event::subscribed(&tail.channel.slug, head, past);
        self.send(connection, answer);
        if presence {
            self.want_presence(cx, key);
        }
    }

    /// Asks the home shard who is there, for one who wants to know that.
    fn want_presence(&mut self, cx: &mut Context, key: SubscriptionKey) {
        let Some(subscription) = self.subscriptions.get(key) else { return };
        if !subscription.wants_presence || subscription.roster.is_none() {
            return;
        }
        let Some(tail) = self.tails.get(subscription.tail) else { return };
        let Some(home) = tail.home else { return };
        let want = WantPresence { shard: cx.shard, subscription: key, home };
        cx.post_home(cx.home_shard(&tail.channel), ToHome::WantPresence(want));
    }

    /// Who is there, for one subscriber.
    pub(super) fn presence_snapshot(&mut self, snapshot: PresenceSnapshot) {
        let PresenceSnapshot { subscription: key, members } = snapshot;
        let Some(subscription) = self.subscriptions.get(key) else { return };
        if subscription.state == SubscriptionState::Live {
            self.send_members(subscription.connection, subscription.tail, &members);
        }
    }

    /// Tells a subscriber who is there. All who are told the same share the event.
    fn send_members(
        &mut self,
        connection: ConnectionKey,
        tail: TailKey,
        members: &Arc<MemberList>,
    ) {
        let key = tail;
        let Some(tail) = self.tails.get_mut(key) else { return };
        if !tail.has_shared() {
            self.shared.push(key);
        }
        let event = tail.members_event(members);
        self.send(connection, event);
    }

    /// Presence was switched on or off while there are subscribers.
    pub(super) fn tail_roster(&mut self, cx: &mut Context, roster: Roster) {
        let Roster { tail: key, home, roster } = roster;
        let Some(tail) = self.tails.get(key).filter(|tail| tail.home == Some(home)) else { return };
        let channel = tail.channel.clone();
        let mut clients = Vec::new();
        for subscription in tail.subscribers.clone() {
            let Some(found) = self.subscriptions.get_mut(subscription) else { continue };
            found.roster = roster.filter(|_| found.state == SubscriptionState::Live);
            if found.roster.is_some() {
                let session = self.connections.get(found.connection).and_then(|c| c.session());
                clients.extend(session.map(|session| session.client().clone()));
            }
        }
        if let Some(roster) = roster {
            let members = Members { home, roster, shard: cx.shard, clients };
            cx.post_home(cx.home_shard(&channel), ToHome::Members(Box::new(members)));
        }
    }

    fn leave(&mut self, cx: &mut Context, key: SubscriptionKey) {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        subscription.state = SubscriptionState::Leaving;
        let (tail, roster) = (subscription.tail, subscription.roster);
        let session = self.connections.get(subscription.connection).and_then(|c| c.session());
        let leaver = Leaver::of(session.map(Session::client), roster);
        if self.leaves_detached(tail, &leaver) {
            return self.end(cx, key, None);
        }
        self.tell_home_of_leaving(cx, tail, Some(key), leaver);
    }

    fn tell_home_of_leaving(
        &mut self,
        cx: &mut Context,
        tail: TailKey,
        subscription: Option<SubscriptionKey>,
        leaver: Leaver,
    ) {
        if self.leaves_detached(tail, &leaver) {
            return;
        }
        let member = leaver.membership();
        let Some((home_shard, home)) =
            self.tails.get(tail).and_then(|t| t.home.map(|home| (cx.home_shard(&t.channel), home)))
        else {
            return;
        };
        let shard = cx.shard;
        let leave = Unsubscribe { shard, tail, home, subscription, member };
        cx.post_home(home_shard, ToHome::Unsubscribe(Box::new(leave)));
    }

    /// Takes a subscription out of its tail.
    fn detach(&mut self, cx: &mut Context, tail_key: TailKey, subscription: &Subscription) {
        let Some(tail) = self.tails.get_mut(tail_key) else { return };
        if let Some(block) = subscription.holds()
            && let Some(c) = self.connections.get_mut(subscription.connection)
            && let Some(active) = &mut c.active
        {
            let charged = tail.charged_bytes(block);
            debug_assert!(active.tail_bytes >= charged, "more is given back than was charged");
            active.tail_bytes -= charged;
        }
        let slot = subscription.slot as usize;
        if slot >= tail.subscribers.len() {
            bug!(cx, "a subscription is not where it stands in its tail");
        } else {
            tail.subscribers.swap_remove(slot);
            let moved = tail.subscribers.get(slot).and_then(|&key| self.subscriptions.get_mut(key));
            if let Some(moved) = moved {
                moved.slot = subscription.slot;
            }
        }
        if subscription.is_behind && subscription.holds().is_some() {
            self.caught_up(cx, tail_key);
        }
        self.drop_tail_if_unused(cx, tail_key);
    }

    pub(super) fn drop_tail_if_unused(&mut self, cx: &mut Context, key: TailKey) {
        if self.tails.get(key).is_some_and(Tail::is_unused)
            && let Some(tail) = self.tails.remove(key)
        {
            self.tail_of.remove(&tail.channel);
            cx.metrics().tail_bytes.add(tail.counted_bytes.wrapping_neg());
        }
    }

    fn forget_in_connection(&mut self, connection: ConnectionKey, tail: TailKey) {
        if let Ok(index) = self.position(connection, tail)
            && let Some(c) = self.connections.get_mut(connection)
        {
            c.subscriptions.remove(index);
        }
    }

    fn find_subscription(
        &self,
        connection: ConnectionKey,
        channel: &ChannelKey,
    ) -> Option<SubscriptionKey> {
        let tail = *self.tail_of.get(channel)?;
        let index = self.position(connection, tail).ok()?;
        self.connections.get(connection)?.subscriptions.get(index).copied()
    }

    /// Where the subscription to a tail stands among those of its connection, or where it would.
    fn position(&self, connection: ConnectionKey, tail: TailKey) -> Result<usize, usize> {
        let of = |key: &SubscriptionKey| self.subscriptions.get(*key).map(|found| found.tail);
        let c = self.connections.get(connection).ok_or(0usize)?;
        c.subscriptions.binary_search_by_key(&Some(tail), of)
    }
}

/// Whose subscription has ended.
#[derive(Debug)]
pub(super) struct Leaver {
    client: Option<Client>,
    /// Which time presence was switched on, if it counts as a member.
    roster: Option<u32>,
}

impl Leaver {
    fn of(client: Option<&Client>, roster: Option<u32>) -> Self {
        Self { client: client.cloned(), roster }
    }

    /// Who it is, to a home that may count it as a member.
    pub(super) fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// What it is to the other members of the channel, if it counts as one.
    fn membership(self) -> Option<Membership> {
        Some(Membership { client: self.client?, roster: self.roster? })
    }
}

fn not_granted() -> Refusal {
    Refusal::new(ErrorCode::Forbidden, "the token does not grant this channel")
}

/// The answer to a request for the past by someone who already gets messages.
const NOTHING_REPLAYED: Recovered = Recovered { recovered: false, replayed: 0 };
