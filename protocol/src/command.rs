//! What a WebSocket client says.

use std::borrow::Cow;

use serde::Deserialize;

use crate::channel::ChannelSlug;
use crate::error::{ErrorCode, Refusal};
use crate::json;
use crate::position::{Epoch, Offset, StreamPosition};

/// One command, checked.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Wants the messages of a channel, from now or from somewhere before.
    Subscribe {
        /// The channel.
        channel: ChannelSlug,
        /// What is wanted of the past.
        start: Start,
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

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the head: only what comes from now on.
    Live,
    /// After a position that was seen before. `None` is an epoch that can match no log.
    Recover(Option<StreamPosition>),
    /// From what is kept since then, in Unix milliseconds.
    Since(u64),
    /// From the last so many messages.
    Last(u64),
}

impl Command {
    /// Parses one text message.
    ///
    /// # Errors
    /// The refusal, with the channel it concerns where the message named a valid one.
    pub fn parse(text: &str) -> Result<Self, (Refusal, Option<ChannelSlug>)> {
        let frame: Frame<'_> =
            json::parse(text.as_bytes(), "the message").map_err(|refusal| (refusal, None))?;
        let kind =
            frame.kind.as_deref().ok_or((Refusal::field("type", "type is required"), None))?;
        match kind {
            "subscribe" => {
                let channel = frame.channel().map_err(|refusal| (refusal, None))?;
                match frame.start() {
                    Ok(start) => Ok(Self::Subscribe { channel, start }),
                    Err(refusal) => Err((refusal, Some(channel))),
                }
            }
            "unsubscribe" => {
                let channel = frame.channel().map_err(|refusal| (refusal, None))?;
                Ok(Self::Unsubscribe { channel })
            }
            "ping" => Ok(Self::Ping),
            "ack" => Ok(Self::Ack),
            other => {
                let known = "known are subscribe, unsubscribe, ping and ack";
                let shown: String = other.chars().take(32).collect();
                let message = format!("unknown type {shown:?}, {known}");
                Err((Refusal::new(ErrorCode::ValidationError, message), None))
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
    recover: Option<Recover<'a>>,
    replay: Option<Replay>,
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
    since: Option<u64>,
    last: Option<u64>,
}

impl Frame<'_> {
    fn channel(&self) -> Result<ChannelSlug, Refusal> {
        let text = self.channel.as_deref();
        let text = text.ok_or_else(|| Refusal::field("channel", "channel is required"))?;
        Ok(ChannelSlug::parse(text)?)
    }

    fn start(&self) -> Result<Start, Refusal> {
        match (&self.recover, &self.replay) {
            (None, None) => Ok(Start::Live),
            (Some(recover), None) => Ok(Start::Recover(
                Epoch::parse(&recover.epoch)
                    .map(|epoch| StreamPosition { epoch, offset: Offset(recover.offset) }),
            )),
            (None, Some(Replay { since: Some(since), last: None })) => Ok(Start::Since(*since)),
            (None, Some(Replay { since: None, last: Some(last) })) => Ok(Start::Last(*last)),
            (None, Some(_)) => Err(Refusal::field("replay", "replay takes either since or last")),
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
        Command::parse(text).unwrap_err().0.message.into_owned()
    }

    #[test]
    fn commands_of_the_contract() {
        let channel = ChannelSlug::parse("orders").unwrap();
        let subscribe = |start| Ok(Command::Subscribe { channel: channel.clone(), start });
        assert_eq!(
            Command::parse(r#"{"type":"subscribe","channel":"orders"}"#),
            subscribe(Start::Live)
        );
        let epoch = Epoch(7);
        let text = format!(
            r#"{{"type":"subscribe","channel":"orders","recover":{{"epoch":"{epoch}","offset":3}}}}"#
        );
        let position = StreamPosition { epoch, offset: Offset(3) };
        assert_eq!(Command::parse(&text), subscribe(Start::Recover(Some(position))));
        let text = r#"{"type":"subscribe","channel":"orders","recover":{"epoch":"x","offset":3}}"#;
        assert_eq!(Command::parse(text), subscribe(Start::Recover(None)));
        let text = r#"{"type":"subscribe","channel":"orders","replay":{"last":5}}"#;
        assert_eq!(Command::parse(text), subscribe(Start::Last(5)));
        assert_eq!(Command::parse(r#"{"type":"ping"}"#), Ok(Command::Ping));
        assert_eq!(Command::parse(r#"{"type":"ack","messageId":"m"}"#), Ok(Command::Ack));
        assert_eq!(
            Command::parse(r#"{"channel":"orders","type":"unsubscribe"}"#),
            Ok(Command::Unsubscribe { channel: channel.clone() })
        );
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
