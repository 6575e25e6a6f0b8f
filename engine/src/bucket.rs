//! What all nodes of a cluster have in common, in a key-value bucket of NATS: each node follows all of it, and
//! an entry is changed by compare-and-set, so that nobody overwrites what it has not seen.
//!
//! Who follows sees every entry as it stands, or a later one, in the order of their revisions. Behind
//! [`News::Complete`] all has been told that there was when following began: what was known and not told
//! again is gone.

use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::kv::{self, CreateErrorKind, Operation, Store, UpdateErrorKind};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::sleep;

/// A bucket as one node uses it.
pub(crate) struct Bucket {
    client: Client,
    store: Store,
    /// The key of this node's marks: whoever sees one has seen all that was written before it.
    mark: String,
    /// The revision up to which this node has taken in all there is.
    seen: Cell<u64>,
    has_seen: Notify,
    /// Following is to begin anew.
    begin_anew: Notify,
}

/// How a bucket is made and named.
#[derive(Clone, Debug)]
pub(crate) struct BucketPlan {
    /// Its name.
    pub(crate) name: String,
    /// How many servers have it.
    pub(crate) replicas: usize,
    /// The name of this node.
    pub(crate) node: String,
}

/// What a follower is told.
#[derive(Clone, Debug)]
pub enum News {
    /// All there is will be told, from the start.
    Begin,
    /// An entry.
    Entry(Entry),
    /// All has been told that there was at [`News::Begin`].
    Complete,
}

/// What stands, or does not stand any more, under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is found by: letters, digits and `-_=./`.
    pub key: String,
    /// The value; none where it was deleted.
    pub value: Option<Bytes>,
    /// Names this change of it; a later one has a larger number.
    pub revision: u64,
}

/// A change of an entry for another thread.
#[derive(Debug)]
pub struct Write {
    /// The entry as it is to be, and the revision that it has before; 0 for one that is not there.
    pub entry: Entry,
    /// Who is told what became of it: the revision that it has now.
    pub done: crossbeam_channel::Sender<Result<u64, WriteError>>,
}

/// A bucket that another thread follows and writes.
#[derive(Debug)]
pub struct BucketHandle {
    /// What is to be changed.
    pub writes: Sender<Write>,
    /// Some of the news: what the thread is to know.
    pub news: crossbeam_channel::Receiver<News>,
    /// Raised when all that there is has been taken in.
    pub is_informed: Arc<AtomicBool>,
}

/// Why an entry was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// Another has changed it.
    Conflict,
    /// It is as it was.
    NotWritten(String),
    /// Whether it was changed is not known.
    Unknown(String),
}

/// News that wait for the one who follows.
const NEWS_MAX: usize = 1024;

/// For how long it is kept that there was an entry: whoever has not followed for that long begins anew.
const DELETED_KEPT: Duration = Duration::from_secs(24 * 3600);

/// For how long an answer is waited for. Servers that have no leader yet give none.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Between two attempts at something that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// What keys of marks begin with.
const MARK: &str = "node.";

