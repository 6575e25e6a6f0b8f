//! Channels whose home is this shard: what is known of them, how they are found, made and loaded.
//!
//! What is published to them is in `publish`, who subscribes in `subscribe`, what the API does to them in
//! `metadata`.

use std::collections::BTreeSet;
use std::sync::Arc;

use pushflo_protocol::{ErrorCode, Offset, Receipt, Record, Refusal, StreamPosition};
use smallvec::SmallVec;

use super::Home;
use super::idempotency::WINDOW_MS;
use super::presence::ChannelPresence;
use super::slots::InStream;
use crate::accounts::{App, ChannelMeta, Taken, plan::limit};
use crate::context::Context;
use crate::ids::{ChannelKey, HomeKey, LogId, RequestId, ShardId, TailKey};
use crate::log::{LoadedChannel, StoredAnswer};
use crate::mail::{ChannelInfo, not_now};
use crate::retention::Durability;
use crate::share;

/// A channel at its home.
#[derive(Debug)]
pub(super) struct HomeChannel {
    pub(super) channel: ChannelKey,
    /// The last message that was sent to subscribers.
    pub(super) head: StreamPosition,
    /// The last offset given; that message may still be on its way to the log.
    pub(super) given: Offset,
    /// The next offset. Behind a leap it is not the one after `given`.
    pub(super) next: Offset,
    /// The time of the newest message; a clock that is set back does not show.
    pub(super) last_ms: u64,
    /// When it was first used, in Unix milliseconds.
    pub(super) created_ms: u64,
    /// All messages it ever had.
    pub(super) messages: u64,
    /// It counts in its app's plan: it had a message, or metadata. What exists by subscription alone
    /// does not, or whoever may subscribe could use up what the app's backend needs.
    pub(super) is_counted: bool,
    /// Its place in the log, if it has one.
    pub(super) log: Option<HomeLog>,
    /// Until when one of its idempotency keys may be in force, in milliseconds after the start.
    pub(super) keyed_until_ms: u64,
    /// Reads of the log under way.
    pub(super) reads: u32,
    /// The tails that get its messages.
    pub(super) tails: SmallVec<[Audience; 2]>,
    /// What few channels have.
    pub(super) extra: Option<Box<Extra>>,
}

/// What few channels have.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// What the API added to it.
    pub(super) meta: Option<Arc<ChannelMeta>>,
    /// Its members, if they are known to each other.
    pub(super) presence: Option<ChannelPresence>,
    /// A change of its metadata that is being kept, or its deletion, and who waits for that.
    pub(super) change: Option<(RequestId, Change)>,
    /// It is deleted and only waits for the log; nothing finds it any more.
    pub(super) is_closed: bool,
}

impl Extra {
    /// Whether nothing of it would be lost that is not kept elsewhere.
    pub(super) fn is_at_rest(&self) -> bool {
        let is_empty = self.presence.as_ref().is_none_or(|presence| presence.len() == 0);
        is_empty && self.change.is_none() && !self.is_closed
    }
}

/// What is changed of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It gets metadata.
    Create,
    /// It gets other metadata.
    Update,
    /// It is deleted.
    Delete,
}

impl HomeChannel {
    /// What the API tells of it.
    pub(super) fn info(&self) -> ChannelInfo {
        ChannelInfo {
            slug: self.channel.slug.clone(),
            epoch: self.head.epoch,
            meta: self.meta().cloned(),
            messages: self.messages,
            created_ms: self.created_ms,
            last_ms: self.last_ms,
            subscribers: self.subscribers(),
        }
    }

    /// Who gets its messages.
    pub(super) fn audiences(&self) -> impl Iterator<Item = (ShardId, TailKey)> {
        self.tails.iter().map(|audience| (audience.shard, audience.tail))
    }

    /// How many subscribers it has, over all shards.
    pub(super) fn subscribers(&self) -> u64 {
        self.tails.iter().map(|audience| u64::from(audience.subscribers)).sum()
    }

