//! Connection tokens: short-lived JWTs (RFC 7519) that say who connects and what to.
//!
//! The server signs those it is asked for with a secret of the app; a backend may sign its own with
//! what [`SigningKey`](super::SigningKey) makes of its key, so that letting a user in needs no call.
//! HMAC with SHA-256 is the only algorithm; the key is named by the header's `kid`.

use std::sync::Arc;

use pushflo_protocol::channel::ChannelPattern;
use pushflo_protocol::limits::{CLIENT_ID_BYTES_MAX, PATTERNS_MAX, PRESENCE_DATA_BYTES_MAX};
use pushflo_protocol::{ChannelSlug, Refusal, json};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use super::directory::{Access, Directory};
use super::jwt::{self, Unverified};
use super::keys::{KeyId, Role};
use crate::ids::AppId;

/// The audience every token must name.
pub const AUDIENCE: &str = "pushflo";

/// How far the clocks of backends that sign tokens may be off, in milliseconds: a token holds so much
/// before its `nbf` and after its `exp` (RFC 7519 sections 4.1.4 and 4.1.5).
pub const CLOCK_LEEWAY_MS: u64 = 5_000;

/// A time as claims tell it: seconds of Unix time, in any form a JSON number has (RFC 7519 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumericDate {
    /// In Unix milliseconds; a time before 1970 is 0, one beyond all calendars the largest.
    pub unix_ms: u64,
}

impl NumericDate {
    /// A whole second.
    pub fn from_seconds(seconds: u64) -> Self {
        Self { unix_ms: seconds.saturating_mul(1000) }
    }
}

impl Serialize for NumericDate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.unix_ms / 1000)
    }
}

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        // The cast saturates on both sides.
        Ok(Self { unix_ms: (seconds * 1000.0) as u64 })
    }
}

/// The claims of a token.
#[derive(Debug, Serialize, Deserialize)]
pub struct Claims {
    /// The audience, [`AUDIENCE`].
    pub aud: AudienceClaim,
    /// When it ends.
    pub exp: NumericDate,
    /// When it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbf: Option<NumericDate>,
    /// The client id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<Box<str>>,
    /// Patterns of channels; `None`: every channel that is not private.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<Box<str>>>,
    /// Patterns of channels that the client may publish to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<Vec<Box<str>>>,
    /// What other members of channels with presence see of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// The key for which the server signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Box<str>>,
}

/// One audience, or several.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AudienceClaim {
    /// One.
    One(Box<str>),
    /// Several.
    Several(Vec<Box<str>>),
}

impl AudienceClaim {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::One(one) => **one == *name,
            Self::Several(several) => several.iter().any(|one| **one == *name),
        }
    }
}

/// Who a client is to the members of channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The client id, 1 to [`CLIENT_ID_BYTES_MAX`] bytes.
    pub client_id: Box<str>,
    /// JSON that its token carries, at most [`PRESENCE_DATA_BYTES_MAX`] bytes.
    pub data: Option<Box<str>>,
    /// Whether a backend vouched for it: a publish key, which every browser has, may ask for a token
    /// with any client id.
    pub is_verified: bool,
}

/// What a token grants.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Who it is for; `None`: anybody, who is then given a client id.
    pub client_id: Option<Box<str>>,
    /// JSON for other members.
    pub data: Option<Box<str>>,
    /// Channels; `None`: every one that is not private.
    pub channels: Option<Vec<ChannelPattern>>,
    /// Channels that may be published to.
    pub publish: Vec<ChannelPattern>,
    /// When it ends, in Unix milliseconds; it is let through for [`CLOCK_LEEWAY_MS`] more.
    pub expires_ms: u64,
}

impl Grant {
    /// The client that shows it, where a key of `role` stands behind it; `generated` is its client id
    /// if the token names none.
    pub fn identity(&self, role: Role, generated: impl FnOnce() -> String) -> Arc<Identity> {
        let client_id = self.client_id.clone().unwrap_or_else(|| generated().into());
        let is_verified = role >= Role::Secret;
        Arc::new(Identity { client_id, data: self.data.clone(), is_verified })
    }

    /// Whether the channel may be published to.
    pub fn may_publish(&self, channel: &ChannelSlug) -> bool {
        self.publish.iter().any(|pattern| pattern.matches(channel))
    }
}

/// Why a token is not taken.
#[derive(Debug, Error)]
pub enum TokenError {
    /// It is no token, and no key that is known.
    #[error("the token is not known")]
    Unknown,
    /// It is no token, or its claims are not what is expected.
    #[error("the token cannot be read: {0}")]
    Malformed(String),
    /// Another algorithm, `none` above all.
    #[error("the token must be signed with HS256")]
    Algorithm,
    /// The header demands what is not known here (RFC 7515 section 4.1.11).
    #[error("the token's header demands an extension in crit, and none is known here")]
    Critical,
    /// The header names no key, or one that is not known.
    #[error("the token is not signed by a key that is known; its header names the key in kid")]
    UnknownKey,
    /// The signature is not that key's.
    #[error("the token's signature is wrong")]
    Signature,
    /// It is meant for another service.
    #[error("the token is not meant for here: its aud must be {AUDIENCE}")]
    Audience,
    /// It has ended.
    #[error("the token has expired")]
    Expired,
    /// It has not begun.
    #[error("the token is not valid yet")]
    TooEarly,
    /// A claim has a bad value.
    #[error("the token's claim {0}")]
    Claim(String),
}

