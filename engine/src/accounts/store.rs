//! Apps, keys, channels' metadata and usage on disk: a small fjall database beside the log. Values
//! are JSON, since they are few and people may want to read them.
//!
//! Beside the database are its seal, which says what of it is in force, and the list of private
//! channels. Invariant: what was answered as done is there at the next start or the start is refused;
//! what was refused is not there. Doubt closes and never opens. Usage alone is in no seal: it is a
//! count that may be a second old.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use pushflo_protocol::ChannelSlug;
use thiserror::Error;

use super::app::{App, AppRecord};
use super::changes::{Changes, LastChange, Space, channel_key, is_private};
use super::channel::ChannelMeta;
use super::keys::{Key, Role};
use super::plan::Plans;
use super::private_list::{self, Listed, PrivateList};
use super::seal::{Content, Seal, SealFile};
use super::usage::{Usage, Usages};
use crate::clock;
use crate::database_files::{self, Cut};
use crate::ids::{AppId, ChannelKey, LogId};

/// Why apps and keys cannot be read or written.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The disk or the database.
    #[error("{0}")]
    Store(String),
    /// A write failed and could not be taken back either: the change may be there after a crash.
    #[error("{0}; whether the change was made is not known, and shows when the disk works again")]
    Unknown(String),
    /// What is stored is not what was written.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// What is damaged.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What is stored is whole, but not what is in force.
    #[error("what is there is not what was last in force: {0}")]
    Lost(String),
    /// An app has a plan that is not configured any more.
    #[error("the app {app} has the plan {plan}, which is not among those configured: {known}")]
    Plan {
        /// The app.
        app: AppId,
        /// Its plan.
        plan: Box<str>,
        /// The plans there are.
        known: String,
    },
    /// A server that is a node of a cluster is to have the folder of one that is not.
    #[error(
        "it is of a server without cluster.nats, and has {apps} apps and metadata of {channels} channels \
         that the cluster does not have"
    )]
    OfOneNode {
        /// Apps in it.
        apps: usize,
        /// Channels with metadata in it.
        channels: usize,
    },
    /// A server that is none is to have the folder of a cluster's node.
    #[error("it is of a node of a cluster, where channels and their messages are")]
    OfCluster,
}

/// What a directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryOf {
    /// A server by itself: it is all there is.
    OneServer,
    /// A node of a cluster: it is what the node knows while it cannot reach the others.
    ClusterNode,
}

impl From<fjall::Error> for DirectoryError {
    fn from(error: fjall::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return Self::from_io("a file of the database", io);
            }
            cause = error.source();
        }
        let damaged = |what: &str, reason: &str| {
            let reason = format!("{reason} ({error:?})");
            Self::Damaged { what: what.into(), reason }
        };
        match &error {
            fjall::Error::Io(io) => Self::from_io("a file of the database", io),
            fjall::Error::Poisoned => Self::Store("an earlier write failed".into()),
            fjall::Error::Locked => Self::Store("another process has it open".into()),
            fjall::Error::InvalidVersion(_) => {
                damaged("the file `version`", "it names no format that is known here")
            }
            fjall::Error::JournalRecovery(_)
            | fjall::Error::InvalidTag(_)
            | fjall::Error::InvalidTrailer => damaged("the journal", "it is not as it was written"),
            _ => damaged("a table or its manifest", "it is not as it was written"),
        }
    }
}

impl DirectoryError {
    /// What the kernel refuses is the disk's fault; a file that is missing, too short or not what
    /// was written is damage.
    fn from_io(what: &str, error: &io::Error) -> Self {
        use rustix::io::Errno;
        const REFUSED: [Errno; 11] = [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::IO,
            Errno::ROFS,
            Errno::ACCESS,
            Errno::PERM,
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::AGAIN,
            Errno::INTR,
        ];
        let is_refused = Errno::from_io_error(error).is_some_and(|code| REFUSED.contains(&code));
        if is_refused {
            Self::Store(error.to_string())
        } else {
            damaged(&what, &format!("it is missing, too short or not as it was written ({error})"))
        }
    }
}

/// The database with its seal and the list of private channels.
pub struct DirectoryStore {
    path: PathBuf,
    /// None after a write that failed: only a new look at the disk tells what is on it.
    database: Option<Tables>,
    /// What is in force.
    seal: Seal,
    seal_file: SealFile,
    /// The last seal that was written may be another than [`Self::seal`].
    is_seal_in_doubt: bool,
    /// The number of the last change in the database, whose content is that of the seal.
    written: u64,
    private: PrivateList,
    /// When the database was last found not to work, in Unix milliseconds.
    failed_ms: u64,
}

/// After a failure the database is opened again no sooner than this, in milliseconds: it takes
/// reading its journal, and on a full disk every change would ask for that.
const RETRY_MS: u64 = 100;

/// Entries of a change that the store makes by itself, so that what it takes to undo it stays small.
const ENTRIES_MAX: usize = 1_000;

