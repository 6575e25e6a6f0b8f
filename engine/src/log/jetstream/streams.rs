//! All slots that this node owns: calls of shards go to their streams, and answers back.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use pushflo_protocol::answer::{ReplicaStatus, StreamStatus};
use pushflo_protocol::{ChannelSlug, ErrorCode, MessageId, Refusal};
use serde::Deserialize;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::appender::{End, Entry, Sequence};
use super::counts::{CountTold, Counts};
use super::gets::{AskError, Get, Gets};
use super::metas::Metas;
use super::read::Source;
use super::slot::{NO_SUCH_STREAM, Slot, StreamPlan, Told};
use super::stored::{Content, Stored, StoredMessage};
use crate::bucket::{Bucket, News, WriteError};
use crate::hash::{HashMap, Placement};
use crate::ids::{AppId, ChannelKey, LogId, SlotId};
use crate::log::{
    Delete, LocateDone, LogAnswer, LogCall, LogFailure, MetaNews, MetaStored, Names, NamesDone,
    Open, Opened, PageDone, ReadDone, SlotEvent, SlotNews, Store, StoreMeta, StoredMeta,
};
use crate::metrics::ClusterMetrics;
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
    /// Ways to the shards of this node.
    pub ports: Vec<Port<LogAnswer>>,
    /// What is counted.
    pub metrics: Arc<ClusterMetrics>,
    /// The time, in Unix milliseconds.
    pub now_ms: fn() -> u64,
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
    owned: RefCell<HashMap<SlotId, Owned>>,
    metas: Metas,
    counts: Rc<Counts>,
    channels: RefCell<HashMap<LogId, Rc<Place>>>,
    /// Appends on their way.
    under_way: RefCell<HashMap<u128, UnderWay>>,
    time: Cell<u64>,
    ended: Box<dyn Fn(SlotId)>,
}

/// An append on its way.
#[derive(Clone)]
enum UnderWay {
    /// A message of a channel in a month.
    Message(Rc<Place>, u16),
    /// The deletion of a channel, and whether it is the second attempt.
    Deletion(Rc<Place>, bool),
}

/// Where a channel is.
pub(super) struct Place {
    channel: ChannelKey,
    slot: SlotId,
    /// The subject of its messages.
    pub(super) messages: String,
    /// That of its deletions.
    pub(super) deletions: String,
    /// The number of its last message, with those on their way.
    number: Rc<Cell<u64>>,
}

impl Place {
    pub(super) fn of(prefix: &str, channel: &ChannelKey) -> Self {
        let (slot, app) = (SlotId::of(channel), channel.app.0);
        // Names have no `%`, and `.` would part them.
        let name = channel.slug.as_str().replace('.', "%");
        let subject = |kind| format!("{prefix}.{slot}.{kind}.{app}.{name}");
        Self {
            channel: channel.clone(),
            slot,
            messages: subject('c'),
            deletions: subject('d'),
            number: Rc::default(),
        }
    }
}

/// Streams that are asked at a time which channels they have.
const NAMED_AT_A_TIME: usize = 16;

/// A stream, with how many messages it has under which subjects.
#[derive(Deserialize)]
struct Subjects {
    #[serde(default)]
    total: u64,
    state: SubjectsState,
}

#[derive(Deserialize)]
struct SubjectsState {
    #[serde(default)]
    subjects: BTreeMap<String, u64>,
}

/// Streams, as JetStream lists them.
#[derive(Deserialize)]
struct ListedStreams {
    total: u64,
    #[serde(default)]
    streams: Vec<ListedStream>,
}

#[derive(Deserialize)]
struct ListedStream {
    config: ListedConfig,
    state: ListedState,
    /// None where one server alone has all streams.
    cluster: Option<ListedCluster>,
}

#[derive(Deserialize)]
struct ListedConfig {
    name: String,
}

#[derive(Deserialize)]
struct ListedState {
    messages: u64,
    bytes: u64,
}

#[derive(Deserialize)]
struct ListedCluster {
    #[serde(default)]
    leader: Box<str>,
    #[serde(default)]
    replicas: Vec<ListedReplica>,
}

#[derive(Deserialize)]
struct ListedReplica {
    name: Box<str>,
    #[serde(default)]
    current: bool,
    #[serde(default)]
    lag: u64,
}

