//! Channels in the streams of a cluster. A shard owns slots of them for a time: it finds a channel in the
//! stream when somebody asks for it first, and the stream gives the offsets.

use std::collections::{BTreeMap, VecDeque};

use pushflo_protocol::{ErrorCode, MessageId, Offset, Refusal, StreamPosition};
use smallvec::SmallVec;

use super::Home;
use super::channel::{Extra, HomeChannel, HomeLog};
use super::idempotency::{Keyed, WINDOW_MS};
use super::list::Naming;
use super::logging::LoggedMessage;
use super::metadata::read_meta;
use super::presence::ChannelPresence;
use crate::bug::bug;
use crate::context::{Context, post_each};
use crate::hash::HashMap;
use crate::ids::{ChannelKey, HomeKey, NodeSlot, SlotId};
use crate::log::{
    Delete, Life, LogCall, LogFailure, Open, Opened, OpenedChannel, SlotEvent, SlotNews, Store,
};
use crate::mail::{
    Answer, DescribeChannels, ListedChannel, NoWindow, Outcome, Publish, ReplyTo, ToEdge, ToHome,
    Window, no_owner, no_room, unknown_outcome,
};

/// Mail that waits for channels to be found in their streams.
const OPENING_MAX: usize = 16 * 1024;

/// A channel that nobody has used for so long is found anew when it is asked for again.
const IDLE_MS: u64 = 60_000;

/// A channel in the stream of its slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct InStream {
    pub(super) slot: SlotId,
    life: Life,
    /// When a message was published with a key last, in Unix milliseconds.
    keyed_ms: u64,
    /// Messages on their way.
    under_way: u32,
    /// When it was asked for last, in milliseconds after the start.
    used_ms: u64,
    /// The revision of its metadata; 0 for none.
    pub(super) meta_revision: u64,
}

impl InStream {
    /// Whether no message is on its way, and nobody has asked for it lately.
    pub(super) fn is_at_rest(self, now_ms: u64) -> bool {
        self.under_way == 0 && self.used_ms + IDLE_MS < now_ms
    }
}

/// For how long a publisher waits for JetStream, in milliseconds: longer than the election of a leader takes as
/// a rule. The message may be stored yet, and is delivered then.
const PUBLISH_MAX_MS: u64 = 10_000;

/// A message on its way to its stream.
#[derive(Debug)]
struct UnderWay {
    logged: LoggedMessage,
    /// When it was sent, in milliseconds after the start.
    sent_ms: u64,
    /// Its publisher was told that it is not known what became of it.
    is_given_up: bool,
}

/// The slots of a shard.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Those that are its own for the moment, and the time that this is.
    own: BTreeMap<SlotId, u64>,
    /// Mail for channels that are being looked for.
    opening: HashMap<ChannelKey, Vec<ToHome>>,
    opening_len: usize,
    /// Messages on their way, by slot, in the order in which they were sent.
    under_way: BTreeMap<SlotId, VecDeque<UnderWay>>,
    /// Deletions on their way.
    deleting: BTreeMap<MessageId, (SlotId, HomeKey)>,
    /// Lists for which streams are asked which channels they have.
    pub(super) naming: BTreeMap<u64, Naming>,
    /// Counts them.
    named: u64,
    /// Calls that were not handed over yet.
    calls: VecDeque<LogCall>,
}

impl Slots {
    /// Slots that are the shard's own.
    pub(super) fn own(&self) -> impl Iterator<Item = SlotId> {
        self.own.keys().copied()
    }

    /// Whether nothing is asked of streams.
    pub(super) fn is_quiet(&self) -> bool {
        self.opening.is_empty()
            && self.under_way.values().all(VecDeque::is_empty)
            && self.deleting.is_empty()
            && self.naming.is_empty()
            && self.calls.is_empty()
    }

    /// An id that no list had.
    pub(super) fn next_id(&mut self) -> u64 {
        self.named += 1;
        self.named
    }

    /// Has the cluster's log be asked for something.
    pub(super) fn push(&mut self, call: LogCall) {
        self.calls.push_back(call);
    }

