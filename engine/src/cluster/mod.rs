//! Several nodes as one server, over NATS: who is there, who owns which slot of channels, and mail between
//! shards of different nodes.
//!
//! A thread of its own, with tokio, since the NATS client wants it. Shards hand it mail and calls to the log
//! through bounded queues and are answered through their mailboxes, as by each other.
//!
//! * Nodes tell that they are there by beats over NATS. Who was not heard for some seconds is gone.
//! * Which node owns a slot stands in a bucket, which is changed by compare-and-set, beside apps and channels'
//!   metadata. Who owns a slot
//!   of a node that is gone follows from the names of those that are there. Two nodes that believe that they
//!   own a slot do no harm: the streams themselves let only one append.
//! * What apps' plans limit is limited over all nodes, which lend each other parts of it (`lending`).
//! * Mail goes over a [`Link`](crate::link::Link) to each node, in order and whole while it is up.

mod connection;
mod deleted_apps;
mod demand;
mod import;
mod lending;
mod node;
mod owners;

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

use crate::accounts::{Usages, Want};
use crate::bucket::{self, BucketHandle, BucketPlan};
use crate::ids::{RequestId, ShardId};
use crate::log::jetstream::StreamsPlan;
use crate::log::{LogAnswer, LogCall, LogHandle};
use crate::mail::{Answered, ClusterNews, Mail};
use crate::metrics::ClusterMetrics;
use crate::port::Port;
use crate::shared::Shared;
pub use connection::{NatsAddressError, NatsPlan};
pub use import::{ClusterImportError, ImportProgress, Imported, import};
use node::Node;

/// Mail to other nodes, and calls to the log, that wait for the cluster's thread.
const WAITING_MAX: usize = 16 * 1024;

/// Requests that ask how the cluster is and wait.
const QUESTIONS_MAX: usize = 64;

/// Shards that have none left of an app's limits and wait to be heard: more of them ask again.
const WANTS_MAX: usize = 1024;

/// Changes of the accounts on their way, which come one by one, and news that wait for them.
const WRITES_MAX: usize = 16;
const NEWS_MAX: usize = 1024;

/// What a cluster is told.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// Where NATS is, and what is shown to it.
    pub nats: NatsPlan,
    /// The name of this node: letters, digits, `-` and `_`.
    pub node: String,
    /// What all names in NATS begin with, so that several clusters can share it.
    pub prefix: String,
    /// How many NATS servers have each stream.
    pub replicas: usize,
    /// For how long messages are kept, in seconds; 0 for ever.
    pub max_age_s: u64,
}

impl BucketPlan {
    /// The bucket of a cluster.
    fn of(plan: &ClusterPlan) -> Self {
        let ClusterPlan { node, prefix, replicas, .. } = plan;
        let name = format!("{prefix}-directory");
        Self { name, replicas: *replicas, node: node.clone() }
    }
}

impl StreamsPlan {
    /// The streams of a cluster.
    fn of(
        plan: &ClusterPlan,
        ports: Vec<Port<LogAnswer>>,
        metrics: Arc<ClusterMetrics>,
        now_ms: fn() -> u64,
    ) -> Self {
        let ClusterPlan { node, prefix, replicas, max_age_s, .. } = plan;
        Self {
            prefix: prefix.clone(),
            replicas: *replicas,
            max_age_s: *max_age_s,
            bytes_max: -1,
            node: node.clone(),
            ports,
            metrics,
            now_ms,
        }
    }
}

/// What a shard is told.
#[derive(Debug)]
pub enum FromCluster {
    /// Mail of another node's shard.
    Mail(ShardId, Mail),
    /// What has changed.
    News(ClusterNews),
    /// The answer to a request of the shard.
    Answer(Box<Answered>),
}

/// A way into a shard's mailbox that gives back what finds no room.
pub type Inlet = Box<dyn Fn(FromCluster) -> Result<(), FromCluster> + Send>;

/// The ways from the cluster to a shard.
pub struct ShardWays {
    /// For answers of the log.
    pub log: Port<crate::log::LogAnswer>,
    /// For everything else.
    pub inlet: Inlet,
}

/// The cluster as the server holds it.
#[derive(Debug)]
pub struct Cluster {
    calls: Sender<LogCall>,
    mail: Sender<Posted>,
    questions: Sender<RequestId>,
    wants: Sender<Want>,
    control: Sender<Control>,
    thread: JoinHandle<()>,
}

