//! A shard: its two halves, and the order in which they are called. A state machine without I/O, clock
//! or randomness of its own.
//!
//! `Home` owns the channels whose home is here, `Edge` the connections. They know nothing of each
//! other: what one wants of the other is [`Mail`], also within a shard, and mail that a shard sends to
//! itself is delivered before the call that caused it returns.
//!
//! The contract of the machine, for its shell and for a simulation:
//!
//! * The time is told by [`Shard::tell_time`] before anything else of a turn, and by [`Shard::advance`]
//!   after all that had come by then was handed in.
//! * Input is handed in by [`Shard::apply`], [`Shard::accept`], [`Shard::received`],
//!   [`Shard::end_of_input`] and [`Shard::failed`], in any order; bytes only while
//!   [`Shard::may_read`] allows it.
//! * [`Shard::flush`] ends a turn. What is to be done then is asked for by [`Shard::next_write`],
//!   [`Shard::post_mail`], [`Shard::post_log_calls`], [`Shard::post_accounts_calls`] and
//!   [`Shard::next_closing`]; each write is answered by [`Shard::written`] or [`Shard::failed`].
//! * [`Shard::next_resumed`] names connections whose bytes are wanted again.
//!
//! The same calls in the same order give the same results, which is what lets a simulation replay a run
//! from its seed.
//!
//! A shard with one connection and no socket:
//!
//! ```
//! use std::net::{IpAddr, Ipv4Addr};
//! use std::sync::Arc;
//!
//! use pushflo_engine::clock::Now;
//! use pushflo_engine::ids::ShardId;
//! use pushflo_engine::proxies::TrustedProxies;
//! use pushflo_engine::settings::{
//!     AllowedOrigins, HistoryLimits, Limits, PresenceTimes, Settings, Timeouts,
//! };
//! use pushflo_engine::shard::Shard;
//! use pushflo_engine::shared::Shared;
//!
//! let settings = Settings {
//!     origins: AllowedOrigins::All,
//!     limits: Limits::default(),
//!     timeouts: Timeouts::default(),
//!     has_log: false,
//!     history: HistoryLimits::default(),
//!     presence: PresenceTimes::default(),
//!     proxies: TrustedProxies::default(),
//!     metrics_on_main_port: true,
//! };
//! let (shared, seed, now) = (Arc::new(Shared::new(1, 1)), 1, Now::start(1_700_000_000_000));
//! let mut shard = Shard::new(ShardId(0), Arc::new(settings), shared, seed, now);
//!
//! let connection = shard.accept(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
//! shard.received(connection, &mut b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n".to_vec());
//! shard.flush();
//! let (to, write) = shard.next_write().unwrap();
//! assert_eq!(to, connection);
//! let bytes: Vec<u8> = write.segments().iter().flatten().copied().collect();
//! assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\n"));
//! shard.written(connection, write, bytes.len());
//! assert!(shard.next_write().is_none());
//! ```

mod check;
mod handover;
mod stored;

use std::net::IpAddr;
use std::sync::Arc;

use crate::accounts::{AccountsCall, App, ChannelMeta, News, Want};
pub use crate::census::Census;
use crate::clock::Now;
use crate::context::Context;
use crate::edge::Edge;
pub use crate::edge::{Closing, TailOrder, TakenTail, Write};
use crate::home::Home;
use crate::ids::{ChannelKey, ConnectionKey, RequestId, ShardId};
use crate::log::{self, LoadedChannel, LogCall, StoredAnswer};
use crate::mail::{Answer, ClusterNews, Mail};
use crate::metrics::ShardMetrics;
use crate::settings::Settings;
use crate::shared::{Refused, Shared};
pub use stored::Stored;

/// One entry of a shard's mailbox.
#[derive(Clone, Debug)]
pub enum Envelope {
    /// From another shard.
    Mail(Mail),
    /// From the log: an answer to a call of this shard.
    Log(log::LogAnswer),
    /// From the accounts: what changed, or an answer to a call of this shard.
    Accounts(News),
    /// From a shard of another node.
    Abroad(ShardId, Mail),
    /// From the cluster: what changed there.
    Cluster(ClusterNews),
}

/// One shard.
#[derive(Debug)]
pub struct Shard {
    cx: Context,
    home: Home,
    edge: Edge,
}

impl Shard {
    /// A shard without connections. `seed` decides everything that is random in it.
    pub fn new(
        id: ShardId,
        settings: Arc<Settings>,
        shared: Arc<Shared>,
        seed: u64,
        now: Now,
    ) -> Self {
        let cx = Context::new(id, settings, shared, seed, now);
        let (home, edge) = (Home::new(&cx), Edge::new(&cx));
        Self { cx, home, edge }
    }

    /// Takes over an app that is there from the start.
    pub fn load_app(&mut self, app: App) {
        self.cx.directory.learn(app);
    }