    pub(super) fn meta(&self) -> Option<&Arc<ChannelMeta>> {
        self.extra.as_ref()?.meta.as_ref()
    }

    pub(super) fn is_private(&self) -> bool {
        self.meta().is_some_and(|meta| meta.is_private)
    }

    pub(super) fn presence(&self) -> Option<&ChannelPresence> {
        self.extra.as_ref()?.presence.as_ref()
    }

    pub(super) fn presence_mut(&mut self) -> Option<&mut ChannelPresence> {
        self.extra.as_mut()?.presence.as_mut()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.is_closed)
    }

    /// Nobody gets its messages any more.
    pub(super) fn take_audiences(&mut self) -> impl Iterator<Item = (ShardId, TailKey)> + use<> {
        std::mem::take(&mut self.tails).into_iter().map(|audience| (audience.shard, audience.tail))
    }

    /// What the publisher of a message is told.
    pub(super) fn receipt(&self, record: &Record, delivered: u64) -> Receipt {
        let Record { id, offset, timestamp_ms, .. } = *record;
        Receipt { id, offset, epoch: self.head.epoch, timestamp_ms, delivered }
    }

    /// Whether it has subscribers or metadata, or had messages.
    pub(super) fn is_used(&self) -> bool {
        !self.tails.is_empty() || self.head.offset > Offset(0) || self.meta().is_some()
    }

    /// Whether nothing would be lost if it were made anew.
    fn is_untouched(&self) -> bool {
        self.tails.is_empty()
            && self.next == Offset(1)
            && self.reads == 0
            && self
                .extra
                .as_ref()
                .is_none_or(|extra| extra.meta.is_none() && extra.change.is_none())
    }
}

/// The refusal where a channel is not there that a name leads to, which cannot be.
pub(super) fn lost_channel(cx: &Context) -> Refusal {
    cx.lost("a name leads to a channel that is not there")
}

/// A channel's place in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct HomeLog {
    pub(super) id: LogId,
    /// What is known of it in the stream of its slot, if that is where it is.
    pub(super) stream: Option<InStream>,
    /// Whether the log is known to know the channel.
    pub(super) is_known: bool,
}

/// The subscribers of a channel on one shard.
#[derive(Debug)]
pub(super) struct Audience {
    pub(super) shard: ShardId,
    pub(super) tail: TailKey,
    pub(super) subscribers: u32,
}

/// Channels that are looked at in a tick, whether they can be forgotten.
const FORGET_LOOKS_MAX: usize = 4096;

/// Channels forgotten in a tick: each is a deletion in the log.
const FORGET_MAX: usize = 256;

/// How much longer a channel is kept than the last of its messages is there.
const FORGET_SLACK_MS: u64 = 2_000;

impl Home {
    /// A channel that never had a message and has no subscribers leaves no trace: if it is made
    /// again it gets the same epoch, so nobody can tell, unless some channel was deleted meanwhile.
    pub(super) fn forget_if_untouched(&mut self, cx: &mut Context, key: HomeKey) {
        let Some(home) = self.channels.get(key) else { return };
        let stream = home.log.and_then(|log| log.stream);
        if home.is_untouched() && !home.is_closed() {
            match stream {
                None => {
                    self.hide(cx, key);
                    self.channels.remove(key);
                }
                Some(stream) if stream.is_at_rest(cx.now.elapsed_ms) => self.drop_opened(cx, key),
                Some(_) => {}
            }
        }
    }

    /// Forgets channels whose messages have all become too old, unless something else holds them: a
    /// subscriber, metadata, a key of a publish. Names that come and go must not fill the table. Looks
    /// at some in each tick.
    pub(super) fn forget_expired(&mut self, cx: &mut Context) {
        if self.old_homes.is_empty() {
            self.old_homes = self.channels.keys().collect();
        }
        let looked_at = self.old_homes.len().min(FORGET_LOOKS_MAX);
        let mut forgotten = 0;
        for key in self.old_homes.split_off(self.old_homes.len() - looked_at) {
            if forgotten == FORGET_MAX {
                self.old_homes.push(key);
            } else if cx.is_cluster() {
                if self.is_idle(cx, key) {
                    forgotten += 1;
                    self.drop_opened(cx, key);
                }
            } else if self.is_expired(cx, key) {
                forgotten += 1;
                self.close_channel(cx, key, None);
            }
        }
    }

