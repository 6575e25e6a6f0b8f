//! What a request comes to: an answer, or something that somebody else is to do first.

use std::net::IpAddr;

use pushflo_protocol::answer::{
    self, App as AppAnswer, Channel, History, HistoryItem, Iso8601, Key as KeyAnswer, Members,
    Pagination, Published,
};
use pushflo_protocol::websocket::CloseCode;
use pushflo_protocol::{ChannelSlug, Parts, Receipt, Refusal};

use super::reply::Reply;
use crate::accounts::{Access, AccountsCall, App, Changed, Grant, Key, NewKey};
use crate::ids::{AppId, ShardId};
use crate::mail::{Answer, ChannelInfo, Member, NewMessage, Outcome, ToHome};

/// What is to be done about a request.
pub(crate) enum Action {
    /// Answer it.
    Reply(Reply),
    /// Ask the home of a channel.
    Ask {
        /// Its shard.
        home: ShardId,
        /// What is asked.
        mail: ToHome,
        /// What becomes of the answer.
        awaited: Awaited,
    },
    /// Have the accounts do something in the name of an app.
    Accounts(AppId, AccountsCall),
    /// Ask how the cluster is.
    AskCluster,
    /// Publish messages of several channels.
    Batch(Vec<Result<NewMessage, Refusal>>),
    /// Put a list of an app's channels together.
    List(ListQuery),
    /// Make the connection a WebSocket.
    Upgrade(Box<Upgrade>),
}

/// Which of an app's channels are wanted.
#[derive(Clone, Debug)]
pub(crate) struct ListQuery {
    pub(crate) app: AppId,
    /// Only those behind this name.
    pub(crate) after: Option<ChannelSlug>,
    /// Which page, from 1.
    pub(crate) page: u64,
    pub(crate) page_size: u64,
    /// They are only counted, for what the app uses.
    pub(crate) is_usage: bool,
}

/// A handshake that is well-formed.
pub(crate) struct Upgrade {
    /// The value of `Sec-WebSocket-Accept`.
    pub(crate) accept: String,
    /// The address behind a proxy, which counts from now on.
    pub(crate) client: Option<IpAddr>,
    /// What the key or token grants, or the refusal that is told in a frame, since browsers do not show
    /// an HTTP answer.
    pub(crate) admitted: Admitted,
}

/// What a key or token grants, or what is told after the upgrade.
pub(crate) type Admitted = Result<(Access, Option<Grant>), (Refusal, CloseCode)>;

/// What must be known of a request when its answer comes.
#[derive(Clone, Debug, Default)]
pub(crate) enum Awaited {
    /// Nothing.
    #[default]
    Nothing,
    /// What was published: it is told with the receipt.
    Publish {
        /// 200 or 201, by the route.
        status: u16,
        channel: ChannelSlug,
        parts: Parts,
    },
    /// Which page of a channel's history.
    History { channel: ChannelSlug, page: u64, page_size: u64 },
    /// Which page of its members.
    Members { page: u64, page_size: u64 },
}

impl Awaited {
    /// The channel that it is about, where that was noted.
    pub(crate) fn channel(&self) -> Option<&ChannelSlug> {
        match self {
            Self::Publish { channel, .. } | Self::History { channel, .. } => Some(channel),
            Self::Members { .. } | Self::Nothing => None,
        }
    }

    /// Whether the answer may be large.
    pub(crate) fn is_large(&self) -> bool {
        matches!(self, Self::History { .. } | Self::Members { .. })
    }

    /// The reply to a request, once somebody has seen to it.
    pub(crate) fn reply(&self, outcome: Outcome) -> Reply {
        match outcome {
            Ok(answer) => self.success(&answer),
            Err(refusal) => Reply::refusal(&refusal),
        }
    }

