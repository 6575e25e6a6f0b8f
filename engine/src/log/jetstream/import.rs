//! Brings the channels of a log on disk into the streams of a cluster that has none yet.
//!
//! It appends as an owner does, with a term of its own: a node that takes a slot meanwhile ends that, and what
//! is stored of it is valid.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use async_nats::Client;
use bytes::Bytes;
use pushflo_protocol::{MessageId, Record};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::sync::mpsc::channel;

use super::appender::Entry;
use super::gets::{AskError, Gets};
use super::slot::{Slot, StreamPlan, Told};
use super::stored::{Content, Stored, StoredMessage};
use super::streams::{Place, StreamsPlan};
use crate::ids::SlotId;
use crate::log::{KEY_WINDOW_MS, Life, LoadedChannel, LogError, OpenedLog, StoredAnswer};

/// Appends that wait for a slot's task.
const APPENDS_MAX: usize = 1024;

/// Why channels are not brought over.
#[derive(Debug, Error)]
pub(crate) enum ImportError {
    /// The log on disk.
    #[error("history cannot be read: {0}")]
    Log(#[from] LogError),
    /// NATS does not answer, or refuses.
    #[error("{0}")]
    Nats(String),
    /// A stream does not take messages.
    #[error("the stream of slot {0} takes no more messages: is the room of JetStream used up?")]
    Full(SlotId),
    /// A node owns the slot.
    #[error("a node has taken slot {0}: stop all nodes of this cluster, and begin again")]
    Taken(SlotId),
}

/// The streams of a cluster, to bring channels into.
pub(crate) struct Import {
    client: Client,
    gets: Gets,
    plan: StreamsPlan,
}

/// What is known of the appends of a slot.
#[derive(Default)]
struct Progress {
    /// Sent and not stored.
    waiting: Cell<usize>,
    failed: RefCell<Option<ImportError>>,
    changed: Notify,
}

impl Import {
    pub(crate) async fn new(client: Client, plan: StreamsPlan) -> Result<Self, ImportError> {
        let gets = Gets::new(client.clone()).await;
        let gets = gets.map_err(|error| ImportError::Nats(error.to_string()))?;
        Ok(Self { client, gets, plan })
    }

    /// How many messages the streams have, records of terms not counted.
    pub(crate) async fn messages(&self) -> Result<u64, ImportError> {
        let streams = super::streams::list(&self.gets, &self.plan.prefix).await?;
        Ok(streams.values().map(|stream| stream.messages.saturating_sub(1)).sum())
    }

    /// Deletes the streams, with what an import that broke off has left in them.
    pub(crate) async fn begin_anew(&self) -> Result<(), ImportError> {
        for slot in super::streams::list(&self.gets, &self.plan.prefix).await?.into_keys() {
            let name = format!("STREAM.DELETE.{}-{slot}", self.plan.prefix);
            let request = serde_json::json!({});
            self.gets.api::<serde_json::Value>(&name, &request).await?;
        }
        Ok(())
    }

    /// Brings the channels of a slot over, and tells `told` how many messages they had, and how many of these since
    /// `month_ms`, one by one.
    pub(crate) async fn slot(
        &self,
        slot: SlotId,
        log: &OpenedLog,
        month_ms: u64,
        channels: &[&LoadedChannel],
        mut told: impl FnMut(&LoadedChannel, u64, u64),
    ) -> Result<(), ImportError> {
        let progress = Rc::new(Progress::default());
        let (appends, for_slot) = channel(APPENDS_MAX);
        let id = MessageId::new((self.plan.now_ms)(), fastrand::u128(..));
        let (client, gets) = (self.client.clone(), self.gets.clone());
        let (plan, node) = (StreamPlan::of(&self.plan, slot), self.plan.node.clone());
        let of_slot = Rc::clone(&progress);
        tokio::task::spawn_local(async move {
            let told = move |told| of_slot.told(slot, told);
            Slot::run(client, gets, plan, (id, &node), for_slot, told).await;
        });
        for loaded in channels {
            let mut messages = 0;
            let mut entries = Entries::of(&self.plan.prefix, log, loaded, month_ms)?;
            for entry in entries.by_ref() {
                progress.waiting.set(progress.waiting.get() + 1);
                if appends.send(entry?).await.is_err() {
                    break;
                }
                messages += 1;
            }
            progress.check()?;
            told(loaded, messages, entries.of_month);
        }
        progress.end().await
    }
}

impl Progress {
    fn told(&self, slot: SlotId, told: Told) {
        match told {
            Told::Begun(_) => {}
            Told::Stored(..) => self.waiting.set(self.waiting.get().saturating_sub(1)),
            Told::Refused(_) => {
                self.failed.borrow_mut().get_or_insert(ImportError::Full(slot));
            }
            Told::Unknown(_) | Told::Ended(_) => {
                self.failed.borrow_mut().get_or_insert(ImportError::Taken(slot));
            }
        }
        self.changed.notify_one();
    }

