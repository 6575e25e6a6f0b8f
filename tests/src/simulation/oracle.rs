//! What must hold of what clients see and are told: a channel has one order, an offset is given once,
//! nobody gets a message twice or misses one without being told, what was refused is never seen, a right
//! that was taken away is gone when that is answered.
//!
//! What is asked takes effect at some moment between the asking and the answer, so of everything that
//! changes the oracle knows when it was asked and when it was answered, in steps of the world, and is
//! sure of what lies outside of that.

use std::collections::{BTreeMap, BTreeSet};

use pushflo_engine::accounts::{KeyId, Role};
use pushflo_engine::ids::{AppId, ChannelKey};
use pushflo_engine::retention::Retention;
use pushflo_protocol::{ChannelSlug, MessageId};

use super::accounts::ModelAccounts;
use super::tally::Tally;

/// How long an idempotency key is kept.
const KEY_KEPT_MS: u64 = 5 * 60_000;

/// A channel: its app's place in [`Oracle::apps`], and its number.
pub type Channel = (usize, usize);

/// A content in a channel: what a publish is known by.
pub type Content = (Channel, u64);

/// A moment of the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    pub step: u64,
    /// Unix time.
    pub ms: u64,
}

/// All that the clients saw and were told.
#[derive(Debug, Default)]
pub struct Oracle {
    pub now: Moment,
    pub apps: Vec<AppTruth>,
    pub channels: BTreeMap<Channel, ChannelTruth>,
    messages: BTreeMap<u128, Message>,
    places: BTreeMap<(Channel, String, u64), u128>,
    /// When each publish was first sent.
    sent: BTreeMap<Content, u64>,
    /// What each publish became, and when that was told.
    accepted: BTreeMap<Content, (u128, u64)>,
    refused: BTreeSet<Content>,
    /// What those got who may not be in a private channel.
    unentitled: Vec<Content>,
    /// Epochs of each channel and when they were first seen.
    epochs: BTreeMap<Channel, BTreeMap<String, u64>>,
    /// Something expires, or only so many messages are kept.
    pub may_forget: bool,
    /// How old a message may be that is shown, in milliseconds.
    pub age_ms_max: u64,
    /// Messages are on their way to a log before they are seen.
    pub has_log: bool,
    /// A right was taken away just now, and that was answered: it is to be tried at once.
    pub taken: Option<Taken>,
    pub tally: Tally,
}

#[derive(Clone, Debug)]
struct Message {
    content: Content,
    offset: u64,
    timestamp_ms: u64,
    epoch: Option<String>,
}

/// What is known of an app.
#[derive(Debug)]
pub struct AppTruth {
    pub id: AppId,
    pub keys: Vec<KeyTruth>,
    pub delete_sent: Option<u64>,
    pub deleted: Option<u64>,
}

/// What is known of a key.
#[derive(Debug)]
pub struct KeyTruth {
    pub text: String,
    pub role: Role,
    pub id: KeyId,
    pub revoke_sent: Option<u64>,
    pub revoked: Option<u64>,
}

/// What the API added to a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    pub is_private: bool,
    pub presence: bool,
}

/// What is known of a channel.
#[derive(Clone, Debug, Default)]
pub struct ChannelTruth {
    /// What the API added, as the last answer told it.
    pub meta: Option<Meta>,
    /// A change is under way.
    pub is_changing: bool,
    /// The answer to a change was lost: what came of it shows when all is at rest.
    pub is_lost: bool,
    /// How many changes were sent.
    pub changes: u64,
    /// Steps between which it was private, without a doubt.
    private: Vec<(u64, Option<u64>)>,
    /// Steps between which it may have been.
    maybe_private: Vec<(u64, Option<u64>)>,
    /// When deletions were sent, and answered.
    pub deletions: Vec<(u64, Option<u64>)>,
    /// Presence was switched since all was at rest: what members were told may be of an earlier time.
    pub is_presence_unstable: bool,
}

/// What was taken away.
#[derive(Clone, Copy, Debug)]
pub enum Taken {
    /// A channel is private now.
    Private(Channel),
    /// A key of an app, or all of them.
    Keys(usize),
}

/// What is done to a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Create(Meta),
    Update { is_private: Option<bool>, presence: Option<bool> },
    Delete,
}