impl std::fmt::Debug for DirectoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DirectoryStore")
    }
}

/// What was found when it was opened.
#[derive(Debug)]
pub struct OpenedDirectory {
    /// The database.
    pub store: DirectoryStore,
    /// All apps.
    pub apps: BTreeMap<AppId, App>,
    /// Channels with metadata, all of them of these apps.
    pub channels: Vec<(ChannelKey, ChannelMeta)>,
    /// Apps that are deleted whose channels' metadata are still to be removed.
    pub unswept: BTreeSet<AppId>,
    /// Keys that were made just now, for the default app.
    pub generated: Vec<(Role, String)>,
    /// Keys of the default app from the configuration.
    pub(super) configured: Vec<(Role, String)>,
    /// How often a channel was deleted; goes into epochs.
    pub deletions: u64,
    /// Places in the log of channels that were deleted.
    pub deleted: BTreeSet<LogId>,
    /// Apps that were deleted and may have history still.
    pub deleted_apps: BTreeSet<AppId>,
    /// The number of the next app.
    pub next_app: u64,
    /// It knows which channels in the log are private: it began with the log, or with a list.
    has_met_log: bool,
}

/// Memory for tables that are not on disk yet; there is little to keep.
const MEMTABLE_BYTES: u64 = 4 * 1024 * 1024;

/// The number that says that the directory knows which channels of the log are private.
const HAS_MET_LOG: &str = "has_met_log";

/// The number that says that the directory is that of a node of a cluster.
const OF_CLUSTER: &str = "of_cluster";

/// The entry that says what the database's last change was; it is in no seal.
const LAST_CHANGE: &str = "last_change";

/// Opens the directory in `path`, or makes it. `configured` are keys of the default app from the configuration.
/// For a server by itself that app is made if it is not there, and roles without any key get a generated one.
///
/// # Errors
/// [`DirectoryError`] with the cause. The folder is as it was then.
pub fn open(
    path: &Path,
    plans: &Plans,
    configured: &[(Role, String)],
    of: DirectoryOf,
) -> Result<OpenedDirectory, DirectoryError> {
    let mut store = DirectoryStore::open(path)?;
    store.check_purpose(of)?;
    let now_ms = clock::unix_ms();
    let mut records = store.tables()?.load_apps()?;
    if of == DirectoryOf::OneServer {
        records.entry(AppId::DEFAULT).or_insert_with(|| AppRecord::of_default(now_ms));
    }
    let mut generated = Vec::new();
    if let Some(default) = records.get_mut(&AppId::DEFAULT) {
        for (role, key) in configured {
            default.put_configured(*role, key);
        }
        for role in Role::ALL {
            if of == DirectoryOf::OneServer && !default.has(role) {
                let (key, text) = Key::generate(role, None, now_ms);
                default.keys.push(key);
                generated.push((role, text));
            }
        }
        let mut changes = Changes::default();
        changes.put_app(AppId::DEFAULT, default)?;
        store.commit(&changes)?;
    }
    let tables = store.tables()?;
    let mut apps = BTreeMap::new();
    for (id, record) in records {
        let Some(plan) = plans.find(&record.plan) else {
            if of == DirectoryOf::ClusterNode {
                // It may have another one by now; if not, that is said when the cluster tells of it.
                continue;
            }
            let (plan, known) = (record.plan.clone(), plans.names());
            return Err(DirectoryError::Plan { app: id, plan, known });
        };
        let usage = match of {
            DirectoryOf::ClusterNode => Usage::shared(),
            _ => Usage::default(),
        };
        if let Some((month, messages)) = tables.usage(id)? {
            usage.restore(month, messages);
        }
        apps.insert(id, App { id, record, plan, usage: Arc::new(usage) });
    }
    let (channels, unswept): (Vec<_>, Vec<_>) = tables
        .load_channels()?
        .into_iter()
        .partition(|(channel, _)| apps.contains_key(&channel.app));
    let unswept = unswept.into_iter().map(|(channel, _)| channel.app).collect();
    let deletions = tables.number("deletions")?.unwrap_or_default();
    let (deleted, deleted_apps) = (tables.load_deleted()?, tables.load_deleted_apps()?);
    let next_app = tables.number("next_app")?.unwrap_or(1);
    let has_met_log = tables.number(HAS_MET_LOG)?.is_some();
    Ok(OpenedDirectory {
        store,
        apps,
        channels,
        unswept,
        generated,
        configured: configured.to_vec(),
        deletions,
        deleted,
        deleted_apps,
        next_app,
        has_met_log,
    })
}

/// What [`accept`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// There was something to accept.
    pub is_needed: bool,
    /// Apps that are there.
    pub apps: usize,
    /// Channels that were closed, as nobody knows whether they were private.
    pub closed: usize,
}

