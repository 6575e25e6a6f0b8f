//! `POST /api/v1/publish/batch`: many messages in one request, each with a result of its own.
//!
//! The messages of a channel get their offsets in the order of the batch. Those whose home is
//! another shard travel there together, one envelope for each shard; the answer goes out when the
//! last result is there.

use std::io::Write as _;

use bytes::Bytes;
use pushflo_protocol::Refusal;
use pushflo_protocol::http::Request;
use pushflo_protocol::publish::Publish;

use super::publish::{idempotency_key, new_message};
use crate::accounts::Role;
use crate::context::Context;
use crate::edge::Answering;
use crate::edge::Edge;
use crate::ids::{ChannelKey, RequestId, ShardId};
use crate::mail::BatchMessage;
use crate::mail::BatchResult;
use crate::mail::BatchResults;
use crate::mail::PublishBatch;
use crate::mail::ToHome;
use crate::mail::no_room;

/// A batch that waits for results. There are at most as many as requests under way.
#[derive(Debug)]
pub(crate) struct PendingBatch {
    request: RequestId,
    /// By position; `None` while it is on its way.
    results: Vec<Option<Result<Bytes, Refusal>>>,
    /// How many are on their way.
    pending: usize,
}

impl Edge {
    pub(super) fn publish_batch(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        request: &Request<'_>,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize(cx, id, request, Role::Secret)?.app;
        let key_of_all = idempotency_key(request)?;
        let messages = Publish::parse_batch(&request.body, self.payload_bytes_max(cx, app.id))?;
        let (shard, count) = (cx.shard, messages.len());
        let pending = PendingBatch { request: id, results: vec![None; count], pending: count };
        let batch = self.batches.insert(pending);
        let mut by_home: Vec<(ShardId, Vec<BatchMessage>)> = Vec::new();
        for (position, message) in messages.into_iter().enumerate() {
            let position = position as u32;
            let message = message.and_then(|publish| self.take_publish(cx, &app).map(|()| publish));
            let channel = message.map(|publish| {
                (ChannelKey { app: app.id, slug: publish.channel.clone() }, publish)
            });
            let home = channel.and_then(|(channel, publish)| {
                let home = cx.home_shard(&channel);
                if cx.is_way_full(home) { Err(no_room()) } else { Ok((home, channel, publish)) }
            });
            let (home, channel, publish) = match home {
                Ok(found) => found,
                Err(refusal) => {
                    let results = vec![BatchResult { position, result: Err(refusal) }];
                    self.batch_results(cx, BatchResults { batch, results });
                    continue;
                }
            };
            // The position in the batch tells its messages apart, in a way that no key of a message does.
            let key = key_of_all.as_ref().map(|key| format!("{key}\0{position}"));
            let key = publish.key.as_deref().or(key.as_deref());
            let message = new_message(channel, &publish, publish.client_id.as_deref(), key);
            let message = BatchMessage { position, message };
            match by_home.iter_mut().find(|(shard, _)| *shard == home) {
                Some((_, messages)) => messages.push(message),
                None => by_home.push((home, vec![message])),
            }
        }
        for (home, messages) in by_home {
            let batch = PublishBatch { shard, batch, messages };
            cx.post_home(home, ToHome::PublishBatch(Box::new(batch)));
        }
        Ok(Answering::Later)
    }

    /// Some results of a batch; with the last one it is answered.
    pub(crate) fn batch_results(&mut self, cx: &mut Context, results: BatchResults) {
        let BatchResults { batch: key, results } = results;
        let Some(batch) = self.batches.get_mut(key) else { return };
        for BatchResult { position, result } in results {
            if let Some(place) = batch.results.get_mut(position as usize) {
                *place = Some(result);
                batch.pending = batch.pending.saturating_sub(1);
            }
        }
        if batch.pending > 0 {
            return;
        }
        let Some(batch) = self.batches.remove(key) else { return };
        let body = self.batch_body(cx, batch.results);
        cx.answer(batch.request, Ok((200, body)));
    }

    /// The answer: how many were published, and each message's own answer as if it came alone.
    fn batch_body(&self, cx: &Context, results: Vec<Option<Result<Bytes, Refusal>>>) -> Bytes {
        let published = results.iter().filter(|result| matches!(result, Some(Ok(_)))).count();
        let failed = results.len() - published;
        let mut body = Vec::with_capacity(RESULT_BYTES_HINT * results.len());
        // Writing into memory cannot fail.
        let _ = write!(
            body,
            r#"{{"success":true,"data":{{"published":{published},"failed":{failed},"results":["#
        );
        for (index, result) in results.into_iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            match result.unwrap_or_else(|| Err(no_room())) {
                Ok(json) => body.extend_from_slice(&json),
                Err(refusal) => {
                    cx.metrics().refused(refusal.code);
                    body.extend_from_slice(refusal.to_json().as_bytes());
                }
            }
        }
        body.extend_from_slice(b"]}}");
        body.into()
    }
}

/// Room for one result.
const RESULT_BYTES_HINT: usize = 256;