/// A shard's way to other nodes.
#[derive(Clone, Debug)]
pub struct ClusterHandle {
    mail: Sender<Posted>,
    questions: Sender<RequestId>,
    wants: Sender<Want>,
}

/// Mail, and whose and for whom it is.
#[derive(Debug)]
struct Posted {
    from: ShardId,
    to: ShardId,
    mail: Mail,
}

/// What the thread is told of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    /// Give all slots to others, and go on with everything else.
    Leave,
    /// End when that is done.
    Stop,
}

/// What the thread takes.
struct Queues {
    calls: Receiver<LogCall>,
    writes: Receiver<bucket::Write>,
    mail: Receiver<Posted>,
    questions: Receiver<RequestId>,
    wants: Receiver<Want>,
    control: Receiver<Control>,
}

impl Cluster {
    /// Starts the thread, before the shards. NATS is looked for until it is there. Returns a way for the
    /// accounts to what all nodes have in common, too.
    ///
    /// # Errors
    /// The kernel gives no thread, or no descriptors.
    pub fn start(
        plan: ClusterPlan,
        shared: std::sync::Arc<Shared>,
        shards: Vec<ShardWays>,
        usages: Arc<Usages>,
        now_ms: fn() -> u64,
    ) -> std::io::Result<(Self, BucketHandle)> {
        let is_informed = shared.owners.as_ref().map(|owners| Arc::clone(&owners.is_informed));
        let is_informed = is_informed.unwrap_or_default();
        let (writes, for_writes) = channel(WRITES_MAX);
        let (for_news, news) = crossbeam_channel::bounded(NEWS_MAX);
        let (calls, for_calls) = channel(WAITING_MAX);
        let (mail, for_mail) = channel(WAITING_MAX);
        let (questions, for_questions) = channel(QUESTIONS_MAX);
        let (wants, for_wants) = channel(WANTS_MAX);
        let (control, for_control) = channel(2);
        let queues = Queues {
            calls: for_calls,
            writes: for_writes,
            mail: for_mail,
            questions: for_questions,
            wants: for_wants,
            control: for_control,
        };
        // Here, before shards part their file tables: they wake it through a descriptor of its own.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("cluster".into()).spawn(move || {
            let node = Node::run(plan, shared, shards, for_news, usages, now_ms, queues);
            tokio::task::LocalSet::new().block_on(&runtime, node);
        })?;
        Ok((
            Self { calls, mail, questions, wants, control, thread },
            BucketHandle { writes, news, is_informed },
        ))
    }

    /// A way to the log.
    pub fn log(&self) -> LogHandle {
        LogHandle::of_streams(self.calls.clone())
    }

    /// A way to other nodes.
    pub fn handle(&self) -> ClusterHandle {
        ClusterHandle {
            mail: self.mail.clone(),
            questions: self.questions.clone(),
            wants: self.wants.clone(),
        }
    }

    /// Begins to leave the cluster: others own its slots from now on.
    pub fn leave(&self) {
        let _ = self.control.try_send(Control::Leave);
    }

    /// Ends the thread, when its slots are handed over or nobody takes them.
    pub fn close(self) {
        let _ = self.control.try_send(Control::Stop);
        // A panic was told when it happened.
        let _ = self.thread.join();
    }
}

impl ClusterHandle {
    /// Asks how the cluster is, or gives the request back if there is no room.
    ///
    /// # Errors
    /// The request.
    pub fn ask(&self, request: RequestId) -> Result<(), RequestId> {
        match self.questions.try_send(request) {
            Err(TrySendError::Full(request)) => Err(request),
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Asks for more of what an app's plan limits, or gives the question back if there is no room.
    ///
    /// # Errors
    /// The question.
    pub fn want(&self, want: Want) -> Result<(), Want> {
        match self.wants.try_send(want) {
            Err(TrySendError::Full(want)) => Err(want),
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Hands mail for a shard of another node over, or gives it back if there is no room.
    ///
    /// # Errors
    /// The mail.
    pub fn post(&self, from: ShardId, to: ShardId, mail: Mail) -> Result<(), Mail> {
        match self.mail.try_send(Posted { from, to, mail }) {
            Err(TrySendError::Full(posted)) => Err(posted.mail),
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
        }
    }
}

impl std::fmt::Debug for ShardWays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShardWays")
    }
}
