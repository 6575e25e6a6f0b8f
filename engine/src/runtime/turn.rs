//! A shard's loop: one turn is everything that waited, then one flush, then sleep.
//!
//! What can wake it is listed in [`Events`], and nothing else does.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::accepting::Listeners;
use super::courier::Courier;
use super::mailbox::{Inbox, Mailbox};
use super::notify::{Notify, yield_now};
use super::parking::{Arrival, Parking};
use super::ring::Rest;
use super::sockets::{ReadOutcome, Sockets};
use super::steering::{Command, Ways};
use super::writing::{Writing, Written};
use crate::clock::{Clock, Now, ticks};
use crate::host::Host;
use crate::ids::{ConnectionKey, ShardId};
use crate::shard::{Closing, Shard};
use crate::shared::Shared;

/// Envelopes taken in one turn; more wait for the next, so that sockets get their turn too.
const ENVELOPES_PER_TURN: usize = 4096;

/// The shard's one receive buffer. Whoever has more to say goes on in the next turn.
const RECEIVE_BYTES: usize = 64 * 1024;

/// Connections that come or go in one turn. When thousands do at once they take their turns, so that
/// those who stay are served in between.
const PATIENT_PER_TURN: usize = 256;

/// How long envelopes wait before they are offered again to a full mailbox.
const RETRY: Duration = Duration::from_millis(1);

/// Ticks that time-outs wait for input at most: an endless stream of newcomers must not keep silent
/// connections for ever.
const TIMERS_WAIT_MAX: u32 = ticks(2_000);

/// The answer to a connection over a limit, sent without looking at its request.
const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n\
    Connection: close\r\n\r\n";

/// What tasks of the shard's thread report to its loop. Besides these, the waker's eventfd wakes
/// the loop, for envelopes, for parked sockets, for writes that had to wait and for a drain; its task only
/// notifies.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) notify: Notify,
    /// Connections accepted.
    pub(super) accepted: RefCell<Vec<(OwnedFd, IpAddr)>>,
    /// A task will offer the outboxes again.
    retrying: Cell<bool>,
    /// Tasks that accept connections.
    pub(super) accepting: Cell<usize>,
}

/// A shard with all that its loop needs.
pub(super) struct Turns {
    pub(super) id: ShardId,
    pub(super) shard: Shard,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
    pub(super) inbox: Inbox,
    /// All shards' mailboxes by shard, its own included.
    pub(super) mailboxes: Vec<Mailbox>,
    pub(super) ways: Ways,
    pub(super) parking: Parking,
    pub(super) writing: Writing,
    pub(super) events: Rc<Events>,
    /// How long a drain spreads its closes.
    pub(super) drain_spread_ms: u64,
    pub(super) host: Host,
    pub(super) listeners: Listeners,
    /// Where descriptors come from that are made after the shard has a file table of its own.
    pub(super) uplink: Courier,
    /// It takes nothing in; see [`Order::Freeze`].
    pub(super) is_frozen: bool,
    /// It was handed connections, and their tails are still to be attached to their homes.
    pub(super) is_attaching: bool,
    /// Envelopes that it has got.
    pub(super) envelopes: u64,
    pub(super) kept: Kept,
}

/// What the loop keeps from one turn to the next; nothing at first.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) sockets: Sockets,
    receive_buffer: ReceiveBuffer,
    arrivals: Vec<Arrival>,
    written: Vec<Written>,
    /// Connections to read from, and whether to their end.
    readable: Vec<(ConnectionKey, bool)>,
    /// Others that can wait: nothing was heard from them before, or they end.
    patient: VecDeque<(ConnectionKey, bool)>,
    /// The longest turn of this span of time and of the one before.
    longest: LongestTurn,
    /// A ring has completions that nothing will tell of.
    is_unheard: bool,
    /// Some of what had come did not get its turn.
    is_cut_short: bool,
    /// Since when time-outs wait for input that was there before them.
    timers_wait_since: Option<u32>,
    is_draining: bool,
    /// The tick from which memory is given back again.
    gives_back_at: u32,
}

/// Where the bytes of one read lie until the shard has seen them.
struct ReceiveBuffer(Box<[u8]>);

impl Default for ReceiveBuffer {
    fn default() -> Self {
        Self(vec![0; RECEIVE_BYTES].into())
    }
}

/// The longest turn of late: how long whoever is served may have had to wait for the others.
#[derive(Debug, Default)]
struct LongestTurn {
    span: u64,
    now: Duration,
    before: Duration,
}

/// Ticks between two times at which memory is given back.
const GIVE_BACK_TICKS: u32 = ticks(10_000);

