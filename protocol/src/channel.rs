//! Channel slugs: the names of channels, checked once at the border.
//!
//! Invariant: a [`ChannelSlug`] is 1 to [`SLUG_BYTES_MAX`] bytes of a fixed ASCII alphabet. None of
//! them needs escaping in JSON, so encoders copy a slug between quotes as it is.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::error::Refusal;
use crate::limits::SLUG_BYTES_MAX;

/// The name of a channel inside its app. Cheap to clone and to send between threads.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Box<str>")]
pub struct ChannelSlug(Arc<str>);

/// Why a string is not a channel slug. The text is meant for the person who sent it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SlugError {
    /// No characters at all.
    #[error("a channel name must not be empty")]
    Empty,
    /// More than [`SLUG_BYTES_MAX`] bytes.
    #[error("a channel name has at most {SLUG_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// A character outside the alphabet, with its position counted in bytes from 0.
    #[error(
        "a channel name has only letters, digits and - _ . : @ = , ; but this one has {character:?} at position {position}"
    )]
    Character {
        /// The offending character.
        character: char,
        /// Where it stands, in bytes from the start.
        position: usize,
    },
    /// `.` or `..`: clients take such a part out of an address before they send it (RFC 3986 section
    /// 5.2.4, for `%2e` as well), so the channel could not be read over HTTP.
    #[error("a channel cannot be named . or .., which HTTP clients take out of an address")]
    DotSegment,
}

impl From<SlugError> for Refusal {
    fn from(error: SlugError) -> Self {
        Self::field("channel", error.to_string())
    }
}

impl TryFrom<Box<str>> for ChannelSlug {
    type Error = SlugError;

    fn try_from(text: Box<str>) -> Result<Self, SlugError> {
        Self::from_stored(&text)
    }
}

impl ChannelSlug {
    /// Checks `text` and takes it as a slug.
    ///
    /// # Errors
    /// [`SlugError`] says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, SlugError> {
        if matches!(text, "." | "..") {
            return Err(SlugError::DotSegment);
        }
        Self::from_stored(text)
    }

    /// Takes the slug of a channel that there is already. An earlier version let names through that
    /// [`ChannelSlug::parse`] refuses; what was stored under them is no damage.
    ///
    /// # Errors
    /// [`SlugError`]: no version ever took this.
    pub fn from_stored(text: &str) -> Result<Self, SlugError> {
        if text.is_empty() {
            return Err(SlugError::Empty);
        }
        if text.len() > SLUG_BYTES_MAX {
            return Err(SlugError::TooLong(text.len()));
        }
        match text.char_indices().find(|&(_, c)| !is_slug_character(c)) {
            Some((position, character)) => Err(SlugError::Character { character, position }),
            None => Ok(Self(text.into())),
        }
    }

    /// The slug as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelSlug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelSlug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl std::borrow::Borrow<str> for ChannelSlug {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Channels that a token grants: one by its slug, or all whose slug has a prefix (`orders-*`; `*`
/// alone is all).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChannelPattern {
    /// This channel.
    Exact(ChannelSlug),
    /// Every channel whose slug begins so.
    Prefix(Box<str>),
}

impl ChannelPattern {
    /// Checks `text` and takes it as a pattern.
    ///
    /// # Errors
    /// [`SlugError`] says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, SlugError> {
        match text.strip_suffix('*') {
            Some("") => Ok(Self::Prefix("".into())),
            // A prefix is no name: `..*` stands for `..a`, which is one.
            Some(prefix) => Ok(Self::Prefix(ChannelSlug::from_stored(prefix)?.as_str().into())),
            None => ChannelSlug::parse(text).map(Self::Exact),
        }
    }

    /// Whether the channel is among those.
    pub fn matches(&self, channel: &ChannelSlug) -> bool {
        match self {
            Self::Exact(slug) => slug == channel,
            Self::Prefix(prefix) => channel.as_str().starts_with(&**prefix),
        }
    }
}

fn is_slug_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '@' | '=' | ',' | ';')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_contract_lists() {
        for slug in ["a", "orders", "user-123", "orders:user-123", "A_Z.9@x=1,2;3"] {
            assert_eq!(ChannelSlug::parse(slug).unwrap().as_str(), slug);
        }
        assert!(ChannelSlug::parse(&"x".repeat(128)).is_ok());
    }

    #[test]
    fn patterns_match_exactly_or_by_prefix() {
        let matches = |pattern: &str, slug: &str| {
            let slug = ChannelSlug::parse(slug).unwrap();
            ChannelPattern::parse(pattern).unwrap().matches(&slug)
        };
        assert!(matches("orders", "orders") && !matches("orders", "orders-1"));
        assert!(matches("orders-*", "orders-1") && !matches("orders-*", "orders"));
        assert!(matches("*", "anything"));
        for bad in ["", "a*b", "**", "a b*", "*a"] {
            assert!(ChannelPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        assert_eq!(ChannelSlug::parse(""), Err(SlugError::Empty));
        assert_eq!(ChannelSlug::parse(&"x".repeat(129)), Err(SlugError::TooLong(129)));
        let error = ChannelSlug::parse("orders/1").unwrap_err();
        assert_eq!(error, SlugError::Character { character: '/', position: 6 });
        for dots in [".", ".."] {
            assert_eq!(ChannelSlug::parse(dots), Err(SlugError::DotSegment));
            assert!(ChannelPattern::parse(dots).is_err());
            assert_eq!(ChannelSlug::from_stored(dots).unwrap().as_str(), dots);
        }
        assert!(ChannelSlug::parse("...").is_ok() && ChannelPattern::parse(".*").is_ok());
        assert!(ChannelSlug::parse("käse").is_err());
        assert!(ChannelSlug::parse("a\"b").is_err());
    }
}
