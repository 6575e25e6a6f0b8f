//! An answer that goes out when everyone who was told of a change has made it: nobody who was answered
//! finds a shard that does not know yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The answer, and how many have not made the change yet.
#[derive(Debug)]
pub struct AfterAll<T> {
    left: AtomicUsize,
    answer: T,
}

impl<T: Clone> AfterAll<T> {
    /// `answer`, after so many, at least one, have called [`AfterAll::made`].
    pub fn new(count: usize, answer: T) -> Arc<Self> {
        debug_assert!(count > 0, "nobody would answer");
        Arc::new(Self { left: AtomicUsize::new(count), answer })
    }

    /// One more has made the change. The last one gets the answer, to send it.
    pub fn made(&self) -> Option<T> {
        // What the others did before comes before the answer.
        let left = self.left.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(left > 0, "one answered twice");
        (left == 1).then(|| self.answer.clone())
    }
}
