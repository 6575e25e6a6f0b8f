//! Channels: `/api/v1/channels…`. Each is described and changed at its home; a list is put together from
//! all homes.

use std::borrow::Cow;

use pushflo_protocol::answer::{self, Pagination};
use pushflo_protocol::limits::{DESCRIPTION_BYTES_MAX, METADATA_BYTES_MAX, NAME_BYTES_MAX};
use pushflo_protocol::{ChannelSlug, Refusal, json};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Call;
use super::action::{self, Action, Awaited, ListQuery};
use super::apps::given;
use super::messages::{PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, page, page_size};
use super::reply::Reply;
use crate::accounts::Role;
use crate::context::Context;
use crate::ids::{AppId, ChannelKey};
use crate::mail::{ChannelCall, ChannelChange, ChannelInfo, ChannelRequest, GivenJson, ToHome};

/// Members on a page of presence if the request does not say, and at most.
const MEMBERS_DEFAULT: u64 = 100;
const MEMBERS_MAX: u64 = 1_000;

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

pub(super) fn channel(cx: &mut Context, call: &Call<'_>, slug: &str) -> Result<Action, Refusal> {
    let app = call.authorize(cx, Role::Secret)?.app.id;
    Ok(ask(cx, call, app, ChannelSlug::parse(slug)?, ChannelCall::Describe, Awaited::Nothing))
}

pub(super) fn presence(cx: &mut Context, call: &Call<'_>, slug: &str) -> Result<Action, Refusal> {
    let app = call.authorize(cx, Role::Secret)?.app.id;
    let page_size = page_size(call.request, MEMBERS_DEFAULT, MEMBERS_MAX)?;
    let page = page(call.request)?;
    let asked = ChannelCall::Presence { page, page_size };
    let awaited = Awaited::Members { page, page_size };
    Ok(ask(cx, call, app, ChannelSlug::parse(slug)?, asked, awaited))
}

pub(super) fn create_channel(cx: &mut Context, call: &Call<'_>) -> Result<Action, Refusal> {
    let app = call.authorize(cx, Role::Manage)?.app.id;
    let body: Body<'_> = json::parse(&call.request.body, "the body")?;
    let slug = body.slug.as_deref();
    let slug = slug.ok_or_else(|| Refusal::field("slug", "slug is required"))?;
    let slug = slug_in("slug", slug)?;
    if body.name.is_none() {
        return Err(Refusal::field("name", "name is required"));
    }
    let change = ChannelCall::Create(Box::new(change(&body)?));
    Ok(ask(cx, call, app, slug, change, Awaited::Nothing))
}

pub(super) fn change_channel(
    cx: &mut Context,
    call: &Call<'_>,
    slug: &str,
) -> Result<Action, Refusal> {
    let app = call.authorize(cx, Role::Manage)?.app.id;
    let slug = ChannelSlug::parse(slug)?;
    let body: Body<'_> = json::parse(&call.request.body, "the body")?;
    let change = ChannelCall::Change(Box::new(change(&body)?));
    Ok(ask(cx, call, app, slug, change, Awaited::Nothing))
}

pub(super) fn delete_channel(
    cx: &mut Context,
    call: &Call<'_>,
    slug: &str,
) -> Result<Action, Refusal> {
    let app = call.authorize(cx, Role::Manage)?.app.id;
    Ok(ask(cx, call, app, ChannelSlug::parse(slug)?, ChannelCall::Delete, Awaited::Nothing))
}

pub(super) fn list_channels(cx: &mut Context, call: &Call<'_>) -> Result<Action, Refusal> {
    let app = call.authorize(cx, Role::Secret)?.app.id;
    let page_size = page_size(call.request, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)?;
    let after = call.request.query_parameter("after");
    let after = after.map(|after| slug_in("after", &after));
    let (after, page) = (after.transpose()?, page(call.request)?);
    Ok(Action::List(ListQuery { app, after, page, page_size, is_usage: false }))
}

/// A channel's name in a field of a request.
fn slug_in(field: &'static str, slug: &str) -> Result<ChannelSlug, Refusal> {
    ChannelSlug::parse(slug).map_err(|error| Refusal::field(field, error.to_string()))
}

/// The answer to a list; what is gone meanwhile is left out. `next` is the name to go on behind.
pub(crate) fn list_reply(
    query: &ListQuery,
    channels: &[ChannelInfo],
    total: u64,
    next: Option<&ChannelSlug>,
) -> Reply {
    let channels: Vec<_> = channels.iter().map(action::channel).collect();
    let pagination = Pagination::new(query.page, query.page_size, total).before(next);
    Reply::json(200, answer::success_page(channels, pagination))
}

fn ask(
    cx: &Context,
    call: &Call<'_>,
    app: AppId,
    slug: ChannelSlug,
    asked: ChannelCall,
    awaited: Awaited,
) -> Action {
    let channel = ChannelKey { app, slug };
    let home = cx.home_shard(&channel);
    let request = ChannelRequest { request: call.id, channel, call: asked };
    Action::Ask { home, mail: ToHome::Channel(Box::new(request)), awaited }
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
        metadata: body.metadata.map(|json| GivenJson(json.map(RawValue::to_owned))),
    })
}
