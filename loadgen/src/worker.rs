//! A thread that generates: it owns its connections, its file table and its histograms, and waits
//! in one epoll.
#![allow(unsafe_code, reason = "parting the file table is unsafe where descriptors are shared")]

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use hdrhistogram::Histogram;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::thread::UnshareFlags;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::cache::FrameCache;
use crate::clock::now_ns;
use crate::driver::{Destination, Driver};
use crate::frame;
use crate::plan::Plan;
use crate::publisher::{Answer, InFlight, Publisher};
use crate::socket;
use crate::subscriber::{Checks, Event, State, Subscriber, Tally};

/// What all threads do at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Open connections and subscribe.
    Connect,
    /// Publish, but measure nothing yet.
    WarmUp,
    Measure,
    /// Publish nothing more, receive the answers that are left.
    Drain,
    /// All answers are there, so it is known what the last message of each channel is: receive it.
    Settle,
    /// Drop all subscribers.
    Drop,
    /// Publish what they miss.
    Miss,
    /// Have no connection at all, as the server may go away.
    Away,
    /// Connect again and recover.
    Return,
    Done,
}

impl Phase {
    const ALL: [Self; 10] = [
        Self::Connect,
        Self::WarmUp,
        Self::Measure,
        Self::Drain,
        Self::Settle,
        Self::Drop,
        Self::Miss,
        Self::Away,
        Self::Return,
        Self::Done,
    ];

    fn publishes(self) -> bool {
        matches!(self, Self::WarmUp | Self::Measure | Self::Miss)
    }
}

/// What the threads share with the one that leads them.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    phase: AtomicU8,
    /// When publishing at a fixed rate began.
    pace_start_ns: AtomicU64,
    /// Publishes sent at rate `max`, and how many there may be.
    taken: AtomicU64,
    quota: AtomicU64,
    /// The offset of each channel's last answered publish.
    heads: Vec<AtomicU64>,
    pub(crate) workers: Vec<Counters>,
}

/// What a thread tells while it runs.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) live: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) published: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    /// Subscribers that have not seen their channel's head yet; counted while settling.
    pub(crate) behind: AtomicU64,
    /// The phase for which `behind` and `live` hold.
    pub(crate) seen: AtomicU8,
    /// Nanoseconds in which it waited for something to do.
    pub(crate) idle_ns: AtomicU64,
}

impl Shared {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            heads: (0..plan.channels).map(|_| AtomicU64::new(0)).collect(),
            workers: (0..plan.threads).map(|_| Counters::default()).collect(),
            phase: AtomicU8::new(Phase::Connect as u8),
            pace_start_ns: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            quota: AtomicU64::new(u64::MAX),
            plan,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        match phase {
            Phase::WarmUp => self.pace_start_ns.store(now_ns(), Ordering::Relaxed),
            Phase::Miss => {
                let quota = self.plan.missed * self.plan.channels as u64;
                self.taken.store(0, Ordering::Relaxed);
                self.quota.store(quota, Ordering::Relaxed);
            }
            _ => {}
        }
        self.phase.store(phase as u8, Ordering::Release);
    }

    fn phase(&self) -> Phase {
        let phase = self.phase.load(Ordering::Acquire);
        Phase::ALL.get(usize::from(phase)).copied().unwrap_or(Phase::Done)
    }

    /// The sum of a counter over all threads.
    pub(crate) fn sum(&self, of: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.workers.iter().map(|worker| of(worker).load(Ordering::Relaxed)).sum()
    }

    /// Whether all threads have gone through a turn in this phase.
    pub(crate) fn all_in(&self, phase: Phase) -> bool {
        self.workers.iter().all(|worker| worker.seen.load(Ordering::Acquire) == phase as u8)
    }
}

