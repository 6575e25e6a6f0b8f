//! Which channels of an app there are, and what each of a page of them is like.
//!
//! In a cluster, names are those that the streams of this shard's slots have; what is asked of each channel
//! waits until that is found.

use std::ops::Bound;

use pushflo_protocol::{ErrorCode, Refusal};

use super::Home;
use crate::bug::bug;
use crate::context::Context;
use crate::ids::{ChannelKey, ListKey, ShardId, SlotId, SlotSet};
use crate::log::{LogCall, Names, NamesDone};
use crate::mail::{
    ChannelList, ChannelsDescribed, DescribeChannels, DescribedChannel, ListChannels,
    ListedChannel, NamedChannels, ToEdge, no_room,
};

/// Names that are copied for one unit of work.
const NAMES_PER_WORK: usize = 16;

/// Lists for which the streams of a shard are asked at a time.
const NAMING_MAX: usize = 16;

/// A list for which streams are asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Naming {
    shard: ShardId,
    list: ListKey,
    /// Of which slots. If one of them is lost meanwhile, its new owner was asked, too, or was not: the list is
    /// refused.
    slots: SlotSet,
}

impl Home {
    pub(super) fn list_channels(&mut self, cx: &mut Context, request: ListChannels) {
        if cx.is_cluster() {
            return self.ask_names(cx, request);
        }
        let ListChannels { shard, list, app, after, count_max } = request;
        let slugs = self.slugs.get(&app);
        let total = slugs.map_or(0, |slugs| slugs.len() as u64);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = slugs.map(|slugs| slugs.range((from, Bound::Unbounded)));
        let slugs: Vec<_> = behind.into_iter().flatten().take(count_max).cloned().collect();
        cx.charge(slugs.len() / NAMES_PER_WORK);
        let named = NamedChannels { slugs, total, slots: SlotSet::default() };
        let list = ChannelList { list, outcome: Ok(named) };
        cx.post_edge(shard, ToEdge::ChannelList(Box::new(list)));
    }

    fn ask_names(&mut self, cx: &mut Context, request: ListChannels) {
        let ListChannels { shard, list, app, after, count_max } = request;
        if self.slots.naming.len() >= NAMING_MAX {
            let list = ChannelList { list, outcome: Err(no_room()) };
            return cx.post_edge(shard, ToEdge::ChannelList(Box::new(list)));
        }
        let slots: Vec<SlotId> = self.slots.own().collect();
        let id = self.slots.next_id();
        let naming = Naming { shard, list, slots: slots.iter().copied().collect() };
        self.slots.naming.insert(id, naming);
        self.slots.push(LogCall::Names(Names {
            shard: cx.shard,
            id,
            slots,
            app,
            after,
            count_max,
        }));
    }

    /// Which channels the streams have.
    pub(super) fn named(&mut self, cx: &mut Context, done: NamesDone) {
        let NamesDone { id, outcome } = done;
        let Some(Naming { shard, list, slots }) = self.slots.naming.remove(&id) else {
            return bug!(cx, "names for a list that nobody waits for");
        };
        let outcome = match outcome {
            Ok((slugs, total)) => Ok(NamedChannels { slugs, total, slots }),
            Err(failure) => Err(Refusal::new(ErrorCode::Overloaded, failure.0.to_string())),
        };
        let list = ChannelList { list, outcome };
        cx.post_edge(shard, ToEdge::ChannelList(Box::new(list)));
    }

    pub(super) fn describe_channels(&mut self, cx: &mut Context, request: DescribeChannels) {
        let DescribeChannels { shard, list, app, channels } = request;
        let describe = |ListedChannel { position, slug }| {
            let home = self.find_home(&ChannelKey { app, slug }).ok();
            let info = home.map(|(_, home)| Box::new(home.info()));
            DescribedChannel { position, outcome: Ok(info) }
        };
        cx.charge(channels.len());
        let channels = channels.into_iter().map(describe).collect();
        let described = ChannelsDescribed { list, channels };
        cx.post_edge(shard, ToEdge::ChannelsDescribed(Box::new(described)));
    }
}