/// Checks a token and tells what it grants, at `now_ms`.
///
/// # Errors
/// [`TokenError`] with a sentence for its maker.
pub fn verify(
    directory: &Directory,
    token: &str,
    now_ms: u64,
) -> Result<(Access, Grant), TokenError> {
    let token = Unverified::parse(token)?;
    let own_app = AppId::parse(&token.kid).and_then(|app| directory.app(app));
    let signer = KeyId::parse(&token.kid).and_then(|id| directory.access(id));
    let secret = match (own_app, &signer) {
        (Some(app), _) => app.record.token_secret.secret(),
        // A publish key is no secret: every browser has it.
        (None, Some((access, signing))) if access.role >= Role::Secret => signing.secret(),
        _ => return Err(TokenError::UnknownKey),
    };
    let claims: Claims = token.claims(secret.as_bytes())?;
    if !claims.aud.has(AUDIENCE) {
        return Err(TokenError::Audience);
    }
    let access = match (own_app, signer) {
        (Some(app), _) => {
            let behind = claims.key.as_deref().and_then(KeyId::parse);
            let behind = behind.and_then(|id| directory.access(id)).map(|(access, _)| access);
            behind.filter(|access| access.app.id == app.id).ok_or(TokenError::UnknownKey)?
        }
        (None, Some((access, _))) => access,
        (None, None) => return Err(TokenError::UnknownKey),
    };
    let expires_ms = claims.exp.unix_ms;
    if expires_ms.saturating_add(CLOCK_LEEWAY_MS) <= now_ms {
        return Err(TokenError::Expired);
    }
    let latest_ms = now_ms.saturating_add(CLOCK_LEEWAY_MS);
    if claims.nbf.is_some_and(|nbf| nbf.unix_ms > latest_ms) {
        return Err(TokenError::TooEarly);
    }
    let claim = |name: &str, refusal: Refusal| TokenError::Claim(format!("{name} {refusal}"));
    let client_id = claims.sub;
    check_client_id(client_id.as_deref()).map_err(|refusal| claim("sub", refusal))?;
    let data = claims.data.as_deref();
    let data = check_data(data).map_err(|refusal| claim("data", refusal))?;
    let patterns = |name: &'static str, list: Option<Vec<Box<str>>>| {
        let parsed = list.map(|list| parse_patterns(name, &list)).transpose();
        parsed.map_err(|refusal| claim(name, refusal))
    };
    let channels = patterns("channels", claims.channels)?;
    let publish = patterns("publish", claims.publish)?.unwrap_or_default();
    Ok((access, Grant { client_id, data, channels, publish, expires_ms }))
}

/// Signs a token in the name of `access`.
///
/// # Errors
/// The claims have no JSON form.
pub fn sign(access: &Access, claims: &Claims) -> Result<String, TokenError> {
    let secret = access.app.record.token_secret.secret();
    jwt::sign(&access.app.id.to_string(), claims, secret.as_bytes())
}

/// Checks a client id.
///
/// # Errors
/// A validation error of `clientId`.
pub fn check_client_id(client_id: Option<&str>) -> Result<(), Refusal> {
    match client_id {
        Some(id) if id.is_empty() || id.len() > CLIENT_ID_BYTES_MAX => {
            let text = format!("must have 1 to {CLIENT_ID_BYTES_MAX} bytes");
            Err(Refusal::field("clientId", text))
        }
        _ => Ok(()),
    }
}

/// Checks presence data.
///
/// # Errors
/// A validation error of `data`.
pub fn check_data(data: Option<&RawValue>) -> Result<Option<Box<str>>, Refusal> {
    let Some(data) = data else { return Ok(None) };
    if data.get().len() > PRESENCE_DATA_BYTES_MAX {
        let text = format!("must have at most {PRESENCE_DATA_BYTES_MAX} bytes of JSON");
        return Err(Refusal::field("data", text));
    }
    json::check_depth("data", data)?;
    Ok(Some(data.get().into()))
}

/// Checks a list of channel patterns.
///
/// # Errors
/// A validation error of `field`.
pub fn parse_patterns(
    field: &'static str,
    patterns: &[Box<str>],
) -> Result<Vec<ChannelPattern>, Refusal> {
    if patterns.len() > PATTERNS_MAX {
        return Err(Refusal::field(field, format!("must have at most {PATTERNS_MAX} entries")));
    }
    let wrong = |error| Refusal::field(field, format!("has a bad entry: {error}"));
    patterns.iter().map(|pattern| ChannelPattern::parse(pattern).map_err(wrong)).collect()
}
