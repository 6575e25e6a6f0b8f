//! Simulated clients over WebSocket: they make bytes and read bytes, and hold what they see against what
//! they asked for and what the oracle knows.

use std::collections::{BTreeSet, VecDeque};

use data_encoding::BASE64URL_NOPAD;
use fastrand::Rng;
use hmac::{Hmac, KeyInit as _, Mac as _};
use pushflo_engine::accounts::{Role, SigningKey};
use serde_json::{Value, json};
use sha2::Sha256;

use super::network::{Link, find, frame};
use super::oracle::{Channel, Content, Moment, Oracle, Place};
use super::trace::say;

/// How far clocks may be off, as the server allows for tokens.
const LEEWAY_MS: u64 = 5_000;

/// A member of a channel: its client id, and whether somebody vouched for it.
pub type Member = (String, bool);

/// With what a client connects, over all its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The first key of this role.
    Key(Role),
    /// The newest key that was made later, if there is one.
    LaterKey,
    /// A token of the backend's, for this client id if there is one.
    Token(Option<u8>),
}

/// What a token grants; channels by number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    channels: Option<Vec<usize>>,
    publish: Vec<usize>,
    expires_ms: u64,
}

/// What a subscription asks for of the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Past {
    #[default]
    Nothing,
    Recover,
    Last(u64),
    Since(u64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ViewState {
    #[default]
    Idle,
    /// Asked so many times; the first asked for the past.
    Asked(u32),
    Live,
    Leaving,
}

/// What a client knows of a channel.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub state: ViewState,
    /// The last position seen, kept over connections.
    position: Option<(String, u64)>,
    /// The offset behind which this subscription's messages began.
    base: u64,
    /// So many messages are still to come of the past, the last of them at this offset.
    replaying: Option<(u64, u64)>,
    /// The replayed messages must not be older.
    since_ms: u64,
    past: Past,
    asked: Moment,
    /// Whether it may subscribe, if that was certain when it asked.
    may: Option<bool>,
    /// Its rights may have changed since it asked.
    is_refreshed: bool,
    /// Subscribes that were sent while it was subscribed.
    again: u32,
    /// When the last of them was sent, if it had no right to a private channel then.
    again_without_right: Option<u64>,
    /// It was refused, and the end of the subscription follows, or may.
    is_forbidden: bool,
    /// One more `unsubscribed` may come.
    may_end_again: bool,
    wants_presence: bool,
    /// Who is there, as far as it was told.
    pub members: Option<BTreeSet<Member>>,
    /// How often it began to subscribe.
    asks: u32,
    /// Offsets of its own messages since it asked.
    own: Vec<u64>,
}

impl View {
    /// The last position, if it saw where it is.
    fn known_position(&self) -> Option<(String, u64)> {
        self.position.clone().filter(|(_, offset)| *offset != u64::MAX)
    }

    /// Another subscription begins.
    fn ask(&mut self, past: Past, asked: Moment, may: Option<bool>, wants_presence: bool) {
        let position = self.known_position();
        let (may_end_again, asks) = (self.may_end_again, self.asks + 1);
        *self = Self {
            position,
            may_end_again,
            asks,
            past,
            asked,
            may,
            wants_presence,
            ..Self::default()
        };
        self.state = ViewState::Asked(1);
    }

    pub fn is_waiting(&self) -> bool {
        matches!(self.state, ViewState::Asked(_) | ViewState::Leaving) || self.again > 0
    }
}

/// A publish that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Sent {
    content: Content,
    is_keyed: bool,
    /// It was sent before; that it is refused now does not say that it was then.
    is_repeated: bool,
    may: Option<bool>,
    padding: usize,
    /// It was sent behind a subscription to its channel, to the head: the how manyth.
    behind: Option<u32>,
}

/// A client over all its connections.
#[derive(Debug)]
pub struct Client {
    /// The first app, or one that comes and goes.
    pub slot: usize,
    pub identity: Identity,
    pub link: Option<Link>,
    pub is_connected: bool,
    pub views: Vec<View>,
    /// The app of its connection, and the key behind it.
    pub app: usize,
    pub key: usize,
    client_id: String,
    is_verified: bool,
    is_upgraded: bool,
    opened: Moment,
    grant: Option<Grant>,
    /// What tokens grant that were sent and not answered yet.
    refreshing: VecDeque<Grant>,
    publishes: VecDeque<Sent>,
    /// Publishes with a key whose answer a lost connection took.
    unanswered: Vec<Sent>,
}