    fn is_expired(&self, cx: &Context, key: HomeKey) -> bool {
        let Some(home) = self.channels.get(key) else { return false };
        let Some(app) = cx.directory.app(home.channel.app) else { return false };
        // What a reader or a clock that is a moment behind still sees is no loss.
        let retention = app.plan.retention.loose();
        let since_ms = retention.since_ms(cx.now.steady_ms).saturating_sub(FORGET_SLACK_MS);
        home.next > Offset(1)
            && home.given == home.head.offset
            && home.last_ms < since_ms
            && home.keyed_until_ms <= cx.now.elapsed_ms
            && home.tails.is_empty()
            && home.reads == 0
            && home.extra.as_ref().is_none_or(|extra| {
                extra.meta.is_none() && extra.change.is_none() && !extra.is_closed
            })
    }

    /// Has nothing find a channel any more.
    pub(super) fn hide(&mut self, cx: &mut Context, key: HomeKey) {
        let Some(home) = self.channels.get(key) else { return };
        let ChannelKey { app, slug } = &home.channel;
        self.by_name.remove(&home.channel);
        if let Some(slugs) = self.slugs.get_mut(app) {
            slugs.remove(slug);
        }
        if let Some(app) = cx.directory.app(*app).filter(|_| home.is_counted) {
            app.usage.leave_channel();
        }
    }

    /// Counts a channel in its app's plan, if it does not count yet.
    ///
    /// # Errors
    /// `QUOTA_EXCEEDED` where the plan has no more.
    pub(super) fn count_channel(&mut self, cx: &mut Context, key: HomeKey) -> Result<(), Refusal> {
        let home = self.channels.get_mut(key).ok_or_else(|| lost_channel(cx))?;
        if home.is_counted {
            return Ok(());
        }
        let app = cx.directory.require(home.channel.app)?;
        let most = app.plan.channels_max;
        match app.usage.take_channel(most) {
            Taken::Yes => {
                home.is_counted = true;
                Ok(())
            }
            Taken::No => {
                let text = format!("the app has {most} channels, as many as its plan has");
                Err(Refusal::limit(ErrorCode::QuotaExceeded, limit::CHANNELS, 60, text))
            }
            Taken::Ask | Taken::NotNow => Err(not_now(limit::CHANNELS)),
        }
    }

    /// Counts a channel no more that was counted for something that did not come about.
    pub(super) fn uncount_if_unused(&mut self, cx: &mut Context, key: HomeKey) {
        let Some(home) = self.channels.get_mut(key) else { return };
        // Metadata that are being kept count as well.
        let is_changing = home.extra.as_ref().is_some_and(|extra| extra.change.is_some());
        if home.next == Offset(1)
            && home.meta().is_none()
            && !is_changing
            && std::mem::take(&mut home.is_counted)
            && let Some(app) = cx.directory.app(home.channel.app)
        {
            app.usage.return_channel();
        }
    }

    /// Takes over a channel from the log, before the shard runs. Its app must be known.
    pub(crate) fn load(&mut self, cx: &mut Context, loaded: LoadedChannel) {
        let LoadedChannel { channel, log, epoch, head, next, last_ms, totals, created_ms } = loaded;
        if let Some(app) = cx.directory.app(channel.app) {
            app.usage.find_channel();
        }
        let key = self.insert_home(HomeChannel {
            channel,
            head: StreamPosition { epoch, offset: head },
            given: head,
            next,
            last_ms,
            created_ms,
            messages: totals.messages,
            is_counted: true,
            log: Some(HomeLog { id: log, stream: None, is_known: true }),
            keyed_until_ms: 0,
            reads: 0,
            tails: SmallVec::new(),
            extra: None,
        });
        self.recent.begin_behind(key);
    }

