//! A shard that hands its connections and channels to another process, and one that begins with them.
//!
//! The contract: when nothing comes from outside any more and [`Shard::is_quiet`] says so of all shards, while no
//! mail is under way between them, what they have is whole, and [`Shard::channel_states`],
//! [`Shard::tail_states`] and [`Shard::connection_state`] tell it. They change nothing: a shard may go on
//! afterwards. One that begins with it is given the channels before it runs, then tails and connections; then
//! [`Shard::attach`] is called until all are attached.

use super::Shard;
use crate::edge::{TailOrder, TakenTail};
use crate::handover::{ChannelState, ConnectionState, TailState};
use crate::ids::ConnectionKey;

impl Shard {
    /// Whether nothing is under way that somebody else has to answer, and nothing waits to be sent to others.
    pub fn is_quiet(&self) -> bool {
        self.cx.is_quiet() && self.home.is_quiet() && self.edge.is_quiet()
    }

    /// What there is of channels that is kept nowhere else.
    pub fn channel_states(&mut self) -> Vec<ChannelState> {
        self.home.channel_states(&self.cx)
    }

    /// What connections listen to, and the order that [`Shard::connection_state`] is to be given.
    pub fn tail_states(&self) -> (Vec<TailState>, TailOrder) {
        self.edge.tail_states()
    }

    /// All connections.
    pub fn connection_keys(&self) -> impl Iterator<Item = ConnectionKey> {
        self.edge.connection_keys()
    }

    /// A connection; `None` if there is no such.
    pub fn connection_state(
        &self,
        connection: ConnectionKey,
        order: &TailOrder,
    ) -> Option<ConnectionState> {
        self.edge.connection_state(&self.cx, connection, order)
    }

    /// Takes over what another process had of channels, when what is stored was loaded and before the shard runs.
    pub(super) fn take_channels(&mut self, states: Vec<ChannelState>) {
        self.home.take_channels(&mut self.cx, states);
    }

    /// Takes over what connections of a shard listen to.
    pub fn take_tails(&mut self, states: Vec<TailState>) -> Vec<TakenTail> {
        self.edge.take_tails(states)
    }

    /// Takes a connection over that listens to some of `tails`. `None`: its app is gone, and its socket is to be
    /// closed.
    pub fn take_connection(
        &mut self,
        state: ConnectionState,
        tails: &[TakenTail],
    ) -> Option<ConnectionKey> {
        let connection = self.edge.take_connection(&mut self.cx, state, tails);
        self.settle();
        connection
    }

    /// Drops tails that none of the connections that were taken over listens to. To be called when all were.
    pub fn drop_unused_tails(&mut self) {
        self.edge.drop_unused_tails(&mut self.cx);
    }

    /// Has tails be attached to the homes of their channels. Returns whether some are still to be; these are asked
    /// for at the next call, or tick.
    pub fn attach(&mut self) -> bool {
        self.edge.attach_tails(&mut self.cx);
        self.settle();
        !self.edge.is_attached()
    }
}