impl ListedStream {
    fn status(self) -> StreamStatus {
        let ListedState { messages, bytes } = self.state;
        let (leader, replicas) =
            self.cluster.map(|cluster| (cluster.leader, cluster.replicas)).unwrap_or_default();
        let replicas = replicas.into_iter().map(|replica| {
            let ListedReplica { name: server, current: is_current, lag } = replica;
            ReplicaStatus { server, is_current, lag }
        });
        StreamStatus { leader, messages, bytes, replicas: replicas.collect() }
    }
}

#[derive(Deserialize)]
struct Created {
    created: String,
}

impl Streams {
    /// None is taken over yet. `counted` is told what apps have published, and `ended` of slots that are this
    /// node's no more.
    pub(crate) async fn new(
        client: Client,
        bucket: Rc<Bucket>,
        plan: StreamsPlan,
        counted: CountTold,
        ended: impl Fn(SlotId) + 'static,
    ) -> Result<Self, async_nats::SubscribeError> {
        let gets = Gets::new(client.clone()).await?;
        Ok(Self(Rc::new(State {
            client,
            gets,
            owned: RefCell::default(),
            counts: Rc::new(Counts::new(Rc::clone(&bucket), counted, plan.now_ms)),
            metas: Metas::new(bucket),
            plan,
            channels: RefCell::default(),
            under_way: RefCell::default(),
            time: Default::default(),
            ended: Box::new(ended),
        })))
    }

    /// The shard of this node that has a slot.
    pub(crate) fn shard(&self, slot: SlotId) -> usize {
        slot.index() % self.0.plan.ports.len().max(1)
    }

    /// Takes a slot over: its shard is told when it may use it.
    pub(crate) fn take_over(&self, slot: SlotId) {
        if self.0.owned.borrow().contains_key(&slot) {
            return;
        }
        let time = self.0.time.get() + 1;
        self.0.time.set(time);
        let (plan, node) = (StreamPlan::of(&self.0.plan, slot), self.0.plan.node.clone());
        let source = Source {
            gets: self.0.gets.clone(),
            stream: plan.name.as_str().into(),
            incarnation: 0,
            terms: Rc::default(),
            terms_subject: format!("{}.t", plan.subjects).into(),
            stored: Rc::default(),
        };
        let (appends, for_slot) = channel(APPENDS_MAX);
        let of_slot = source.clone();
        self.0.owned.borrow_mut().insert(slot, Owned { appends, source, time });
        let this = self.clone();
        let told = move |told| this.told(slot, time, &of_slot, told);
        let (client, gets) = (self.0.client.clone(), self.0.gets.clone());
        let id = MessageId::new((self.0.plan.now_ms)(), fastrand::u128(..));
        spawn_local(async move {
            Slot::run(client, gets, plan, (id, &node), for_slot, told).await;
        });
    }

    /// Gives a slot up. What is under way becomes unknown.
    pub(crate) fn release(&self, slot: SlotId) {
        // Its task ends when nobody can append any more, and tells so.
        let owned = self.0.owned.borrow_mut().remove(&slot);
        if let Some(owned) = owned {
            self.0.counts.end(slot, owned.time);
        }
    }

    fn tell(&self, shard: usize, answer: LogAnswer) {
        if let Some(port) = self.0.plan.ports.get(shard) {
            port.send(answer);
        }
    }

    fn tell_slot(&self, slot: SlotId, event: SlotEvent) {
        self.tell(self.shard(slot), LogAnswer::Slot(SlotNews { slot, event }));
    }

