//! The appender of one slot with its stream: what it wants is done, what becomes of that is told.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, StatusCode, Subscriber};
use futures_util::StreamExt as _;
use pushflo_protocol::MessageId;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, interval, sleep};

use super::appender::{Appender, Attempt, End, Entry, Found, Input, Output, Sequence};
use super::gets::{AskError, Get, Gets};
use super::stored::{Content, Stored};
use super::streams::StreamsPlan;
use crate::ids::SlotId;

/// For how long an acknowledgement is waited for.
const ACKNOWLEDGED_MAX: Duration = Duration::from_secs(3);

/// Between two attempts at something that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// After this time without any answer, what is surely not stored is refused: it is longer than the election of
/// a leader takes as a rule.
const UNANSWERED_MAX: Duration = Duration::from_secs(8);

/// After this time in which a leader refuses everything, another is asked for: one that counts what it was sent and
/// will never store refuses for ever.
const REFUSING_MAX: Duration = Duration::from_secs(6);

/// How often it is told that a stream is not to be had.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Records that are read at a time to see what is stored, and their bytes.
const TAIL_RECORDS: usize = 1024;
const TAIL_BYTES: usize = 8 << 20;

/// How often a stream may seem to end before what it had, until that is believed: for longer than a leader that is
/// none any more goes on.
const SHORT_READS_MAX: u32 = 100;

/// Errors of JetStream: the stream is at another sequence; a part of a batch is missing, as where its leader has
/// changed; the stream has no room, or its servers have none.
const WRONG_SEQUENCE: [u64; 2] = [10071, 10164];
const INCOMPLETE_BATCH: u64 = 10176;
const NO_ROOM: [u64; 7] = [10002, 10023, 10028, 10047, 10054, 10077, 10122];
pub(super) const NO_SUCH_STREAM: u64 = 10059;

/// A stream of a slot, and how it is made where it is not there.
#[derive(Clone, Debug)]
pub(super) struct StreamPlan {
    /// Its name.
    pub(super) name: String,
    /// What its subjects begin with.
    pub(super) subjects: String,
    /// How many servers have it.
    pub(super) replicas: usize,
    /// For how long messages are kept, in seconds; 0 for ever.
    pub(super) max_age_s: u64,
    /// Its bytes at most; -1 for no limit of its own.
    pub(super) bytes_max: i64,
}

impl StreamPlan {
    /// The stream of a slot of a cluster.
    pub(super) fn of(plan: &StreamsPlan, slot: SlotId) -> Self {
        let StreamsPlan { prefix, replicas, max_age_s, bytes_max, .. } = plan;
        Self {
            name: format!("{prefix}-{slot}"),
            subjects: format!("{prefix}.{slot}"),
            replicas: *replicas,
            max_age_s: *max_age_s,
            bytes_max: *bytes_max,
        }
    }

    /// The subject of records that begin terms.
    fn terms(&self) -> String {
        format!("{}.t", self.subjects)
    }
}

#[derive(Serialize, Deserialize)]
struct StreamConfig {
    name: String,
    subjects: Vec<String>,
    num_replicas: usize,
    storage: String,
    discard: String,
    retention: String,
    /// Nanoseconds.
    max_age: u64,
    max_bytes: i64,
    allow_direct: bool,
    /// Batches are taken as a whole or not at all.
    #[serde(default)]
    allow_atomic: bool,
    /// Nanoseconds.
    duplicate_window: u64,
}

#[derive(Deserialize)]
struct StreamInfo {
    config: StreamConfig,
    state: StreamState,
}

#[derive(Deserialize)]
struct StreamState {
    last_seq: Sequence,
}

/// What is told of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is this node's, from the record of this sequence on.
    Begun(Sequence),
    /// An append is stored.
    Stored(u128, Sequence),
    /// An append is not stored and never will be.
    Refused(u128),
    /// It will not be known what became of an append.
    Unknown(u128),
    /// It is not this node's any more.
    Ended(End),
}

/// What the task of a slot does next.
enum Event {
    Append(Option<Entry>),
    Message(Option<Message>),
    Done(Input),
    Tick,
}