    fn check(&self) -> Result<(), ImportError> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Waits until all is stored.
    async fn end(&self) -> Result<(), ImportError> {
        loop {
            self.check()?;
            if self.waiting.get() == 0 {
                return Ok(());
            }
            self.changed.notified().await;
        }
    }
}

/// The messages of a channel as its stream is to have them.
struct Entries<'a> {
    log: &'a OpenedLog,
    loaded: &'a LoadedChannel,
    place: Place,
    answers: Vec<&'a StoredAnswer>,
    window: VecDeque<Record>,
    /// The last offset that was read, and the number of the last message that was given out.
    after: pushflo_protocol::Offset,
    number: u64,
    keyed_ms: u64,
    /// When the month began, and how many are of it.
    month_ms: u64,
    of_month: u64,
}

impl<'a> Entries<'a> {
    fn of(
        prefix: &str,
        log: &'a OpenedLog,
        loaded: &'a LoadedChannel,
        month_ms: u64,
    ) -> Result<Self, ImportError> {
        let (after, kept) = log.kept(loaded)?;
        let answers = log.contents.answers.iter().filter(|answer| answer.log == loaded.log);
        Ok(Self {
            log,
            loaded,
            place: Place::of(prefix, &loaded.channel),
            answers: answers.map(|loaded| &loaded.answer).collect(),
            window: VecDeque::new(),
            after,
            number: loaded.totals.messages.saturating_sub(kept),
            keyed_ms: 0,
            month_ms,
            of_month: 0,
        })
    }

    fn entry(&mut self, record: Record) -> Entry {
        self.number += 1;
        self.of_month += u64::from(record.timestamp_ms >= self.month_ms);
        let answer = self.answers.iter().find(|answer| answer.receipt.id == record.id);
        let key = answer.map(|answer| (answer.key.clone(), answer.content));
        if let Some(answer) = answer {
            self.keyed_ms = answer.until_ms.saturating_sub(KEY_WINDOW_MS);
        }
        let message = StoredMessage {
            timestamp_ms: record.timestamp_ms,
            life: Life { after: 0, created_ms: self.loaded.created_ms },
            number: self.number,
            parts: record.parts,
            key,
            keyed_ms: self.keyed_ms,
        };
        let stored = Stored { id: record.id, term: 0, content: Content::Message(message) };
        let subject = Bytes::copy_from_slice(self.place.messages.as_bytes());
        Entry { id: record.id.0, subject, payload: stored.encode(), counter: None }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.window.is_empty() && self.after < self.loaded.head {
            match self.log.window(self.loaded, self.after) {
                Ok(window) => self.window = window.into(),
                Err(error) => return Some(Err(error.into())),
            }
            self.after = self.window.back().map_or(self.loaded.head, |record| record.offset);
        }
        let record = self.window.pop_front()?;
        Some(Ok(self.entry(record)))
    }
}

impl From<AskError> for ImportError {
    fn from(error: AskError) -> Self {
        Self::Nats(error.to_string())
    }
}