    /// Hands calls over, as far as `post` takes them. Returns whether some are left.
    pub(super) fn post(&mut self, post: impl FnMut(LogCall) -> Result<(), LogCall>) -> bool {
        post_each(&mut self.calls, post)
    }

    /// The keys of publishes that are on their way.
    pub(super) fn keyed(&self) -> impl Iterator<Item = &Keyed> {
        self.messages().filter_map(|logged| logged.keyed.as_deref())
    }

    /// Messages on their way.
    pub(super) fn messages(&self) -> impl Iterator<Item = &LoggedMessage> {
        self.under_way.values().flatten().map(|under_way| &under_way.logged)
    }
}

impl Home {
    /// Lets mail through whose channel is here; other mail waits for its channel, or is refused.
    pub(super) fn admit(&mut self, cx: &mut Context, mail: ToHome) -> Option<ToHome> {
        let channel = match &mail {
            ToHome::Publish(publish) => &publish.message.channel,
            ToHome::ReadPage(page) => &page.channel,
            ToHome::Subscribe(subscribe) => &subscribe.channel,
            ToHome::Attach(attach) => &attach.channel,
            ToHome::Channel(request) => &request.channel,
            ToHome::PublishBatch(_) => {
                let ToHome::PublishBatch(batch) = mail else { return None };
                let (shard, batch, messages) = (batch.shard, batch.batch, batch.messages);
                for message in messages {
                    let reply_to = ReplyTo::Batch { shard, batch, position: message.position };
                    let message = message.message;
                    self.handle(cx, ToHome::Publish(Publish { reply_to, message }));
                }
                return None;
            }
            ToHome::ReadWindow(read) if !self.channels.contains_key(read.home) => {
                let (reader, after) = (read.reader, read.after);
                let window = Window { reader, after, records: Err(NoWindow::NotNow) };
                cx.post_edge(reader.shard, ToEdge::Window(Box::new(window)));
                return None;
            }
            ToHome::DescribeChannels(describe) if describe.channels.len() > 1 => {
                let ToHome::DescribeChannels(describe) = mail else { return None };
                let DescribeChannels { shard, list, app, channels } = *describe;
                for channel in channels {
                    let channels = vec![channel];
                    let one = DescribeChannels { shard, list, app, channels };
                    self.handle(cx, ToHome::DescribeChannels(Box::new(one)));
                }
                return None;
            }
            ToHome::DescribeChannels(describe) => {
                let Some(ListedChannel { slug, .. }) = describe.channels.first() else {
                    return Some(mail);
                };
                &ChannelKey { app: describe.app, slug: slug.clone() }
            }
            _ => return Some(mail),
        };
        let slot = SlotId::of(channel);
        if !self.slots.own.contains_key(&slot) {
            cx.refuse(&mail, &no_owner());
            return None;
        }
        if let Some(&key) = self.by_name.get(channel) {
            if let Some(wanted) = self.is_to_wait(cx, &mail, channel, key) {
                let app = channel.app;
                self.wait(cx, mail, app, wanted);
                return None;
            }
            let log = self.channels.get_mut(key).and_then(|home| home.log.as_mut());
            if let Some(stream) = log.and_then(|log| log.stream.as_mut()) {
                stream.used_ms = cx.now.elapsed_ms;
            }
            return Some(mail);
        }
        if self.slots.opening_len >= OPENING_MAX {
            cx.refuse(&mail, &no_room());
            return None;
        }
        let channel = channel.clone();
        self.slots.opening_len += 1;
        let waiting = self.slots.opening.entry(channel.clone()).or_default();
        waiting.push(mail);
        if waiting.len() == 1 {
            let keyed_since_ms = cx.now.steady_ms.saturating_sub(WINDOW_MS);
            let (shard, log) = (cx.shard, cx.shared.new_log());
            let open = Open { shard, slot, channel, log, keyed_since_ms };
            self.slots.calls.push_back(LogCall::Open(Box::new(open)));
        }
        None
    }

