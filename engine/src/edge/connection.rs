//! One socket's life: HTTP first, then perhaps WebSocket, then closing.
//!
//! A `Connection` is a small record. All that a connection needs only while something happens on
//! it is in `Active`, which is made when it is needed and dropped when it is empty: an idle
//! connection owns no buffer.

use std::collections::VecDeque;

use bytes::Bytes;
use pushflo_protocol::dialect::pushflo::event;
use pushflo_protocol::http::RequestReader;
use pushflo_protocol::websocket::MessageReader;
use pushflo_protocol::{ChannelSlug, Refusal};

use super::http::PendingAnswer;
use super::ledger::Account;
use super::session::Session;
use super::websocket::PendingPublish;
use super::window::WINDOW_BYTES;
use crate::edge::Write;
use crate::ids::{AppId, SubscriptionKey};
use crate::proxies::ProxyProtocol;
use crate::settings::Limits;
use crate::shared::AddressSlot;

/// A connection's record.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) phase: Phase,
    /// The peer sends nothing more.
    pub(super) peer_done: bool,
    /// Something was heard from it.
    pub(super) is_heard: bool,
    /// Where it is counted; not yet known of one that comes through a proxy.
    pub(super) address: Option<AddressSlot>,
    /// How the proxy it comes through tells whose it is.
    pub(super) proxy: Option<ProxyProtocol>,
    /// Who is behind it, while it is a WebSocket.
    pub(super) session: Option<Session>,
    /// The tick at which its time-out comes up; `u32::MAX` for none.
    pub(super) timer_tick: u32,
    /// When the peer was last heard, or, while a request is read, when that began.
    pub(super) heard_tick: u32,
    /// The sequence number of the first of its answers, or of its publishes, that is not given: none is used
    /// again, since an answer of another node may come after it was given up.
    pub(super) first_sequence: u32,
    /// What it is subscribed to, in the order of the tails.
    pub(super) subscriptions: Vec<SubscriptionKey>,
    /// What the ledger has of it.
    pub(super) account: Account,
    pub(super) active: Option<Box<Active>>,
}

/// What is spoken on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A proxy is to tell whose connection it is.
    Proxy,
    Http,
    /// A WebSocket.
    Open {
        pinged: bool,
    },
    /// A last write is on its way; what the peer sends is dropped. `until` is a tick.
    Closing {
        until: u32,
        half_closed: bool,
    },
}

/// What a connection has only while something happens on it.
#[derive(Debug, Default)]
pub(super) struct Active {
    /// Bytes of an unfinished request or frame.
    pub(super) inbound: Vec<u8>,
    pub(super) request_reader: RequestReader,
    pub(super) message_reader: MessageReader,
    /// Answers to pipelined requests in their order.
    pub(super) answers: VecDeque<PendingAnswer>,
    /// What those of them cost that are there and wait for earlier ones.
    pub(super) answer_bytes: usize,
    /// Requests under way whose answers may be large: pages and lists.
    pub(super) large_answers: usize,
    /// The app in whose name it last asked for something.
    pub(super) payer: Option<AppId>,
    /// Bytes of the connection's own, ready to be written.
    pub(super) out: VecDeque<Bytes>,
    /// What `out` costs.
    pub(super) out_bytes: usize,
    /// Bytes of the write in flight.
    pub(super) writing_bytes: usize,
    /// Bytes that tails keep for it.
    pub(super) tail_bytes: usize,
    /// What the answers to its own publishes are to carry, in their order.
    pub(super) publishes: VecDeque<PendingPublish>,
    /// Subscriptions that wait for the home's answer.
    pub(super) subscribes: usize,
    /// Subscriptions with something to send, each once.
    pub(super) behind: VecDeque<SubscriptionKey>,
    /// Windows that were read for it and are not sent yet, one for a subscription at most.
    pub(super) windows: Vec<HeldWindow>,
    /// Their bytes.
    pub(super) window_bytes: usize,
    /// Windows that it may still get without asking: those that are under way.
    pub(super) windows_under_way: usize,
    /// Subscriptions that want a window when there is room for one.
    pub(super) wanting: VecDeque<SubscriptionKey>,
    /// The last words on subscriptions that end, when all before is sent.
    pub(super) farewells: Vec<Farewell>,
    /// What is left of a write that was taken in part.
    pub(super) unfinished: Option<Write>,
    /// The tick at which the write in flight began.
    pub(super) writing_since: u32,
    pub(super) is_writing: bool,
    pub(super) is_due: bool,
    /// A command that waits for the answer to an earlier one about the same channel; what comes
    /// behind it is not read meanwhile.
    pub(super) deferred: Option<Box<str>>,
    /// There was no room when some of its bytes were to be read: see [`Connection::may_read`].
    pub(super) is_paused: bool,
}

/// A window that was read for a subscription.
#[derive(Debug)]
pub(super) struct HeldWindow {
    pub(super) subscription: SubscriptionKey,
    pub(super) bytes: Bytes,
    pub(super) frames: u64,
}

