//! A shard's part in a hand-over: it stands still, sends its listeners and its connections to a shard of another
//! process, and goes on if that fails; or it begins with what such a shard has sent.
//!
//! What is sent over a way, each in a frame: listeners, tails, connections some at a time with their sockets, the end.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::courier::{Courier, DESCRIPTORS_MAX, Frame};
use super::steering::{Done, Order, Stillness, Ways};
use super::turn::Turns;
use crate::handover::{ConnectionState, FRAME_BYTES, TailState, decode, encode};

/// How long a frame may take on its way to another process. Whoever gave the order ends that one before.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a frame is.
#[derive(Debug, Serialize, Deserialize)]
enum Part {
    /// Listeners: the descriptors.
    Listeners,
    /// What the connections that follow listen to.
    Tails(Vec<TailState>),
    /// Connections, whose sockets are the descriptors, in their order.
    Connections(Vec<ConnectionState>),
    /// There is no more; how many connections there were.
    End(usize),
}

/// What a shard is to take over: all that comes over these ways, each from a shard of the process before.
#[derive(Debug)]
pub struct Heritage {
    /// One end of each; nothing comes of one whose shard is gone.
    pub ways: Vec<Courier>,
    /// Whether it is to go on listening where the shards before did.
    pub with_listeners: bool,
}

/// What a shard has taken over.
#[derive(Debug, Default)]
pub(super) struct Heirloom {
    /// Listeners that go on.
    pub(super) listeners: Vec<TcpListener>,
    /// Connections, by the shard they come from; `None` of a shard that takes nobody's place.
    pub(super) connections: Option<Vec<OfShard>>,
}

/// What comes of one shard.
#[derive(Debug, Default)]
pub(super) struct OfShard {
    tails: Vec<TailState>,
    connections: Vec<(OwnedFd, ConnectionState)>,
}

impl Heritage {
    /// Waits for all of it. The descriptors are of this thread's file table.
    pub(super) fn receive(self) -> io::Result<Heirloom> {
        let (mut listeners, mut shards) = (Vec::new(), Vec::new());
        for mut way in self.ways {
            shards.push(receive(&mut way, &mut listeners)?);
        }
        if !self.with_listeners {
            listeners = Vec::new();
        }
        Ok(Heirloom { listeners, connections: Some(shards) })
    }
}

fn receive(way: &mut Courier, listeners: &mut Vec<TcpListener>) -> io::Result<OfShard> {
    let mut shard = OfShard::default();
    loop {
        let Frame { bytes, descriptors } = match way.receive() {
            // Its process has ended: what has come whole goes on here. One that takes it back ends this one.
            Err(error) if Courier::is_gone(&error) => return Ok(shard),
            frame => frame?,
        };
        match decode(&bytes).map_err(io::Error::other)? {
            Part::Listeners => listeners.extend(descriptors.into_iter().map(TcpListener::from)),
            Part::Tails(tails) => shard.tails = tails,
            Part::Connections(states) if states.len() == descriptors.len() => {
                shard.connections.extend(descriptors.into_iter().zip(states));
            }
            Part::End(connections) if shard.connections.len() == connections => return Ok(shard),
            Part::Connections(_) | Part::End(_) => {
                return Err(io::Error::other("sockets and connections are not as many"));
            }
        }
    }
}

impl Turns {
    /// Does what it is told; see [`Order`].
    pub(super) fn obey(&mut self, order: Order) -> Done {
        match order {
            Order::Freeze => {
                self.is_frozen = true;
                self.listeners.pause();
                self.writing.cancel();
                Done::Still(self.stillness())
            }
            Order::Report => Done::Still(self.stillness()),
            Order::LetGo => {
                self.ways = Ways::default();
                Done::Channels(self.shard.channel_states())
            }
            Order::HandOver => Done::HandedOver(self.hand_over()),
            Order::Thaw(ways) => {
                self.ways = ways.unwrap_or(std::mem::take(&mut self.ways));
                if std::mem::take(&mut self.is_frozen) {
                    self.listeners.accept(&self.events);
                }
                Done::Thawed
            }
        }
    }

    fn stillness(&self) -> Stillness {
        let is_quiet = self.inbox.is_empty()
            && self.events.accepting.get() == 0
            && self.events.accepted.borrow().is_empty()
            && self.writing.is_empty()
            && !self.is_attaching
            && self.shard.is_quiet();
        Stillness { is_quiet, envelopes: self.envelopes }
    }

    /// Sends what it has to another process; nothing changes here.
    fn hand_over(&mut self) -> io::Result<usize> {
        let way = self.uplink.receive()?.descriptors.pop();
        let way = way.ok_or_else(|| io::Error::other("no way was given"))?;
        let mut way = Courier::over(UnixStream::from(way), PATIENCE)?;
        for listeners in self.listeners.descriptors().chunks(DESCRIPTORS_MAX) {
            way.send(&encode(&Part::Listeners), listeners)?;
        }
        let (tails, order) = self.shard.tail_states();
        way.send(&encode(&Part::Tails(tails)), &[])?;
        let (mut states, mut sockets, mut bytes, mut sent) = (Vec::new(), Vec::new(), 0, 0);
        for connection in self.shard.connection_keys() {
            let state = self.shard.connection_state(connection, &order);
            let Some((state, socket)) = state.zip(self.kept.sockets.fd(connection)) else {
                continue;
            };
            bytes += state.outbound.len() + state.inbound.len();
            states.push(state);
            sockets.push(socket.as_fd());
            sent += 1;
            if states.len() == DESCRIPTORS_MAX || bytes > FRAME_BYTES {
                way.send(&encode(&Part::Connections(std::mem::take(&mut states))), &sockets)?;
                sockets.clear();
                bytes = 0;
            }
        }
        way.send(&encode(&Part::Connections(states)), &sockets)?;
        way.send(&encode(&Part::End(sent)), &[])?;
        Ok(sent)
    }

    /// Begins with what shards of another process had, and stands still until it is told to go on.
    pub(super) fn inherit(&mut self, shards: Vec<OfShard>) {
        (self.is_frozen, self.is_attaching) = (true, true);
        for OfShard { tails, connections } in shards {
            let tails = self.shard.take_tails(tails);
            for (socket, state) in connections {
                let Some(connection) = self.shard.take_connection(state, &tails) else { continue };
                self.parking.watch(&socket, connection);
                self.kept.sockets.insert(connection, socket);
            }
        }
        self.shard.drop_unused_tails();
    }
}
