//! Where answers go. Who answers knows nothing of who asked: whoever made the port decides how an answer
//! gets there.

use std::fmt;
use std::sync::Arc;

/// A way for answers.
pub struct Port<T>(Arc<dyn Fn(T) + Send + Sync>);

impl<T> Port<T> {
    /// One that does `send` with each answer. That may wait for room, so it is not for a shard's thread.
    pub fn new(send: impl Fn(T) + Send + Sync + 'static) -> Self {
        Self(Arc::new(send))
    }

    /// Sends an answer.
    pub fn send(&self, answer: T) {
        (self.0)(answer);
    }
}

impl<T> Clone for Port<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Port<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Port")
    }
}
