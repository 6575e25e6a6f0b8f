//! Publish requests: what a backend asks to be sent, parsed without building a tree.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::channel::ChannelSlug;
use crate::error::{ErrorCode, Refusal};
use crate::json::{self, Object};
use crate::limits::{
    BATCH_MESSAGES_MAX, CLIENT_ID_BYTES_MAX, EVENT_TYPE_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX,
};
use crate::record::Parts;

/// One checked publish. `content` is the sender's JSON, byte for byte.
#[derive(Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Where it goes.
    pub channel: ChannelSlug,
    /// Its event type, 1 to [`EVENT_TYPE_BYTES_MAX`] bytes.
    pub event_type: Cow<'a, str>,
    /// Who sends it, where the sender says so, at most [`CLIENT_ID_BYTES_MAX`] bytes.
    pub client_id: Option<Cow<'a, str>>,
    /// Any JSON value.
    pub content: &'a str,
    /// The idempotency key, where the sender gave one: 1 to [`IDEMPOTENCY_KEY_BYTES_MAX`] visible
    /// ASCII characters.
    pub key: Option<Cow<'a, str>>,
}

impl<'a> Publish<'a> {
    /// Parses the body of `POST /api/v1/publish`.
    ///
    /// # Errors
    /// A validation error, or `PAYLOAD_TOO_LARGE` where `data` is over `payload_bytes_max`.
    pub fn parse(body: &'a [u8], payload_bytes_max: usize) -> Result<Self, Refusal> {
        let body: Body<'_> = json::parse(body, "the body")?;
        let channel = body
            .channel
            .as_deref()
            .ok_or_else(|| Refusal::field("channel", "channel is required"))?;
        let channel = ChannelSlug::parse(channel)?;
        Ok(check(body.draft(), PUBLISH_FIELDS, payload_bytes_max)?.on(channel))
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
            #[serde(borrow)]
            id: Option<Cow<'a, str>>,
        }
        let Body { event_type, client_id, content, id } = json::parse(body, "the body")?;
        let content = Draft { event_type, client_id, content, id };
        Ok(check(content, ("eventType", "content"), payload_bytes_max)?.on(channel))
    }

    /// What is published, in the name of `client_id`.
    pub fn parts(&self, client_id: Option<&str>) -> Parts {
        Parts::new(&self.event_type, client_id, self.content)
    }

    /// Whether these are what [`Publish::parts`] makes.
    pub fn has(&self, parts: &Parts, client_id: Option<&str>) -> bool {
        let of_parts = (parts.event_type(), parts.client_id(), parts.content());
        of_parts == (&*self.event_type, client_id, self.content)
    }

    /// Parses the body of `POST /api/v1/publish/batch`: a JSON array of publishes, one publish, or
    /// one a line. A publish may name several `channels` in place of its `channel`. Each message
    /// comes with its own verdict, in the order of the body.
    ///
    /// # Errors
    /// A validation error where the body as a whole is not JSON or has no message, or
    /// `PAYLOAD_TOO_LARGE` where it has more than [`BATCH_MESSAGES_MAX`].
    pub fn parse_batch(
        body: &'a [u8],
        payload_bytes_max: usize,
    ) -> Result<Vec<Result<Self, Refusal>>, Refusal> {
        let items = parse_items(body)?;
        let mut messages = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Ok(Body { channel, channels: Some(channels), .. })
                    if channel.is_some() || channels.is_empty() =>
                {
                    let text = "a publish has either a channel or channels, at least one";
                    messages.push(Err(Refusal::field("channels", text)));
                }
                Ok(body) => {
                    let one = [body.channel.as_ref()];
                    let several = body.channels.iter().flatten().map(Some);
                    let named = one.into_iter().filter(|_| body.channels.is_none()).chain(several);
                    // However many channels it is for, it is looked at once.
                    let checked = check(body.draft(), PUBLISH_FIELDS, payload_bytes_max);
                    // More than the most are not looked at: the whole is refused below.
                    for channel in named.take(BATCH_MESSAGES_MAX + 1) {
                        let slug = channel
                            .ok_or_else(|| Refusal::field("channel", "channel is required"))
                            .and_then(|channel| Ok(ChannelSlug::parse(channel)?));
                        messages.push(slug.and_then(|slug| Ok(checked.clone()?.on(slug))));
                    }
                }
                Err(refusal) => messages.push(Err(refusal)),
            }
            if messages.len() > BATCH_MESSAGES_MAX {
                let text = format!("a batch has at most {BATCH_MESSAGES_MAX} messages");
                return Err(Refusal::new(ErrorCode::PayloadTooLarge, text));
            }
        }
        if messages.is_empty() {
            return Err(Refusal::new(ErrorCode::ValidationError, "the batch has no messages"));
        }
        Ok(messages)
    }
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow)]
    channels: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "clientId")]
    client_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "json::present")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
}

impl<'a> Body<'a> {
    fn draft(&self) -> Draft<'a> {
        let (event_type, client_id) = (self.event.clone(), self.client_id.clone());
        Draft { event_type, client_id, content: self.data, id: self.id.clone() }
    }
}

