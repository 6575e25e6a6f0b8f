//! Origins of browsers, and which of them may connect and call.
//!
//! What a person writes is brought into the one form in which browsers send it, or refused with the
//! reason: an entry that looks right and matches nothing would shut users out without a word.

use std::fmt;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{ORIGIN_BYTES_MAX, ORIGINS_MAX};

/// An origin as browsers send it in the `Origin` header (RFC 6454 section 6.2): scheme and host in
/// lower case, and a port where it is not the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Origin(Box<str>);

/// Why a text is no origin. The text is meant for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OriginError {
    /// No browser sends this as an origin.
    #[error("{text:?} is not an origin such as https://example.com: {reason}")]
    Invalid {
        /// What was written, shortened.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More than [`ORIGINS_MAX`].
    #[error("there may be at most {ORIGINS_MAX} origins, not {0}")]
    TooMany(usize),
}

impl Origin {
    /// Brings `text` into the form that browsers send: capitals, the scheme's own port and one slash at
    /// the end make no difference.
    ///
    /// # Errors
    /// [`OriginError`]: no browser sends this as an origin.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        normal_form(text).map(|origin| Self(origin.into())).map_err(|reason| OriginError::Invalid {
            text: text.chars().take(SHOWN_CHARACTERS).collect(),
            reason,
        })
    }

    /// The origin as browsers send it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How much of a wrong origin is repeated.
const SHOWN_CHARACTERS: usize = 80;

fn normal_form(text: &str) -> Result<String, &'static str> {
    if text.len() > ORIGIN_BYTES_MAX {
        return Err("it is too long");
    }
    if text == "*" {
        return Err("* allows all and stands alone");
    }
    let text = text.to_ascii_lowercase();
    let (scheme, rest) = text.split_once("://").ok_or("it has no scheme, such as https://")?;
    let in_scheme = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+.-".contains(&b);
    if !scheme.starts_with(|c: char| c.is_ascii_lowercase()) || !scheme.bytes().all(in_scheme) {
        return Err("its scheme is none");
    }
    if matches!(scheme, "ws" | "wss") {
        return Err("the origin is that of the page, which begins with https:// or http://");
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err("it has a path");
    }
    if authority.contains('*') {
        return Err("a part of it cannot be *, each host is named");
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = port.map(|port| match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => Ok(number),
        _ => Err("its port is none"),
    });
    let (port, host) = (port.transpose()?, normal_host(host)?);
    Ok(match (port, scheme) {
        (None, _) | (Some(80), "http") | (Some(443), "https") => format!("{scheme}://{host}"),
        (Some(port), _) => format!("{scheme}://{host}:{port}"),
    })
}

fn normal_host(host: &str) -> Result<String, &'static str> {
    if host.is_empty() {
        return Err("it has no host");
    }
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: Ipv6Addr = address.parse().map_err(|_| "its host is no IPv6 address")?;
        return Ok(format!("[{address}]"));
    }
    if !host.is_ascii() {
        return Err("browsers send the host in its ASCII form, which begins with xn--");
    }
    let in_host = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    if !host.bytes().all(in_host) {
        return Err("its host has a character that none has");
    }
    Ok(host.into())
}

/// Origins that browsers may come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Option<Vec<Box<str>>>")]
pub enum AllowedOrigins {
    /// Any.
    #[default]
    All,
    /// Only these.
    List(Vec<Origin>),
}

impl AllowedOrigins {
    /// Those that a list names; `*` alone allows all.
    ///
    /// # Errors
    /// [`OriginError`] with the entry that is none, or for more than [`ORIGINS_MAX`].
    pub fn parse(list: &[impl AsRef<str>]) -> Result<Self, OriginError> {
        match list {
            [all] if all.as_ref() == "*" => Ok(Self::All),
            list if list.len() > ORIGINS_MAX => Err(OriginError::TooMany(list.len())),
            list => {
                let list = list.iter().map(|origin| Origin::parse(origin.as_ref()));
                Ok(Self::List(list.collect::<Result<_, _>>()?))
            }
        }
    }