/// A slot that this node owns, or wants to.
pub(super) struct Slot {
    client: Client,
    gets: Gets,
    plan: Rc<StreamPlan>,
    appender: Appender,
    inbox: String,
    /// What ids of batches begin with: nobody else's do.
    batch_prefix: String,
    /// Acknowledgements that are awaited, the oldest first.
    awaited: std::collections::VecDeque<(Instant, Attempt)>,
    done: UnboundedSender<Input>,
    /// Since when nobody takes appends: the stream has no leader.
    unanswered: Option<Instant>,
    /// Since when whoever takes appends refuses all of them.
    refusing: Option<Instant>,
    /// When it was told last that the stream is not to be had.
    told: Rc<Cell<Option<Instant>>>,
}

impl Slot {
    /// Owns the slot until another does or `appends` ends, and tells `told` of everything. The term has this
    /// id and the name of the node.
    pub(super) async fn run(
        client: Client,
        gets: Gets,
        plan: StreamPlan,
        (id, node): (MessageId, &str),
        mut appends: Receiver<Entry>,
        mut told: impl FnMut(Told),
    ) {
        let inbox = client.new_inbox();
        let Some(mut answers) = subscribe(&client, &inbox).await else { return };
        let content = Content::Term { node: node.into() };
        let payload = Stored { id, term: 0, content }.encode();
        let subject = plan.terms().into();
        let beginning = Entry { id: id.0, subject, payload, counter: None };
        let (done, mut results): (_, UnboundedReceiver<Input>) = unbounded_channel();
        let mut slot = Self {
            client,
            gets,
            plan: Rc::new(plan),
            appender: Appender::new(beginning),
            batch_prefix: inbox.rsplit('.').next().unwrap_or_default().into(),
            inbox,
            awaited: Default::default(),
            done,
            unanswered: None,
            refusing: None,
            told: Rc::default(),
        };
        let mut ticks = interval(PAUSE);
        loop {
            if slot.carry_out(&mut told).await {
                return;
            }
            let event = tokio::select! {
                entry = appends.recv() => Event::Append(entry),
                message = answers.next() => Event::Message(message),
                Some(input) = results.recv() => Event::Done(input),
                _ = ticks.tick() => Event::Tick,
            };
            match event {
                Event::Append(Some(entry)) => {
                    slot.append(entry);
                    while let Ok(entry) = appends.try_recv() {
                        slot.append(entry);
                    }
                    slot.appender.send();
                }
                Event::Append(None) | Event::Message(None) => slot.appender.give_up(),
                Event::Message(Some(message)) => slot.answered(&message),
                Event::Done(input) => slot.appender.take(input),
                Event::Tick => slot.look_at_the_clock(),
            }
        }
    }

    /// Appends, with a number: what was refused before has given its own back.
    fn append(&mut self, mut entry: Entry) {
        if let Some(counter) = &entry.counter {
            counter.set(counter.get() + 1);
            entry.payload = Stored::with_number(&entry.payload, counter.get());
        }
        self.appender.append(entry);
    }

    /// Does what the appender wants. Returns whether it is done.
    async fn carry_out(&mut self, told: &mut impl FnMut(Told)) -> bool {
        while let Some(output) = self.appender.next_output() {
            match output {
                Output::Send { attempt, expected, term, entries } => {
                    self.send(attempt, expected, term, entries).await;
                }
                Output::Ask => {
                    let told = Rc::clone(&self.told);
                    self.begin(ask(self.gets.clone(), Rc::clone(&self.plan), told));
                }
                Output::Read { after, until } => {
                    let subject = format!("{}.>", self.plan.subjects);
                    let stream = self.plan.name.clone();
                    self.begin(read(self.gets.clone(), stream, subject, after, until));
                }
                Output::Begun(term) => told(Told::Begun(term)),
                Output::Stored { id, sequence } => told(Told::Stored(id, sequence)),
                Output::Refused(id) => told(Told::Refused(id)),
                Output::Unknown(id) => told(Told::Unknown(id)),
                Output::Ended(end) => {
                    told(Told::Ended(end));
                    return true;
                }
            }
        }
        false
    }

    /// Has something be done beside all else; what comes of it is the appender's.
    fn begin(&self, work: impl Future<Output = Input> + 'static) {
        let done = self.done.clone();
        tokio::task::spawn_local(async move {
            let input = work.await;
            if input == Input::Failed {
                sleep(PAUSE).await;
            }
            let _ = done.send(input);
        });
    }

