//! Connections as they are handed to the process that takes this one's place, and as they are taken over from
//! the one before.
//!
//! What is to be written to a connection goes with it as bytes: what its socket has not taken, answers and
//! events, and all messages that its tails and windows have for it. So its subscriptions are at the head of their
//! channels, or at the end of what was read of their history, and go on from there: each tail attaches to the home
//! of its channel, as when a channel has moved.

use bytes::Bytes;
use pushflo_protocol::Offset;
use slotmap::SecondaryMap;

use super::Edge;
use super::connection::{Active, Connection, Phase};
use super::session::{Session, TokenGrant};
use super::subscription::{Place, Subscription, SubscriptionState as Stage};
use super::tail::{Attachedness, Tail};
use crate::accounts::Grant;
use crate::context::Context;
use crate::handover::{
    ConnectionState, GrantState, PhaseState, SessionState, SubscriptionState, TailState,
};
use crate::ids::{ChannelKey, ConnectionKey, TailKey};
use crate::proxies::ProxyProtocol;
use crate::shared::AddressSlot;

/// The tails of a shard in the order in which they are handed over.
#[derive(Debug)]
pub struct TailOrder(SecondaryMap<TailKey, u32>);

/// A tail that was taken over.
#[derive(Clone, Copy, Debug)]
pub struct TakenTail {
    key: TailKey,
    /// Up to where its subscribers have been sent all, if that is not where the tail stands.
    behind: Option<Offset>,
}

impl Edge {
    /// Whether nothing is under way that somebody else has to answer.
    pub(crate) fn is_quiet(&self) -> bool {
        let is_answered = |c: &Connection| {
            c.active.as_ref().is_none_or(|active| {
                !active.is_writing
                    && active.answers.is_empty()
                    && active.publishes.is_empty()
                    && active.subscribes == 0
                    && active.windows_under_way == 0
            })
        };
        let is_asking = |tail: &Tail| {
            tail.pending > 0
                || matches!(tail.attached, Attachedness::Reading { is_asked: true, .. })
        };
        let is_settled = |state| matches!(state, Stage::Live | Stage::Ending);
        self.batches.is_empty()
            && self.lists.is_empty()
            && self.wanting.is_empty()
            && self.dirty.is_empty()
            && !self.tails.values().any(is_asking)
            && self.connections.values().all(is_answered)
            && self.subscriptions.values().all(|found| is_settled(found.state))
    }

    /// All tails, as they are handed over, and their order.
    pub(crate) fn tail_states(&self) -> (Vec<TailState>, TailOrder) {
        let (mut states, mut order) = (Vec::new(), TailOrder(SecondaryMap::new()));
        for (key, tail) in &self.tails {
            let Some(head) = tail.head else { continue };
            order.0.insert(key, states.len() as u32);
            states.push(TailState {
                channel: tail.channel.clone(),
                head,
                is_private: tail.is_private,
            });
        }
        (states, order)
    }

    /// All connections.
    pub(crate) fn connection_keys(&self) -> impl Iterator<Item = ConnectionKey> {
        self.connections.keys()
    }

    /// A connection as it is handed over. Nothing changes by that.
    pub(crate) fn connection_state(
        &self,
        cx: &Context,
        connection: ConnectionKey,
        order: &TailOrder,
    ) -> Option<ConnectionState> {
        let c = self.connections.get(connection)?;
        let now = cx.now.tick;
        let phase = match c.phase {
            Phase::Proxy => PhaseState::Proxy,
            Phase::Http => PhaseState::Http,
            Phase::Open { pinged } => PhaseState::Open { pinged },
            Phase::Closing { until, half_closed } => {
                PhaseState::Closing { ticks: until.saturating_sub(now), half_closed }
            }
        };
        let subscriptions = c.subscriptions.iter().filter_map(|key| {
            let subscription = self.subscriptions.get(*key)?;
            let behind = match subscription.place {
                Place::Behind(offset) => Some(offset),
                Place::Tail(_) => None,
            };
            // Of one that ends, all that is left is to be written.
            (subscription.state == Stage::Live).then_some(SubscriptionState {
                tail: *order.0.get(subscription.tail)?,
                behind,
                wants_presence: subscription.wants_presence,
            })
        });
        let active = c.active.as_deref();
        Some(ConnectionState {
            phase,
            peer_done: c.peer_done,
            is_heard: c.is_heard,
            address: c.address().map(AddressSlot::number),
            is_proxied: c.proxy == Some(ProxyProtocol::ForwardedFor),
            session: c.session().map(|session| session.state(now)),
            silent_ticks: now.saturating_sub(c.heard_tick),
            timeout_ticks: c.timer_tick.saturating_sub(now),
            first_sequence: c.first_sequence,
            inbound: active.map(|active| active.inbound.clone()).unwrap_or_default(),
            fragments: active
                .and_then(|active| active.message_reader.fragments())
                .map(<[u8]>::to_vec),
            deferred: active.and_then(|active| active.deferred.clone()),
            payer: active.and_then(|active| active.payer),
            outbound: active.map(|active| self.outbound(c, active)).unwrap_or_default(),
            subscriptions: subscriptions.collect(),
        })
    }

