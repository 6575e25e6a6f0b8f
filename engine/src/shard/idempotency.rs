//! Publishes with an idempotency key: whoever asks again gets the first answer, and nothing is
//! published twice.
//!
//! A channel's keys are at its home shard. A key is taken when its publish begins; who comes with the
//! same one while that is under way waits for the same answer. If it fails the key is free again.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use pushflo_protocol::{ErrorCode, Refusal};

use super::envelope::ReplyTo;
use super::id::HomeKey;
use crate::hash::{HashMap, Placement};
use crate::history::log::StoredAnswer;

/// How long an answer is kept, in milliseconds.
pub(super) const WINDOW_MS: u64 = 5 * 60_000;

/// Most keys of a shard; beyond, publishes with a key are refused for the moment.
const KEYS_MAX: usize = 256 * 1024;

/// Whether two publishes are the same is told by a digest of their parts. It is kept over restarts,
/// so its seed is always the same.
const CONTENT_SEED: u64 = 0x7075_7368_666c_6f00;

/// A publish that holds its key.
#[derive(Clone, Debug)]
pub(super) struct Keyed {
    pub(super) home: HomeKey,
    pub(super) key: Arc<str>,
    pub(super) content: u64,
    pub(super) until_ms: u64,
}

/// The keys of a shard's home channels.
#[derive(Debug)]
pub(super) struct Idempotency {
    entries: HashMap<(HomeKey, Arc<str>), Entry>,
    /// In the order in which they end.
    order: VecDeque<(u64, HomeKey, Arc<str>)>,
    digest: Placement,
}

#[derive(Debug)]
struct Entry {
    content: u64,
    until_ms: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Under way; these wait for its answer.
    Pending(Vec<ReplyTo>),
    Done(Bytes),
}

/// What is to be done with a publish that has a key.
pub(super) enum Asked {
    /// Publish it.
    New(Box<Keyed>),
    /// It was published; this was the answer.
    Known(Bytes),
    /// The one under way will answer it.
    Waits,
}

impl Default for Idempotency {
    fn default() -> Self {
        let digest = Placement::new(CONTENT_SEED);
        Self { entries: HashMap::default(), order: VecDeque::new(), digest }
    }
}

impl Idempotency {
    /// Takes a key for a publish of `parts`.
    ///
    /// # Errors
    /// `CONFLICT` where the key was used for something else, `OVERLOADED` where there are too many.
    pub(super) fn begin(
        &mut self,
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
                State::Done(answer) => Asked::Known(answer.clone()),
                State::Pending(waiting) => {
                    waiting.push(reply_to);
                    Asked::Waits
                }
            });
        }
        if self.entries.len() >= KEYS_MAX {
            return Err(super::no_room());
        }
        let keyed = Keyed { home, key, content, until_ms: now_ms + WINDOW_MS };
        self.insert(&keyed, State::Pending(Vec::new()));
        Ok(Asked::New(Box::new(keyed)))
    }

    /// The publish was answered so. Returns who waits for the same answer.
    pub(super) fn finish(&mut self, keyed: &Keyed, answer: Bytes) -> Vec<ReplyTo> {
        match self.entries.get_mut(&(keyed.home, Arc::clone(&keyed.key))) {
            Some(entry) => match std::mem::replace(&mut entry.state, State::Done(answer)) {
                State::Pending(waiting) => waiting,
                State::Done(_) => Vec::new(),
            },
            None => Vec::new(),
        }
    }

    /// The publish failed; the key is free again. Returns who waits for the same answer.
    pub(super) fn abandon(&mut self, keyed: &Keyed) -> Vec<ReplyTo> {
        match self.entries.remove(&(keyed.home, Arc::clone(&keyed.key))) {
            Some(Entry { state: State::Pending(waiting), .. }) => waiting,
            _ => Vec::new(),
        }
    }

    /// Takes over what the log has.
    pub(super) fn load(&mut self, home: HomeKey, stored: StoredAnswer) {
        let StoredAnswer { key, content, until_ms, body } = stored;
        self.insert(&Keyed { home, key: key.into(), content, until_ms }, State::Done(body));
    }

    /// Forgets what nobody can ask for any more.
    pub(super) fn expire(&mut self, now_ms: u64) {
        while let Some((until_ms, ..)) = self.order.front()
            && *until_ms <= now_ms
            && let Some((until_ms, home, key)) = self.order.pop_front()
        {
            let key = (home, key);
            // A key that was abandoned and taken again ends later.
            if self.entries.get(&key).is_some_and(|entry| entry.until_ms <= until_ms) {
                self.entries.remove(&key);
            }
        }
    }

    fn insert(&mut self, keyed: &Keyed, state: State) {
        let Keyed { home, key, content, until_ms } = keyed;
        self.order.push_back((*until_ms, *home, Arc::clone(key)));
        let entry = Entry { content: *content, until_ms: *until_ms, state };
        self.entries.insert((*home, Arc::clone(key)), entry);
    }
}