    async fn send(
        &mut self,
        attempt: Attempt,
        expected: Sequence,
        term: Sequence,
        entries: Vec<Entry>,
    ) {
        self.awaited.push_back((Instant::now() + ACKNOWLEDGED_MAX, attempt));
        let last = entries.len();
        for (number, entry) in (1..).zip(entries) {
            let mut headers = HeaderMap::new();
            if number == 1 {
                headers.insert("Nats-Expected-Last-Sequence", expected.to_string().as_str());
                headers.insert("Nats-Expected-Stream", self.plan.name.as_str());
            }
            if last > 1 {
                let id = format!("{}-{}", self.batch_prefix, attempt.number());
                headers.insert("Nats-Batch-Id", id.as_str());
                headers.insert("Nats-Batch-Sequence", number.to_string().as_str());
            }
            let payload = Stored::with_term(&entry.payload, term);
            let subject = String::from_utf8_lossy(&entry.subject).into_owned();
            // Where it cannot be sent, its time passes.
            if number < last {
                let _ = self.client.publish_with_headers(subject, headers, payload).await;
                continue;
            }
            if last > 1 {
                headers.insert("Nats-Batch-Commit", "1");
            }
            let reply = format!("{}.{}", self.inbox, attempt.number());
            let sent = self.client.publish_with_reply_and_headers(subject, reply, headers, payload);
            let _ = sent.await;
        }
    }

    /// What became of a batch.
    fn answered(&mut self, message: &Message) {
        let token = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
        let Some(attempt) = token.map(Attempt::of_number) else { return };
        let is_unanswered = message.status == Some(StatusCode::NO_RESPONDERS);
        self.unanswered = is_unanswered.then(|| self.unanswered.unwrap_or_else(Instant::now));
        let input = if is_unanswered {
            Input::Untaken(attempt)
        } else {
            match serde_json::from_slice::<Acknowledgement>(&message.payload) {
                Ok(Acknowledgement { error: None, seq }) => Input::Stored(attempt, seq),
                Ok(Acknowledgement { error: Some(error), .. }) => error.input(attempt),
                Err(_) => Input::Lost(attempt),
            }
        };
        match input {
            Input::Stored(..) => self.refusing = None,
            Input::Refused(..) => {
                self.refusing.get_or_insert_with(Instant::now);
            }
            _ => {}
        }
        self.appender.take(input);
    }

    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        if self.refusing.is_some_and(|since| now.duration_since(since) > REFUSING_MAX) {
            self.refusing = None;
            self.ask_for_another_leader();
        }
        if self.unanswered.is_some_and(|since| now.duration_since(since) > UNANSWERED_MAX) {
            self.appender.refuse_all();
        }
        while self.awaited.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, attempt)) = self.awaited.pop_front() {
                self.appender.take(Input::Lost(attempt));
            }
        }
    }
}

impl Slot {
    fn ask_for_another_leader(&self) {
        let (gets, stream) = (self.gets.clone(), self.plan.name.clone());
        tracing::warn!(
            stream,
            "the leader of a stream refuses all appends; another one is asked for"
        );
        tokio::task::spawn_local(async move {
            let what = format!("STREAM.LEADER.STEPDOWN.{stream}");
            let asked: Result<serde_json::Value, _> = gets.api(&what, &serde_json::json!({})).await;
            if let Err(error) = asked {
                tracing::warn!(stream, %error, "no other leader can be asked for");
            }
        });
    }
}

#[derive(Deserialize)]
struct Acknowledgement {
    error: Option<AppendError>,
    #[serde(default)]
    seq: Sequence,
}

