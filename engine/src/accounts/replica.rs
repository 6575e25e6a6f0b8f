//! Apps and keys of a cluster: they stand in a bucket that all its nodes follow, and the accounts of a node are
//! a replica of it. A change is made there first, by compare-and-set, and then here; what other nodes change is
//! learned. The store on disk is what a node knows while the bucket cannot be reached.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, never};
use pushflo_protocol::{ErrorCode, Refusal};

use super::app::{App, AppRecord};
use super::changes::{Changes, Space};
use super::keys::{Key, Role};
use super::store::OpenedDirectory;
use super::writer::{AccountsCall, ChangeReply, Writer};
use crate::bucket::{BucketHandle, Entry, News, Write, WriteError};
use crate::clock;
use crate::hash::HashMap;
use crate::ids::AppId;

/// Keys of entries: an app; the number of the next one; an app that was deleted and may have left something.
const APP: &str = "app.";
const NEXT_APP: &str = "next_app";
const DELETED_APP: &str = "deleted.";

/// How often a change is tried that meets another node's.
const ATTEMPTS_MAX: u32 = 20;

/// For how long news of that other change are waited for.
const NEWS_WAIT: Duration = Duration::from_millis(500);

/// What the writer knows of the bucket.
pub(super) struct Replica {
    handle: BucketHandle,
    /// Keys of the default app that stand in the configuration.
    configured: Vec<(Role, String)>,
    /// The entries that are there.
    revisions: HashMap<String, u64>,
    /// Apps that were told since the bucket is told from the start.
    told: BTreeSet<AppId>,
    /// All was told once.
    is_complete: bool,
    /// The default app may lack keys.
    is_default_open: bool,
    made_keys: Sender<Vec<(Role, String)>>,
}

/// The app of an entry that marks it as deleted.
pub(crate) fn deleted_app(key: &str) -> Option<AppId> {
    key.strip_prefix(DELETED_APP)?.parse().ok().map(AppId)
}

/// The app of an entry that is one.
pub(crate) fn app_of(key: &str) -> Option<AppId> {
    key.strip_prefix(APP)?.parse().ok().map(AppId)
}

/// The key of the entry that marks an app as deleted.
pub(crate) fn deleted_key(app: AppId) -> String {
    format!("{DELETED_APP}{app}", app = app.0)
}

/// Whether an entry is the accounts'.
pub(crate) fn is_of_accounts(key: &str) -> bool {
    key == NEXT_APP || app_of(key).is_some() || deleted_app(key).is_some()
}

/// The entries that have the apps of a directory in a bucket, the default app's last.
pub(crate) fn replica_entries(opened: &OpenedDirectory) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut entries = vec![(NEXT_APP.into(), opened.next_app.to_string().into_bytes())];
    for (id, app) in opened.apps.iter().rev() {
        let json = app.record.to_json().map_err(|error| error.to_string())?;
        entries.push((format!("{APP}{}", id.0), json));
    }
    Ok(entries)
}

impl Replica {
    pub(super) fn new(
        handle: BucketHandle,
        configured: Vec<(Role, String)>,
        made_keys: Sender<Vec<(Role, String)>>,
    ) -> Self {
        Self {
            handle,
            configured,
            revisions: HashMap::default(),
            told: BTreeSet::new(),
            is_complete: false,
            is_default_open: true,
            made_keys,
        }
    }

    /// Writes an entry, if nobody else has since.
    fn write(&mut self, key: String, value: Option<Vec<u8>>) -> Result<(), WriteError> {
        let revision = self.revisions.get(&key).copied().unwrap_or_default();
        let (done, written) = bounded(1);
        let is_deleted = value.is_none();
        let entry = Entry { key: key.clone(), value: value.map(Bytes::from), revision };
        let gone = || WriteError::NotWritten("the server stops".into());
        self.handle.writes.blocking_send(Write { entry, done }).map_err(|_| gone())?;
        let unknown = |_| WriteError::Unknown("the server stops".into());
        let revision = written.recv().map_err(unknown)??;
        match is_deleted {
            true => self.revisions.remove(&key),
            false => self.revisions.insert(key, revision),
        };
        Ok(())
    }