/// Takes the directory in `path` as it is, although part of what was in force is lost. Every channel
/// that ever was private is private then; where that is not known either, apps take none that was
/// not created through the API.
///
/// # Errors
/// [`DirectoryError`] with the cause: what is there cannot be read.
pub fn accept(path: &Path) -> Result<Accepted, DirectoryError> {
    match DirectoryStore::open(path) {
        Ok(store) => {
            let apps = store.tables()?.load_apps()?.len();
            return Ok(Accepted { is_needed: false, apps, closed: 0 });
        }
        Err(DirectoryError::Damaged { .. } | DirectoryError::Lost(_)) => {}
        Err(error) => return Err(error),
    }
    let files = Files::of(path);
    let earlier = files.open_seal()?.and_then(|(_, seal)| seal);
    let (list, listed) = files.open_list(earlier.map(|seal| seal.private_list_bytes))?;
    let (tables, cuts) = Tables::open_whole(path)?;
    for Cut { journal, copy, .. } in cuts {
        let (journal, copy) = (journal.display(), copy.display());
        tracing::error!(%journal, %copy, "a journal was cut back; the copy has what it was");
    }
    let records = tables.load_apps()?;
    // Before the seal: a crash between leaves all closed, or the start refused as before.
    let mut closed = tables.close(&listed.channels)?;
    if !listed.is_whole {
        let all = tables.load_channels()?.into_iter().map(|(channel, _)| channel);
        closed += tables.close(&all.collect::<Vec<_>>())?;
        let mut changes = Changes::default();
        changes.set(Space::State, HAS_MET_LOG, None);
        for (id, record) in &records {
            let mut record = record.clone();
            record.settings.require_channels = true;
            changes.put_app(*id, &record)?;
        }
        tables.write(&changes)?;
    }
    tables.reserve_apps(&listed.channels)?;
    let change = tables.last_change()?.number.max(earlier.map_or(0, |seal| seal.change));
    let seal = Seal { change, content: tables.content()?, private_list_bytes: listed.bytes };
    DirectoryStore::new(path, tables, seal, list)?.rewrite_list()?;
    Ok(Accepted { is_needed: true, apps: records.len(), closed })
}

impl OpenedDirectory {
    /// Has apps be counted on where they are counted already.
    pub(crate) fn adopt(&mut self, usages: &Usages) {
        for (id, app) in &mut self.apps {
            if let Some(usage) = usages.of(*id) {
                app.usage = usage;
            }
        }
    }

    /// Makes a key of an app and returns it.
    ///
    /// # Errors
    /// [`DirectoryError`] with the cause.
    pub fn add_key(&mut self, app: AppId, role: Role) -> Result<String, DirectoryError> {
        let found = self.apps.get(&app);
        let found = found.ok_or_else(|| DirectoryError::Store("there is no such app".into()))?;
        let (key, text) = Key::generate(role, None, clock::unix_ms());
        let mut record = found.record.clone();
        record.keys.push(key);
        let mut changes = Changes::default();
        changes.put_app(app, &record)?;
        self.store.commit(&changes)?;
        Ok(text)
    }

    /// Notes that the history of an app is to be deleted at the next start.
    ///
    /// # Errors
    /// [`DirectoryError`]: the app is there, or the note cannot be written.
    pub fn delete_history(&mut self, app: AppId) -> Result<(), DirectoryError> {
        if self.apps.contains_key(&app) {
            let text = format!("the app {app} is there; `pushflo apps delete {app}` deletes it");
            return Err(DirectoryError::Store(text));
        }
        let mut changes = Changes::default();
        changes.remove_app(app);
        if u64::from(app.0) >= self.next_app {
            changes.put_number("next_app", u64::from(app.0) + 1);
        }
        self.store.commit(&changes)
    }

    /// The log has these channels: what was deleted and is not among them is forgotten, and numbers
    /// of apps that are among them are not given again. A directory that began beside a log that was
    /// there before it takes every channel in it for private.
    ///
    /// # Errors
    /// [`DirectoryError`] with the cause.
    pub fn meet_log<'a>(
        &mut self,
        channels: impl Iterator<Item = (LogId, &'a ChannelKey)> + Clone,
    ) -> Result<(), DirectoryError> {
        let logs: BTreeSet<_> = channels.clone().map(|(log, _)| log).collect();
        let apps: BTreeSet<_> = channels.clone().map(|(_, channel)| channel.app).collect();
        let mut changes = Changes::default();
        self.deleted.difference(&logs).for_each(|log| changes.forget_channel(*log));
        self.deleted_apps.difference(&apps).for_each(|app| changes.forget_app(*app));
        let above = apps.last().map_or(0, |app| u64::from(app.0) + 1);
        if above > self.next_app {
            self.next_app = above;
            changes.put_number("next_app", above);
        }
        self.store.commit_in_parts(changes)?;
        if !self.has_met_log {
            let channels = channels.filter(|(log, _)| !self.deleted.contains(log));
            let channels: Vec<_> = channels.map(|(_, channel)| channel.clone()).collect();
            let tables = self.store.tables()?;
            let closing = tables.closing(&channels)?;
            self.store.commit_in_parts(closing)?;
            let mut changes = Changes::default();
            changes.put_number(HAS_MET_LOG, 1);
            self.store.commit(&changes)?;
            let all = self.store.tables()?.load_channels()?.into_iter();
            self.channels = all.filter(|(c, _)| self.apps.contains_key(&c.app)).collect();
        }
        Ok(())
    }
}