/// The last word on a subscription.
#[derive(Debug)]
pub(super) struct Farewell {
    pub(super) subscription: SubscriptionKey,
    /// The block of the tail that it does not get any more.
    pub(super) until: u64,
    /// Why it ends, if not by its own wish.
    pub(super) reason: Option<Refusal>,
}

impl Farewell {
    /// What a connection is told about a channel to which its subscription ends.
    pub(super) fn words(&self, slug: &ChannelSlug) -> impl Iterator<Item = Bytes> + use<> {
        let reason = self.reason.as_ref().map(|reason| event::error(reason, Some(slug), None));
        reason.into_iter().chain([event::unsubscribed(slug)])
    }
}

/// What a piece of bytes costs in memory: its place in a queue, and what the allocator needs around it.
pub(super) fn cost(bytes: &Bytes) -> usize {
    bytes.len() + PIECE_BYTES
}

/// What a piece of bytes costs besides itself.
const PIECE_BYTES: usize = 128;

/// Requests of a connection under way that are large, or whose answers may be.
const LARGE_ANSWERS_MAX: usize = 1;

/// Windows of a connection that are under way or held: with its other channels, and what it does not
/// read, it must not take more than a few.
pub(super) const WINDOWS_MAX: usize = 4;

impl Connection {
    pub(super) fn new(
        address: Option<AddressSlot>,
        proxy: Option<ProxyProtocol>,
        tick: u32,
    ) -> Self {
        let is_announced = proxy == Some(ProxyProtocol::Proxy);
        Self {
            phase: if is_announced { Phase::Proxy } else { Phase::Http },
            peer_done: false,
            is_heard: false,
            address,
            proxy,
            session: None,
            timer_tick: u32::MAX,
            heard_tick: tick,
            first_sequence: 0,
            subscriptions: Vec::new(),
            account: Account::default(),
            active: None,
        }
    }

    pub(super) fn is_websocket(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
    }

    /// Who is behind it, while it is a WebSocket.
    pub(super) fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Where it is counted.
    pub(super) fn address(&self) -> Option<AddressSlot> {
        self.address
    }