    fn told(&self, slot: SlotId, time: u64, source: &Source, told: Told) {
        let metrics = &self.0.plan.metrics;
        let total = match told {
            Told::Stored(..) => Some(&metrics.cluster_appends_total),
            Told::Refused(_) => Some(&metrics.cluster_appends_refused_total),
            Told::Unknown(_) => Some(&metrics.cluster_appends_unknown_total),
            Told::Begun(_) | Told::Ended(_) => None,
        };
        if let Some(total) = total {
            total.increment();
            metrics.cluster_appends_in_flight.decrement();
        }
        let event = match told {
            Told::Begun(term) => {
                let is_first = source.terms.borrow().is_empty();
                source.terms.borrow_mut().push(term);
                source.stored.set(term.max(source.stored.get()));
                self.0.counts.stored(slot, time, None, term);
                if is_first {
                    metrics.cluster_takeovers_total.increment();
                    spawn_local(self.clone().begin(slot, time));
                }
                return;
            }
            Told::Stored(id, sequence) => {
                source.stored.set(sequence.max(source.stored.get()));
                let under_way = self.0.under_way.borrow_mut().remove(&id);
                let message = match &under_way {
                    Some(UnderWay::Message(place, month)) => Some((place.channel.app, *month)),
                    _ => None,
                };
                self.0.counts.stored(slot, time, message, sequence);
                if let Some(UnderWay::Deletion(place, _)) = under_way {
                    spawn_local(self.clone().deleted(place, MessageId(id), sequence));
                    return;
                }
                SlotEvent::Stored(MessageId(id), sequence)
            }
            Told::Refused(id) => {
                match self.0.under_way.borrow_mut().remove(&id) {
                    Some(UnderWay::Deletion(place, false)) => {
                        spawn_local(self.clone().delete_with_room(place, time, MessageId(id)));
                        return;
                    }
                    Some(UnderWay::Message(place, _)) => {
                        place.number.set(place.number.get().saturating_sub(1));
                    }
                    _ => {}
                }
                SlotEvent::Refused(MessageId(id))
            }
            Told::Unknown(id) => {
                self.0.under_way.borrow_mut().remove(&id);
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
                self.0.counts.end(slot, time);
                self.tell_slot(slot, SlotEvent::Ended(time));
                return (self.0.ended)(slot);
            }
        };
        self.tell_slot(slot, event);
    }

    fn append_deletion(&self, slot: SlotId, time: u64, place: Option<&Place>, id: MessageId) {
        let payload = Stored { id, term: 0, content: Content::Deleted }.encode();
        self.append(slot, time, place.map(|place| (&*place.deletions, None)), id, payload);
    }

    /// Where there is no room left even to note a deletion, the messages that are to be deleted make some.
    async fn delete_with_room(self, place: Rc<Place>, time: u64, id: MessageId) {
        let request = serde_json::json!({ "filter": place.messages, "keep": 1 });
        if let Err(error) = self.purge(place.slot, &request).await {
            tracing::warn!(slot = %place.slot, %error, "a channel cannot be deleted for the moment");
            return self.tell_slot(place.slot, SlotEvent::Refused(id));
        }
        let deletion = UnderWay::Deletion(Rc::clone(&place), true);
        self.0.under_way.borrow_mut().insert(id.0, deletion);
        self.append_deletion(place.slot, time, Some(&place), id);
    }

    /// A channel is deleted in its stream: its metadata go too, and NATS gives back the room.
    async fn deleted(self, place: Rc<Place>, id: MessageId, sequence: Sequence) {
        // Until these are gone the channel is there, without messages.
        let event = match self.forget_meta(&place.channel).await {
            Ok(()) => SlotEvent::Stored(id, sequence),
            Err(error) => {
                tracing::warn!(?error, "metadata of a channel that was deleted are still there");
                SlotEvent::Unknown(id)
            }
        };
        self.tell_slot(place.slot, event);
        // A new owner could not count what is not there any more.
        self.0.counts.write(place.slot).await;
        let request = serde_json::json!({ "filter": place.messages, "seq": sequence });
        if let Err(error) = self.purge(place.slot, &request).await {
            // Nobody reads it any more.
            let slot = place.slot;
            tracing::warn!(%slot, %error, "what was deleted of a channel stays in its stream for now");
        }
    }

    async fn purge(&self, slot: SlotId, request: &serde_json::Value) -> Result<(), AskError> {
        let stream = format!("STREAM.PURGE.{}-{slot}", self.0.plan.prefix);
        self.0.gets.api::<serde_json::Value>(&stream, request).await.map(|_| ())
    }

