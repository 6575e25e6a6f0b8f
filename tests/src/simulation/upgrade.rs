//! Another process in the place of the one there is: shards stand still, tell all they have, and others, as many as
//! the seed says, go on with it.

use pushflo_engine::handover::{
    ChannelState, ConnectionState, SharedState, TailState, decode, encode,
};
use pushflo_engine::ids::ConnectionKey;

use super::trace::say;
use super::world::World;

/// Rounds in which what is under way ends, if nothing fails meanwhile.
const ROUNDS: usize = 2_000;

/// What a shard has handed over.
struct OfShard {
    tails: Vec<u8>,
    connections: Vec<(ConnectionKey, Vec<u8>)>,
}

impl World {
    /// An upgrade, or one that comes to nothing.
    pub(super) fn upgrade(&mut self) {
        say(|| "an upgrade begins".into());
        self.call_off_writes();
        if !self.stand_still() {
            self.oracle.count("upgrades given up");
            return say(|| "the shards do not come to a standstill".into());
        }
        self.check_shards();
        let shared = encode(&self.shared.state());
        let channels = self.shards.iter_mut().map(|shard| encode(&shard.channel_states()));
        let channels: Vec<Vec<u8>> = channels.collect();
        let told = self.shards.iter().map(|shard| {
            let (tails, order) = shard.tail_states();
            let state = |key| {
                let state = shard.connection_state(key, &order).expect("a connection");
                (key, encode(&state))
            };
            let connections = shard.connection_keys().map(state).collect();
            OfShard { tails: encode(&tails), connections }
        });
        let told: Vec<OfShard> = told.collect();
        if self.random.u8(..) < 80 {
            self.oracle.count("upgrades taken back");
            return say(|| "the upgrade is taken back".into());
        }
        self.oracle.count("upgrades");
        self.finish_changes();
        self.begin_anew(&shared, &channels);
        self.take_over(told);
        self.check_shards();
    }

    fn begin_anew(&mut self, shared: &[u8], channels: &[Vec<u8>]) {
        self.accounts.crash();
        let accounts = &self.accounts;
        let loaded = self.log.crash(0, |app| accounts.apps.contains_key(&app), &accounts.deleted);
        self.accounts.deleted.clear();
        let shards = self.random.usize(1..=4);
        let channels = channels.iter().flat_map(|states| {
            let states: Vec<ChannelState> = decode(states).unwrap();
            states
        });
        let channels = channels.collect();
        let shared: SharedState = decode(shared).unwrap();
        self.start(shards, loaded, channels, Some(&shared));
    }

    fn take_over(&mut self, told: Vec<OfShard>) {
        let mut places = Vec::new();
        for (before, OfShard { tails, connections }) in told.into_iter().enumerate() {
            let at = before % self.shards.len();
            let tails: Vec<TailState> = decode(&tails).unwrap();
            let tails = self.shards[at].take_tails(tails);
            for (key, state) in connections {
                let state: ConnectionState = decode(&state).unwrap();
                let connection = self.shards[at].take_connection(state, &tails);
                say(|| format!("shard {before} {key:?} is shard {at} {connection:?} now"));
                places.push((before, key, at, connection));
            }
        }
        self.shards.iter_mut().for_each(|shard| shard.drop_unused_tails());
        for which in 0..self.links() {
            let Some(link) = self.link_of(which) else { continue };
            let place = places.iter().find(|(shard, connection, ..)| {
                (*shard, *connection) == (link.shard, link.connection)
            });
            // What was over before the upgrade is no connection of any shard now.
            let (shard, connection) = place.map_or((0, None), |&(.., shard, now)| (shard, now));
            link.server_done |= connection.is_none();
            (link.shard, link.connection) = (shard, connection.unwrap_or_default());
        }
        for _ in 0..ROUNDS {
            let mut is_attaching = false;
            for shard in 0..self.shards.len() {
                is_attaching |= self.shards[shard].attach();
            }
            if !self.exchange_all() && !is_attaching {
                return;
            }
        }
        panic!("tails are not attached");
    }

    /// What a socket has not taken is kept.
    fn call_off_writes(&mut self) {
        for ((shard, connection), write) in std::mem::take(&mut self.writes) {
            self.shards[shard].written(connection, write, 0);
            self.closings(shard);
        }
    }

    /// Whether what is under way ends while nothing comes in.
    fn stand_still(&mut self) -> bool {
        for _ in 0..ROUNDS {
            let moved = self.exchange_all();
            if !moved && self.shards.iter().all(|shard| shard.is_quiet()) {
                return true;
            }
        }
        false
    }

    /// What the accounts were asked for by those who are gone is done as well, and no shard hears of it.
    fn finish_changes(&mut self) {
        self.accounts.is_failing = false;
        while !self.accounts.is_idle() {
            self.accounts_act();
        }
    }

    fn exchange_all(&mut self) -> bool {
        let mut moved = self.log_answers() | self.accounts_act();
        for shard in 0..self.shards.len() {
            while self.apply(shard) {
                moved = true;
            }
            self.shards[shard].flush();
            moved |= self.exchange(shard);
        }
        moved
    }
}
