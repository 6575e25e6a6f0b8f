//! Limits of apps over all nodes. Each node has parts of them, which it takes from what nobody has; who has none
//! left writes a wish, and others give back what they do not use. So nobody is refused while there is some
//! anywhere, and no limit is passed.
//!
//! * `book`: what is lent of an app's limits to whom, an entry of the bucket
//! * `loan`: what a node does to it, and when

mod book;
mod loan;
#[cfg(test)]
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_local;
use tokio::time::Instant;

use self::book::Book;
use self::loan::{Loan, Now, Write};
use crate::accounts::Want;
use crate::bucket::{Bucket, Entry, News, WriteError};
use crate::ids::AppId;
use crate::log::jetstream::Streams;
use pushflo_protocol::time::Month;

/// What keys of books begin with.
const LENT: &str = "lent.";

/// After what silence a node has no connections any more, nor anything else of what was lent to it: it has sent
/// its subscribers away before, or is no more.
pub(super) const GONE: Duration = Duration::from_secs(20);

/// What came of something that was begun.
pub(super) enum Done {
    Written(AppId, u64, Result<u64, WriteError>),
    Counted(AppId, Option<u64>),
    /// All is known of the book that was written before.
    Settled(AppId, bool),
}

/// What this node has of apps' limits.
pub(super) struct Lending {
    node: Rc<str>,
    bucket: Rc<Bucket>,
    streams: Streams,
    unix_ms: fn() -> u64,
    began: Instant,
    /// As they stand in the bucket, and those that were told since it is told from the start.
    books: BTreeMap<AppId, (Bytes, u64)>,
    told: BTreeSet<AppId>,
    loans: BTreeMap<AppId, Loan>,
    settling: BTreeSet<AppId>,
    done: UnboundedSender<Done>,
    has_left: bool,
}

/// Who is there, for what was lent.
pub(super) struct View<'a> {
    /// The silence of another node, if it is known.
    pub(super) silence: &'a dyn Fn(&str) -> Option<Duration>,
    pub(super) is_cut_off: bool,
    /// It was for so long that its subscribers were sent away.
    pub(super) has_given_up: bool,
}

/// The app of an entry that is a book.
pub(super) fn lent_app(key: &str) -> Option<AppId> {
    key.strip_prefix(LENT)?.parse().ok().map(AppId)
}

/// The key of an app's book.
pub(super) fn lent_key(app: AppId) -> String {
    format!("{LENT}{}", app.0)
}

impl Lending {
    pub(super) fn new(
        node: &str,
        bucket: Rc<Bucket>,
        streams: Streams,
        unix_ms: fn() -> u64,
    ) -> (Self, UnboundedReceiver<Done>) {
        let (done, results) = unbounded_channel();
        let lending = Self {
            node: node.into(),
            bucket,
            streams,
            unix_ms,
            began: Instant::now(),
            books: BTreeMap::new(),
            told: BTreeSet::new(),
            loans: BTreeMap::new(),
            settling: BTreeSet::new(),
            done,
            has_left: false,
        };
        (lending, results)
    }

    /// A shard wants some. Returns whether shards are to try again.
    pub(super) fn want(&mut self, want: Want, view: &View<'_>) -> bool {
        let Want { app, usage, resource, limit } = want;
        let (book, node) = (self.books.get(&app), Rc::clone(&self.node));
        let loan = self.loans.entry(app).or_insert_with(|| {
            let mut loan = Loan::new(usage);
            if let Some((bytes, revision)) = book {
                learn(&mut loan, &node, app, bytes, *revision);
            }
            loan
        });
        loan.want(resource, limit, self.began.elapsed().as_millis() as u64);
        if view.is_cut_off || self.has_left {
            loan.cannot_ask();
        }
        self.go_on(app, view)
    }

    /// News of the bucket. Returns an app whose shards are to try again.
    pub(super) fn learn(&mut self, news: &News, view: &View<'_>) -> Option<AppId> {
        match news {
            News::Begin => self.told.clear(),
            News::Complete => {
                let told = std::mem::take(&mut self.told);
                let gone: Vec<_> =
                    self.books.keys().filter(|app| !told.contains(app)).copied().collect();
                gone.into_iter().for_each(|app| self.forget(app));
            }
            News::Entry(Entry { key, value, revision }) => {
                let app = lent_app(key)?;
                let Some(value) = value else {
                    self.forget(app);
                    return None;
                };
                self.told.insert(app);
                if self.books.get(&app).is_some_and(|(_, known)| known >= revision) {
                    return None;
                }
                self.books.insert(app, (value.clone(), *revision));
                learn(self.loans.get_mut(&app)?, &self.node, app, value, *revision);
                return self.go_on(app, view).then_some(app);
            }
        }
        None
    }

