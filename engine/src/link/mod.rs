//! A link between two nodes: messages in order and without a hole, as long as it is up, over a transport that
//! may lose, double and reorder.
//!
//! What is lost is sent again. A link goes down when the other side is not heard, has begun anew, or takes
//! too long to take what was sent to it; what was under way is gone then, on both sides, and both are told.
//! So whoever uses it has two cases to think of and no third: a message arrives behind all before it, or the
//! link goes down.
//!
//! Each side numbers its sessions. A link is up between two sessions that know each other; a frame of any
//! other is not of this link.
//!
//! A state machine without I/O: frames and the time come in, frames go out.

mod frame;
#[cfg(test)]
mod model;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use frame::{Frame, Part};

/// Bytes of a part, and of the parts of a frame: well below what a NATS server takes, 1 MB.
const PART_BYTES_MAX: usize = 128 * 1024;
const FRAME_BYTES_MAX: usize = 256 * 1024;

/// Bytes that may wait to be acknowledged. Who sends more to a node that does not take it loses the link.
const UNACKNOWLEDGED_BYTES_MAX: usize = 32 << 20;

/// Bytes of parts that are sent before some are acknowledged.
const WINDOW_PARTS: u64 = 4096;

/// Bytes of a message; a link on which more comes goes down.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How often something is said where there is nothing to say, in milliseconds.
const BEAT_MS: u64 = 500;

/// For how long the other side may be silent.
const SILENCE_MS: u64 = 3_000;

/// After this time what is not acknowledged is sent again.
const RESEND_MS: u64 = 300;

/// What a link does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It is up: what is sent from now on arrives, or the link goes down.
    Up,
    /// A message has come.
    Message(Bytes),
    /// It is down: what was sent and what was to come is gone.
    Down,
}

/// One side of a link.
#[derive(Debug)]
pub struct Link {
    session: u64,
    /// That of the other side; 0 while it was not heard.
    peer: u64,
    is_up: bool,
    /// When the other side was heard last in these sessions, and when something was said to it.
    heard_ms: u64,
    said_ms: u64,
    /// What is not acknowledged, from `first` on.
    sending: VecDeque<Part>,
    sending_bytes: usize,
    first: u64,
    /// The next part that was never sent.
    next: u64,
    /// When the first of what is not acknowledged was sent last.
    resent_ms: u64,
    /// The other side takes parts before this one.
    window: u64,
    /// The next part that is to come.
    expected: u64,
    /// Something has come that is to be acknowledged.
    is_owing: bool,
    /// What has come of a message.
    partial: BytesMut,
    /// Messages that were given out and are not taken up yet: so much less is let in.
    held: u64,
    frames: VecDeque<Bytes>,
    events: VecDeque<LinkEvent>,
}

