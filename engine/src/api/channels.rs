//! Channels: `/api/v1/channels…`. Each is described and changed at its home shard; a list is put
//! together from all shards.

use std::borrow::Cow;

use bytes::Bytes;
use pushflo_protocol::http::Request;
use pushflo_protocol::limits::{DESCRIPTION_BYTES_MAX, METADATA_BYTES_MAX, NAME_BYTES_MAX};
use pushflo_protocol::{ChannelSlug, Refusal, json};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::apps::given;
use super::messages::{PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, page, page_size};
use crate::accounts::Role;
use crate::context::Context;
use crate::edge::Answering;
use crate::edge::Edge;
use crate::ids::{AppId, ChannelKey, ListKey, RequestId, ShardId};
use crate::mail::ChannelCall;
use crate::mail::ChannelChange;
use crate::mail::ChannelList;
use crate::mail::ChannelRequest;
use crate::mail::ChannelsDescribed;
use crate::mail::DescribeChannels;
use crate::mail::DescribedChannel;
use crate::mail::ListChannels;
use crate::mail::ListedChannel;
use crate::mail::ToHome;
use crate::mail::no_room;
use crate::pages::page_end;

/// Members on a page of presence if the request does not say, and at most.
const MEMBERS_DEFAULT: u64 = 100;
const MEMBERS_MAX: u64 = 1_000;

/// Channels of an app that can be listed: each page takes as many of every shard as stand before its
/// end.
const LISTED_MAX: u64 = 100_000;

/// A list that waits for other shards. There are at most as many as requests under way.
#[derive(Debug)]
pub(crate) struct PendingList {
    request: RequestId,
    app: AppId,
    page: u64,
    page_size: u64,
    /// Shards that have not answered.
    waiting: usize,
    total: u64,
    /// First channels of the shards so far, in order; then those of the page.
    slugs: Vec<ChannelSlug>,
    /// What describes them, by position.
    described: Vec<Option<Bytes>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(borrow)]
    slug: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "given")]
    description: Option<Option<Cow<'a, str>>>,
    is_private: Option<bool>,
    presence: Option<bool>,
    #[serde(borrow, default, deserialize_with = "given")]
    metadata: Option<Option<&'a RawValue>>,
}

impl Edge {
    pub(super) fn channel(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        slug: &str,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize(cx, id, request, Role::Secret)?.app.id;
        self.ask_channel(cx, id, app, ChannelSlug::parse(slug)?, ChannelCall::Describe)
    }

    pub(super) fn presence(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        slug: &str,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize(cx, id, request, Role::Secret)?.app.id;
        let page_size = page_size(request, MEMBERS_DEFAULT, MEMBERS_MAX)?;
        let call = ChannelCall::Presence { page: page(request)?, page_size };
        self.ask_channel(cx, id, app, ChannelSlug::parse(slug)?, call)
    }

    pub(super) fn create_channel_request(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize(cx, id, request, Role::Manage)?.app.id;
        let body: Body<'_> = json::parse(&request.body, "the body")?;
        let slug = body.slug.as_deref();
        let slug = slug.ok_or_else(|| Refusal::field("slug", "slug is required"))?;
        let slug =
            ChannelSlug::parse(slug).map_err(|error| Refusal::field("slug", error.to_string()))?;
        if body.name.is_none() {
            return Err(Refusal::field("name", "name is required"));
        }
        let change = Box::new(change(&body)?);
        self.ask_channel(cx, id, app, slug, ChannelCall::Create(change))
    }

    pub(super) fn change_channel_request(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        slug: &str,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize(cx, id, request, Role::Manage)?.app.id;
        let slug = ChannelSlug::parse(slug)?;
        let body: Body<'_> = json::parse(&request.body, "the body")?;
        let change = Box::new(change(&body)?);
        self.ask_channel(cx, id, app, slug, ChannelCall::Change(change))
    }

    pub(super) fn delete_channel_request(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        slug: &str,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize(cx, id, request, Role::Manage)?.app.id;
        self.ask_channel(cx, id, app, ChannelSlug::parse(slug)?, ChannelCall::Delete)
    }

    fn ask_channel(
        &mut self,
        cx: &mut Context,
        request: RequestId,
        app: AppId,
        slug: ChannelSlug,
        call: ChannelCall,
    ) -> Result<Answering, Refusal> {
        let channel = ChannelKey { app, slug };
        let home = cx.home_shard(&channel);
        if cx.is_way_full(home) {
            return Err(no_room());
        }
        let asked = ChannelRequest { request, channel, call };
        cx.post_home(home, ToHome::Channel(Box::new(asked)));
        Ok(Answering::Later)
    }