    /// Takes over what the API added to a channel, before the shard runs.
    pub(crate) fn load_meta(&mut self, cx: &mut Context, channel: &ChannelKey, meta: ChannelMeta) {
        let Some(app) = cx.directory.app(channel.app).cloned() else { return };
        let key = match self.by_name.get(channel) {
            Some(&key) => key,
            None => self.make_home(cx, channel, &app),
        };
        let Some(home) = self.channels.get_mut(key) else { return };
        if !std::mem::replace(&mut home.is_counted, true) {
            app.usage.find_channel();
        }
        let presence = meta.presence.then(|| ChannelPresence::new(cx.random.u32(..)));
        home.created_ms = home.created_ms.min(meta.created_ms);
        home.extra =
            Some(Box::new(Extra { meta: Some(meta.into()), presence, ..Extra::default() }));
    }

    /// Takes over an answer of the log for a publisher who asks again, before the shard runs.
    pub(crate) fn load_answer(
        &mut self,
        cx: &mut Context,
        channel: &ChannelKey,
        answer: StoredAnswer,
    ) {
        if let Some(&key) = self.by_name.get(channel) {
            if let Some(home) = self.channels.get_mut(key) {
                home.keyed_until_ms = cx.now.elapsed_ms + WINDOW_MS;
            }
            self.idempotency.load(channel.app, key, answer, cx.now);
        }
    }

    /// The channel, made if it is not there and may be made by using it.
    pub(super) fn home(
        &mut self,
        cx: &mut Context,
        channel: &ChannelKey,
    ) -> Result<HomeKey, Refusal> {
        let found = self.by_name.get(channel).copied();
        if cx.directory.require(channel.app)?.record.settings.require_channels {
            let meta = found.and_then(|key| self.channels.get(key)?.meta());
            if meta.is_none() {
                let text = format!(
                    "there is no channel {}; channels of this app must be created first",
                    channel.slug
                );
                return Err(Refusal::new(ErrorCode::NotFound, text));
            }
        }
        match found {
            Some(key) => Ok(key),
            None => self.new_home(cx, channel),
        }
    }

    /// A channel that is not there yet.
    pub(super) fn new_home(
        &mut self,
        cx: &mut Context,
        channel: &ChannelKey,
    ) -> Result<HomeKey, Refusal> {
        let app = Arc::clone(cx.directory.require(channel.app)?);
        let most = cx.settings.limits.channels_per_shard_max;
        let of_app = self.slugs.get(&channel.app).map_or(0, BTreeSet::len);
        if !share::has_room(of_app, self.channels.len(), most) {
            let text = format!(
                "the app has {of_app} of the {most} channels that this shard takes, and must leave \
                 room for others"
            );
            return Err(Refusal::limit(ErrorCode::QuotaExceeded, limit::CHANNELS, 60, text));
        }
        Ok(self.make_home(cx, channel, &app))
    }

    pub(super) fn make_home(
        &mut self,
        cx: &mut Context,
        channel: &ChannelKey,
        app: &App,
    ) -> HomeKey {
        let is_logged = cx.settings.has_log && app.plan.durability != Durability::Memory;
        let log =
            is_logged.then(|| HomeLog { id: cx.shared.new_log(), stream: None, is_known: false });
        self.insert_home(HomeChannel {
            channel: channel.clone(),
            head: StreamPosition { epoch: cx.shared.epoch(channel, is_logged), offset: Offset(0) },
            given: Offset(0),
            next: Offset(1),
            last_ms: 0,
            created_ms: cx.now.unix_ms,
            messages: 0,
            is_counted: false,
            log,
            keyed_until_ms: 0,
            reads: 0,
            tails: SmallVec::new(),
            extra: None,
        })
    }

    pub(super) fn insert_home(&mut self, home: HomeChannel) -> HomeKey {
        let channel = home.channel.clone();
        let key = self.channels.insert(home);
        self.slugs.entry(channel.app).or_default().insert(channel.slug.clone());
        self.by_name.insert(channel, key);
        key
    }
}
