//! What both halves of a shard are given with every call: the time, settings, randomness, numbers,
//! apps and keys, and the mail they send.
//!
//! Neither half sees the other through it. Mail of a shard to itself waits here, in one queue, and is
//! delivered before the call into the shard returns.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use pushflo_protocol::time::Month;
use pushflo_protocol::{ErrorCode, Refusal};

use crate::accounts::{AccountsCall, App, CHANGES_PER_SECOND_MAX, Directory, Rate, Resource, Want};
use crate::bug::bug;
use crate::clock::Now;
use crate::ids::{AppId, ChannelKey, NodeSlot, RequestId, ShardId, SlotId};
use crate::mail::{
    Answered, Asker, Mail, Outboxes, Outcome, Question, ToEdge, ToHome, failure, no_owner, no_room,
    unknown_outcome,
};
use crate::metrics::ShardMetrics;
use crate::settings::Settings;
use crate::shared::Shared;

/// Wants of a shard that were not handed over yet: one of an app and a resource at most.
const WANTS_MAX: usize = 4096;

/// Requests of a shard that ask how the cluster is and wait to be handed over.
const CLUSTER_QUESTIONS_MAX: usize = 64;

/// Most urgent calls, and most others, that wait for room at the accounts; those of connections that are
/// gone wait too.
const ACCOUNTS_CALLS_MAX: usize = 1024;

/// Work of a turn, a few milliseconds, after which what has not begun waits for the next.
const TURN_WORK_MAX: u32 = 4096;

/// Slots for addresses that came with wrong keys; addresses that fall on one share its rate.
const WRONG_KEY_SLOTS: usize = 4096;

/// What a shard's halves share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) shard: ShardId,
    pub(crate) settings: Arc<Settings>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) now: Now,
    pub(crate) random: fastrand::Rng,
    /// Apps and keys.
    pub(crate) directory: Directory,
    /// Wrong keys by address, in slots.
    pub(crate) wrong_keys: Box<[Rate]>,
    /// The month that messages are counted in.
    month: Month,
    /// Work done in this turn, see [`Context::charge`].
    work: u32,
    /// Mail from this shard to itself.
    local: VecDeque<Mail>,
    /// What other nodes were asked by this shard and have not answered.
    asked_abroad: BTreeMap<Question, (NodeSlot, Asker)>,
    outboxes: Outboxes,
    /// Calls that were not handed over to the accounts yet, urgent ones first, at most
    /// [`ACCOUNTS_CALLS_MAX`] of either kind.
    accounts_calls: VecDeque<AccountsCall>,
    /// Requests that ask how the cluster is and were not handed over yet.
    cluster_questions: VecDeque<RequestId>,
    /// What this node has none left of, and wants of others.
    wants: VecDeque<Want>,
}

impl Context {
    /// One whose randomness `seed` decides.
    pub(crate) fn new(
        shard: ShardId,
        settings: Arc<Settings>,
        shared: Arc<Shared>,
        seed: u64,
        now: Now,
    ) -> Self {
        Self {
            shard,
            settings,
            now,
            random: fastrand::Rng::with_seed(seed),
            directory: Directory::default(),
            wrong_keys: (0..WRONG_KEY_SLOTS).map(|_| Rate::default()).collect(),
            month: Month::of(now.steady_ms),
            work: 0,
            local: VecDeque::new(),
            asked_abroad: BTreeMap::new(),
            outboxes: Outboxes::new(shared.metrics.len()),
            accounts_calls: VecDeque::new(),
            cluster_questions: VecDeque::new(),
            wants: VecDeque::new(),
            shared,
        }
    }

    /// Tells the time, with which a turn begins.
    pub(crate) fn tell_time(&mut self, now: Now) {
        self.work = 0;
        let is_new_tick = now.tick != self.now.tick;
        self.now = now;
        if is_new_tick {
            self.month = Month::of(now.steady_ms);
        }
    }

    /// Counts work of this turn: about a microsecond each, as a message published, a command, a request,
    /// or some records, names or members that are looked at.
    pub(crate) fn charge(&mut self, work: usize) {
        self.work = self.work.saturating_add(u32::try_from(work).unwrap_or(u32::MAX));
    }

    /// Whether as much was done as a turn may take: the rest waits for the next one, so that writes go
    /// out and others are heard in between.
    pub(crate) fn is_turn_over(&self) -> bool {
        self.work >= TURN_WORK_MAX
    }

    /// The month that messages are counted in.
    pub(crate) fn month(&self) -> Month {
        self.month
    }

    /// This shard's numbers.
    pub(crate) fn metrics(&self) -> &ShardMetrics {
        self.shared.metrics.get(self.shard.index()).unwrap_or(&self.shared.stray)
    }