impl Client {
    pub fn new(slot: usize, identity: Identity, channels: usize) -> Self {
        Self {
            slot,
            identity,
            link: None,
            is_connected: false,
            views: vec![View::default(); channels],
            app: 0,
            key: 0,
            client_id: String::new(),
            is_verified: true,
            is_upgraded: false,
            opened: Moment::default(),
            grant: None,
            refreshing: VecDeque::new(),
            publishes: VecDeque::new(),
            unanswered: Vec::new(),
        }
    }

    /// The key it comes with, of an app.
    pub fn pick_key(&self, app: usize, oracle: &Oracle) -> Option<usize> {
        let keys = &oracle.apps[app].keys;
        match self.identity {
            Identity::Key(role) => keys.iter().position(|key| key.role == role),
            Identity::LaterKey => (keys.len() > 3).then_some(keys.len() - 1),
            // Signed with the secret key, or with one that was made later.
            Identity::Token(_) => match keys.iter().rposition(|key| key.role == Role::Secret) {
                Some(later) if later > 3 && self.slot == 1 => Some(later),
                _ => keys.iter().position(|key| key.role == Role::Secret),
            },
        }
    }

    /// Connects to an app with one of its keys.
    pub fn begin(&mut self, mut link: Link, app: usize, key: usize, oracle: &Oracle, r: &mut Rng) {
        if self.app != app {
            self.unanswered.clear();
            self.views.iter_mut().for_each(|view| view.position = None);
        }
        (self.app, self.key) = (app, key);
        let text = &oracle.apps[app].keys[key].text;
        self.grant = None;
        let token = match self.identity {
            Identity::Key(_) | Identity::LaterKey => text.clone(),
            Identity::Token(_) => {
                let grant = self.new_grant(oracle.now, r);
                let token = self.sign(&grant, text, oracle);
                self.grant = Some(grant);
                token
            }
        };
        link.send(&format!(
            "GET /ws?token={token} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ));
        self.is_connected = false;
        self.is_upgraded = false;
        self.opened = oracle.now;
        self.refreshing.clear();
        for view in &mut self.views {
            view.state = ViewState::Idle;
            view.again = 0;
            view.may_end_again = false;
            view.members = None;
        }
        self.link = Some(link);
    }

    /// Its connection is gone.
    pub fn lose(&mut self) {
        let publishes = std::mem::take(&mut self.publishes);
        // Who gets another client id next time is somebody else, whose keys are others.
        if self.identity != Identity::Token(None) {
            self.unanswered.extend(publishes.into_iter().filter(|sent| sent.is_keyed));
        }
    }

    fn new_grant(&self, now: Moment, r: &mut Rng) -> Grant {
        let some = |r: &mut Rng| (0..self.views.len()).filter(|_| r.u8(..) < 170).collect();
        Grant {
            channels: (r.u8(..) < 180).then(|| some(r)),
            publish: some(r),
            expires_ms: (now.ms / 1000 + r.u64(2..400)) * 1000,
        }
    }

    fn sign(&self, grant: &Grant, key: &str, oracle: &Oracle) -> String {
        let names =
            |list: &[usize]| -> Vec<String> { list.iter().map(|n| format!("c{n}")).collect() };
        let mut claims = json!({
            "aud": "pushflo",
            "exp": grant.expires_ms / 1000,
            "publish": names(&grant.publish),
        });
        if let Some(channels) = &grant.channels {
            claims["channels"] = names(channels).into();
        }
        if let Identity::Token(Some(name)) = self.identity {
            claims["sub"] = format!("m{name}").into();
            claims["data"] = json!({ "of": name });
        }
        let id = oracle.apps[self.app].keys[self.key].id;
        let head = json!({ "alg": "HS256", "typ": "JWT", "kid": id.to_string() });
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(&head), part(&claims));
        let secret = SigningKey::of(key).secret();
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(signed.as_bytes());
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&mac.finalize().into_bytes()))
    }

    fn channel(&self, number: usize) -> Channel {
        (self.app, number)
    }

    fn role(&self, oracle: &Oracle) -> Role {
        oracle.apps[self.app].keys[self.key].role
    }

    /// Whether all grants it may have now say so, or none does; `None` if some do.
    fn granted(&self, is_granted: impl Fn(&Grant) -> bool) -> Option<bool> {
        let mut all = self.grant.iter().chain(&self.refreshing).map(is_granted);
        let first = all.next()?;
        all.all(|other| other == first).then_some(first)
    }

    /// Whether it may subscribe to the channel if that is not private.
    fn may_subscribe(&self, number: usize) -> Option<bool> {
        match self.identity {
            Identity::Token(_) => {
                self.granted(|grant| grant.channels.as_ref().is_none_or(|c| c.contains(&number)))
            }
            _ => Some(true),
        }
    }

    /// Whether it may be in a private channel.
    pub fn may_be_private(&self, number: usize, oracle: &Oracle) -> Option<bool> {
        match self.identity {
            Identity::Token(_) => {
                self.granted(|grant| grant.channels.as_ref().is_some_and(|c| c.contains(&number)))
            }
            _ => Some(self.role(oracle) >= Role::Secret),
        }
    }

    fn may_publish(&self, number: usize, oracle: &Oracle) -> Option<bool> {
        match self.identity {
            Identity::Token(_) => self.granted(|grant| grant.publish.contains(&number)),
            _ => Some(self.role(oracle) >= Role::Secret),
        }
    }

    /// Who it is to the members of channels.
    pub fn member(&self) -> Member {
        (self.client_id.clone(), self.is_verified)
    }

    pub fn subscribe(
        &mut self,
        number: usize,
        past: Past,
        presence: bool,
        oracle: &mut Oracle,
        mask: [u8; 4],
    ) {
        let (may, now) = (self.may_subscribe(number), oracle.now);
        let has_no_right = self.may_be_private(number, oracle) == Some(false);
        let view = &mut self.views[number];
        let mut command = json!({ "type": "subscribe", "channel": format!("c{number}") });
        if presence {
            command["presence"] = true.into();
        }
        match view.state {
            ViewState::Idle => {
                let past = match (past, view.known_position()) {
                    (Past::Recover, None) => Past::Nothing,
                    (past, _) => past,
                };
                match past {
                    Past::Nothing => {}
                    Past::Recover => {
                        let (epoch, offset) = view.position.clone().unwrap();
                        command["recover"] = json!({ "epoch": epoch, "offset": offset });
                    }
                    Past::Last(count) => command["replay"] = json!({ "last": count }),
                    Past::Since(ms) => command["replay"] = json!({ "since": ms }),
                }
                view.ask(past, now, may, presence);
            }
            // Asked again: answered again, and nothing changes.
            ViewState::Asked(times) if view.past == Past::Nothing => {
                view.state = ViewState::Asked(times + 1);
                view.wants_presence |= presence;
                view.may = view.may.filter(|before| Some(*before) == may);
            }
            ViewState::Live => {
                view.again += 1;
                view.again_without_right = Some(now.step).filter(|_| has_no_right);
                view.wants_presence |= presence;
                oracle.count("subscribed twice");
            }
            ViewState::Asked(_) | ViewState::Leaving => return,
        }
        self.send(&command, mask);
    }

    pub fn unsubscribe(&mut self, number: usize, mask: [u8; 4]) {
        let view = &mut self.views[number];
        if view.state == ViewState::Live && view.again == 0 {
            view.state = ViewState::Leaving;
            self.send(&json!({ "type": "unsubscribe", "channel": format!("c{number}") }), mask);
        }
    }

    pub fn publish(
        &mut self,
        number: usize,
        content: u64,
        padding: usize,
        is_keyed: bool,
        oracle: &mut Oracle,
        mask: [u8; 4],
    ) {
        let (content, may) = ((self.channel(number), content), self.may_publish(number, oracle));
        let view = &self.views[number];
        let is_behind = view.past == Past::Nothing
            && matches!(view.state, ViewState::Asked(1) | ViewState::Live);
        let behind = is_behind.then_some(view.asks);
        let sent = Sent { content, is_keyed, is_repeated: false, may, padding, behind };
        self.send_publish(sent, oracle, mask);
    }

    fn send_publish(&mut self, sent: Sent, oracle: &mut Oracle, mask: [u8; 4]) {
        let Sent { content: ((_, number), content), is_keyed, padding, .. } = sent;
        let mut command = json!({
            "type": "publish",
            "channel": format!("c{number}"),
            "event": format!("e{}", content % 2),
            "data": { "n": content, "pad": "x".repeat(padding) },
            "ref": content.to_string(),
        });
        if is_keyed {
            command["id"] = format!("k{content}").into();
        }
        oracle.sends(sent.content);
        self.publishes.push_back(sent);
        self.send(&command, mask);
    }

    /// Asks again for what was not answered.
    pub fn repeat(&mut self, oracle: &mut Oracle, mask: [u8; 4]) {
        for sent in std::mem::take(&mut self.unanswered) {
            let may = self.may_publish(sent.content.0.1, oracle);
            oracle.count("publishes asked for again");
            let again = Sent { is_repeated: true, may, behind: None, ..sent };
            self.send_publish(again, oracle, mask);
        }
    }

    /// Brings a fresh token.
    pub fn refresh(&mut self, oracle: &mut Oracle, r: &mut Rng, mask: [u8; 4]) {
        if self.grant.is_none() || !self.refreshing.is_empty() {
            return;
        }
        let grant = self.new_grant(oracle.now, r);
        let token = self.sign(&grant, &oracle.apps[self.app].keys[self.key].text, oracle);
        self.refreshing.push_back(grant);
        self.views.iter_mut().for_each(|view| view.is_refreshed = true);
        self.send(&json!({ "type": "refresh", "token": token }), mask);
    }

    pub fn ping(&mut self, mask: [u8; 4]) {
        self.send(&json!({ "type": "ping" }), mask);
    }

    pub fn ack(&mut self, mask: [u8; 4]) {
        self.send(&json!({ "type": "ack", "messageId": "m" }), mask);
    }

    fn send(&mut self, command: &Value, mask: [u8; 4]) {
        if let Some(link) = &mut self.link {
            say(|| format!("  {} says {command}", link.connection_name()));
            link.send_text(&command.to_string(), mask);
        }
    }

    /// Takes up to `most` bytes off the network and acts on what is whole.
    pub fn read(&mut self, most: usize, oracle: &mut Oracle) {
        let Some(link) = &mut self.link else { return };
        link.receive(most);
        let mut received = std::mem::take(&mut link.received);
        let mut taken = 0;
        if !self.is_upgraded {
            let Some(end) = find(&received, b"\r\n\r\n") else {
                link.received = received;
                return;
            };
            if received.starts_with(b"HTTP/1.1 408 ") {
                // The handshake took too long to arrive.
                link.client_done = true;
                link.received = received;
                return;
            }
            assert!(received.starts_with(b"HTTP/1.1 101 "), "{}", received.escape_ascii());
            taken = end + 4;
            self.is_upgraded = true;
        }
        let mut closed = false;
        while let Some((opcode, payload, bytes)) = frame(&received[taken..]) {
            assert!(!closed, "a frame after the close frame");
            match opcode {
                0x1 => {
                    let event = serde_json::from_slice(payload).expect("an event is JSON");
                    self.event(&event, oracle);
                }
                0x8 => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    self.closed(code, oracle);
                    closed = true;
                }
                0x9 => self.link.as_mut().unwrap().send_pong(),
                0xa => {}
                other => panic!("unexpected opcode {other}"),
            }
            taken += bytes;
        }
        received.drain(..taken);
        let link = self.link.as_mut().unwrap();
        link.received = received;
        if closed {
            // Answers the close by leaving.
            link.client_done = true;
        }
    }

    fn closed(&mut self, code: u16, oracle: &mut Oracle) {
        match code {
            1000 => {}
            1001 => oracle.count("closed as away or silent"),
            4008 => oracle.count("too slow"),
            4001 => {
                oracle.count("closed as unauthorized");
                self.assert_unauthorized(oracle);
            }
            other => panic!("closed with {other}"),
        }
    }

    /// That it is unauthorized has a reason.
    fn assert_unauthorized(&self, oracle: &Oracle) {
        let is_expired = self.granted(|grant| grant.expires_ms > oracle.now.ms) != Some(true);
        let is_expired = is_expired && self.grant.is_some();
        let is_valid = oracle.is_valid(self.app, self.key, self.opened.step) == Some(true);
        assert!(is_expired || !is_valid, "a good key was refused");
    }

    fn event(&mut self, event: &Value, oracle: &mut Oracle) {
        say(|| format!("  {} hears {event}", self.link.as_ref().unwrap().connection_name()));
        let channel = event["channel"].as_str().map(|c| c[1..].parse::<usize>().unwrap());
        match (event["type"].as_str().unwrap(), channel) {
            ("connected", None) => self.connected(event, oracle),
            ("subscribed", Some(channel)) => self.subscribed(channel, event, oracle),
            ("message", Some(channel)) => self.message(channel, event, oracle),
            ("unsubscribed", Some(channel)) => self.unsubscribed(channel, oracle),
            ("published", Some(channel)) => self.published(channel, event, oracle),
            ("presence", Some(channel)) => self.presence(channel, event, oracle),
            ("error", Some(channel)) if !event["ref"].is_null() => {
                self.publish_refused(channel, event, oracle);
            }
            ("error", Some(channel)) => self.refused(channel, event, oracle),
            ("error", None) => {
                assert_eq!(event["code"], "UNAUTHORIZED", "{event}");
                // A token that is brought may be one of a revoked key, or may have ended on its way; or
                // the one before ends.
                match self.refreshing.pop_front().filter(|_| self.is_connected) {
                    Some(grant) => {
                        let ends_ms = |grant: &Grant| grant.expires_ms;
                        let is_ended = grant.expires_ms <= oracle.now.ms
                            || self.grant.as_ref().map(ends_ms) <= Some(oracle.now.ms);
                        let is_valid = oracle.is_valid(self.app, self.key, self.opened.step);
                        assert!(is_ended || is_valid != Some(true), "{event}");
                        oracle.count("refreshes refused");
                    }
                    None => self.assert_unauthorized(oracle),
                }
            }
            ("token_expiring", None) => {
                let expires_ms = event["expiresAt"].as_u64().unwrap();
                let mut grants = self.grant.iter().chain(&self.refreshing);
                assert!(grants.any(|grant| grant.expires_ms == expires_ms), "{event}");
                oracle.count("tokens expiring");
            }
            ("refreshed", None) => {
                let grant = self.refreshing.pop_front().expect("a refresh was asked for");
                assert_eq!(event["expiresAt"].as_u64(), Some(grant.expires_ms));
                self.grant = Some(grant);
                oracle.count("refreshes");
            }
            ("pong", None) => {}
            other => panic!("unexpected {other:?}"),
        }
    }

    fn connected(&mut self, event: &Value, oracle: &mut Oracle) {
        assert!(!self.is_connected);
        self.is_connected = true;
        self.client_id = event["clientId"].as_str().unwrap().to_owned();
        if let Identity::Token(Some(name)) = self.identity {
            assert_eq!(self.client_id, format!("m{name}"));
        }
        let is_valid = oracle.is_valid(self.app, self.key, self.opened.step);
        assert_ne!(is_valid, Some(false), "a key that was revoked lets somebody in");
        if let Some(grant) = &self.grant {
            assert!(grant.expires_ms + LEEWAY_MS > self.opened.ms, "an old token lets somebody in");
        }
    }

    fn subscribed(&mut self, number: usize, event: &Value, oracle: &mut Oracle) {
        let channel = self.channel(number);
        let epoch = event["epoch"].as_str().unwrap().to_owned();
        let head = event["offset"].as_u64().unwrap();
        let has_no_right = self.may_be_private(number, oracle) == Some(false);
        oracle.sees_epoch(channel, &epoch);
        let view = &mut self.views[number];
        match view.state {
            ViewState::Asked(times) => {
                view.state = ViewState::Live;
                view.again = times - 1;
            }
            ViewState::Live if view.again > 0 => {
                view.again -= 1;
                // It was sent when all had been told that the channel is private.
                let sent = view.again_without_right.filter(|_| view.again == 0);
                let is_private =
                    sent.is_some_and(|step| oracle.channel(channel).is_private_since(step));
                assert!(!is_private, "still there when the channel is private");
                return;
            }
            state => panic!("subscribed in {state:?}"),
        }
        assert_ne!(view.may, Some(false), "subscribed without a right");
        view.is_forbidden = false;
        let asked = view.asked;
        let is_private = oracle.channel(channel).is_private_since(asked.step);
        assert!(!is_private || !has_no_right || view.is_refreshed, "let into a private channel");
        oracle.assert_epoch_lives(channel, &epoch, asked.step, "a subscription");
        let before = view.position.replace((epoch.clone(), head));
        view.base = head;
        let is_recovered = event["recovered"] == true;
        let replayed = event["replayed"].as_u64().unwrap_or_default();
        let has_past = view.past != Past::Nothing;
        assert_eq!(event["recovered"].is_boolean(), has_past, "{event}");
        assert!(is_recovered || replayed == 0, "{event}");
        if replayed > 0 {
            view.replaying = Some((replayed, head));
        }
        let may_forget = oracle.may_forget;
        match view.past {
            Past::Nothing => {}
            Past::Recover if is_recovered => {
                let (known_epoch, last) = before.unwrap();
                assert_eq!(epoch, known_epoch);
                assert_eq!(replayed == 0, last == head, "{replayed} of {last} to {head}");
                view.position = Some((known_epoch, last));
                view.base = last;
                oracle.count("recoveries");
            }
            Past::Recover => {
                let (_, last) = before.unwrap();
                let truth = oracle.channel(channel);
                let may_be_gone = may_forget || last == 0 || truth.may_be_deleted_since(0);
                assert!(may_be_gone, "{last} of {head} was not recovered");
                oracle.count("gaps");
            }
            Past::Last(_) | Past::Since(_) => {
                assert!(is_recovered, "what is kept is always there: {event}");
                oracle.count("replays");
                // What is known, and was not too old or too much to be replayed.
                let (most, since_ms) = match view.past {
                    Past::Last(most) => (most, 0),
                    Past::Since(since_ms) => (u64::MAX, since_ms),
                    _ => unreachable!(),
                };
                view.since_ms = since_ms;
                let known = oracle.in_epoch(channel, &epoch);
                let wanted = known.filter(|(offset, _, ms)| *offset <= head && *ms >= since_ms);
                let wanted = (wanted.count() as u64).min(most);
                assert!(replayed >= wanted || may_forget, "{replayed} of {wanted} were replayed");
                if replayed > 0 {
                    // Where they begin shows with the first.
                    view.position = Some((epoch, u64::MAX));
                }
            }
        }
    }

    fn message(&mut self, number: usize, event: &Value, oracle: &mut Oracle) {
        let channel = self.channel(number);
        let may_be_private = self.may_be_private(number, oracle) != Some(false);
        let view = &mut self.views[number];
        // What was sent while it had a right may come after it has lost that.
        // What is replayed is of a time when it was not there, and open to it now.
        let may_be_private = may_be_private || view.is_refreshed || view.replaying.is_some();
        let is_subscribed = matches!(view.state, ViewState::Live | ViewState::Leaving);
        assert!(is_subscribed, "a message in {:?}", view.state);
        let offset = event["offset"].as_u64().unwrap();
        let timestamp_ms = event["timestamp"].as_u64().unwrap();
        let before = event["prev"].as_u64().unwrap_or(offset - 1);
        let (epoch, last) = view.position.as_mut().unwrap();
        if *last == u64::MAX {
            view.base = before;
        } else {
            assert_eq!(before, *last, "channel {channel:?}: a gap or a duplicate at {offset}");
        }
        *last = offset;
        if let Some((left, head)) = &mut view.replaying {
            // What was on its way to the log meanwhile follows as well, however old it is by then.
            assert!(timestamp_ms >= view.since_ms || oracle.has_log, "older than was asked for");
            let is_kept = timestamp_ms + oracle.age_ms_max >= view.asked.ms;
            assert!(is_kept || oracle.has_log, "too old to be replayed");
            *left -= 1;
            assert_eq!(*left == 0, offset == *head, "{left} more were announced, at {offset}");
            view.replaying = view.replaying.filter(|(left, _)| *left > 0);
        }
        assert!(event["epoch"].is_null(), "another epoch within a subscription");
        let n = event["data"]["n"].as_u64().unwrap();
        assert_eq!(event["eventType"], format!("e{}", n % 2));
        let place = Place { epoch: Some(epoch), offset, timestamp_ms };
        let id = event["messageId"].as_str().unwrap();
        oracle.delivered(id, (channel, n), place, may_be_private);
    }

    fn unsubscribed(&mut self, number: usize, oracle: &mut Oracle) {
        let channel = self.channel(number);
        let truth = oracle.channel(channel).clone();
        let view = &mut self.views[number];
        let is_ended = view.is_forbidden || truth.may_be_deleted_since(view.asked.step);
        match view.state {
            ViewState::Leaving => {
                // That may have been the end that the server made; then the answer is still to come.
                view.may_end_again |= is_ended;
                view.state = ViewState::Idle;
            }
            ViewState::Live => {
                assert!(is_ended, "unsubscribed for no reason");
                oracle.count("unsubscribed by the server");
                let again = std::mem::take(&mut view.again);
                view.state = ViewState::Idle;
                if again > 0 {
                    // What it said again is a subscription of its own now.
                    let (asked, wants) = (view.asked, view.wants_presence);
                    view.ask(Past::Nothing, asked, None, wants);
                    view.state = ViewState::Asked(again);
                }
            }
            ViewState::Idle | ViewState::Asked(_) => {
                let may = std::mem::take(&mut view.may_end_again);
                assert!(may, "unsubscribed twice");
                return;
            }
        }
        view.is_forbidden = false;
        view.members = None;
        // An end overtakes what is further behind.
        view.replaying = None;
        if let ViewState::Idle = view.state {
            view.own.clear();
        }
    }

    /// A subscription is refused, or ends for want of a right.
    fn refused(&mut self, number: usize, event: &Value, oracle: &mut Oracle) {
        let channel = self.channel(number);
        let (may_be_private, may) =
            (self.may_be_private(number, oracle), self.may_subscribe(number));
        let truth = oracle.channel(channel).clone();
        let is_valid = oracle.is_valid(self.app, self.key, self.opened.step) == Some(true);
        let view = &mut self.views[number];
        let code = event["code"].as_str().unwrap();
        match code {
            "OVERLOADED" => {}
            "FORBIDDEN" => {
                let has_no_right = view.may != Some(true) || view.is_refreshed || may != Some(true);
                let is_private = truth.may_be_private_since(view.asked.step)
                    && (may_be_private != Some(true) || view.is_refreshed);
                assert!(has_no_right || is_private, "{event} {view:?}");
                oracle.count("forbidden");
            }
            "NOT_FOUND" => assert!(truth.may_be_deleted_since(view.asked.step), "{event}"),
            "UNAUTHORIZED" => assert!(!is_valid, "{event}"),
            _ => panic!("{event}"),
        }
        match view.state {
            ViewState::Asked(times) => {
                // It may have been cut off while it was pending, and is told the end too.
                view.may_end_again |= code == "FORBIDDEN";
                view.past = Past::Nothing;
                view.asks += 1;
                view.state = match times {
                    1 => ViewState::Idle,
                    _ => ViewState::Asked(times - 1),
                };
            }
            ViewState::Live | ViewState::Leaving if code == "FORBIDDEN" => {
                // Refused when it was said again, by a token that grants the channel no more, or the end.
                view.is_forbidden = true;
            }
            state => panic!("{event} in {state:?}"),
        }
    }

    /// The publish that an answer is for.
    fn answered_publish(&mut self, number: usize, event: &Value, is_in_order: bool) -> Sent {
        let reference: u64 = event["ref"].as_str().unwrap().parse().unwrap();
        let is_it = |sent: &Sent| sent.content.1 == reference;
        let index = self.publishes.iter().position(is_it).expect("an answer too many");
        assert!(!is_in_order || index == 0, "an answer out of order: {event}");
        let sent = self.publishes.remove(index).unwrap();
        assert_eq!(sent.content.0, self.channel(number));
        sent
    }

    fn published(&mut self, number: usize, event: &Value, oracle: &mut Oracle) {
        let sent = self.answered_publish(number, event, true);
        assert_ne!(sent.may, Some(false), "published without a right");
        let offset = event["offset"].as_u64().unwrap();
        let timestamp_ms = event["timestamp"].as_u64().unwrap();
        let place = Place { epoch: None, offset, timestamp_ms };
        oracle.accepted(event["messageId"].as_str().unwrap(), sent.content, place);
        oracle.count("published over WebSocket");
        let may_be_deleted = oracle.channel(sent.content.0).may_be_deleted_since(0);
        let view = &mut self.views[number];
        if !sent.is_repeated && sent.behind == Some(view.asks) && !may_be_deleted {
            assert!(!matches!(view.state, ViewState::Asked(1)), "published before it subscribed");
            if matches!(view.state, ViewState::Live | ViewState::Leaving) {
                assert!(offset > view.base, "its own message at {offset}, behind {}", view.base);
                view.own.push(offset);
                oracle.count("own messages");
            }
        }
    }

    fn publish_refused(&mut self, number: usize, event: &Value, oracle: &mut Oracle) {
        // What is refused at once overtakes what waits.
        let is_in_order = event["code"] == "OVERLOADED";
        let sent = self.answered_publish(number, event, is_in_order);
        let is_valid = oracle.is_valid(self.app, self.key, self.opened.step) == Some(true);
        match event["code"].as_str().unwrap() {
            "OVERLOADED" => {}
            // Its key is the app's, but it has another client id now.
            "CONFLICT" => assert!(sent.is_repeated && self.grant.is_none(), "{event}"),
            "FORBIDDEN" => {
                assert_ne!(sent.may, Some(true), "{event}");
                oracle.count("publishes forbidden");
            }
            "UNAUTHORIZED" => assert!(!is_valid, "{event}"),
            other => panic!("{other} {event}"),
        }
        if !sent.is_repeated {
            oracle.refused(sent.content);
        }
    }

    fn presence(&mut self, number: usize, event: &Value, oracle: &mut Oracle) {
        let is_unstable = oracle.channel(self.channel(number)).is_presence_unstable;
        let view = &mut self.views[number];
        let is_subscribed = matches!(view.state, ViewState::Live | ViewState::Leaving);
        assert!(is_subscribed && view.wants_presence, "presence in {:?}", view.state);
        let list = |name: &str| -> BTreeSet<Member> {
            let list = event[name].as_array().into_iter().flatten();
            list.map(|value| member(value, name != "left")).collect()
        };
        let count = event["count"].as_u64().unwrap() as usize;
        if event["members"].is_array() {
            oracle.count("presence snapshots");
            let members = list("members");
            assert_eq!(members.len(), count, "{event}");
            view.members = (!is_unstable).then_some(members);
            return;
        }
        let (joined, left) = (list("joined"), list("left"));
        assert!(!joined.is_empty() || !left.is_empty(), "{event}");
        assert!(joined.is_disjoint(&left), "{event}");
        if is_unstable {
            view.members = None;
        }
        oracle.count("presence changes");
        if let Some(members) = &mut view.members {
            assert!(left.is_subset(members), "{event}: who left was not there: {members:?}");
            assert!(joined.is_disjoint(members), "{event}: who joined was there: {members:?}");
            members.retain(|member| !left.contains(member));
            members.extend(joined);
            assert_eq!(members.len(), count, "{event}: {members:?}");
        }
    }

    /// The epoch and the last offset seen of a channel that is subscribed now.
    pub fn live_position(&self, number: usize) -> Option<(&str, u64)> {
        let view = &self.views[number];
        let is_live = self.link.is_some() && view.state == ViewState::Live;
        let position = view.position.as_ref().filter(|_| is_live);
        position.map(|(epoch, offset)| (epoch.as_str(), *offset))
    }

    /// Whether its token ends before a time.
    pub fn ends_before(&self, ms: u64) -> bool {
        self.grant.as_ref().is_some_and(|grant| grant.expires_ms < ms)
    }

    /// Whether it wants to know who is there.
    pub fn wants_presence(&self, number: usize) -> bool {
        self.views[number].wants_presence
    }

    /// Nothing is under way: everything was answered, and its own messages have come.
    pub fn assert_at_rest(&self, oracle: &Oracle) {
        if self.link.is_none() {
            return;
        }
        assert!(self.publishes.is_empty(), "a publish was never answered");
        assert!(self.refreshing.is_empty(), "a refresh was never answered");
        for (number, view) in self.views.iter().enumerate() {
            assert!(!view.is_waiting(), "{:?} was never answered", view.state);
            let Some((epoch, offset)) = self.live_position(number) else { continue };
            assert!(view.replaying.is_none(), "less was replayed than was announced");
            // Its own messages, unless they were published to an earlier log of the channel.
            if !oracle
                .channels
                .get(&self.channel(number))
                .is_some_and(|t| t.may_be_deleted_since(0))
            {
                for own in &view.own {
                    assert!(
                        *own <= offset,
                        "its own message at {own} did not come: {epoch} {offset}"
                    );
                }
            }
            assert_ne!(self.may_subscribe(number), Some(false), "still there without a right");
        }
        if let Some(grant) = &self.grant
            && self.is_connected
        {
            let end_ms = grant.expires_ms + LEEWAY_MS + 500;
            assert!(end_ms > oracle.now.ms, "an old token is still connected");
        }
        let is_valid = oracle.is_valid(self.app, self.key, oracle.now.step);
        assert!(
            is_valid != Some(false) || !self.is_connected,
            "still connected with a revoked key"
        );
    }
}

fn member(value: &Value, has_data: bool) -> Member {
    let id = value["clientId"].as_str().unwrap();
    if let Some(name) = id.strip_prefix('m').filter(|_| has_data) {
        assert_eq!(value["data"]["of"].to_string(), name, "somebody else's data: {value}");
    }
    (id.to_owned(), value["verified"] != false)
}
