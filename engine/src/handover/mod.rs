//! What a process hands to the one that takes its place: connections, what they listen to, and what there is of
//! channels in memory alone.
//!
//! These are types of their own, not those that the shards work with: a later version must still read what this
//! one writes. They travel as [postcard](https://postcard.jamesmunns.com/wire-format), which names no fields, so
//! that whatever changes here is another [`FORMAT`].
//!
//! * [`ConnectionState`], [`TailState`]: of the edge of a shard, beside the sockets themselves
//! * [`ChannelState`]: of its home
//! * [`SharedState`]: of the process

use pushflo_protocol::channel::ChannelPattern;
use pushflo_protocol::{Epoch, Offset, Record, StreamPosition};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::accounts::{Client, KeyId, Role};
use crate::ids::{AppId, ChannelKey};

/// The format of what is handed over. A process takes over from one with the same.
pub const FORMAT: u32 = 1;

/// With the part that goes past so many bytes, a frame of what is handed over ends.
pub const FRAME_BYTES: usize = 1 << 20;

/// What was handed over is not what it should be.
#[derive(Clone, Copy, Debug, Error)]
#[error("what was handed over cannot be read")]
pub struct Unreadable;

/// What the shards of a process share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SharedState {
    /// Decides where channels are, and their epochs.
    pub seed: u64,
    /// How often a channel was deleted.
    pub deletions: u64,
    /// The generations of slots of epochs.
    pub generations: Vec<u32>,
    /// The next log id that is free.
    pub next_log: u64,
}

/// A channel on a shard with subscribers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailState {
    /// Which.
    pub channel: ChannelKey,
    /// The last position that its subscribers have been sent, or will be by what is handed over with them.
    pub head: StreamPosition,
    /// Whether it is private.
    pub is_private: bool,
}

/// A connection, beside its socket. Times are ticks of the engine's clock from now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnectionState {
    /// What is spoken on it.
    pub phase: PhaseState,
    /// The peer sends nothing more.
    pub peer_done: bool,
    /// Something was heard from it.
    pub is_heard: bool,
    /// Where its address is counted.
    pub address: Option<u16>,
    /// It comes through a proxy that tells its address in each request.
    pub is_proxied: bool,
    /// Who is behind it, while it is a WebSocket.
    pub session: Option<SessionState>,
    /// Since when the peer was not heard, or its unfinished request is under way.
    pub silent_ticks: u32,
    /// When its next time-out comes up.
    pub timeout_ticks: u32,
    /// The first sequence number that none of its requests has had.
    pub first_sequence: u32,
    /// What is behind a request or a frame that is not whole.
    pub inbound: Vec<u8>,
    /// The fragments of a message that is not whole.
    pub fragments: Option<Vec<u8>>,
    /// A command that was read and not acted upon.
    pub deferred: Option<Box<str>>,
    /// In whose name it last asked for something.
    pub payer: Option<AppId>,
    /// What is still to be written.
    pub outbound: Vec<u8>,
    /// What it listens to.
    pub subscriptions: Vec<SubscriptionState>,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PhaseState {
    /// A proxy is to tell whose connection it is.
    Proxy,
    /// HTTP.
    Http,
    /// A WebSocket.
    Open {
        /// A ping is not answered yet.
        pinged: bool,
    },
    /// A last write is on its way.
    Closing {
        /// How much longer it may take.
        ticks: u32,
        /// FIN was sent.
        half_closed: bool,
    },
}

/// Who is behind a WebSocket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionState {
    /// Whose channels it may use.
    pub app: AppId,
    /// The role of the key, or of the one behind the token.
    pub role: Role,
    /// That key, whose revocation ends it.
    pub key: KeyId,
    /// Who it is to others.
    pub client: Client,
    /// What its token grants.
    pub grant: Option<GrantState>,
}

/// What a token grants while its connection is open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GrantState {
    /// Channels; `None`: every one that is not private.
    pub channels: Option<Vec<ChannelPattern>>,
    /// Channels that may be published to.
    pub publish: Vec<ChannelPattern>,
    /// When it ends, in Unix milliseconds.
    pub expires_ms: u64,
    /// When the client is asked for a fresh one.
    pub warn_ticks: u32,
    /// When it ends.
    pub end_ticks: u32,
    /// The client was asked.
    pub is_warned: bool,
}

/// A subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionState {
    /// To which of the shard's tails, by their order.
    pub tail: u32,
    /// What it has: all up to here, where that is not all there is.
    pub behind: Option<Offset>,
    /// Whether it is told who else is there.
    pub wants_presence: bool,
}

/// What a home has of a channel that is kept nowhere else.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChannelState {
    /// Which.
    pub channel: ChannelKey,
    /// The channel itself, where the log does not have it.
    pub unlogged: Option<UnloggedState>,
    /// Who is there, as others were told.
    pub members: Vec<Client>,
}

impl ChannelState {
    /// About what it takes as bytes.
    pub fn kept_bytes(&self) -> usize {
        let records = self.unlogged.iter().flat_map(|unlogged| &unlogged.records);
        let answers = self.unlogged.as_ref().map_or(0, |unlogged| unlogged.answers.len());
        let members: usize = self.members.iter().map(Client::kept_bytes).sum();
        size_of::<Self>()
            + records.map(Record::kept_bytes).sum::<usize>()
            + answers * size_of::<AnswerState>()
            + members
    }
}

/// A channel that the log does not have.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnloggedState {
    /// Its place in the log, if it is to have one.
    pub log: Option<u64>,
    /// Which life of the channel its offsets belong to.
    pub epoch: Epoch,
    /// The offset of its last message; 0 if it had none.
    pub head: Offset,
    /// When the last message got its offset, in Unix milliseconds.
    pub last_ms: u64,
    /// When it was made, in Unix milliseconds.
    pub created_ms: u64,
    /// How many messages it ever had.
    pub messages: u64,
    /// Whether it counts for its app.
    pub is_counted: bool,
    /// What is kept of its messages.
    pub records: Vec<Record>,
    /// What publishers are told who ask again.
    pub answers: Vec<AnswerState>,
}

/// What a publisher is told who asks again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AnswerState {
    /// The idempotency key.
    pub key: Box<str>,
    /// A digest of what was published.
    pub content: u64,
    /// How much longer it is kept, in milliseconds.
    pub left_ms: u64,
    /// Which message it was.
    pub id: u128,
    /// Where it is in the channel.
    pub offset: Offset,
    /// Its time, in Unix milliseconds.
    pub timestamp_ms: u64,
}

/// What is handed over, as bytes.
///
/// # Panics
/// Never: all of it has a form.
pub fn encode(state: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(state).unwrap_or_else(|error| unreachable!("{error}"))
}

/// Reads what [`encode`] has written.
///
/// # Errors
/// [`Unreadable`] where it is something else.
pub fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    postcard::from_bytes(bytes).map_err(|_| Unreadable)
}