    fn forget(&mut self, app: AppId) {
        self.books.remove(&app);
        if let Some(loan) = self.loans.get_mut(&app) {
            loan.forget();
        }
    }

    /// What came of something. Returns an app whose shards are to try again.
    pub(super) fn take(&mut self, done: Done, view: &View<'_>) -> Option<AppId> {
        let app = match done {
            Done::Written(app, write, outcome) => {
                self.loans.get_mut(&app)?.written(write, outcome);
                app
            }
            Done::Counted(app, count) => {
                self.loans.get_mut(&app)?.count(count);
                app
            }
            Done::Settled(app, is_settled) => {
                self.settling.remove(&app);
                if is_settled {
                    self.loans.get_mut(&app)?.is_settled();
                }
                app
            }
        };
        self.go_on(app, view).then_some(app)
    }

    /// Goes on with all. Returns apps whose shards are to try again.
    pub(super) fn tick(&mut self, view: &View<'_>) -> Vec<AppId> {
        if view.has_given_up {
            self.loans.values_mut().for_each(Loan::give_up_connections);
        }
        let busy = self.loans.iter().filter(|(_, loan)| !loan.is_idle());
        let apps: Vec<AppId> = busy.map(|(app, _)| *app).collect();
        apps.into_iter().filter(|app| self.go_on(*app, view)).collect()
    }

    /// Goes on with the limits of an app. Returns whether its shards are to try again.
    fn go_on(&mut self, app: AppId, view: &View<'_>) -> bool {
        let Some(loan) = self.loans.get_mut(&app) else { return false };
        if self.has_left || view.is_cut_off || loan.is_idle() {
            return loan.take_wake();
        }
        let month = Month::of((self.unix_ms)()).number;
        let age = self.began.elapsed();
        let is_there = |node: &str| match (view.silence)(node) {
            Some(silence) => silence < GONE,
            None => age < GONE,
        };
        let now = Now {
            node: &self.node,
            ms: age.as_millis() as u64,
            month,
            messages: self.streams.messages(app, month),
            is_there: &is_there,
        };
        if loan.is_lost() {
            if self.settling.insert(app) {
                let (bucket, done) = (Rc::clone(&self.bucket), self.done.clone());
                spawn_local(async move {
                    let _ = done.send(Done::Settled(app, bucket.catch_up().await.is_ok()));
                });
            }
            return loan.take_wake();
        }
        if loan.begin_count(now) {
            let (streams, done) = (self.streams.clone(), self.done.clone());
            spawn_local(async move {
                let count = streams.count_channels(app).await;
                let count = count.inspect_err(|error| {
                    tracing::warn!(%app, %error, "the channels of an app cannot be counted");
                });
                let _ = done.send(Done::Counted(app, count.ok()));
            });
        }
        if let Some(Write { bytes, revision, write }) = loan.next_write(now) {
            let (bucket, done) = (Rc::clone(&self.bucket), self.done.clone());
            spawn_local(async move {
                let written = bucket.write(&lent_key(app), Some(bytes.into()), revision).await;
                let _ = done.send(Done::Written(app, write, written));
            });
        }
        loan.take_wake()
    }

    /// Gives back all that this node has and does not use. What does not come about is taken back by others, later.
    pub(super) fn leave(&mut self) {
        if std::mem::replace(&mut self.has_left, true) {
            return;
        }
        let now = Now {
            node: &self.node,
            ms: self.began.elapsed().as_millis() as u64,
            month: Month::of((self.unix_ms)()).number,
            messages: 0,
            is_there: &|_| true,
        };
        for (app, loan) in &mut self.loans {
            let Some((bytes, revision)) = loan.leave(now) else { continue };
            let (bucket, key) = (Rc::clone(&self.bucket), lent_key(*app));
            spawn_local(async move {
                let _ = bucket.write(&key, Some(bytes.into()), revision).await;
            });
        }
    }
}

fn learn(loan: &mut Loan, node: &str, app: AppId, bytes: &[u8], revision: u64) {
    match Book::decode(bytes) {
        Some(book) => loan.learn(node, book, revision),
        None => tracing::error!(%app, "what is lent of an app's limits cannot be read"),
    }
}