    pub(super) fn list_channels(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize(cx, id, request, Role::Secret)?.app.id;
        let page = page(request)?;
        let page_size = page_size(request, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)?;
        let shards: Vec<ShardId> = cx.shards().collect();
        if shards.iter().any(|shard| cx.is_way_full(*shard)) {
            return Err(no_room());
        }
        let list = self.lists.insert(PendingList {
            request: id,
            app,
            page,
            page_size,
            waiting: shards.len(),
            total: 0,
            slugs: Vec::new(),
            described: Vec::new(),
        });
        // Of a page too far behind only the total is told.
        let last = page.saturating_mul(page_size);
        let count_max = if last > LISTED_MAX { 0 } else { last as usize };
        for shard in shards {
            let request = ListChannels { shard: cx.shard, list, app, count_max };
            cx.post_home(shard, ToHome::ListChannels(request));
        }
        Ok(Answering::Later)
    }

    /// What one shard has. With the last one it is known which channels stand on the page, and their
    /// home shards are asked for them.
    pub(crate) fn channel_list(&mut self, cx: &mut Context, channels: ChannelList) {
        let ChannelList { list: key, slugs, total } = channels;
        let Some(list) = self.lists.get_mut(key) else { return };
        list.slugs.extend(slugs);
        list.total += total;
        list.waiting -= 1;
        if list.waiting > 0 {
            return;
        }
        let mut slugs = std::mem::take(&mut list.slugs);
        slugs.sort_unstable();
        let skip = (list.page - 1).saturating_mul(list.page_size);
        if skip < list.total && skip.saturating_add(list.page_size) > LISTED_MAX {
            let Some(list) = self.lists.remove(key) else { return };
            let text = format!("only the first {LISTED_MAX} channels are listed");
            let refused = Err(Refusal::field("page", text));
            return cx.answer(list.request, refused);
        }
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(slugs.len());
        let on_page: Vec<ChannelSlug> = slugs.drain(skip..).take(list.page_size as usize).collect();
        list.described = vec![None; on_page.len()];
        let app = list.app;
        let mut asked: Vec<(ShardId, Vec<ListedChannel>)> = Vec::new();
        for (position, slug) in on_page.into_iter().enumerate() {
            let home = cx.home_shard(&ChannelKey { app, slug: slug.clone() });
            let entry = ListedChannel { position: position as u32, slug };
            match asked.iter_mut().find(|(shard, _)| *shard == home) {
                Some((_, channels)) => channels.push(entry),
                None => asked.push((home, vec![entry])),
            }
        }
        if let Some(list) = self.lists.get_mut(key) {
            list.waiting = asked.len();
        }
        if asked.is_empty() {
            return self.list_done(cx, key);
        }
        for (home, channels) in asked {
            let request = DescribeChannels { shard: cx.shard, list: key, app, channels };
            cx.post_home(home, ToHome::DescribeChannels(Box::new(request)));
        }
    }

    /// Channels that one shard has described. With the last ones the list is answered.
    pub(crate) fn channels_described(&mut self, cx: &mut Context, described: ChannelsDescribed) {
        let ChannelsDescribed { list: key, channels } = described;
        let Some(list) = self.lists.get_mut(key) else { return };
        for DescribedChannel { position, json } in channels {
            if let Some(place) = list.described.get_mut(position as usize) {
                *place = json;
            }
        }
        list.waiting -= 1;
        if list.waiting == 0 {
            self.list_done(cx, key);
        }
    }

    fn list_done(&mut self, cx: &mut Context, key: ListKey) {
        let Some(list) = self.lists.remove(key) else { return };
        let PendingList { request, page, page_size, total, described, .. } = list;
        let mut body = br#"{"success":true,"data":["#.to_vec();
        // Those that went meanwhile are left out.
        for (index, json) in described.iter().flatten().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            body.extend_from_slice(json);
        }
        body.extend_from_slice(format!("],{}}}", page_end(page, page_size, total)).as_bytes());
        cx.answer(request, Ok((200, body.into())));
    }
}

fn change(body: &Body<'_>) -> Result<ChannelChange, Refusal> {
    let too_long = |field, most| Refusal::field(field, format!("must have at most {most} bytes"));
    if body.name.as_ref().is_some_and(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
        return Err(Refusal::field("name", format!("must have 1 to {NAME_BYTES_MAX} bytes")));
    }
    let description = body.description.as_ref().map(Option::as_deref);
    if description.flatten().is_some_and(|text| text.len() > DESCRIPTION_BYTES_MAX) {
        return Err(too_long("description", DESCRIPTION_BYTES_MAX));
    }
    if let Some(Some(metadata)) = body.metadata {
        if !metadata.get().starts_with('{') {
            return Err(Refusal::field("metadata", "must be an object or null"));
        }
        if metadata.get().len() > METADATA_BYTES_MAX {
            return Err(too_long("metadata", METADATA_BYTES_MAX));
        }
        json::check_depth("metadata", metadata)?;
    }
    Ok(ChannelChange {
        name: body.name.as_deref().map(Into::into),
        description: description.map(|text| text.map(Into::into)),
        is_private: body.is_private,
        presence: body.presence,
        metadata: body.metadata.map(|json| json.map(RawValue::to_owned)),
    })
}
