//! One subscribed connection, and the check of everything that arrives on it.

use std::os::fd::OwnedFd;

use memchr::memmem;
use serde::Deserialize;

use crate::cache::FrameCache;
use crate::driver::{Driver, Said};
use crate::frame::{self, Frame};
use crate::payload::Payload;

/// A connection that subscribes to one channel.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) socket: OwnedFd,
    pub(crate) channel: usize,
    pub(crate) state: State,
    /// The offset of the last message, or of the head at subscription.
    pub(crate) last: u64,
    /// Whether it has come back and got all it missed.
    pub(crate) is_whole: bool,
    /// The beginning of a frame whose rest is still to come.
    pub(crate) partial: Vec<u8>,
    /// The beginning of a message that a peer cut over frames.
    pub(crate) carry: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Connecting,
    Upgrading,
    Subscribing,
    Live,
}

/// What a thread has seen so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) delivered: u64,
    pub(crate) gaps: u64,
    pub(crate) duplicates: u64,
    pub(crate) damaged: u64,
    pub(crate) unexpected: u64,
}

/// What a subscriber's bytes are checked with.
pub(crate) struct Checks<'a> {
    pub(crate) driver: Driver,
    pub(crate) cache: &'a mut FrameCache,
    pub(crate) tally: &'a mut Tally,
    pub(crate) payload_bytes: usize,
    /// Publish n goes to channel n modulo this.
    pub(crate) channels: usize,
    /// Called with the intended time of each message.
    pub(crate) record: &'a mut dyn FnMut(u64),
}

/// What happened besides messages.
#[derive(Debug, PartialEq)]
pub(crate) enum Event {
    /// The server agreed to speak WebSocket: time to subscribe.
    Upgraded,
    /// The subscription stands; the head's epoch.
    Subscribed(String),
    /// Missed messages could not be had.
    NotRecovered,
    /// Answer with this frame.
    Pong(Vec<u8>),
    /// The connection is over; why.
    Closed(String),
}

#[derive(Deserialize)]
struct ServerEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    offset: Option<u64>,
    prev: Option<u64>,
    epoch: Option<&'a str>,
    recovered: Option<bool>,
    #[serde(borrow)]
    data: Option<&'a serde_json::value::RawValue>,
}

impl Subscriber {
    /// Reads all whole frames of `bytes`, keeps the rest, and says what happened.
    pub(crate) fn read(&mut self, bytes: &[u8], checks: &mut Checks<'_>, events: &mut Vec<Event>) {
        let mut rest = bytes;
        if self.state == State::Upgrading {
            let Some(end) = memmem::find(rest, b"\r\n\r\n") else {
                self.partial = rest.to_vec();
                return;
            };
            if !rest.starts_with(b"HTTP/1.1 101 ") {
                let line = rest.split(|&byte| byte == b'\r').next().unwrap_or_default();
                let text = format!("the upgrade failed: {}", String::from_utf8_lossy(line));
                events.push(Event::Closed(text));
                return;
            }
            self.state = State::Subscribing;
            events.push(Event::Upgraded);
            if checks.driver.subscribes_by_address() {
                self.state = State::Live;
                events.push(Event::Subscribed(String::new()));
            }
            rest = rest.get(end + 4..).unwrap_or_default();
        }
        loop {
            while let Some((bytes, intended_ns)) =
                checks.cache.find(self.channel, self.last.wrapping_add(1), rest)
            {
                self.last += 1;
                checks.tally.delivered += 1;
                (checks.record)(intended_ns);
                rest = rest.get(bytes..).unwrap_or_default();
            }
            match frame::parse(rest) {
                Ok(Some(frame)) => {
                    let whole = rest.get(..frame.bytes).unwrap_or_default();
                    let taken = frame.bytes;
                    self.frame(&frame, whole, checks, events);
                    rest = rest.get(taken..).unwrap_or_default();
                }
                Ok(None) => break,
                Err(_) => {
                    checks.tally.unexpected += 1;
                    events.push(Event::Closed("a broken frame".into()));
                    return;
                }
            }
        }
        self.partial = rest.to_vec();
    }

