//! Answers that are put together from those of several homes: batches of publishes, and lists of an app's
//! channels.
//!
//! The messages of a channel get their offsets in the order of the batch. Those whose home is one shard
//! travel there together; the answer goes out when the last result is there.

use pushflo_protocol::{ChannelSlug, ErrorCode, Parts, Refusal};
use serde_json::value::RawValue;

use super::Edge;
use crate::api::{self, ListQuery};
use crate::bug::bug;
use crate::context::Context;
use crate::ids::{BatchKey, ChannelKey, ListKey, RequestId, ShardId, SlotSet};
use crate::mail::{
    BatchMessage, BatchResult, BatchResults, ChannelInfo, ChannelList, ChannelsDescribed,
    DescribeChannels, DescribedChannel, ListChannels, ListedChannel, NamedChannels, NewMessage,
    PublishBatch, ToHome, no_owner, no_room,
};

/// A batch that waits for results. There are at most as many as requests under way.
#[derive(Debug)]
pub(super) struct PendingBatch {
    request: RequestId,
    /// By position.
    messages: Vec<PendingMessage>,
    /// How many are on their way.
    waiting: usize,
    published: usize,
}

/// A message of a batch.
#[derive(Debug)]
enum PendingMessage {
    /// On its way.
    Waiting(ChannelSlug, Parts),
    /// What became of it.
    Done(Box<RawValue>),
}

/// Channels of an app that can be listed by page: each takes as many of every shard as stand before its
/// end. By name there is no such bound.
const LISTED_MAX: u64 = 10_000;

/// Names that are sorted for one unit of work.
const NAMES_PER_WORK: usize = 16;

/// A list that waits for other shards. There are at most as many as requests under way.
#[derive(Debug)]
pub(super) struct PendingList {
    request: RequestId,
    query: ListQuery,
    /// Shards that have not answered, then channels that are not described.
    waiting: usize,
    total: u64,
    /// The slots that have been told of, in a cluster.
    slots: SlotSet,
    /// Why it cannot be put together.
    refusal: Option<Refusal>,
    /// First channels of the shards so far.
    slugs: Vec<ChannelSlug>,
    /// The last name on the page, and whether there are more behind it.
    last: Option<ChannelSlug>,
    has_more: bool,
    /// What describes them, by position.
    described: Vec<Option<Box<ChannelInfo>>>,
}

impl PendingBatch {
    /// Checks that it waits for what it says.
    pub(super) fn check(&self) {
        let is_waiting = |message: &&PendingMessage| matches!(message, PendingMessage::Waiting(..));
        assert_eq!(self.messages.iter().filter(is_waiting).count(), self.waiting);
        assert!(self.waiting > 0, "a batch that waits for nothing");
        assert!(self.published + self.waiting <= self.messages.len());
    }
}

impl PendingList {
    /// Checks that it waits.
    pub(super) fn check(&self) {
        assert!(self.waiting > 0, "a list that waits for nothing");
    }
}

impl Edge {
    /// Publishes the messages of a batch.
    pub(super) fn publish_batch(
        &mut self,
        cx: &mut Context,
        request: RequestId,
        messages: Vec<Result<NewMessage, Refusal>>,
    ) {
        cx.charge(messages.len());
        let mut by_home: Vec<(ShardId, Vec<BatchMessage>)> = Vec::new();
        let mut pending = Vec::with_capacity(messages.len());
        for (position, message) in (0..).zip(messages) {
            let message = message.and_then(|message| {
                let home = cx.home_shard(&message.channel);
                if cx.is_way_full(home) { Err(no_room()) } else { Ok((home, message)) }
            });
            let (home, message) = match message {
                Ok(message) => message,
                Err(refusal) => {
                    self.refused(cx, request.connection, &refusal, None);
                    pending.push(PendingMessage::Done(api::batch_refusal(&refusal)));
                    continue;
                }
            };
            let (slug, parts) = (message.channel.slug.clone(), message.parts.clone());
            pending.push(PendingMessage::Waiting(slug, parts));
            let message = BatchMessage { position, message };
            match by_home.iter_mut().find(|(shard, _)| *shard == home) {
                Some((_, messages)) => messages.push(message),
                None => by_home.push((home, vec![message])),
            }
        }
        let waiting = by_home.iter().map(|(_, messages)| messages.len()).sum();
        let batch =
            self.batches.insert(PendingBatch { request, messages: pending, waiting, published: 0 });
        for (home, messages) in by_home {
            let batch = PublishBatch { shard: cx.shard, batch, messages };
            cx.post_home(home, ToHome::PublishBatch(Box::new(batch)));
        }
        if waiting == 0 {
            self.batch_done(cx, batch);
        }
    }

