//! What waits in memory on behalf of peers, and who pays for it: each connection for what it has not
//! finished saying and for what it does not read, its app for all of its connections.
//!
//! All of a shard has one limit, which its apps share ([`share`]). Who is over the share of its app loses
//! the connection that costs most: so whoever holds much is cut off for it, and nobody else.

use slotmap::SparseSecondaryMap;

use super::Edge;
use super::connection::{Connection, Phase};
use crate::context::Context;
use crate::hash::HashMap;
use crate::ids::{AppId, ConnectionKey};
use crate::share;
use pushflo_protocol::{ErrorCode, Refusal};

/// What the ledger has of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    bytes: usize,
    /// Those who are not known pay together.
    payer: Option<AppId>,
}

impl Account {
    fn of(connection: &Connection) -> Self {
        let bytes = connection.held_bytes();
        let bytes = if bytes < LIGHT_BYTES { 0 } else { bytes };
        Self { bytes, payer: connection.payer() }
    }
}

/// Who holds less pays nothing: it is what a connection costs on which something happens.
const LIGHT_BYTES: usize = 1024;

/// Connections that hold less are not looked at when one must go.
const HEAVY_BYTES: usize = 8 * 1024;

/// What connections of a shard hold.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    held: usize,
    by_payer: HashMap<Option<AppId>, usize>,
    /// Connections that hold much.
    heavy: SparseSecondaryMap<ConnectionKey, ()>,
    /// Connections whose books are to be balanced.
    changed: Vec<ConnectionKey>,
}

impl Ledger {
    /// What a connection holds may be another amount now.
    pub(super) fn changed(&mut self, connection: ConnectionKey) {
        if self.changed.last() != Some(&connection) {
            self.changed.push(connection);
        }
    }

    /// All that is held.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// A connection holds so much now, on that account.
    fn book(&mut self, connection: ConnectionKey, account: &mut Account, now: Account) {
        self.take_off(*account);
        if now.bytes > 0 {
            self.held += now.bytes;
            *self.by_payer.entry(now.payer).or_default() += now.bytes;
        }
        match now.bytes >= HEAVY_BYTES {
            true => drop(self.heavy.insert(connection, ())),
            false => drop(self.heavy.remove(connection)),
        }
        *account = now;
    }

    /// A connection is gone.
    pub(super) fn close(&mut self, connection: ConnectionKey, account: Account) {
        self.take_off(account);
        self.heavy.remove(connection);
    }

    fn take_off(&mut self, account: Account) {
        debug_assert!(self.held >= account.bytes, "more is given back than was taken");
        self.held = self.held.saturating_sub(account.bytes);
        if let Some(bytes) = self.by_payer.get_mut(&account.payer) {
            *bytes = bytes.saturating_sub(account.bytes);
            if *bytes == 0 {
                self.by_payer.remove(&account.payer);
            }
        }
    }

    /// Checks that the books are those of the connections.
    pub(super) fn check<'a>(
        &self,
        connections: impl Iterator<Item = (ConnectionKey, &'a Connection)>,
    ) {
        let (mut by_payer, mut heavy) = (HashMap::default(), 0);
        for (key, connection) in connections {
            let Account { bytes, payer } = connection.account;
            if bytes > 0 {
                *by_payer.entry(payer).or_default() += bytes;
            }
            let is_heavy = bytes >= HEAVY_BYTES;
            assert_eq!(self.heavy.contains_key(key), is_heavy, "the list of those that hold much");
            heavy += usize::from(is_heavy);
        }
        assert_eq!(self.heavy.len(), heavy, "one that is gone holds much");
        assert_eq!(self.held, by_payer.values().sum::<usize>());
        assert_eq!(self.by_payer, by_payer, "what the payers hold");
    }

    /// Who holds more than its share of `held_bytes_max`: of several the one that holds most.
    fn debtor(&self, held_bytes_max: usize) -> Option<Option<AppId>> {
        // As long as there is so much room, nobody can.
        if share::has_room(self.held, self.held, held_bytes_max) {
            return None;
        }
        let over = |(_, bytes): &(&Option<AppId>, &usize)| {
            !share::has_room(**bytes, self.held, held_bytes_max)
        };
        let debtors = self.by_payer.iter().filter(over);
        debtors.max_by_key(|(_, bytes)| **bytes).map(|(payer, _)| *payer)
    }
}

impl Edge {
    /// Brings the ledger up to date, and cuts off who holds too much.
    pub(crate) fn balance(&mut self, cx: &mut Context) {
        while let Some(connection) = self.ledger.changed.pop() {
            let Some(c) = self.connections.get_mut(connection) else { continue };
            let now = Account::of(c);
            if now.bytes > 0 || c.account.bytes > 0 {
                self.ledger.book(connection, &mut c.account, now);
            }
        }
        let held_bytes_max = cx.settings.limits.held_bytes_max;
        while let Some(payer) = self.ledger.debtor(held_bytes_max) {
            let Some(connection) = self.heaviest(payer) else {
                debug_assert!(false, "nobody holds what is held");
                break;
            };
            cx.metrics().shed_connections_total.increment();
            self.shed(cx, connection);
        }
    }

    /// The connection that holds most of what a payer pays for.
    fn heaviest(&self, payer: Option<AppId>) -> Option<ConnectionKey> {
        let of_payer = |key: ConnectionKey| {
            let account = self.connections.get(key)?.account;
            (account.payer == payer && account.bytes > 0).then_some((account.bytes, key))
        };
        let heavy = self.ledger.heavy.keys().filter_map(of_payer).max_by_key(|(bytes, _)| *bytes);
        // Those who hold little each may be many; any of them will do.
        let found = heavy.or_else(|| self.connections.keys().find_map(of_payer));
        found.map(|(_, connection)| connection)
    }

    /// Cuts a connection off that holds too much. What it reads is told so; the others would not hear it.
    fn shed(&mut self, cx: &mut Context, connection: ConnectionKey) {
        let Some(c) = self.connections.get_mut(connection) else { return };
        let reads = c.phase == Phase::Http
            && c.active.as_ref().is_some_and(|active| active.inbound.capacity() > active.out_bytes);
        if reads {
            let text = "the server holds as much for requests as it may; try again shortly";
            self.refuse_request(cx, connection, Refusal::new(ErrorCode::Overloaded, text));
        }
        let still_holds = self.connections.get(connection).is_some_and(|c| {
            c.held_bytes() >= HEAVY_BYTES || !matches!(c.phase, Phase::Closing { .. })
        });
        if still_holds {
            self.forget_connection(cx, connection, "it held most of what its app may hold");
        } else if let Some(c) = self.connections.get_mut(connection) {
            let now = Account::of(c);
            self.ledger.book(connection, &mut c.account, now);
        }
    }
}
