//! `pushflo publish`: one message over HTTP.

use std::error::Error;
use std::time::Duration;

use clap::Args;
use serde_json::value::RawValue;

use super::ServerAddress;

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
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(30)))
        .http_status_as_error(false)
        .build()
        .into();
    let url = format!("{}/api/v1/publish", arguments.server.url.trim_end_matches('/'));
    let mut response = agent
        .post(&url)
        .header("Authorization", format!("Bearer {}", arguments.key))
        .header("Content-Type", "application/json")
        .send(&body)
        .map_err(|error| format!("cannot reach {url}: {error}"))?;
    let status = response.status();
    let text = response.body_mut().read_to_string()?;
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    if !status.is_success() {
        let reason = answer.get("error").and_then(|e| e.as_str()).unwrap_or("no reason was given");
        return Err(format!("refused with {status}: {reason}").into());
    }
    let data = answer.get("data").cloned().unwrap_or_default();
    println!("{data}");
    Ok(())
}
