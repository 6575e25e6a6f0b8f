//! Publishes with an idempotency key: whoever asks again gets the first answer, and nothing is
//! published twice.
//!
//! A channel's keys are at its home shard. A key is taken when its publish begins; who comes with the
//! same one while that is under way waits for the same answer. If it fails the key is free again.

use std::collections::VecDeque;
use std::sync::Arc;

use pushflo_protocol::{ErrorCode, Receipt, Refusal};

use crate::clock::Now;
use crate::handover::AnswerState;
use crate::hash::{HashMap, Placement};
use crate::ids::{AppId, HomeKey};
use crate::log::StoredAnswer;
use crate::mail::ReplyTo;
use crate::share;

/// How long an answer is kept, in milliseconds.
pub(super) const WINDOW_MS: u64 = crate::log::KEY_WINDOW_MS;

/// Whether two publishes are the same is told by a digest of their parts. It is kept over restarts,
/// so its seed is always the same.
const CONTENT_SEED: u64 = 0x7075_7368_666c_6f00;

/// A publish that holds its key.
#[derive(Clone, Debug)]
pub(super) struct Keyed {
    pub(super) home: HomeKey,
    pub(super) key: Arc<str>,
    pub(super) content: u64,
    /// Until when the key is taken, in milliseconds after the start of the server.
    pub(super) until_ms: u64,
}

/// The keys of a shard's home channels.
#[derive(Debug)]
pub(super) struct Idempotency {
    entries: HashMap<(HomeKey, Arc<str>), KeyEntry>,
    /// In the order in which they end.
    order: VecDeque<(u64, HomeKey, Arc<str>)>,
    digest: Placement,
    /// How many keys each app has.
    of_app: HashMap<AppId, usize>,
    /// Most keys.
    keys_max: usize,
}

#[derive(Debug)]
struct KeyEntry {
    app: AppId,
    content: u64,
    until_ms: u64,
    state: KeyState,
}

#[derive(Debug)]
enum KeyState {
    /// Under way; these wait for its answer.
    Pending(Vec<ReplyTo>),
    Done(Receipt),
}

/// What is to be done with a publish that has a key.
pub(super) enum Asked {
    /// Publish it.
    New(Box<Keyed>),
    /// It was published; this was the answer.
    Known(Receipt),
    /// The one under way will answer it.
    Waits,
}

impl Idempotency {
    /// Room for `keys_max` keys.
    pub(super) fn new(keys_max: usize) -> Self {
        let digest = Placement::new(CONTENT_SEED);
        let (entries, of_app) = (HashMap::default(), HashMap::default());
        Self { entries, order: VecDeque::new(), digest, of_app, keys_max }
    }

    /// Takes a key for a publish of `parts`.
    ///
    /// # Errors
    /// `CONFLICT` where the key was used for something else, `OVERLOADED` where there are too many.
    pub(super) fn begin(
        &mut self,
        app: AppId,
        home: HomeKey,
        key: &str,
        parts: impl std::hash::Hash,
        now_ms: u64,
        reply_to: ReplyTo,
    ) -> Result<Asked, Refusal> {
        self.expire(now_ms);
        let (key, content): (Arc<str>, _) = (key.into(), self.digest.hash(parts));
        if let Some(entry) = self.entries.get_mut(&(home, Arc::clone(&key))) {
            if entry.content != content {
                let text = "the idempotency key was used for another message of this channel";
                return Err(Refusal::new(ErrorCode::Conflict, text));
            }
            return Ok(match &mut entry.state {
                KeyState::Done(receipt) => Asked::Known(*receipt),
                KeyState::Pending(waiting) => {
                    waiting.push(reply_to);
                    Asked::Waits
                }
            });
        }
        let of_app = self.of_app.get(&app).copied().unwrap_or_default();
        if !share::has_room(of_app, self.order.len(), self.keys_max) {
            let text = "the app has published too many messages with an idempotency key in the last 5 minutes";
            return Err(Refusal::limit(ErrorCode::RateLimited, "idempotencyKeys", 60, text));
        }
        let keyed = Keyed { home, key, content, until_ms: now_ms + WINDOW_MS };
        self.insert(app, &keyed, KeyState::Pending(Vec::new()));
        Ok(Asked::New(Box::new(keyed)))
    }

    /// The publish was answered so. Returns who waits for the same answer.
    pub(super) fn finish(&mut self, keyed: &Keyed, receipt: Receipt) -> Vec<ReplyTo> {
        match self.entries.get_mut(&(keyed.home, Arc::clone(&keyed.key))) {
            Some(entry) => match std::mem::replace(&mut entry.state, KeyState::Done(receipt)) {
                KeyState::Pending(waiting) => waiting,
                KeyState::Done(_) => Vec::new(),
            },
            None => Vec::new(),
        }
    }

    /// Those who wait for the answer of a publish, which is not known yet, wait no more.
    pub(super) fn take_waiting(&mut self, keyed: &Keyed) -> Vec<ReplyTo> {
        match self.entries.get_mut(&(keyed.home, Arc::clone(&keyed.key))) {
            Some(KeyEntry { state: KeyState::Pending(waiting), .. }) => std::mem::take(waiting),
            _ => Vec::new(),
        }
    }

