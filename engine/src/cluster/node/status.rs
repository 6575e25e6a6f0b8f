//! How the cluster is, for whoever asks, and what this node tells of itself: numbers that it knows anyway, and
//! what NATS tells of the streams, which is asked for only where somebody asks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use pushflo_protocol::answer::{
    ClusterStatus, NatsStatus, NodeNumbers, NodeState, NodeStatus, SlotStatus,
};
use tokio::time::Instant;

use super::{Node, Peer};
use crate::cluster::FromCluster;
use crate::ids::{RequestId, SlotId};
use crate::log::jetstream::Streams;
use crate::mail::{Answer, Answered};

/// For how long a node is told of that is not heard any more.
const MISSED: Duration = Duration::from_secs(3600);

/// Requests that ask, and their answers.
#[derive(Debug, Default)]
pub(super) struct Asked {
    waiting: Vec<RequestId>,
    answered: Rc<RefCell<Vec<Answered>>>,
    is_busy: Rc<Cell<bool>>,
}

impl Asked {
    /// Somebody asks.
    pub(super) fn ask(&mut self, request: RequestId) {
        self.waiting.push(request);
    }
}

impl Node {
    /// Answers those who ask, all who wait with one look at the streams.
    pub(super) fn answer_questions(&mut self) {
        for answered in self.asked.answered.take() {
            let shard = answered.request.shard.index();
            self.tell(shard, FromCluster::Answer(Box::new(answered)));
        }
        if self.asked.waiting.is_empty() || self.asked.is_busy.get() {
            return;
        }
        let requests = std::mem::take(&mut self.asked.waiting);
        let (status, streams) = (self.status(), self.streams.clone());
        let (answered, is_busy) = (Rc::clone(&self.asked.answered), Rc::clone(&self.asked.is_busy));
        is_busy.set(true);
        tokio::task::spawn_local(async move {
            let status = with_streams(status, &streams).await;
            let answers = requests.into_iter().map(|request| {
                let outcome = Ok(Answer::Cluster(Box::new(status.clone())));
                Answered { request, outcome }
            });
            answered.borrow_mut().extend(answers);
            is_busy.set(false);
        });
    }

    /// What this node tells of itself.
    pub(super) fn numbers(&self) -> NodeNumbers {
        let shards = &self.shared.metrics;
        let in_links = self.peers.values().map(|peer| peer.link.waiting_bytes() as u64);
        NodeNumbers {
            version: env!("CARGO_PKG_VERSION").into(),
            shards: self.shards.len() as u16,
            slots: self.slots_of(&self.plan.node),
            connections: shards.iter().map(|shard| shard.connections.value()).sum(),
            attachments: shards.iter().map(|shard| shard.attachments.value()).sum(),
            appends_in_flight: self.shared.cluster.cluster_appends_in_flight.value(),
            mail_in_flight_bytes: in_links.sum(),
        }
    }

    /// Writes down what metrics tell.
    pub(super) fn tell_metrics(&self) {
        let metrics = &self.shared.cluster;
        let there = self.peers.values().filter(|peer| peer.is_there).count() as u64;
        let links = self.peers.values().filter(|peer| peer.link.is_up()).count() as u64;
        let unowned = SlotId::all().filter(|slot| self.owner(*slot).is_none()).count() as u64;
        let waiting = self.peers.values().map(|peer| peer.came.len() as u64).sum();
        let NodeNumbers { slots, mail_in_flight_bytes, .. } = self.numbers();
        metrics.cluster_reached.set(u64::from(!self.is_cut_off));
        metrics.cluster_nodes.set(there + 1);
        metrics.cluster_links.set(links);
        metrics.cluster_slots.set(slots);
        metrics.cluster_slots_unowned.set(unowned);
        metrics.cluster_mail_in_flight_bytes.set(mail_in_flight_bytes);
        metrics.cluster_mail_waiting.set(waiting);
    }

    fn slots_of(&self, node: &str) -> u64 {
        SlotId::all().filter(|slot| self.owner(*slot) == Some(node)).count() as u64
    }

    /// The node that owns a slot, as far as it is there.
    fn owner(&self, slot: SlotId) -> Option<&str> {
        let claim = self.claims.get(slot.index()).and_then(Option::as_ref);
        let owner = claim.map(|claim| &*claim.owner)?;
        let is_there = match owner == self.plan.node {
            true => !self.is_cut_off,
            false => self.peers.get(owner).is_some_and(|peer| peer.is_there),
        };
        is_there.then_some(owner)
    }

    /// What this node knows by itself.
    fn status(&self) -> ClusterStatus {
        let now = Instant::now();
        let of_peer = |(name, peer): (&String, &Peer)| NodeStatus {
            name: name.as_str().into(),
            state: match (peer.is_there, peer.is_leaving) {
                (false, _) => NodeState::Silent,
                (true, true) => NodeState::Leaving,
                (true, false) => NodeState::Here,
            },
            silent_ms: now.duration_since(peer.heard).as_millis() as u64,
            numbers: NodeNumbers { slots: self.slots_of(name), ..peer.numbers.clone() },
        };
        let own = NodeStatus {
            name: self.plan.node.as_str().into(),
            state: if self.is_leaving { NodeState::Leaving } else { NodeState::Here },
            silent_ms: 0,
            numbers: self.numbers(),
        };
        // Whoever has left in good order, or long ago, is not missed.
        let is_missed = |(_, peer): &(&String, &Peer)| {
            let silent = now.duration_since(peer.heard);
            peer.is_there || !peer.is_leaving && silent < MISSED
        };
        let others = self.peers.iter().filter(is_missed).map(of_peer);
        let mut nodes: Vec<NodeStatus> = others.chain([own]).collect();
        nodes.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let slots = SlotId::all().map(|slot| {
            let owner = self.owner(slot).map(Into::into);
            SlotStatus { slot: slot.0, owner, stream: None }
        });
        let slots: Vec<SlotStatus> = slots.collect();
        let mut problems = Vec::new();
        if self.is_cut_off {
            problems.push("this node cannot reach NATS".into());
        }
        let silent = nodes.iter().filter(|node| node.state == NodeState::Silent);
        problems.extend(silent.map(|node| format!("node {} is not heard", node.name)));
        let unowned = slots.iter().filter(|slot| slot.owner.is_none()).count();
        if unowned > 0 {
            problems.push(format!("{unowned} slots have no owner for the moment"));
        }
        let info = self.client.server_info();
        let nats = NatsStatus {
            is_reached: !self.is_cut_off,
            server: info.server_name.into(),
            version: info.version.into(),
        };
        let (node, prefix) = (self.plan.node.as_str().into(), self.plan.prefix.as_str().into());
        ClusterStatus { node, prefix, nats, nodes, slots, problems }
    }
}

/// Adds what NATS tells of the streams.
async fn with_streams(mut status: ClusterStatus, streams: &Streams) -> ClusterStatus {
    let mut found = match streams.list().await {
        Ok(found) => found,
        Err(error) => {
            status.problems.push(format!("the streams cannot be looked at: {error}"));
            BTreeMap::new()
        }
    };
    let is_listed = !found.is_empty();
    for slot in &mut status.slots {
        slot.stream = found.remove(&SlotId(slot.slot));
        let problem = match &slot.stream {
            None => Some("has no leader".into()),
            Some(stream) => stream
                .replicas
                .iter()
                .find(|replica| !replica.is_current)
                .map(|replica| format!("is behind on {} by {}", replica.server, replica.lag)),
        };
        if let Some(problem) = problem.filter(|_| is_listed) {
            status.problems.push(format!("the stream of slot {} {problem}", slot.slot));
        }
    }
    status
}
