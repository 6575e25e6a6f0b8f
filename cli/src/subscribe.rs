//! `pushflo subscribe`: messages as they come, one JSON object a line; reconnects and recovers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::ErrorKind;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use tungstenite::handshake::HandshakeError;
use tungstenite::http::Uri;
use tungstenite::{Message, WebSocket};

use super::ServerAddress;
use super::connect::{Stream, connect};
use super::output::{OutputError, complain, say};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The channels
    #[arg(required = true)]
    channels: Vec<String>,
    /// Begin with the last so many messages that are kept
    #[arg(long, value_name = "COUNT")]
    last: Option<u64>,
    /// End after so many messages
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
    /// A key that may subscribe
    #[arg(long, env = "PUSHFLO_PUBLISH_KEY", hide_env_values = true)]
    key: String,
    #[command(flatten)]
    server: ServerAddress,
}

/// Waits between attempts to connect grow up to this.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Silence after which a ping is sent; twice that without any answer means the server is gone.
const HEARTBEAT: Duration = Duration::from_secs(25);

/// The last position seen of a channel.
#[derive(Clone, Debug)]
struct Position {
    epoch: String,
    offset: u64,
}

/// How one connection ended.
enum End {
    /// Everything asked for was printed.
    Done,
    /// Try again, after what the server asked for at least.
    Retry(String, Duration),
    /// Trying again would not help.
    Refused(String),
    /// Nobody reads the messages any more.
    Unread(OutputError),
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut positions = BTreeMap::new();
    let mut left = arguments.count;
    let mut wait = Duration::from_millis(250);
    loop {
        match listen(arguments, &mut positions, &mut left, &mut wait) {
            End::Done => return Ok(()),
            End::Refused(reason) => return Err(reason.into()),
            End::Unread(error) => return Err(error.into()),
            End::Retry(reason, least) => {
                let pause = wait.max(least);
                complain(format_args!("{reason}; trying again in {:.1} s", pause.as_secs_f32()));
                std::thread::sleep(pause);
                wait = (wait * 2).min(RETRY_MAX);
            }
        }
    }
}

fn listen(
    arguments: &Arguments,
    positions: &mut BTreeMap<String, Position>,
    left: &mut Option<u64>,
    wait: &mut Duration,
) -> End {
    let mut socket = match open(arguments) {
        Ok(socket) => socket,
        Err(end) => return end,
    };
    let mut silent = false;
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                silent = false;
                let event: Event<'_> = match serde_json::from_str(&text) {
                    Ok(event) => event,
                    Err(error) => {
                        complain(format_args!("cannot read what the server sent: {error}: {text}"));
                        continue;
                    }
                };
                if event.kind == "connected" {
                    *wait = Duration::from_millis(250);
                    if let Err(error) = subscribe(&mut socket, arguments, positions) {
                        return End::Retry(error.to_string(), Duration::ZERO);
                    }
                }
                if let Some(end) = take_event(&event, &text, positions, left) {
                    return end;
                }
            }
            Ok(Message::Close(frame)) => {
                let (code, reason) =
                    frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
                if matches!(code, 4001 | 4003) {
                    return End::Refused(reason);
                }
                let asked: Value = serde_json::from_str(&reason).unwrap_or_default();
                let ms = asked.get("retryAfterMs").and_then(Value::as_u64).unwrap_or(0);
                let least = Duration::from_millis(ms.min(60_000));
                return End::Retry(format!("the server closed the connection ({code})"), least);
            }
            Ok(_) => silent = false,
            Err(tungstenite::Error::Io(error))
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) && !silent =>
            {
                silent = true;
                let _ = socket.send(Message::text(r#"{"type":"ping"}"#));
            }
            Err(error) => return End::Retry(format!("connection lost: {error}"), Duration::ZERO),
        }
    }
}

/// Connects and shows the key.
fn open(arguments: &Arguments) -> Result<WebSocket<Box<dyn Stream>>, End> {
    let base = arguments.server.url.trim_end_matches('/').replacen("http", "ws", 1);
    let url = format!("{base}/ws?token={}", arguments.key);
    let url: Uri =
        url.parse().map_err(|error| End::Refused(format!("{base} is no address: {error}")))?;
    let failed = |error: &dyn Error| {
        End::Retry(format!("cannot connect to {base}: {error}"), Duration::ZERO)
    };
    let stream = connect(&url, HEARTBEAT).map_err(|error| match error.kind() {
        ErrorKind::InvalidInput => End::Refused(error.to_string()),
        _ => failed(&error),
    })?;
    match tungstenite::client(url, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Failure(tungstenite::Error::Http(answer)))
            if answer.status().is_redirection() =>
        {
            let place = answer.headers().get("location").and_then(|place| place.to_str().ok());
            let place = place.and_then(|place| place.split('?').next()).unwrap_or("nowhere");
            Err(End::Refused(format!("{base} sends its clients on to {place}")))
        }
        Err(error) => Err(failed(&error)),
    }
}

fn subscribe(
    socket: &mut WebSocket<Box<dyn Stream>>,
    arguments: &Arguments,
    positions: &BTreeMap<String, Position>,
) -> tungstenite::Result<()> {
    for channel in &arguments.channels {
        let command = match (positions.get(channel), arguments.last) {
            (Some(Position { epoch, offset }), _) => json!({
                "type": "subscribe", "channel": channel,
                "recover": { "epoch": epoch, "offset": offset },
            }),
            (None, Some(last)) => {
                json!({ "type": "subscribe", "channel": channel, "replay": { "last": last } })
            }
            (None, None) => json!({ "type": "subscribe", "channel": channel }),
        };
        socket.send(Message::text(command.to_string()))?;
    }
    Ok(())
}

/// What is looked at of an event. The rest, a message's data above all, is passed on as it came: it
/// may hold what only its receiver can read, such as numbers beyond those of this program.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(default)]
    offset: u64,
    #[serde(borrow, default)]
    epoch: Cow<'a, str>,
    recovered: Option<bool>,
    #[serde(borrow, default)]
    error: Cow<'a, str>,
    #[serde(borrow, default)]
    code: Cow<'a, str>,
}

fn take_event(
    event: &Event<'_>,
    text: &str,
    positions: &mut BTreeMap<String, Position>,
    left: &mut Option<u64>,
) -> Option<End> {
    let Event { channel, offset, epoch, .. } = event;
    match &*event.kind {
        "subscribed" => {
            let is_known = positions.contains_key(&**channel);
            let is_lost = event.recovered == Some(false);
            if is_known && is_lost {
                complain(format_args!(
                    "messages of {channel} were missed and are not kept any more"
                ));
            }
            if !is_known || is_lost {
                let position = Position { epoch: epoch.to_string(), offset: *offset };
                positions.insert(channel.to_string(), position);
            }
        }
        "message" => {
            if let Some(position) = positions.get_mut(&**channel) {
                position.offset = *offset;
            }
            if let Err(error) = say(text) {
                return Some(End::Unread(error));
            }
            if let Some(left) = left {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    return Some(End::Done);
                }
            }
        }
        "error" => {
            let reason = event.error.to_string();
            if event.code == "OVERLOADED" {
                return Some(End::Retry(reason, Duration::ZERO));
            }
            return Some(End::Refused(reason));
        }
        _ => {}
    }
    None
}
