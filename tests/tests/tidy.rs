//! The walls of the house hold: a room knows only what stands below it, halves of a shard know nothing of
//! each other, functions fit on a screen or two, and documentation says more than the name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pushflo_tests::pages::root;

/// The rooms of the engine, from the bottom up; those of a floor know nothing of each other.
const FLOORS: [&[&str]; 12] = [
    &[
        "after_all",
        "bug",
        "clock",
        "database_files",
        "hash",
        "host",
        "ids",
        "bucket",
        "link",
        "metrics",
        "port",
        "proxies",
        "raw_json",
        "share",
    ],
    &["census", "in_turn", "retention", "settings"],
    &["accounts", "log"],
    &["handover"],
    &["shared"],
    &["exposition", "mail"],
    &["cluster", "context"],
    &["api", "config", "home"],
    &["edge"],
    &["shard"],
    &["runtime"],
    &["startup"],
];

/// What a room must not name even though it stands below.
const STRANGERS: [(&str, &[&str]); 2] =
    [("edge", &["home", "log"]), ("startup", &["edge", "home"])];

/// What a crate that does no I/O has no use for.
const IO: [&str; 7] = [
    "std::fs",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "Instant::now",
    "SystemTime::now",
    "monoio",
];

/// Lines of a function.
const FUNCTION_LINES_MAX: usize = 90;

/// A file of Rust: what is tested, without its tests.
struct Source {
    path: PathBuf,
    lines: Vec<String>,
}

fn sources(folder: &str) -> Vec<Source> {
    let (mut folders, mut sources) = (vec![root().join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
                let lines = text[..end].lines().map(str::to_owned).collect();
                sources.push(Source { path, lines });
            }
        }
    }
    assert!(!sources.is_empty(), "nothing in {folder}");
    sources
}

/// The part of a line that is no comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap()
}

/// The room in which a file of the engine is.
fn room(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("engine/src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.strip_suffix(".rs").unwrap_or(first).to_owned()
}

/// The rooms that a file names.
fn named(source: &Source) -> BTreeSet<String> {
    let text: Vec<_> = source.lines.iter().map(|line| code(line)).collect();
    let text = text.join("\n");
    let mut named = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        // Not `pushflo_crate::` and the like, nor `$crate`.
        if text[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        assert!(!rest.starts_with('{'), "{}: one room for each `use`", source.path.display());
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        named.insert(rest[..end].to_owned());
    }
    named
}

fn floor(room: &str) -> usize {
    let floor = FLOORS.iter().position(|rooms| rooms.contains(&room));
    floor.unwrap_or_else(|| panic!("{room} is on no floor: say in this test where it stands"))
}

#[test]
fn a_room_knows_only_what_is_below_it() {
    let mut seen = BTreeSet::new();
    for source in sources("engine/src") {
        let here = room(&source.path);
        if here == "lib" {
            continue;
        }
        for there in named(&source).into_iter().filter(|there| *there != here) {
            let path = source.path.display();
            assert!(floor(&there) < floor(&here), "{path} names {there}, which is not below it");
            let strangers = STRANGERS.iter().filter(|(room, _)| *room == here);
            let is_stranger = strangers.flat_map(|(_, all)| *all).any(|room| *room == there);
            assert!(!is_stranger, "{path} must not name {there}");
        }
        seen.insert(here);
    }
    let all: BTreeSet<_> = FLOORS.iter().copied().flatten().map(|room| (*room).into()).collect();
    assert_eq!(seen, all, "rooms that there are, and rooms on a floor");
}

#[test]
fn the_protocol_does_no_io() {
    for source in sources("protocol/src") {
        for line in &source.lines {
            for io in IO {
                assert!(!code(line).contains(io), "{}: {line}", source.path.display());
            }
        }
    }
}

#[test]
fn functions_fit_on_a_screen_or_two() {
    let mut functions = 0;
    for folder in ["engine/src", "protocol/src", "cli/src", "loadgen/src", "bench/src"] {
        for source in sources(folder) {
            for (at, line) in source.lines.iter().enumerate() {
                let (indent, text) = line.split_at(line.len() - line.trim_start().len());
                let is_function = code(text).contains("fn ") && text.ends_with('{');
                // Of one with its parameters on lines of their own, the last line ends so.
                if !(is_function || text.starts_with(") ") && text.ends_with('{')) {
                    continue;
                }
                let end = format!("{indent}}}");
                let lines = source.lines[at..].iter().position(|line| *line == end);
                functions += 1;
                let lines = lines.unwrap_or_default() + 1;
                let place = format!("{}:{}", source.path.display(), at + 1);
                assert!(lines <= FUNCTION_LINES_MAX, "{place}: {lines} lines");
            }
        }
    }
    assert!(functions > 1_000, "only {functions} functions were found");
}

/// The words of a name or a sentence, in lower case and without their endings for many.
fn words(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| word.to_lowercase().trim_end_matches('s').to_owned()).collect()
}

#[test]
fn documentation_says_more_than_the_name() {
    let empty = words("a an the of it its this that new returns return get with for is to");
    let mut documented = 0;
    for folder in ["engine/src", "protocol/src"] {
        for source in sources(folder) {
            for (at, pair) in source.lines.windows(3).enumerate() {
                let [before, doc, item] = pair else { unreachable!() };
                let Some(doc) = doc.trim().strip_prefix("/// ") else { continue };
                let Some(item) = item.trim().strip_prefix("pub ") else { continue };
                if before.trim().starts_with("///") {
                    continue;
                }
                documented += 1;
                let name = item.split(['(', '{', ':', '<', '=', ';']).next().unwrap();
                // `GoAway` is two words.
                let spaced: String = name
                    .chars()
                    .flat_map(|c| c.is_uppercase().then_some(' ').into_iter().chain([c]))
                    .collect();
                let said: BTreeSet<_> = words(doc).difference(&empty).cloned().collect();
                let says_more = !said.is_subset(&words(&spaced));
                let place = format!("{}:{}", source.path.display(), at + 2);
                assert!(says_more, "{place}: \"{doc}\" of {name}");
            }
        }
    }
    assert!(documented > 300, "only {documented} were found");
}