    /// Some results of a batch; with the last one it is answered.
    pub(super) fn batch_results(&mut self, cx: &mut Context, results: BatchResults) {
        let BatchResults { batch: key, results } = results;
        let Some(batch) = self.batches.get_mut(key) else {
            return bug!(cx, "results of a batch that nobody waits for");
        };
        let connection = batch.request.connection;
        let mut refused = Vec::new();
        for BatchResult { position, result } in results {
            let message = batch.messages.get_mut(position as usize);
            let Some(message @ PendingMessage::Waiting(..)) = message else {
                bug!(cx, "a result of a message that nobody waits for");
                continue;
            };
            let PendingMessage::Waiting(slug, parts) = message else { continue };
            match &result {
                Ok(_) => batch.published += 1,
                Err(refusal) => refused.push((slug.clone(), refusal.clone())),
            }
            *message = PendingMessage::Done(api::batch_result(slug, parts, result));
            batch.waiting -= 1;
        }
        let is_done = batch.waiting == 0;
        for (slug, refusal) in refused {
            self.refused(cx, connection, &refusal, Some(&slug));
        }
        if is_done {
            self.batch_done(cx, key);
        }
    }

    fn batch_done(&mut self, cx: &mut Context, key: BatchKey) {
        let Some(PendingBatch { request, messages, published, .. }) = self.batches.remove(key)
        else {
            return;
        };
        let results = messages.into_iter().filter_map(|message| match message {
            PendingMessage::Done(result) => Some(result),
            PendingMessage::Waiting(..) => None,
        });
        let reply = api::batch_reply(published, results.collect());
        self.reply(cx, request.connection, request.sequence, reply);
    }

    /// Puts a list of an app's channels together.
    ///
    /// # Errors
    /// `OVERLOADED` where there is no room on the way to a shard.
    pub(super) fn list_channels(
        &mut self,
        cx: &mut Context,
        request: RequestId,
        query: ListQuery,
    ) -> Result<(), Refusal> {
        let shards = cx.home_shards()?;
        if shards.iter().any(|shard| cx.is_way_full(*shard)) {
            return Err(no_room());
        }
        let list = self.lists.insert(PendingList {
            request,
            query: query.clone(),
            waiting: shards.len(),
            total: 0,
            slots: SlotSet::default(),
            refusal: None,
            slugs: Vec::new(),
            last: None,
            has_more: false,
            described: Vec::new(),
        });
        // Those of the page, whichever shards they are on, and whether there are more.
        // Of one too far behind only the total is told.
        let last = query.page.saturating_mul(query.page_size);
        let count_max = if last > LISTED_MAX { 0 } else { last as usize + 1 };
        for shard in shards {
            let (app, after) = (query.app, query.after.clone());
            let request = ListChannels { shard: cx.shard, list, app, after, count_max };
            cx.post_home(shard, ToHome::ListChannels(Box::new(request)));
        }
        Ok(())
    }

