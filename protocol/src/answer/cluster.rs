//! How a cluster is, as one of its nodes sees it.

use serde::{Deserialize, Serialize};

/// A cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The node that tells this.
    pub node: Box<str>,
    /// What all names in NATS begin with.
    pub prefix: Box<str>,
    /// The NATS server that the node is connected to.
    pub nats: NatsStatus,
    /// All nodes that were heard since this one started, in the order of their names.
    pub nodes: Vec<NodeStatus>,
    /// All slots, in their order.
    pub slots: Vec<SlotStatus>,
    /// What is not as it should be, in words; empty where all is well.
    pub problems: Vec<String>,
}

impl ClusterStatus {
    /// Bytes it keeps in memory, about.
    pub fn kept_bytes(&self) -> usize {
        let of_slot = |slot: &SlotStatus| {
            let replicas = slot.stream.as_ref().map_or(0, |stream| stream.replicas.len());
            size_of::<SlotStatus>() + replicas * (size_of::<ReplicaStatus>() + NAME_BYTES)
        };
        size_of::<Self>()
            + self.nodes.len() * (size_of::<NodeStatus>() + NAME_BYTES)
            + self.slots.iter().map(of_slot).sum::<usize>()
            + self.problems.iter().map(String::len).sum::<usize>()
    }
}

/// What names take, about.
const NAME_BYTES: usize = 32;

/// A NATS server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NatsStatus {
    /// Whether it answers.
    pub is_reached: bool,
    /// What it calls itself.
    pub server: Box<str>,
    /// Such as 2.15.1.
    pub version: Box<str>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Each of a cluster has another.
    pub name: Box<str>,
    /// Whether it takes part.
    pub state: NodeState,
    /// For how long it was not heard, in milliseconds.
    pub silent_ms: u64,
    /// What it told last.
    #[serde(flatten)]
    pub numbers: NodeNumbers,
}

/// Whether a node takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeState {
    /// It was heard.
    #[default]
    Here,
    /// It gives its slots to others, to end.
    Leaving,
    /// It was not heard for some seconds: it has ended, or cannot be reached.
    Silent,
}

/// What a node tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeNumbers {
    /// The version of the server.
    pub version: Box<str>,
    /// How many threads it has, each with a part of the connections.
    pub shards: u16,
    /// How many it owns.
    pub slots: u64,
    /// Connections, HTTP and WebSocket.
    pub connections: u64,
    /// Channels that it has subscribers for and whose home is another node.
    pub attachments: u64,
    /// Messages that it has sent to JetStream and that are not acknowledged.
    pub appends_in_flight: u64,
    /// Bytes of mail to other nodes that these have not confirmed.
    pub mail_in_flight_bytes: u64,
}

/// A slot and its stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotStatus {
    /// From 0 to 127.
    pub slot: u8,
    /// The node that owns it; none for the moment while it moves.
    pub owner: Option<Box<str>>,
    /// Its stream; none where that has no leader, or is not made yet.
    pub stream: Option<StreamStatus>,
}

/// The stream of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamStatus {
    /// The NATS server that leads it.
    pub leader: Box<str>,
    /// Messages in it.
    pub messages: u64,
    /// Their bytes on the disk of each server that has it.
    pub bytes: u64,
    /// The servers that follow the leader.
    pub replicas: Vec<ReplicaStatus>,
}

/// A server that follows the leader of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// What it calls itself.
    pub server: Box<str>,
    /// Whether it has all there is.
    pub is_current: bool,
    /// Operations that it is behind.
    pub lag: u64,
}
