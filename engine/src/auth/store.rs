//! Generated keys on disk: `keys.toml` in the data folder, readable by its owner only. Secret ones
//! are kept as digests; the publish key, which every browser sees, as it is.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::keys::{KeyDigest, Role};

/// Why the generated keys could not be read or written.
#[derive(Debug, Error)]
pub enum KeyStoreError {
    /// The file cannot be read or written.
    #[error("cannot access the keys in {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not what this program wrote.
    #[error("{path} is damaged: {reason}; restore it, or remove it to get new keys")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A generated key: its role and digest, and itself if it was made just now.
#[derive(Clone, Debug)]
pub struct Generated {
    /// What it may do.
    pub role: Role,
    /// Its digest.
    pub digest: KeyDigest,
    /// The key; shown once.
    pub fresh: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    publish: String,
    secret_sha256: String,
    mgmt_sha256: String,
}

/// Reads the generated keys of `data_dir`, or makes them.
///
/// # Errors
/// [`KeyStoreError`] with the path and the cause.
pub fn load_or_create(data_dir: &Path) -> Result<Vec<Generated>, KeyStoreError> {
    let path = data_dir.join("keys.toml");
    let io = |source| KeyStoreError::Io { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(text) => parse(&text).map_err(|reason| KeyStoreError::Damaged { path, reason }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let keys = Role::ALL.map(|role| (role, random_key(role)));
            write(&path, &keys).map_err(io)?;
            let generated = |(role, key): (Role, String)| Generated {
                role,
                digest: KeyDigest::of(&key),
                fresh: Some(key),
            };
            Ok(keys.map(generated).into())
        }
        Err(error) => Err(io(error)),
    }
}

fn parse(text: &str) -> Result<Vec<Generated>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let digest = |hex: &str| from_hex(hex).ok_or_else(|| format!("{hex:?} is not a SHA-256"));
    let key = |role, digest| Generated { role, digest, fresh: None };
    Ok(vec![
        key(Role::Publish, KeyDigest::of(&file.publish)),
        key(Role::Secret, KeyDigest(digest(&file.secret_sha256)?)),
        key(Role::Manage, KeyDigest(digest(&file.mgmt_sha256)?)),
    ])
}

/// Writes to a new file and renames it, so that a crash leaves either no keys or all of them.
fn write(path: &Path, [publish, secret, mgmt]: &[(Role, String); 3]) -> std::io::Result<()> {
    let file = File {
        publish: publish.1.clone(),
        secret_sha256: to_hex(KeyDigest::of(&secret.1)),
        mgmt_sha256: to_hex(KeyDigest::of(&mgmt.1)),
    };
    let text = toml::to_string(&file).map_err(std::io::Error::other)?;
    let new = path.with_extension("toml.new");
    let mut options = fs::OpenOptions::new();
    let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    out.write_all(b"# Keys of the app `default`. Secret keys are kept as digests only.\n")?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&new, path)
}

/// 160 random bits in base 32 after the role's prefix.
fn random_key(role: Role) -> String {
    let mut random = [0u8; 32];
    // Without a source of randomness there can be no keys, and Linux always has one.
    if getrandom::fill(&mut random).is_err() {
        std::process::abort();
    }
    let digit = |byte: &u8| {
        let digits = b"0123456789abcdefghjkmnpqrstvwxyz";
        digits.get(usize::from(byte & 31)).map_or('0', |&digit| char::from(digit))
    };
    role.prefix().chars().chain(random.iter().map(digit)).collect()
}

fn to_hex(digest: KeyDigest) -> String {
    digest.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, index) in out.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(index..index + 2)?, 16).ok()?;
    }
    Some(out)
}