/// The files beside the database.
struct Files {
    seal: PathBuf,
    private_list: PathBuf,
}

impl Files {
    fn of(path: &Path) -> Self {
        Self { seal: path.with_extension("seal"), private_list: path.with_extension("private") }
    }

    /// The seal, if there is one; `None` in the second place if it is damaged.
    fn open_seal(&self) -> Result<Option<(SealFile, Option<Seal>)>, DirectoryError> {
        SealFile::open(&self.seal).map_err(|error| DirectoryError::from_io("the seal", &error))
    }

    fn open_list(&self, bytes: Option<u64>) -> Result<(PrivateList, Listed), DirectoryError> {
        let opened = PrivateList::open(&self.private_list, bytes);
        opened.map_err(|error| DirectoryError::from_io("the list of private channels", &error))
    }
}

impl DirectoryStore {
    /// Opens the database, or makes it, and makes sure that it is what the seal says.
    fn open(path: &Path) -> Result<Self, DirectoryError> {
        let files = Files::of(path);
        let sealed = match files.open_seal()? {
            None => None,
            Some((_, None)) => {
                let what = files.seal.display();
                return Err(damaged(&what, &"it does not say any more what is in force"));
            }
            Some((file, Some(seal))) => Some((file, seal)),
        };
        if sealed.as_ref().is_some_and(|(_, seal)| seal.change > 0)
            && let Some(missing) = database_files::first_missing(path)
        {
            let lost = format!("{} is missing or empty", missing.display());
            return Err(DirectoryError::Lost(lost));
        }
        let journals = database_files::Copies::of(path);
        let journals = journals.map_err(|error| DirectoryError::from_io("the journal", &error))?;
        let opened = match sealed {
            None => Self::begin(path, &files),
            Some((file, seal)) => Self::open_sealed(path, &files, file, seal),
        };
        if opened.is_err() {
            // Opening cuts off what it cannot read.
            let kept = journals.put_back();
            kept.map_err(|error| DirectoryError::from_io("the journal", &error))?;
        }
        opened
    }

    /// Makes sure that it is what it is opened for; a new one is so from now on.
    fn check_purpose(&mut self, of: DirectoryOf) -> Result<(), DirectoryError> {
        let tables = self.tables()?;
        let is_of_cluster = tables.number(OF_CLUSTER)?.is_some();
        match of {
            DirectoryOf::OneServer if is_of_cluster => Err(DirectoryError::OfCluster),
            DirectoryOf::ClusterNode if !is_of_cluster => {
                let (apps, channels) = (tables.load_apps()?.len(), tables.load_channels()?.len());
                if apps + channels > 0 {
                    return Err(DirectoryError::OfOneNode { apps, channels });
                }
                let mut changes = Changes::default();
                changes.put_number(OF_CLUSTER, 1);
                self.commit(&changes)
            }
            _ => Ok(()),
        }
    }

    /// Opens a directory without a seal: a new one, or that of a release that made none.
    fn begin(path: &Path, files: &Files) -> Result<Self, DirectoryError> {
        let tables = Tables::open(path)?;
        let change = tables.last_change()?.number;
        if change > 0 {
            let what = files.seal.display();
            return Err(damaged(&what, &"it is missing, though changes were made"));
        }
        let (list, listed) = files.open_list(None)?;
        // Before the seal: where a crash comes between, this is done again.
        tables.close(&listed.channels)?;
        tables.reserve_apps(&listed.channels)?;
        let is_known = listed.was_there && listed.is_whole;
        if is_known || !tables.apps.is_empty()? {
            let mut changes = Changes::default();
            changes.put_number(HAS_MET_LOG, 1);
            tables.write(&changes)?;
        }
        let content = tables.content()?;
        let seal = Seal { change, content, private_list_bytes: listed.bytes };
        let mut store = Self::new(path, tables, seal, list)?;
        store.rewrite_list()?;
        Ok(store)
    }