/// The items of a batch, each by itself right or wrong.
fn parse_items(body: &[u8]) -> Result<Vec<Result<Body<'_>, Refusal>>, Refusal> {
    match body.trim_ascii_start().first() {
        // Most batches have no wrong item; only one that has is looked at item by item.
        Some(b'[') => match json::parse_array::<Object<Body<'_>>>(body, "the body") {
            Ok(items) => Ok(items.into_iter().map(|Object(item)| Ok(item)).collect()),
            Err(_) => {
                let items: Vec<&RawValue> = json::parse_array(body, "the body")?;
                Ok(items.iter().map(|i| json::parse(i.get().as_bytes(), "the item")).collect())
            }
        },
        _ => match json::parse(body, "the body") {
            Ok(only) => Ok(vec![Ok(only)]),
            Err(refusal) => {
                let lines = body.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
                let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
                match lines.as_slice() {
                    [] | [_] => Err(refusal),
                    lines => Ok(lines.iter().map(|l| json::parse(l, "the line")).collect()),
                }
            }
        },
    }
}

/// A publish as it was sent, but for its channel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft<'a> {
    pub(crate) event_type: Option<Cow<'a, str>>,
    pub(crate) client_id: Option<Cow<'a, str>>,
    pub(crate) content: Option<&'a RawValue>,
    /// The idempotency key.
    pub(crate) id: Option<Cow<'a, str>>,
}

/// What event type and content are called in `POST /api/v1/publish`, and on the WebSocket.
pub(crate) const PUBLISH_FIELDS: (&str, &str) = ("event", "data");

/// Checks an idempotency key.
///
/// # Errors
/// A validation error of `field`.
pub fn check_key(field: &'static str, key: &str) -> Result<(), Refusal> {
    let is_good = (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_graphic());
    if is_good {
        return Ok(());
    }
    let text = format!("must have 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters");
    Err(Refusal::field(field, text))
}

/// A publish that was checked, but for its channel.
#[derive(Clone, Debug)]
pub(crate) struct Checked<'a> {
    event_type: Cow<'a, str>,
    client_id: Option<Cow<'a, str>>,
    content: &'a str,
    key: Option<Cow<'a, str>>,
}

impl<'a> Checked<'a> {
    pub(crate) fn on(self, channel: ChannelSlug) -> Publish<'a> {
        let Self { event_type, client_id, content, key } = self;
        Publish { channel, event_type, client_id, content, key }
    }
}

pub(crate) fn check<'a>(
    Draft { event_type, client_id, content, id }: Draft<'a>,
    (event_field, content_field): (&'static str, &'static str),
    payload_bytes_max: usize,
) -> Result<Checked<'a>, Refusal> {
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
            field: Some(content_field.into()),
            ..Refusal::new(ErrorCode::PayloadTooLarge, text)
        });
    }
    json::check_depth(content_field, content)?;
    if let Some(key) = &id {
        check_key("id", key)?;
    }
    Ok(Checked { event_type, client_id, content: content.get(), key: id })
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
        let field =
            |body: &str| Publish::parse(body.as_bytes(), 10).unwrap_err().field.unwrap_or_default();
        assert_eq!(field(r#"{"data":1}"#), "channel");
        assert_eq!(field(r#"{"channel":"a b","data":1}"#), "channel");
        assert_eq!(field(r#"{"channel":"c"}"#), "data");
        assert_eq!(field(r#"{"channel":"c","event":"","data":1}"#), "event");
        assert_eq!(field(r#"{"channel":"c","data":"01234567890"}"#), "data");
        assert_eq!(field("["), "");
        let deep = format!(r#"{{"channel":"c","data":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        assert_eq!(Publish::parse(deep.as_bytes(), 1000).unwrap_err().field, Some("data".into()));
    }
    #[test]
    fn batches_in_their_three_forms() {
        let parse = |body: &str| {
            Publish::parse_batch(body.as_bytes(), 10).map(|messages| {
                let word = |message: Result<Publish<'_>, Refusal>| match message {
                    Ok(publish) => format!("{}={}", publish.channel, publish.content),
                    Err(refusal) => format!("!{}", refusal.field.unwrap_or_default()),
                };
                messages.into_iter().map(word).collect::<Vec<_>>().join(" ")
            })
        };
        let array = r#" [{"channel":"a","data":1},{"channel":"b","data":[2]}]"#;
        assert_eq!(parse(array).unwrap(), "a=1 b=[2]");
        let lines = "{\"channel\":\"a\",\"data\":1}\r\n\n{\"channel\":\"b\",\"data\":2}\n";
        assert_eq!(parse(lines).unwrap(), "a=1 b=2");
        assert_eq!(parse("{\n\"channels\":[\"a\",\"b c\"],\n\"data\":1}").unwrap(), "a=1 !channel");
        let wrong =
            r#"[{"channel":"a","data":1},7,{"data":1},{"channel":"b","data":"0123456789"}]"#;
        assert_eq!(parse(wrong).unwrap(), "a=1 ! !channel !data");
        assert_eq!(parse(r#"[["a",null,null,null,1,null]]"#).unwrap(), "!");
        assert_eq!(parse("{\"channel\":\"a\",\"data\":1}\nx").unwrap(), "a=1 !");
        assert_eq!(parse(r#"{"channels":[],"data":1}"#).unwrap(), "!channels");
        assert_eq!(parse(r#"{"channel":"a","channels":["b"],"data":1}"#).unwrap(), "!channels");
        for empty in ["", " ", "[]", "[1", "x"] {
            assert_eq!(parse(empty).unwrap_err().code, ErrorCode::ValidationError, "{empty:?}");
        }
        let many = |n: usize| format!("[{}]", vec![r#"{"channel":"a","data":1}"#; n].join(","));
        assert!(parse(&many(BATCH_MESSAGES_MAX)).is_ok());
        let too_many = parse(&many(BATCH_MESSAGES_MAX + 1)).unwrap_err();
        assert_eq!(too_many.code, ErrorCode::PayloadTooLarge);
    }
}
