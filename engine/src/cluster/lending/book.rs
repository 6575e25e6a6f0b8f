//! What is lent of an app's limits, and to whom: an entry of the bucket, changed by compare-and-set. What is used
//! and what is lent are never more than the limit.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::accounts::ByResource;

/// The limits of an app, and what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Book {
    /// The month of the messages.
    pub(super) month: u16,
    /// The last writing of each node: no other has its number.
    pub(super) writes: BTreeMap<Box<str>, u64>,
    pub(super) accounts: ByResource<Account>,
}

/// A limit, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    /// What a plan has; 0 where it was never asked for.
    pub(super) limit: u64,
    /// What is used, and is not part of what is lent.
    pub(super) used: u64,
    /// What each node may use, by its name and when it began: a process that has ended has nothing. Of messages and
    /// channels it is less than that by now, which is told when the node writes again; of connections it is what
    /// the node uses, too.
    pub(super) lent: BTreeMap<Box<str>, u64>,
    /// Nodes that have none left and found none.
    pub(super) wishes: BTreeSet<Box<str>>,
}

impl Book {
    pub(super) fn encode(&self) -> Vec<u8> {
        // Into memory, of types that have a form: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl Account {
    /// What nobody has.
    pub(super) fn free(&self) -> u64 {
        self.limit.saturating_sub(self.taken())
    }

    /// Whether more is used or lent than there is, as behind a change of the plan.
    pub(super) fn is_over(&self) -> bool {
        self.taken() > self.limit
    }

    /// What is used, and what is lent.
    pub(super) fn taken(&self) -> u64 {
        self.lent.values().fold(self.used, |sum, lent| sum.saturating_add(*lent))
    }

    /// How many a node takes at a time: few enough that little is lost where one dies, enough that it seldom
    /// asks.
    pub(super) fn block(&self) -> u64 {
        (self.limit / 1_000).max(1)
    }

    /// What a node has.
    pub(super) fn lent_to(&self, node: &str) -> u64 {
        self.lent.get(node).copied().unwrap_or_default()
    }

    /// Has a node have so much.
    pub(super) fn lend(&mut self, node: &str, count: u64) {
        match count {
            0 => self.lent.remove(node),
            _ => self.lent.insert(node.into(), count),
        };
    }

    /// Whether another node wants some.
    pub(super) fn is_wished_by_others(&self, node: &str) -> bool {
        self.wishes.iter().any(|other| **other != *node)
    }
}
