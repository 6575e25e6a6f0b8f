//! A queue in which apps take turns: one entry of each, then the next of each. Whoever asks for much
//! waits for itself.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::AppId;

/// Entries of apps.
#[derive(Debug)]
pub(crate) struct InTurn<T> {
    by_app: BTreeMap<AppId, VecDeque<T>>,
    /// Apps with entries, each once.
    turns: VecDeque<AppId>,
    len: usize,
}

impl<T> Default for InTurn<T> {
    fn default() -> Self {
        Self { by_app: BTreeMap::new(), turns: VecDeque::new(), len: 0 }
    }
}

impl<T> InTurn<T> {
    /// Appends an entry of an app.
    pub(crate) fn push(&mut self, app: AppId, entry: T) {
        let entries = self.by_app.entry(app).or_default();
        if entries.is_empty() {
            self.turns.push_back(app);
        }
        entries.push_back(entry);
        self.len += 1;
    }

    /// The next entry.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.pop_of(|_| true)
    }

    /// The next entry of an app that may have one.
    pub(crate) fn pop_of(&mut self, may: impl Fn(AppId) -> bool) -> Option<T> {
        let index = self.turns.iter().position(|app| may(*app))?;
        let app = self.turns.remove(index)?;
        let entries = self.by_app.get_mut(&app)?;
        let entry = entries.pop_front()?;
        if entries.is_empty() {
            self.by_app.remove(&app);
        } else {
            self.turns.push_back(app);
        }
        self.len -= 1;
        Some(entry)
    }

    /// All entries, those of an app in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.by_app.values().flatten()
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many of them are an app's.
    pub(crate) fn len_of(&self, app: AppId) -> usize {
        self.by_app.get(&app).map_or(0, VecDeque::len)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }
}