    /// All that is to be written to a connection, in the order in which it would be.
    fn outbound(&self, c: &Connection, active: &Active) -> Vec<u8> {
        let mut bytes = Vec::new();
        let unfinished = active.unfinished.iter().flat_map(|write| write.segments());
        for segment in unfinished.chain(&active.out) {
            bytes.extend_from_slice(segment);
        }
        for key in &active.behind {
            let Some(subscription) = self.subscriptions.get(*key) else { continue };
            let Some(tail) = self.tails.get(subscription.tail) else { continue };
            if let Some(window) = active.windows.iter().find(|window| window.subscription == *key) {
                bytes.extend_from_slice(&window.bytes);
            }
            let farewell = c.farewell(*key);
            let end = farewell.map_or(tail.end(), |farewell| farewell.until);
            if let Place::Tail(next) = subscription.place {
                for (block, _) in (next..end).filter_map(|at| tail.block(at)) {
                    bytes.extend_from_slice(block);
                }
            }
            if let Some(farewell) = farewell {
                bytes.extend(farewell.words(&tail.channel.slug).flatten());
            }
        }
        bytes
    }

    /// Takes tails over. Those that nobody listens to are to be dropped by [`Edge::drop_unused_tails`].
    pub(crate) fn take_tails(&mut self, states: Vec<TailState>) -> Vec<TakenTail> {
        let of = |TailState { channel, head, is_private }: TailState| {
            let key = *self.tail_of.entry(channel).or_insert_with_key(|channel: &ChannelKey| {
                let mut tail = Tail::new(channel.clone());
                (tail.head, tail.is_private) = (Some(head), is_private);
                tail.attached = Attachedness::Wanted;
                let key = self.tails.insert(tail);
                self.detached.push(key);
                key
            });
            // Another shard, whose connections came before, may have had other messages of it.
            let known = self.tails.get(key).and_then(|tail| tail.head);
            TakenTail { key, behind: (known != Some(head)).then_some(head.offset) }
        };
        states.into_iter().map(of).collect()
    }

    /// Takes a connection over. `tails` are those of the shard that it comes from.
    ///
    /// `None`: it is nobody's any more, since its app is gone; its socket is to be closed.
    pub(crate) fn take_connection(
        &mut self,
        cx: &mut Context,
        state: ConnectionState,
        tails: &[TakenTail],
    ) -> Option<ConnectionKey> {
        let now = cx.now.tick;
        let mut is_in_force = true;
        let session = match state.session {
            Some(session) => {
                let app = cx.directory.app(session.app)?;
                // It may have been revoked when nobody could be told any more.
                is_in_force = app.key(session.key).is_some();
                app.usage.find_connection();
                Some(Session::from_state(session, now))
            }
            None => None,
        };
        let address = state.address.map(AddressSlot::from_number);
        cx.shared.find_connection(address);
        let proxy = match (state.phase, state.is_proxied) {
            (PhaseState::Proxy, _) => Some(ProxyProtocol::Proxy),
            (_, true) => Some(ProxyProtocol::ForwardedFor),
            (_, false) => None,
        };
        let mut c = Connection::new(address, proxy, now.saturating_sub(state.silent_ticks));
        c.phase = match state.phase {
            PhaseState::Proxy => Phase::Proxy,
            PhaseState::Http => Phase::Http,
            PhaseState::Open { pinged } => Phase::Open { pinged },
            PhaseState::Closing { ticks, half_closed } => {
                Phase::Closing { until: now.saturating_add(ticks), half_closed }
            }
        };
        (c.peer_done, c.is_heard) = (state.peer_done, state.is_heard);
        c.first_sequence = state.first_sequence;
        cx.metrics().connections.increment();
        if session.is_some() {
            cx.metrics().websocket_connections.increment();
        }
        c.session = session;
        let is_reading = !state.inbound.is_empty() || state.deferred.is_some();
        let is_active = is_reading || state.fragments.is_some() || state.payer.is_some();
        if is_active {
            let active = c.active();
            active.inbound = state.inbound;
            active.deferred = state.deferred;
            active.payer = state.payer;
            active.is_paused = is_reading;
            if let Some(fragments) = state.fragments {
                active.message_reader =
                    pushflo_protocol::websocket::MessageReader::resume(fragments);
            }
        }
        let connection = self.connections.insert(c);
        if is_reading {
            self.resumed.push_back(connection);
        }
        self.take_subscriptions(cx, connection, &state.subscriptions, tails);
        if !state.outbound.is_empty() {
            self.send(connection, Bytes::from(state.outbound));
        }
        if let Some(c) = self.connections.get_mut(connection) {
            c.shrink();
        }
        self.ledger.changed(connection);
        self.arm(cx, connection, state.timeout_ticks);
        if !is_in_force {
            self.key_gone(cx, connection);
        }
        Some(connection)
    }

