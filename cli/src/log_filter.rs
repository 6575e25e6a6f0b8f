//! What is logged: `PUSHFLO_LOG`, read into a filter, or what is wrong with it.

use thiserror::Error;
use tracing_subscriber::filter::{LevelFilter, Targets};

/// What is logged if nothing is said.
const LEVEL_DEFAULT: LevelFilter = LevelFilter::INFO;

/// Libraries whose lines can be asked for.
const LIBRARIES: [&str; 3] = ["async_nats", "fjall", "lsm_tree"];

/// A filter that says nothing that can be done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum LogFilterError {
    /// Neither a level nor a part with one.
    #[error(
        "the log filter (PUSHFLO_LOG) has `{piece}`: it must be a level ({levels}), or PART=LEVEL, as in edge=debug,warn",
        levels = LEVELS
    )]
    NoLevel {
        /// What stands there.
        piece: String,
    },
    /// There is no such part.
    #[error(
        "the log filter (PUSHFLO_LOG) has `{part}`, which is no part of the server; parts are {all}",
        all = parts()
    )]
    NoPart {
        /// The name that stands there.
        part: String,
    },
}

const LEVELS: &str = "off, error, warn, info, debug, trace";

/// Reads a filter: a level for the server itself, and levels of parts by name, in any order.
///
/// # Errors
/// [`LogFilterError`], which names the piece.
pub(super) fn parse(filter: Option<&str>) -> Result<Targets, LogFilterError> {
    let directives = directives(filter.unwrap_or_default())?;
    directives.parse().map_err(|_| LogFilterError::NoLevel { piece: directives })
}

/// The filter in the words of [`Targets`].
fn directives(filter: &str) -> Result<String, LogFilterError> {
    let (mut level, mut by_part) = (LEVEL_DEFAULT, String::new());
    for piece in filter.split(',').map(str::trim).filter(|piece| !piece.is_empty()) {
        let (part, of_part) = match piece.split_once('=') {
            Some((part, level)) => (Some(part.trim()), level.trim()),
            None => (None, piece),
        };
        // An empty text would be taken for a level.
        let of_part = Some(of_part).filter(|text| !text.is_empty());
        let of_part = of_part.and_then(|text| text.parse::<LevelFilter>().ok());
        let of_part = of_part.ok_or_else(|| LogFilterError::NoLevel { piece: piece.into() })?;
        match part {
            None => level = of_part,
            Some(part) => {
                let target =
                    target(part).ok_or_else(|| LogFilterError::NoPart { part: part.into() })?;
                by_part += &format!(",{target}={of_part}");
            }
        }
    }
    // Libraries tell of warnings at most, and what is wrong with a journal or with NATS the server tells itself.
    let libraries = level.min(LevelFilter::WARN);
    let server = format!("pushflo={level},pushflo_engine={level}");
    Ok(format!("{libraries},async_nats=off,fjall::journal=off,{server}{by_part}"))
}

/// The full name of a part, which may be said without that of its crate.
fn target(part: &str) -> Option<String> {
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let first = part.split("::").next().filter(|_| part.split("::").all(is_name))?;
    if modules().any(|module| module == first) {
        Some(format!("pushflo_engine::{part}"))
    } else if let Some(rest) = part.strip_prefix("cli").filter(|_| first == "cli") {
        Some(format!("pushflo{rest}"))
    } else {
        let crates = ["pushflo", "pushflo_engine"];
        crates.iter().chain(&LIBRARIES).any(|name| *name == first).then(|| part.into())
    }
}

/// The modules of the engine: what its first file lists.
fn modules() -> impl Iterator<Item = &'static str> {
    let lines = include_str!("../../engine/src/lib.rs").lines();
    lines.filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
}

fn parts() -> String {
    modules().chain(["cli"]).chain(LIBRARIES).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(filter: &str) -> Result<String, String> {
        parse(Some(filter)).map_err(|error| error.to_string())?;
        let all = directives(filter).map_err(|error| error.to_string())?;
        Ok(all.replacen("async_nats=off,fjall::journal=off,", "", 1))
    }

    #[test]
    fn a_level_is_for_the_server_and_parts_have_their_own() {
        assert_eq!(read("").unwrap(), "warn,pushflo=info,pushflo_engine=info");
        assert_eq!(read("debug").unwrap(), "warn,pushflo=debug,pushflo_engine=debug");
        assert_eq!(read("OFF,").unwrap(), "off,pushflo=off,pushflo_engine=off");
        assert_eq!(read("error").unwrap(), "error,pushflo=error,pushflo_engine=error");
        let edge = "warn,pushflo=warn,pushflo_engine=warn,pushflo_engine::edge=debug";
        for filter in ["edge=debug,warn", "warn, pushflo_engine::edge = debug"] {
            assert_eq!(read(filter).unwrap(), edge);
        }
        assert_eq!(
            read("log::writer=trace,cli=error,fjall=info").unwrap(),
            "warn,pushflo=info,pushflo_engine=info,pushflo_engine::log::writer=trace,\
             pushflo=error,fjall=info"
        );
    }

    #[test]
    fn what_is_neither_level_nor_part_is_told() {
        for (filter, piece) in
            [("loud", "`loud`"), ("info,edge", "`edge`"), ("runtime=", "`runtime=`")]
        {
            let error = read(filter).unwrap_err();
            assert!(error.contains(piece) && error.contains("edge=debug,warn"), "{error}");
        }
        for part in ["edgee", "", "edge::", "shard[x]", "std"] {
            let error = read(&format!("warn,{part}=debug")).unwrap_err();
            assert!(error.contains(&format!("`{part}`")) && error.contains("runtime"), "{error}");
        }
    }
}
