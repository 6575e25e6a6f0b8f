//! `GET /api/v1/channels/:slug/messages`: history, newest first.

use pushflo_protocol::http::Request;
use pushflo_protocol::{ChannelSlug, Refusal};

use crate::accounts::Role;
use crate::context::Context;
use crate::edge::Answering;
use crate::edge::Edge;
use crate::ids::{ChannelKey, RequestId};
use crate::mail::ReadPage;
use crate::mail::ToHome;
use crate::mail::no_room;
use crate::pages::PageQuery;

/// Messages, or what else there are pages of, on a page if the request does not say.
pub(super) const PAGE_SIZE_DEFAULT: u64 = 25;

/// Most of them on a page.
pub(super) const PAGE_SIZE_MAX: u64 = 100;

/// Largest number of a page, and latest time, that may be asked for: 2^53 - 1, beyond which not every
/// client counts exactly.
const NUMBER_MAX: u64 = (1 << 53) - 1;

impl Edge {
    pub(super) fn messages(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
        slug: &str,
    ) -> Result<Answering, Refusal> {
        let access = self.authorize(cx, id, request, Role::Secret)?;
        let channel = ChannelKey { app: access.app.id, slug: ChannelSlug::parse(slug)? };
        let query = page_query(request)?;
        let home = cx.home_shard(&channel);
        if cx.is_way_full(home) {
            return Err(no_room());
        }
        let page = ReadPage { request: id, channel, query };
        cx.post_home(home, ToHome::ReadPage(Box::new(page)));
        Ok(Answering::Later)
    }
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
