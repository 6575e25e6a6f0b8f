//! Calls that wait for the accounts: those about keys first, then those of the apps in turn, so that what
//! many ask for does not keep the one waiting who revokes a key.

use std::collections::{BTreeMap, VecDeque};

use super::writer::AccountsCall;
use crate::ids::AppId;

/// Calls in the order in which they are done. Calls of one app about the same thing keep their order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    urgent: InTurn,
    others: InTurn,
}

impl Queue {
    pub(super) fn push(&mut self, call: AccountsCall) {
        let turns = if call.is_urgent() { &mut self.urgent } else { &mut self.others };
        turns.push(call);
    }

    pub(super) fn pop(&mut self) -> Option<AccountsCall> {
        self.urgent.pop().or_else(|| self.others.pop())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.urgent.len + self.others.len == 0
    }

    /// Calls that are not urgent.
    pub(super) fn others(&self) -> usize {
        self.others.len
    }

    /// Calls that are.
    pub(super) fn urgent(&self) -> usize {
        self.urgent.len
    }
}

/// One call of each app, then the next of each.
#[derive(Debug, Default)]
struct InTurn {
    by_app: BTreeMap<AppId, VecDeque<AccountsCall>>,
    /// Apps with calls, each once.
    turns: VecDeque<AppId>,
    len: usize,
}

impl InTurn {
    fn push(&mut self, call: AccountsCall) {
        let app = call.app();
        let calls = self.by_app.entry(app).or_default();
        if calls.is_empty() {
            self.turns.push_back(app);
        }
        calls.push_back(call);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<AccountsCall> {
        let app = self.turns.pop_front()?;
        let calls = self.by_app.get_mut(&app)?;
        let call = calls.pop_front()?;
        if calls.is_empty() {
            self.by_app.remove(&app);
        } else {
            self.turns.push_back(app);
        }
        self.len -= 1;
        Some(call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{AppChange, KeyId};
    use crate::ids::{RequestId, ShardId};

    #[test]
    fn keys_come_first_and_apps_in_turn() {
        let request =
            || RequestId { shard: ShardId(0), connection: Default::default(), sequence: 0 };
        let change = |app| AccountsCall::ChangeApp {
            request: request(),
            app: AppId(app),
            change: AppChange::default(),
        };
        let revoke = |app, key| AccountsCall::RevokeKey {
            request: request(),
            app: AppId(app),
            key: KeyId(key),
        };
        let mut queue = Queue::default();
        (0..100).for_each(|_| queue.push(change(1)));
        queue.push(change(2));
        queue.push(revoke(1, 1));
        queue.push(revoke(1, 2));
        queue.push(revoke(3, 3));
        assert_eq!((queue.urgent(), queue.others()), (3, 101));
        let next = |queue: &mut Queue| match queue.pop() {
            Some(AccountsCall::RevokeKey { key, .. }) => format!("key {}", key.0),
            Some(call) => format!("app {}", call.app().0),
            None => "none".into(),
        };
        let order: Vec<_> = (0..7).map(|_| next(&mut queue)).collect();
        assert_eq!(order, ["key 1", "key 3", "key 2", "app 1", "app 2", "app 1", "app 1"]);
        queue.push(revoke(2, 4));
        assert_eq!(next(&mut queue), "key 4");
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), 97);
        assert_eq!((queue.urgent(), queue.others()), (0, 0));
    }
}