    fn success(&self, answer: &Answer) -> Reply {
        match (answer, self) {
            (Answer::Published(receipt), Self::Publish { status, channel, parts }) => {
                Reply::json(*status, answer::success(published(channel, parts, receipt)))
            }
            (Answer::Page(found), Self::History { channel, page, page_size }) => {
                let items = found.records.iter().map(|record| HistoryItem::new(channel, record));
                let items = items.collect();
                let pagination = Pagination::new(*page, *page_size, found.total);
                Reply::json(200, answer::success(History { items, pagination }))
            }
            (Answer::Members(found), Self::Members { page, page_size }) => {
                let members = found.members.iter().map(member).collect();
                let (subscribers, count) = (found.subscribers, found.count);
                let pagination = Pagination::new(*page, *page_size, count);
                let members = Members { subscribers, count, members };
                Reply::json(200, answer::success_page(members, pagination))
            }
            (Answer::Channel(info), _) => Reply::json(200, answer::success(channel(info))),
            (Answer::ChannelCreated(info), _) => Reply::json(201, answer::success(channel(info))),
            (Answer::Accounts(changed), _) => match changed {
                Changed::AppCreated(made, keys) => {
                    let keys = keys.iter().map(new_key).collect();
                    Reply::json(201, answer::success(app(made, keys)))
                }
                Changed::App(changed) => Reply::json(200, answer::success(app(changed, vec![]))),
                Changed::KeyCreated(key) => Reply::json(201, answer::success(new_key(key))),
                Changed::Deleted => Reply::empty(204),
            },
            (Answer::Cluster(status), _) => Reply::json(200, answer::success(status)),
            (Answer::Deleted, _) => Reply::empty(204),
            (Answer::Published(_) | Answer::Page(_) | Answer::Members(_), _) => {
                debug_assert!(false, "an answer that nobody asked for: {answer:?}");
                Reply::refusal(&Refusal::new(
                    pushflo_protocol::ErrorCode::ServerError,
                    "the answer was for another request",
                ))
            }
        }
    }
}

/// What a publisher is answered.
pub(super) fn published<'a>(
    channel: &'a ChannelSlug,
    parts: &'a Parts,
    receipt: &Receipt,
) -> Published<'a> {
    Published::new(channel, parts.event_type(), parts.client_id(), receipt)
}

/// A channel as the API shows it.
pub(super) fn channel(info: &ChannelInfo) -> Channel<'_> {
    let meta = info.meta.as_deref();
    let updated_ms = meta.map_or(info.last_ms, |meta| meta.updated_ms).max(info.created_ms);
    Channel {
        id: format!("ch_{}", info.epoch),
        name: meta.map_or(info.slug.as_str(), |meta| &meta.name),
        slug: info.slug.as_str(),
        description: meta.and_then(|meta| meta.description.as_deref()),
        is_private: meta.is_some_and(|meta| meta.is_private),
        metadata: meta.and_then(|meta| meta.metadata.as_deref()),
        message_count: info.messages,
        created_at: Iso8601(info.created_ms),
        updated_at: Iso8601(updated_ms),
        presence: meta.is_some_and(|meta| meta.presence),
        subscribers: info.subscribers,
    }
}

/// A member as others see it.
pub(crate) fn member(member: &Member) -> answer::Member<'_> {
    answer::Member {
        client_id: &member.client_id,
        data: member.data.as_deref(),
        is_verified: member.is_verified,
    }
}

/// An app as the API shows it.
pub(super) fn app<'a>(
    app: &'a App,
    keys: Vec<KeyAnswer<'a>>,
) -> AppAnswer<'a, crate::accounts::AppSettings> {
    let record = &app.record;
    AppAnswer {
        id: app.id.to_string(),
        name: &record.name,
        plan: &record.plan,
        settings: &record.settings,
        created_at: Iso8601(record.created_ms),
        updated_at: Iso8601(record.updated_ms),
        keys,
    }
}

/// A key as the API shows it.
pub(super) fn key(key: &Key) -> KeyAnswer<'_> {
    KeyAnswer {
        id: key.id().to_string(),
        role: key.role.name(),
        name: key.name.as_deref(),
        created_at: Iso8601(key.created_ms),
        key: None,
    }
}

fn new_key(made: &NewKey) -> KeyAnswer<'_> {
    KeyAnswer { key: Some(&made.text), ..key(&made.key) }
}
