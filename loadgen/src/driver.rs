//! What other servers speak, so that the same scenario runs against each.
//!
//! They give no offsets, so a message's place is its number among the publishes of its channel,
//! which holds with one publishing connection.

use std::borrow::Cow;
use std::io::Write as _;

use clap::ValueEnum;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use memchr::memmem;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::Sha256;

use crate::frame;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Driver {
    /// PushFlo
    Pushflo,
    /// A WebSocket that gets what is posted over HTTP as it is: nchan, uWebSockets, ws
    Plain,
    /// Centrifugo's JSON protocol, published to over its HTTP API
    Centrifugo,
    /// NATS over WebSocket
    Nats,
    /// The Pusher protocol: Sockudo, Soketi. Its keys are the app's, its id is in the publish path
    Pusher,
}

/// What a peer's frame means.
#[derive(Debug, PartialEq)]
pub(crate) enum Said<'a> {
    /// The subscription stands.
    Subscribed,
    /// A message with this content.
    Message(Cow<'a, str>),
    /// These bytes are to be sent.
    Send(Vec<u8>),
    /// The server says no.
    Refused(String),
}

impl Driver {
    /// Where the WebSocket is; `path` is what the user said, with `{channel}` in it.
    pub(crate) fn target(self, path: Option<&str>, channel: &str, key: &str) -> String {
        match (self, path) {
            (_, Some(path)) => path.replace("{channel}", channel),
            (Self::Pushflo, None) => format!("/ws?token={key}"),
            (Self::Plain, None) => format!("/sub/{channel}"),
            (Self::Centrifugo, None) => "/connection/websocket".into(),
            (Self::Nats, None) => "/".into(),
            (Self::Pusher, None) => format!("/app/{key}?protocol=7&client=loadgen&version=1"),
        }
    }

    /// Appends what is sent once the WebSocket is open; PushFlo's own is with its subscriber.
    pub(crate) fn push_hello(self, out: &mut Vec<u8>, channel: &str) {
        match self {
            Self::Pushflo | Self::Plain => {}
            Self::Pusher => {
                let text =
                    format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"{channel}"}}}}"#);
                frame::push(out, frame::TEXT, text.as_bytes());
            }
            Self::Centrifugo => {
                frame::push(out, frame::TEXT, br#"{"id":1,"connect":{}}"#);
                let text = format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#);
                frame::push(out, frame::TEXT, text.as_bytes());
            }
            Self::Nats => {
                let text = format!(
                    "CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB {channel} 1\r\nPING\r\n"
                );
                frame::push(out, frame::BINARY, text.as_bytes());
            }
        }
    }

    /// Whether the subscription stands as soon as the WebSocket is open.
    pub(crate) fn subscribes_by_address(self) -> bool {
        self == Self::Plain
    }

    /// Reads one frame's payload and returns how much of it was whole; the rest is to be put
    /// before the next payload.
    pub(crate) fn read<'a>(self, payload: &'a [u8], said: &mut Vec<Said<'a>>) -> usize {
        match self {
            Self::Pushflo => {}
            Self::Plain => {
                said.extend(str::from_utf8(payload).ok().map(|text| Said::Message(text.into())));
            }
            Self::Centrifugo => read_centrifugo(payload, said),
            Self::Pusher => read_pusher(payload, said),
            Self::Nats => return read_nats(payload, said),
        }
        payload.len()
    }

    /// What a publishing connection says first.
    pub(crate) fn push_greeting(self, out: &mut Vec<u8>) {
        if self == Self::Nats {
            out.extend_from_slice(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n");
        }
    }

    /// Appends one publish.
    pub(crate) fn push_publish(self, out: &mut Vec<u8>, to: &Destination<'_>, content: &[u8]) {
        let Destination { channel, host, app, key, path } = to;
        // Writing into memory cannot fail.
        let _ = match self {
            Self::Pushflo => {
                let mut body = Vec::new();
                push_body(&mut body, channel, |out| out.extend_from_slice(content));
                let authorization = format!("Authorization: Bearer {key}");
                push_post(out, "/api/v1/publish", host, &authorization, &[&body])
            }
            Self::Plain => {
                let path = path.unwrap_or("/pub/{channel}").replace("{channel}", channel);
                push_post(out, &path, host, &format!("Authorization: Bearer {key}"), &[content])
            }
            Self::Centrifugo => {
                let start = format!(r#"{{"channel":"{channel}","data":"#);
                push_post(
                    out,
                    "/api/publish",
                    host,
                    &format!("X-API-Key: {key}"),
                    &[start.as_bytes(), content, b"}"],
                )
            }
            Self::Pusher => {
                let content = String::from_utf8_lossy(content);
                let body = json!({ "name": "load", "channel": channel, "data": content });
                let path = path.unwrap_or("/apps/load/events");
                let body = body.to_string();
                let target = sign_pusher(path, app, key, body.as_bytes());
                push_post(out, &target, host, "Accept: */*", &[body.as_bytes()])
            }
            Self::Nats => {
                let begun = write!(out, "PUB {channel} {}\r\n", content.len());
                out.extend_from_slice(content);
                out.extend_from_slice(b"\r\nPING\r\n");
                begun
            }
        };
    }
}

/// Where a publish goes.
pub(crate) struct Destination<'a> {
    pub(crate) channel: &'a str,
    pub(crate) host: &'a str,
    /// The key of subscribers, which some name when they publish too.
    pub(crate) app: &'a str,
    pub(crate) key: &'a str,
    pub(crate) path: Option<&'a str>,
}

