//! `POST /api/v1/publish/batch`: many messages in one request, each with a result of its own.
//!
//! The messages of a channel get their offsets in the order of the batch. Those whose home is
//! another shard travel there together, one envelope for each shard; the answer goes out when the
//! last shard's results are back.

use std::io::Write as _;

use bytes::Bytes;
use pushflo_protocol::Refusal;
use pushflo_protocol::http::Request;
use pushflo_protocol::publish::Publish;

use super::publish::{draft, new_message};
use crate::auth::Role;
use crate::connection::{Answering, Reply};
use crate::shard::{
    BatchKey, BatchRequest, BatchResults, ChannelKey, Envelope, RequestId, Shard, ShardId, no_room,
};

/// The address of the batch call.
pub(super) const PATH: &str = "/api/v1/publish/batch";

/// A batch that waits for results. There are at most as many as requests under way.
#[derive(Debug)]
pub(crate) struct PendingBatch {
    request: RequestId,
    /// By position; `None` while it is on its way.
    results: Vec<Option<Result<Bytes, Refusal>>>,
    /// Shards that have not answered.
    shards_pending: usize,
}

impl Shard {
    pub(super) fn publish_batch(
        &mut self,
        id: RequestId,
        request: &Request<'_>,
    ) -> Result<Answering, Refusal> {
        let app = self.authorize(request, Role::Secret)?.app;
        let most = self.settings.limits.payload_bytes_max;
        let messages = Publish::parse_batch(&request.body, most)?;
        let mut results = Vec::with_capacity(messages.len());
        let mut abroad: Vec<(ShardId, Vec<(u32, _)>)> = Vec::new();
        for (position, message) in messages.into_iter().enumerate() {
            let publish = match message {
                Ok(publish) => publish,
                Err(refusal) => {
                    results.push(Some(Err(refusal)));
                    continue;
                }
            };
            let channel = ChannelKey { app, slug: publish.channel.clone() };
            let home = self.home_shard(&channel);
            if home == self.id {
                results.push(Some(self.home_publish(&channel, draft(&publish))));
                continue;
            }
            if self.is_way_full(home) {
                results.push(Some(Err(no_room())));
                continue;
            }
            results.push(None);
            let message = (position as u32, new_message(channel, publish));
            match abroad.iter_mut().find(|(shard, _)| *shard == home) {
                Some((_, messages)) => messages.push(message),
                None => abroad.push((home, vec![message])),
            }
        }
        if abroad.is_empty() {
            return Ok(Answering::Now(Reply::json(200, self.batch_body(results))));
        }
        let shards_pending = abroad.len();
        let batch = self.batches.insert(PendingBatch { request: id, results, shards_pending });
        for (home, messages) in abroad {
            let request = BatchRequest { shard: self.id, batch, messages };
            self.post(home, Envelope::PublishBatch(Box::new(request)));
        }
        Ok(Answering::Later)
    }

    /// Results of one shard.
    pub(crate) fn batch_answer(&mut self, key: BatchKey, results: BatchResults) {
        let Some(batch) = self.batches.get_mut(key) else { return };
        for (position, result) in results {
            if let Some(place) = batch.results.get_mut(position as usize) {
                *place = Some(result);
            }
        }
        batch.shards_pending = batch.shards_pending.saturating_sub(1);
        if batch.shards_pending > 0 {
            return;
        }
        let Some(batch) = self.batches.remove(key) else { return };
        let body = self.batch_body(batch.results);
        self.answer(batch.request.connection, batch.request.sequence, Ok((200, body)));
    }

    /// The answer: how many were published, and each message's own answer as if it came alone.
    fn batch_body(&self, results: Vec<Option<Result<Bytes, Refusal>>>) -> Bytes {
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
                    self.metrics().refused(refusal.code);
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
