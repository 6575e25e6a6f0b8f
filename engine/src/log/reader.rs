//! The thread that reads: what subscribers missed and memory does not hold, and pages of history.
//! It takes one call after the other, so that ten thousand who come back at once cannot take more
//! than this thread's time.

use crossbeam_channel::Receiver;
use pushflo_protocol::{ErrorCode, Refusal};

use super::keep::Keep;
use super::{
    Answer, Locate, LocateDone, LogError, LogFailure, PageCall, PageDone, Read, ReadDone,
    ReaderCall, Shelf,
};
use crate::clock::Clock;
use crate::ids::LogId;
use crate::ids::ShardId;
use crate::port::Port;

/// Runs until nobody can ask any more.
pub(super) fn run(shelf: &Shelf, ports: &[Port<Answer>], calls: &Receiver<ReaderCall>) {
    let mut clock = Clock::start();
    for call in calls {
        let now_ms = clock.now().steady_ms;
        match call {
            ReaderCall::Locate(locate) => {
                let Locate { shard, read, log, from, until, retention } = locate;
                let keep = Keep::new(&retention, now_ms);
                let located = shelf.with(|store| store.locate(log, from, until, &keep));
                let located = or_gap(shelf, log, located);
                answer(ports, shard, Answer::Located(LocateDone { read, answer: located }));
            }
            ReaderCall::Read(call) => {
                let Read { shard, read, log, after, until, bytes_max, retention } = call;
                // Who was told that it is kept gets it.
                let keep = Keep::new(&retention.loose(), now_ms);
                let window = shelf.with(|store| store.window(log, after, until, bytes_max, &keep));
                let done = ReadDone { read, answer: or_gap(shelf, log, window) };
                answer(ports, shard, Answer::Read(Box::new(done)));
            }
            ReaderCall::Page(page) => {
                let PageCall { shard, request, log, query, retention } = *page;
                let keep = Keep::new(&retention, now_ms);
                let page = shelf.with(|store| store.page(log, &query, &keep));
                let outcome = match page {
                    Ok(page) => Ok(page),
                    Err(error) => Err(match outlook(shelf, log, &error) {
                        Outlook::Lost => Refusal::new(ErrorCode::ServerError, LOST),
                        Outlook::ComeAgain => Refusal::new(ErrorCode::Overloaded, COME_AGAIN),
                    }),
                };
                let done = PageDone { request, outcome };
                answer(ports, shard, Answer::Page(Box::new(done)));
            }
        }
    }
}

fn answer(ports: &[Port<Answer>], shard: ShardId, answer: Answer) {
    if let Some(port) = ports.get(shard.index()) {
        port.send(answer);
    }
}

/// What cannot be read any more is lost, and what is lost is a gap.
fn or_gap<T>(
    shelf: &Shelf,
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
fn outlook(shelf: &Shelf, log: LogId, error: &LogError) -> Outlook {
    tracing::error!(%error, log = log.0, "reading the log failed");
    match error {
        LogError::Damaged(_) if shelf.is_beyond_repair(log) => Outlook::Lost,
        _ => Outlook::ComeAgain,
    }
}
