//! Reading channels forward, and pages of them: in memory where that has it, else in the log.
//!
//! A subscriber is told where it starts, and from there on reads windows of records until it has met its
//! tail: live, slow, replay and recovery are the same thing at different distances from the head. Those
//! who want the same of the log at the same time share one read.
//!
//! Reads of the log are served in turn, one of each app; few of a shard are under way at a time, so that
//! none waits long for the others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use pushflo_protocol::position::Start;
use pushflo_protocol::{ErrorCode, Offset, Record, Refusal};
use slotmap::SlotMap;

use super::Home;
use crate::bug::bug;
use crate::context::Context;
use crate::hash::HashMap;
use crate::ids::{AppId, HomeKey, LogId, ReadKey};
use crate::in_turn::InTurn;
use crate::log::{
    Locate, LocateDone, Located, LogCall, PageCall, PageDone, Read, ReadDone, ReadFrom,
};
use crate::mail::{
    Answer, NoWindow, ReadPage, ReadWindow, Subscribe, ToEdge, Window, WindowReader,
};
use crate::retention::Retention;
use crate::share;

/// Reads of a shard that the log has at a time: enough to keep it busy, few enough that whoever comes
/// next does not wait for many.
const UNDER_WAY_MAX: usize = 16;

/// Scans of a shard that the log has at a time, beside the other reads: each goes on for a moment before
/// the others do.
const SCANS_UNDER_WAY_MAX: usize = 2;

/// Reads of a shard that wait; its apps share them.
const WAITING_MAX: usize = 16 * 1024;

/// Records that are looked at for one unit of work.
const RECORDS_PER_WORK: usize = 16;

/// What a shard reads of the log.
#[derive(Debug, Default)]
pub(super) struct Reading {
    waiting: InTurn<LogCall>,
    /// Pages that are looked for in all of a channel's history.
    scans: InTurn<LogCall>,
    /// What found no room at the log; before all others.
    returned: VecDeque<LogCall>,
    under_way: usize,
    scans_under_way: usize,
    locates: SlotMap<ReadKey, PendingLocate>,
    windows: SlotMap<ReadKey, PendingWindow>,
    /// What is asked and not answered yet.
    locating: HashMap<(HomeKey, ReadFrom), ReadKey>,
    reading: HashMap<(HomeKey, Offset), ReadKey>,
}

/// Subscribers who wait to learn where they start.
#[derive(Debug)]
struct PendingLocate {
    home: HomeKey,
    from: ReadFrom,
    /// Messages the channel had had when it was asked.
    messages: u64,
    subscribes: Vec<Subscribe>,
}

/// Subscribers who wait for a window.
#[derive(Debug)]
struct PendingWindow {
    home: HomeKey,
    after: Offset,
    readers: Vec<WindowReader>,
}

impl Reading {
    /// Hands calls over to the log, as far as `post` takes them. Returns whether it took one not.
    pub(super) fn post(&mut self, mut post: impl FnMut(LogCall) -> Result<(), LogCall>) -> bool {
        while let Some(call) = self.next() {
            let is_scan = call.is_scan();
            if let Err(call) = post(call) {
                self.returned.push_back(call);
                return true;
            }
            if is_scan {
                self.scans_under_way += 1;
            } else {
                self.under_way += 1;
            }
        }
        false
    }

    /// Whether nothing is asked of the log.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting.is_empty()
            && self.scans.is_empty()
            && self.returned.is_empty()
            && self.under_way + self.scans_under_way == 0
    }

    fn next(&mut self) -> Option<LogCall> {
        if let Some(call) = self.returned.pop_front() {
            return Some(call);
        }
        let read = (self.under_way < UNDER_WAY_MAX).then(|| self.waiting.pop()).flatten();
        let may_scan = self.scans_under_way < SCANS_UNDER_WAY_MAX;
        read.or_else(|| may_scan.then(|| self.scans.pop()).flatten())
    }

    /// Checks its tables.
    pub(super) fn check(&self) {
        assert!(self.under_way <= UNDER_WAY_MAX && self.scans_under_way <= SCANS_UNDER_WAY_MAX);
        let asked = self.under_way + self.waiting.len() + self.returned.len();
        assert!(self.locates.len() + self.windows.len() <= asked, "a read that nobody does");
        assert_eq!(self.locating.len(), self.locates.len());
        for ((home, from), read) in &self.locating {
            let pending = self.locates.get(*read);
            let is_it = |p: &PendingLocate| p.home == *home && p.from == *from;
            assert!(pending.is_some_and(|p| is_it(p) && !p.subscribes.is_empty()));
        }
        assert_eq!(self.reading.len(), self.windows.len());
        for ((home, after), read) in &self.reading {
            let pending = self.windows.get(*read);
            let is_it = |p: &PendingWindow| p.home == *home && p.after == *after;
            assert!(pending.is_some_and(|p| is_it(p) && !p.readers.is_empty()));
        }
    }

    /// How many reads each channel has under way.
    pub(super) fn reads(&self) -> BTreeMap<HomeKey, u32> {
        let mut reads = BTreeMap::new();
        let located = self.locates.values().map(|pending| pending.home);
        for home in located.chain(self.windows.values().map(|pending| pending.home)) {
            *reads.entry(home).or_default() += 1;
        }
        reads
    }

    /// Whether an app may have one more read wait.
    fn has_room(&self, app: AppId) -> bool {
        let of_app = self.waiting.len_of(app) + self.scans.len_of(app);
        share::has_room(of_app, self.waiting.len() + self.scans.len(), WAITING_MAX)
    }
}