impl KeyTruth {
    pub fn new(text: &str, role: Role) -> Self {
        let id = pushflo_engine::accounts::KeyDigest::of(text).id();
        Self { text: text.into(), role, id, revoke_sent: None, revoked: None }
    }
}

impl ChannelTruth {
    /// Whether it may be, or may have been since `step`, that it is private.
    pub fn may_be_private_since(&self, step: u64) -> bool {
        self.maybe_private.iter().any(|(_, to)| to.is_none_or(|to| to >= step))
    }

    /// Whether it was private all the time since `step`, without a doubt.
    pub fn is_private_since(&self, step: u64) -> bool {
        self.private.iter().any(|(from, to)| *from <= step && to.is_none())
    }

    /// Whether it may have been deleted since `step`.
    pub fn may_be_deleted_since(&self, step: u64) -> bool {
        self.deletions.iter().any(|(_, answered)| answered.is_none_or(|at| at >= step))
    }

    /// Whether what is known is certain.
    pub fn is_certain(&self) -> bool {
        !self.is_changing && !self.is_lost
    }

    fn end(intervals: &mut [(u64, Option<u64>)], step: u64) {
        if let Some((_, to @ None)) = intervals.last_mut() {
            *to = Some(step);
        }
    }

    fn begin(intervals: &mut Vec<(u64, Option<u64>)>, step: u64) {
        if intervals.last().is_none_or(|(_, to)| to.is_some()) {
            intervals.push((step, None));
        }
    }

    fn settle(&mut self, meta: Option<Meta>, step: u64) {
        self.meta = meta;
        match meta.is_some_and(|meta| meta.is_private) {
            true => {
                Self::begin(&mut self.maybe_private, step);
                Self::begin(&mut self.private, step);
            }
            false => {
                Self::end(&mut self.private, step);
                Self::end(&mut self.maybe_private, step);
            }
        }
    }
}

