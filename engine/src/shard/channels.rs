//! What the API does to channels, at their home shard: describe, create, change, delete.
//!
//! A change goes to the accounts first, which keep it on disk; it takes effect when they say so.
//! Until then the channel takes no other change.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use pushflo_protocol::time::iso8601;
use pushflo_protocol::{ErrorCode, Refusal};

use super::Shard;
use super::envelope::{
    AnswerAfterAll, ChannelCall, ChannelChange, ChannelRequest, DescribeRequest, Envelope,
    ListRequest, Outcome, StoredMeta,
};
use super::home::{Extra, HomeChannel};
use super::presence::Presence;
use crate::accounts::{AccountsCall, ChannelMeta};
use crate::ids::{ChannelKey, HomeKey, RequestId};
use crate::pages::page_end;

impl Shard {
    pub(super) fn home_channel_request(&mut self, asked: ChannelRequest) {
        let ChannelRequest { request, channel, call } = asked;
        let result = match call {
            ChannelCall::Describe => self.describe(&channel),
            ChannelCall::Presence { page, page_size } => self.members(&channel, page, page_size),
            ChannelCall::Create(change) => self.create_channel(request, &channel, *change),
            ChannelCall::Change(change) => self.change_channel(request, &channel, *change),
            ChannelCall::Delete => self.delete_channel(request, &channel),
        };
        match result {
            Ok(Some(body)) => self.answer_request(request, Ok((200, body))),
            // Answered when the accounts have kept it.
            Ok(None) => {}
            Err(refusal) => self.answer_request(request, Err(refusal)),
        }
    }

