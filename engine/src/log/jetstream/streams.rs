//! All slots that this node owns: calls of shards go to their streams, and answers back.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use pushflo_protocol::{ErrorCode, MessageId, Refusal};
use serde::Deserialize;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::appender::{End, Entry, Sequence};
use super::gets::{Get, Gets};
use super::read::Source;
use super::slot::{Slot, StreamPlan, Told};
use super::stored::{Content, Stored, StoredMessage};
use crate::hash::{HashMap, Placement};
use crate::ids::{ChannelKey, LogId, SlotId};
use crate::log::{
    Delete, LocateDone, LogAnswer, LogCall, LogFailure, Open, Opened, PageDone, ReadDone,
    SlotEvent, SlotNews, Store,
};
use crate::port::Port;

/// Appends that wait for a slot's task.
const APPENDS_MAX: usize = 4096;

/// Between two attempts to find out about a stream.
const PAUSE: Duration = Duration::from_millis(200);

/// Gives incarnations of streams: in all processes the same.
const INCARNATION_SEED: u64 = 0x7075_7368_666c_6f02;

/// How a cluster's streams are made and named.
#[derive(Clone, Debug)]
pub(crate) struct StreamsPlan {
    /// What all names begin with: a letter, then letters, digits, `-` and `_`.
    pub prefix: String,
    /// How many servers have each.
    pub replicas: usize,
    /// For how long messages are kept, in seconds; 0 for ever.
    pub max_age_s: u64,
    /// Bytes of a stream at most; -1 for no limit of its own.
    pub bytes_max: i64,
    /// The name of this node, for people.
    pub node: String,
}

/// A slot that this node owns.
struct Owned {
    appends: Sender<Entry>,
    source: Source,
    /// Counts the times that it was taken over here, so that what is late is known.
    time: u64,
}

/// The streams of the slots that this node owns.
#[derive(Clone)]
pub(crate) struct Streams(Rc<State>);

struct State {
    client: Client,
    gets: Gets,
    plan: StreamsPlan,
    ports: Vec<Port<LogAnswer>>,
    owned: RefCell<HashMap<SlotId, Owned>>,
    channels: RefCell<HashMap<LogId, (SlotId, Rc<str>)>>,
    /// Deletions on their way, and what is purged when they are stored.
    deleting: RefCell<HashMap<u128, Rc<str>>>,
    time: std::cell::Cell<u64>,
    now_ms: fn() -> u64,
    ended: Box<dyn Fn(SlotId)>,
}

#[derive(Deserialize)]
struct Created {
    created: String,
}

impl Streams {
    /// With the ports of this node's shards. `ended` is called when a slot is this node's no more.
    pub(crate) async fn new(
        client: Client,
        plan: StreamsPlan,
        ports: Vec<Port<LogAnswer>>,
        now_ms: fn() -> u64,
        ended: impl Fn(SlotId) + 'static,
    ) -> Result<Self, async_nats::SubscribeError> {
        let gets = Gets::new(client.clone()).await?;
        Ok(Self(Rc::new(State {
            client,
            gets,
            plan,
            ports,
            owned: RefCell::default(),
            channels: RefCell::default(),
            deleting: RefCell::default(),
            time: Default::default(),
            now_ms,
            ended: Box::new(ended),
        })))
    }

    /// The shard of this node that has a slot.
    pub(crate) fn shard(&self, slot: SlotId) -> usize {
        slot.index() % self.0.ports.len().max(1)
    }

    /// Takes a slot over: its shard is told when it may use it.
    pub(crate) fn take_over(&self, slot: SlotId) {
        if self.0.owned.borrow().contains_key(&slot) {
            return;
        }
        let time = self.0.time.get() + 1;
        self.0.time.set(time);
        let StreamsPlan { prefix, replicas, max_age_s, bytes_max, node } = self.0.plan.clone();
        let plan = StreamPlan {
            name: format!("{prefix}-{slot}"),
            subjects: format!("{prefix}.{slot}"),
            replicas,
            max_age_s,
            bytes_max,
        };
        let source = Source {
            gets: self.0.gets.clone(),
            stream: plan.name.as_str().into(),
            incarnation: 0,
            terms: Rc::default(),
            terms_subject: format!("{}.t", plan.subjects).into(),
        };
        let (appends, for_slot) = channel(APPENDS_MAX);
        let terms = Rc::clone(&source.terms);
        self.0.owned.borrow_mut().insert(slot, Owned { appends, source, time });
        let this = self.clone();
        let told = move |told| this.told(slot, time, &terms, told);
        let (client, gets) = (self.0.client.clone(), self.0.gets.clone());
        let id = MessageId::new((self.0.now_ms)(), fastrand::u128(..));
        spawn_local(async move {
            Slot::run(client, gets, plan, (id, &node), for_slot, told).await;
        });
    }

