//! The one hash map of the engine: fast, and seeded per process so that chosen names cannot make
//! it slow.
#![allow(clippy::disallowed_types, reason = "this is where the chosen hasher is put on HashMap")]

use std::hash::BuildHasher;

/// A hash map with the engine's hasher.
pub type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// Places things on shards and slots: the same for equal values within one process.
#[derive(Clone, Debug)]
pub struct Placement(foldhash::fast::FixedState);

impl Placement {
    /// Placement under a seed that all shards share.
    pub fn new(seed: u64) -> Self {
        Self(foldhash::fast::FixedState::with_seed(seed))
    }

    /// A hash of `value`.
    pub fn hash(&self, value: impl std::hash::Hash) -> u64 {
        self.0.hash_one(value)
    }
}
