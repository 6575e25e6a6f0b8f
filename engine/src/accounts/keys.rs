//! Keys: what they are called, what they may do, and what is kept of them.
//!
//! Invariant: a key itself is never kept. What is kept are two digests of it: one by which it is
//! recognised, one with which its owner may sign connection tokens. Keys are long and random, so
//! plain digests do not weaken them.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// What a key may do; each role may do all that the one before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// `pub_`: connect and subscribe.
    Publish,
    /// `sec_`: publish and read as well.
    Secret,
    /// `mgmt_`: change channels and keys as well.
    #[serde(rename = "mgmt")]
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

    /// The role's name in the configuration and the API.
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

/// A key's public name: the first 64 bits of its digest, so that whoever has a key knows its id. On
/// the wire `key_` and 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyId(pub u64);

impl KeyId {
    /// Reads the form that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let id = u64::from_str_radix(text.strip_prefix("key_")?, 16).ok().map(Self)?;
        Some(id).filter(|id| id.to_string() == text)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key_{:016x}", self.0)
    }
}

/// The SHA-256 of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDigest(pub [u8; 32]);

impl KeyDigest {
    /// The digest of `key`.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// The id of the key.
    pub fn id(&self) -> KeyId {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        KeyId(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// Whether it is the digest of the same key; takes the same time whatever the answer.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// What the holder of a key signs connection tokens with: the SHA-256 of `pushflo-token:` and the
/// key. As the HMAC secret it is used in hexadecimal, which every JWT library takes.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey(pub [u8; 32]);

impl SigningKey {
    /// The signing key of `key`.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(format!("pushflo-token:{key}")).into())
    }

    /// The HMAC secret: 64 lower-case hexadecimal digits.
    pub fn secret(&self) -> String {
        let mut hex = String::with_capacity(64);
        for byte in self.0 {
            // Writing into memory cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

/// One key as the server knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Key {
    /// What is kept instead of it.
    pub digest: KeyDigest,
    /// What its holder signs tokens with.
    pub signing: SigningKey,
    /// What it may do.
    pub role: Role,
    /// What its owner calls it.
    pub name: Option<Box<str>>,
    /// When it was made, in Unix milliseconds.
    pub created_ms: u64,
    /// It stands in the configuration: it cannot be revoked here.
    #[serde(skip)]
    pub is_configured: bool,
}

impl Key {
    /// What is kept of `key`.
    pub fn new(key: &str, role: Role, name: Option<Box<str>>, created_ms: u64) -> Self {
        let (digest, signing) = (KeyDigest::of(key), SigningKey::of(key));
        Self { digest, signing, role, name, created_ms, is_configured: false }
    }

    /// A new key, and itself: 160 random bits in base 32 after the role's prefix.
    pub fn generate(role: Role, name: Option<Box<str>>, created_ms: u64) -> (Self, String) {
        let digit = |byte: u8| {
            let digits = b"0123456789abcdefghjkmnpqrstvwxyz";
            digits.get(usize::from(byte & 31)).map_or('0', |&digit| char::from(digit))
        };
        let random = random_bytes::<32>();
        let key: String = role.prefix().chars().chain(random.into_iter().map(digit)).collect();
        (Self::new(&key, role, name, created_ms), key)
    }

    /// What it is called where it must not be shown: the beginning of its digest.
    pub fn id(&self) -> KeyId {
        self.digest.id()
    }
}

/// Bytes nobody can guess.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut random = [0; N];
    // Without a source of randomness there can be no keys, and Linux always has one.
    if getrandom::fill(&mut random).is_err() {
        std::process::abort();
    }
    random
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        let (key, text) = Key::generate(Role::Secret, None, 1);
        assert_eq!(KeyId::parse(&key.id().to_string()), Some(key.id()));
        assert!(KeyDigest::of(&text).is(&key.digest));
        assert_eq!((Role::of(&text), text.len()), (Some(Role::Secret), 36));
        for bad in ["", "key_", "key_0", "key_00000000000000000", "key_000000000000000G"] {
            assert_eq!(KeyId::parse(bad), None, "{bad}");
        }
    }
}