    /// The publish failed; the key is free again. Returns who waits for the same answer.
    pub(super) fn abandon(&mut self, keyed: &Keyed) -> Vec<ReplyTo> {
        // As a rule it was taken just now.
        let is_newest =
            |(_, home, key): &(u64, HomeKey, Arc<str>)| *home == keyed.home && *key == keyed.key;
        if self.order.back().is_some_and(is_newest) {
            self.order.pop_back();
        }
        match self.remove(&(keyed.home, Arc::clone(&keyed.key))) {
            Some(KeyState::Pending(waiting)) => waiting,
            _ => Vec::new(),
        }
    }

    /// Checks its tables; the publishes with these keys are under way.
    pub(super) fn check<'a>(&self, under_way: impl Iterator<Item = &'a Keyed>) {
        let mut of_app: HashMap<AppId, usize> = HashMap::default();
        let mut pending = 0;
        for entry in self.entries.values() {
            *of_app.entry(entry.app).or_default() += 1;
            pending += usize::from(matches!(entry.state, KeyState::Pending(_)));
        }
        assert_eq!(of_app, self.of_app, "keys by app");
        let mut count = 0;
        for keyed in under_way {
            count += 1;
            let entry = self.entries.get(&(keyed.home, Arc::clone(&keyed.key)));
            let state = entry.map(|entry| &entry.state);
            assert!(matches!(state, Some(KeyState::Pending(_))), "a key that nobody holds");
        }
        assert_eq!(pending, count, "a key of no publish");
        assert!(self.order.len() >= self.entries.len(), "a key that is never forgotten");
        assert!(self.order.iter().is_sorted_by_key(|(until_ms, ..)| until_ms), "out of order");
    }

    /// Answers by channel, and how much longer each is kept.
    pub(super) fn answers(&self, now_ms: u64) -> HashMap<HomeKey, Vec<AnswerState>> {
        let mut answers: HashMap<HomeKey, Vec<AnswerState>> = HashMap::default();
        for ((home, key), entry) in &self.entries {
            let KeyState::Done(Receipt { id, offset, timestamp_ms, .. }) = entry.state else {
                continue;
            };
            answers.entry(*home).or_default().push(AnswerState {
                key: (**key).into(),
                content: entry.content,
                left_ms: entry.until_ms.saturating_sub(now_ms),
                id: id.0,
                offset,
                timestamp_ms,
            });
        }
        answers
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn remove(&mut self, key: &(HomeKey, Arc<str>)) -> Option<KeyState> {
        let KeyEntry { app, state, .. } = self.entries.remove(key)?;
        if let Some(count) = self.of_app.get_mut(&app) {
            *count -= 1;
            if *count == 0 {
                self.of_app.remove(&app);
            }
        }
        Some(state)
    }

    /// Takes over what the log has. The log tells the end by the time of day; by a clock that is wrong
    /// it is no further away than it can be.
    pub(super) fn load(&mut self, app: AppId, home: HomeKey, stored: StoredAnswer, now: Now) {
        let StoredAnswer { key, content, until_ms, receipt } = stored;
        let until_ms = now.elapsed_ms + until_ms.saturating_sub(now.steady_ms).min(WINDOW_MS);
        self.insert(
            app,
            &Keyed { home, key: key.into(), content, until_ms },
            KeyState::Done(receipt),
        );
    }

    /// Puts what was loaded of several places in the order in which it ends.
    pub(super) fn sort(&mut self) {
        self.order.make_contiguous().sort_by_key(|(until_ms, ..)| *until_ms);
    }

    /// Forgets what nobody can ask for any more.
    pub(super) fn expire(&mut self, now_ms: u64) {
        while let Some((until_ms, ..)) = self.order.front()
            && *until_ms <= now_ms
            && let Some((until_ms, home, key)) = self.order.pop_front()
        {
            let key = (home, key);
            match self.entries.get_mut(&key) {
                // Somebody still waits for its answer.
                Some(KeyEntry { until_ms, state: KeyState::Pending(_), .. }) => {
                    *until_ms = now_ms + WINDOW_MS;
                    self.order.push_back((*until_ms, key.0, key.1));
                }
                // A key that was abandoned and taken again ends later.
                Some(entry) if entry.until_ms <= until_ms => drop(self.remove(&key)),
                _ => {}
            }
        }
    }

    fn insert(&mut self, app: AppId, keyed: &Keyed, state: KeyState) {
        let Keyed { home, key, content, until_ms } = keyed;
        self.order.push_back((*until_ms, *home, Arc::clone(key)));
        let entry = KeyEntry { app, content: *content, until_ms: *until_ms, state };
        // The log may have a key twice, that was taken again when the first time had ended.
        if self.entries.insert((*home, Arc::clone(key)), entry).is_none() {
            *self.of_app.entry(app).or_default() += 1;
        }
    }
}