    /// Bytes of its own that wait to be written.
    pub(super) fn out_bytes(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.out_bytes)
    }

    /// Whether nothing is under way on it.
    pub(super) fn is_quiet(&self) -> bool {
        self.active.is_none() && !matches!(self.phase, Phase::Closing { .. })
    }

    /// Whether there is room for what more bytes may bring.
    pub(super) fn wants_bytes(&self, limits: &Limits) -> bool {
        self.active.as_ref().is_none_or(|active| {
            active.deferred.is_none()
                && active.out_bytes + active.answer_bytes + active.window_bytes
                    < limits.out_bytes_max
                && active.large_answers < LARGE_ANSWERS_MAX
                && active.answers.len() < limits.pipelined_requests_max
                && active.publishes.len() < limits.pipelined_requests_max
                && active.subscribes < limits.pipelined_requests_max
        })
    }

    /// Whether bytes may be read or acted upon now. If there is no room the connection is paused
    /// until [`Connection::resume`] finds some: bytes that are held come before newer ones.
    pub(super) fn may_read(&mut self, limits: &Limits) -> bool {
        let wanted = self.wants_bytes(limits);
        match &mut self.active {
            None => true,
            Some(active) => {
                active.is_paused |= !wanted;
                !active.is_paused
            }
        }
    }

    /// Has a command wait, and all behind it.
    pub(super) fn defer(&mut self, command: &str) {
        self.active().deferred = Some(command.into());
    }

    /// Whether a command waits.
    pub(super) fn has_deferred(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.deferred.is_some())
    }

    /// The command that waited.
    pub(super) fn take_deferred(&mut self) -> Option<Box<str>> {
        self.active.as_mut()?.deferred.take()
    }

    /// Ends a pause if there is room again, and says whether it did.
    pub(super) fn resume(&mut self, limits: &Limits) -> bool {
        let wanted = self.wants_bytes(limits);
        self.active.as_mut().is_some_and(|active| wanted && std::mem::take(&mut active.is_paused))
    }

    pub(super) fn push_out(&mut self, bytes: Bytes) {
        let active = self.active();
        active.out_bytes += cost(&bytes);
        active.out.push_back(bytes);
    }

    pub(super) fn has_out(&self) -> bool {
        self.active.as_ref().is_some_and(|active| !active.out.is_empty())
    }

    pub(super) fn push_behind(&mut self, subscription: SubscriptionKey) {
        self.active().behind.push_back(subscription);
    }

    pub(super) fn pop_behind(&mut self) -> Option<SubscriptionKey> {
        self.active.as_mut()?.behind.pop_front()
    }

    /// Whether one more window may be read for it, which it then counts.
    pub(super) fn begin_window(&mut self) -> bool {
        let active = self.active();
        let is_room = active.windows_under_way + active.windows.len() < WINDOWS_MAX;
        active.windows_under_way += usize::from(is_room);
        is_room
    }

    /// A window that was under way is there, or will not come. Returns whether it was counted.
    pub(super) fn end_window(&mut self) -> bool {
        let under_way = self.active.as_mut().map(|active| &mut active.windows_under_way);
        let Some(under_way) = under_way.filter(|under_way| **under_way > 0) else { return false };
        *under_way -= 1;
        true
    }

    /// The window that is held for a subscription.
    pub(super) fn take_window(&mut self, subscription: SubscriptionKey) -> Option<HeldWindow> {
        let windows = &mut self.active.as_mut()?.windows;
        let index = windows.iter().position(|window| window.subscription == subscription)?;
        let window = windows.swap_remove(index);
        self.active().window_bytes -= window.bytes.len();
        Some(window)
    }

    /// Keeps a window until it is sent.
    pub(super) fn hold_window(&mut self, window: HeldWindow) {
        let active = self.active();
        active.window_bytes += window.bytes.len();
        active.windows.push(window);
    }

    /// The last word on a subscription that ends.
    pub(super) fn farewell(&self, subscription: SubscriptionKey) -> Option<&Farewell> {
        let farewells = &self.active.as_ref()?.farewells;
        farewells.iter().find(|farewell| farewell.subscription == subscription)
    }

    /// Takes the last word on a subscription, and forgets all else about it.
    pub(super) fn take_farewell(&mut self, subscription: SubscriptionKey) -> Option<Farewell> {
        self.take_window(subscription);
        let active = self.active.as_mut()?;
        active.wanting.retain(|wanting| *wanting != subscription);
        let index = active.farewells.iter().position(|f| f.subscription == subscription)?;
        Some(active.farewells.swap_remove(index))
    }

    /// Whether the connection is to be put in line for a write now.
    pub(super) fn take_due(&mut self) -> bool {
        let Some(active) = &mut self.active else { return false };
        let something =
            active.unfinished.is_some() || !active.out.is_empty() || !active.behind.is_empty();
        let due = something && !active.is_writing && !active.is_due;
        active.is_due |= due;
        due
    }

    /// The write of a new write: what an earlier one left, or the connection's own bytes. After
    /// this `out` is empty unless the write is full.
    pub(super) fn begin_write(&mut self, tick: u32) -> Write {
        let Some(active) = &mut self.active else { return Write::default() };
        active.is_due = false;
        active.is_writing = true;
        active.writing_since = tick;
        let mut write = active.unfinished.take().unwrap_or_default();
        while !write.is_full()
            && let Some(bytes) = active.out.pop_front()
        {
            active.out_bytes -= cost(&bytes);
            write.push(bytes);
        }
        write
    }

    /// What it holds in memory while something happens on it, at its real cost.
    pub(super) fn held_bytes(&self) -> usize {
        let Some(active) = &self.active else { return 0 };
        size_of::<Active>()
            + active.inbound.capacity()
            + active.request_reader.kept_bytes()
            + active.message_reader.kept_bytes()
            + active.answers.len() * size_of::<PendingAnswer>()
            + active.answer_bytes
            + active.publishes.len() * size_of::<PendingPublish>()
            + active.out_bytes
            + active.window_bytes
            + active.windows_under_way * WINDOW_BYTES
            + active.writing_bytes
            + active.unfinished.as_ref().map_or(0, Write::len)
            + active.deferred.as_ref().map_or(0, |command| command.len())
            + active.tail_bytes
    }

    /// The app that pays for it, where it is known.
    pub(super) fn payer(&self) -> Option<AppId> {
        match &self.session {
            Some(session) => Some(session.app),
            None => self.active.as_ref()?.payer,
        }
    }

    /// A write ended and left `rest`.
    pub(super) fn write_done(&mut self, rest: Option<Write>) {
        if let Some(active) = &mut self.active {
            active.is_writing = false;
            active.writing_bytes = 0;
            active.unfinished = rest;
        }
        self.shrink();
    }

    pub(super) fn active(&mut self) -> &mut Active {
        self.active.get_or_insert_default()
    }

    /// Gives back what is not needed while nothing happens.
    pub(super) fn shrink(&mut self) {
        if self.active.as_ref().is_some_and(|active| active.is_empty()) {
            self.active = None;
        }
    }
}

impl Active {
    fn is_empty(&self) -> bool {
        self.inbound.is_empty()
            && !self.request_reader.is_reading_body()
            && self.message_reader.is_idle()
            && self.answers.is_empty()
            && self.publishes.is_empty()
            && self.subscribes == 0
            && self.out.is_empty()
            && self.behind.is_empty()
            && self.windows.is_empty()
            && self.windows_under_way == 0
            && self.wanting.is_empty()
            && self.farewells.is_empty()
            && self.unfinished.is_none()
            && self.deferred.is_none()
            && !self.is_writing
            && !self.is_paused
    }
}