impl Home {
    /// A page of history. A channel that nobody used yet has none, which is an answer and not an error.
    pub(super) fn read_page(&mut self, cx: &mut Context, page: ReadPage) {
        let ReadPage { request, channel, query } = page;
        let retention = retention(cx, channel.app);
        let key = self.by_name.get(&channel).copied();
        let home = key.and_then(|key| self.channels.get(key));
        if let Some(log) = home.and_then(|home| home.log) {
            if !self.reading.has_room(channel.app) {
                return cx.answer(request, Err(busy()));
            }
            let (shard, log) = (cx.shard, log.id);
            let until = home.map_or(Offset(0), |home| home.head.offset);
            let call = PageCall { shard, request, log, query, until, retention };
            let call = LogCall::Page(Box::new(call));
            let queue = match call.is_scan() {
                true => &mut self.reading.scans,
                false => &mut self.reading.waiting,
            };
            queue.push(channel.app, call);
            return;
        }
        let since_ms = retention.since_ms(cx.now.steady_ms);
        let page = key.map(|key| self.recent.page(key, &query, since_ms)).unwrap_or_default();
        let looked_at = match (&query.event_type, key) {
            (Some(_), Some(key)) => self.recent.len(key),
            _ => page.records.len(),
        };
        cx.charge(looked_at / RECORDS_PER_WORK);
        cx.answer(request, Ok(Answer::Page(page)));
    }

    /// A page that was read.
    pub(super) fn page_read(&mut self, cx: &mut Context, done: PageDone) {
        self.read_ended(cx, done.is_scan);
        cx.answer(done.request, done.outcome.map(Answer::Page));
    }

    /// The log has answered a read.
    fn read_ended(&mut self, cx: &Context, is_scan: bool) {
        let reading = &mut self.reading;
        let under_way = match is_scan {
            true => &mut reading.scans_under_way,
            false => &mut reading.under_way,
        };
        match under_way.checked_sub(1) {
            Some(left) => *under_way = left,
            None => bug!(cx, "the log answers a read that nobody waits for"),
        }
    }

    /// Finds out where a subscriber starts, and lets it in.
    pub(super) fn find_start(&mut self, cx: &mut Context, key: HomeKey, subscribe: Subscribe) {
        let Some(home) = self.channels.get(key) else { return };
        let (app, head, log) = (home.channel.app, home.head, home.log);
        let from = match subscribe.start {
            Start::Live => return self.join(cx, subscribe, key, None),
            Start::Recover(Some(position))
                if position.epoch == head.epoch && position.offset <= head.offset =>
            {
                ReadFrom::After(position.offset)
            }
            Start::Recover(_) => return self.join(cx, subscribe, key, Some(None)),
            Start::Since(since_ms) => ReadFrom::Recent { since_ms, messages_max: u64::MAX },
            Start::Last(messages_max) => ReadFrom::Recent { since_ms: 0, messages_max },
        };
        let since_ms = retention(cx, app).since_ms(cx.now.steady_ms);
        let located = self.recent.locate(key, from, head.offset, since_ms, log.is_some());
        match (located, log) {
            (None, Some(log)) => self.locate(cx, key, log.id, from, subscribe),
            (located, _) => self.join(cx, subscribe, key, Some(located)),
        }
    }

    /// Asks the log where a subscriber starts; it joins when that is known.
    fn locate(
        &mut self,
        cx: &mut Context,
        key: HomeKey,
        log: LogId,
        from: ReadFrom,
        subscribe: Subscribe,
    ) {
        let reading = &mut self.reading;
        let known = reading.locating.get(&(key, from)).copied();
        if let Some(pending) = known.and_then(|read| reading.locates.get_mut(read)) {
            pending.subscribes.push(subscribe);
            return;
        }
        let Some(home) = self.channels.get_mut(key) else { return };
        let app = home.channel.app;
        if !reading.has_room(app) {
            return self.subscribe_done(cx, subscribe.subscriber, Err(busy()));
        }
        home.reads += 1;
        let (messages, until) = (home.messages, home.head.offset);
        let subscribes = vec![subscribe];
        let read = reading.locates.insert(PendingLocate { home: key, from, messages, subscribes });
        reading.locating.insert((key, from), read);
        let retention = retention(cx, app);
        let call = Locate { shard: cx.shard, read, log, from, until, retention };
        reading.waiting.push(app, LogCall::Locate(call));
    }