impl Bucket {
    /// The bucket, which is made if it is not there. It is tried until it is there.
    pub(crate) async fn open(client: &Client, plan: &BucketPlan) -> Rc<Self> {
        let mut jetstream = async_nats::jetstream::new(client.clone());
        jetstream.set_timeout(ANSWER_MAX);
        let mut told = 0u32;
        loop {
            let store = match jetstream.get_key_value(&plan.name).await {
                Ok(store) => Ok(store),
                Err(_) => {
                    let config = kv::Config {
                        bucket: plan.name.clone(),
                        history: 1,
                        num_replicas: plan.replicas,
                        limit_markers: Some(DELETED_KEPT),
                        ..kv::Config::default()
                    };
                    jetstream.create_key_value(config).await
                }
            };
            match store {
                Ok(store) => {
                    return Rc::new(Self {
                        client: client.clone(),
                        store,
                        mark: format!("{MARK}{}", plan.node),
                        seen: Cell::new(0),
                        has_seen: Notify::new(),
                        begin_anew: Notify::new(),
                    });
                }
                Err(error) => {
                    // Once in ten seconds is enough.
                    if told.is_multiple_of(20) {
                        tracing::error!(
                            bucket = plan.name,
                            %error,
                            "JetStream has no bucket of this cluster and makes none: does it run, with \
                             as many servers as cluster.replicas?"
                        );
                    }
                    told = told.wrapping_add(1);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Follows the bucket from now on. What was taken in is to be told by [`Bucket::take_in`].
    pub(crate) fn follow(self: &Rc<Self>) -> Receiver<News> {
        let (news, receiver) = channel(NEWS_MAX);
        let this = Rc::clone(self);
        tokio::task::spawn_local(async move {
            while this.follow_once(&news).await.is_some() {
                sleep(PAUSE).await;
            }
        });
        receiver
    }

    /// Tells all there is, and what is changed, until that breaks off; `None` where nobody listens any more.
    async fn follow_once(&self, news: &Sender<News>) -> Option<()> {
        let Ok(mut watch) = self.store.watch_with_history(">").await else { return Some(()) };
        let Ok(end) = self.place_mark().await else { return Some(()) };
        news.send(News::Begin).await.ok()?;
        let mut is_complete = false;
        loop {
            let entry = tokio::select! {
                entry = watch.next() => entry,
                () = self.begin_anew.notified() => return Some(()),
            };
            let entry = match entry {
                Some(Ok(entry)) => entry,
                // It goes on by itself.
                Some(Err(error)) => {
                    tracing::debug!(%error, "the bucket cannot be followed for the moment");
                    continue;
                }
                None => return Some(()),
            };
            let kv::Entry { key, value, revision, operation, .. } = entry;
            let value = (operation == Operation::Put).then_some(value);
            news.send(News::Entry(Entry { key, value, revision })).await.ok()?;
            if revision >= end && !std::mem::replace(&mut is_complete, true) {
                news.send(News::Complete).await.ok()?;
            }
        }
    }

    /// Has all be told again: after a long silence it may not be known what is gone.
    pub(crate) fn follow_anew(&self) {
        self.begin_anew.notify_one();
    }

    /// All up to a revision was taken in.
    pub(crate) fn take_in(&self, revision: u64) {
        self.seen.set(self.seen.get().max(revision));
        self.has_seen.notify_waiters();
    }

    /// Waits until this node has taken in all that was written before now.
    ///
    /// # Errors
    /// The bucket cannot be written.
    pub(crate) async fn catch_up(&self) -> Result<(), WriteError> {
        let end = self.place_mark().await?;
        loop {
            let seen = self.has_seen.notified();
            if self.seen.get() >= end {
                return Ok(());
            }
            seen.await;
        }
    }

    async fn place_mark(&self) -> Result<u64, WriteError> {
        let written = self.store.put(&self.mark, Bytes::new()).await;
        written.map_err(|error| failure(&error))
    }

    /// Has an entry be another, or be no more, unless it is not the one of `revision`: 0 for one that is not
    /// there. Returns the revision it has now, or, of one that is no more, one that no later one has.
    ///
    /// # Errors
    /// [`WriteError`].
    pub(crate) async fn write(
        &self,
        key: &str,
        value: Option<Bytes>,
        revision: u64,
    ) -> Result<u64, WriteError> {
        if self.client.connection_state() != State::Connected {
            return Err(WriteError::NotWritten("NATS cannot be reached".into()));
        }
        match (value, revision) {
            (None, 0) => Ok(0),
            (None, revision) => {
                let deleted =
                    self.store.purge_expect_revision_with_ttl(key, revision, DELETED_KEPT);
                deleted.await.map(|()| revision + 1).map_err(|error| failure(&error))
            }
            (Some(value), 0) => {
                self.store.create(key, value).await.map_err(|error| match error.kind() {
                    CreateErrorKind::AlreadyExists => WriteError::Conflict,
                    _ => failure(&error),
                })
            }
            (Some(value), revision) => {
                self.store.update(key, value, revision).await.map_err(|error| match error.kind() {
                    UpdateErrorKind::WrongLastRevision => WriteError::Conflict,
                    _ => failure(&error),
                })
            }
        }
    }
}

/// What an error says of a write: what JetStream itself has answered was not stored.
fn failure(error: &(dyn Error + 'static)) -> WriteError {
    let mut cause = Some(error);
    let mut text = error.to_string();
    while let Some(error) = cause {
        if let Some(answer) = error.downcast_ref::<async_nats::jetstream::Error>() {
            return match answer.error_code() {
                ErrorCode::STREAM_WRONG_LAST_SEQUENCE
                | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => WriteError::Conflict,
                _ => WriteError::NotWritten(answer.to_string()),
            };
        }
        text = error.to_string();
        cause = error.source();
    }
    WriteError::Unknown(text)
}