    /// Deletes all that there is of the channels of an app that is deleted.
    pub(crate) async fn forget_app(&self, app: AppId) -> Result<(), String> {
        let prefix = &self.0.plan.prefix;
        for slot in SlotId::all() {
            for kind in ['c', 'd'] {
                let request = serde_json::json!({
                    "filter": format!("{prefix}.{slot}.{kind}.{}.>", app.0)
                });
                match self.purge(slot, &request).await {
                    // A slot that nobody has used has none.
                    Ok(()) | Err(AskError::Refused { code: NO_SUCH_STREAM, .. }) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
        for slug in self.0.metas.names(app) {
            let forgotten = self.forget_meta(&ChannelKey { app, slug }).await;
            forgotten.map_err(|error| format!("{error:?}"))?;
        }
        Ok(())
    }

    /// All streams that have a leader.
    pub(crate) async fn list(&self) -> Result<BTreeMap<SlotId, StreamStatus>, AskError> {
        list(&self.0.gets, &self.0.plan.prefix).await
    }

    async fn forget_meta(&self, channel: &ChannelKey) -> Result<(), WriteError> {
        loop {
            let revision = self.0.metas.of(channel).revision;
            match self.0.metas.write(channel, None, revision).await {
                Ok(_) => return Ok(()),
                // It is told of soon.
                Err(WriteError::Conflict) => self.0.metas.catch_up().await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// News of the bucket.
    pub(crate) fn learn(&self, news: &News) {
        match news {
            News::Begin => self.0.metas.begin(),
            News::Complete => self.0.metas.complete(),
            News::Entry(entry) => {
                self.0.counts.learn(entry);
                let Some((channel, now)) = self.0.metas.learn(entry) else { return };
                let slot = SlotId::of(&channel);
                if self.0.owned.borrow().contains_key(&slot) {
                    let news = MetaNews { channel, now };
                    self.tell(self.shard(slot), LogAnswer::Meta(Box::new(news)));
                }
            }
        }
    }

    async fn store_meta(self, call: StoreMeta) {
        let StoreMeta { shard, channel, meta, revision } = call;
        let written = self.0.metas.write(&channel, Some(meta.clone()), revision).await;
        let outcome = match written {
            Ok(revision) => Ok(StoredMeta { meta: Some(meta), revision }),
            Err(WriteError::Conflict) => {
                let text = "another node has changed the channel at the same time; try again";
                Err(Refusal::new(ErrorCode::Conflict, text))
            }
            Err(WriteError::NotWritten(text)) => {
                let text = format!("nothing was changed, it could not be written: {text}");
                Err(Refusal::new(ErrorCode::Overloaded, text))
            }
            Err(WriteError::Unknown(text)) => {
                let text = format!(
                    "whether the change was made is not known: {text}; look, and try again"
                );
                Err(Refusal::new(ErrorCode::UnknownOutcome, text))
            }
        };
        let done = MetaStored { channel, outcome };
        self.tell(shard.index(), LogAnswer::MetaStored(Box::new(done)));
    }

    /// Names channels of an app: those with messages, and those with metadata.
    async fn names(self, call: Names) {
        let Names { shard, id, slots, app, after, count_max } = call;
        let mut all: BTreeSet<ChannelSlug> = self.0.metas.names(app).into_iter().collect();
        all.retain(|slug| slots.contains(&SlotId::of(&ChannelKey { app, slug: slug.clone() })));
        let mut of_streams = stream::iter(slots)
            .map(|slot| self.names_in(slot, app))
            .buffer_unordered(NAMED_AT_A_TIME);
        let mut failed = None;
        while let Some(named) = of_streams.next().await {
            match named {
                Ok(named) => all.extend(named),
                Err(error) => failed = Some(error),
            }
        }
        drop(of_streams);
        let outcome = match failed {
            Some(error) => Err(LogFailure(format!("channels cannot be named: {error}").into())),
            None => {
                let total = all.len() as u64;
                let behind = all.into_iter().filter(|slug| after.as_ref().is_none_or(|a| slug > a));
                Ok((behind.take(count_max).collect(), total))
            }
        };
        self.tell(shard.index(), LogAnswer::Names(Box::new(NamesDone { id, outcome })));
    }

    /// How many channels an app has in all slots.
    pub(crate) async fn count_channels(&self, app: AppId) -> Result<u64, AskError> {
        let mut all: BTreeSet<ChannelSlug> = self.0.metas.names(app).into_iter().collect();
        let mut of_streams = stream::iter(SlotId::all())
            .map(|slot| self.names_in(slot, app))
            .buffer_unordered(NAMED_AT_A_TIME);
        while let Some(named) = of_streams.next().await {
            match named {
                Ok(named) => all.extend(named),
                // Nobody has used the slot yet.
                Err(AskError::Refused { code: NO_SUCH_STREAM, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all.len() as u64)
    }

    /// How many messages an app has published in a month on all nodes, as far as is known here.
    pub(crate) fn messages(&self, app: AppId, month: u16) -> u64 {
        self.0.counts.messages(app, month)
    }

    /// Writes down what was counted and is due.
    pub(crate) fn write_counts(&self) {
        Counts::flush(&self.0.counts);
    }

    async fn names_in(&self, slot: SlotId, app: AppId) -> Result<Vec<ChannelSlug>, AskError> {
        let prefix = format!("{}.{slot}.c.{}.", self.0.plan.prefix, app.0);
        let stream = format!("STREAM.INFO.{}-{slot}", self.0.plan.prefix);
        let mut named = Vec::new();
        loop {
            let filter = serde_json::json!({
                "subjects_filter": format!("{prefix}>"), "offset": named.len(),
            });
            let info: Subjects = self.0.gets.api(&stream, &filter).await?;
            let before = named.len();
            named.extend(info.state.subjects.keys().filter_map(|subject| {
                let name = subject.strip_prefix(&prefix)?.replace('%', ".");
                ChannelSlug::from_stored(&name).ok()
            }));
            if named.len() == before || named.len() as u64 >= info.total {
                return Ok(named);
            }
        }
    }

    /// The term has begun: with what must be known to read, the shard may use the slot.
    async fn begin(self, slot: SlotId, time: u64) {
        let own = loop {
            let Some(source) = self.source(slot, time) else { return };
            // With the metadata that an owner before it has been told are stored.
            if let Some((incarnation, before)) = self.look_at(&source).await
                && self.0.metas.catch_up().await.is_ok()
            {
                let mut owned = self.0.owned.borrow_mut();
                let Some(owned) = owned.get_mut(&slot).filter(|owned| owned.time == time) else {
                    return;
                };
                owned.source.incarnation = incarnation;
                let mut terms = owned.source.terms.borrow_mut();
                let own = terms.first().copied().unwrap_or_default();
                terms.extend(before);
                terms.sort_unstable();
                terms.dedup();
                break own;
            }
            sleep(PAUSE).await;
        };
        loop {
            let Some(source) = self.source(slot, time) else { return };
            match self.0.counts.begin(slot, time, &source, own).await {
                Ok(()) => break,
                Err(error) => tracing::debug!(%slot, %error, "messages are not counted yet"),
            }
            sleep(PAUSE).await;
            let _ = self.0.metas.catch_up().await;
        }
        if self.source(slot, time).is_some() {
            self.tell_slot(slot, SlotEvent::Begun(time));
        }
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
                let place = self.0.channels.borrow().get(&log).cloned();
                if let Some(place) = &place {
                    let deletion = UnderWay::Deletion(Rc::clone(place), false);
                    self.0.under_way.borrow_mut().insert(id.0, deletion);
                }
                self.append_deletion(slot, time, place.as_deref(), id);
            }
            LogCall::StoreMeta(call) => {
                spawn_local(self.clone().store_meta(*call));
            }
            LogCall::Names(call) => {
                spawn_local(self.clone().names(call));
            }
            LogCall::Forget(log) => {
                self.0.channels.borrow_mut().remove(&log);
            }
            LogCall::Locate(locate) => {
                let found = self.channel(locate.log);
                let this = self.clone();
                spawn_local(async move {
                    let answer = match found {
                        Some((source, place)) => {
                            let (from, until) = (locate.from, locate.until);
                            let now_ms = (this.0.plan.now_ms)();
                            let retention = &locate.retention;
                            source.locate(&place.messages, from, until, retention, now_ms).await
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
                        Some((source, place)) => {
                            let (after, until) = (read.after, read.until);
                            source.window(&place.messages, after, until, read.bytes_max).await
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
                        Some((source, place)) => {
                            let now_ms = (this.0.plan.now_ms)();
                            source
                                .page(
                                    &place.messages,
                                    &page.query,
                                    page.until,
                                    &page.retention,
                                    now_ms,
                                )
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

    fn channel(&self, log: LogId) -> Option<(Source, Rc<Place>)> {
        let place = self.0.channels.borrow().get(&log).cloned()?;
        let owned = self.0.owned.borrow();
        Some((owned.get(&place.slot)?.source.clone(), place))
    }

    fn store(&self, store: Store) {
        let Store { slot, time, log, record, life, key, keyed_ms } = store;
        let id = record.id;
        let message = StoredMessage {
            timestamp_ms: record.timestamp_ms,
            life,
            number: 0,
            parts: record.parts,
            key,
            keyed_ms,
        };
        let payload = Stored { id, term: 0, content: Content::Message(message) }.encode();
        let place = self.0.channels.borrow().get(&log).cloned();
        if let Some(place) = &place {
            let month = self.0.counts.month_of(record.timestamp_ms);
            let message = UnderWay::Message(Rc::clone(place), month);
            self.0.under_way.borrow_mut().insert(id.0, message);
        }
        let to = place.as_ref().map(|place| (&*place.messages, Some(Rc::clone(&place.number))));
        self.append(slot, time, to, id, payload);
    }

    fn append(
        &self,
        slot: SlotId,
        time: u64,
        to: Option<(&str, Option<Rc<Cell<u64>>>)>,
        id: MessageId,
        payload: Bytes,
    ) {
        let is_sent = to.is_some_and(|(subject, counter)| {
            let subject = Bytes::copy_from_slice(subject.as_bytes());
            let owned = self.0.owned.borrow();
            let entry = Entry { id: id.0, subject, payload, counter };
            let owned = owned.get(&slot).filter(|owned| owned.time == time);
            owned.is_some_and(|owned| owned.appends.try_send(entry).is_ok())
        });
        let metrics = &self.0.plan.metrics;
        if is_sent {
            metrics.cluster_appends_in_flight.increment();
        } else {
            metrics.cluster_appends_refused_total.increment();
            self.0.under_way.borrow_mut().remove(&id.0);
            self.tell_slot(slot, SlotEvent::Refused(id));
        }
    }

    async fn open(self, open: Open) {
        let Open { shard, slot, channel, log, keyed_since_ms } = open;
        let place = Rc::new(Place::of(&self.0.plan.prefix, &channel));
        self.0.channels.borrow_mut().insert(log, Rc::clone(&place));
        let source = self.0.owned.borrow().get(&slot).map(|owned| owned.source.clone());
        let mut outcome = match source {
            Some(source) => source.open(&place, keyed_since_ms).await,
            None => Err(moved()),
        };
        match &mut outcome {
            // What comes after this is told behind it.
            Ok(opened) => {
                place.number.set(opened.number);
                opened.meta = self.0.metas.of(&channel);
            }
            Err(_) => {
                self.0.channels.borrow_mut().remove(&log);
            }
        }
        let opened = Opened { channel, log, outcome };
        self.tell(shard.index(), LogAnswer::Opened(Box::new(opened)));
    }
}

/// All streams of a cluster that have a leader.
pub(super) async fn list(
    gets: &Gets,
    prefix: &str,
) -> Result<BTreeMap<SlotId, StreamStatus>, AskError> {
    let name = format!("{prefix}-");
    let (mut found, mut offset) = (BTreeMap::new(), 0);
    loop {
        let request = serde_json::json!({ "subject": format!("{prefix}.>"), "offset": offset });
        let page: ListedStreams = gets.api("STREAM.LIST", &request).await?;
        offset += page.streams.len() as u64;
        let is_last = page.streams.is_empty() || offset >= page.total;
        for stream in page.streams {
            let number = stream.config.name.strip_prefix(&name).and_then(|n| n.parse().ok());
            let Some(slot) = number.filter(|slot| *slot < SlotId::COUNT).map(SlotId) else {
                continue;
            };
            found.insert(slot, stream.status());
        }
        if is_last {
            return Ok(found);
        }
    }
}

fn moved() -> LogFailure {
    LogFailure("the channel moves to another node".into())
}
