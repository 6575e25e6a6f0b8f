//! Pages of history: how they are asked for, and how they are told.

use bytes::Bytes;
use pushflo_protocol::{Message, Refusal};

use crate::ids::ChannelKey;

/// The result of a request that somebody worked on: status and JSON body, or why not.
pub type Outcome = Result<(u16, Bytes), Refusal>;

/// A request for a page, newest first.
#[derive(Clone, Debug)]
pub struct PageQuery {
    /// Which page, from 1.
    pub page: u64,
    /// Messages on a page, 1 to 100.
    pub page_size: u64,
    /// Only this event type.
    pub event_type: Option<String>,
    /// Only messages later than this, in Unix milliseconds.
    pub after_ms: Option<u64>,
    /// Only messages earlier than this, in Unix milliseconds.
    pub before_ms: Option<u64>,
}

/// A page as the body of its answer.
pub(crate) fn page_body<M: std::borrow::Borrow<Message>>(
    channel: &ChannelKey,
    query: &PageQuery,
    items: &[M],
    total: u64,
) -> Bytes {
    let mut body = br#"{"success":true,"data":{"items":["#.to_vec();
    for (index, message) in items.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        message.borrow().push_history_item(&channel.slug, &mut body);
    }
    let end = page_end(query.page, query.page_size, total);
    body.extend_from_slice(format!("],{end}}}}}").as_bytes());
    body.into()
}

/// The field `pagination` of an answer that is a page.
pub(crate) fn page_end(page: u64, page_size: u64, total: u64) -> String {
    let pages = total.div_ceil(page_size);
    format!(
        r#""pagination":{{"page":{page},"pageSize":{page_size},"total":{total},"totalPages":{pages}}}"#
    )
}