    /// All shards.
    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        self.outboxes.shards()
    }

    /// All shards that have channels, on all nodes.
    ///
    /// # Errors
    /// `OVERLOADED`: some channels have no owner for the moment.
    pub(crate) fn home_shards(&self) -> Result<Vec<ShardId>, Refusal> {
        let Some(owners) = &self.shared.owners else { return Ok(self.shards().collect()) };
        let shards: BTreeSet<ShardId> = SlotId::all().map(|slot| owners.of(slot)).collect();
        match shards.contains(&ShardId::NOBODY) {
            true => Err(no_owner()),
            false => Ok(shards.into_iter().collect()),
        }
    }

    /// The shard that gives a channel's offsets.
    pub(crate) fn home_shard(&self, channel: &ChannelKey) -> ShardId {
        self.shared.home_shard(channel)
    }

    /// Whether a key that is not known is none: a node that cannot reach its cluster does not know of those that
    /// were made meanwhile.
    pub(crate) fn knows_all_keys(&self) -> bool {
        let owners = self.shared.owners.as_ref();
        owners.is_none_or(|owners| owners.is_informed() && owners.is_reached())
    }

    /// Whether channels are in the streams of a cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        self.shared.owners.is_some()
    }

    /// Whether a publish that needs the way to `shard` must be refused.
    pub(crate) fn is_way_full(&self, shard: ShardId) -> bool {
        shard != self.shard && self.outboxes.is_full(shard, &self.settings.limits)
    }

    /// Sends mail to a home, also to that of this shard.
    pub(crate) fn post_home(&mut self, shard: ShardId, mail: ToHome) {
        self.send(shard, Mail::Home(mail));
    }

    /// Sends mail to an edge, also to that of this shard.
    pub(crate) fn post_edge(&mut self, shard: ShardId, mail: ToEdge) {
        self.send(shard, Mail::Edge(mail));
    }

    /// Answers a request, wherever it waits.
    pub(crate) fn answer(&mut self, request: RequestId, outcome: Outcome) {
        self.post_edge(request.shard, ToEdge::Answered(Box::new(Answered { request, outcome })));
    }

    fn send(&mut self, to: ShardId, mail: Mail) {
        if to == self.shard {
            self.local.push_back(mail);
        } else if let (ShardId::NOBODY, Mail::Home(mail)) = (to, &mail) {
            self.refuse(mail, &no_owner());
        } else if to.node() != NodeSlot::OWN {
            if let Mail::Home(mail) = &mail {
                let node = to.node();
                let questions = mail.questions(to).into_iter();
                self.asked_abroad
                    .extend(questions.map(|(question, asker)| (question, (node, asker))));
            }
            let _ = self.outboxes.push(to, mail);
        } else if self.outboxes.push(to, mail).is_err() {
            bug!(self, "there is no shard {to}");
        }
    }

    /// Tells whoever waits for the answer to mail that it is not done.
    pub(crate) fn refuse(&mut self, mail: &ToHome, refusal: &Refusal) {
        let Some(asker) = mail.asker() else { return };
        for (question, of) in mail.questions(self.shard) {
            if let Some(answer) = failure(question, of, refusal) {
                self.post_edge(asker, answer);
            }
        }
    }

    /// Mail of another node has come. Returns whether somebody waits for it, if it is an answer.
    pub(crate) fn has_come(&mut self, from: ShardId, mail: &Mail) -> bool {
        let Mail::Edge(edge) = mail else { return true };
        let answers = edge.answers(from);
        let is_answer = !answers.is_empty();
        let mut is_awaited = false;
        for question in answers {
            is_awaited |= self.asked_abroad.remove(&question).is_some();
        }
        !is_answer || is_awaited
    }

    /// Another node cannot be reached any more: what it was asked will not be answered.
    pub(crate) fn node_gone(&mut self, node: NodeSlot) {
        let gone = self.asked_abroad.extract_if(.., |_, (of, _)| *of == node);
        let gone: Vec<_> = gone.collect();
        for (question, (_, asker)) in gone {
            if let Some(answer) = failure(question, asker, &unknown_outcome()) {
                self.local.push_back(Mail::Edge(answer));
            }
        }
    }

    /// Hands mail to other nodes over in order, until `post` gives one back because there is no room.
    pub(crate) fn post_abroad(
        &mut self,
        post: impl FnMut(ShardId, Mail) -> Result<(), Mail>,
    ) -> usize {
        self.outboxes.drain_abroad(post)
    }

    /// The next mail from this shard to itself.
    pub(crate) fn next_local(&mut self) -> Option<Mail> {
        self.local.pop_front()
    }

    /// Whether there is mail from this shard to itself.
    pub(crate) fn has_local(&self) -> bool {
        !self.local.is_empty()
    }

    /// Checks that what is counted is there.
    pub(crate) fn check(&self) {
        assert!(self.local.is_empty(), "mail to itself is not delivered");
        self.outboxes.check();
        let (urgent, all) = (AccountsCall::is_urgent, &self.accounts_calls);
        let is_first = all.iter().skip_while(|call| urgent(call)).all(|call| !urgent(call));
        assert!(is_first, "an urgent call behind others");
    }

    /// Hands mail to another shard over in order, until `post` gives one back. Returns how many went.
    pub(crate) fn post_mail(
        &mut self,
        to: ShardId,
        post: impl FnMut(Mail) -> Result<(), Mail>,
    ) -> usize {
        self.outboxes.drain(to, post)
    }

    /// Whether nothing waits to be sent.
    pub(crate) fn is_quiet(&self) -> bool {
        self.local.is_empty() && self.outboxes.len() == 0 && self.accounts_calls.is_empty()
    }

    /// How much mail waits to go to other shards.
    pub(crate) fn outbox_depth(&self) -> usize {
        self.outboxes.len()
    }

    /// Hands calls over to the accounts, as far as `post` takes them. Returns whether some are left.
    pub(crate) fn post_accounts_calls(
        &mut self,
        post: impl FnMut(AccountsCall) -> Result<(), AccountsCall>,
    ) -> bool {
        post_each(&mut self.accounts_calls, post)
    }

    /// Asks how the cluster is.
    ///
    /// # Errors
    /// `OVERLOADED` where many ask.
    pub(crate) fn ask_cluster(&mut self, request: RequestId) -> Result<(), Refusal> {
        if self.cluster_questions.len() >= CLUSTER_QUESTIONS_MAX {
            return Err(no_room());
        }
        self.cluster_questions.push_back(request);
        Ok(())
    }

    /// Hands questions over to the cluster, as far as `post` takes them. Returns whether some are left.
    pub(crate) fn post_cluster_questions(
        &mut self,
        post: impl FnMut(RequestId) -> Result<(), RequestId>,
    ) -> bool {
        post_each(&mut self.cluster_questions, post)
    }

    /// Wants more of what an app's plan limits. What it is for waits for [`ClusterNews::Lent`](crate::mail::ClusterNews).
    pub(crate) fn want(&mut self, app: &App, resource: Resource, limit: u64) {
        if !app.usage.ask(resource) {
            // Somebody else has asked already.
            return;
        }
        if self.wants.len() < WANTS_MAX {
            let (app, usage) = (app.id, Arc::clone(&app.usage));
            self.wants.push_back(Want { app, usage, resource, limit });
        } else if let Some(lent) = app.usage.lent(resource) {
            lent.hear();
        }
    }

    /// Hands wants over to the cluster, as far as `post` takes them. Returns whether some are left.
    pub(crate) fn post_wants(&mut self, post: impl FnMut(Want) -> Result<(), Want>) -> bool {
        post_each(&mut self.wants, post)
    }

    /// Counts something that is as it cannot be. Returns what whoever asked for it is told.
    pub(crate) fn lost(&self, what: &str) -> Refusal {
        bug!(self, "{what}");
        Refusal::new(ErrorCode::ServerError, "the server lost sight of this, which is its fault")
    }

    /// Counts a change in the name of an app.
    ///
    /// # Errors
    /// `RATE_LIMITED` where it asks too often.
    pub(crate) fn take_change(&self, app: AppId) -> Result<(), Refusal> {
        let usage = &self.directory.require(app)?.usage;
        usage.take_change(self.now.elapsed_ms).map_err(|wait_ms| {
            let text = format!("an app may ask for {CHANGES_PER_SECOND_MAX} changes a second");
            Refusal::over_rate("changesPerSecond", wait_ms, text)
        })
    }

    /// Has the accounts change something in the name of an app.
    ///
    /// # Errors
    /// `OVERLOADED` where too much waits for it, `RATE_LIMITED` where the app asks too often; nothing
    /// is changed then.
    pub(crate) fn ask_accounts(&mut self, app: AppId, call: AccountsCall) -> Result<(), Refusal> {
        self.take_change(app)?;
        // Urgent ones stand before the others and have room of their own.
        let urgent = self.accounts_calls.iter().take_while(|call| call.is_urgent()).count();
        let (at, waiting) = match call.is_urgent() {
            true => (urgent, urgent),
            false => (self.accounts_calls.len(), self.accounts_calls.len() - urgent),
        };
        if waiting >= ACCOUNTS_CALLS_MAX {
            return Err(no_room());
        }
        self.accounts_calls.insert(at, call);
        Ok(())
    }
}

/// Hands over what waits, in order, until `post` gives one back because there is no room. Returns whether some is
/// left.
pub(crate) fn post_each<T>(
    waiting: &mut VecDeque<T>,
    mut post: impl FnMut(T) -> Result<(), T>,
) -> bool {
    while let Some(next) = waiting.pop_front() {
        if let Err(next) = post(next) {
            waiting.push_front(next);
            return true;
        }
    }
    false
}
