//! The half of a shard that owns connections: sockets' bytes, sessions, subscriptions, recent frames of
//! the channels that somebody here listens to, writes that are due, and time-outs.
//!
//! It names no log and no home. What it wants of a channel goes to the channel's home as
//! [`ToHome`](crate::mail::ToHome), what it is told comes as [`ToEdge`].
//!
//! * `connection`, `session`: what there is of each connection
//! * `http`, `websocket`, `close`: what is spoken on it, and how it ends
//! * `gather`: answers that are put together from those of several homes
//! * `subscribe`, `subscription`: subscriptions, from the command to the last message
//! * `window`: subscribers that are behind their tail
//! * `tail`, `write`, `flush`: recent frames, cursors, one write for each connection and turn
//! * `ledger`: what waits on behalf of peers, and who pays
//! * `diagnostics`: what the debug log has of connections
//! * `apps`, `timer`, `drain`: revoked rights, time-outs, leaving in good order

mod apps;
mod attach;
mod check;
mod close;
mod connection;
mod diagnostics;
mod drain;
mod flush;
mod gather;
mod handover;
mod http;
mod ledger;
mod read;
mod session;
mod subscribe;
mod subscription;
mod tail;
mod timer;
mod wanting;
mod websocket;
mod window;
mod write;

use std::collections::VecDeque;
use std::net::IpAddr;

use bytes::Bytes;
use slotmap::SlotMap;

use close::CloseReason;
pub use handover::{TailOrder, TakenTail};
pub use write::Write;

use crate::context::Context;
use crate::hash::HashMap;
use crate::ids::{BatchKey, ChannelKey, ConnectionKey, ListKey, SubscriptionKey, TailKey};
use crate::mail::{Privacy, ToEdge};
use crate::shared::Refused;
use connection::Connection;
use drain::{Drain, SendingAway};
use gather::{PendingBatch, PendingList};
use ledger::Ledger;
use subscription::Subscription;
use tail::Tail;
use timer::TimerWheel;

/// What is to be done to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Send FIN; what the peer still sends is read and dropped.
    HalfClose(ConnectionKey),
    /// Close it, at once and for good. The connection is forgotten already.
    Close(ConnectionKey),
}

/// The connections of one shard.
#[derive(Debug)]
pub(crate) struct Edge {
    connections: SlotMap<ConnectionKey, Connection>,
    subscriptions: SlotMap<SubscriptionKey, Subscription>,
    tails: SlotMap<TailKey, Tail>,
    tail_of: HashMap<ChannelKey, TailKey>,
    /// Batches of publishes that wait for results of homes.
    batches: SlotMap<BatchKey, PendingBatch>,
    /// Lists of channels that wait for homes.
    lists: SlotMap<ListKey, PendingList>,
    /// Subscriptions whose windows are asked for again at the next tick.
    windows_later: Vec<(ConnectionKey, SubscriptionKey)>,
    /// Tails that keep something for many of their subscribers.
    shared: Vec<TailKey>,
    /// Tails whose home is to be told of their subscribers, or that read what these missed.
    detached: Vec<TailKey>,
    /// When attachments are counted next, in milliseconds after the start.
    attachments_due_ms: u64,
    /// Tails with something new.
    dirty: Vec<TailKey>,
    /// Connections with something to write and no write in flight.
    due: VecDeque<ConnectionKey>,
    closings: VecDeque<Closing>,
    /// Connections whose bytes may be read again.
    resumed: VecDeque<ConnectionKey>,
    /// Handshakes that wait for what other nodes may have.
    wanting: Vec<wanting::Waiting>,
    wheel: TimerWheel,
    drain: Option<Drain>,
    sending_away: Option<SendingAway>,
    /// What waits on behalf of peers, and who pays.
    ledger: Ledger,
    /// The `Date` header's value, and the second it is for.
    date: (u64, String),
}

impl Edge {
    /// One without connections.
    pub(crate) fn new(cx: &Context) -> Self {
        Self {
            connections: SlotMap::with_key(),
            subscriptions: SlotMap::with_key(),
            tails: SlotMap::with_key(),
            tail_of: HashMap::default(),
            batches: SlotMap::with_key(),
            lists: SlotMap::with_key(),
            windows_later: Vec::new(),
            shared: Vec::new(),
            detached: Vec::new(),
            attachments_due_ms: 0,
            dirty: Vec::new(),
            due: VecDeque::new(),
            closings: VecDeque::new(),
            resumed: VecDeque::new(),
            wanting: Vec::new(),
            wheel: TimerWheel::new(cx.now.tick),
            drain: None,
            sending_away: None,
            ledger: Ledger::default(),
            date: (u64::MAX, String::new()),
        }
    }

    /// Does what it is told.
    pub(crate) fn handle(&mut self, cx: &mut Context, mail: ToEdge) {
        match mail {
            ToEdge::Answered(answered) => self.answered(cx, *answered),
            ToEdge::BatchResults(results) => self.batch_results(cx, *results),
            ToEdge::ChannelList(list) => self.channel_list(cx, *list),
            ToEdge::ChannelsDescribed(described) => self.channels_described(cx, *described),
            ToEdge::Message(message) => self.message(cx, message),
            ToEdge::Subscribed(subscribed) => self.subscribed(cx, *subscribed),
            ToEdge::Attached(attached) => self.attached(cx, *attached),
            ToEdge::Window(window) => self.window(cx, *window),
            ToEdge::Unsubscribed(subscription) => self.unsubscribed(cx, subscription),
            ToEdge::Closed(tail) => self.tail_closed(cx, tail),
            ToEdge::Moved(tail) => self.tail_moved(tail),
            ToEdge::Privacy(privacy) => {
                let Privacy { tail, is_private, answer } = *privacy;
                self.tail_privacy(cx, tail, is_private);
                if let Some(answer) = answer.and_then(|answer| answer.made()) {
                    cx.answer(answer.request, answer.outcome);
                }
            }
            ToEdge::Roster(roster) => self.tail_roster(cx, roster),
            ToEdge::PresenceSnapshot(snapshot) => self.presence_snapshot(snapshot),
            ToEdge::Presence(presence) => self.tail_presence(cx, &presence),
        }
    }

