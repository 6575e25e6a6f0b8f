//! Apps that were deleted and may have left messages or metadata. One node at a time deletes these; that an app
//! is deleted stands in the bucket until that is done, so any other node can go on with it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::lending::{lent_app, lent_key};
use crate::accounts::{app_of, deleted_app, deleted_key};
use crate::bucket::{Bucket, Entry, News};
use crate::ids::AppId;
use crate::log::jetstream::Streams;

/// So long after the deletion no node takes anything for the app any more.
const QUIET: Duration = Duration::from_secs(10);

/// An app that is still there so long after it was to be deleted was not.
const NOT_DELETED: Duration = Duration::from_secs(60);

/// What is known of apps here.
#[derive(Debug, Default)]
pub(super) struct DeletedApps {
    there: BTreeSet<AppId>,
    /// All was told that there is: an app that is not among them is none.
    is_complete: bool,
    /// Since when it is known of one that it is to be deleted, and the revision of its entry.
    deleted: BTreeMap<AppId, (Instant, u64)>,
    /// Of apps of whose limits something is lent, the revision of that.
    lent: BTreeMap<AppId, u64>,
    /// What one of them has left is being deleted.
    is_busy: Rc<Cell<bool>>,
}

impl DeletedApps {
    /// News of the bucket.
    pub(super) fn learn(&mut self, news: &News) {
        match news {
            News::Begin => *self = Self { is_busy: Rc::clone(&self.is_busy), ..Self::default() },
            News::Complete => self.is_complete = true,
            News::Entry(Entry { key, value, revision }) => {
                let is_there = value.is_some();
                if let Some(app) = app_of(key) {
                    match is_there {
                        true => self.there.insert(app),
                        false => self.there.remove(&app),
                    };
                }
                if let Some(app) = lent_app(key) {
                    match is_there {
                        true => self.lent.insert(app, *revision),
                        false => self.lent.remove(&app),
                    };
                }
                if let Some(app) = deleted_app(key) {
                    match is_there {
                        true => self.deleted.insert(app, (Instant::now(), *revision)),
                        false => self.deleted.remove(&app),
                    };
                }
            }
        }
    }

    /// Goes on, on the node whose turn it is.
    pub(super) fn go_on(&self, bucket: &Rc<Bucket>, streams: &Streams) {
        let is_due = |(app, (since, _)): &(&AppId, &(Instant, u64))| {
            let is_there = self.there.contains(app);
            since.elapsed() > if is_there { NOT_DELETED } else { QUIET }
        };
        let due = self.deleted.iter().find(is_due).filter(|_| self.is_complete);
        let Some((&app, &(_, revision))) = due.filter(|_| !self.is_busy.get()) else { return };
        let is_there = self.there.contains(&app);
        let lent = self.lent.get(&app).copied().filter(|_| !is_there).unwrap_or_default();
        let (bucket, streams) = (Rc::clone(bucket), streams.clone());
        let is_busy = Rc::clone(&self.is_busy);
        is_busy.set(true);
        tokio::task::spawn_local(async move {
            let forgotten = async {
                if is_there {
                    return Ok(());
                }
                streams.forget_app(app).await?;
                let written = bucket.write(&lent_key(app), None, lent).await;
                written.map(|_| ()).map_err(|error| format!("{error:?}"))
            };
            let forgotten = forgotten.await;
            match forgotten {
                Ok(()) => {
                    let written = bucket.write(&deleted_key(app), None, revision).await;
                    if written.is_ok() && !is_there {
                        tracing::info!(%app, "all that a deleted app has left is deleted");
                    }
                }
                Err(error) => {
                    tracing::warn!(%app, error, "what a deleted app has left is still there");
                }
            }
            is_busy.set(false);
        });
    }
}
