//! Publishes and channels for which this node has none left of what an app's plan limits: they wait until other
//! nodes have lent it some, or it is clear that there is no more.

use std::collections::VecDeque;

use super::Home;
use crate::accounts::{Resource, Taken};
use crate::context::Context;
use crate::hash::HashMap;
use crate::ids::{AppId, ChannelKey, HomeKey};
use crate::mail::{ChannelCall, ToHome, no_room, not_now};
use crate::share;

/// Bytes of mail of a shard that waits; its apps share them.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// How long it waits at most, in milliseconds.
const WAIT_MAX_MS: u64 = 3_000;

/// Mail that waits, by app.
#[derive(Debug, Default)]
pub(super) struct Wanting {
    by_app: HashMap<AppId, OfApp>,
    bytes: usize,
}

/// Mail of an app that waits, in order, and since when, in milliseconds after the start.
#[derive(Debug, Default)]
struct OfApp {
    waiting: VecDeque<(u64, ToHome)>,
    bytes: usize,
}

impl Wanting {
    /// Whether no mail waits.
    pub(super) fn is_empty(&self) -> bool {
        self.by_app.is_empty()
    }
}

/// What mail costs while it waits.
fn cost(mail: &ToHome) -> usize {
    size_of::<(u64, ToHome)>() + mail.kept_bytes()
}

/// What mail waits for: so many of a resource an app may have.
pub(super) type Wanted = (Resource, u64);

impl Home {
    /// What mail for a channel has to wait for, if anything.
    pub(super) fn is_to_wait(
        &self,
        cx: &Context,
        mail: &ToHome,
        channel: &ChannelKey,
        home: HomeKey,
    ) -> Option<Option<Wanted>> {
        let is_publish = match mail {
            ToHome::Publish(_) => true,
            ToHome::Channel(request)
                if matches!(request.call, ChannelCall::Create(_) | ChannelCall::Change(_)) =>
            {
                false
            }
            _ => return None,
        };
        let app = cx.directory.app(channel.app)?;
        if self.wanting.by_app.contains_key(&channel.app) {
            // Behind those that wait already.
            return Some(None);
        }
        let (plan, usage) = (&app.plan, &app.usage);
        let is_counted = self.channels.get(home).is_some_and(|home| home.is_counted);
        if !is_counted && usage.look_at_channels(plan.channels_max) == Taken::Ask {
            return Some(Some((Resource::Channels, plan.channels_max)));
        }
        let most = plan.messages_per_month_max;
        if is_publish && usage.look_at_messages(cx.month(), most) == Taken::Ask {
            return Some(Some((Resource::Messages, most)));
        }
        None
    }

    /// Has mail wait, and asks for what it waits for.
    pub(super) fn wait(
        &mut self,
        cx: &mut Context,
        mail: ToHome,
        app: AppId,
        wanted: Option<Wanted>,
    ) {
        let (bytes, of_app) = (cost(&mail), self.wanting.by_app.get(&app).map_or(0, |of| of.bytes));
        if !share::has_room(of_app + bytes, self.wanting.bytes + bytes, WAITING_BYTES_MAX) {
            return cx.refuse(&mail, &no_room());
        }
        if let (Some((resource, limit)), Some(app)) = (wanted, cx.directory.app(app).cloned()) {
            cx.want(&app, resource, limit);
        }
        self.push_waiting(app, cx.now.elapsed_ms, mail, bytes);
    }

    /// Has what waits for an app be tried again.
    pub(crate) fn try_again(&mut self, cx: &mut Context, app: AppId) {
        let OfApp { waiting, bytes } = self.wanting.by_app.remove(&app).unwrap_or_default();
        self.wanting.bytes -= bytes;
        for (since_ms, mail) in waiting {
            self.handle(cx, mail);
            // Where it waits on, that is since it came.
            let of_app = self.wanting.by_app.get_mut(&app);
            if let Some((since, _)) = of_app.and_then(|of_app| of_app.waiting.back_mut()) {
                *since = since_ms.min(*since);
            }
        }
    }

    fn push_waiting(&mut self, app: AppId, since_ms: u64, mail: ToHome, bytes: usize) {
        let of_app = self.wanting.by_app.entry(app).or_default();
        of_app.waiting.push_back((since_ms, mail));
        of_app.bytes += bytes;
        self.wanting.bytes += bytes;
    }

    /// Refuses what has waited for too long. To be called once a tick.
    pub(super) fn give_up_wanting(&mut self, cx: &mut Context) {
        let now_ms = cx.now.elapsed_ms;
        let mut late = Vec::new();
        let mut freed = 0;
        self.wanting.by_app.retain(|_, of_app| {
            let is_late = |(since_ms, _): &&(u64, ToHome)| *since_ms + WAIT_MAX_MS <= now_ms;
            let count = of_app.waiting.iter().take_while(is_late).count();
            for (_, mail) in of_app.waiting.drain(..count) {
                let bytes = cost(&mail);
                of_app.bytes -= bytes;
                freed += bytes;
                late.push(mail);
            }
            !of_app.waiting.is_empty()
        });
        self.wanting.bytes -= freed;
        for mail in late {
            cx.refuse(&mail, &not_now("what its plan limits"));
        }
    }
}
