//! Keys in memory: only digests of them, compared in constant time.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppId(pub u32);

/// What a key may do; each role may do all that the one before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `pub_`: connect and subscribe.
    Publish,
    /// `sec_`: publish and read as well.
    Secret,
    /// `mgmt_`: change channels and keys as well.
    Manage,
}

impl Role {
    /// All roles, weakest first.
    pub const ALL: [Self; 3] = [Self::Publish, Self::Secret, Self::Manage];

    /// What keys of this role start with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Publish => "pub_",
            Self::Secret => "sec_",
            Self::Manage => "mgmt_",
        }
    }

    /// The role's name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Secret => "secret",
            Self::Manage => "mgmt",
        }
    }

    /// The role a key claims by its prefix.
    pub fn of(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| key.starts_with(role.prefix()))
    }
}

/// The SHA-256 of a key. Keys are long and random, so a plain digest does not weaken them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyDigest(pub [u8; 32]);

impl KeyDigest {
    /// The digest of `key`.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key).into())
    }
}

/// One key as the server knows it.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its digest.
    pub digest: KeyDigest,
    /// What it grants.
    pub access: Access,
}

/// What a key grants, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The app it belongs to.
    pub app: AppId,
    /// What it may do there.
    pub role: Role,
}

/// All keys.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Takes the keys as given.
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    /// What `key` grants. Takes the same time for every wrong key of a length.
    pub fn find(&self, key: &str) -> Option<Access> {
        let digest = KeyDigest::of(key);
        let mut found = None;
        for candidate in &self.0 {
            if bool::from(candidate.digest.0.ct_eq(&digest.0)) {
                found = Some(candidate.access);
            }
        }
        found
    }
}