/// Seconds of a span. What is told is of this one and the last.
const SPAN_SECONDS: u64 = 10;

impl LongestTurn {
    fn add(&mut self, begun: Duration, ended: Duration) -> Duration {
        let span = ended.as_secs() / SPAN_SECONDS;
        if span != self.span {
            let is_next = span == self.span + 1;
            self.before = if is_next { self.now } else { Duration::ZERO };
            self.now = Duration::ZERO;
            self.span = span;
        }
        self.now = self.now.max(ended.saturating_sub(begun));
        self.now.max(self.before)
    }
}

impl Turns {
    /// Runs until the server has drained.
    pub(super) async fn run(mut self) {
        if !self.is_frozen {
            self.listeners.accept(&self.events);
        }
        loop {
            while let Some(Command { order, done }) = self.inbox.command() {
                // Whoever gave it may have stopped waiting.
                let _ = done.send(self.obey(order));
            }
            self.turn();
            if self.shard.is_drained() && self.shared.connection_count() == 0 {
                return;
            }
            let is_more = !self.kept.readable.is_empty()
                || !self.kept.patient.is_empty()
                || self.shard.resumed_count() > 0
                || self.shard.has_writes()
                || self.kept.is_unheard;
            if is_more && !self.is_frozen || self.is_attaching || !self.inbox.may_sleep() {
                yield_now().await;
                continue;
            }
            self.events.notify.notified().await;
            self.inbox.awake();
        }
    }

    fn turn(&mut self) {
        let begun = self.clock.elapsed();
        self.shard.metrics().turns_total.increment();
        let now = self.clock.now();
        self.shard.tell_time(now);
        if !self.is_frozen {
            self.begin_drain();
        }
        self.apply_envelopes();
        self.accept();
        self.finish_writes();
        if !self.is_frozen {
            self.read();
            self.run_timers(now);
            self.give_memory_back(now);
        }
        // In a cluster, a home may be out of reach for long: the ticks go on with it.
        if self.is_attaching {
            self.is_attaching = self.shard.attach() && self.ways.cluster.is_none();
        }
        self.shard.flush();
        let writing = self.write();
        let left = self.post_envelopes();
        self.close();
        let rests = [writing, self.parking.submit()];
        self.kept.is_unheard = rests.contains(&Rest::Completions);
        if left || rests.contains(&Rest::Entries) {
            self.retry();
        }
        let longest = self.kept.longest.add(begun, self.clock.elapsed());
        self.shard.metrics().longest_turn_microseconds.set(longest.as_micros() as u64);
    }

    /// Gives memory that was freed back to the system, now and then.
    fn give_memory_back(&mut self, now: Now) {
        if now.tick >= self.kept.gives_back_at {
            self.kept.gives_back_at = now.tick.saturating_add(GIVE_BACK_TICKS);
            (self.host.give_memory_back)();
        }
    }

    fn begin_drain(&mut self) {
        if !self.kept.is_draining && self.shared.draining.load(Ordering::Relaxed) {
            self.kept.is_draining = true;
            self.listeners.close();
            self.shard.drain(self.drain_spread_ms);
        }
    }

    fn apply_envelopes(&mut self) {
        self.shard.metrics().mailbox_depth.set(self.inbox.len() as u64);
        for _ in 0..ENVELOPES_PER_TURN {
            let Some(envelope) = self.inbox.pop() else { break };
            self.envelopes += 1;
            self.shard.apply(envelope);
            if self.shard.is_turn_over() {
                self.kept.is_cut_short = true;
                break;
            }
        }
    }

    fn accept(&mut self) {
        for (socket, peer) in self.events.accepted.take() {
            match self.shard.accept(peer) {
                Ok(connection) => {
                    self.parking.watch(&socket, connection);
                    self.kept.sockets.insert(connection, socket);
                }
                Err(_) => {
                    let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
                    let _ = rustix::net::send(&socket, REFUSAL, flags);
                }
            }
        }
    }

    fn finish_writes(&mut self) {
        self.writing.drain(&mut self.kept.written);
        for Written { connection, write, outcome } in self.kept.written.drain(..) {
            self.kept.sockets.end_write(connection);
            match outcome {
                Ok(bytes) => self.shard.written(connection, write, bytes),
                Err(_) => self.shard.failed(connection),
            }
        }
    }

