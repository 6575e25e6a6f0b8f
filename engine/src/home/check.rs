//! What must hold of a home's tables between two calls: a channel is found by its name and by nothing
//! else, every offset given is that of a message that is sent or on its way, and whatever is counted is
//! there.

use std::collections::{BTreeMap, BTreeSet};

use pushflo_protocol::Offset;

use super::Home;
use super::channel::HomeChannel;
use crate::census::Census;
use crate::context::Context;
use crate::ids::{ChannelKey, HomeKey};

impl Home {
    /// Checks all tables, and adds what is here to `census`.
    ///
    /// # Panics
    /// Something does not hold.
    pub(crate) fn check(&self, cx: &Context, census: &mut Census) {
        self.check_names();
        let on_their_way = self.logging.check(&self.slots);
        self.reading.check();
        // Those of a channel that was deleted meanwhile come to nothing.
        let mut reads = self.reading.reads();
        for (key, home) in &self.channels {
            assert_eq!(cx.home_shard(&home.channel), cx.shard, "a channel of another shard");
            check_channel(home, &on_their_way.get(&key).copied());
            assert_eq!(home.reads, reads.remove(&key).unwrap_or_default(), "reads under way");
            self.check_presence(key, home);
            if home.is_counted && !home.is_closed() {
                *census.channels.entry(home.channel.app).or_default() += 1;
            }
            for audience in &home.tails {
                let subscribers = u64::from(audience.subscribers);
                census.counted.insert((audience.shard, audience.tail), subscribers);
            }
        }
        let homes: BTreeSet<HomeKey> = self.channels.keys().collect();
        assert!(on_their_way.keys().all(|key| homes.contains(key)), "a message of no channel");
        assert!(self.logging.deletes().all(|key| {
            // One that is deleted twice over is passed over.
            self.channels.get(key).is_none_or(HomeChannel::is_closed)
        }));
        self.idempotency.check(self.logging.keyed().chain(self.slots.keyed()));
        self.recent.check(|key| self.channels.get(key).map(|home| home.head.offset));
        assert!(self.batch_results.is_empty(), "results that are not sent");
        let metrics = cx.metrics();
        assert!(metrics.history_bytes.value() <= cx.settings.history.recent_bytes_max as u64);
    }

    fn check_names(&self) {
        for (name, key) in &self.by_name {
            let home = self.channels.get(*key);
            assert!(home.is_some_and(|home| home.channel == *name && !home.is_closed()));
        }
        let open = self.channels.values().filter(|home| !home.is_closed()).count();
        assert_eq!(open, self.by_name.len(), "a channel that nothing finds");
        let mut count = 0;
        for (app, slugs) in &self.slugs {
            count += slugs.len();
            let is_named = |slug: &pushflo_protocol::ChannelSlug| {
                self.by_name.contains_key(&ChannelKey { app: *app, slug: slug.clone() })
            };
            assert!(slugs.iter().all(is_named), "a channel is listed that is not there");
        }
        assert_eq!(count, self.by_name.len(), "a channel that is not listed");
    }

    fn check_presence(&self, key: HomeKey, home: &HomeChannel) {
        let listed = self.presences.iter().filter(|listed| **listed == key).count();
        let Some(presence) = home.presence() else {
            // One whose presence was switched off is passed over.
            return;
        };
        assert!(listed <= 1 || !presence.is_listed(), "listed twice");
        presence.check(home.subscribers());
        assert_eq!(presence.is_listed(), listed > 0, "in the list of those with something to tell");
    }
}

/// `on_their_way` are the first and the last offset on the way to the log, and the one before.
fn check_channel(home: &HomeChannel, on_their_way: &Option<(Offset, Offset)>) {
    assert!(home.head.offset <= home.given && home.given < home.next, "offsets out of order");
    match on_their_way {
        None => assert_eq!(home.given, home.head.offset, "given, and not on its way"),
        Some((before, last)) => {
            assert_eq!(*before, home.head.offset, "it does not follow the head");
            assert_eq!(*last, home.given, "the last one on its way is the last one given");
        }
    }
    assert!(home.messages <= home.head.offset.0, "more messages than offsets");
    assert!(home.last_ms > 0 || home.given == Offset(0));
    let mut tails = BTreeSet::new();
    for audience in &home.tails {
        assert!(audience.subscribers >= 1, "an audience of nobody");
        assert!(tails.insert((audience.shard, audience.tail)), "an audience twice");
    }
    if home.is_closed() {
        assert!(home.tails.is_empty() && home.meta().is_none() && home.presence().is_none());
    }
    if let Some(meta) = home.meta() {
        assert_eq!(meta.presence, home.presence().is_some(), "presence is not as it was set");
        assert!(home.is_counted, "a channel with metadata counts");
    }
    assert!(home.is_counted || home.given == Offset(0), "a channel with messages counts");
}

/// What is on its way to the log of each channel: the offset before the first, and the last.
pub(super) type OnTheirWay = BTreeMap<HomeKey, (Offset, Offset)>;