    /// What a stream has of a channel that somebody asked for.
    pub(super) fn opened(&mut self, cx: &mut Context, opened: Opened) {
        let Opened { channel, log, outcome } = opened;
        let waiting = self.slots.opening.remove(&channel).unwrap_or_default();
        self.slots.opening_len -= waiting.len();
        let is_own = self.slots.own.contains_key(&SlotId::of(&channel));
        match outcome {
            Ok(_) if !is_own || waiting.is_empty() || self.by_name.contains_key(&channel) => {
                self.slots.calls.push_back(LogCall::Forget(log));
                waiting.iter().for_each(|mail| cx.refuse(mail, &no_owner()));
            }
            Ok(found) => {
                self.insert_opened(cx, &channel, log, found);
                for mail in waiting {
                    self.handle(cx, mail);
                }
            }
            Err(LogFailure(text)) => {
                let refusal = Refusal::new(ErrorCode::Overloaded, text.to_string());
                waiting.iter().for_each(|mail| cx.refuse(mail, &refusal));
            }
        }
    }

    fn insert_opened(
        &mut self,
        cx: &mut Context,
        channel: &ChannelKey,
        id: crate::ids::LogId,
        found: OpenedChannel,
    ) {
        let OpenedChannel { epoch, head, life, number, last_ms, keyed_ms, answers, meta } = found;
        let found_meta = read_meta(&meta);
        let is_new = head == Offset(0) && found_meta.is_none();
        let of_meta = found_meta.as_ref().map(|meta| meta.created_ms);
        let created_ms = match (life.created_ms, of_meta) {
            (0, of_meta) => of_meta.unwrap_or(cx.now.unix_ms),
            (of_life, of_meta) => of_life.min(of_meta.unwrap_or(of_life)),
        };
        let extra = found_meta.map(|meta| {
            let presence = meta.presence.then(|| ChannelPresence::new(cx.random.u32(..)));
            Box::new(Extra { meta: Some(meta), presence, ..Extra::default() })
        });
        let life = Life { created_ms, ..life };
        let stream = InStream {
            slot: SlotId::of(channel),
            life,
            keyed_ms,
            under_way: 0,
            used_ms: cx.now.elapsed_ms,
            meta_revision: meta.revision,
        };
        if !is_new && let Some(app) = cx.directory.app(channel.app) {
            app.usage.find_channel();
        }
        let key = self.insert_home(HomeChannel {
            channel: channel.clone(),
            head: StreamPosition { epoch, offset: head },
            given: head,
            next: head.next(),
            last_ms,
            created_ms,
            messages: number,
            is_counted: !is_new,
            log: Some(HomeLog { id, is_known: true, stream: Some(stream) }),
            keyed_until_ms: 0,
            reads: 0,
            tails: SmallVec::new(),
            extra,
        });
        self.recent.begin_behind(key);
        for answer in answers {
            self.load_answer(cx, channel, answer);
        }
    }

    /// Has a message go to the stream of its slot.
    pub(super) fn store(&mut self, cx: &Context, logged: LoggedMessage) {
        let home = self.channels.get_mut(logged.home);
        let Some((log, stream)) = home.and_then(|home| {
            let log = home.log.as_mut()?;
            Some((log.id, log.stream.as_mut()?))
        }) else {
            return bug!(cx, "a message for a stream of a channel that is in none");
        };
        stream.under_way += 1;
        let key = logged.keyed.as_ref().map(|keyed| ((&*keyed.key).into(), keyed.content));
        if key.is_some() {
            stream.keyed_ms = logged.record.timestamp_ms;
        }
        let InStream { slot, life, keyed_ms, .. } = *stream;
        let record = logged.record.clone();
        let time = self.slots.own.get(&slot).copied().unwrap_or_default();
        let store = Store { slot, time, log, record, life, key, keyed_ms };
        self.slots.calls.push_back(LogCall::Store(Box::new(store)));
        let under_way = UnderWay { logged, sent_ms: cx.now.elapsed_ms, is_given_up: false };
        self.slots.under_way.entry(slot).or_default().push_back(under_way);
    }

    /// Has a channel be deleted in the stream of its slot. Returns whether it is in one.
    pub(super) fn delete_in_stream(&mut self, cx: &mut Context, key: HomeKey) -> bool {
        let log = self.channels.get(key).and_then(|home| home.log);
        let Some((log, stream)) = log.and_then(|log| Some((log.id, log.stream?))) else {
            return false;
        };
        let slot = stream.slot;
        let id = MessageId::new(cx.now.unix_ms, cx.random.u128(..));
        let time = self.slots.own.get(&slot).copied().unwrap_or_default();
        self.slots.calls.push_back(LogCall::Delete(Delete { slot, time, log, id }));
        self.slots.deleting.insert(id, (slot, key));
        true
    }