    /// Makes a group's changes for all nodes. Those of several entries are made so that each is right without
    /// those behind it.
    fn share(&mut self, changes: &Changes) -> Result<(), WriteError> {
        if changes.is_empty() {
            return Ok(());
        }
        if !self.is_complete {
            return Err(WriteError::NotWritten("this node has not reached the cluster yet".into()));
        }
        let of = |space| changes.0.iter().filter(move |((of, _), _)| *of == space);
        let app = |key: &[u8]| key.try_into().map(u32::from_be_bytes).unwrap_or_default();
        for (_, value) in of(Space::State).filter(|((_, key), _)| key == NEXT_APP.as_bytes()) {
            let number = value.as_deref().and_then(|value| value.try_into().ok());
            let number = number.map(|number| u64::from_be_bytes(number).to_string().into_bytes());
            self.write(NEXT_APP.into(), number)?;
        }
        for ((_, key), _) in of(Space::DeletedApps) {
            self.write(deleted_key(AppId(app(key))), Some(Vec::new()))?;
        }
        for ((_, key), value) in of(Space::Apps) {
            self.write(format!("{APP}{}", app(key)), value.clone())?;
        }
        Ok(())
    }
}

impl Writer {
    /// News of the bucket; none ever without one.
    pub(super) fn news(&self) -> Receiver<News> {
        self.replica.as_ref().map_or_else(never, |replica| replica.handle.news.clone())
    }

    /// Does a call for all nodes.
    pub(super) fn act_for_all(&mut self, call: &AccountsCall) {
        self.change_for_all(|writer| Some(writer.act(call.clone())));
    }

    /// Makes a change for all nodes, which may have to be made anew behind one of another node. Returns whether
    /// it was made.
    fn change_for_all(&mut self, change: impl Fn(&mut Self) -> Option<ChangeReply>) -> bool {
        for _ in 0..ATTEMPTS_MAX {
            let reply = change(self);
            let Some(replica) = self.replica.as_mut() else { return false };
            let shared = replica.share(&self.group.changes);
            let refusal = match shared {
                Ok(()) => {
                    // On the disk of this node is only what all nodes have, too.
                    self.group.changes.0.retain(|(space, _), _| *space == Space::Apps);
                    self.group.replies.extend(reply);
                    self.write_group();
                    return true;
                }
                Err(WriteError::Conflict) => {
                    self.undo_group();
                    self.learn_what_is_new();
                    continue;
                }
                Err(WriteError::NotWritten(text)) => {
                    let text = format!("nothing was changed, it could not be written: {text}");
                    Refusal::new(ErrorCode::Overloaded, text)
                }
                Err(WriteError::Unknown(text)) => {
                    let text = format!("whether the change was made is not known: {text}");
                    Refusal::new(ErrorCode::UnknownOutcome, text)
                }
            };
            return self.refuse_group(reply, &refusal);
        }
        let refusal = Refusal::new(ErrorCode::Overloaded, "other nodes change the same; try again");
        let reply = change(self);
        self.refuse_group(reply, &refusal)
    }

    /// Has the group change nothing, and tells whoever waits for it so: it was not made.
    fn refuse_group(&mut self, reply: Option<ChangeReply>, refusal: &Refusal) -> bool {
        self.undo_group();
        self.group.replies.extend(reply.map(|reply| reply.refused(refusal)));
        self.write_group();
        false
    }

    /// Waits for news and takes in all there are.
    fn learn_what_is_new(&mut self) {
        let news = self.news();
        if let Ok(first) = news.recv_timeout(NEWS_WAIT) {
            self.learn(first);
            while let Ok(next) = news.try_recv() {
                self.learn(next);
            }
        }
    }