impl Oracle {
    pub fn new(app: AppTruth, retention: &Retention, has_log: bool) -> Self {
        let Retention { age_ms_max, messages_max, .. } = *retention;
        let may_forget = age_ms_max < 200_000 || messages_max < 100;
        Self { apps: vec![app], may_forget, age_ms_max, has_log, ..Self::default() }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    pub fn slug(channel: Channel) -> String {
        format!("c{}", channel.1)
    }

    /// Whether a key works, as far as is known of what was asked with it at `step`.
    pub fn is_valid(&self, app: usize, key: usize, step: u64) -> Option<bool> {
        let app = &self.apps[app];
        let key = &app.keys[key];
        let is_gone = |at: Option<u64>| at.is_some_and(|at| at <= step);
        if is_gone(app.deleted) || is_gone(key.revoked) {
            return Some(false);
        }
        (app.delete_sent.is_none() && key.revoke_sent.is_none()).then_some(true)
    }

    /// A publish is sent.
    pub fn sends(&mut self, content: Content) {
        self.sent.entry(content).or_insert(self.now.step);
    }

    /// A publisher was told that its message has this place.
    pub fn accepted(&mut self, id: &str, content: Content, place: Place<'_>) {
        let Place { epoch, offset, .. } = place;
        let id = self.know(id, content, place);
        let (first, _) = *self.accepted.entry(content).or_insert((id, self.now.step));
        if first != id {
            let (one, other) = (&self.messages[&first], &self.messages[&id]);
            self.assert_apart(one, other);
        }
        let sent = self.sent[&content];
        if let Some(epoch) = epoch {
            self.assert_epoch_lives(content.0, epoch, sent, "an accepted message");
        }
        assert!(offset > 0);
        self.count("accepted");
    }

    /// A publisher was refused.
    pub fn refused(&mut self, content: Content) {
        self.count("refused");
        self.refused.insert(content);
    }

    /// A subscriber got a message; `may_be_private` says whether it may be in the channel if that is
    /// private.
    pub fn delivered(
        &mut self,
        id: &str,
        content: Content,
        place: Place<'_>,
        may_be_private: bool,
    ) {
        self.count("deliveries");
        self.know(id, content, place);
        if !may_be_private && !self.channel(content.0).private.is_empty() {
            self.unentitled.push(content);
        }
    }

    /// Somebody learns of a message.
    pub fn know(&mut self, id: &str, content: Content, place: Place<'_>) -> u128 {
        let Place { epoch, offset, timestamp_ms } = place;
        let id = MessageId::parse(id).expect("an id of a message").0;
        let epoch = epoch.map(str::to_owned);
        if let Some(epoch) = &epoch {
            let key = (content.0, epoch.clone(), offset);
            let first = *self.places.entry(key).or_insert(id);
            assert_eq!(first, id, "{:?} has two messages at {offset}", content.0);
            self.sees_epoch(content.0, epoch);
        }
        let message = Message { content, offset, timestamp_ms, epoch: epoch.clone() };
        let known = self.messages.entry(id).or_insert(message);
        assert_eq!(known.content, content, "a message changes");
        assert_eq!((known.offset, known.timestamp_ms), (offset, timestamp_ms));
        match (&known.epoch, &epoch) {
            (Some(one), Some(other)) => assert_eq!(one, other, "a message moves"),
            (None, Some(_)) => known.epoch = epoch,
            (_, None) => {}
        }
        id
    }

    /// Somebody sees an epoch of a channel.
    pub fn sees_epoch(&mut self, channel: Channel, epoch: &str) {
        let epochs = self.epochs.entry(channel).or_default();
        if !epochs.contains_key(epoch) {
            epochs.insert(epoch.to_owned(), self.now.step);
        }
    }

    /// What was asked at `step` is not answered with an epoch that was deleted before.
    pub fn assert_epoch_lives(&self, channel: Channel, epoch: &str, step: u64, what: &str) {
        let Some(seen) = self.epochs.get(&channel).and_then(|epochs| epochs.get(epoch)) else {
            return;
        };
        let Some(truth) = self.channels.get(&channel) else { return };
        let is_dead = truth.deletions.iter().any(|(sent, answered)| {
            seen < sent && answered.is_some_and(|answered| answered <= step)
        });
        assert!(!is_dead, "{what} of {channel:?} in the epoch {epoch}, which was deleted");
    }

    /// What was asked at `step` does not show a message that was deleted before.
    pub fn assert_not_deleted(&self, content: Content, step: u64) {
        let Some((_, told)) = self.accepted.get(&content) else { return };
        let Some(truth) = self.channels.get(&content.0) else { return };
        let is_gone = |(sent, answered): &(u64, Option<u64>)| {
            told < sent && answered.is_some_and(|answered| answered <= step)
        };
        assert!(!truth.deletions.iter().any(is_gone), "{content:?} was deleted, and is seen");
    }

    /// Messages that are known to be in an epoch, by offset: content and time.
    pub fn in_epoch<'a>(
        &'a self,
        channel: Channel,
        epoch: &'a str,
    ) -> impl DoubleEndedIterator<Item = (u64, u64, u64)> + 'a {
        let range = (channel, epoch.to_owned(), 0)..=(channel, epoch.to_owned(), u64::MAX);
        self.places.range(range).map(|((_, _, offset), id)| {
            let message = &self.messages[id];
            (*offset, message.content.1, message.timestamp_ms)
        })
    }

    pub fn channel(&mut self, channel: Channel) -> &mut ChannelTruth {
        self.channels.entry(channel).or_default()
    }

    /// A change of a channel is sent.
    pub fn changes(&mut self, channel: Channel, change: Change) {
        let step = self.now.step;
        let truth = self.channel(channel);
        assert!(!truth.is_changing);
        truth.is_changing = true;
        truth.changes += 1;
        let (is_private, presence) = match change {
            Change::Create(meta) => (Some(meta.is_private), meta.presence.then_some(true)),
            Change::Update { is_private, presence } => (is_private, presence),
            Change::Delete => {
                truth.deletions.push((step, None));
                (Some(false), Some(false))
            }
        };
        match is_private {
            Some(true) => ChannelTruth::begin(&mut truth.maybe_private, step),
            Some(false) => ChannelTruth::end(&mut truth.private, step),
            None => {}
        }
        truth.is_presence_unstable |= presence.is_some();
    }

    /// A change of a channel was answered.
    pub fn changed(&mut self, channel: Channel, change: Change, is_done: bool) {
        let step = self.now.step;
        let truth = self.channel(channel);
        truth.is_changing = false;
        let mut meta = truth.meta;
        match change {
            Change::Create(created) if is_done => meta = Some(created),
            Change::Update { is_private, presence } if is_done => {
                let before = meta.unwrap_or_default();
                meta = Some(Meta {
                    is_private: is_private.unwrap_or(before.is_private),
                    presence: presence.unwrap_or(before.presence),
                });
            }
            Change::Delete if is_done => {
                meta = None;
                truth.deletions.last_mut().expect("it was sent").1 = Some(step);
            }
            Change::Delete => drop(truth.deletions.pop()),
            _ => {}
        }
        if !truth.is_lost {
            let was_private = truth.meta.is_some_and(|meta| meta.is_private);
            truth.settle(meta, step);
            if meta.is_some_and(|meta| meta.is_private) && !was_private {
                self.taken = Some(Taken::Private(channel));
            }
        }
    }

    /// The answer to a change of a channel will not come.
    pub fn loses(&mut self, channel: Channel) {
        let truth = self.channel(channel);
        truth.is_changing = false;
        truth.is_lost = true;
    }

    /// Nothing is under way: what the accounts keep is so.
    pub fn settle(&mut self, accounts: &ModelAccounts) {
        let step = self.now.step;
        for app in &mut self.apps {
            let is_there = accounts.apps.contains_key(&app.id);
            app.deleted = app.deleted.or((!is_there).then_some(step));
            app.delete_sent = app.delete_sent.filter(|_| !is_there);
            for key in &mut app.keys {
                let is_there = accounts.has_key(app.id, key.id);
                key.revoked = key.revoked.or((!is_there).then_some(step));
                key.revoke_sent = key.revoke_sent.filter(|_| !is_there);
            }
        }
        for (channel, truth) in &mut self.channels {
            let meta = accounts.meta(self.apps[channel.0].id, &Self::slug(*channel));
            let meta =
                meta.map(|meta| Meta { is_private: meta.is_private, presence: meta.presence });
            assert!(
                !truth.is_certain() || truth.meta == meta || self.apps[channel.0].deleted.is_some()
            );
            truth.is_changing = false;
            truth.is_lost = false;
            truth.is_presence_unstable = false;
            for deletion in &mut truth.deletions {
                // One that was lost may have taken effect or not; it will not any more.
                if deletion.1.is_none() {
                    *deletion = (0, Some(step));
                }
            }
            truth.settle(meta, step);
        }
    }

    /// The key of a channel in the engine.
    pub fn key(&self, channel: Channel) -> ChannelKey {
        let slug = ChannelSlug::parse(&Self::slug(channel)).unwrap();
        ChannelKey { app: self.apps[channel.0].id, slug }
    }

    /// After the end: `heads` are the channels' epochs and newest offsets.
    pub fn check(&self, heads: &BTreeMap<Channel, (String, u64)>) {
        for (content, (id, _)) in &self.accepted {
            let message = &self.messages[id];
            assert!(!self.refused.contains(content), "{content:?} was accepted and refused");
            if let Some((epoch, head)) = heads.get(&content.0)
                && message.epoch.as_ref() == Some(epoch)
            {
                assert!(message.offset <= *head, "{content:?} is beyond the head");
            }
        }
        let mut times: BTreeMap<Content, &Message> = BTreeMap::new();
        for message in self.messages.values() {
            assert!(!self.refused.contains(&message.content), "refused, and sent: {message:?}");
            if let Some(earlier) = times.insert(message.content, message) {
                self.assert_apart(earlier, message);
            }
        }
        for content in &self.unentitled {
            let (Some(sent), Some((_, told))) =
                (self.sent.get(content), self.accepted.get(content))
            else {
                continue;
            };
            let is_inside =
                |(from, to): &(u64, Option<u64>)| from <= sent && to.is_none_or(|to| *told < to);
            let truth = &self.channels[&content.0];
            assert!(!truth.private.iter().any(is_inside), "{content:?} is private, and was seen");
        }
    }

    /// A publisher may ask again when its key is forgotten already, or gone with its channel.
    fn assert_apart(&self, one: &Message, other: &Message) {
        let apart = one.timestamp_ms.abs_diff(other.timestamp_ms);
        let is_other = one.epoch.is_none() || other.epoch.is_none() || one.epoch != other.epoch;
        assert!(apart >= KEY_KEPT_MS || is_other, "one content twice: {one:?} {other:?}");
    }
}

/// Where a message stands, as far as is told.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub epoch: Option<&'a str>,
    pub offset: u64,
    pub timestamp_ms: u64,
}