    /// What one shard has. With the last one it is known which channels stand on the page, and their
    /// homes are asked for them.
    pub(super) fn channel_list(&mut self, cx: &mut Context, channels: ChannelList) {
        let ChannelList { list: key, outcome } = channels;
        let Some(list) = self.lists.get_mut(key) else {
            return bug!(cx, "channels for a list that nobody waits for");
        };
        match outcome {
            Ok(NamedChannels { slugs, total, slots }) => {
                cx.charge(slugs.len() / NAMES_PER_WORK);
                list.slugs.extend(slugs);
                list.total += total;
                match list.slots.with_others(slots) {
                    Some(slots) => list.slots = slots,
                    // It has moved while others were asked.
                    None => list.refusal = Some(no_owner()),
                }
            }
            Err(refusal) => list.refusal = Some(refusal),
        }
        list.waiting -= 1;
        if list.waiting > 0 {
            return;
        }
        if cx.is_cluster() && list.slots != SlotSet::ALL {
            list.refusal.get_or_insert_with(no_owner);
        }
        if list.refusal.is_some() {
            return self.list_done(cx, key);
        }
        let mut slugs = std::mem::take(&mut list.slugs);
        slugs.sort_unstable();
        let ListQuery { app, page, page_size, .. } = list.query;
        let skip = (page - 1).saturating_mul(page_size);
        if skip < list.total && skip.saturating_add(page_size) > LISTED_MAX {
            let Some(list) = self.lists.remove(key) else { return };
            let text = format!(
                "only the first {LISTED_MAX} channels are listed by page; go on with after"
            );
            return cx.answer(list.request, Err(Refusal::field("page", text)));
        }
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(slugs.len());
        let mut on_page = slugs.split_off(skip);
        list.has_more = on_page.len() as u64 > page_size;
        on_page.truncate(page_size as usize);
        list.last = on_page.last().cloned();
        list.described = vec![None; on_page.len()];
        let mut asked: Vec<(ShardId, Vec<ListedChannel>)> = Vec::new();
        for (position, slug) in (0..).zip(on_page) {
            let home = cx.home_shard(&ChannelKey { app, slug: slug.clone() });
            let entry = ListedChannel { position, slug };
            match asked.iter_mut().find(|(shard, _)| *shard == home) {
                Some((_, channels)) => channels.push(entry),
                None => asked.push((home, vec![entry])),
            }
        }
        list.waiting = list.described.len();
        if asked.is_empty() {
            return self.list_done(cx, key);
        }
        for (home, channels) in asked {
            let request = DescribeChannels { shard: cx.shard, list: key, app, channels };
            cx.post_home(home, ToHome::DescribeChannels(Box::new(request)));
        }
    }

    /// Channels that one shard has described. With the last ones the list is answered.
    pub(super) fn channels_described(&mut self, cx: &mut Context, described: ChannelsDescribed) {
        let ChannelsDescribed { list: key, channels } = described;
        let Some(list) = self.lists.get_mut(key) else {
            return bug!(cx, "descriptions for a list that nobody waits for");
        };
        for DescribedChannel { position, outcome } in channels {
            list.waiting -= 1;
            match (outcome, list.described.get_mut(position as usize)) {
                (Ok(info), Some(place)) => *place = info,
                (Ok(_), None) => {}
                (Err(refusal), _) => list.refusal = Some(refusal),
            }
        }
        if list.waiting == 0 {
            self.list_done(cx, key);
        }
    }

    fn list_done(&mut self, cx: &mut Context, key: ListKey) {
        let Some(list) = self.lists.remove(key) else { return };
        let PendingList { request, query, total, described, last, has_more, refusal, .. } = list;
        if let Some(refusal) = refusal {
            return cx.answer(request, Err(refusal));
        }
        if query.is_usage {
            return match cx.directory.app(query.app) {
                Some(app) => {
                    let reply = api::usage_reply(cx, app, total);
                    self.reply(cx, request.connection, request.sequence, reply);
                }
                None => cx
                    .answer(request, Err(Refusal::new(ErrorCode::NotFound, "the app was deleted"))),
            };
        }
        let channels: Vec<ChannelInfo> =
            described.into_iter().flatten().map(|info| *info).collect();
        let next = last.as_ref().filter(|_| has_more);
        let reply = api::list_reply(&query, &channels, total, next);
        self.reply(cx, request.connection, request.sequence, reply);
    }
}
