//! `pushflo publish`: one message over HTTP.

use std::error::Error;

use clap::Args;
use serde_json::value::RawValue;

use super::ServerAddress;
use super::api::Api;
use super::output::say;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The channel
    channel: String,
    /// The message's content, any JSON; text that is not JSON is sent as a string
    content: String,
    /// The event type
    #[arg(long, default_value = "message")]
    event: String,
    /// A key that may publish
    #[arg(long, env = "PUSHFLO_SECRET_KEY", hide_env_values = true)]
    key: String,
    #[command(flatten)]
    server: ServerAddress,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let content = match RawValue::from_string(arguments.content.clone()) {
        Ok(content) => content,
        Err(_) => RawValue::from_string(serde_json::to_string(&arguments.content)?)?,
    };
    let body = serde_json::json!({ "channel": arguments.channel, "event": arguments.event });
    // The content goes in as it is: a number too large for a float must not be rounded.
    let mut body = body.to_string();
    body.pop();
    body.push_str(",\"data\":");
    body.push_str(content.get());
    body.push('}');
    let api = Api { url: &arguments.server.url, key: &arguments.key };
    let answer = api.call("POST", "/api/v1/publish", Some(body))?;
    let data = answer.get("data").cloned().unwrap_or_default();
    say(data)?;
    Ok(())
}
