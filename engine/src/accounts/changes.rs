//! Changes of the directory: what becomes of which entries, and how to take that back.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::app::AppRecord;
use super::channel::ChannelMeta;
use super::store::DirectoryError;
use crate::ids::{AppId, ChannelKey, LogId};

/// The parts of the directory that changes go to, each a keyspace of the database. The numbers are on
/// the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Space {
    /// Apps by their number, big-endian.
    Apps = 1,
    /// Channels with metadata, by app and slug.
    Channels = 2,
    /// Places in the log of channels that were deleted and may be there still.
    Deleted = 3,
    /// Apps that were deleted and may have history still.
    DeletedApps = 4,
    /// Numbers.
    State = 5,
}

impl Space {
    pub(super) const ALL: [Self; 5] =
        [Self::Apps, Self::Channels, Self::Deleted, Self::DeletedApps, Self::State];

    fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|space| *space as u8 == number)
    }
}

/// Entries that change together; the last word on one counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes(pub(super) BTreeMap<(Space, Vec<u8>), Option<Vec<u8>>>);

impl Changes {
    /// An app is as it is now; keys of the configuration stay out of it.
    pub(super) fn put_app(&mut self, id: AppId, record: &AppRecord) -> Result<(), DirectoryError> {
        let json = record.to_json().map_err(no_form)?;
        self.set(Space::Apps, id.0.to_be_bytes(), Some(json));
        Ok(())
    }

    /// An app is gone. Its number is not given again; its history is deleted, if need be at the next
    /// start.
    pub(super) fn remove_app(&mut self, id: AppId) {
        self.set(Space::Apps, id.0.to_be_bytes(), None);
        self.set(Space::DeletedApps, id.0.to_be_bytes(), Some(Vec::new()));
    }

    /// The log has nothing of this deleted app any more.
    pub(super) fn forget_app(&mut self, id: AppId) {
        self.set(Space::DeletedApps, id.0.to_be_bytes(), None);
    }

    /// A channel has these metadata.
    pub(super) fn put_channel(
        &mut self,
        channel: &ChannelKey,
        meta: &ChannelMeta,
    ) -> Result<(), DirectoryError> {
        self.set(Space::Channels, channel_key(channel), Some(to_json(meta)?));
        Ok(())
    }

    /// A channel is gone. Its place in the log is noted: should its history still be there at the
    /// next start, it is deleted then, and not taken for that of a channel that is open to all.
    pub(super) fn remove_channel(&mut self, channel: &ChannelKey, log: Option<LogId>) {
        self.set(Space::Channels, channel_key(channel), None);
        if let Some(log) = log {
            self.set(Space::Deleted, log.0.to_be_bytes(), Some(Vec::new()));
        }
    }

    /// The log has nothing of this deleted channel any more.
    pub(super) fn forget_channel(&mut self, log: LogId) {
        self.set(Space::Deleted, log.0.to_be_bytes(), None);
    }

    /// A number.
    pub(super) fn put_number(&mut self, name: &str, number: u64) {
        self.set(Space::State, name, Some(number.to_be_bytes().into()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn set(&mut self, space: Space, key: impl AsRef<[u8]>, value: Option<Vec<u8>>) {
        self.0.insert((space, key.as_ref().to_vec()), value);
    }
}

/// A change as the database keeps it until the next one: its number, and what was there before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LastChange {
    pub(super) number: u64,
    pub(super) before: Vec<Before>,
}

/// An entry before a change: where it is, and its value if it was there.
pub(super) type Before = (Space, Vec<u8>, Option<Vec<u8>>);

impl LastChange {
    /// The number, then for each entry its space, its key and its value, each behind its length, with
    /// a length that no value has for none.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.number.to_be_bytes().to_vec();
        for (space, key, value) in &self.before {
            bytes.push(*space as u8);
            bytes.extend_from_slice(&(key.len() as u32).to_be_bytes());
            bytes.extend_from_slice(key);
            let length = value.as_ref().map_or(NO_VALUE, |value| value.len() as u32);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(value.as_deref().unwrap_or_default());
        }
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (number, mut rest) = bytes.split_first_chunk()?;
        let mut before = Vec::new();
        while let Some((&space, after)) = rest.split_first() {
            let (length, after) = after.split_first_chunk()?;
            let (key, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            let (length, after) = after.split_first_chunk()?;
            let length = u32::from_be_bytes(*length);
            let value_length = if length == NO_VALUE { 0 } else { length as usize };
            let (value, after) = after.split_at_checked(value_length)?;
            let value = (length != NO_VALUE).then(|| value.to_vec());
            before.push((Space::of(space)?, key.to_vec(), value));
            rest = after;
        }
        Some(Self { number: u64::from_be_bytes(*number), before })
    }
}

const NO_VALUE: u32 = u32::MAX;

pub(super) fn channel_key(channel: &ChannelKey) -> Vec<u8> {
    [&channel.app.0.to_be_bytes(), channel.slug.as_str().as_bytes()].concat()
}

/// Whether the metadata of a channel, as they are kept, say that it is private. What cannot be read
/// may be.
pub(super) fn is_private(meta: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Privacy {
        is_private: bool,
    }
    serde_json::from_slice(meta).map_or(true, |Privacy { is_private }| is_private)
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>, DirectoryError> {
    serde_json::to_vec(value).map_err(no_form)
}

fn no_form(error: serde_json::Error) -> DirectoryError {
    DirectoryError::Store(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_as_it_was_written() {
        let before = vec![
            (Space::Apps, vec![1, 2], Some(Vec::new())),
            (Space::State, Vec::new(), None),
            (Space::Channels, b"key".to_vec(), Some(vec![7; 300])),
        ];
        for before in [Vec::new(), before] {
            let change = LastChange { number: 1 << 40, before };
            let bytes = change.encode();
            assert_eq!(LastChange::parse(&bytes), Some(change));
            // The number alone is a change too.
            let is_part = |&at: &usize| LastChange::parse(&bytes[..at]).is_some();
            assert!(
                (0..8).all(|at| !is_part(&at))
                    && (9..14).all(|at| at > bytes.len() || at == bytes.len() || !is_part(&at))
            );
        }
        assert_eq!(LastChange::parse(&[0; 9]), None);
    }
}