/// Appends the body of a publish to PushFlo.
pub(crate) fn push_body(out: &mut Vec<u8>, channel: &str, content: impl FnOnce(&mut Vec<u8>)) {
    // Writing into memory cannot fail.
    let _ = write!(out, r#"{{"channel":"{channel}","event":"load","data":"#);
    content(out);
    out.push(b'}');
}

/// Appends a batch of such bodies.
pub(crate) fn push_batch(out: &mut Vec<u8>, host: &str, key: &str, body: &[u8]) {
    let authorization = format!("Authorization: Bearer {key}");
    let _ = push_post(out, "/api/v1/publish/batch", host, &authorization, &[body]);
}

fn push_post(
    out: &mut Vec<u8>,
    path: &str,
    host: &str,
    authorization: &str,
    body: &[&[u8]],
) -> std::io::Result<()> {
    let length: usize = body.iter().map(|part| part.len()).sum();
    write!(
        out,
        "POST {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )?;
    body.iter().for_each(|part| out.extend_from_slice(part));
    Ok(())
}

fn read_centrifugo<'a>(payload: &'a [u8], said: &mut Vec<Said<'a>>) {
    #[derive(Deserialize)]
    struct Reply<'a> {
        id: Option<u64>,
        #[serde(borrow)]
        push: Option<Push<'a>>,
        #[serde(borrow)]
        error: Option<&'a serde_json::value::RawValue>,
    }
    #[derive(Deserialize)]
    struct Push<'a> {
        #[serde(borrow, rename = "pub")]
        publication: Option<Publication<'a>>,
    }
    #[derive(Deserialize)]
    struct Publication<'a> {
        #[serde(borrow)]
        data: &'a serde_json::value::RawValue,
    }
    for line in payload.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        if line == b"{}" {
            let mut pong = Vec::new();
            frame::push(&mut pong, frame::TEXT, b"{}");
            said.push(Said::Send(pong));
            continue;
        }
        match serde_json::from_slice::<Reply<'_>>(line) {
            Ok(Reply { error: Some(error), .. }) => said.push(Said::Refused(error.get().into())),
            Ok(Reply { push: Some(Push { publication: Some(publication) }), .. }) => {
                said.push(Said::Message(publication.data.get().into()));
            }
            Ok(Reply { id: Some(2), .. }) => said.push(Said::Subscribed),
            Ok(_) => {}
            Err(error) => said.push(Said::Refused(error.to_string())),
        }
    }
}

/// The target of a signed request, as Pusher's HTTP API wants it.
fn sign_pusher(path: &str, app_key: &str, secret: &str, body: &[u8]) -> String {
    let seconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
    let digest = hex(&Md5::digest(body));
    let query =
        format!("auth_key={app_key}&auth_timestamp={seconds}&auth_version=1.0&body_md5={digest}");
    let signature = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map(|mut mac| {
        mac.update(format!("POST\n{path}\n{query}").as_bytes());
        hex(&mac.finalize().into_bytes())
    });
    format!("{path}?{query}&auth_signature={}", signature.unwrap_or_default())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_pusher<'a>(payload: &'a [u8], said: &mut Vec<Said<'a>>) {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        event: Cow<'a, str>,
        #[serde(borrow)]
        data: Option<&'a serde_json::value::RawValue>,
    }
    match serde_json::from_slice::<Event<'_>>(payload) {
        Ok(Event { event, data }) => match &*event {
            "load" => {
                // The content is text within the text.
                let content = data.and_then(|data| serde_json::from_str::<String>(data.get()).ok());
                said.extend(content.map(|content| Said::Message(content.into())));
            }
            "pusher_internal:subscription_succeeded" => said.push(Said::Subscribed),
            "pusher:ping" => {
                let mut pong = Vec::new();
                frame::push(&mut pong, frame::TEXT, br#"{"event":"pusher:pong","data":{}}"#);
                said.push(Said::Send(pong));
            }
            "pusher:error" => {
                said.push(Said::Refused(String::from_utf8_lossy(payload).into_owned()));
            }
            _ => {}
        },
        Err(error) => said.push(Said::Refused(error.to_string())),
    }
}