    /// Whether a request with this `Origin` header is let in. Without one it is no browser's.
    pub fn allows(&self, origin: Option<&[u8]>) -> bool {
        match (self, origin) {
            (Self::All, _) | (_, None) => true,
            (Self::List(list), Some(origin)) => list.iter().any(|o| o.0.as_bytes() == origin),
        }
    }
}

/// `null` for all, or a list.
impl Serialize for AllowedOrigins {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_none(),
            Self::List(list) => list.serialize(serializer),
        }
    }
}

/// What was stored: it is taken as it is where it would be refused today, and then matches nothing.
impl From<Option<Vec<Box<str>>>> for AllowedOrigins {
    fn from(stored: Option<Vec<Box<str>>>) -> Self {
        let origin = |text: Box<str>| Origin::parse(&text).unwrap_or(Origin(text));
        stored.map_or(Self::All, |list| Self::List(list.into_iter().map(origin).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_take_the_form_of_browsers() {
        for (text, sent) in [
            ("https://example.com", "https://example.com"),
            ("HTTPS://Example.COM", "https://example.com"),
            ("https://example.com/", "https://example.com"),
            ("https://example.com:443", "https://example.com"),
            ("https://example.com:443/", "https://example.com"),
            ("http://example.com:80", "http://example.com"),
            ("http://example.com:443", "http://example.com:443"),
            ("https://example.com:0080", "https://example.com:80"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ] {
            assert_eq!(Origin::parse(text).unwrap().as_str(), sent, "{text}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_refused() {
        for (text, why) in [
            ("", "no scheme"),
            ("example.com", "no scheme"),
            ("example.com:443", "no scheme"),
            ("null", "no scheme"),
            ("*", "stands alone"),
            ("https://*.example.com", "cannot be *"),
            ("https://example.com/path", "path"),
            ("https://example.com//", "path"),
            ("https://example.com?x", "path"),
            ("https://", "no host"),
            ("https:///", "no host"),
            ("https://:443", "no host"),
            ("://example.com", "scheme"),
            ("1a://example.com", "scheme"),
            ("wss://example.com", "of the page"),
            ("https://example.com:", "port"),
            ("https://example.com:x", "port"),
            ("https://example.com:0", "port"),
            ("https://example.com:+1", "port"),
            ("https://example.com:65536", "port"),
            ("https://user@example.com", "character"),
            ("https:// example.com", "character"),
            ("https://a:b:c", "port"),
            ("https://a:b:80", "character"),
            ("https://[::g]", "IPv6"),
            ("https://[::1", "character"),
            ("https://käse.example", "xn--"),
        ] {
            let error = Origin::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(Origin::parse(&format!("https://{}", "x".repeat(300))).is_err());
    }

    #[test]
    fn a_list_allows_those_it_names() {
        let parse = |list: &[&str]| AllowedOrigins::parse(list);
        assert_eq!(parse(&["*"]), Ok(AllowedOrigins::All));
        assert!(parse(&["*", "https://a.example"]).is_err());
        assert_eq!(parse(&["https://a.example"; 101]), Err(OriginError::TooMany(101)));
        let list = parse(&["https://A.example:443/"]).unwrap();
        assert!(list.allows(Some(b"https://a.example")) && list.allows(None));
        assert!(!list.allows(Some(b"https://b.example")) && !list.allows(Some(b"null")));
        assert!(!parse(&[]).unwrap().allows(Some(b"https://a.example")));
        assert_eq!(serde_json::to_string(&list).unwrap(), r#"["https://a.example"]"#);
        assert_eq!(serde_json::to_string(&AllowedOrigins::All).unwrap(), "null");
        let stored = |text| serde_json::from_str::<AllowedOrigins>(text).unwrap();
        assert_eq!(stored("null"), AllowedOrigins::All);
        assert_eq!(stored(r#"["https://A.example:443/"]"#), list);
        assert!(!stored(r#"["a.example"]"#).allows(Some(b"https://a.example")));
    }
}
