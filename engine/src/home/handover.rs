//! What a home has of its channels that is kept nowhere else, as it is handed to the process that takes this
//! one's place. What the log and the directory have, that process reads there.

use pushflo_protocol::{MessageId, Offset, Receipt, StreamPosition};

use super::Home;
use super::channel::{HomeChannel, HomeLog};
use super::idempotency::WINDOW_MS;
use crate::accounts::App;
use crate::context::Context;
use crate::handover::{AnswerState, ChannelState, UnloggedState};
use crate::ids::{AppId, HomeKey, LogId};
use crate::log::StoredAnswer;

impl Home {
    /// Whether nothing is under way that somebody else has to answer.
    pub(crate) fn is_quiet(&self) -> bool {
        let is_changing = |home: &HomeChannel| {
            home.extra.as_ref().is_some_and(|extra| extra.change.is_some() || extra.is_closed)
        };
        self.logging.is_quiet()
            && self.reading.is_quiet()
            && self.wanting.is_empty()
            && self.slots.is_quiet()
            && self.batch_results.is_empty()
            && !self.channels.values().any(is_changing)
    }

    /// What is to be handed over.
    pub(crate) fn channel_states(&mut self, cx: &Context) -> Vec<ChannelState> {
        let mut answers = self.idempotency.answers(cx.now.elapsed_ms);
        let state = |(key, home): (HomeKey, &mut HomeChannel)| {
            let members =
                home.presence_mut().map(|presence| presence.announced()).unwrap_or_default();
            let is_logged = home.log.is_some_and(|log| log.is_known || log.stream.is_some());
            if is_logged && members.is_empty() {
                return None;
            }
            let unlogged = (!is_logged).then(|| UnloggedState {
                log: home.log.map(|log| log.id.0),
                epoch: home.head.epoch,
                head: home.head.offset,
                last_ms: home.last_ms,
                created_ms: home.created_ms,
                messages: home.messages,
                is_counted: home.is_counted,
                records: self.recent.all(key),
                answers: answers.remove(&key).unwrap_or_default(),
            });
            Some(ChannelState { channel: home.channel.clone(), unlogged, members })
        };
        self.channels.iter_mut().filter_map(state).collect()
    }

    /// Takes over what another process had of channels, when all else was loaded and before the shard runs.
    pub(crate) fn take_channels(&mut self, cx: &mut Context, states: Vec<ChannelState>) {
        let (mut records, mut answers) = (Vec::new(), Vec::new());
        for state in states {
            let ChannelState { channel, unlogged, members } = state;
            let Some(app) = cx.directory.app(channel.app).cloned() else { continue };
            let key = match (self.by_name.get(&channel).copied(), &unlogged) {
                (Some(key), _) => key,
                (None, Some(_)) => self.make_home(cx, &channel, &app),
                (None, None) => continue,
            };
            if let Some(state) = unlogged {
                let state = self.take_unlogged(cx, key, &app, state);
                records.extend(state.records.into_iter().map(|record| (key, app.clone(), record)));
                answers.extend(state.answers.into_iter().map(|answer| (key, app.id, answer)));
            }
            let (now_ms, times) = (cx.now.elapsed_ms, cx.settings.presence);
            let presence = self.channels.get_mut(key).and_then(HomeChannel::presence_mut);
            if let Some(presence) = presence {
                presence.take_over(&members, now_ms, times);
                self.presence_changed(key);
            }
        }
        // They go in the order in which they have come, whatever channels they are of.
        records.sort_by_key(|(.., record)| record.timestamp_ms);
        for (key, app, record) in records {
            self.recent.append(key, record, &app.plan.retention);
        }
        answers.sort_by_key(|(.., answer)| answer.left_ms);
        for (key, app, answer) in answers {
            self.take_answer(cx, key, app, answer);
        }
        self.idempotency.sort();
    }

    /// Takes a channel over; what there is in it is left.
    fn take_unlogged(
        &mut self,
        cx: &mut Context,
        key: HomeKey,
        app: &App,
        state: UnloggedState,
    ) -> UnloggedState {
        let Some(home) = self.channels.get_mut(key) else { return state };
        let UnloggedState { log, epoch, head, last_ms, created_ms, messages, .. } = state;
        home.head = StreamPosition { epoch, offset: head };
        (home.given, home.next) = (head, Offset(head.0 + 1));
        (home.last_ms, home.created_ms, home.messages) = (last_ms, created_ms, messages);
        home.log = log.map(|id| HomeLog { id: LogId(id), stream: None, is_known: false });
        if state.is_counted && !std::mem::replace(&mut home.is_counted, true) {
            app.usage.find_channel();
        }
        if !state.answers.is_empty() {
            home.keyed_until_ms = cx.now.elapsed_ms + WINDOW_MS;
        }
        state
    }

    fn take_answer(&mut self, cx: &Context, key: HomeKey, app: AppId, answer: AnswerState) {
        let Some(home) = self.channels.get(key) else { return };
        let AnswerState { key: name, content, left_ms, id, offset, timestamp_ms } = answer;
        let epoch = home.head.epoch;
        let receipt = Receipt { id: MessageId(id), offset, epoch, timestamp_ms, delivered: 0 };
        let until_ms = cx.now.steady_ms + left_ms;
        let answer = StoredAnswer { key: name, content, until_ms, receipt };
        self.idempotency.load(app, key, answer, cx.now);
    }
}