    fn frame(
        &mut self,
        frame: &Frame<'_>,
        whole: &[u8],
        checks: &mut Checks<'_>,
        events: &mut Vec<Event>,
    ) {
        match frame.opcode {
            frame::TEXT if checks.driver == Driver::Pushflo => {
                self.text(frame.payload, whole, checks, events);
            }
            frame::TEXT | frame::BINARY if checks.driver != Driver::Pushflo => {
                self.peer(frame.payload, whole, checks, events);
            }
            frame::PING => {
                let mut pong = Vec::new();
                frame::push(&mut pong, frame::PONG, frame.payload);
                events.push(Event::Pong(pong));
            }
            frame::PONG => {}
            frame::CLOSE => {
                let reason = match frame.payload.split_first_chunk() {
                    Some((code, reason)) => {
                        let code = u16::from_be_bytes(*code);
                        format!("closed with {code} {}", String::from_utf8_lossy(reason))
                    }
                    None => "closed without a code".into(),
                };
                events.push(Event::Closed(reason));
            }
            _ => checks.tally.unexpected += 1,
        }
    }

    fn text(
        &mut self,
        text: &[u8],
        whole: &[u8],
        checks: &mut Checks<'_>,
        events: &mut Vec<Event>,
    ) {
        let Ok(event) = serde_json::from_slice::<ServerEvent<'_>>(text) else {
            checks.tally.unexpected += 1;
            return;
        };
        match event.kind {
            "connected" => {}
            "subscribed" => {
                self.state = State::Live;
                match event.recovered {
                    // What follows was missed; it begins behind the last that was seen.
                    Some(true) => {}
                    Some(false) => events.push(Event::NotRecovered),
                    None => self.last = event.offset.unwrap_or_default(),
                }
                events.push(Event::Subscribed(event.epoch.unwrap_or_default().to_owned()));
            }
            "message" => self.message(&event, whole, checks),
            _ => {
                checks.tally.unexpected += 1;
                events.push(Event::Closed(String::from_utf8_lossy(text).into_owned()));
            }
        }
    }

    /// A frame of another server. Its messages have no offset: the number of the publish in its
    /// channel stands for it.
    fn peer(
        &mut self,
        payload: &[u8],
        whole: &[u8],
        checks: &mut Checks<'_>,
        events: &mut Vec<Event>,
    ) {
        let mut carried = std::mem::take(&mut self.carry);
        let is_whole = carried.is_empty();
        let payload = if is_whole {
            payload
        } else {
            carried.extend_from_slice(payload);
            carried.as_slice()
        };
        let mut all = Vec::new();
        let taken = checks.driver.read(payload, &mut all);
        self.carry = payload.get(taken..).unwrap_or_default().to_vec();
        let is_alone = is_whole && self.carry.is_empty() && all.len() == 1;
        for said in all {
            match said {
                Said::Subscribed if self.state != State::Live => {
                    self.state = State::Live;
                    events.push(Event::Subscribed(String::new()));
                }
                Said::Subscribed => {}
                Said::Send(bytes) => events.push(Event::Pong(bytes)),
                Said::Refused(reason) => events.push(Event::Closed(reason)),
                Said::Message(content) => {
                    let number = serde_json::from_str::<Payload<'_>>(&content).map(|p| p.number);
                    let offset = number.map_or(0, |n| n / checks.channels as u64 + 1);
                    let frame = if is_alone { whole } else { &[] };
                    self.content(offset, offset.wrapping_sub(1), &content, frame, checks);
                }
            }
        }
    }

    fn message(&mut self, event: &ServerEvent<'_>, whole: &[u8], checks: &mut Checks<'_>) {
        let offset = event.offset.unwrap_or_default();
        let before = event.prev.unwrap_or(offset.wrapping_sub(1));
        let content = event.data.map(serde_json::value::RawValue::get).unwrap_or_default();
        // Behind a leap the offset alone does not tell that the frame is the right one.
        let frame = if event.prev.is_none() { whole } else { &[] };
        self.content(offset, before, content, frame, checks);
    }

    /// Checks one message; `frame` is remembered if it is right and not empty.
    fn content(
        &mut self,
        offset: u64,
        before: u64,
        content: &str,
        frame: &[u8],
        checks: &mut Checks<'_>,
    ) {
        if offset <= self.last {
            checks.tally.duplicates += 1;
            return;
        }
        if before != self.last {
            checks.tally.gaps += 1;
        }
        self.last = offset;
        let payload = serde_json::from_str::<Payload<'_>>(content);
        let is_right = |payload: &Payload<'_>| {
            payload.is_intact(content, checks.payload_bytes)
                && payload.number % checks.channels as u64 == self.channel as u64
        };
        let Some(payload) = payload.ok().filter(is_right) else {
            checks.tally.damaged += 1;
            return;
        };
        checks.tally.delivered += 1;
        (checks.record)(payload.intended_ns);
        if !frame.is_empty() {
            checks.cache.insert(self.channel, offset, payload.intended_ns, frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{self, PAYLOAD_BYTES_MIN};

    fn frame(text: &str) -> Vec<u8> {
        assert!(text.len() > 125);
        [&[0x81, 126][..], &(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
    }

    fn message(offset: u64, damage: &str) -> Vec<u8> {
        let mut content = Vec::new();
        payload::push(&mut content, offset, 5, PAYLOAD_BYTES_MIN);
        let content =
            String::from_utf8(content).unwrap().replace("xx\"}", &format!("{damage}\"}}"));
        frame(&format!(
            r#"{{"type":"message","channel":"load-0","messageId":"01M86RYEXAMPLE","eventType":"load","clientId":null,"data":{content},"timestamp":1,"offset":{offset}}}"#
        ))
    }

    /// Reads `bytes` in pieces at two subscribers with one cache.
    fn read(bytes: &[u8], piece: usize) -> Tally {
        let (mut cache, mut tally) = (FrameCache::new(1, 300), Tally::default());
        for _ in 0..2 {
            let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
            let (socket, state) = (socket.into(), State::Live);
            let mut subscriber = Subscriber {
                socket,
                channel: 0,
                state,
                last: 0,
                is_whole: false,
                partial: vec![],
                carry: vec![],
            };
            for piece in bytes.chunks(piece) {
                let joined = [std::mem::take(&mut subscriber.partial).as_slice(), piece].concat();
                let mut checks = Checks {
                    driver: Driver::Pushflo,
                    cache: &mut cache,
                    tally: &mut tally,
                    payload_bytes: PAYLOAD_BYTES_MIN,
                    channels: 1,
                    record: &mut |intended_ns| assert_eq!(intended_ns, 5),
                };
                subscriber.read(&joined, &mut checks, &mut Vec::new());
            }
        }
        tally
    }

    #[test]
    fn whole_and_in_pieces() {
        let bytes: Vec<u8> = (1..=20).flat_map(|offset| message(offset, "xx")).collect();
        for piece in [1, 7, 100, 1_000, bytes.len()] {
            let tally = read(&bytes, piece);
            assert_eq!((tally.delivered, tally.gaps, tally.damaged), (40, 0, 0), "{piece}");
        }
    }

    #[test]
    fn a_gap_a_duplicate_and_damage_are_seen() {
        let all =
            |offsets: &[u64]| offsets.iter().flat_map(|o| message(*o, "xx")).collect::<Vec<_>>();
        let tally = read(&all(&[1, 2, 4]), 64);
        assert_eq!((tally.delivered, tally.gaps, tally.duplicates), (6, 2, 0));
        let tally = read(&all(&[1, 2, 2, 3]), 64);
        assert_eq!((tally.delivered, tally.gaps, tally.duplicates), (6, 0, 2));
        let tally = read(&all(&[2, 1]), 64);
        assert_eq!((tally.delivered, tally.gaps, tally.duplicates), (2, 2, 2));
        for damage in ["xy", "x", "xxx"] {
            assert_eq!(read(&message(1, damage), 64).damaged, 2, "{damage}");
        }
    }
}
