//! What the shards begin with, from what the log and the directory have.

use std::collections::BTreeMap;

use crate::accounts;
use crate::hash::HashMap;
use crate::ids::{AppId, ChannelKey, LogId, ShardId};
use crate::log::{Append, Contents, Log, LogCall};
use crate::retention::{Retention, Retentions};
use crate::shard::Stored;

/// Adds what the log has. Channels that were deleted, alone or with their app, and are still
/// there, are deleted now. Those of apps that are not known are kept, and nobody sees them.
pub(super) fn of_log(
    stored: &mut Stored,
    contents: Contents,
    log: &Log,
    directory: &accounts::OpenedDirectory,
    retentions: &Retentions,
) {
    for (id, month, messages) in contents.usage {
        if let Some(app) = directory.apps.get(&id) {
            app.usage.restore(month, messages);
        }
    }
    let (deleted, others): (Vec<_>, Vec<_>) = contents.channels.into_iter().partition(|loaded| {
        directory.deleted.contains(&loaded.log)
            || directory.deleted_apps.contains(&loaded.channel.app)
    });
    if !deleted.is_empty() {
        let deletes = deleted.into_iter().map(|gone| (gone.log, gone.channel)).collect();
        let (entries, generations) = (Vec::new(), Vec::new());
        let append =
            Append { shard: NO_SHARD, term: 0, entries, deletes, generations, sync: false };
        // The queue is empty before the shards run.
        let _ = log.handle().post(LogCall::Append(append));
    }
    let (kept, strangers): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|loaded| directory.apps.contains_key(&loaded.channel.app));
    let mut unknown: BTreeMap<AppId, usize> = BTreeMap::new();
    for loaded in strangers {
        *unknown.entry(loaded.channel.app).or_default() += 1;
    }
    for (app, channels) in unknown {
        retentions.set(app, Retention::EVERYTHING);
        tracing::warn!(
            %app,
            channels,
            "the log has channels of an app that is not known; they are kept and nobody sees \
             them: restore the directory with the app, or stop the server and delete them with \
             `pushflo directory delete-history`"
        );
    }
    let names: HashMap<LogId, ChannelKey> =
        kept.iter().map(|channel| (channel.log, channel.channel.clone())).collect();
    let answers = contents.answers.into_iter().filter_map(|loaded| {
        names.get(&loaded.log).map(|channel| (channel.clone(), loaded.answer))
    });
    stored.answers = answers.collect();
    stored.channels = kept;
}

/// Nobody waits for what becomes of these appends.
const NO_SHARD: ShardId = ShardId(u16::MAX);
