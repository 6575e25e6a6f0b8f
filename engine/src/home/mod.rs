//! The half of a shard that owns the channels whose home is here: it alone gives their offsets, so all
//! subscribers see one order.
//!
//! It names no connection, no HTTP and no frame. What it is asked comes as [`ToHome`], what it says goes
//! as [`ToEdge`](crate::mail::ToEdge); what must be kept goes to the log and the accounts.
//!
//! * `channel`: what is known of a channel, how it is found, made, loaded and forgotten
//! * `publish`, `subscribe`: offsets, who gets what, who comes from where
//! * `metadata`, `presence`, `idempotency`: what the API adds, who is there, who publishes twice
//! * `list`: which channels there are
//! * `recent`, `logging`, `reading`: messages in memory, on their way to the log, and back
//! * `slots`: channels in the streams of a cluster
//! * `handover`: what is known here alone, for the next process

mod channel;
mod check;
mod handover;
mod idempotency;
mod list;
mod logging;
mod metadata;
mod presence;
mod publish;
mod reading;
mod recent;
mod slots;
mod subscribe;
mod wanting;

use std::collections::BTreeSet;

use pushflo_protocol::ChannelSlug;
use slotmap::SlotMap;

use crate::context::Context;
use crate::hash::HashMap;
use crate::ids::{AppId, ChannelKey, HomeKey, ShardId};
use crate::mail::{BatchResults, ToEdge, ToHome};
use channel::HomeChannel;
use idempotency::Idempotency;
use logging::Logging;
use reading::Reading;
use recent::Recent;
use slots::Slots;
use wanting::Wanting;

/// The channels whose home is one shard.
#[derive(Debug)]
pub(crate) struct Home {
    channels: SlotMap<HomeKey, HomeChannel>,
    by_name: HashMap<ChannelKey, HomeKey>,
    /// The slugs of `by_name` by app, in order.
    slugs: HashMap<AppId, BTreeSet<ChannelSlug>>,
    /// Channels to be looked at for being forgotten, the next one last.
    old_homes: Vec<HomeKey>,
    /// Channels whose presence has something to tell, now or later.
    presences: Vec<HomeKey>,
    idempotency: Idempotency,
    recent: Recent,
    logging: Logging,
    reading: Reading,
    slots: Slots,
    /// Mail that waits for what other nodes may have.
    wanting: Wanting,
    /// Results of messages of batches, by the shard that waits for them.
    batch_results: Vec<(ShardId, BatchResults)>,
}

impl Home {
    /// One without channels.
    pub(crate) fn new(cx: &Context) -> Self {
        let limits = &cx.settings.limits;
        Self {
            channels: SlotMap::with_key(),
            by_name: HashMap::default(),
            slugs: HashMap::default(),
            old_homes: Vec::new(),
            presences: Vec::new(),
            idempotency: Idempotency::new(limits.idempotency_keys_max),
            recent: Recent::new(cx.settings.history.recent_bytes_max),
            logging: Logging::new(limits.logging_bytes_max),
            reading: Reading::default(),
            slots: Slots::default(),
            wanting: Wanting::default(),
            batch_results: Vec::new(),
        }
    }

    /// Does what it is asked.
    pub(crate) fn handle(&mut self, cx: &mut Context, mail: ToHome) {
        let mail = match cx.is_cluster() {
            true => self.admit(cx, mail),
            false => Some(mail),
        };
        let Some(mail) = mail else { return };
        match mail {
            ToHome::Publish(publish) => self.publish(cx, publish.message, publish.reply_to),
            ToHome::PublishBatch(batch) => self.publish_batch(cx, *batch),
            ToHome::ReadPage(page) => self.read_page(cx, *page),
            ToHome::Subscribe(subscribe) => self.subscribe(cx, *subscribe),
            ToHome::Attach(attach) => self.attach(cx, *attach),
            ToHome::ReadWindow(read) => self.read_window(cx, read),
            ToHome::Unsubscribe(unsubscribe) => self.unsubscribe(cx, &unsubscribe),
            ToHome::Channel(request) => self.channel_request(cx, *request),
            ToHome::ListChannels(list) => self.list_channels(cx, *list),
            ToHome::DescribeChannels(describe) => self.describe_channels(cx, *describe),
            ToHome::Members(members) => self.take_members(&members),
            ToHome::WantPresence(want) => self.want_presence(cx, want),
        }
    }

    /// Does what is due by time. To be called once a tick.
    pub(crate) fn tick(&mut self, cx: &mut Context) {
        self.recent.expire(cx.now.steady_ms);
        self.idempotency.expire(cx.now.elapsed_ms);
        self.forget_expired(cx);
        self.retry_deletes();
        self.tell_presence(cx);
        self.give_up_waiting(cx);
        self.give_up_wanting(cx);
        let metrics = cx.metrics();
        metrics.history_bytes.set(self.recent.bytes() as u64);
        metrics.idempotency_keys.set(self.idempotency.len() as u64);
        metrics.logging_bytes.set(self.logging.bytes() as u64);
        metrics.channels.set(self.channels.len() as u64);
    }

    /// An app was deleted, and its channels go with it.
    pub(crate) fn app_gone(&mut self, cx: &mut Context, app: AppId) {
        for slug in self.slugs.remove(&app).unwrap_or_default() {
            let channel = ChannelKey { app, slug };
            let Some(key) = self.by_name.get(&channel).copied() else { continue };
            if cx.is_cluster() {
                // What the streams have of it is deleted for all nodes at once.
                let tails = self.channels.get_mut(key).map(HomeChannel::take_audiences);
                for (shard, tail) in tails.into_iter().flatten() {
                    cx.post_edge(shard, ToEdge::Closed(tail));
                }
                self.drop_opened(cx, key);
            } else {
                self.close_channel(cx, key, None);
            }
        }
    }
}