    fn take_subscriptions(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        states: &[SubscriptionState],
        tails: &[TakenTail],
    ) {
        let mut taken = Vec::with_capacity(states.len());
        for SubscriptionState { tail: index, behind, wants_presence } in states {
            let Some(&TakenTail { key, behind: of_tail }) = tails.get(*index as usize) else {
                continue;
            };
            let Some(tail) = self.tails.get_mut(key) else { continue };
            let behind = behind.or(of_tail);
            let subscription = self.subscriptions.insert(Subscription {
                connection,
                tail: key,
                place: behind.map_or(Place::Tail(tail.end()), Place::Behind),
                slot: tail.subscribers.len() as u32,
                windows: 0,
                is_behind: false,
                wants_presence: *wants_presence,
                roster: None,
                state: Stage::Live,
            });
            tail.subscribers.push(subscription);
            taken.push((key, subscription, behind.is_some()));
        }
        taken.sort_unstable_by_key(|(tail, ..)| *tail);
        if let Some(c) = self.connections.get_mut(connection) {
            c.subscriptions = taken.iter().map(|(_, subscription, _)| *subscription).collect();
        }
        for (_, subscription, _) in taken.iter().filter(|(.., is_behind)| *is_behind) {
            self.want_window(cx, connection, *subscription);
        }
    }

    /// Drops tails that were taken over and that nobody listens to.
    pub(crate) fn drop_unused_tails(&mut self, cx: &mut Context) {
        let unused = self.tails.iter().filter(|(_, tail)| tail.is_unused());
        let unused: Vec<TailKey> = unused.map(|(key, _)| key).collect();
        unused.into_iter().for_each(|key| self.drop_tail_if_unused(cx, key));
    }

    /// Whether all tails know their homes.
    pub(crate) fn is_attached(&self) -> bool {
        self.detached.is_empty()
    }
}

impl Session {
    fn state(&self, now: u32) -> SessionState {
        let grant = self.grant.as_deref().map(|token| GrantState {
            channels: token.grant.channels.clone(),
            publish: token.grant.publish.clone(),
            expires_ms: token.grant.expires_ms,
            warn_ticks: token.warn_tick.saturating_sub(now),
            end_ticks: token.end_tick.saturating_sub(now),
            is_warned: token.is_warned,
        });
        let (app, role, key, client) = (self.app, self.role, self.key, self.client().clone());
        SessionState { app, role, key, client, grant }
    }

    fn from_state(state: SessionState, now: u32) -> Self {
        let SessionState { app, role, key, client, grant } = state;
        let grant = grant.map(|grant| {
            let GrantState { channels, publish, expires_ms, warn_ticks, end_ticks, is_warned } =
                grant;
            Box::new(TokenGrant {
                // Who it is for is what the session has.
                grant: Grant { client_id: None, data: None, channels, publish, expires_ms },
                warn_tick: now.saturating_add(warn_ticks),
                end_tick: now.saturating_add(end_ticks),
                is_warned,
            })
        });
        Self::of(app, role, key, client, grant)
    }
}
