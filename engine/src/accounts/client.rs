//! Who is behind a connection.

use std::sync::Arc;

use pushflo_protocol::MessageId;
use serde::{Deserialize, Serialize};

use super::token::Identity;

/// A client, as the members of a channel know it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Client {
    /// One with a key: it is known by an id of the server's, kept as two halves so that it needs no
    /// alignment of its own.
    Generated([u64; 2]),
    /// One with a token.
    Named(Arc<Identity>),
}

impl Client {
    /// A client known by this id.
    pub fn generated(id: MessageId) -> Self {
        Self::Generated([(id.0 >> 64) as u64, id.0 as u64])
    }

    /// Its client id.
    pub fn id(&self) -> Arc<str> {
        match self {
            Self::Generated([high, low]) => {
                MessageId(u128::from(*high) << 64 | u128::from(*low)).to_string().into()
            }
            Self::Named(identity) => (&*identity.client_id).into(),
        }
    }

    /// Whether somebody vouched for the client id: the server, which made it, or the app's backend.
    pub fn is_verified(&self) -> bool {
        match self {
            Self::Generated(_) => true,
            Self::Named(identity) => identity.is_verified,
        }
    }

    /// What other members see of it, as JSON.
    pub fn data(&self) -> Option<&str> {
        match self {
            Self::Generated(_) => None,
            Self::Named(identity) => identity.data.as_deref(),
        }
    }

    /// Bytes it keeps in memory besides itself. What several of one client share counts for each.
    pub fn kept_bytes(&self) -> usize {
        match self {
            Self::Generated(_) => 0,
            Self::Named(identity) => {
                let of_data = identity.data.as_ref().map_or(0, |data| data.len());
                size_of::<Identity>() + identity.client_id.len() + of_data
            }
        }
    }
}