    fn open_sealed(
        path: &Path,
        files: &Files,
        seal_file: SealFile,
        seal: Seal,
    ) -> Result<Self, DirectoryError> {
        let (tables, cuts) = Tables::open_whole(path)?;
        let last = tables.last_change()?;
        let mut written = last.number;
        let content = tables.content()?;
        if content != seal.content {
            // A change that the seal does not name was not answered as done.
            let is_next = last.number == seal.change + 1;
            if !is_next || tables.content_before(content, &last)? != seal.content {
                for cut in &cuts {
                    // The journal itself is put back.
                    let _ = fs::remove_file(&cut.copy);
                }
                let (there, sealed) = (last.number, seal.change);
                return Err(DirectoryError::Lost(format!(
                    "that is change {sealed}, and the database ends with change {there}, lacks an \
                     earlier one or has a damaged one"
                )));
            }
            tables.take_back(&last, seal.change)?;
            written = seal.change;
        }
        tell(&cuts);
        let (private, listed) = files.open_list(Some(seal.private_list_bytes))?;
        let mut store = Self::of(path, tables, (seal, seal_file), written, private);
        if listed.is_whole {
            let needed = store.tables()?.private_lines()?.len();
            store.private.need(needed as u64);
            store.trim_list()?;
        } else {
            tracing::warn!(
                list = %files.private_list.display(),
                "the list of private channels is damaged; it is made anew from the directory, which \
                 is whole"
            );
            store.rewrite_list()?;
        }
        Ok(store)
    }

    /// A store that is in force as it is.
    fn new(
        path: &Path,
        tables: Tables,
        seal: Seal,
        private: PrivateList,
    ) -> Result<Self, DirectoryError> {
        let seal_file = SealFile::create(&Files::of(path).seal, &seal);
        let seal_file = seal_file.map_err(|error| DirectoryError::from_io("the seal", &error))?;
        let written = tables.last_change()?.number;
        Ok(Self::of(path, tables, (seal, seal_file), written, private))
    }

    fn of(
        path: &Path,
        tables: Tables,
        (seal, seal_file): (Seal, SealFile),
        written: u64,
        private: PrivateList,
    ) -> Self {
        Self {
            path: path.to_owned(),
            database: Some(tables),
            seal,
            seal_file,
            is_seal_in_doubt: false,
            written,
            private,
            failed_ms: 0,
        }
    }

    /// Makes changes, all or none of them. When it returns they are on the disk.
    ///
    /// # Errors
    /// [`DirectoryError`]: nothing was changed, now or after a crash. Only [`DirectoryError::Unknown`]
    /// leaves open what a crash would bring; without one nothing was changed.
    pub(super) fn commit(&mut self, changes: &Changes) -> Result<(), DirectoryError> {
        self.settle()?;
        let result = self.try_commit(changes);
        if result.is_err() {
            self.fail();
        }
        result?;
        // The change is made, so a list that stays long is no reason to say otherwise.
        if let Err(error) = self.trim_list() {
            tracing::error!(%error, "the list of private channels could not be written anew");
        }
        Ok(())
    }

    fn try_commit(&mut self, changes: &Changes) -> Result<(), DirectoryError> {
        let tables = self.tables()?;
        let mut next = Seal { change: self.seal.change + 1, ..self.seal };
        let mut batch = tables.database.batch().durability(Some(PersistMode::SyncAll));
        let (mut before, mut private) = (Vec::new(), String::new());
        for ((space, key), value) in &changes.0 {
            let keyspace = tables.keyspace(*space);
            let old = keyspace.get(key)?;
            if old.as_deref() == value.as_deref() {
                continue;
            }
            if let Some(old) = &old {
                next.content.remove(*space as u8, key, old);
            }
            match value {
                Some(value) => {
                    next.content.add(*space as u8, key, value);
                    batch.insert(keyspace, key.as_slice(), value.as_slice());
                }
                None => batch.remove(keyspace, key.as_slice()),
            }
            let was_private = old.as_deref().is_some_and(is_private);
            if *space == Space::Channels && value.as_deref().is_some_and(is_private) && !was_private
            {
                private_list::push_line(&parse_channel(key)?, &mut private);
            }
            before.push((*space, key.clone(), old.map(|old| old.to_vec())));
        }
        if before.is_empty() {
            return Ok(());
        }
        let io = |error: io::Error| DirectoryError::Store(error.to_string());
        if !private.is_empty() {
            let at = self.seal.private_list_bytes;
            next.private_list_bytes = self.private.write(at, &private).map_err(io)?;
        }
        let last = LastChange { number: next.change, before };
        batch.insert(&tables.state, LAST_CHANGE, last.encode());
        batch.commit()?;
        self.write_seal(next)?;
        self.written = next.change;
        Ok(())
    }

    /// Has what was changed be in force, or what was before.
    fn write_seal(&mut self, next: Seal) -> Result<(), DirectoryError> {
        let Err(error) = self.seal_file.write(&next) else {
            self.seal = next;
            return Ok(());
        };
        self.is_seal_in_doubt = true;
        if self.seal_file.write(&self.seal).is_err() {
            return Err(DirectoryError::Unknown(error.to_string()));
        }
        self.is_seal_in_doubt = false;
        Err(DirectoryError::Store(error.to_string()))
    }

    /// As many changes as it takes; each is made as a whole.
    fn commit_in_parts(&mut self, changes: Changes) -> Result<(), DirectoryError> {
        let mut part = Changes::default();
        for (entry, value) in changes.0 {
            part.0.insert(entry, value);
            if part.0.len() == ENTRIES_MAX {
                self.commit(&std::mem::take(&mut part))?;
            }
        }
        self.commit(&part)
    }