    /// Takes over a channel from the log, before the shard runs. Its app must be known.
    pub fn load(&mut self, loaded: LoadedChannel) {
        self.home.load(&mut self.cx, loaded);
    }

    /// Takes over what the API added to a channel, before the shard runs.
    pub fn load_meta(&mut self, channel: &ChannelKey, meta: ChannelMeta) {
        self.home.load_meta(&mut self.cx, channel, meta);
    }

    /// Takes over an answer of the log for a publisher who asks again, before the shard runs.
    pub fn load_answer(&mut self, channel: &ChannelKey, answer: StoredAnswer) {
        self.home.load_answer(&mut self.cx, channel, answer);
    }

    /// Tells the time. What is due by then waits for [`Shard::advance`].
    pub fn tell_time(&mut self, now: Now) {
        self.cx.tell_time(now);
    }

    /// Tells the time and does what is due by then. To be called when everything that came before
    /// was handed in: a time-out must not overtake what it waits for.
    pub fn advance(&mut self, now: Now) {
        self.tell_time(now);
        if !self.edge.is_tick_due(now.tick) {
            return;
        }
        self.edge.tick(&mut self.cx);
        self.home.tick(&mut self.cx);
        self.settle();
        self.metrics().outbox_depth.set(self.cx.outbox_depth() as u64);
    }

    /// Takes a connection from `peer`.
    ///
    /// # Errors
    /// [`Refused`] says which limit is reached; the socket is to be closed.
    pub fn accept(&mut self, peer: IpAddr) -> Result<ConnectionKey, Refused> {
        self.edge.accept(&mut self.cx, peer)
    }

    /// Bytes came from a connection. `bytes` is scratch space: frames are unmasked in it.
    pub fn received(&mut self, connection: ConnectionKey, bytes: &mut [u8]) {
        self.edge.received(&mut self.cx, connection, bytes);
        self.settle();
    }

    /// The peer sends nothing more.
    pub fn end_of_input(&mut self, connection: ConnectionKey) {
        self.edge.input_ended(&mut self.cx, connection);
        self.settle();
    }

    /// The socket failed.
    pub fn failed(&mut self, connection: ConnectionKey) {
        self.edge.forget_connection(&mut self.cx, connection, "its socket failed");
        self.settle();
    }

    /// Whether bytes of a connection may be read now. If not, [`Shard::next_resumed`] tells when.
    pub fn may_read(&mut self, connection: ConnectionKey) -> bool {
        self.edge.may_read(&self.cx, connection)
    }

    /// Whether nothing was heard from a connection yet, so that it can wait its turn.
    pub fn is_newcomer(&self, connection: ConnectionKey) -> bool {
        self.edge.is_newcomer(connection)
    }

    /// Whether as much was done in this turn as one may take; what else there is to be handed in waits
    /// for the next.
    pub fn is_turn_over(&self) -> bool {
        self.cx.is_turn_over()
    }

    /// How many connections [`Shard::next_resumed`] has now.
    pub fn resumed_count(&self) -> usize {
        self.edge.resumed_count()
    }

    /// A connection whose bytes are wanted again. Those that it already has are read first.
    pub fn next_resumed(&mut self) -> Option<ConnectionKey> {
        let connection = self.edge.next_resumed(&mut self.cx)?;
        self.settle();
        Some(connection)
    }

    /// An entry of the mailbox.
    pub fn apply(&mut self, envelope: Envelope) {
        match envelope {
            Envelope::Mail(mail) => self.deliver(mail),
            Envelope::Log(answer) => self.home.log_answered(&mut self.cx, answer),
            Envelope::Accounts(news) => self.learn(news),
            Envelope::Abroad(from, mail) => {
                if self.cx.has_come(from, &mail) {
                    self.deliver(mail);
                }
            }
            Envelope::Cluster(ClusterNews::CutOff(spread_ms)) => {
                self.edge.send_away(&mut self.cx, spread_ms);
            }
            Envelope::Cluster(ClusterNews::Lent(app)) => {
                self.home.try_again(&mut self.cx, app);
                self.edge.try_again(&mut self.cx, app);
            }
            Envelope::Cluster(ClusterNews::SlotMoved(slot)) => self.edge.slot_moved(slot),
            Envelope::Cluster(ClusterNews::NodeGone(node)) => {
                self.home.node_gone(&mut self.cx, node);
                self.edge.node_gone(&self.cx, node);
                self.cx.node_gone(node);
            }
        }
        self.settle();
    }

    /// Ends a turn: seals what it brought and finds out who is to get it. To be called after everything
    /// that waited was applied and before [`Shard::next_write`].
    pub fn flush(&mut self) {
        self.home.flush(&mut self.cx);
        self.edge.flush(&mut self.cx);
        self.settle();
    }

