//! What the API does to channels, at their home shard: describe, create, change, delete.
//!
//! A change goes to the accounts first, which keep it on disk; it takes effect when they say so.
//! Until then the channel takes no other change.

use std::ops::Bound;
use std::sync::Arc;

use pushflo_protocol::{ErrorCode, Refusal};

use super::Home;
use super::channel::{Change, Extra, HomeChannel, lost_channel};
use super::presence::ChannelPresence;
use crate::accounts::{AccountsCall, ChannelMeta, ChannelStored};
use crate::after_all::AfterAll;
use crate::bug::bug;
use crate::context::Context;
use crate::ids::{ChannelKey, HomeKey, RequestId};
use crate::mail::{
    Answer, Answered, ChannelCall, ChannelChange, ChannelList, ChannelRequest, ChannelsDescribed,
    DescribeChannels, DescribedChannel, ListChannels, ListedChannel, MembersPage, Outcome, Privacy,
    Roster, ToEdge,
};

/// Names that are copied for one unit of work.
const NAMES_PER_WORK: usize = 16;

/// Members of a channel that are listed.
const MEMBERS_LISTED_MAX: u64 = 100_000;

/// Members that are passed over for one unit of work.
const MEMBERS_PER_WORK: usize = 64;

impl Home {
    pub(super) fn channel_request(&mut self, cx: &mut Context, asked: ChannelRequest) {
        let ChannelRequest { request, channel, call } = asked;
        let result = match call {
            // They are kept by this node alone, and would be gone when the channel moves.
            ChannelCall::Create(_) | ChannelCall::Change(_) if cx.is_cluster() => {
                let text = "channels of a cluster cannot have metadata yet";
                Err(Refusal::new(ErrorCode::ValidationError, text))
            }
            ChannelCall::Describe => self.describe(&channel),
            ChannelCall::Presence { page, page_size } => {
                self.members(cx, &channel, page, page_size)
            }
            ChannelCall::Create(change) => self.create_channel(cx, request, &channel, *change),
            ChannelCall::Change(change) => self.change_channel(cx, request, &channel, *change),
            ChannelCall::Delete => self.delete_channel(cx, request, &channel),
        };
        match result {
            Ok(Some(answer)) => cx.answer(request, Ok(answer)),
            // Answered when the accounts have kept it.
            Ok(None) => {}
            Err(refusal) => cx.answer(request, Err(refusal)),
        }
    }

    fn describe(&self, channel: &ChannelKey) -> Result<Option<Answer>, Refusal> {
        let home = self.find_home(channel)?.1;
        Ok(Some(Answer::Channel(Box::new(home.info()))))
    }

    fn members(
        &self,
        cx: &mut Context,
        channel: &ChannelKey,
        page: u64,
        page_size: u64,
    ) -> Result<Option<Answer>, Refusal> {
        let home = self.find_home(channel)?.1;
        let (mut count, mut members) = (0, Vec::new());
        if let Some(presence) = home.presence() {
            count = presence.len();
            let skip = (page - 1).saturating_mul(page_size).min(count);
            if count > skip && skip + page_size > MEMBERS_LISTED_MAX {
                let text = format!("only the first {MEMBERS_LISTED_MAX} members are listed");
                return Err(Refusal::field("page", text));
            }
            // Those before the page are passed over one by one.
            cx.charge((skip + page_size) as usize / MEMBERS_PER_WORK);
            members = presence.page(skip, page_size);
        }
        let subscribers = home.subscribers();
        Ok(Some(Answer::Members(MembersPage { subscribers, count, members })))
    }

    fn create_channel(
        &mut self,
        cx: &mut Context,
        request: RequestId,
        channel: &ChannelKey,
        change: ChannelChange,
    ) -> Result<Option<Answer>, Refusal> {
        let key = match self.by_name.get(channel) {
            Some(&key) => key,
            None => self.new_home(cx, channel)?,
        };
        let home = self.channels.get(key).ok_or_else(|| lost_channel(cx))?;
        if home.meta().is_some() {
            let text = format!("there is a channel {} already", channel.slug);
            return Err(Refusal::new(ErrorCode::Conflict, text));
        }
        let now_ms = cx.now.unix_ms;
        let meta = ChannelMeta {
            name: change.name.unwrap_or_else(|| channel.slug.as_str().into()),
            description: change.description.flatten(),
            is_private: change.is_private.unwrap_or_default(),
            presence: change.presence.unwrap_or_default(),
            metadata: change.metadata.and_then(|given| given.0),
            created_ms: home.created_ms.min(now_ms),
            updated_ms: now_ms,
        };
        self.begin_change(cx, (request, Change::Create), key, channel, Some(meta))
    }