    /// What became of a deletion.
    fn deleted_in_stream(&mut self, cx: &mut Context, key: HomeKey, outcome: Outcome) {
        if let Some(log) = self.channels.get(key).and_then(|home| home.log) {
            self.slots.calls.push_back(LogCall::Forget(log.id));
        }
        self.channel_deleted(cx, key, outcome);
        // Where it failed, it is found with what it had when somebody asks for it.
        self.channels.remove(key);
    }

    /// Something has happened to a slot.
    pub(super) fn slot_news(&mut self, cx: &mut Context, news: SlotNews) {
        let SlotNews { slot, event } = news;
        if let SlotEvent::Stored(id, _) | SlotEvent::Refused(id) | SlotEvent::Unknown(id) = &event
            && let Some((_, key)) = self.slots.deleting.remove(id)
        {
            let outcome = match event {
                SlotEvent::Stored(..) => Ok(Answer::Deleted),
                SlotEvent::Unknown(_) => Err(unknown_outcome()),
                _ => Err(no_room()),
            };
            return self.deleted_in_stream(cx, key, outcome);
        }
        match event {
            SlotEvent::Begun(time) => {
                // The end of the time before may be told later.
                self.lose_slot(cx, slot);
                self.slots.own.insert(slot, time);
            }
            SlotEvent::Stored(id, sequence) => {
                let Some(mut logged) = self.take_stored(slot, id) else { return };
                let Some(home) = self.channels.get_mut(logged.home) else { return };
                logged.record.offset = Offset(sequence);
                logged.record.prev = home.head.offset;
                (home.given, home.next) = (Offset(sequence), Offset(sequence).next());
                let LoggedMessage { home, record, reply_to, keyed, .. } = logged;
                self.deliver(cx, home, record, reply_to, keyed);
            }
            SlotEvent::Refused(id) => {
                let Some(logged) = self.take_stored(slot, id) else { return };
                self.return_message(cx, logged.home, logged.month);
                let text = "the cluster's log took no message, nothing was published";
                let refusal = Refusal::new(ErrorCode::Overloaded, text);
                self.publish_failed(cx, logged.reply_to, logged.keyed, &refusal);
            }
            SlotEvent::Unknown(id) => {
                let Some(logged) = self.take_stored(slot, id) else { return };
                self.publish_failed(cx, logged.reply_to, logged.keyed, &unknown_outcome());
            }
            SlotEvent::Ended(time) => {
                if self.slots.own.get(&slot).is_none_or(|own| *own == time) {
                    self.lose_slot(cx, slot);
                }
            }
        }
    }

    /// Tells publishers who have waited long enough that it is not known what became of their messages. To be
    /// called once a tick.
    pub(super) fn give_up_waiting(&mut self, cx: &mut Context) {
        let now_ms = cx.now.elapsed_ms;
        let mut told = Vec::new();
        for under_way in self.slots.under_way.values_mut() {
            let is_due = |under_way: &&mut UnderWay| under_way.sent_ms + PUBLISH_MAX_MS <= now_ms;
            for under_way in under_way.iter_mut().take_while(is_due) {
                if std::mem::replace(&mut under_way.is_given_up, true) {
                    continue;
                }
                told.extend(under_way.logged.reply_to.take());
            }
            // Those who ask again with its key are told the same, until it is known.
            let due = under_way.iter().take_while(|under_way| under_way.is_given_up);
            for keyed in due.filter_map(|under_way| under_way.logged.keyed.as_deref()) {
                told.extend(self.idempotency.take_waiting(keyed));
            }
        }
        for reply_to in told {
            self.publish_done(cx, reply_to, Err(late()));
        }
    }

