//! How often each kind of thing happened: a world in which something never happens does not test it.

use std::collections::BTreeMap;

use pushflo_engine::accounts::News;
use pushflo_engine::log::LogAnswer;
use pushflo_engine::mail::{ChannelCall, Mail, ToEdge, ToHome};
use pushflo_engine::shard::Envelope;

/// By what happened.
pub type Tally = BTreeMap<&'static str, u64>;

/// Each kind of envelope that [`kind`] names; each must come between shards in some world.
pub const KINDS: [&str; 41] = [
    "mail: publish",
    "mail: batch",
    "mail: read page",
    "mail: subscribe",
    "mail: read window",
    "mail: unsubscribe",
    "mail: unsubscribe of a lost connection",
    "mail: describe channel",
    "mail: create channel",
    "mail: change channel",
    "mail: delete channel",
    "mail: presence of channel",
    "mail: list channels",
    "mail: describe channels",
    "mail: members",
    "mail: want presence",
    "mail: answered",
    "mail: refused",
    "mail: batch results",
    "mail: channel list",
    "mail: channels described",
    "mail: message",
    "mail: subscribed",
    "mail: window",
    "mail: window that is not kept",
    "mail: unsubscribed",
    "mail: closed",
    "mail: privacy",
    "mail: roster",
    "mail: presence snapshot",
    "mail: presence",
    "log: logged",
    "log: located",
    "log: read",
    "log: page",
    "log: short",
    "news: app",
    "news: app gone",
    "news: done",
    "news: done by all",
    "news: channel stored",
];

/// What kind of envelope it is.
pub fn kind(envelope: &Envelope) -> &'static str {
    match envelope {
        Envelope::Mail(Mail::Home(mail)) => match mail {
            ToHome::Publish(_) => "mail: publish",
            ToHome::PublishBatch(_) => "mail: batch",
            ToHome::ReadPage(_) => "mail: read page",
            ToHome::Subscribe(_) => "mail: subscribe",
            ToHome::ReadWindow(_) => "mail: read window",
            ToHome::Attach(_) => "mail: attach",
            ToHome::Unsubscribe(leave) if leave.subscription.is_none() => {
                "mail: unsubscribe of a lost connection"
            }
            ToHome::Unsubscribe(_) => "mail: unsubscribe",
            ToHome::Channel(request) => match request.call {
                ChannelCall::Describe => "mail: describe channel",
                ChannelCall::Create(_) => "mail: create channel",
                ChannelCall::Change(_) => "mail: change channel",
                ChannelCall::Delete => "mail: delete channel",
                ChannelCall::Presence { .. } => "mail: presence of channel",
            },
            ToHome::ListChannels(_) => "mail: list channels",
            ToHome::DescribeChannels(_) => "mail: describe channels",
            ToHome::Members(_) => "mail: members",
            ToHome::WantPresence(_) => "mail: want presence",
        },
        Envelope::Mail(Mail::Edge(mail)) => match mail {
            ToEdge::Answered(answered) if answered.outcome.is_err() => "mail: refused",
            ToEdge::Answered(_) => "mail: answered",
            ToEdge::BatchResults(_) => "mail: batch results",
            ToEdge::ChannelList(_) => "mail: channel list",
            ToEdge::ChannelsDescribed(_) => "mail: channels described",
            ToEdge::Message(_) => "mail: message",
            ToEdge::Subscribed(_) => "mail: subscribed",
            ToEdge::Window(window) if window.records.is_err() => "mail: window that is not kept",
            ToEdge::Window(_) => "mail: window",
            ToEdge::Attached(_) => "mail: attached",
            ToEdge::Unsubscribed(_) => "mail: unsubscribed",
            ToEdge::Closed(_) => "mail: closed",
            ToEdge::Moved(_) => "mail: moved",
            ToEdge::Privacy(_) => "mail: privacy",
            ToEdge::Roster(_) => "mail: roster",
            ToEdge::PresenceSnapshot(_) => "mail: presence snapshot",
            ToEdge::Presence(_) => "mail: presence",
        },
        Envelope::Log(answer) => match answer {
            LogAnswer::Logged(_) => "log: logged",
            LogAnswer::Located(_) => "log: located",
            LogAnswer::Read(_) => "log: read",
            LogAnswer::Page(_) => "log: page",
            LogAnswer::Short(_) => "log: short",
            LogAnswer::Opened(_) => "log: opened",
            LogAnswer::Slot(_) => "log: slot",
            LogAnswer::Meta(_) => "log: metadata changed",
            LogAnswer::MetaStored(_) => "log: metadata stored",
            LogAnswer::Names(_) => "log: names",
        },
        Envelope::Accounts(news) => match news {
            News::App(_) => "news: app",
            News::AppGone(_) => "news: app gone",
            News::Done(_) => "news: done",
            News::DoneByAll(_) => "news: done by all",
            News::ChannelStored(_) => "news: channel stored",
        },
        Envelope::Abroad(..) => "mail from abroad",
        Envelope::Cluster(_) => "news of the cluster",
    }
}
