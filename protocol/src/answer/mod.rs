//! Answers of the HTTP API, as derived types, and the one envelope around them.

mod cluster;

use std::fmt::Display;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

pub use cluster::{
    ClusterStatus, NatsStatus, NodeNumbers, NodeState, NodeStatus, ReplicaStatus, SlotStatus,
    StreamStatus,
};

use crate::channel::ChannelSlug;
use crate::record::{Receipt, Record};
use crate::time::iso8601;

/// `{"success":true,"data":…}`, with a page's place among the others where it is one.
#[derive(Serialize)]
struct Success<T> {
    success: bool,
    data: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    pagination: Option<Pagination>,
}

/// The body of an answer that succeeded.
pub fn success(data: impl Serialize) -> Bytes {
    encode(&Success { success: true, data, pagination: None })
}

/// The body of an answer that is a page of a list.
pub fn success_page(data: impl Serialize, pagination: Pagination) -> Bytes {
    encode(&Success { success: true, data, pagination: Some(pagination) })
}

/// Which page of how many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pagination {
    /// This page, from 1.
    pub page: u64,
    /// Most things on a page.
    pub page_size: u64,
    /// How many things there are.
    pub total: u64,
    /// How many pages they are.
    pub total_pages: u64,
    /// Where a list that goes by name goes on: its `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Pagination {
    /// The page's place among `total` things.
    pub fn new(page: u64, page_size: u64, total: u64) -> Self {
        let total_pages = total.div_ceil(page_size.max(1));
        Self { page, page_size, total, total_pages, next: None }
    }

    /// With the name behind which the list goes on, if it does.
    pub fn before(self, next: Option<&ChannelSlug>) -> Self {
        Self { next: next.map(ToString::to_string), ..self }
    }
}

/// What a publisher is answered.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Published<'a> {
    #[serde(serialize_with = "text")]
    id: crate::record::MessageId,
    channel_slug: &'a str,
    event_type: &'a str,
    client_id: Option<&'a str>,
    delivered: u64,
    created_at: String,
    offset: u64,
    #[serde(serialize_with = "text")]
    epoch: crate::Epoch,
}

impl<'a> Published<'a> {
    /// The answer to a publish of these parts.
    pub fn new(
        channel: &'a ChannelSlug,
        event_type: &'a str,
        client_id: Option<&'a str>,
        receipt: &Receipt,
    ) -> Self {
        Self {
            id: receipt.id,
            channel_slug: channel.as_str(),
            event_type,
            client_id,
            delivered: receipt.delivered,
            created_at: iso8601(receipt.timestamp_ms),
            offset: receipt.offset.0,
            epoch: receipt.epoch,
        }
    }
}

/// A page of a channel's history.
#[derive(Clone, Debug, Serialize)]
pub struct History<'a> {
    /// Messages, newest first.
    pub items: Vec<HistoryItem<'a>>,
    /// Which page it is.
    pub pagination: Pagination,
}

/// A message of a channel's history.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryItem<'a> {
    #[serde(serialize_with = "text")]
    id: crate::record::MessageId,
    channel: &'a str,
    event_type: &'a str,
    client_id: Option<&'a str>,
    content: &'a RawValue,
    timestamp: u64,
    created_at: String,
    offset: u64,
}

impl<'a> HistoryItem<'a> {
    /// A record of a channel. A content that is not JSON, which only damage can have made of it, is told
    /// as `null`.
    pub fn new(channel: &'a ChannelSlug, record: &'a Record) -> Self {
        let content = serde_json::from_str(record.parts.content());
        debug_assert!(content.is_ok(), "a content is JSON");
        Self {
            id: record.id,
            channel: channel.as_str(),
            event_type: record.parts.event_type(),
            client_id: record.parts.client_id(),
            content: content.unwrap_or(RawValue::NULL),
            timestamp: record.timestamp_ms,
            created_at: iso8601(record.timestamp_ms),
            offset: record.offset.0,
        }
    }
}

/// A channel.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Channel<'a> {
    /// `ch_` and the epoch of its log: another one after it was deleted and made again.
    pub id: String,
    /// What people call it.
    pub name: &'a str,
    /// Its name in addresses and commands.
    pub slug: &'a str,
    /// What it is for.
    pub description: Option<&'a str>,
    /// Whether subscribing needs a token that grants it.
    pub is_private: bool,
    /// A JSON object of its owner's.
    pub metadata: Option<&'a RawValue>,
    /// All messages it ever had.
    pub message_count: u64,
    /// When it was first used.
    pub created_at: Iso8601,
    /// When it was last changed, or had its last message.
    pub updated_at: Iso8601,
    /// Whether its members are known to each other.
    pub presence: bool,
    /// How many are subscribed.
    pub subscribers: u64,
}

/// Who is subscribed to a channel.
#[derive(Clone, Debug, Serialize)]
pub struct Members<'a> {
    /// How many subscribers there are, members or not.
    pub subscribers: u64,
    /// How many members.
    pub count: u64,
    /// Those of the page.
    pub members: Vec<Member<'a>>,
}

/// A member of a channel, as others see it.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Member<'a> {
    /// Whom it says it is.
    pub client_id: &'a str,
    /// What its token carries.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "raw_if_given")]
    pub data: Option<&'a str>,
    /// Whether the app's backend, or the server, vouched for the client id. One that did not is a name
    /// that its holder chose.
    #[serde(rename = "verified", skip_serializing_if = "is_true")]
    pub is_verified: bool,
}