    /// Gives a slot up. What is under way becomes unknown.
    pub(crate) fn release(&self, slot: SlotId) {
        // Its task ends when nobody can append any more, and tells so.
        self.0.owned.borrow_mut().remove(&slot);
    }

    fn tell(&self, shard: usize, answer: LogAnswer) {
        if let Some(port) = self.0.ports.get(shard) {
            port.send(answer);
        }
    }

    fn tell_slot(&self, slot: SlotId, event: SlotEvent) {
        self.tell(self.shard(slot), LogAnswer::Slot(SlotNews { slot, event }));
    }

    fn told(&self, slot: SlotId, time: u64, terms: &RefCell<Vec<Sequence>>, told: Told) {
        let event = match told {
            Told::Begun(term) => {
                let is_first = terms.borrow().is_empty();
                terms.borrow_mut().push(term);
                if is_first {
                    spawn_local(self.clone().begin(slot, time));
                }
                return;
            }
            Told::Stored(id, sequence) => {
                if let Some(subject) = self.0.deleting.borrow_mut().remove(&id) {
                    spawn_local(self.clone().purge(slot, subject, sequence));
                }
                SlotEvent::Stored(MessageId(id), sequence)
            }
            Told::Refused(id) => {
                self.0.deleting.borrow_mut().remove(&id);
                SlotEvent::Refused(MessageId(id))
            }
            Told::Unknown(id) => {
                self.0.deleting.borrow_mut().remove(&id);
                SlotEvent::Unknown(MessageId(id))
            }
            Told::Ended(end) => {
                if end == End::Altered {
                    tracing::error!(
                        %slot,
                        "the stream of a slot is not as it was: it was altered by hand, or NATS has \
                         lost what it had acknowledged"
                    );
                }
                let mut owned = self.0.owned.borrow_mut();
                if owned.get(&slot).is_some_and(|owned| owned.time == time) {
                    owned.remove(&slot);
                }
                drop(owned);
                self.tell_slot(slot, SlotEvent::Ended);
                return (self.0.ended)(slot);
            }
        };
        self.tell_slot(slot, event);
    }

    /// Has NATS give back the room of what a deletion made void. It may fail: nobody reads it any more.
    async fn purge(self, slot: SlotId, subject: Rc<str>, before: Sequence) {
        let stream = format!("STREAM.PURGE.{}-{slot}", self.0.plan.prefix);
        let request = serde_json::json!({ "filter": &*subject, "seq": before });
        let purged: Result<serde_json::Value, _> = self.0.gets.api(&stream, &request).await;
        if let Err(error) = purged {
            tracing::warn!(%slot, %error, "what was deleted of a channel stays in its stream for now");
        }
    }

    /// The term has begun: with what must be known to read, the shard may use the slot.
    async fn begin(self, slot: SlotId, time: u64) {
        loop {
            let Some(source) = self.source(slot, time) else { return };
            if let Some((incarnation, before)) = self.look_at(&source).await {
                let mut owned = self.0.owned.borrow_mut();
                let Some(owned) = owned.get_mut(&slot).filter(|owned| owned.time == time) else {
                    return;
                };
                owned.source.incarnation = incarnation;
                let mut terms = owned.source.terms.borrow_mut();
                terms.extend(before);
                terms.sort_unstable();
                terms.dedup();
                break;
            }
            sleep(PAUSE).await;
        }
        self.tell_slot(slot, SlotEvent::Begun(time));
    }

    fn source(&self, slot: SlotId, time: u64) -> Option<Source> {
        let owned = self.0.owned.borrow();
        owned.get(&slot).filter(|owned| owned.time == time).map(|owned| owned.source.clone())
    }

    /// The incarnation of a stream, and the terms that have begun in it.
    async fn look_at(&self, source: &Source) -> Option<(u64, Vec<Sequence>)> {
        let info: Created = self.0.gets.info(&source.stream).await.ok()?;
        let incarnation = Placement::new(INCARNATION_SEED).hash((&*source.stream, info.created));
        let own = source.terms.borrow().first().copied()?;
        let (mut terms, mut from) = (Vec::new(), 1);
        loop {
            let get = Get::following(&source.terms_subject, from, 1024, None);
            let got = self.0.gets.get(&source.stream, &get).await.ok()?;
            terms.extend(got.messages.iter().map(|message| message.sequence));
            match got.messages.last() {
                Some(last) if got.pending > 0 => from = last.sequence + 1,
                _ => break,
            }
        }
        // A server that lags does not know of this node's own.
        terms.contains(&own).then_some((incarnation, terms))
    }