#[derive(Deserialize)]
struct AppendError {
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl AppendError {
    fn input(&self, attempt: Attempt) -> Input {
        if NO_ROOM.contains(&self.err_code) {
            return Input::Full(attempt);
        }
        let is_known = WRONG_SEQUENCE.contains(&self.err_code);
        if !is_known && self.err_code != INCOMPLETE_BATCH {
            let Self { err_code, description } = self;
            tracing::warn!(err_code, description, "JetStream refuses an append");
        }
        // `wrong last sequence: 17`
        let last = self.description.rsplit(' ').next().and_then(|number| number.parse().ok());
        Input::Refused(attempt, last.filter(|_| is_known).unwrap_or_default())
    }
}

async fn subscribe(client: &Client, inbox: &str) -> Option<Subscriber> {
    client.subscribe(format!("{inbox}.*")).await.ok()
}

/// The last sequence of the stream, which is made if it is not there.
async fn ask(gets: Gets, plan: Rc<StreamPlan>, told: Rc<Cell<Option<Instant>>>) -> Input {
    let is_to_tell = || {
        let now = Instant::now();
        let is_due = told.get().is_none_or(|at| now.duration_since(at) > TELL_AGAIN);
        if is_due {
            told.set(Some(now));
        }
        is_due
    };
    match gets.info::<StreamInfo>(&plan.name).await {
        Ok(info) => check(&info, &plan, is_to_tell),
        Err(AskError::Refused { code: NO_SUCH_STREAM, .. }) => {
            let made = gets.api(&format!("STREAM.CREATE.{}", plan.name), &config(&plan)).await;
            match made {
                Ok::<StreamInfo, _>(info) => {
                    tracing::info!(stream = plan.name, replicas = plan.replicas, "made a stream");
                    check(&info, &plan, is_to_tell)
                }
                Err(error) => {
                    if is_to_tell() {
                        tracing::warn!(stream = plan.name, %error, "a stream cannot be made");
                    }
                    Input::Failed
                }
            }
        }
        Err(_) => Input::Failed,
    }
}

/// A stream of that name that is not ours is left alone.
fn check(info: &StreamInfo, plan: &StreamPlan, is_to_tell: impl Fn() -> bool) -> Input {
    let StreamConfig { subjects, retention, discard, allow_direct, allow_atomic, .. } =
        &info.config;
    let expected = [format!("{}.>", plan.subjects)];
    let is_ours = *subjects == expected
        && retention == "limits"
        && discard == "new"
        && *allow_direct
        && *allow_atomic;
    if !is_ours && is_to_tell() {
        tracing::error!(
            stream = plan.name,
            "the stream is not as PushFlo made it: its subjects, retention, discard, allow_direct or \
             allow_atomic are others. Another program's stream needs another prefix (cluster.prefix)"
        );
    }
    if !is_ours {
        return Input::Failed;
    }
    Input::Last(info.state.last_seq)
}

fn config(plan: &StreamPlan) -> StreamConfig {
    StreamConfig {
        name: plan.name.clone(),
        subjects: vec![format!("{}.>", plan.subjects)],
        num_replicas: plan.replicas,
        storage: "file".into(),
        discard: "new".into(),
        retention: "limits".into(),
        max_age: plan.max_age_s * 1_000_000_000,
        max_bytes: plan.bytes_max,
        allow_direct: true,
        allow_atomic: true,
        // Repeated ids are found by the owner, which keeps them in the records.
        duplicate_window: 100_000_000,
    }
}

/// What the stream has behind a sequence, which it is known to have.
async fn read(
    gets: Gets,
    stream: String,
    subject: String,
    after: Sequence,
    until: Sequence,
) -> Input {
    // What its leader has stored is there for good; of what it was sent, that is not known.
    let last_of_leader = async || match gets.info::<StreamInfo>(&stream).await {
        Ok(info) => Ok(info.state.last_seq),
        Err(AskError::Refused { code: NO_SUCH_STREAM, .. }) => Err(Input::Shrunk),
        Err(_) => Err(Input::Failed),
    };
    let until = match last_of_leader().await {
        Ok(last) => last.max(until),
        Err(input) => return input,
    };
    for _ in 0..SHORT_READS_MAX {
        let get = Get::following(&subject, after + 1, TAIL_RECORDS, Some(TAIL_BYTES));
        let Ok(got) = gets.get(&stream, &get).await else { break };
        let last = got.messages.last().map_or(after, |message| message.sequence);
        // A server that lags has less than is known to be there.
        if last >= until || got.pending > 0 {
            let found = got.messages.iter().map(|message| {
                let stored = Stored::decode(&message.payload);
                let (id, term) = stored.map_or((0, u64::MAX), |stored| (stored.id.0, stored.term));
                Found { sequence: message.sequence, id, term }
            });
            return Input::Tail(found.collect());
        }
        sleep(PAUSE).await;
    }
    match last_of_leader().await {
        Ok(last) if last < after => Input::Shrunk,
        Ok(_) => Input::Failed,
        Err(input) => input,
    }
}