    fn read(&mut self) {
        self.parking.drain(&mut self.kept.arrivals);
        for Arrival { connection, ended, disarmed } in self.kept.arrivals.drain(..) {
            if disarmed && let Some(socket) = self.kept.sockets.fd(connection) {
                self.parking.watch(socket, connection);
            }
            if ended || self.shard.is_newcomer(connection) {
                self.kept.patient.push_back((connection, ended));
            } else {
                self.kept.readable.push((connection, ended));
            }
        }
        let patient = self.kept.patient.len().min(PATIENT_PER_TURN);
        self.kept.readable.extend(self.kept.patient.drain(..patient));
        for _ in 0..self.shard.resumed_count() {
            if self.shard.is_turn_over() {
                break;
            }
            let Some(connection) = self.shard.next_resumed() else { break };
            self.kept.readable.push((connection, true));
        }
        for (connection, to_the_end) in std::mem::take(&mut self.kept.readable) {
            if self.shard.is_turn_over() {
                self.kept.is_cut_short = true;
                self.kept.readable.push((connection, to_the_end));
                continue;
            }
            if !self.shard.may_read(connection) {
                continue;
            }
            match self.kept.sockets.receive(connection, &mut self.kept.receive_buffer.0) {
                ReadOutcome::Bytes(bytes) => {
                    let whole = bytes == self.kept.receive_buffer.0.len();
                    let bytes = self.kept.receive_buffer.0.get_mut(..bytes).unwrap_or_default();
                    self.shard.received(connection, bytes);
                    if whole || to_the_end {
                        self.kept.readable.push((connection, to_the_end));
                    }
                }
                ReadOutcome::Nothing => {}
                ReadOutcome::End => self.shard.end_of_input(connection),
                ReadOutcome::Failed => self.shard.failed(connection),
            }
        }
    }

    /// Does what is due by time, once everybody was heard who had something to say by then: after a
    /// pause of the process, a pong that waits in the kernel is no silence.
    fn run_timers(&mut self, now: Now) {
        let is_cut_short = std::mem::take(&mut self.kept.is_cut_short);
        if is_cut_short || self.kept.is_unheard || !self.kept.patient.is_empty() {
            let since = *self.kept.timers_wait_since.get_or_insert(now.tick);
            if now.tick.saturating_sub(since) < TIMERS_WAIT_MAX {
                return;
            }
        }
        self.kept.timers_wait_since = None;
        self.shard.advance(now);
    }

    /// Starts all writes of the turn, and finishes those that the sockets take at once.
    fn write(&mut self) -> Rest {
        while !self.is_frozen
            && let Some((connection, write)) = self.shard.next_write()
        {
            match self.kept.sockets.begin_write(connection) {
                Some(socket) => self.writing.begin(socket, connection, write),
                None => self.shard.failed(connection),
            }
            if self.writing.is_full() {
                self.writing.submit();
                self.writing.drain(&mut self.kept.written);
            }
        }
        let rest = self.writing.submit();
        self.finish_writes();
        rest
    }

    /// Hands over what waits for others. Returns whether some of it found no room.
    fn post_envelopes(&mut self) -> bool {
        if self.shard.outbox_depth() > 0 {
            for (index, mailbox) in self.mailboxes.iter().enumerate() {
                let to = ShardId(index as u16);
                let sent = self.shard.post_mail(to, |mail| mailbox.post_mail(mail));
                if sent > 0 && mailbox.wake() {
                    self.shard.metrics().wakeups_total.increment();
                }
            }
        }
        if let Some(cluster) = self.ways.cluster.as_ref().filter(|_| self.shard.outbox_depth() > 0)
        {
            let from = self.id;
            self.shard.post_abroad(|to, mail| cluster.post(from, to, mail));
        }
        let mut left = self.shard.outbox_depth() > 0;
        if let Some(cluster) = &self.ways.cluster {
            left |= self.shard.post_cluster_questions(|request| cluster.ask(request));
            left |= self.shard.post_wants(|want| cluster.want(want));
        }
        if let Some(log) = &self.ways.log {
            left |= self.shard.post_log_calls(|call| log.post(call));
        }
        if let Some(accounts) = &self.ways.accounts {
            left |= self.shard.post_accounts_calls(|call| accounts.post(call));
        }
        left
    }

    /// Has a turn begin shortly, for what found no room in this one.
    fn retry(&self) {
        if !self.events.retrying.replace(true) {
            let events = Rc::clone(&self.events);
            monoio::spawn(async move {
                monoio::time::sleep(RETRY).await;
                events.retrying.set(false);
                events.notify.notify();
            });
        }
    }

    fn close(&mut self) {
        while let Some(closing) = self.shard.next_closing() {
            match closing {
                Closing::HalfClose(connection) => self.kept.sockets.half_close(connection),
                Closing::Close(connection) => {
                    self.parking.forget(connection);
                    self.kept.sockets.close(connection);
                }
            }
        }
    }
}