impl Link {
    /// One that is not up. `session` is one that this side never had: it is above all before it.
    pub fn new(session: u64, now_ms: u64) -> Self {
        debug_assert!(session > 0);
        Self {
            session,
            peer: 0,
            is_up: false,
            heard_ms: now_ms,
            said_ms: 0,
            sending: VecDeque::new(),
            sending_bytes: 0,
            first: 1,
            next: 1,
            resent_ms: now_ms,
            window: 1 + WINDOW_PARTS,
            expected: 1,
            is_owing: true,
            partial: BytesMut::new(),
            held: 0,
            frames: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.is_up
    }

    /// Bytes that wait to be acknowledged.
    pub fn waiting_bytes(&self) -> usize {
        self.sending_bytes
    }

    /// The next frame to send.
    pub fn next_frame(&mut self) -> Option<Bytes> {
        self.frames.pop_front()
    }

    /// What has happened next.
    pub fn next_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    /// Sends a message, with the next [`Link::flush`]; one of a link that is down is gone. A link that the
    /// other side does not keep up with goes down.
    pub fn send(&mut self, message: &Bytes, now_ms: u64) {
        if !self.is_up {
            return;
        }
        let mut rest = message.clone();
        loop {
            let bytes = rest.split_to(rest.len().min(PART_BYTES_MAX));
            let part = Part { goes_on: !rest.is_empty(), bytes };
            self.sending_bytes += part.framed_bytes();
            self.sending.push_back(part);
            if rest.is_empty() {
                break;
            }
        }
        if self.sending_bytes > UNACKNOWLEDGED_BYTES_MAX.max(2 * message.len()) {
            self.go_down(now_ms);
        }
    }

    /// So many messages that were given out are taken up.
    pub fn taken(&mut self, messages: u64) {
        self.held = self.held.saturating_sub(messages);
        self.is_owing = true;
    }

    /// Takes a frame of the other side.
    pub fn receive(&mut self, frame: &Bytes, now_ms: u64) {
        let Some(frame) = Frame::decode(frame.clone()) else { return };
        if frame.from < self.peer {
            return;
        }
        if frame.from > self.peer {
            // It has begun anew, and so does this side: it cannot know what of its own arrived.
            if self.is_up {
                self.go_down(now_ms);
            }
            self.peer = frame.from;
            self.is_owing = true;
        }
        if frame.to != self.session {
            // It does not know this session yet.
            self.is_owing |= frame.to < self.session;
            return;
        }
        self.heard_ms = now_ms;
        if !self.is_up {
            self.is_up = true;
            self.is_owing = true;
            self.resent_ms = now_ms;
            self.events.push_back(LinkEvent::Up);
        }
        self.acknowledged(frame.received, now_ms);
        self.window = self.window.max(frame.window);
        self.take_parts(frame.first, frame.parts);
        if self.partial.len() > MESSAGE_BYTES_MAX {
            self.go_down(now_ms);
        }
    }

    /// The other side has all parts before this one.
    fn acknowledged(&mut self, received: u64, now_ms: u64) {
        while self.first < received.min(self.next)
            && let Some(part) = self.sending.pop_front()
        {
            self.sending_bytes -= part.framed_bytes();
            self.first += 1;
            self.resent_ms = now_ms;
        }
    }

    fn take_parts(&mut self, first: u64, parts: Vec<Part>) {
        self.is_owing |= !parts.is_empty();
        for (number, part) in (first..).zip(parts) {
            if number != self.expected || self.room() == 0 {
                continue;
            }
            self.expected += 1;
            self.partial.extend_from_slice(&part.bytes);
            if !part.goes_on {
                self.held += 1;
                self.events.push_back(LinkEvent::Message(self.partial.split().freeze()));
            }
        }
    }

    /// How many parts are let in.
    fn room(&self) -> u64 {
        WINDOW_PARTS.saturating_sub(self.held)
    }

    /// The time. What waits to be sent goes out with [`Link::flush`].
    pub fn tick(&mut self, now_ms: u64) {
        if self.is_up && now_ms.saturating_sub(self.heard_ms) > SILENCE_MS {
            self.go_down(now_ms);
        }
        let is_late = now_ms.saturating_sub(self.resent_ms) > RESEND_MS;
        if self.is_up && self.first < self.next && is_late {
            self.next = self.first;
            self.resent_ms = now_ms;
        }
        self.is_owing |= now_ms.saturating_sub(self.said_ms) >= BEAT_MS;
    }

    /// Makes frames of what is to be said.
    pub fn flush(&mut self, now_ms: u64) {
        let end = (self.first + self.sending.len() as u64).min(self.window);
        while self.is_up && self.next < end {
            let (mut parts, mut bytes, first) = (Vec::new(), 0, self.next);
            while self.next < end
                && let Some(part) = self.sending.get((self.next - self.first) as usize)
                && (parts.is_empty() || bytes + part.framed_bytes() <= FRAME_BYTES_MAX)
            {
                bytes += part.framed_bytes();
                parts.push(part.clone());
                self.next += 1;
            }
            if first == self.first {
                self.resent_ms = now_ms;
            }
            self.say(first, parts, now_ms);
        }
        if self.is_owing {
            self.say(self.next, Vec::new(), now_ms);
        }
    }

    fn say(&mut self, first: u64, parts: Vec<Part>, now_ms: u64) {
        let (received, window) = (self.expected, self.expected + self.room());
        let frame = Frame { from: self.session, to: self.peer, received, window, first, parts };
        self.frames.push_back(frame.encode());
        self.said_ms = now_ms;
        self.is_owing = false;
    }

    fn go_down(&mut self, now_ms: u64) {
        let (peer, events) = (self.peer, std::mem::take(&mut self.events));
        *self = Self { peer, events, ..Self::new(self.session + 1, now_ms) };
        self.events.push_back(LinkEvent::Down);
    }
}
