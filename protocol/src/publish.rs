//! Publish requests: what a backend asks to be sent, parsed without building a tree.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::channel::ChannelSlug;
use crate::error::{ErrorCode, Refusal};
use crate::json;
use crate::limits::{CLIENT_ID_BYTES_MAX, EVENT_TYPE_BYTES_MAX};

/// One checked publish. `content` is the sender's JSON, byte for byte.
#[derive(Debug)]
pub struct Publish<'a> {
    /// Where it goes.
    pub channel: ChannelSlug,
    /// Its event type, 1 to [`EVENT_TYPE_BYTES_MAX`] bytes.
    pub event_type: Cow<'a, str>,
    /// Who sends it, where the sender says so, at most [`CLIENT_ID_BYTES_MAX`] bytes.
    pub client_id: Option<Cow<'a, str>>,
    /// Any JSON value.
    pub content: &'a str,
}

impl<'a> Publish<'a> {
    /// Parses the body of `POST /api/v1/publish`.
    ///
    /// # Errors
    /// A validation error, or `PAYLOAD_TOO_LARGE` where `data` is over `payload_bytes_max`.
    pub fn parse(body: &'a [u8], payload_bytes_max: usize) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow)]
            channel: Option<Cow<'a, str>>,
            #[serde(borrow)]
            event: Option<Cow<'a, str>>,
            #[serde(borrow, rename = "clientId")]
            client_id: Option<Cow<'a, str>>,
            #[serde(borrow, default, deserialize_with = "json::present")]
            data: Option<&'a RawValue>,
        }
        let body: Body<'_> = json::parse(body, "the body")?;
        let channel =
            body.channel.ok_or_else(|| Refusal::field("channel", "channel is required"))?;
        let channel = ChannelSlug::parse(&channel)
            .map_err(|error| Refusal::field("channel", error.to_string()))?;
        let names = ("event", "data");
        check(channel, body.event, body.client_id, body.data, names, payload_bytes_max)
    }

    /// Parses the body of `POST /api/v1/channels/:slug/messages`, `channel` being the slug.
    ///
    /// # Errors
    /// As for [`Publish::parse`].
    pub fn parse_message(
        channel: ChannelSlug,
        body: &'a [u8],
        payload_bytes_max: usize,
    ) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow, rename = "eventType")]
            event_type: Option<Cow<'a, str>>,
            #[serde(borrow, rename = "clientId")]
            client_id: Option<Cow<'a, str>>,
            #[serde(borrow, default, deserialize_with = "json::present")]
            content: Option<&'a RawValue>,
        }
        let body: Body<'_> = json::parse(body, "the body")?;
        let names = ("eventType", "content");
        check(channel, body.event_type, body.client_id, body.content, names, payload_bytes_max)
    }
}

fn check<'a>(
    channel: ChannelSlug,
    event_type: Option<Cow<'a, str>>,
    client_id: Option<Cow<'a, str>>,
    content: Option<&'a RawValue>,
    (event_field, content_field): (&'static str, &'static str),
    payload_bytes_max: usize,
) -> Result<Publish<'a>, Refusal> {
    let event_type = event_type.unwrap_or(Cow::Borrowed("message"));
    if event_type.is_empty() || event_type.len() > EVENT_TYPE_BYTES_MAX {
        let text = format!("must have 1 to {EVENT_TYPE_BYTES_MAX} bytes");
        return Err(Refusal::field(event_field, text));
    }
    if client_id.as_ref().is_some_and(|id| id.len() > CLIENT_ID_BYTES_MAX) {
        let text = format!("must have at most {CLIENT_ID_BYTES_MAX} bytes");
        return Err(Refusal::field("clientId", text));
    }
    let content = content
        .ok_or_else(|| Refusal::field(content_field, format!("{content_field} is required")))?;
    if content.get().len() > payload_bytes_max {
        let text = format!(
            "{content_field} has {} bytes, at most {payload_bytes_max} are allowed",
            content.get().len()
        );
        return Err(Refusal {
            field: Some(content_field),
            ..Refusal::new(ErrorCode::PayloadTooLarge, text)
        });
    }
    json::check_depth(content_field, content)?;
    Ok(Publish { channel, event_type, client_id, content: content.get() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_comes_through_byte_for_byte() {
        let body =
            br#"{"channel":"orders","data":{ "b":12345678901234567890123, "a" : 1.0 },"x":[]}"#;
        let publish = Publish::parse(body, 100).unwrap();
        assert_eq!(publish.content, r#"{ "b":12345678901234567890123, "a" : 1.0 }"#);
        assert_eq!(publish.event_type, "message");
        assert_eq!(Publish::parse(br#"{"channel":"c","data":null}"#, 9).unwrap().content, "null");
    }

    #[test]
    fn each_mistake_names_its_field() {
        let field = |body: &str| Publish::parse(body.as_bytes(), 10).unwrap_err().field;
        assert_eq!(field(r#"{"data":1}"#), Some("channel"));
        assert_eq!(field(r#"{"channel":"a b","data":1}"#), Some("channel"));
        assert_eq!(field(r#"{"channel":"c"}"#), Some("data"));
        assert_eq!(field(r#"{"channel":"c","event":"","data":1}"#), Some("event"));
        assert_eq!(field(r#"{"channel":"c","data":"01234567890"}"#), Some("data"));
        assert_eq!(field("["), None);
        let deep = format!(r#"{{"channel":"c","data":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        assert_eq!(Publish::parse(deep.as_bytes(), 1000).unwrap_err().field, Some("data"));
    }
}