/// An app.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct App<'a, S> {
    /// `app_` and its number.
    pub id: String,
    /// What its owner calls it.
    pub name: &'a str,
    /// The name of its plan.
    pub plan: &'a str,
    /// What its owner set.
    pub settings: &'a S,
    /// When it was made.
    pub created_at: Iso8601,
    /// When it was last changed.
    pub updated_at: Iso8601,
    /// Its keys, shown only when it is made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Key<'a>>,
}

/// A key of an app.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Key<'a> {
    /// Its public name.
    pub id: String,
    /// What it may do.
    pub role: &'a str,
    /// What its owner calls it.
    pub name: Option<&'a str>,
    /// When it was made.
    pub created_at: Iso8601,
    /// The key itself, shown only when it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
}

/// What an app uses, and may use.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage<'a> {
    /// The name of its plan.
    pub plan: &'a str,
    /// The calendar month (UTC) that messages are counted in.
    pub month: String,
    /// WebSocket connections now.
    pub connections: u64,
    /// Channels now.
    pub channels: u64,
    /// Messages published in that month.
    pub messages_this_month: u64,
    /// What it may use.
    pub limits: UsageLimits,
}

/// What an app may use; what is absent has no limit but the server's.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageLimits {
    /// WebSocket connections at a time.
    pub connections: Option<u64>,
    /// Messages in a calendar month.
    pub messages_per_month: Option<u64>,
    /// Channels at a time.
    pub channels: Option<u64>,
    /// Publishes in a second.
    pub publishes_per_second: Option<u64>,
    /// Subscriptions begun in a second.
    pub subscribes_per_second: Option<u64>,
    /// Bytes of the content of a message.
    pub payload_bytes: Option<u64>,
    /// Subscriptions of one connection.
    pub subscriptions_per_connection: Option<u64>,
    /// How long history is kept, in milliseconds.
    pub history_age_ms: u64,
}

/// A connection token.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Token<'a> {
    /// A JSON Web Token (RFC 7519).
    pub token: &'a str,
    /// When it ends.
    pub expires_at: Iso8601,
    /// Where to connect with it.
    pub endpoint: &'a str,
    /// Whom it lets in.
    pub client_id: &'a str,
}

/// What became of the messages of a batch.
#[derive(Debug, Serialize)]
pub struct Batch {
    /// How many were published.
    pub published: usize,
    /// How many were refused.
    pub failed: usize,
    /// What each would be answered if it came alone, in the order of the batch.
    pub results: Vec<Box<RawValue>>,
}

/// Whether a server is ready for traffic.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    /// Whether it is.
    pub ready: bool,
    /// Why it is not.
    pub reasons: Vec<&'static str>,
    /// The server's time.
    pub timestamp: Iso8601,
}

impl Ready {
    /// The body, which has no envelope.
    pub fn to_json(&self) -> Bytes {
        encode(self)
    }
}

/// How the server is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Health {
    /// `ok`, or what is not.
    pub status: &'static str,
    /// The server's time.
    pub timestamp: Iso8601,
}

impl Health {
    /// The body, which has no envelope.
    pub fn to_json(self) -> Bytes {
        encode(&self)
    }
}

fn is_true(value: &bool) -> bool {
    *value
}

/// What is JSON already; what is not is written as `null`.
fn raw_if_given<S: Serializer>(text: &Option<&str>, serializer: S) -> Result<S::Ok, S::Error> {
    let raw = text.and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    raw.serialize(serializer)
}

/// What is written as its text.
fn text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A time in Unix milliseconds that is written as ISO 8601.
#[derive(Clone, Copy, Debug)]
pub struct Iso8601(pub u64);

impl Serialize for Iso8601 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&iso8601(self.0))
    }
}

/// What derives its form has one, and memory takes it.
fn encode(value: &impl Serialize) -> Bytes {
    let body = serde_json::to_vec(value);
    debug_assert!(body.is_ok(), "an answer has a JSON form");
    body.unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, Offset};
    use crate::record::{MessageId, Parts};

    #[test]
    fn a_record_is_told_as_it_was_published() {
        let channel = ChannelSlug::parse("orders").unwrap();
        let record = Record {
            id: MessageId::new(1_700_000_000_000, 42),
            offset: Offset(7),
            prev: Offset(6),
            timestamp_ms: 1_700_000_000_000,
            parts: Parts::new("new \"order\"", None, r#"{"a": 12345678901234567890}"#),
        };
        let items = vec![HistoryItem::new(&channel, &record)];
        let pagination = Pagination::new(2, 3, 4);
        let body = success(History { items, pagination });
        assert_eq!(
            str::from_utf8(&body).unwrap(),
            format!(
                r#"{{"success":true,"data":{{"items":[{{"id":"{}","channel":"orders","eventType":"new \"order\"","clientId":null,"content":{{"a": 12345678901234567890}},"timestamp":1700000000000,"createdAt":"2023-11-14T22:13:20.000Z","offset":7}}],"pagination":{{"page":2,"pageSize":3,"total":4,"totalPages":2}}}}}}"#,
                record.id
            )
        );
        let receipt = Receipt {
            id: record.id,
            offset: record.offset,
            epoch: Epoch(1),
            timestamp_ms: record.timestamp_ms,
            delivered: 3,
        };
        let body = success(Published::new(&channel, "e", Some("me"), &receipt));
        assert_eq!(
            str::from_utf8(&body).unwrap(),
            format!(
                r#"{{"success":true,"data":{{"id":"{}","channelSlug":"orders","eventType":"e","clientId":"me","delivered":3,"createdAt":"2023-11-14T22:13:20.000Z","offset":7,"epoch":"0000000000001"}}}}"#,
                record.id
            )
        );
    }
}
