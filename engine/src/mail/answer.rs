//! Who waits for an answer to mail, and what it is told where none will come.

use pushflo_protocol::Refusal;

use super::{
    Answered, Attached, BatchResult, BatchResults, ChannelList, ChannelsDescribed,
    DescribedChannel, NoWindow, ReplyTo, Subscribed, Subscriber, ToEdge, ToHome, Window,
    WindowReader,
};
use crate::ids::{BatchKey, ListKey, RequestId, ShardId, SubscriptionKey, TailKey};

/// Something that a home was asked and has not answered, as its answer names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Question {
    Request(RequestId),
    Message(BatchKey, u32),
    Subscribe(SubscriptionKey),
    Unsubscribe(SubscriptionKey),
    Window(WindowReader),
    Attach(TailKey),
    /// Which of a list's channels are there, and of which shard it is asked.
    List(ListKey, ShardId),
    /// What a channel of a list is like: its position.
    Describe(ListKey, u32),
}

/// What the answer needs besides.
#[derive(Clone, Debug)]
pub(crate) enum Asker {
    /// Nothing.
    Plain,
    /// Who wants to subscribe.
    Subscriber(Box<Subscriber>),
    /// Behind which offset a window is.
    After(pushflo_protocol::Offset),
}

impl ToHome {
    /// What is asked, of the shard `to`. What nobody waits for asks nothing.
    pub(crate) fn questions(&self, to: ShardId) -> Vec<(Question, Asker)> {
        let question = match self {
            Self::Publish(publish) => match publish.reply_to {
                ReplyTo::Request(request) => Question::Request(request),
                ReplyTo::Batch { batch, position, .. } => Question::Message(batch, position),
            },
            Self::PublishBatch(batch) => {
                let key = batch.batch;
                let of = |position| (Question::Message(key, position), Asker::Plain);
                return batch.messages.iter().map(|message| of(message.position)).collect();
            }
            Self::ReadPage(page) => Question::Request(page.request),
            Self::Channel(request) => Question::Request(request.request),
            Self::Subscribe(subscribe) => {
                let subscriber = Box::new(subscribe.subscriber.clone());
                let question = Question::Subscribe(subscriber.subscription);
                return vec![(question, Asker::Subscriber(subscriber))];
            }
            Self::ReadWindow(read) => {
                return vec![(Question::Window(read.reader), Asker::After(read.after))];
            }
            Self::Unsubscribe(unsubscribe) => match unsubscribe.subscription {
                Some(subscription) => Question::Unsubscribe(subscription),
                None => return Vec::new(),
            },
            Self::Attach(attach) => Question::Attach(attach.tail),
            Self::ListChannels(list) => Question::List(list.list, to),
            Self::DescribeChannels(describe) => {
                let list = describe.list;
                let of = |position| (Question::Describe(list, position), Asker::Plain);
                return describe.channels.iter().map(|channel| of(channel.position)).collect();
            }
            Self::Members(_) | Self::WantPresence(_) => return Vec::new(),
        };
        vec![(question, Asker::Plain)]
    }

    /// The shard that waits for the answer, if anybody does.
    pub(crate) fn asker(&self) -> Option<ShardId> {
        Some(match self {
            Self::Publish(publish) => match publish.reply_to {
                ReplyTo::Request(request) => request.shard,
                ReplyTo::Batch { shard, .. } => shard,
            },
            Self::PublishBatch(batch) => batch.shard,
            Self::ReadPage(page) => page.request.shard,
            Self::Channel(request) => request.request.shard,
            Self::Subscribe(subscribe) => subscribe.subscriber.shard,
            Self::ReadWindow(read) => read.reader.shard,
            Self::Attach(attach) => attach.shard,
            Self::Unsubscribe(unsubscribe) => unsubscribe.shard,
            Self::ListChannels(list) => list.shard,
            Self::DescribeChannels(describe) => describe.shard,
            Self::Members(_) | Self::WantPresence(_) => return None,
        })
    }
}

impl ToEdge {
    /// The questions that it answers, of the shard that sent it.
    pub(crate) fn answers(&self, from: ShardId) -> Vec<Question> {
        match self {
            Self::Answered(answered) => vec![Question::Request(answered.request)],
            Self::BatchResults(results) => {
                let of = |result: &BatchResult| Question::Message(results.batch, result.position);
                results.results.iter().map(of).collect()
            }
            Self::ChannelList(list) => vec![Question::List(list.list, from)],
            Self::ChannelsDescribed(described) => {
                let of = |of: &DescribedChannel| Question::Describe(described.list, of.position);
                described.channels.iter().map(of).collect()
            }
            Self::Subscribed(subscribed) => {
                vec![Question::Subscribe(subscribed.subscriber.subscription)]
            }
            Self::Window(window) => vec![Question::Window(window.reader)],
            Self::Attached(attached) => vec![Question::Attach(attached.tail)],
            Self::Unsubscribed(subscription) => vec![Question::Unsubscribe(*subscription)],
            Self::Message(_)
            | Self::Closed(_)
            | Self::Moved(_)
            | Self::Privacy(_)
            | Self::Roster(_)
            | Self::PresenceSnapshot(_)
            | Self::Presence(_) => Vec::new(),
        }
    }
}

/// What whoever asked is told where there is no other answer.
pub(crate) fn failure(question: Question, asker: Asker, refusal: &Refusal) -> Option<ToEdge> {
    let refused = || refusal.clone();
    Some(match (question, asker) {
        (Question::Request(request), _) => {
            ToEdge::Answered(Box::new(Answered { request, outcome: Err(refused()) }))
        }
        (Question::Message(batch, position), _) => {
            let results = vec![BatchResult { position, result: Err(refused()) }];
            ToEdge::BatchResults(Box::new(BatchResults { batch, results }))
        }
        (Question::Subscribe(_), Asker::Subscriber(subscriber)) => {
            let (subscriber, outcome) = (*subscriber, Err(refused()));
            ToEdge::Subscribed(Box::new(Subscribed { subscriber, outcome }))
        }
        (Question::Unsubscribe(subscription), _) => ToEdge::Unsubscribed(subscription),
        (Question::Attach(tail), _) => ToEdge::Attached(Box::new(Attached { tail, outcome: None })),
        (Question::Window(reader), Asker::After(after)) => {
            let records = Err(NoWindow::NotNow);
            ToEdge::Window(Box::new(Window { reader, after, records }))
        }
        (Question::List(list, _), _) => {
            ToEdge::ChannelList(Box::new(ChannelList { list, outcome: Err(refused()) }))
        }
        (Question::Describe(list, position), _) => {
            let channels = vec![DescribedChannel { position, outcome: Err(refused()) }];
            ToEdge::ChannelsDescribed(Box::new(ChannelsDescribed { list, channels }))
        }
        (Question::Subscribe(_) | Question::Window(_), _) => return None,
    })
}
