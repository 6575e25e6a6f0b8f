//! Calls that wait for the accounts: those about keys first, then those of the apps in turn, so that what
//! many ask for does not keep the one waiting who revokes a key.

use super::writer::AccountsCall;
use crate::in_turn::InTurn;

/// Calls in the order in which they are done. Calls of one app about the same thing keep their order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    urgent: InTurn<AccountsCall>,
    others: InTurn<AccountsCall>,
}

impl Queue {
    pub(super) fn push(&mut self, call: AccountsCall) {
        let turns = if call.is_urgent() { &mut self.urgent } else { &mut self.others };
        turns.push(call.app(), call);
    }

    pub(super) fn pop(&mut self) -> Option<AccountsCall> {
        self.urgent.pop().or_else(|| self.others.pop())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.others.is_empty()
    }

    /// Calls that are not urgent.
    pub(super) fn others(&self) -> usize {
        self.others.len()
    }

    /// Calls that are.
    pub(super) fn urgent(&self) -> usize {
        self.urgent.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{AppChange, KeyId};
    use crate::ids::{AppId, RequestId, ShardId};

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