    /// Does what a shard asks.
    pub(crate) fn call(&self, call: LogCall) {
        match call {
            LogCall::Open(open) => {
                spawn_local(self.clone().open(*open));
            }
            LogCall::Store(store) => self.store(*store),
            LogCall::Delete(Delete { slot, time, log, id }) => {
                if let Some((_, subject)) = self.0.channels.borrow().get(&log) {
                    self.0.deleting.borrow_mut().insert(id.0, Rc::clone(subject));
                }
                let payload = Stored { id, term: 0, content: Content::Deleted }.encode();
                self.append(slot, time, log, id, payload);
            }
            LogCall::Forget(log) => {
                self.0.channels.borrow_mut().remove(&log);
            }
            LogCall::Locate(locate) => {
                let found = self.channel(locate.log);
                let this = self.clone();
                spawn_local(async move {
                    let answer = match found {
                        Some((source, subject)) => {
                            let (from, until) = (locate.from, locate.until);
                            let now_ms = (this.0.now_ms)();
                            source.locate(&subject, from, until, &locate.retention, now_ms).await
                        }
                        None => Err(moved()),
                    };
                    let done = LocateDone { read: locate.read, answer };
                    this.tell(locate.shard.index(), LogAnswer::Located(done));
                });
            }
            LogCall::Read(read) => {
                let found = self.channel(read.log);
                let this = self.clone();
                spawn_local(async move {
                    let answer = match found {
                        Some((source, subject)) => {
                            source.window(&subject, read.after, read.until, read.bytes_max).await
                        }
                        None => Err(moved()),
                    };
                    let done = ReadDone { read: read.read, answer };
                    this.tell(read.shard.index(), LogAnswer::Read(Box::new(done)));
                });
            }
            LogCall::Page(page) => {
                let found = self.channel(page.log);
                let this = self.clone();
                spawn_local(async move {
                    let outcome = match found {
                        Some((source, subject)) => {
                            let now_ms = (this.0.now_ms)();
                            source
                                .page(&subject, &page.query, page.until, &page.retention, now_ms)
                                .await
                        }
                        None => Err(Refusal::new(ErrorCode::Overloaded, moved().0.to_string())),
                    };
                    let is_scan = page.query.is_scan();
                    let done = PageDone { request: page.request, outcome, is_scan };
                    this.tell(page.shard.index(), LogAnswer::Page(Box::new(done)));
                });
            }
            // There is no log on disk in a cluster.
            LogCall::Append(_) => {}
        }
    }

    fn channel(&self, log: LogId) -> Option<(Source, Rc<str>)> {
        let (slot, subject) = self.0.channels.borrow().get(&log).cloned()?;
        let owned = self.0.owned.borrow();
        Some((owned.get(&slot)?.source.clone(), subject))
    }

    fn store(&self, store: Store) {
        let Store { slot, time, log, record, life, number, key, keyed_ms } = store;
        let id = record.id;
        let message = StoredMessage {
            timestamp_ms: record.timestamp_ms,
            life,
            number,
            parts: record.parts,
            key,
            keyed_ms,
        };
        let payload = Stored { id, term: 0, content: Content::Message(message) }.encode();
        self.append(slot, time, log, id, payload);
    }

    fn append(&self, slot: SlotId, time: u64, log: LogId, id: MessageId, payload: Bytes) {
        let subject = self.0.channels.borrow().get(&log).map(|(_, subject)| Rc::clone(subject));
        let is_sent = subject.is_some_and(|subject| {
            let subject = Bytes::copy_from_slice(subject.as_bytes());
            let owned = self.0.owned.borrow();
            let entry = Entry { id: id.0, subject, payload };
            let owned = owned.get(&slot).filter(|owned| owned.time == time);
            owned.is_some_and(|owned| owned.appends.try_send(entry).is_ok())
        });
        if !is_sent {
            self.tell_slot(slot, SlotEvent::Refused(id));
        }
    }

    async fn open(self, open: Open) {
        let Open { shard, slot, channel, log, keyed_since_ms } = open;
        let subject: Rc<str> = subject(&self.0.plan.prefix, slot, &channel).into();
        self.0.channels.borrow_mut().insert(log, (slot, Rc::clone(&subject)));
        let source = self.0.owned.borrow().get(&slot).map(|owned| owned.source.clone());
        let outcome = match source {
            Some(source) => source.open(&subject, keyed_since_ms).await,
            None => Err(moved()),
        };
        if outcome.is_err() {
            self.0.channels.borrow_mut().remove(&log);
        }
        let opened = Opened { channel, log, outcome };
        self.tell(shard.index(), LogAnswer::Opened(Box::new(opened)));
    }
}

fn moved() -> LogFailure {
    LogFailure("the channel moves to another node".into())
}

/// The subject of a channel. Names have no `%`, and `.` would part them.
fn subject(prefix: &str, slot: SlotId, channel: &ChannelKey) -> String {
    let name = channel.slug.as_str().replace('.', "%");
    format!("{prefix}.{slot}.c.{}.{name}", channel.app.0)
}