    fn describe(&self, channel: &ChannelKey) -> Result<Option<Bytes>, Refusal> {
        let home = self.find_home(channel)?.1;
        let mut body = String::from(r#"{"success":true,"data":"#);
        push_json(home, &mut body);
        body.push('}');
        Ok(Some(body.into()))
    }

    fn members(
        &self,
        channel: &ChannelKey,
        page: u64,
        page_size: u64,
    ) -> Result<Option<Bytes>, Refusal> {
        let home = self.find_home(channel)?.1;
        let (mut count, mut members) = (0, String::new());
        if let Some(presence) = home.presence() {
            count = presence.len();
            members = presence.page((page - 1).saturating_mul(page_size), page_size);
        }
        let mut body = format!(
            r#"{{"success":true,"data":{{"subscribers":{},"count":{count},"members":[{members}]}},"#,
            home.subscribers()
        );
        body.push_str(&page_end(page, page_size, count));
        body.push('}');
        Ok(Some(body.into()))
    }

    fn create_channel(
        &mut self,
        request: RequestId,
        channel: &ChannelKey,
        change: ChannelChange,
    ) -> Result<Option<Bytes>, Refusal> {
        let key = match self.home_of.get(channel) {
            Some(&key) => key,
            None => self.new_home(channel)?,
        };
        let home = self.homes.get(key).ok_or_else(super::no_room)?;
        if home.meta().is_some() {
            let text = format!("there is a channel {} already", channel.slug);
            return Err(Refusal::new(ErrorCode::Conflict, text));
        }
        let now_ms = self.now.unix_ms;
        let meta = ChannelMeta {
            name: change.name.unwrap_or_else(|| channel.slug.as_str().into()),
            description: change.description.flatten(),
            is_private: change.is_private.unwrap_or_default(),
            presence: change.presence.unwrap_or_default(),
            metadata: change.metadata.flatten(),
            created_ms: home.created_ms.min(now_ms),
            updated_ms: now_ms,
        };
        self.begin_change((request, 201), key, channel, Some(meta))
    }

    fn change_channel(
        &mut self,
        request: RequestId,
        channel: &ChannelKey,
        change: ChannelChange,
    ) -> Result<Option<Bytes>, Refusal> {
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
        meta.metadata = change.metadata.unwrap_or(meta.metadata);
        meta.updated_ms = self.now.unix_ms.max(meta.updated_ms);
        self.begin_change((request, 200), key, channel, Some(meta))
    }

    fn delete_channel(
        &mut self,
        request: RequestId,
        channel: &ChannelKey,
    ) -> Result<Option<Bytes>, Refusal> {
        let (key, _) = self.find_home(channel)?;
        self.begin_change((request, 204), key, channel, None)
    }

    fn find_home(&self, channel: &ChannelKey) -> Result<(HomeKey, &HomeChannel), Refusal> {
        let key = self.home_of.get(channel).copied();
        key.and_then(|key| Some((key, self.homes.get(key)?))).ok_or_else(|| {
            Refusal::new(ErrorCode::NotFound, format!("there is no channel {}", channel.slug))
        })
    }

    fn begin_change(
        &mut self,
        change: (RequestId, u16),
        key: HomeKey,
        channel: &ChannelKey,
        meta: Option<ChannelMeta>,
    ) -> Result<Option<Bytes>, Refusal> {
        if meta.is_some() {
            self.count_channel(key).inspect_err(|_| self.forget_if_untouched(key))?;
        }
        let Some(home) = self.homes.get_mut(key) else { return Err(super::no_room()) };
        let extra = home.extra.get_or_insert_default();
        if extra.change.is_some() {
            let text = "another change of the channel is under way; try again";
            return Err(Refusal::new(ErrorCode::Conflict, text));
        }
        extra.change = Some(change);
        let (shard, channel, meta) = (self.id, channel.clone(), meta.map(Arc::new));
        let log = home.log.map(|log| log.id);
        let app = channel.app;
        let asked =
            self.ask_accounts(app, AccountsCall::StoreChannel { shard, channel, meta, log });
        if let Err(refusal) = asked {
            if let Some(extra) = self.homes.get_mut(key).and_then(|home| home.extra.as_mut()) {
                extra.change = None;
            }
            self.uncount_if_unused(key);
            self.forget_if_untouched(key);
            return Err(refusal);
        }
        Ok(None)
    }

    /// The accounts' answer to a change.
    pub(super) fn channel_stored(&mut self, channel: &ChannelKey, result: StoredMeta) {
        let Some(key) = self.home_of.get(channel).copied() else { return };
        let Some(home) = self.homes.get_mut(key) else { return };
        let Extra { meta, presence, change, .. } = &mut **home.extra.get_or_insert_default();
        let Some((request, status)) = change.take() else { return };
        match result {
            Err(refusal) => {
                self.uncount_if_unused(key);
                self.forget_if_untouched(key);
                self.answer_request(request, Err(refusal));
            }
            Ok(None) => self.close_channel(key, Some(request)),
            Ok(Some(stored)) => {
                let was_private = meta.as_ref().is_some_and(|meta| meta.is_private);
                let is_private = stored.is_private;
                let had_presence = presence.is_some();
                if stored.presence != had_presence {
                    *presence = stored.presence.then(|| Presence::new(self.random.u32(..)));
                }
                let roster = presence.as_ref().map(Presence::time);
                let is_other_presence = roster.is_some() != had_presence;
                *meta = Some(stored);
                let tails: Vec<_> = home.audiences().collect();
                let mut body = String::from(r#"{"success":true,"data":"#);
                push_json(home, &mut body);
                body.push('}');
                if is_other_presence {
                    for (shard, tail) in tails.iter().copied() {
                        self.post(shard, Envelope::Roster { tail, home: key, presence: roster });
                    }
                }
                let outcome = Ok((status, body.into()));
                if is_private == was_private || tails.is_empty() {
                    return self.answer_request(request, outcome);
                }
                let answer = AnswerAfterAll::new(tails.len(), request, outcome);
                for (shard, tail) in tails {
                    let answer = Arc::clone(&answer);
                    self.post(shard, Envelope::Privacy { tail, is_private, answer });
                }
            }
        }
    }

    /// Closes a channel for good: its subscribers are told, its history goes, and nothing finds it any
    /// more. What is on its way to the log arrives there first.
    pub(super) fn close_channel(&mut self, key: HomeKey, request: Option<RequestId>) {
        self.hide(key);
        self.recent.forget(key);
        let Some(home) = self.homes.get_mut(key) else { return };
        // A channel of the same name is another one.
        self.shared.renew_epoch(&home.channel);
        let has_log = home.log.is_some();
        let unfinished = home.extra.as_mut().and_then(|extra| extra.change.take());
        let change = request.map(|request| (request, 204));
        home.extra = Some(Box::new(Extra { change, is_closed: true, ..Extra::default() }));
        for (shard, tail) in home.take_audiences() {
            self.post(shard, Envelope::Closed { tail });
        }
        if let Some((request, _)) = unfinished {
            let refusal = Refusal::new(ErrorCode::NotFound, "the channel was deleted");
            self.answer_request(request, Err(refusal));
        }
        match has_log {
            true => self.log_delete(key),
            false => self.channel_deleted(key, Ok((204, Bytes::new()))),
        }
    }

    /// What became of a deletion in the log.
    pub(super) fn channel_deleted(&mut self, key: HomeKey, outcome: Outcome) {
        let Some(home) = self.homes.get_mut(key) else { return };
        let request = home.extra.as_mut().and_then(|extra| extra.change.take());
        if outcome.is_ok() {
            self.homes.remove(key);
        }
        if let Some((request, _)) = request {
            self.answer_request(request, outcome);
        }
    }

    pub(super) fn list_channels_here(&mut self, request: ListRequest) {
        let ListRequest { shard, list, app, most } = request;
        let slugs = self.slugs.get(&app);
        let total = slugs.map_or(0, |slugs| slugs.len() as u64);
        let first = slugs.into_iter().flatten().take(most).cloned().collect();
        self.post(shard, Envelope::ChannelList(Box::new((list, first, total))));
    }

    pub(super) fn describe_channels(&mut self, request: DescribeRequest) {
        let DescribeRequest { shard, list, app, channels } = request;
        let describe = |(position, slug)| {
            let home = self.find_home(&ChannelKey { app, slug }).ok();
            let json = home.map(|(_, home)| {
                let mut json = String::new();
                push_json(home, &mut json);
                json.into()
            });
            (position, json)
        };
        let described = channels.into_iter().map(describe).collect();
        self.post(shard, Envelope::ChannelsDescribed(Box::new((list, described))));
    }
}

/// Appends the channel as the API shows it.
fn push_json(home: &HomeChannel, out: &mut String) {
    let meta = home.meta();
    let slug = home.channel.slug.as_str();
    let text = |text: &str| serde_json::to_string(text).unwrap_or_else(|_| "null".into());
    let description = meta.and_then(|meta| meta.description.as_deref());
    let updated_ms = meta.map_or(home.last_ms, |meta| meta.updated_ms).max(home.created_ms);
    // Writing into memory cannot fail.
    let _ = write!(
        out,
        r#"{{"id":"ch_{}","name":{},"slug":"{slug}","description":{},"isPrivate":{},"metadata":{},"messageCount":{},"createdAt":"{}","updatedAt":"{}","presence":{},"subscribers":{}}}"#,
        home.head.epoch,
        text(meta.map_or(slug, |meta| &meta.name)),
        description.map_or_else(|| "null".into(), text),
        meta.is_some_and(|meta| meta.is_private),
        meta.and_then(|meta| meta.metadata.as_deref()).map_or("null", |json| json.get()),
        home.messages,
        iso8601(home.created_ms),
        iso8601(updated_ms),
        meta.is_some_and(|meta| meta.presence),
        home.subscribers()
    );
}
