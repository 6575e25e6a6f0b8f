//! Pages of the documentation as tests read them: their blocks and tables, and texts in which only what
//! differs each time may differ.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().into()
}

/// A page, by its place in the repository.
pub fn page(name: &str) -> String {
    let path = root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The fenced blocks of a page in their order: language and content.
pub fn blocks(page: &str) -> Vec<(String, String)> {
    let (mut blocks, mut open): (Vec<_>, Option<(String, String)>) = (Vec::new(), None);
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language.into(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, text))) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// The rows of all tables of a page, heads left out, as their cells.
pub fn rows(page: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        Some(inner.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>())
    };
    let lines: Vec<&str> = page.lines().collect();
    let is_rule = |line: Option<&&str>| line.is_some_and(|line| line.starts_with("| ---"));
    let rows =
        (0..lines.len()).filter(|&at| !is_rule(lines.get(at)) && !is_rule(lines.get(at + 1)));
    rows.filter_map(|at| cells(lines[at])).collect()
}

/// What stands between backticks in a text.
pub fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    /// The same each time.
    Fixed(String),
    /// Another each time, in the form of its kind.
    Varies(Kind, String),
}

/// What differs each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// Ids of messages and of clients that the server named.
    Id,
    Epoch,
    Channel,
    KeyId,
    Key,
    Token,
    /// Times, waits and months: each may be any.
    Time,
    Wait,
    Month,
}

impl Kind {
    /// Whether the same value must stand wherever the page has the same one.
    fn is_name(self) -> bool {
        !matches!(self, Self::Token | Self::Time | Self::Wait | Self::Month)
    }
}

/// What stands for the values that a page shows.
#[derive(Debug, Default)]
pub struct Bindings {
    real: BTreeMap<String, String>,
    shown: BTreeMap<String, String>,
}

impl Bindings {
    /// Checks that `real` is what the page shows, but for what differs each time.
    pub fn check(&mut self, shown: &str, real: &str) {
        let (shown_parts, real_parts) = (split(shown), split(real));
        let form = |parts: &[Part]| -> Vec<Part> {
            let strip = |part: &Part| match part {
                Part::Fixed(text) => Part::Fixed(text.clone()),
                Part::Varies(kind, _) => Part::Varies(*kind, String::new()),
            };
            parts.iter().map(strip).collect()
        };
        assert!(
            form(&shown_parts) == form(&real_parts),
            "the page shows\n{shown}\nthis came\n{real}"
        );
        for (shown, real) in shown_parts.iter().zip(&real_parts) {
            let (Part::Varies(kind, shown), Part::Varies(_, real)) = (shown, real) else {
                continue;
            };
            if kind.is_name() {
                let bound = self.real.entry(shown.clone()).or_insert_with(|| real.clone());
                assert_eq!(bound, real, "the page shows {shown} for two things");
                let bound = self.shown.entry(real.clone()).or_insert_with(|| shown.clone());
                assert_eq!(bound, shown, "the page shows one thing under two names");
            }
        }
    }

    /// What a client sends, with the values that came in the place of those that the page shows.
    pub fn fill(&self, shown: &str) -> String {
        let fill = |part: Part| match part {
            Part::Fixed(text) => text,
            Part::Varies(_, text) => self.real.get(&text).cloned().unwrap_or(text),
        };
        split(shown).into_iter().map(fill).collect()
    }
}

/// Splits a text into what is fixed and what varies.
fn split(text: &str) -> Vec<Part> {
    let (mut parts, mut fixed, mut rest) = (Vec::new(), String::new(), text);
    while !rest.is_empty() {
        let (kind, bytes) = take(&fixed, rest);
        let (word, behind) = rest.split_at(bytes);
        rest = behind;
        match kind {
            None => fixed += word,
            Some(kind) => {
                parts.push(Part::Fixed(std::mem::take(&mut fixed)));
                parts.push(Part::Varies(kind, word.into()));
            }
        }
    }
    parts.push(Part::Fixed(fixed));
    parts
}

/// The first word of `rest`, or what is between words: what it is, and its bytes. `before` is fixed.
fn take(before: &str, rest: &str) -> (Option<Kind>, usize) {
    let span = |is: fn(char) -> bool| rest.find(|c: char| !is(c)).unwrap_or(rest.len());
    if is_iso(rest) {
        return (Some(Kind::Time), ISO.len());
    }
    if before.ends_with(r#""month":""#) {
        return (Some(Kind::Month), "2026-11".len());
    }
    if rest.starts_with("eyJ") {
        return (Some(Kind::Token), span(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)));
    }
    let bytes = span(|c| c.is_ascii_alphanumeric() || c == '_');
    if bytes == 0 {
        return (None, rest.chars().next().map_or(0, char::len_utf8));
    }
    if before.ends_with(r#""retryAfterMs":"#) {
        return (Some(Kind::Wait), bytes);
    }
    (kind_of(&rest[..bytes]), bytes)
}

fn kind_of(word: &str) -> Option<Kind> {
    let is_base_32 = |text: &str, bytes| {
        text.len() == bytes
            && text.bytes().all(|b| b"0123456789abcdefghjkmnpqrstvwxyz".contains(&b))
    };
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_upper = |b: u8| b.is_ascii_digit() || b.is_ascii_uppercase();
    let behind = |prefix: &str| word.strip_prefix(prefix);
    match word.len() {
        26 if word.bytes().all(is_upper) => Some(Kind::Id),
        13 if is_digits(word) => Some(Kind::Time),
        13 if is_base_32(word, 13) => Some(Kind::Epoch),
        _ if behind("ch_").is_some_and(|id| is_base_32(id, 13)) => Some(Kind::Channel),
        _ if behind("key_").is_some_and(|id| id.len() == 16) => Some(Kind::KeyId),
        _ => {
            let key = ["pub_", "sec_", "mgmt_"].into_iter().find_map(behind);
            key.filter(|key| is_base_32(key, 32)).map(|_| Kind::Key)
        }
    }
}

/// The form of a time for people.
const ISO: &str = "0000-00-00T00:00:00.000Z";

fn is_iso(text: &str) -> bool {
    let fits =
        |(have, form): (u8, u8)| if form == b'0' { have.is_ascii_digit() } else { have == form };
    text.len() >= ISO.len() && text.bytes().zip(ISO.bytes()).all(fits)
}

/// The words of a shell command, with the variables that are given. It knows what the pages use: both
/// kinds of quotes, and lines that go on.
pub fn shell_words(command: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let joined = command.replace("\\\n", " ");
    let mut characters = joined.chars().peekable();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            ('$', None | Some('"')) => {
                let mut name = String::new();
                while let Some(c) = characters.next_if(char::is_ascii_uppercase) {
                    name.push(c);
                }
                let value = variables.iter().find(|(known, _)| *known == name);
                *word.get_or_insert_default() +=
                    value.unwrap_or_else(|| panic!("${name} is not known: {command}")).1;
            }
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
