//! A number of which one thread is the owner.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that one thread writes and all may read.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds `n`. Not an atomic addition: there is one writer.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Takes one away.
    pub fn decrement(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(1), Relaxed);
    }

    /// Replaces the number.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The number.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