    /// Whether a time-out may be due.
    pub(crate) fn is_tick_due(&self, tick: u32) -> bool {
        self.wheel.tick() < tick
    }

    /// Does what is due by time. To be called once a tick.
    pub(crate) fn tick(&mut self, cx: &mut Context) {
        while let Some((tick, connections)) = self.wheel.advance(cx.now.tick) {
            for connection in connections {
                let c = self.connections.get_mut(connection);
                if let Some(c) = c.filter(|c| c.timer_tick == tick) {
                    c.timer_tick = u32::MAX;
                    self.connection_timeout(cx, connection);
                }
            }
        }
        self.continue_drain(cx);
        self.give_up_wanting(cx);
        self.forget_shared();
        self.ask_again(cx);
        self.attach_tails(cx);
        self.count_attachments(cx);
        cx.metrics().held_bytes.set(self.ledger.held() as u64);
        cx.metrics().subscriptions.set(self.subscriptions.len() as u64);
    }

    /// Takes a connection from `peer`.
    ///
    /// # Errors
    /// [`Refused`] says which limit is reached; the socket is to be closed.
    pub(crate) fn accept(
        &mut self,
        cx: &mut Context,
        peer: IpAddr,
    ) -> Result<ConnectionKey, Refused> {
        if self.drain.is_some() {
            return Err(Refused::Draining);
        }
        let is_proxy = cx.settings.proxies.trusts(peer);
        let slot = (!is_proxy).then(|| cx.shared.address_slot(peer));
        cx.shared.admit(slot, &cx.settings.limits).inspect_err(|refused| {
            cx.metrics().connections_refused_total.increment();
            tracing::debug!(shard = cx.shard.0, %peer, "a connection is refused: {refused}");
        })?;
        let proxy = is_proxy.then_some(cx.settings.proxies.protocol);
        let connection = self.connections.insert(Connection::new(slot, proxy, cx.now.tick));
        cx.metrics().connections.increment();
        cx.metrics().connections_accepted_total.increment();
        tracing::trace!(shard = cx.shard.0, ?connection, %peer, "accepted");
        self.arm(cx, connection, cx.settings.timeouts.head);
        Ok(connection)
    }

    /// Bytes came from a connection. `bytes` is scratch space: frames are unmasked in it.
    pub(crate) fn received(
        &mut self,
        cx: &mut Context,
        connection: ConnectionKey,
        bytes: &mut [u8],
    ) {
        cx.metrics().bytes_received_total.add(bytes.len() as u64);
        if let Some(c) = self.connections.get_mut(connection) {
            c.is_heard = true;
        }
        self.read_connection(cx, connection, bytes);
    }

    /// Whether bytes of a connection may be read now. If not, [`Edge::next_resumed`] tells when.
    pub(crate) fn may_read(&mut self, cx: &Context, connection: ConnectionKey) -> bool {
        let limits = &cx.settings.limits;
        self.connections.get_mut(connection).is_some_and(|c| c.may_read(limits))
    }

    /// Whether nothing was heard from a connection yet, so that it can wait its turn.
    pub(crate) fn is_newcomer(&self, connection: ConnectionKey) -> bool {
        self.connections.get(connection).is_some_and(|c| !c.is_heard)
    }

    /// A connection whose bytes are wanted again. Those that it already has are read first.
    pub(crate) fn next_resumed(&mut self, cx: &mut Context) -> Option<ConnectionKey> {
        let connection = self.resumed.pop_front()?;
        self.resume(cx, connection);
        Some(connection)
    }

    /// How many connections [`Edge::next_resumed`] has now.
    pub(crate) fn resumed_count(&self) -> usize {
        self.resumed.len()
    }

    /// How many connections there are.
    pub(crate) fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// What is to be done to sockets.
    pub(crate) fn next_closing(&mut self) -> Option<Closing> {
        self.closings.pop_front()
    }

    /// The current `Date` header's value.
    fn date(&mut self, cx: &Context) -> &str {
        let second = cx.now.unix_ms / 1000;
        if self.date.0 != second {
            self.date = (second, pushflo_protocol::http::date(second));
        }
        &self.date.1
    }

    /// Sets a connection's time-out `ticks` from now, unless an earlier one is set.
    fn arm(&mut self, cx: &Context, connection: ConnectionKey, ticks: u32) {
        let tick = cx.now.tick.saturating_add(ticks);
        if let Some(c) = self.connections.get_mut(connection)
            && c.timer_tick > tick
        {
            c.timer_tick = self.wheel.set(connection, tick);
        }
    }

    /// Queues bytes of the connection's own: answers, events, control frames.
    fn send(&mut self, connection: ConnectionKey, bytes: Bytes) {
        if let Some(c) = self.connections.get_mut(connection) {
            c.push_out(bytes);
            self.ledger.changed(connection);
            self.mark_due(connection);
        }
    }
}
