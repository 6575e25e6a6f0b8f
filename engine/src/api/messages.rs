//! `GET /api/v1/channels/:slug/messages`: history, newest first.

use pushflo_protocol::http::Request;
use pushflo_protocol::{ChannelSlug, Refusal};

use super::Call;
use super::action::{Action, Awaited};
use crate::accounts::Role;
use crate::context::Context;
use crate::ids::ChannelKey;
use crate::log::PageQuery;
use crate::mail::{ReadPage, ToHome};

/// Messages, or what else there are pages of, on a page if the request does not say.
pub(super) const PAGE_SIZE_DEFAULT: u64 = 25;

/// Most of them on a page.
pub(super) const PAGE_SIZE_MAX: u64 = 100;

/// Largest number of a page, and latest time, that may be asked for: 2^53 - 1, beyond which not every
/// client counts exactly.
const NUMBER_MAX: u64 = (1 << 53) - 1;

pub(super) fn messages(cx: &mut Context, call: &Call<'_>, slug: &str) -> Result<Action, Refusal> {
    let app = call.authorize(cx, Role::Secret)?.app.id;
    let channel = ChannelKey { app, slug: ChannelSlug::parse(slug)? };
    let query = page_query(call.request)?;
    let (page, page_size) = (query.page, query.page_size);
    let awaited = Awaited::History { channel: channel.slug.clone(), page, page_size };
    let home = cx.home_shard(&channel);
    let mail = ToHome::ReadPage(Box::new(ReadPage { request: call.id, channel, query }));
    Ok(Action::Ask { home, mail, awaited })
}

fn page_query(request: &Request<'_>) -> Result<PageQuery, Refusal> {
    Ok(PageQuery {
        page: page(request)?,
        page_size: page_size(request, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)?,
        event_type: request.query_parameter("eventType").map(Into::into),
        after_ms: number(request, "after", 0, NUMBER_MAX)?,
        before_ms: number(request, "before", 0, NUMBER_MAX)?,
    })
}

/// Which page is asked for, from 1.
pub(super) fn page(request: &Request<'_>) -> Result<u64, Refusal> {
    Ok(number(request, "page", 1, NUMBER_MAX)?.unwrap_or(1))
}

/// How large the pages are to be.
pub(super) fn page_size(request: &Request<'_>, default: u64, most: u64) -> Result<u64, Refusal> {
    Ok(number(request, "pageSize", 1, most)?.unwrap_or(default))
}

fn number(
    request: &Request<'_>,
    name: &'static str,
    least: u64,
    most: u64,
) -> Result<Option<u64>, Refusal> {
    let Some(text) = request.query_parameter(name) else { return Ok(None) };
    // Rust's own parser would take a sign as well.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(value) if digits && (least..=most).contains(&value) => Ok(Some(value)),
        _ => {
            let text = format!("{name} must be a whole number from {least} to {most}");
            Err(Refusal::field(name, text))
        }
    }
}