    /// The next write: all of it, in order. [`Shard::written`] must follow.
    pub fn next_write(&mut self) -> Option<(ConnectionKey, Write)> {
        loop {
            let write = self.edge.next_write(&mut self.cx);
            // A subscriber that has sent what it had asks for more, and what comes may be due at once.
            let is_all = !self.cx.has_local();
            self.settle();
            if write.is_some() || is_all {
                return write;
            }
        }
    }

    /// Whether [`Shard::next_write`] has something.
    pub fn has_writes(&self) -> bool {
        self.edge.has_writes()
    }

    /// The socket took `written` bytes of a write; what it did not take is sent again.
    pub fn written(&mut self, connection: ConnectionKey, write: Write, written: usize) {
        self.edge.written(&mut self.cx, connection, write, written);
        self.settle();
    }

    /// Hands mail to another shard over in order, until `post` gives one back because there is no room.
    /// Returns how many went.
    pub fn post_mail(&mut self, to: ShardId, post: impl FnMut(Mail) -> Result<(), Mail>) -> usize {
        self.cx.post_mail(to, post)
    }

    /// As [`Shard::post_mail`], for mail to shards of other nodes.
    pub fn post_abroad(&mut self, post: impl FnMut(ShardId, Mail) -> Result<(), Mail>) -> usize {
        self.cx.post_abroad(post)
    }

    /// How much mail waits to go to other shards.
    pub fn outbox_depth(&self) -> usize {
        self.cx.outbox_depth()
    }

    /// Hands calls over to the log, as far as `post` takes them. Returns whether some are left.
    pub fn post_log_calls(&mut self, post: impl FnMut(LogCall) -> Result<(), LogCall>) -> bool {
        self.home.post_log_calls(post)
    }

    /// Hands calls over to the accounts, as far as `post` takes them. Returns whether some are left.
    pub fn post_accounts_calls(
        &mut self,
        post: impl FnMut(AccountsCall) -> Result<(), AccountsCall>,
    ) -> bool {
        self.cx.post_accounts_calls(post)
    }

    /// Hands questions how the cluster is over, as far as `post` takes them. Returns whether some are left.
    pub fn post_cluster_questions(
        &mut self,
        post: impl FnMut(RequestId) -> Result<(), RequestId>,
    ) -> bool {
        self.cx.post_cluster_questions(post)
    }

    /// Hands wants of what apps' plans limit over, as far as `post` takes them. Returns whether some are left.
    pub fn post_wants(&mut self, post: impl FnMut(Want) -> Result<(), Want>) -> bool {
        self.cx.post_wants(post)
    }

    /// What is to be done to sockets.
    pub fn next_closing(&mut self) -> Option<Closing> {
        self.edge.next_closing()
    }

    /// Takes no more connections and closes those there are within `spread_ms`. The shard is done
    /// when [`Shard::is_drained`]; whoever has not left two seconds after the spread is cut off.
    pub fn drain(&mut self, spread_ms: u64) {
        self.edge.drain(&mut self.cx, spread_ms);
        self.settle();
    }

    /// Whether a drain has ended: every connection is gone.
    pub fn is_drained(&self) -> bool {
        self.edge.is_drained()
    }

    /// How many connections there are.
    pub fn connection_count(&self) -> usize {
        self.edge.connection_count()
    }

    /// This shard's numbers.
    pub fn metrics(&self) -> &ShardMetrics {
        self.cx.metrics()
    }

    fn learn(&mut self, news: News) {
        let cx = &mut self.cx;
        match news {
            News::App(app) => {
                let id = app.id;
                let gone = cx.directory.learn(*app);
                if !gone.is_empty() {
                    self.edge.keys_gone(cx, id, &gone);
                }
            }
            News::AppGone(app) => {
                self.edge.app_gone(cx, app);
                self.home.app_gone(cx, app);
                cx.directory.forget(app);
            }
            News::Done(done) => cx.answer(done.request, done.outcome.map(Answer::Accounts)),
            News::DoneByAll(done) => {
                if let Some(done) = done.made() {
                    cx.answer(done.request, done.outcome.map(Answer::Accounts));
                }
            }
            News::ChannelStored(stored) => self.home.channel_stored(cx, *stored),
        }
    }

    fn deliver(&mut self, mail: Mail) {
        match mail {
            Mail::Home(mail) => self.home.handle(&mut self.cx, mail),
            Mail::Edge(mail) => self.edge.handle(&mut self.cx, mail),
        }
    }

    /// Delivers what this shard said to itself.
    fn settle(&mut self) {
        loop {
            while let Some(mail) = self.cx.next_local() {
                self.deliver(mail);
            }
            if self.home.send_batch_results(&mut self.cx) {
                continue;
            }
            // Whoever is cut off leaves its channels.
            self.edge.balance(&mut self.cx);
            if !self.cx.has_local() {
                return;
            }
        }
    }
}