    /// Looks at the disk again after a failure, and takes back what is there and not in force.
    fn settle(&mut self) -> Result<(), DirectoryError> {
        if self.database.is_some() {
            return Ok(());
        }
        let now_ms = clock::unix_ms();
        if now_ms.abs_diff(self.failed_ms) < RETRY_MS {
            return Err(DirectoryError::Store("a write before it failed".into()));
        }
        let settled = self.try_settle();
        if settled.is_err() {
            self.fail();
        }
        settled
    }

    fn try_settle(&mut self) -> Result<(), DirectoryError> {
        let io = |error: io::Error| DirectoryError::Store(error.to_string());
        if self.is_seal_in_doubt {
            self.seal_file.write(&self.seal).map_err(io)?;
            self.is_seal_in_doubt = false;
        }
        let (tables, cuts) = Tables::open_whole(&self.path)?;
        tell(&cuts);
        let last = tables.last_change()?;
        if last.number == self.seal.change + 1 {
            tables.take_back(&last, self.seal.change)?;
            self.written = self.seal.change;
        } else if last.number != self.written {
            return Err(DirectoryError::Lost("the disk has lost what it had taken".into()));
        }
        if !cuts.is_empty() && tables.content()? != self.seal.content {
            return Err(DirectoryError::Lost("the disk has lost what it had taken".into()));
        }
        // A sync that failed leaves what it did not write for written.
        database_files::rewrite(&self.path).map_err(io)?;
        self.database = Some(tables);
        Ok(())
    }

    fn fail(&mut self) {
        self.database = None;
        self.failed_ms = clock::unix_ms();
    }

    fn tables(&self) -> Result<&Tables, DirectoryError> {
        let closed = || DirectoryError::Store("a write before it failed".into());
        self.database.as_ref().ok_or_else(closed)
    }

    /// Removes the metadata of some channels of a deleted app, and its usage. Returns whether there
    /// may be others.
    pub(super) fn sweep(&mut self, app: AppId) -> Result<bool, DirectoryError> {
        self.settle()?;
        let tables = self.tables()?;
        let mut changes = Changes::default();
        for guard in tables.channels.prefix(app.0.to_be_bytes()).take(ENTRIES_MAX) {
            changes.set(Space::Channels, guard.key()?, None);
        }
        tables.usage.remove(app.0.to_be_bytes())?;
        let more = changes.0.len() == ENTRIES_MAX;
        self.commit(&changes)?;
        Ok(more)
    }

    /// Notes what apps used; it reaches the disk with the next sync.
    pub(super) fn put_usage(
        &mut self,
        usage: impl Iterator<Item = (AppId, (u16, u64))>,
    ) -> Result<(), DirectoryError> {
        self.settle()?;
        let tables = self.tables()?;
        let mut batch = tables.database.batch().durability(Some(PersistMode::Buffer));
        for (app, (month, messages)) in usage {
            let value = [&month.to_be_bytes()[..], &messages.to_be_bytes()].concat();
            batch.insert(&tables.usage, app.0.to_be_bytes(), value);
        }
        let written = batch.commit();
        if written.is_err() {
            self.fail();
        }
        Ok(written?)
    }

    /// Has everything reach the disk.
    pub(super) fn sync(&self) -> Result<(), DirectoryError> {
        Ok(self.tables()?.database.persist(PersistMode::SyncAll)?)
    }

    /// Writes the list of private channels anew where it is much longer than it need be.
    fn trim_list(&mut self) -> Result<(), DirectoryError> {
        if self.private.is_overgrown(self.seal.private_list_bytes) {
            self.rewrite_list()
        } else {
            Ok(())
        }
    }

    fn rewrite_list(&mut self) -> Result<(), DirectoryError> {
        let lines = self.tables()?.private_lines()?;
        let written = self.private.rewrite(&lines);
        let bytes = written.map_err(|error| DirectoryError::Store(error.to_string()))?;
        // The number is that of the change that is in force: nothing else becomes so.
        self.write_seal(Seal { private_list_bytes: bytes, ..self.seal })
    }
}

/// What was cut off a journal although all that is in force is there.
fn tell(cuts: &[Cut]) {
    for Cut { journal, copy, whole } in cuts {
        tracing::warn!(
            journal = %journal.display(),
            copy = %copy.display(),
            whole,
            "the end of a journal was what a write that failed had left; it is cut off, and all that \
             was answered as done is there"
        );
    }
}

/// The database.
struct Tables {
    apps: Keyspace,
    channels: Keyspace,
    usage: Keyspace,
    deleted: Keyspace,
    deleted_apps: Keyspace,
    state: Keyspace,
    /// Last, so that its lock is held until nothing has the journal open any more.
    database: Database,
}