    /// Takes in what stands in the bucket.
    pub(super) fn learn(&mut self, news: News) {
        let Some(replica) = self.replica.as_mut() else { return };
        match news {
            News::Begin => replica.told.clear(),
            News::Complete => {
                replica.is_complete = true;
                let told = std::mem::take(&mut replica.told);
                replica
                    .revisions
                    .retain(|key, _| app_of(key).is_none_or(|app| told.contains(&app)));
                let gone: Vec<_> =
                    self.apps.keys().filter(|app| !told.contains(app)).copied().collect();
                gone.into_iter().for_each(|app| self.learn_app(app, None));
                self.open_default();
            }
            News::Entry(Entry { key, value, revision }) => {
                let app = app_of(&key);
                replica.told.extend(app.filter(|_| value.is_some()));
                if replica.revisions.get(&key).is_some_and(|known| *known >= revision) {
                    return;
                }
                if key == NEXT_APP {
                    let number =
                        value.as_deref().and_then(|v| str::from_utf8(v).ok()?.parse().ok());
                    self.next_app = number.unwrap_or(1);
                }
                match &value {
                    Some(_) => replica.revisions.insert(key, revision),
                    None => replica.revisions.remove(&key),
                };
                if let Some(app) = app {
                    self.learn_app(app, value.as_deref());
                }
            }
        }
    }

    fn learn_app(&mut self, id: AppId, value: Option<&[u8]>) {
        let record = value.map(serde_json::from_slice::<AppRecord>).transpose();
        let app = match record {
            Ok(None) => None,
            Ok(Some(mut record)) => {
                self.add_configured(id, &mut record);
                let plan = self.plans.find(&record.plan);
                if plan.is_none() {
                    tracing::error!(
                        app = %id, plan = record.plan,
                        "the plan of an app is not among those configured on this node, which does not \
                         serve the app therefore"
                    );
                }
                let known = self.apps.get(&id).map(|app| app.usage.clone());
                let usage = known.unwrap_or_else(|| self.new_usage());
                plan.map(|plan| App { id, record, plan, usage })
            }
            Err(error) => {
                return tracing::error!(app = %id, %error, "an app in the bucket cannot be read");
            }
        };
        if app.is_none() && !self.apps.contains_key(&id) {
            return;
        }
        match &app {
            Some(app) => {
                if let Err(error) = self.group.changes.put_app(id, &app.record) {
                    tracing::error!(%error, "an app cannot be kept on disk");
                }
            }
            None => self.group.changes.set(Space::Apps, id.0.to_be_bytes(), None),
        }
        self.touch(id, app);
        self.write_group();
    }

    fn add_configured(&self, id: AppId, record: &mut AppRecord) {
        let Some(replica) = self.replica.as_ref().filter(|_| id == AppId::DEFAULT) else { return };
        for (role, key) in &replica.configured {
            record.put_configured(*role, key);
        }
    }

    /// Sees to it that there is a default app with a key of each role.
    pub(super) fn open_default(&mut self) {
        let is_open = |replica: &Replica| replica.is_complete && replica.is_default_open;
        if !self.replica.as_ref().is_some_and(is_open) {
            return;
        }
        let now_ms = clock::unix_ms();
        let made = Role::ALL.map(|role| Key::generate(role, None, now_ms));
        let is_done = self.change_for_all(|writer| {
            let known = writer.apps.get(&AppId::DEFAULT);
            let usage = known.map(|app| app.usage.clone());
            let usage = usage.unwrap_or_else(|| writer.new_usage());
            let mut record =
                known.map_or_else(|| AppRecord::of_default(now_ms), |app| app.record.clone());
            writer.add_configured(AppId::DEFAULT, &mut record);
            let is_new = known.is_none();
            let missing: Vec<_> = made.iter().filter(|(key, _)| !record.has(key.role)).collect();
            if is_new || !missing.is_empty() {
                record.keys.extend(missing.into_iter().map(|(key, _)| key.clone()));
                // Its plan is always there.
                let _ = writer.keep(AppId::DEFAULT, record, usage);
            }
            None
        });
        let Some(replica) = self.replica.as_mut().filter(|_| is_done) else { return };
        replica.is_default_open = false;
        // Each shard has been told of all apps by now.
        replica.handle.is_informed.store(true, Relaxed);
        let default = self.apps.get(&AppId::DEFAULT);
        let is_kept = |key: &Key| default.is_some_and(|app| app.key(key.id()).is_some());
        let kept = made.into_iter().filter(|(key, _)| is_kept(key));
        let kept: Vec<_> = kept.map(|(key, text)| (key.role, text)).collect();
        if !kept.is_empty() {
            // Nobody is there to be shown them in a test that configures none.
            let _ = replica.made_keys.try_send(kept);
        }
    }
}
