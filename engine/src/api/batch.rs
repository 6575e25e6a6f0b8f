//! `POST /api/v1/publish/batch`: many messages in one request, each with a result of its own.

use pushflo_protocol::answer::{self, Batch};
use pushflo_protocol::publish::Publish;
use pushflo_protocol::{ChannelSlug, Parts, Receipt, Refusal};
use serde_json::value::RawValue;

use super::Call;
use super::action::{Action, published};
use super::publish::{idempotency_key, payload_bytes_max, take_publish};
use super::reply::Reply;
use crate::accounts::Role;
use crate::context::Context;
use crate::ids::ChannelKey;
use crate::mail::NewMessage;

pub(super) fn publish_batch(cx: &mut Context, call: &Call<'_>) -> Result<Action, Refusal> {
    let app = call.authorize(cx, Role::Secret)?.app;
    let key_of_all = idempotency_key(call.request)?;
    let messages = Publish::parse_batch(&call.request.body, payload_bytes_max(cx, app.id))?;
    let mut last: Option<Parts> = None;
    let messages = messages.into_iter().enumerate().map(|(position, message)| {
        let publish = message?;
        take_publish(cx, &app)?;
        // The position in the batch tells its messages apart, in a way that no key of a message does.
        let key = key_of_all.as_ref().map(|key| format!("{key}\0{position}"));
        let key = publish.key.as_deref().or(key.as_deref()).map(Into::into);
        // One publish to a thousand channels is one piece of memory.
        let client_id = publish.client_id.as_deref();
        let parts = match &last {
            Some(last) if publish.has(last, client_id) => last.clone(),
            _ => publish.parts(client_id),
        };
        last = Some(parts.clone());
        Ok(NewMessage { channel: ChannelKey { app: app.id, slug: publish.channel }, parts, key })
    });
    Ok(Action::Batch(messages.collect()))
}

/// What became of one message of a batch, as if it came alone.
pub(crate) fn batch_result(
    channel: &ChannelSlug,
    parts: &Parts,
    result: Result<Receipt, Refusal>,
) -> Box<RawValue> {
    match result {
        Ok(receipt) => raw(&answer::success(published(channel, parts, &receipt))),
        Err(refusal) => batch_refusal(&refusal),
    }
}

/// A message of a batch that was refused.
pub(crate) fn batch_refusal(refusal: &Refusal) -> Box<RawValue> {
    raw(refusal.to_json().as_bytes())
}

/// The answer to a batch.
pub(crate) fn batch_reply(published: usize, results: Vec<Box<RawValue>>) -> Reply {
    let failed = results.len() - published;
    Reply::json(200, answer::success(Batch { published, failed, results }))
}

/// JSON that was written here.
fn raw(json: &[u8]) -> Box<RawValue> {
    let json = String::from_utf8_lossy(json).into_owned();
    let raw = RawValue::from_string(json);
    debug_assert!(raw.is_ok(), "it was written here");
    raw.unwrap_or_else(|_| RawValue::NULL.to_owned())
}