    fn change_channel(
        &mut self,
        cx: &mut Context,
        request: RequestId,
        channel: &ChannelKey,
        change: ChannelChange,
    ) -> Result<Option<Answer>, Refusal> {
        let (key, home) = self.find_home(channel)?;
        let mut meta = match home.meta() {
            Some(meta) => ChannelMeta::clone(meta),
            // One that exists by use gets its metadata now.
            None => ChannelMeta {
                name: channel.slug.as_str().into(),
                description: None,
                is_private: false,
                presence: false,
                metadata: None,
                created_ms: home.created_ms,
                updated_ms: 0,
            },
        };
        meta.name = change.name.unwrap_or(meta.name);
        meta.description = change.description.unwrap_or(meta.description);
        meta.is_private = change.is_private.unwrap_or(meta.is_private);
        meta.presence = change.presence.unwrap_or(meta.presence);
        meta.metadata = change.metadata.map_or(meta.metadata, |given| given.0);
        meta.updated_ms = cx.now.unix_ms.max(meta.updated_ms);
        self.begin_change(cx, (request, Change::Update), key, channel, Some(meta))
    }

    fn delete_channel(
        &mut self,
        cx: &mut Context,
        request: RequestId,
        channel: &ChannelKey,
    ) -> Result<Option<Answer>, Refusal> {
        let (key, _) = self.find_home(channel)?;
        self.begin_change(cx, (request, Change::Delete), key, channel, None)
    }

    fn find_home(&self, channel: &ChannelKey) -> Result<(HomeKey, &HomeChannel), Refusal> {
        let key = self.by_name.get(channel).copied();
        let found = key.and_then(|key| Some((key, self.channels.get(key)?)));
        // One in a stream is here as soon as somebody asks for it, also where it never was.
        let is_there =
            |home: &HomeChannel| home.log.is_none_or(|log| log.stream.is_none()) || home.is_used();
        found.filter(|(_, home)| is_there(home)).ok_or_else(|| {
            Refusal::new(ErrorCode::NotFound, format!("there is no channel {}", channel.slug))
        })
    }

    fn begin_change(
        &mut self,
        cx: &mut Context,
        change: (RequestId, Change),
        key: HomeKey,
        channel: &ChannelKey,
        meta: Option<ChannelMeta>,
    ) -> Result<Option<Answer>, Refusal> {
        if meta.is_some() {
            self.count_channel(cx, key).inspect_err(|_| self.forget_if_untouched(cx, key))?;
        }
        let home = self.channels.get_mut(key).ok_or_else(|| lost_channel(cx))?;
        let extra = home.extra.get_or_insert_default();
        if extra.change.is_some() {
            let text = "another change of the channel is under way; try again";
            return Err(Refusal::new(ErrorCode::Conflict, text));
        }
        extra.change = Some(change);
        let (shard, channel, meta) = (cx.shard, channel.clone(), meta.map(Arc::new));
        let log = home.log.map(|log| log.id);
        let app = channel.app;
        let asked = cx.ask_accounts(app, AccountsCall::StoreChannel { shard, channel, meta, log });
        if let Err(refusal) = asked {
            if let Some(extra) = self.channels.get_mut(key).and_then(|home| home.extra.as_mut()) {
                extra.change = None;
            }
            self.uncount_if_unused(cx, key);
            self.forget_if_untouched(cx, key);
            return Err(refusal);
        }
        Ok(None)
    }