    /// A message is not on its way any more.
    fn take_stored(&mut self, slot: SlotId, id: MessageId) -> Option<LoggedMessage> {
        let under_way = self.slots.under_way.get_mut(&slot);
        let found = under_way.and_then(|messages| {
            let at = messages.iter().position(|under_way| under_way.logged.record.id == id)?;
            messages.remove(at)
        });
        // One of an earlier time was answered when that ended.
        let logged = found?.logged;
        let home = self.channels.get_mut(logged.home);
        if let Some(stream) = home.and_then(|home| home.log.as_mut()?.stream.as_mut()) {
            stream.under_way -= 1;
        }
        self.logging.arrived(logged.app, &logged.record);
        Some(logged)
    }

    /// A slot is another's: its channels are found there from now on. Those who listen look for them.
    fn lose_slot(&mut self, cx: &mut Context, slot: SlotId) {
        self.slots.own.remove(&slot);
        for UnderWay { logged, .. } in self.slots.under_way.remove(&slot).unwrap_or_default() {
            self.logging.arrived(logged.app, &logged.record);
            self.publish_failed(cx, logged.reply_to, logged.keyed, &unknown_outcome());
        }
        let deleting = self.slots.deleting.extract_if(.., |_, (of, _)| *of == slot);
        let deleting: Vec<HomeKey> = deleting.map(|(_, (_, key))| key).collect();
        for key in deleting {
            self.deleted_in_stream(cx, key, Err(unknown_outcome()));
        }
        let of_slot = |channel: &ChannelKey| SlotId::of(channel) == slot;
        let opening: Vec<_> =
            self.slots.opening.keys().filter(|channel| of_slot(channel)).cloned().collect();
        for channel in opening {
            let waiting = self.slots.opening.remove(&channel).unwrap_or_default();
            self.slots.opening_len -= waiting.len();
            waiting.iter().for_each(|mail| cx.refuse(mail, &no_owner()));
        }
        let lost: Vec<HomeKey> = self
            .channels
            .iter()
            .filter(|(_, home)| of_slot(&home.channel))
            .map(|(key, _)| key)
            .collect();
        for key in lost {
            self.drop_opened(cx, key);
        }
    }

    /// Forgets a channel that is found in its stream when somebody asks for it again.
    pub(super) fn drop_opened(&mut self, cx: &mut Context, key: HomeKey) {
        self.hide(cx, key);
        self.recent.forget(key);
        let Some(mut home) = self.channels.remove(key) else { return };
        // Who owns the slot may be the same as before, so nothing else tells them.
        for (shard, tail) in home.take_audiences() {
            cx.post_edge(shard, ToEdge::Moved(tail));
        }
        if let Some((request, _)) = home.extra.and_then(|extra| extra.change) {
            cx.answer(request, Err(unknown_outcome()));
        }
        if let Some(log) = home.log {
            self.slots.calls.push_back(LogCall::Forget(log.id));
        }
    }

    /// Whether a channel is in a stream, and nobody uses it.
    pub(super) fn is_idle(&self, cx: &Context, key: HomeKey) -> bool {
        let Some(home) = self.channels.get(key) else { return false };
        let Some(stream) = home.log.and_then(|log| log.stream) else { return false };
        stream.is_at_rest(cx.now.elapsed_ms)
            && home.tails.is_empty()
            && home.reads == 0
            && home.keyed_until_ms <= cx.now.elapsed_ms
            && home.extra.as_ref().is_none_or(|extra| extra.is_at_rest())
    }

    /// A node cannot be reached any more: its subscribers are none.
    pub(crate) fn node_gone(&mut self, cx: &mut Context, node: NodeSlot) {
        let (now_ms, times) = (cx.now.elapsed_ms, cx.settings.presence);
        let mut changed = Vec::new();
        for (key, home) in &mut self.channels {
            let before = home.tails.len();
            home.tails.retain(|audience| audience.shard.node() != node);
            if home.tails.len() < before
                && home
                    .presence_mut()
                    .is_some_and(|presence| presence.leave_all(node, now_ms, times))
            {
                changed.push(key);
            }
        }
        for key in changed {
            self.presence_changed(key);
        }
    }
}

/// What a publisher is told who has waited for JetStream for long.
fn late() -> Refusal {
    let text = "the cluster's log has not answered yet, so it is not known whether the message is published; \
                repeat with the same Idempotency-Key";
    Refusal::new(ErrorCode::UnknownOutcome, text)
}