impl Tables {
    fn open(path: &Path) -> Result<Self, DirectoryError> {
        // What tokens are signed with is for nobody else to read.
        let private = DirBuilder::new().recursive(true).mode(0o700).create(path);
        private
            .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o700)))
            .map_err(|error| DirectoryError::Store(error.to_string()))?;
        let database =
            Database::builder(path).worker_threads(1).max_journaling_size(64 << 20).open()?;
        let keyspace = |name: &str| {
            database.keyspace(name, || {
                KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
            })
        };
        Ok(Self {
            apps: keyspace("apps")?,
            channels: keyspace("channels")?,
            usage: keyspace("usage")?,
            deleted: keyspace("deleted")?,
            deleted_apps: keyspace("deleted_apps")?,
            state: keyspace("state")?,
            database,
        })
    }

    /// Opens the database, if need be without what is behind the last whole write of a journal. What is
    /// lost then has to be looked at.
    fn open_whole(path: &Path) -> Result<(Self, Vec<Cut>), DirectoryError> {
        match Self::open(path) {
            Err(DirectoryError::Damaged { what, reason }) => {
                let cut = database_files::cut_to_whole(path);
                let cuts = cut.map_err(|error| DirectoryError::from_io("the journal", &error))?;
                if cuts.is_empty() {
                    return Err(DirectoryError::Damaged { what, reason });
                }
                Ok((Self::open(path)?, cuts))
            }
            opened => Ok((opened?, Vec::new())),
        }
    }

    fn keyspace(&self, space: Space) -> &Keyspace {
        match space {
            Space::Apps => &self.apps,
            Space::Channels => &self.channels,
            Space::Deleted => &self.deleted,
            Space::DeletedApps => &self.deleted_apps,
            Space::State => &self.state,
        }
    }

    /// The digest of all that a seal covers.
    fn content(&self) -> Result<Content, DirectoryError> {
        let mut content = Content::default();
        for space in Space::ALL {
            for guard in self.keyspace(space).iter() {
                let (key, value) = guard.into_inner()?;
                if space != Space::State || key.as_ref() != LAST_CHANGE.as_bytes() {
                    content.add(space as u8, &key, &value);
                }
            }
        }
        Ok(content)
    }

    fn last_change(&self) -> Result<LastChange, DirectoryError> {
        let Some(bytes) = self.state.get(LAST_CHANGE)? else { return Ok(LastChange::default()) };
        LastChange::parse(&bytes).ok_or_else(|| damaged(&"the last change", &"it cannot be read"))
    }

    /// What the content was before the last change.
    fn content_before(
        &self,
        mut content: Content,
        last: &LastChange,
    ) -> Result<Content, DirectoryError> {
        for (space, key, before) in &last.before {
            if let Some(now) = self.keyspace(*space).get(key)? {
                content.remove(*space as u8, key, &now);
            }
            if let Some(before) = before {
                content.add(*space as u8, key, before);
            }
        }
        Ok(content)
    }

    /// Undoes the last change, so that `number` is the last one.
    fn take_back(&self, last: &LastChange, number: u64) -> Result<(), DirectoryError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for (space, key, before) in &last.before {
            match before {
                Some(before) => {
                    batch.insert(self.keyspace(*space), key.as_slice(), before.as_slice());
                }
                None => batch.remove(self.keyspace(*space), key.as_slice()),
            }
        }
        let last = LastChange { number, before: Vec::new() };
        batch.insert(&self.state, LAST_CHANGE, last.encode());
        Ok(batch.commit()?)
    }

    /// Makes changes that no seal knows of, for one that is made then. As many as there are may be
    /// written: nothing of them is to be undone.
    fn write(&self, changes: &Changes) -> Result<(), DirectoryError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for ((space, key), value) in &changes.0 {
            match value {
                Some(value) => {
                    batch.insert(self.keyspace(*space), key.as_slice(), value.as_slice());
                }
                None => batch.remove(self.keyspace(*space), key.as_slice()),
            }
        }
        Ok(batch.commit()?)
    }

    /// Makes channels private that are not, and tells how many they were.
    fn close(&self, channels: &[ChannelKey]) -> Result<usize, DirectoryError> {
        let changes = self.closing(channels)?;
        self.write(&changes)?;
        Ok(changes.0.len())
    }

    /// What makes channels private that are not. Those of apps that are not there belong to nobody.
    fn closing(&self, channels: &[ChannelKey]) -> Result<Changes, DirectoryError> {
        let mut changes = Changes::default();
        let now_ms = clock::unix_ms();
        for channel in channels {
            let is_there = self.apps.contains_key(channel.app.0.to_be_bytes())?;
            let known = self.meta(channel)?;
            if known.as_ref().is_some_and(|meta| meta.is_private)
                || !is_there && channel.app != AppId::DEFAULT
            {
                continue;
            }
            let meta = known.unwrap_or_else(|| ChannelMeta {
                name: channel.slug.as_str().into(),
                description: None,
                is_private: true,
                presence: false,
                metadata: None,
                created_ms: now_ms,
                updated_ms: now_ms,
            });
            changes.put_channel(channel, &ChannelMeta { is_private: true, ..meta })?;
            tracing::warn!(
                app = %channel.app,
                channel = channel.slug.as_str(),
                "whether this channel was private is not known for certain, so it is now; \
                 PATCH /api/v1/channels/… with isPrivate false opens it"
            );
        }
        Ok(changes)
    }

    /// Has numbers of apps with these channels not be given again.
    fn reserve_apps(&self, channels: &[ChannelKey]) -> Result<(), DirectoryError> {
        let above = channels.iter().map(|channel| u64::from(channel.app.0) + 1).max();
        let next = self.number("next_app")?.unwrap_or(1);
        let mut changes = Changes::default();
        if let Some(above) = above.filter(|above| *above > next) {
            changes.put_number("next_app", above);
        }
        self.write(&changes)
    }

    fn load_apps(&self) -> Result<BTreeMap<AppId, AppRecord>, DirectoryError> {
        let mut apps = BTreeMap::new();
        for guard in self.apps.iter() {
            let (key, value) = guard.into_inner()?;
            let id = parse_app(&key)?;
            let record = serde_json::from_slice(&value);
            apps.insert(id, record.map_err(|error| damaged(&format!("the app {id}"), &error))?);
        }
        Ok(apps)
    }

    fn load_channels(&self) -> Result<Vec<(ChannelKey, ChannelMeta)>, DirectoryError> {
        let mut channels = Vec::new();
        for guard in self.channels.iter() {
            let (key, value) = guard.into_inner()?;
            let channel = parse_channel(&key)?;
            let meta = parse_meta(&channel, &value)?;
            channels.push((channel, meta));
        }
        Ok(channels)
    }

    fn meta(&self, channel: &ChannelKey) -> Result<Option<ChannelMeta>, DirectoryError> {
        let value = self.channels.get(channel_key(channel))?;
        value.map(|value| parse_meta(channel, &value)).transpose()
    }

    /// The lines of all channels that are private now.
    fn private_lines(&self) -> Result<String, DirectoryError> {
        let mut lines = String::new();
        for guard in self.channels.iter() {
            let (key, value) = guard.into_inner()?;
            if is_private(&value) {
                private_list::push_line(&parse_channel(&key)?, &mut lines);
            }
        }
        Ok(lines)
    }

    fn load_deleted(&self) -> Result<BTreeSet<LogId>, DirectoryError> {
        let mut deleted = BTreeSet::new();
        for guard in self.deleted.iter() {
            let log = guard.key()?.as_ref().try_into().ok().map(u64::from_be_bytes);
            deleted.extend(log.map(LogId));
        }
        Ok(deleted)
    }

    fn load_deleted_apps(&self) -> Result<BTreeSet<AppId>, DirectoryError> {
        self.deleted_apps.iter().map(|guard| parse_app(&guard.key()?)).collect()
    }

    fn usage(&self, app: AppId) -> Result<Option<(u16, u64)>, DirectoryError> {
        let Some(value) = self.usage.get(app.0.to_be_bytes())? else { return Ok(None) };
        let parsed = value.split_first_chunk().and_then(|(month, messages)| {
            Some((u16::from_be_bytes(*month), u64::from_be_bytes(messages.try_into().ok()?)))
        });
        let what = || damaged(&format!("the usage of the app {app}"), &"it has not 10 bytes");
        parsed.map(Some).ok_or_else(what)
    }

    fn number(&self, name: &str) -> Result<Option<u64>, DirectoryError> {
        let value = self.state.get(name)?;
        Ok(value.and_then(|bytes| bytes.as_ref().try_into().ok().map(u64::from_be_bytes)))
    }
}

fn parse_app(key: &[u8]) -> Result<AppId, DirectoryError> {
    let id = key.try_into().map(u32::from_be_bytes).map(AppId);
    id.map_err(|_| damaged(&"the number of an app", &"it has not 4 bytes"))
}

fn parse_channel(key: &[u8]) -> Result<ChannelKey, DirectoryError> {
    let parsed = key.split_first_chunk().and_then(|(app, slug)| {
        let slug = ChannelSlug::from_stored(str::from_utf8(slug).ok()?).ok()?;
        Some(ChannelKey { app: AppId(u32::from_be_bytes(*app)), slug })
    });
    parsed.ok_or_else(|| damaged(&"the name of a channel", &"it is none"))
}

fn parse_meta(channel: &ChannelKey, value: &[u8]) -> Result<ChannelMeta, DirectoryError> {
    let meta = serde_json::from_slice(value);
    meta.map_err(|error| damaged(&format!("the channel {}", channel.slug), &error))
}

fn damaged(what: &dyn std::fmt::Display, reason: &dyn std::fmt::Display) -> DirectoryError {
    DirectoryError::Damaged { what: what.to_string(), reason: reason.to_string() }
}