    /// The accounts' answer to a change.
    pub(crate) fn channel_stored(&mut self, cx: &mut Context, stored: ChannelStored) {
        let ChannelStored { ref channel, result } = stored;
        let Some(key) = self.by_name.get(channel).copied() else { return };
        let Some(home) = self.channels.get_mut(key) else { return };
        let Extra { meta, presence, change, .. } = &mut **home.extra.get_or_insert_default();
        let Some((request, kind)) = change.take() else {
            return bug!(cx, "a change was kept that nobody asked for");
        };
        match result {
            Err(refusal) => {
                self.uncount_if_unused(cx, key);
                self.forget_if_untouched(cx, key);
                cx.answer(request, Err(refusal));
            }
            Ok(None) => self.close_channel(cx, key, Some(request)),
            Ok(Some(stored)) => {
                let was_private = meta.as_ref().is_some_and(|meta| meta.is_private);
                let is_private = stored.is_private;
                let had_presence = presence.is_some();
                if stored.presence != had_presence {
                    *presence = stored.presence.then(|| ChannelPresence::new(cx.random.u32(..)));
                }
                let roster = presence.as_ref().map(ChannelPresence::roster);
                let is_other_presence = roster.is_some() != had_presence;
                *meta = Some(stored);
                let tails: Vec<_> = home.audiences().collect();
                let info = Box::new(home.info());
                if is_other_presence {
                    for (shard, tail) in tails.iter().copied() {
                        cx.post_edge(shard, ToEdge::Roster(Roster { tail, home: key, roster }));
                    }
                }
                let outcome = Ok(match kind {
                    Change::Create => Answer::ChannelCreated(info),
                    Change::Update | Change::Delete => Answer::Channel(info),
                });
                if is_private == was_private || tails.is_empty() {
                    return cx.answer(request, outcome);
                }
                let answer = AfterAll::new(tails.len(), Answered { request, outcome });
                for (shard, tail) in tails {
                    let answer = Some(Arc::clone(&answer));
                    let privacy = Privacy { tail, is_private, answer };
                    cx.post_edge(shard, ToEdge::Privacy(Box::new(privacy)));
                }
            }
        }
    }

    /// Closes a channel for good: its subscribers are told, its history goes, and nothing finds it any
    /// more. What is on its way to the log arrives there first.
    pub(super) fn close_channel(
        &mut self,
        cx: &mut Context,
        key: HomeKey,
        request: Option<RequestId>,
    ) {
        self.hide(cx, key);
        self.recent.forget(key);
        let Some(home) = self.channels.get_mut(key) else { return };
        // A channel of the same name is another one.
        cx.shared.renew_epoch(&home.channel);
        let has_log = home.log.is_some();
        let unfinished = home.extra.as_mut().and_then(|extra| extra.change.take());
        let change = request.map(|request| (request, Change::Delete));
        home.extra = Some(Box::new(Extra { change, is_closed: true, ..Extra::default() }));
        for (shard, tail) in home.take_audiences() {
            cx.post_edge(shard, ToEdge::Closed(tail));
        }
        if let Some((request, _)) = unfinished {
            let refusal = Refusal::new(ErrorCode::NotFound, "the channel was deleted");
            cx.answer(request, Err(refusal));
        }
        match has_log {
            true if self.delete_in_stream(cx, key) => {}
            true => self.log_delete(key),
            false => self.channel_deleted(cx, key, Ok(Answer::Deleted)),
        }
    }

    /// What became of a deletion in the log.
    pub(super) fn channel_deleted(&mut self, cx: &mut Context, key: HomeKey, outcome: Outcome) {
        let Some(home) = self.channels.get_mut(key) else { return };
        let request = home.extra.as_mut().and_then(|extra| extra.change.take());
        if outcome.is_ok() {
            self.channels.remove(key);
        }
        if let Some((request, _)) = request {
            cx.answer(request, outcome);
        }
    }

    pub(super) fn list_channels(&mut self, cx: &mut Context, request: ListChannels) {
        let ListChannels { shard, list, app, after, count_max } = request;
        let slugs = self.slugs.get(&app);
        let total = slugs.map_or(0, |slugs| slugs.len() as u64);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = slugs.map(|slugs| slugs.range((from, Bound::Unbounded)));
        let slugs: Vec<_> = behind.into_iter().flatten().take(count_max).cloned().collect();
        cx.charge(slugs.len() / NAMES_PER_WORK);
        cx.post_edge(shard, ToEdge::ChannelList(Box::new(ChannelList { list, slugs, total })));
    }

    pub(super) fn describe_channels(&mut self, cx: &mut Context, request: DescribeChannels) {
        let DescribeChannels { shard, list, app, channels } = request;
        let describe = |ListedChannel { position, slug }| {
            let home = self.find_home(&ChannelKey { app, slug }).ok();
            let info = home.map(|(_, home)| Box::new(home.info()));
            DescribedChannel { position, info }
        };
        cx.charge(channels.len());
        let channels = channels.into_iter().map(describe).collect();
        let described = ChannelsDescribed { list, channels };
        cx.post_edge(shard, ToEdge::ChannelsDescribed(Box::new(described)));
    }
}
