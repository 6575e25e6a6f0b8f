//! Places in a channel's log: offset, epoch, and the two together.
//!
//! An offset is never given twice within an epoch; the epoch changes only when the log was really
//! lost or deleted.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A message's place in its channel's log. The first message has offset 1; 0 is "before the first".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Offset(pub u64);

impl Offset {
    /// The offset after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One incarnation of a channel's log. On the wire: 13 characters of lower-case base 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Reads the form that [`fmt::Display`] writes; `None` for anything else, which therefore can
    /// match no log.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != EPOCH_CHARACTERS {
            return None;
        }
        let mut value: u64 = 0;
        for (index, byte) in text.bytes().enumerate() {
            let digit = ALPHABET.iter().position(|&a| a == byte)? as u64;
            if index == 0 && digit > 15 {
                return None;
            }
            value = value << 5 | digit;
        }
        Some(Self(value))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for index in (0..EPOCH_CHARACTERS).rev() {
            let digit = (self.0 >> (5 * index)) as usize & 31;
            f.write_str(
                ALPHABET.get(digit..=digit).and_then(|d| str::from_utf8(d).ok()).unwrap_or(""),
            )?;
        }
        Ok(())
    }
}

/// Where a reader stands in a channel: an offset within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPosition {
    /// The log's incarnation.
    pub epoch: Epoch,
    /// The last offset seen.
    pub offset: Offset,
}

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// At the head: only what comes from now on.
    Live,
    /// After a position that was seen before. `None` is an epoch that can match no log.
    Recover(Option<StreamPosition>),
    /// From what is kept since then, in Unix milliseconds.
    Since(u64),
    /// From the last so many messages.
    Last(u64),
}

/// How a request for the past was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// Whether everything asked for follows.
    pub recovered: bool,
    /// How many messages follow.
    pub replayed: u64,
}

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const EPOCH_CHARACTERS: usize = 13;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_survive_the_wire() {
        for value in [0, 1, 31, 32, u64::MAX, 0x1234_5678_9abc_def0] {
            let text = Epoch(value).to_string();
            assert_eq!(text.len(), EPOCH_CHARACTERS);
            assert_eq!(Epoch::parse(&text), Some(Epoch(value)));
        }
        for bad in ["", "short", "zzzzzzzzzzzzzz", "zzzzzzzzzzzzz", "uuuuuuuuuuuuu", "0000000000é0"]
        {
            assert_eq!(Epoch::parse(bad), None, "{bad}");
        }
    }
}
