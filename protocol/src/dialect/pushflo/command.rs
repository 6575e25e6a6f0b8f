//! What a WebSocket client says.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::channel::ChannelSlug;
use crate::error::{ErrorCode, Refusal};
use crate::json::{self, Object};
use crate::limits::REFERENCE_BYTES_MAX;
use crate::position::{Epoch, Offset, Start, StreamPosition};
use crate::publish::{self, Draft, PUBLISH_FIELDS, Publish};

/// One command, checked.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Wants the messages of a channel, from now or from somewhere before.
    Subscribe {
        /// The channel.
        channel: ChannelSlug,
        /// What is wanted of the past.
        start: Start,
        /// Whether it wants to know who else is there.
        presence: bool,
    },
    /// Publishes a message.
    Publish {
        /// The message.
        publish: Publish<'a>,
        /// What the answer is to carry, at most [`REFERENCE_BYTES_MAX`] bytes.
        reference: Option<Cow<'a, str>>,
    },
    /// Brings a fresh connection token.
    Refresh {
        /// The token.
        token: Cow<'a, str>,
    },
    /// Wants no more messages of a channel.
    Unsubscribe {
        /// The channel.
        channel: ChannelSlug,
    },
    /// Wants a `pong`.
    Ping,
    /// Says that a message was received; counted, not answered.
    Ack,
}

/// Why a command is not done, and what of it is told back.
#[derive(Debug, PartialEq, Eq)]
pub struct RefusedCommand<'a> {
    /// Why.
    pub refusal: Refusal,
    /// The channel it concerns, where the command named a valid one.
    pub channel: Option<ChannelSlug>,
    /// The command's `ref`; one that is over its limit is left out, since a part of it would be another.
    pub reference: Option<Cow<'a, str>>,
}

impl<'a> RefusedCommand<'a> {
    /// The refusal of what `text` asked for. What is told back is read from it once more, whatever else
    /// is wrong with it, as long as it is JSON.
    pub fn new(refusal: Refusal, text: &'a str) -> Self {
        /// Fields that may be of any kind.
        #[derive(Deserialize, Default)]
        struct Told<'a> {
            #[serde(borrow)]
            channel: Option<&'a RawValue>,
            #[serde(borrow, rename = "ref")]
            reference: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        let Told { channel, reference } =
            serde_json::from_str(text).map(|Object(told)| told).unwrap_or_default();
        let read = |value: &'a RawValue| {
            serde_json::from_str(value.get()).ok().map(|Text(text): Text<'a>| text)
        };
        let channel = channel.and_then(read);
        let channel = channel.and_then(|channel| ChannelSlug::parse(&channel).ok());
        let reference = reference.and_then(read).filter(|r| r.len() <= REFERENCE_BYTES_MAX);
        Self { refusal, channel, reference }
    }
}

impl<'a> Command<'a> {
    /// Parses one text message; `payload_bytes_max` bounds the content of a publish.
    ///
    /// # Errors
    /// The refusal, with what of the command is told back.
    pub fn parse(text: &'a str, payload_bytes_max: usize) -> Result<Self, RefusedCommand<'a>> {
        Self::parse_text(text, payload_bytes_max)
            .map_err(|refusal| RefusedCommand::new(refusal, text))
    }

    fn parse_text(text: &'a str, payload_bytes_max: usize) -> Result<Self, Refusal> {
        let frame: Frame<'a> = json::parse(text.as_bytes(), "the message")?;
        let kind = frame.kind.as_deref().ok_or(Refusal::field("type", "type is required"))?;
        match kind {
            "subscribe" => {
                let (channel, start) = (frame.channel()?, frame.start()?);
                let presence = frame.presence.unwrap_or_default();
                Ok(Self::Subscribe { channel, start, presence })
            }
            "unsubscribe" => Ok(Self::Unsubscribe { channel: frame.channel()? }),
            "publish" => frame.publish(payload_bytes_max),
            "refresh" => {
                let token = frame.token.ok_or(Refusal::field("token", "token is required"))?;
                Ok(Self::Refresh { token })
            }
            "ping" => Ok(Self::Ping),
            "ack" => Ok(Self::Ack),
            other => {
                let known = "known are subscribe, unsubscribe, publish, refresh, ping and ack";
                let shown: String = other.chars().take(32).collect();
                let message = format!("unknown type {shown:?}, {known}");
                Err(Refusal::new(ErrorCode::ValidationError, message))
            }
        }
    }
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow)]
    recover: Option<Object<Recover<'a>>>,
    replay: Option<Object<Replay>>,
    presence: Option<bool>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "json::present")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "ref")]
    reference: Option<Cow<'a, str>>,
    #[serde(borrow)]
    token: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Recover<'a> {
    #[serde(borrow)]
    epoch: Cow<'a, str>,
    #[serde(deserialize_with = "json::unsigned")]
    offset: u64,
}