fn read_nats<'a>(payload: &'a [u8], said: &mut Vec<Said<'a>>) -> usize {
    let mut taken = 0;
    while let Some(rest) = payload.get(taken..)
        && let Some(end) = memmem::find(rest, b"\r\n")
    {
        let line = str::from_utf8(rest.get(..end).unwrap_or_default()).unwrap_or_default();
        let mut bytes = end + 2;
        if let Some(words) = line.strip_prefix("MSG ") {
            let length = words.rsplit(' ').next().and_then(|text| text.parse::<usize>().ok());
            let Some(length) = length else {
                said.push(Said::Refused(line.into()));
                return payload.len();
            };
            let Some(content) = rest.get(bytes..bytes + length + 2) else { break };
            let content = content.get(..length).and_then(|content| str::from_utf8(content).ok());
            said.extend(content.map(|content| Said::Message(content.into())));
            bytes += length + 2;
        } else if line == "PING" {
            let mut pong = Vec::new();
            frame::push(&mut pong, frame::BINARY, b"PONG\r\n");
            said.push(Said::Send(pong));
        } else if line == "PONG" {
            said.push(Said::Subscribed);
        } else if line.starts_with("-ERR") {
            said.push(Said::Refused(line.into()));
        }
        taken += bytes;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(driver: Driver, payload: &[u8]) -> Vec<Said<'_>> {
        let mut said = Vec::new();
        assert_eq!(driver.read(payload, &mut said), payload.len());
        said
    }

    /// The example of Pusher's documentation of its HTTP API.
    #[test]
    fn signatures_of_pusher() {
        let body = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
        assert_eq!(hex(&Md5::digest(body)), "ec365a775a4cd0599faeb73354201b6f");
        let target = sign_pusher("/apps/3/events", "key", "secret", body);
        assert!(target.starts_with("/apps/3/events?auth_key=key&auth_timestamp="), "{target}");
        assert_eq!(target.rsplit('=').next().map(str::len), Some(64));
    }

    #[test]
    fn frames_of_other_servers() {
        let text = b"{\"id\":2,\"subscribe\":{}}\n{\"push\":{\"channel\":\"c\",\"pub\":{\"data\":{\"n\":1}}}}\n{\"push\":{\"channel\":\"c\",\"pub\":{\"data\":2}}}";
        let expected =
            [Said::Subscribed, Said::Message("{\"n\":1}".into()), Said::Message("2".into())];
        assert_eq!(read(Driver::Centrifugo, text), expected);
        assert!(matches!(read(Driver::Centrifugo, b"{}")[..], [Said::Send(_)]));
        let text = b"PONG\r\nMSG c 1 7\r\n{\"n\":1}\r\nMSG c 1 1\r\n2\r\nPING\r\n";
        let [subscribed, first, second, Said::Send(_)] = &read(Driver::Nats, text)[..] else {
            panic!()
        };
        assert_eq!([subscribed, first, second], [&expected[0], &expected[1], &expected[2]]);
        assert_eq!(Driver::Nats.read(b"MSG c 1 7\r\n{\"n\"", &mut Vec::new()), 0);
        assert_eq!(read(Driver::Plain, b"{}"), [Said::Message("{}".into())]);
        let text = br#"{"event":"load","channel":"load-0","data":"{\"n\":1}"}"#;
        assert_eq!(read(Driver::Pusher, text), [Said::Message("{\"n\":1}".into())]);
        let text = br#"{"event":"pusher_internal:subscription_succeeded","channel":"c"}"#;
        assert_eq!(read(Driver::Pusher, text), [Said::Subscribed]);
    }
}