/// What a thread has measured when it ends.
pub(crate) struct Findings {
    /// From the intended time of a publish to its receipt, in nanoseconds: one histogram for each
    /// [`Plan::interval`] of the measured time.
    pub(crate) latency: Vec<Histogram<u64>>,
    /// From the intended time of a publish to its answer.
    pub(crate) answer: Histogram<u64>,
    /// From the moment all return to a subscriber's last missed message.
    pub(crate) recovery: Histogram<u64>,
    pub(crate) tally: Tally,
    pub(crate) not_recovered: u64,
    pub(crate) failed_publishes: u64,
    /// Why connections ended that should not have, the first few.
    pub(crate) losses: Vec<String>,
    pub(crate) lost: u64,
    /// Messages between the last one a subscriber saw and its channel's head, at the end.
    pub(crate) missing: u64,
}

/// Bytes read at a time.
const BUFFER_BYTES: usize = 512 * 1024;

/// Longer times count as this one: ten minutes.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// How often those behind are counted while messages still arrive.
const COUNT_EVERY_NS: u64 = 10_000_000;

/// Reasons kept in words.
const LOSSES_MAX: usize = 5;

/// Most requests that wait for answers on a connection at a fixed rate.
const IN_FLIGHT_MAX: usize = 1_000;

pub(crate) struct Worker {
    shared: Arc<Shared>,
    index: usize,
    epoll: OwnedFd,
    timer: OwnedFd,
    buffer: Box<[u8]>,
    cache: FrameCache,
    subscribers: Vec<Option<Subscriber>>,
    /// Subscribers opened so far in this or the returning phase, of those that are this thread's.
    opened: usize,
    /// Those that are not live yet, and those that are.
    opening: usize,
    live: u64,
    /// When all began to return. A subscriber's recovery counts from then, also where it had to
    /// wait for its turn to connect.
    return_ns: u64,
    /// When measuring began.
    measure_ns: u64,
    /// When it was last counted who is behind.
    counted_ns: u64,
    /// The last offset of each subscriber that was dropped.
    positions: Vec<u64>,
    epochs: Vec<String>,
    publishers: Vec<Option<Publisher>>,
    findings: Findings,
    published: u64,
    refused: u64,
    phase: Phase,
}

/// Publishers' events are told from subscribers' by this bit.
const PUBLISHER: u64 = 1 << 63;

/// The timer's events.
const TIMER: u64 = u64::MAX;

impl Worker {
    /// Makes the thread's state, on the thread itself.
    pub(crate) fn new(shared: Arc<Shared>, index: usize) -> io::Result<Self> {
        // SAFETY: this thread uses no descriptor that another one makes after this.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES) }?;
        let plan = &shared.plan;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        Ok(Self {
            epoll,
            timer,
            buffer: vec![0; BUFFER_BYTES].into(),
            cache: FrameCache::new(plan.channels, plan.payload_bytes + 200),
            subscribers: Vec::new(),
            opened: 0,
            opening: 0,
            live: 0,
            return_ns: 0,
            measure_ns: 0,
            counted_ns: 0,
            positions: Vec::new(),
            epochs: vec![String::new(); plan.channels],
            publishers: Vec::new(),
            findings: Findings {
                latency: Vec::new(),
                answer: histogram()?,
                recovery: histogram()?,
                tally: Tally::default(),
                not_recovered: 0,
                failed_publishes: 0,
                losses: Vec::new(),
                lost: 0,
                missing: 0,
            },
            published: 0,
            refused: 0,
            phase: Phase::Connect,
            index,
            shared,
        })
    }

    /// Runs to the last phase.
    pub(crate) fn run(mut self) -> io::Result<Findings> {
        self.connect_publishers()?;
        let mut events = Vec::with_capacity(512);
        loop {
            let phase = self.shared.phase();
            if phase != self.phase {
                self.change_to(phase);
            }
            if phase == Phase::Done {
                self.count_missing();
                return Ok(self.findings);
            }
            self.open_subscribers();
            self.begin_interval()?;
            let timeout_ns = self.publish();
            self.tell();
            self.wake_in(timeout_ns)?;
            let before = now_ns();
            events.clear();
            let room = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, room, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let idle = &self.counters().idle_ns;
            idle.store(idle.load(Ordering::Relaxed) + (now_ns() - before), Ordering::Relaxed);
            for event in &events {
                let data = event.data.u64();
                if data == TIMER {
                    // Armed anew before the next wait.
                } else if data & PUBLISHER != 0 {
                    self.publisher_ready((data & !PUBLISHER) as usize);
                } else {
                    self.subscriber_ready(data as usize);
                }
            }
        }
    }

