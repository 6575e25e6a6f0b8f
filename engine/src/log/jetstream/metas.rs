//! What the API added to channels: entries of the bucket that all nodes follow, so that whoever opens a channel
//! knows it. The owner of a channel alone changes it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use pushflo_protocol::ChannelSlug;

use crate::bucket::{Bucket, Entry, WriteError};
use crate::ids::{AppId, ChannelKey};
use crate::log::StoredMeta;

/// What keys of channels begin with.
const CHANNEL: &str = "channel.";

/// Channels with metadata in a cluster: each is known to every node.
const METAS_MAX: usize = 4_000_000;

/// The metadata of all channels.
pub(super) struct Metas {
    bucket: Rc<Bucket>,
    known: RefCell<BTreeMap<AppId, BTreeMap<ChannelSlug, Known>>>,
    count: Cell<usize>,
    /// Counts how often all was told from the start.
    pass: Cell<u32>,
}

struct Known {
    meta: Bytes,
    revision: u64,
    /// When it was told last.
    pass: u32,
}

impl Metas {
    pub(super) fn new(bucket: Rc<Bucket>) -> Self {
        Self { bucket, known: RefCell::default(), count: Cell::new(0), pass: Cell::new(0) }
    }

    /// Waits until all is known that was written before now.
    pub(super) async fn catch_up(&self) -> Result<(), WriteError> {
        self.bucket.catch_up().await
    }

    /// All will be told from the start.
    pub(super) fn begin(&self) {
        self.pass.set(self.pass.get().wrapping_add(1));
    }

    /// An entry of the bucket. Returns the channel, and what it has now, if it is of one and new.
    pub(super) fn learn(&self, entry: &Entry) -> Option<(ChannelKey, StoredMeta)> {
        let channel = parse_key(&entry.key)?;
        let (app, slug) = (channel.app, channel.slug.clone());
        let mut known = self.known.borrow_mut();
        let of_app = known.entry(app).or_default();
        let (revision, pass) = (entry.revision, self.pass.get());
        let before = match &entry.value {
            Some(meta) => of_app.insert(slug, Known { meta: meta.clone(), revision, pass }),
            None => of_app.remove(&slug),
        };
        if of_app.is_empty() {
            known.remove(&app);
        }
        let count = self.count.get() + usize::from(entry.value.is_some());
        self.count.set(count - usize::from(before.is_some()));
        let is_new = before.is_none_or(|before| before.revision < revision);
        let revision = if entry.value.is_some() { revision } else { 0 };
        is_new.then(|| (channel, StoredMeta { meta: entry.value.clone(), revision }))
    }

    /// All was told that there is.
    pub(super) fn complete(&self) {
        let pass = self.pass.get();
        let mut known = self.known.borrow_mut();
        for of_app in known.values_mut() {
            of_app.retain(|_, known| known.pass == pass);
        }
        known.retain(|_, of_app| !of_app.is_empty());
        self.count.set(known.values().map(BTreeMap::len).sum());
    }

    /// What a channel has.
    pub(super) fn of(&self, channel: &ChannelKey) -> StoredMeta {
        let known = self.known.borrow();
        let found = known.get(&channel.app).and_then(|of_app| of_app.get(&channel.slug));
        StoredMeta {
            meta: found.map(|known| known.meta.clone()),
            revision: found.map_or(0, |known| known.revision),
        }
    }

    /// Writes the metadata of a channel whose present ones have this revision, or deletes them.
    pub(super) async fn write(
        &self,
        channel: &ChannelKey,
        meta: Option<Bytes>,
        revision: u64,
    ) -> Result<u64, WriteError> {
        if revision == 0 && self.count.get() >= METAS_MAX {
            let text = format!("the cluster has {METAS_MAX} channels with metadata already");
            return Err(WriteError::NotWritten(text));
        }
        self.bucket.write(&key(channel), meta, revision).await
    }

    /// The names of the channels of an app.
    pub(super) fn names(&self, app: AppId) -> Vec<ChannelSlug> {
        let known = self.known.borrow();
        known.get(&app).into_iter().flat_map(|of_app| of_app.keys().cloned()).collect()
    }
}

/// The key of a channel. What keys may not have is written as `/` and two hexadecimal digits.
pub(crate) fn key(channel: &ChannelKey) -> String {
    use std::fmt::Write as _;
    let mut key = format!("{CHANNEL}{}.", channel.app.0);
    for byte in channel.slug.as_str().bytes() {
        match byte {
            b'-' | b'_' | b'=' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                key.push(char::from(byte));
            }
            other => {
                // Into memory, which cannot fail.
                let _ = write!(key, "/{other:02x}");
            }
        }
    }
    key
}

fn parse_key(key: &str) -> Option<ChannelKey> {
    let (app, escaped) = key.strip_prefix(CHANNEL)?.split_once('.')?;
    let mut slug = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((before, behind)) = rest.split_once('/') {
        slug.push_str(before);
        let (digits, behind) = behind.split_at_checked(2)?;
        slug.push(char::from(u8::from_str_radix(digits, 16).ok()?));
        rest = behind;
    }
    slug.push_str(rest);
    let slug = ChannelSlug::from_stored(&slug).ok()?;
    Some(ChannelKey { app: AppId(app.parse().ok()?), slug })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for slug in ["a", "room:7.x", "..a", "a@b,c;d=e", "-_", "A.B"] {
            let slug = ChannelSlug::from_stored(slug).unwrap();
            let channel = ChannelKey { app: AppId(7), slug };
            let key = key(&channel);
            assert!(key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=./".contains(&b)));
            assert_eq!(parse_key(&key), Some(channel));
        }
        for bad in ["slot.3", "channel.x.a", "channel.1.", "channel.1.a/zz", "channel.1.a/2"] {
            assert_eq!(parse_key(bad), None, "{bad}");
        }
    }
}
