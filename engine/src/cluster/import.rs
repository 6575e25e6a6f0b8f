//! Brings what a server by itself has into a cluster that has nothing yet: apps, keys, channels, metadata and
//! history.
//!
//! Apps come last: while they are not there, no node of the cluster does anything for anybody. That an import is
//! under way stands in the bucket, so that one that broke off can begin anew.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use pushflo_protocol::time::Month;
use thiserror::Error;
use tokio::time::timeout;

use super::ClusterPlan;
use super::connection::connect;
use crate::accounts::{OpenedDirectory, app_of, replica_entries};
use crate::bucket::{Bucket, BucketPlan, Entry, News, WriteError};
use crate::clock;
use crate::ids::{AppId, ChannelKey, SlotId};
use crate::log::jetstream::{Import, ImportError, StreamsPlan, count_entry, meta_key};
use crate::log::{LoadedChannel, OpenedLog};
use crate::metrics::ClusterMetrics;

/// For how long NATS is looked for.
const REACHED: Duration = Duration::from_secs(30);

/// Slots whose channels are brought over at a time.
const SLOTS_AT_A_TIME: usize = 8;

/// The key that says that an import is under way.
const IMPORT: &str = "import";

/// What a server by itself has.
#[derive(Debug)]
pub struct Imported {
    /// Its apps, keys and metadata.
    pub directory: OpenedDirectory,
    /// Its log, if it has one on disk.
    pub log: Option<OpenedLog>,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportProgress {
    /// Apps there are.
    pub apps: usize,
    /// Channels with history there are, and how many of them are brought over.
    pub channels: (usize, usize),
    /// Channels with metadata there are.
    pub metas: usize,
    /// Messages that are brought over.
    pub messages: u64,
}

/// Why nothing, or not all, is brought over.
#[derive(Debug, Error)]
pub enum ClusterImportError {
    /// NATS does not answer.
    #[error("NATS cannot be reached at {0}, or JetStream does not run there")]
    Unreached(String),
    /// Something is there already.
    #[error("the cluster {0} has {1} already; import into a new one, with another cluster.prefix")]
    NotNew(String, &'static str),
    /// A part of it cannot be read or written.
    #[error("{0}")]
    Failed(String),
}

impl From<ImportError> for ClusterImportError {
    fn from(error: ImportError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Brings it over, and tells `told` how far that is.
///
/// # Errors
/// [`ClusterImportError`]. What was brought over until then is deleted when it is begun anew.
pub fn import(
    plan: &ClusterPlan,
    imported: &Imported,
    told: impl FnMut(ImportProgress),
) -> Result<ImportProgress, ClusterImportError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ClusterImportError::Failed(error.to_string()))?;
    tokio::task::LocalSet::new().block_on(&runtime, bring_over(plan, imported, told))
}

async fn bring_over(
    plan: &ClusterPlan,
    imported: &Imported,
    mut told: impl FnMut(ImportProgress),
) -> Result<ImportProgress, ClusterImportError> {
    let reach = async {
        let client = connect(plan).await;
        let bucket = Bucket::open(&client, &BucketPlan::of(plan)).await;
        let there = entries(&bucket).await;
        (client, bucket, there)
    };
    let reached = timeout(REACHED, reach).await;
    let (client, bucket, there) =
        reached.map_err(|_| ClusterImportError::Unreached(format!("{:?}", plan.nats)))?;
    let not_new = |what| ClusterImportError::NotNew(plan.prefix.clone(), what);
    if there.keys().any(|key| app_of(key).is_some()) {
        return Err(not_new("apps"));
    }
    let metrics = Arc::new(ClusterMetrics::default());
    let of_streams = StreamsPlan::of(plan, Vec::new(), metrics, clock::unix_ms);
    let streams = Import::new(client, of_streams).await?;
    let mark = there.get(IMPORT).copied().unwrap_or_default();
    if mark > 0 {
        streams.begin_anew().await?;
    } else if streams.messages().await? > 0 {
        return Err(not_new("messages"));
    }
    let mark = write(&bucket, IMPORT, Some("under way".into()), mark).await?;
    let OpenedDirectory { apps, channels: metas, .. } = &imported.directory;
    let mut progress =
        ImportProgress { apps: apps.len(), metas: metas.len(), ..Default::default() };
    // Messages of this month, by app: those that are stored in the cluster.
    let month = Month::of(clock::unix_ms());
    let mut stored: BTreeMap<AppId, u64> = BTreeMap::new();
    if let Some(log) = &imported.log {
        let is_known = |loaded: &&LoadedChannel| {
            apps.contains_key(&loaded.channel.app)
                && !imported.directory.deleted.contains(&loaded.log)
        };
        let mut by_slot: BTreeMap<SlotId, Vec<&LoadedChannel>> = BTreeMap::new();
        for loaded in log.contents.channels.iter().filter(is_known) {
            by_slot.entry(SlotId::of(&loaded.channel)).or_default().push(loaded);
            progress.channels.0 += 1;
        }
        told(progress);
        let shared = Rc::new(std::cell::RefCell::new((&mut progress, &mut told, &mut stored)));
        let slots = stream::iter(by_slot).map(|(slot, channels)| {
            let (streams, shared) = (&streams, Rc::clone(&shared));
            async move {
                let tell = |loaded: &LoadedChannel, messages, of_month| {
                    let (progress, told, stored) = &mut *shared.borrow_mut();
                    progress.channels.1 += 1;
                    progress.messages += messages;
                    *stored.entry(loaded.channel.app).or_default() += of_month;
                    told(**progress);
                };
                streams.slot(slot, log, month.start_ms, &channels, tell).await
            }
        });
        slots.buffer_unordered(SLOTS_AT_A_TIME).try_collect::<Vec<()>>().await?;
    }
    let published = apps.iter().map(|(id, app)| {
        let of_log = imported.log.iter().flat_map(|log| &log.contents.usage);
        let of_log = of_log.filter(|(of, of_month, _)| of == id && *of_month == month.number);
        let known = of_log.map(|(_, _, messages)| *messages).max().unwrap_or_default();
        let all = app.usage.messages(month).max(known);
        (*id, month.number, all.saturating_sub(stored.get(id).copied().unwrap_or_default()))
    });
    // Of what was published, some is not kept any more.
    let (key, value) = count_entry(published.filter(|(_, _, messages)| *messages > 0));
    let before = there.get(&key).copied().unwrap_or_default();
    write(&bucket, &key, Some(value.into()), before).await?;
    for (channel, meta) in metas {
        import_meta(&bucket, &there, channel, meta).await?;
    }
    let entries = replica_entries(&imported.directory).map_err(ClusterImportError::Failed)?;
    for (key, value) in entries {
        let before = there.get(&key).copied().unwrap_or_default();
        write(&bucket, &key, Some(value.into()), before).await?;
    }
    write(&bucket, IMPORT, None, mark).await?;
    Ok(progress)
}

async fn import_meta(
    bucket: &Bucket,
    there: &BTreeMap<String, u64>,
    channel: &ChannelKey,
    meta: &crate::accounts::ChannelMeta,
) -> Result<(), ClusterImportError> {
    let key = meta_key(channel);
    let meta = serde_json::to_vec(meta);
    let meta = meta.map_err(|error| ClusterImportError::Failed(error.to_string()))?;
    let before = there.get(&key).copied().unwrap_or_default();
    write(bucket, &key, Some(meta.into()), before).await.map(|_| ())
}

/// All that the bucket has: keys and revisions.
async fn entries(bucket: &Rc<Bucket>) -> BTreeMap<String, u64> {
    let (mut news, mut there) = (bucket.follow(), BTreeMap::new());
    while let Some(told) = news.recv().await {
        match told {
            News::Begin => there.clear(),
            News::Complete => break,
            News::Entry(Entry { key, value, revision }) => {
                if value.is_some() {
                    there.insert(key, revision);
                }
            }
        }
    }
    there
}

async fn write(
    bucket: &Bucket,
    key: &str,
    value: Option<Bytes>,
    revision: u64,
) -> Result<u64, ClusterImportError> {
    let written = bucket.write(key, value, revision).await;
    written.map_err(|error| {
        ClusterImportError::Failed(match error {
            WriteError::Conflict => {
                format!(
                    "somebody else changes {key}: stop all nodes of this cluster, and begin again"
                )
            }
            WriteError::NotWritten(text) | WriteError::Unknown(text) => text,
        })
    })
}