    /// Has the next wait end after this time at the latest. A wait's own time-out counts in
    /// milliseconds, which is too coarse for a latency.
    fn wake_in(&self, ns: u64) -> io::Result<()> {
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let after = Timespec { tv_sec: 0, tv_nsec: ns.clamp(1, 999_999_999) as i64 };
        let once = Itimerspec { it_interval: never, it_value: after };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    fn counters(&self) -> &Counters {
        // As many were made as there are threads.
        self.shared.workers.get(self.index).unwrap_or_else(|| unreachable!())
    }

    fn change_to(&mut self, phase: Phase) {
        self.phase = phase;
        match phase {
            Phase::Drop => {
                self.positions =
                    self.subscribers.iter().map(|s| s.as_ref().map_or(0, |s| s.last)).collect();
                self.subscribers.iter_mut().for_each(|subscriber| *subscriber = None);
                self.live = 0;
            }
            Phase::Away => self.publishers.clear(),
            Phase::Measure => self.measure_ns = now_ns(),
            Phase::Return => {
                self.opened = 0;
                self.return_ns = now_ns();
            }
            _ => {}
        }
    }

    /// Begins the next histogram of latencies when it is time.
    fn begin_interval(&mut self) -> io::Result<()> {
        let latency = &mut self.findings.latency;
        let begun = latency.len() as u64 * self.shared.plan.interval().as_nanos() as u64;
        if self.phase == Phase::Measure && now_ns() >= self.measure_ns + begun {
            latency.push(histogram()?);
        }
        Ok(())
    }

    /// Subscribers of the run that are this thread's: every `threads`-th.
    fn subscribers_here(&self) -> usize {
        let Plan { subscribers, threads, .. } = self.shared.plan;
        (subscribers + threads - 1 - self.index) / threads
    }

    fn connect_publishers(&mut self) -> io::Result<()> {
        let Plan { publishers, threads, publish_to, driver, .. } = self.shared.plan;
        for publisher in (self.index..publishers).step_by(threads) {
            let socket = socket::connect(publish_to, publisher)?;
            let data = EventData::new_u64(PUBLISHER | self.publishers.len() as u64);
            epoll::add(&self.epoll, &socket, data, EventFlags::IN)?;
            self.publishers.push(Some(Publisher::new(socket, publisher as u64, driver)));
        }
        Ok(())
    }

    fn open_subscribers(&mut self) {
        if !matches!(self.phase, Phase::Connect | Phase::Return) {
            return;
        }
        let (server, threads) = (self.shared.plan.server, self.shared.plan.threads);
        while self.opening < self.shared.plan.connecting_max
            && self.opened < self.subscribers_here()
        {
            let (slot, global) = (self.opened, self.opened * threads + self.index);
            let opened = socket::connect(server, global).and_then(|socket| {
                let data = EventData::new_u64(slot as u64);
                epoll::add(&self.epoll, &socket, data, EventFlags::OUT)?;
                Ok(socket)
            });
            self.opened += 1;
            let subscriber = match opened {
                Ok(socket) => Some(Subscriber {
                    socket,
                    channel: global % self.shared.plan.channels,
                    state: State::Connecting,
                    last: self.positions.get(slot).copied().unwrap_or_default(),
                    is_whole: false,
                    partial: Vec::new(),
                    carry: Vec::new(),
                }),
                Err(error) => {
                    self.lose(format!("connecting failed: {error}"));
                    None
                }
            };
            self.opening += usize::from(subscriber.is_some());
            match self.subscribers.get_mut(slot) {
                Some(place) => *place = subscriber,
                None => self.subscribers.push(subscriber),
            }
        }
    }

    fn lose(&mut self, reason: String) {
        self.findings.lost += 1;
        if self.findings.losses.len() < LOSSES_MAX {
            self.findings.losses.push(reason);
        }
    }

    /// Sends what is due and returns how long nothing will be.
    fn publish(&mut self) -> u64 {
        const PATIENCE_NS: u64 = 20_000_000;
        if !self.phase.publishes() || self.publishers.is_empty() {
            let ends = matches!(self.phase, Phase::Drain | Phase::Settle);
            return if ends { 1_000_000 } else { PATIENCE_NS };
        }
        let shared = Arc::clone(&self.shared);
        let plan = &shared.plan;
        let host = plan.publish_to.to_string();
        let pace_start = shared.pace_start_ns.load(Ordering::Relaxed);
        let rate = if self.phase == Phase::Miss { None } else { plan.rate };
        let mut wait = PATIENCE_NS;
        for publisher in self.publishers.iter_mut().flatten() {
            loop {
                let batch = plan.batch as u64;
                let (numbers, at_ns) = match rate {
                    Some(rate) => {
                        let first = publisher.next * batch;
                        let due = pace_start + (first as f64 * 1e9 / rate) as u64;
                        let now = now_ns();
                        if due > now {
                            wait = wait.min(due - now);
                            break;
                        }
                        if publisher.in_flight.len() >= IN_FLIGHT_MAX * plan.batch {
                            break;
                        }
                        publisher.next += plan.publishers as u64;
                        (first..first + batch, due)
                    }
                    None => {
                        if publisher.in_flight.len() >= plan.pipeline * plan.batch {
                            break;
                        }
                        let quota = shared.quota.load(Ordering::Relaxed);
                        let first = shared.taken.fetch_add(batch, Ordering::Relaxed);
                        if first >= quota {
                            break;
                        }
                        (first..(first + batch).min(quota), now_ns())
                    }
                };
                for number in numbers {
                    let index = (number % plan.channels as u64) as usize;
                    let (channel, publish) =
                        (&plan.channel(index), InFlight { channel: index, number, at_ns });
                    if plan.batch > 1 {
                        publisher.add(channel, plan.payload_bytes, publish);
                        continue;
                    }
                    let (key, path) = (&plan.secret_key, plan.publish_path.as_deref());
                    let app = &plan.publish_key;
                    let to = Destination { channel, host: &host, app, key, path };
                    publisher.push(&to, plan.payload_bytes, publish);
                }
                if plan.batch > 1 {
                    publisher.push_batch(&host, &plan.secret_key);
                }
            }
            if !publisher.out.is_empty() {
                // An error shows when its answers are read.
                let _ = socket::send(&publisher.socket, &mut publisher.out);
                if !publisher.out.is_empty() {
                    wait = wait.min(1_000_000);
                }
            }
        }
        wait
    }

    fn publisher_ready(&mut self, index: usize) {
        let measuring = self.phase == Phase::Measure;
        let Some(place) = self.publishers.get_mut(index) else { return };
        let Some(publisher) = place else { return };
        let held = std::mem::take(&mut publisher.partial);
        let Some(room) = receive_behind(&held, &mut self.buffer) else { return };
        let bytes = match socket::receive(&publisher.socket, room) {
            Ok(Some(bytes)) if bytes > 0 => bytes,
            Ok(None) => {
                publisher.partial = held;
                return;
            }
            Ok(Some(_)) | Err(_) => {
                *place = None;
                self.lose("a publisher's connection ended".into());
                return;
            }
        };
        let now = now_ns();
        let mut rest = self.buffer.get(..held.len() + bytes).unwrap_or_default();
        let ends = publisher.ends_with(rest);
        let mut answers = Vec::new();
        while let Some((some, taken)) = publisher.parse_answers(rest, self.shared.plan.batch) {
            rest = rest.get(taken..).unwrap_or_default();
            answers.extend(some);
        }
        for answer in answers {
            let Some(request) = publisher.in_flight.pop_front() else { break };
            let offset = match answer {
                Answer::Published(offset) => offset,
                Answer::Accepted => request.number / self.shared.plan.channels as u64 + 1,
                Answer::Refused => {
                    self.refused += 1;
                    continue;
                }
                Answer::Failed(status) => {
                    self.findings.failed_publishes += 1;
                    if self.findings.losses.len() < LOSSES_MAX {
                        self.findings.losses.push(format!("a publish was answered with {status}"));
                    }
                    continue;
                }
            };
            self.published += 1;
            if measuring {
                self.findings.answer.saturating_record(now.saturating_sub(request.at_ns));
            }
            if let Some(head) = self.shared.heads.get(request.channel) {
                head.fetch_max(offset, Ordering::Relaxed);
            }
        }
        publisher.partial = rest.to_vec();
        if ends && publisher.in_flight.is_empty() {
            self.reconnect_publisher(index);
        }
    }

    /// Some servers end the connection with every answer.
    fn reconnect_publisher(&mut self, index: usize) {
        let plan = &self.shared.plan;
        let Some(Some(publisher)) = self.publishers.get_mut(index) else { return };
        let data = EventData::new_u64(PUBLISHER | index as u64);
        let again = socket::connect(plan.publish_to, index).and_then(|socket| {
            epoll::add(&self.epoll, &socket, data, EventFlags::IN)?;
            Ok(socket)
        });
        match again {
            Ok(socket) => publisher.socket = socket,
            Err(error) => self.lose(format!("a publisher could not connect again: {error}")),
        }
    }

    fn subscriber_ready(&mut self, slot: usize) {
        let Some(Some(subscriber)) = self.subscribers.get_mut(slot) else { return };
        if subscriber.state == State::Connecting {
            self.connected(slot);
            return;
        }
        let held = std::mem::take(&mut subscriber.partial);
        let Some(room) = receive_behind(&held, &mut self.buffer) else { return };
        let bytes = match socket::receive(&subscriber.socket, room) {
            Ok(Some(bytes)) if bytes > 0 => bytes,
            Ok(None) => {
                subscriber.partial = held;
                return;
            }
            Ok(Some(_)) => return self.end(slot, "the server ended the connection".into()),
            Err(error) => return self.end(slot, error.to_string()),
        };
        let now = now_ns();
        let measuring = self.phase == Phase::Measure;
        let mut latency = self.findings.latency.last_mut().filter(|_| measuring);
        let mut events = Vec::new();
        let mut checks = Checks {
            driver: self.shared.plan.driver,
            cache: &mut self.cache,
            tally: &mut self.findings.tally,
            payload_bytes: self.shared.plan.payload_bytes,
            channels: self.shared.plan.channels,
            record: &mut |intended_ns| {
                if let Some(latency) = &mut latency {
                    latency.saturating_record(now.saturating_sub(intended_ns));
                }
            },
        };
        let bytes = self.buffer.get(..held.len() + bytes).unwrap_or_default();
        subscriber.read(bytes, &mut checks, &mut events);
        if self.phase == Phase::Return && subscriber.state == State::Live {
            let head = self.shared.heads.get(subscriber.channel);
            let head = head.map_or(0, |head| head.load(Ordering::Relaxed));
            if subscriber.last >= head && !std::mem::replace(&mut subscriber.is_whole, true) {
                self.findings.recovery.saturating_record(now.saturating_sub(self.return_ns));
            }
        }
        for event in events {
            self.event(slot, event);
        }
    }

    fn connected(&mut self, slot: usize) {
        let Some(Some(subscriber)) = self.subscribers.get_mut(slot) else { return };
        if let Ok(Err(error)) = rustix::net::sockopt::socket_error(&subscriber.socket) {
            return self.end(slot, format!("connecting failed: {error}"));
        }
        let plan = &self.shared.plan;
        let channel = plan.channel(subscriber.channel);
        let path = plan.subscribe_path.as_deref();
        let target = plan.driver.target(path, &channel, &plan.publish_key);
        let server = plan.server;
        let mut request = format!(
            "GET {target} HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .into_bytes();
        subscriber.state = State::Upgrading;
        let sent = socket::send(&subscriber.socket, &mut request);
        let data = EventData::new_u64(slot as u64);
        let watched = epoll::modify(&self.epoll, subscriber.socket.as_fd(), data, EventFlags::IN);
        if sent.is_err() || watched.is_err() || !request.is_empty() {
            self.end(slot, "the upgrade could not be sent".into());
        }
    }

    fn event(&mut self, slot: usize, event: Event) {
        let Some(Some(subscriber)) = self.subscribers.get_mut(slot) else { return };
        match event {
            Event::Upgraded => {
                let channel = self.shared.plan.channel(subscriber.channel);
                let epoch = self.epochs.get(subscriber.channel).map_or("", String::as_str);
                let command = if self.phase == Phase::Return {
                    let offset = subscriber.last;
                    format!(
                        r#"{{"type":"subscribe","channel":"{channel}","recover":{{"epoch":"{epoch}","offset":{offset}}}}}"#
                    )
                } else {
                    format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#)
                };
                let mut out = Vec::new();
                match self.shared.plan.driver {
                    Driver::Pushflo => frame::push(&mut out, frame::TEXT, command.as_bytes()),
                    other => other.push_hello(&mut out, &channel),
                }
                if socket::send(&subscriber.socket, &mut out).is_err() {
                    self.end(slot, "the subscription could not be sent".into());
                }
            }
            Event::Subscribed(epoch) => {
                self.opening = self.opening.saturating_sub(1);
                self.live += 1;
                if let Some(known) = self.epochs.get_mut(subscriber.channel) {
                    *known = epoch;
                }
            }
            Event::NotRecovered => self.findings.not_recovered += 1,
            Event::Pong(mut pong) => {
                let _ = socket::send(&subscriber.socket, &mut pong);
            }
            Event::Closed(reason) => self.end(slot, reason),
        }
    }

    fn end(&mut self, slot: usize, reason: String) {
        if let Some(place) = self.subscribers.get_mut(slot)
            && let Some(subscriber) = place.take()
        {
            match subscriber.state {
                State::Live => self.live = self.live.saturating_sub(1),
                _ => self.opening = self.opening.saturating_sub(1),
            }
            self.lose(reason);
        }
    }

    /// Tells the leading thread how it stands.
    fn tell(&mut self) {
        if matches!(self.phase, Phase::Settle | Phase::Return) {
            let now = now_ns();
            let is_new = self.counters().seen.load(Ordering::Relaxed) != self.phase as u8;
            if is_new || now - self.counted_ns > COUNT_EVERY_NS {
                self.counted_ns = now;
                self.counters().behind.store(self.count_behind(), Ordering::Relaxed);
            }
        }
        let in_flight: usize = self.publishers.iter().flatten().map(|p| p.in_flight.len()).sum();
        let counters = self.counters();
        counters.delivered.store(self.findings.tally.delivered, Ordering::Relaxed);
        counters.published.store(self.published, Ordering::Relaxed);
        counters.refused.store(self.refused, Ordering::Relaxed);
        counters.in_flight.store(in_flight as u64, Ordering::Relaxed);
        counters.live.store(self.live, Ordering::Relaxed);
        counters.seen.store(self.phase as u8, Ordering::Release);
    }

    /// Subscribers here that have not come to their channel's head, or are not there at all.
    fn count_behind(&self) -> u64 {
        let unopened = self.subscribers_here().saturating_sub(self.opened) as u64;
        let behind = self.subscribers.iter().flatten().filter(|subscriber| {
            let head = self.shared.heads.get(subscriber.channel);
            let head = head.map_or(0, |head| head.load(Ordering::Relaxed));
            subscriber.state != State::Live || subscriber.last < head
        });
        unopened + behind.count() as u64
    }

    fn count_missing(&mut self) {
        for subscriber in self.subscribers.iter().flatten() {
            let head = self.shared.heads.get(subscriber.channel);
            let head = head.map_or(0, |head| head.load(Ordering::Relaxed));
            self.findings.missing += head.saturating_sub(subscriber.last);
        }
    }
}

/// An empty histogram of nanoseconds.
pub(crate) fn histogram() -> io::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).map_err(io::Error::other)
}

/// Puts what was held at the start of the buffer and returns the room behind it.
fn receive_behind<'a>(held: &[u8], buffer: &'a mut [u8]) -> Option<&'a mut [u8]> {
    buffer.get_mut(..held.len())?.copy_from_slice(held);
    buffer.get_mut(held.len()..)
}
