//! What the API does to channels, at their home shard: describe, create, change, delete.
//!
//! A change goes to the accounts first, which keep it on disk; it takes effect when they say so.
//! Until then the channel takes no other change.

use std::sync::Arc;

use pushflo_protocol::{ErrorCode, Refusal};

use super::Home;
use super::channel::{Change, Extra, HomeChannel, lost_channel};
use super::presence::ChannelPresence;
use super::slots::InStream;
use crate::accounts::{AccountsCall, ChannelMeta, ChannelStored};
use crate::after_all::AfterAll;
use crate::bug::bug;
use crate::context::Context;
use crate::ids::{ChannelKey, HomeKey, NodeSlot, RequestId};
use crate::log::{LogCall, MetaNews, MetaStored, StoreMeta, StoredMeta};
use crate::mail::{
    Answer, Answered, ChannelCall, ChannelChange, ChannelRequest, MembersPage, Outcome, Privacy,
    Roster, ToEdge,
};

/// Members of a channel that are listed.
const MEMBERS_LISTED_MAX: u64 = 100_000;

/// Members that are passed over for one unit of work.
const MEMBERS_PER_WORK: usize = 64;

impl Home {
    pub(super) fn channel_request(&mut self, cx: &mut Context, asked: ChannelRequest) {
        let ChannelRequest { request, channel, call } = asked;
        let result = match call {
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

    pub(super) fn find_home(
        &self,
        channel: &ChannelKey,
    ) -> Result<(HomeKey, &HomeChannel), Refusal> {
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
        if let (None, Some(_)) = (&meta, home.log.and_then(|log| log.stream)) {
            cx.take_change(channel.app)?;
            self.close_channel(cx, key, Some(change.0));
            return Ok(None);
        }
        extra.change = Some(change);
        let (shard, channel, meta) = (cx.shard, channel.clone(), meta.map(Arc::new));
        let log = home.log;
        let app = channel.app;
        let asked = match (log.and_then(|log| log.stream), &meta) {
            (Some(stream), Some(meta)) => self.store_meta(cx, channel, meta, stream),
            _ => {
                let log = log.map(|log| log.id);
                cx.ask_accounts(app, AccountsCall::StoreChannel { shard, channel, meta, log })
            }
        };
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
        let change = home.extra.as_mut().and_then(|extra| extra.change.take());
        let Some((request, kind)) = change else {
            return bug!(cx, "a change was kept that nobody asked for");
        };
        match result {
            Err(refusal) => {
                self.uncount_if_unused(cx, key);
                self.forget_if_untouched(cx, key);
                cx.answer(request, Err(refusal));
            }
            Ok(None) => self.close_channel(cx, key, Some(request)),
            Ok(Some(stored)) => self.meta_applies(cx, key, stored, Some((request, kind))),
        }
    }

    /// Has a channel have other metadata. Whoever asked for that is answered when all shards of this node
    /// have done so.
    fn meta_applies(
        &mut self,
        cx: &mut Context,
        key: HomeKey,
        stored: Arc<ChannelMeta>,
        asked: Option<(RequestId, Change)>,
    ) {
        let Some(home) = self.channels.get_mut(key) else { return };
        let Extra { meta, presence, .. } = &mut **home.extra.get_or_insert_default();
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
        let answer = asked.map(|(request, kind)| {
            let outcome = Ok(match kind {
                Change::Create => Answer::ChannelCreated(info),
                Change::Update | Change::Delete => Answer::Channel(info),
            });
            Answered { request, outcome }
        });
        // Those of other nodes are told, and not waited for.
        let here = tails.iter().filter(|(shard, _)| shard.node() == NodeSlot::OWN).count();
        let is_told = is_private != was_private;
        let after_all = match answer {
            Some(answer) if is_told && here > 0 => Some(AfterAll::new(here, answer)),
            Some(Answered { request, outcome }) => {
                cx.answer(request, outcome);
                None
            }
            None => None,
        };
        for (shard, tail) in tails.into_iter().filter(|_| is_told) {
            let is_here = shard.node() == NodeSlot::OWN;
            let answer = after_all.as_ref().filter(|_| is_here).cloned();
            let privacy = Privacy { tail, is_private, answer };
            cx.post_edge(shard, ToEdge::Privacy(Box::new(privacy)));
        }
    }

    /// Has the cluster keep metadata of a channel in a stream.
    fn store_meta(
        &mut self,
        cx: &mut Context,
        channel: ChannelKey,
        meta: &ChannelMeta,
        stream: InStream,
    ) -> Result<(), Refusal> {
        cx.take_change(channel.app)?;
        let meta = serde_json::to_vec(meta).map_err(|_| cx.lost("metadata have no form"))?;
        let (shard, revision) = (cx.shard, stream.meta_revision);
        let call = StoreMeta { shard, channel, meta: meta.into(), revision };
        self.slots.push(LogCall::StoreMeta(Box::new(call)));
        Ok(())
    }

    /// What became of metadata in a cluster.
    pub(super) fn meta_stored(&mut self, cx: &mut Context, stored: MetaStored) {
        let MetaStored { channel, outcome } = stored;
        // One that has moved or was deleted meanwhile was answered then.
        let Some(key) = self.by_name.get(&channel).copied() else { return };
        let extra = self.channels.get_mut(key).and_then(|home| home.extra.as_mut());
        let Some(change) = extra.and_then(|extra| extra.change.take()) else { return };
        match outcome {
            Ok(now) => {
                if let Some(meta) = self.learn_meta(key, &now) {
                    return self.meta_applies(cx, key, meta, Some(change));
                }
                let refusal = cx.lost("metadata that were stored cannot be read");
                cx.answer(change.0, Err(refusal));
            }
            Err(refusal) => {
                self.uncount_if_unused(cx, key);
                self.forget_if_untouched(cx, key);
                cx.answer(change.0, Err(refusal));
            }
        }
    }

    /// Another node, or somebody by hand, has changed a channel's metadata; or this one has, and has heard of
    /// it.
    pub(super) fn meta_changed(&mut self, cx: &mut Context, news: MetaNews) {
        let MetaNews { channel, now } = news;
        let Some(key) = self.by_name.get(&channel).copied() else { return };
        let known = self.channels.get(key).and_then(|home| home.log?.stream);
        // What was deleted stays as it is until it is opened again: nothing is opened to all by that.
        if now.meta.is_some()
            && known.is_some_and(|stream| stream.meta_revision < now.revision)
            && let Some(meta) = self.learn_meta(key, &now)
        {
            self.meta_applies(cx, key, meta, None);
        }
    }

    /// Notes the revision of a channel's metadata and reads them.
    fn learn_meta(&mut self, key: HomeKey, now: &StoredMeta) -> Option<Arc<ChannelMeta>> {
        let stream = self.channels.get_mut(key)?.log.as_mut()?.stream.as_mut()?;
        let meta = read_meta(now)?;
        stream.meta_revision = stream.meta_revision.max(now.revision);
        Some(meta)
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
}

/// Metadata as the cluster keeps them. What cannot be read may be of a private channel, so that is what it is
/// taken for.
pub(super) fn read_meta(stored: &StoredMeta) -> Option<Arc<ChannelMeta>> {
    let meta = serde_json::from_slice(stored.meta.as_ref()?);
    Some(Arc::new(meta.unwrap_or_else(|error| {
        tracing::error!(%error, "metadata of a channel cannot be read: it is private therefore");
        ChannelMeta::closed()
    })))
}
