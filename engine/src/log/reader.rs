//! The thread that reads: what subscribers missed and memory does not hold, and pages of history.
//! It takes one call after the other, so that ten thousand who come back at once cannot take more
//! than this thread's time, and looks through long histories in slices between them.

use std::collections::VecDeque;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use pushflo_protocol::{ErrorCode, Refusal};

use super::keep::Keep;
use super::page::{Paged, Scan};
use super::{
    Locate, LocateDone, LogAnswer, LogError, LogFailure, Page, PageCall, PageDone, Read, ReadDone,
    ReaderCall, SharedStore,
};
use crate::clock::Clock;
use crate::host::Host;
use crate::ids::{LogId, RequestId, ShardId};
use crate::port::Port;

/// Bytes of runs that a scan looks at before others have their turn.
const SCAN_BYTES: usize = 256 * 1024;

/// How long nobody asks before memory is given back.
const QUIET: Duration = Duration::from_secs(10);

/// Runs until nobody can ask any more.
pub(super) fn run(
    shelf: &SharedStore,
    ports: &[Port<LogAnswer>],
    calls: &Receiver<ReaderCall>,
    host: Host,
) {
    let mut reader = Reader { shelf, ports, scans: VecDeque::new() };
    let mut clock = Clock::start();
    loop {
        // Scans take turns with each other and with what is asked meanwhile.
        let next = match reader.scans.is_empty() {
            true => calls.recv_timeout(QUIET).map_err(|error| match error {
                RecvTimeoutError::Timeout => TryRecvError::Empty,
                RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
            }),
            false => calls.try_recv(),
        };
        match next {
            Ok(call) => reader.read(call, clock.now().steady_ms),
            Err(TryRecvError::Empty) if reader.scans.is_empty() => (host.give_memory_back)(),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
        reader.scan();
    }
}

struct Reader<'a> {
    shelf: &'a SharedStore,
    ports: &'a [Port<LogAnswer>],
    /// Pages that are looked for, and where they go. Few: a shard has only so many under way.
    scans: VecDeque<(Scan, ShardId, LogId, RequestId)>,
}

impl Reader<'_> {
    fn read(&mut self, call: ReaderCall, now_ms: u64) {
        let shelf = self.shelf;
        match call {
            ReaderCall::Locate(locate) => {
                let Locate { shard, read, log, from, until, retention } = locate;
                let keep = Keep::new(&retention, now_ms);
                let located = shelf.with(|store| store.locate(log, from, until, &keep));
                let located = or_gap(shelf, log, located);
                self.answer(shard, LogAnswer::Located(LocateDone { read, answer: located }));
            }
            ReaderCall::Read(call) => {
                let Read { shard, read, log, after, until, bytes_max, retention } = call;
                // Who was told that it is kept gets it.
                let keep = Keep::new(&retention.loose(), now_ms);
                let window = shelf.with(|store| store.window(log, after, until, bytes_max, &keep));
                let done = ReadDone { read, answer: or_gap(shelf, log, window) };
                self.answer(shard, LogAnswer::Read(Box::new(done)));
            }
            ReaderCall::Page(page) => {
                let PageCall { shard, request, log, query, retention, .. } = *page;
                let (keep, is_scan) = (Keep::new(&retention, now_ms), query.is_scan());
                let page = match shelf.with(|store| store.page(log, &query, &keep)) {
                    Ok(Paged::Scan(scan)) => {
                        return self.scans.push_back((scan, shard, log, request));
                    }
                    Ok(Paged::Done(page)) => Ok(page),
                    Err(error) => Err(error),
                };
                self.page_done(shard, log, request, page, is_scan);
            }
        }
    }

    /// Has the next scan go on for a while.
    fn scan(&mut self) {
        let Some((mut scan, shard, log, request)) = self.scans.pop_front() else { return };
        let scanned = self.shelf.with(|store| store.scan(&mut scan, SCAN_BYTES));
        match scanned.transpose() {
            Some(page) => self.page_done(shard, log, request, page, true),
            None => self.scans.push_back((scan, shard, log, request)),
        }
    }

    fn page_done(
        &self,
        shard: ShardId,
        log: LogId,
        request: RequestId,
        page: Result<Page, LogError>,
        is_scan: bool,
    ) {
        let outcome = page.map_err(|error| match outlook(self.shelf, log, &error) {
            Outlook::Lost => Refusal::new(ErrorCode::ServerError, LOST),
            Outlook::ComeAgain => Refusal::new(ErrorCode::Overloaded, COME_AGAIN),
        });
        self.answer(shard, LogAnswer::Page(Box::new(PageDone { request, outcome, is_scan })));
    }

    fn answer(&self, shard: ShardId, answer: LogAnswer) {
        if let Some(port) = self.ports.get(shard.index()) {
            port.send(answer);
        }
    }
}

/// What cannot be read any more is lost, and what is lost is a gap.
fn or_gap<T>(
    shelf: &SharedStore,
    log: LogId,
    read: Result<Option<T>, LogError>,
) -> Result<Option<T>, LogFailure> {
    read.or_else(|error| match outlook(shelf, log, &error) {
        Outlook::Lost => Ok(None),
        Outlook::ComeAgain => Err(LogFailure(COME_AGAIN.into())),
    })
}

const COME_AGAIN: &str = "history cannot be read for the moment; try again shortly";

const LOST: &str = "the history of this channel is damaged and cannot be read; messages published \
                    from now on get through, and deleting the channel begins a new history";

/// What becomes of a read that failed.
enum Outlook {
    /// It will work when the disk works, or the log is repaired.
    ComeAgain,
    /// It will not.
    Lost,
}

/// Tells what a failed read means, and has the writer look after damage.
fn outlook(shelf: &SharedStore, log: LogId, error: &LogError) -> Outlook {
    tracing::error!(%error, log = log.0, "reading the log failed");
    match error {
        LogError::Damaged(_) if shelf.is_beyond_repair(log) => Outlook::Lost,
        _ => Outlook::ComeAgain,
    }
}