    /// Where subscribers start.
    pub(super) fn located(&mut self, cx: &mut Context, done: LocateDone) {
        self.read_ended(cx, false);
        let Some(pending) = self.reading.locates.remove(done.read) else {
            return bug!(cx, "the log found a start that nobody waits for");
        };
        let PendingLocate { home: key, from, messages, subscribes } = pending;
        self.reading.locating.remove(&(key, from));
        let mut more = 0;
        if let Some(home) = self.channels.get_mut(key) {
            home.reads -= 1;
            // What was published meanwhile follows as well.
            more = home.messages - messages;
        }
        for subscribe in subscribes {
            match &done.answer {
                Ok(located) => {
                    let located = located
                        .map(|located| Located { messages: located.messages + more, ..located });
                    self.join(cx, subscribe, key, Some(located));
                }
                // Nothing is lost yet: who is told of a gap would take it for one.
                Err(failure) => {
                    let refusal = Refusal::new(ErrorCode::Overloaded, failure.0.to_string());
                    self.subscribe_done(cx, subscribe.subscriber, Err(refusal));
                }
            }
        }
        self.forget_if_untouched(cx, key);
    }

    /// A subscriber wants the messages behind those that it has.
    pub(super) fn read_window(&mut self, cx: &mut Context, read: ReadWindow) {
        let ReadWindow { reader, home: key, after, bytes_max } = read;
        // Where the channel is gone, its subscribers are told so.
        let Some(home) = self.channels.get_mut(key).filter(|home| !home.is_closed()) else {
            return;
        };
        let (app, until, log) = (home.channel.app, home.head.offset, home.log);
        let retention = retention(cx, app);
        let window = self.recent.window(key, after, bytes_max);
        cx.charge(1 + window.as_ref().map_or(0, Vec::len) / RECORDS_PER_WORK);
        let (None, Some(log)) = (&window, log) else {
            let window = window.map(Into::into).ok_or(NoWindow::Gone);
            return send_window(cx, reader, after, window);
        };
        let reading = &mut self.reading;
        let known = reading.reading.get(&(key, after)).copied();
        if let Some(pending) = known.and_then(|read| reading.windows.get_mut(read)) {
            pending.readers.push(reader);
            return;
        }
        if !reading.has_room(app) {
            return send_window(cx, reader, after, Err(NoWindow::NotNow));
        }
        home.reads += 1;
        let readers = vec![reader];
        let read = reading.windows.insert(PendingWindow { home: key, after, readers });
        reading.reading.insert((key, after), read);
        let shard = cx.shard;
        let call = Read { shard, read, log: log.id, after, until, bytes_max, retention };
        reading.waiting.push(app, LogCall::Read(call));
    }

    /// A window that was read.
    pub(super) fn window_read(&mut self, cx: &mut Context, done: ReadDone) {
        self.read_ended(cx, false);
        let Some(pending) = self.reading.windows.remove(done.read) else {
            return bug!(cx, "the log read a window that nobody waits for");
        };
        let PendingWindow { home: key, after, readers } = pending;
        self.reading.reading.remove(&(key, after));
        if let Some(home) = self.channels.get_mut(key) {
            home.reads -= 1;
        }
        let records: Result<Arc<[Record]>, NoWindow> = match done.answer {
            Ok(Some(records)) => Ok(records.into()),
            Ok(None) => Err(NoWindow::Gone),
            Err(_) => Err(NoWindow::NotNow),
        };
        for reader in readers {
            send_window(cx, reader, after, records.clone());
        }
        self.forget_if_untouched(cx, key);
    }
}

fn send_window(
    cx: &mut Context,
    reader: WindowReader,
    after: Offset,
    records: Result<Arc<[Record]>, NoWindow>,
) {
    let window = Window { reader, after, records };
    cx.post_edge(reader.shard, ToEdge::Window(Box::new(window)));
}

fn retention(cx: &Context, app: AppId) -> Retention {
    cx.directory.app(app).map_or(Retention::NOTHING, |app| app.plan.retention)
}

/// The refusal of what would have to wait behind too many reads.
fn busy() -> Refusal {
    let text = "too much of the app's history is being read; try again shortly";
    Refusal::new(ErrorCode::Overloaded, text)
}