#[derive(Deserialize)]
struct Replay {
    #[serde(default, deserialize_with = "json::unsigned_if_given")]
    since: Option<u64>,
    #[serde(default, deserialize_with = "json::unsigned_if_given")]
    last: Option<u64>,
}

impl<'a> Frame<'a> {
    fn channel(&self) -> Result<ChannelSlug, Refusal> {
        let text = self.channel.as_deref();
        let text = text.ok_or_else(|| Refusal::field("channel", "channel is required"))?;
        Ok(ChannelSlug::parse(text)?)
    }

    fn publish(self, payload_bytes_max: usize) -> Result<Command<'a>, Refusal> {
        let channel = self.channel()?;
        let (event_type, content, id, reference) = (self.event, self.data, self.id, self.reference);
        if reference.as_ref().is_some_and(|r| r.len() > REFERENCE_BYTES_MAX) {
            let text = format!("ref must have at most {REFERENCE_BYTES_MAX} bytes");
            return Err(Refusal::field("ref", text));
        }
        let draft = Draft { event_type, client_id: None, content, id };
        let publish = publish::check(draft, PUBLISH_FIELDS, payload_bytes_max)?.on(channel);
        Ok(Command::Publish { publish, reference })
    }

    fn start(&self) -> Result<Start, Refusal> {
        match (&self.recover, &self.replay) {
            (None, None) => Ok(Start::Live),
            (Some(Object(recover)), None) => Ok(Start::Recover(
                Epoch::parse(&recover.epoch)
                    .map(|epoch| StreamPosition { epoch, offset: Offset(recover.offset) }),
            )),
            (None, Some(Object(replay))) => match (replay.since, replay.last) {
                (Some(since), None) => Ok(Start::Since(since)),
                (None, Some(last)) => Ok(Start::Last(last)),
                _ => Err(Refusal::field("replay", "replay takes either since or last")),
            },
            (Some(_), Some(_)) => {
                Err(Refusal::field("replay", "recover and replay exclude each other"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Command::parse(text, 100).unwrap_err().refusal.message.into_owned()
    }

    #[test]
    fn commands_of_the_contract() {
        let channel = ChannelSlug::parse("orders").unwrap();
        let subscribe =
            |start| Ok(Command::Subscribe { channel: channel.clone(), start, presence: false });
        assert_eq!(
            Command::parse(r#"{"type":"subscribe","channel":"orders"}"#, 100),
            subscribe(Start::Live)
        );
        let epoch = Epoch(7);
        let text = format!(
            r#"{{"type":"subscribe","channel":"orders","recover":{{"epoch":"{epoch}","offset":3}}}}"#
        );
        let position = StreamPosition { epoch, offset: Offset(3) };
        assert_eq!(Command::parse(&text, 100), subscribe(Start::Recover(Some(position))));
        let text = r#"{"type":"subscribe","channel":"orders","recover":{"epoch":"x","offset":3}}"#;
        assert_eq!(Command::parse(text, 100), subscribe(Start::Recover(None)));
        let text = r#"{"type":"subscribe","channel":"orders","replay":{"last":5}}"#;
        assert_eq!(Command::parse(text, 100), subscribe(Start::Last(5)));
        assert_eq!(Command::parse(r#"{"type":"ping"}"#, 100), Ok(Command::Ping));
        assert_eq!(Command::parse(r#"{"type":"ack","messageId":"m"}"#, 100), Ok(Command::Ack));
        assert_eq!(
            Command::parse(r#"{"channel":"orders","type":"unsubscribe"}"#, 100),
            Ok(Command::Unsubscribe { channel: channel.clone() })
        );
    }

    #[test]
    fn a_refusal_says_what_it_answers() {
        let told = |text: &str| {
            let refused = Command::parse(text, 100).unwrap_err();
            let channel = refused.channel.map(|channel| channel.to_string());
            (channel.unwrap_or_default(), refused.reference.unwrap_or_default().into_owned())
        };
        let both = |channel: &str, reference: &str| (channel.to_owned(), reference.to_owned());
        for rest in [
            r#""type":"fly""#,
            r#""type":7"#,
            r#""type":null"#,
            r#""x":1"#,
            r#""type":"subscribe","recover":1"#,
            r#""type":"subscribe","recover":{"epoch":"x","offset":-1}"#,
            r#""type":"subscribe","replay":{"last":-1}"#,
            r#""type":"subscribe","replay":{}"#,
            r#""type":"subscribe","replay":{"last":1},"recover":{"epoch":"x","offset":1}"#,
            r#""type":"publish""#,
            r#""type":"publish","data":1,"event":7"#,
            r#""type":"publish","data":1,"id":"""#,
            r#""type":"refresh""#,
            r#""type":"refresh","token":[[[]]]"#,
            r#""type":"refresh","type":"refresh""#,
        ] {
            let text = format!(r#"{{"ref":"r\n1",{rest},"channel":"c"}}"#);
            assert_eq!(told(&text), both("c", "r\n1"), "{text}");
        }
        let large =
            format!(r#"{{"type":"publish","channel":"c","ref":"1","data":"{}"}}"#, "x".repeat(100));
        assert_eq!(told(&large), both("c", "1"));
        let long =
            format!(r#"{{"type":"publish","channel":"c","ref":"{}","data":1}}"#, "x".repeat(65));
        assert_eq!(told(&long), both("c", ""));
        // What is not what it should be is not told.
        for text in [
            r#"{"type":"publish","channel":"a b","ref":"1"}"#,
            r#"{"type":"publish","channel":7,"ref":"1"}"#,
        ] {
            assert_eq!(told(text), both("", "1"));
        }
        assert_eq!(told(r#"{"type":"publish","channel":"c","ref":1,"data":1}"#), both("c", ""));
        for text in ["", "[1]", r#"{"channel":"c""#, r#"{"channel":"c","channel":"d"}"#] {
            assert_eq!(told(text), both("", ""), "{text}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        assert!(refusal("").contains("empty"));
        assert!(refusal("{").contains("EOF"));
        assert!(refusal("[1]").contains("not what is expected"));
        assert!(refusal("{}").contains("type is required"));
        assert!(refusal(r#"{"type":1}"#).contains("string"));
        assert!(refusal(r#"{"type":"fly"}"#).contains("unknown type \"fly\""));
        assert!(refusal(r#"{"type":"subscribe"}"#).contains("channel is required"));
        assert!(refusal(r#"{"type":"subscribe","channel":"a b"}"#).contains("' ' at position 1"));
        for offset in ["-1", "1.5", "\"3\"", "99999999999999999999"] {
            let text = format!(
                r#"{{"type":"subscribe","channel":"c","recover":{{"epoch":"x","offset":{offset}}}}}"#
            );
            assert!(refusal(&text).contains("not negative"), "{offset}");
        }
    }
}
