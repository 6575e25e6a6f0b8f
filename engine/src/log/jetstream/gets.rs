//! Questions to JetStream over its API, which any number of which may be under way.
//!
//! Answers to reads come as several messages, so they cannot go through the client's own requests: one
//! inbox is for all of them, and the last token of a reply's subject says whose it is.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::appender::Sequence;
use crate::hash::HashMap;

/// For how long an answer of the API is waited for: it may come of a group of servers that has lost its leader.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// For how long the next message of a read is waited for: any server that has the stream may send it, and another
/// one may be asked instead.
const MESSAGE_MAX: Duration = Duration::from_millis(1_500);

/// Why there is no answer that is of use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody answers: the server cannot be reached, or the stream has no leader.
    #[error("NATS does not answer")]
    NoAnswer,
    /// It does not have yet what is known to be stored.
    #[error("a NATS server lags behind the others")]
    Behind,
    /// It says no.
    #[error("JetStream says: {description} (error {code})")]
    Refused {
        /// The server's number of the error.
        code: u64,
        /// What it says.
        description: String,
    },
}

/// A question for messages of a stream.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Get {
    /// From this sequence on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seq: Option<Sequence>,
    /// Under subjects that match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_by_subj: Option<String>,
    /// The last of each of these subjects instead.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) multi_last: Vec<String>,
    /// At most so many.
    pub(super) batch: usize,
    /// With the one that goes past so many bytes, no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_bytes: Option<usize>,
}

impl Get {
    /// Of messages under a subject, those from a sequence on.
    pub(super) fn following(
        subject: &str,
        from: Sequence,
        batch: usize,
        max_bytes: Option<usize>,
    ) -> Self {
        let next_by_subj = Some(subject.to_owned());
        Self { seq: Some(from), next_by_subj, batch, max_bytes, ..Self::default() }
    }
}

/// Messages of a stream.
#[derive(Debug, Default)]
pub(super) struct Got {
    /// What was found, in order.
    pub(super) messages: Vec<GotMessage>,
    /// How many more there are behind the last one.
    pub(super) pending: u64,
    /// The last sequence that the server has that answered. Only where the last of subjects were asked for.
    pub(super) up_to: Option<Sequence>,
}

/// A message of a stream.
#[derive(Debug)]
pub(super) struct GotMessage {
    /// Where it is.
    pub(super) sequence: Sequence,
    /// Under which subject.
    pub(super) subject: String,
    /// What is stored.
    pub(super) payload: Bytes,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct Answer<T> {
    error: Option<Problem>,
    #[serde(flatten)]
    content: Option<T>,
}

/// A way to ask.
#[derive(Clone)]
pub(super) struct Gets {
    client: Client,
    inbox: Rc<str>,
    next: Rc<Cell<u64>>,
    waiting: Rc<RefCell<HashMap<u64, UnboundedSender<Message>>>>,
}

impl Gets {
    /// Opens the inbox. To be called within a `LocalSet`, on which answers are passed on.
    pub(super) async fn new(client: Client) -> Result<Self, async_nats::SubscribeError> {
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(format!("{inbox}.*")).await?;
        let waiting: Rc<RefCell<HashMap<u64, UnboundedSender<Message>>>> = Rc::default();
        let for_answers = Rc::downgrade(&waiting);
        tokio::task::spawn_local(async move {
            while let Some(message) = answers.next().await {
                let Some(waiting) = for_answers.upgrade() else { return };
                let token = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
                let to = token.and_then(|token: u64| waiting.borrow().get(&token).cloned());
                if let Some(to) = to {
                    let _ = to.send(message);
                }
            }
        });
        Ok(Self { client, inbox: inbox.into(), next: Rc::default(), waiting })
    }

    /// Asks and has `take` read all that comes, until that says what came of it or nothing comes for `silence`.
    async fn ask(
        &self,
        subject: String,
        payload: Bytes,
        silence: Duration,
        mut take: impl FnMut(Message) -> Option<Result<(), AskError>>,
    ) -> Result<(), AskError> {
        let token = self.next.get();
        self.next.set(token + 1);
        let (sender, mut answers): (_, UnboundedReceiver<Message>) = unbounded_channel();
        self.waiting.borrow_mut().insert(token, sender);
        let reply = format!("{}.{token}", self.inbox);
        let sent =
            self.client.publish_with_reply_and_headers(subject, reply, HeaderMap::new(), payload);
        let answer = async {
            let sent = timeout(silence, sent).await;
            sent.map_err(|_| AskError::NoAnswer)?.map_err(|_| AskError::NoAnswer)?;
            while let Ok(Some(message)) = timeout(silence, answers.recv()).await {
                if message.status == Some(StatusCode::NO_RESPONDERS) {
                    return Err(AskError::NoAnswer);
                }
                if let Some(done) = take(message) {
                    return done;
                }
            }
            Err(AskError::NoAnswer)
        };
        let answer = answer.await;
        self.waiting.borrow_mut().remove(&token);
        answer
    }

    /// What the server tells of a stream.
    pub(super) async fn info<T: DeserializeOwned>(&self, stream: &str) -> Result<T, AskError> {
        self.api(&format!("STREAM.INFO.{stream}"), &serde_json::json!({})).await
    }

    /// Asks the API, whose answers are JSON.
    pub(super) async fn api<T: DeserializeOwned>(
        &self,
        subject: &str,
        request: &impl Serialize,
    ) -> Result<T, AskError> {
        let payload = serde_json::to_vec(request).unwrap_or_default().into();
        let mut found = None;
        let take = |message: Message| {
            let answer: Option<Answer<T>> = serde_json::from_slice(&message.payload).ok();
            Some(match answer {
                Some(Answer { error: Some(Problem { err_code: code, description }), .. }) => {
                    Err(AskError::Refused { code, description })
                }
                Some(Answer { content: Some(content), .. }) => {
                    found = Some(content);
                    Ok(())
                }
                _ => Err(AskError::NoAnswer),
            })
        };
        self.ask(format!("$JS.API.{subject}"), payload, ANSWER_MAX, take).await?;
        found.ok_or(AskError::NoAnswer)
    }

    /// Reads messages of a stream from any server that has it: what was stored last may be missing.
    pub(super) async fn get(&self, stream: &str, get: &Get) -> Result<Got, AskError> {
        let payload = serde_json::to_vec(get).unwrap_or_default().into();
        let mut got = Got::default();
        let take = |message: Message| {
            let header = |name: &str| {
                let value = message.headers.as_ref()?.get(name)?;
                Some(value.as_str().to_owned())
            };
            let number = |name: &str| header(name)?.parse::<u64>().ok();
            match message.status {
                None => {
                    let (Some(sequence), Some(subject)) =
                        (number("Nats-Sequence"), header("Nats-Subject"))
                    else {
                        return Some(Err(AskError::NoAnswer));
                    };
                    let payload = message.payload.clone();
                    got.messages.push(GotMessage { sequence, subject, payload });
                    None
                }
                // The end of what there is, or nothing at all.
                Some(status) if status.as_u16() == 204 => {
                    got.pending = number("Nats-Num-Pending").unwrap_or_default();
                    got.up_to = number("Nats-UpTo-Sequence");
                    Some(Ok(()))
                }
                Some(StatusCode::NOT_FOUND) => Some(Ok(())),
                Some(status) => {
                    let description = message.description.unwrap_or_default();
                    Some(Err(AskError::Refused { code: status.as_u16().into(), description }))
                }
            }
        };
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        self.ask(subject, payload, MESSAGE_MAX, take).await?;
        Ok(got)
    }
}
