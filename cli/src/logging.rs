//! The log: lines to standard error, through a thread of their own, so that no shard waits for a
//! terminal. What cannot be written is dropped; the server goes on.

use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// Lines that wait for standard error; what comes while there are as many is dropped.
const LINES_MAX: usize = 16 * 1024;

/// How long the end of the program waits for lines that nobody may be reading.
const LAST_LINES_PATIENCE: Duration = Duration::from_secs(1);

/// Writes the lines that wait when it is dropped.
#[derive(Debug)]
pub(super) struct Logging {
    lines: Sender<Line>,
    ended: Receiver<()>,
}

#[derive(Debug)]
enum Line {
    Text(Vec<u8>),
    Last,
}

/// The subscriber's writer; each write is a line.
#[derive(Debug)]
struct LineWriter(Sender<Line>);

impl Logging {
    /// Starts the log, at the level that `PUSHFLO_LOG` says.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub(super) fn start() -> io::Result<Self> {
        let (lines, waiting) = bounded(LINES_MAX);
        let (end, ended) = bounded(1);
        std::thread::Builder::new().name("logging".into()).spawn(move || {
            while let Ok(Line::Text(line)) = waiting.recv() {
                let _ = io::stderr().write_all(&line);
            }
            let _ = end.send(());
        })?;
        let level = std::env::var("PUSHFLO_LOG").unwrap_or_else(|_| "info".into());
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || LineWriter(writer.clone()))
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            // They would go to standard error by a macro that ends the process where it is closed.
            .log_internal_errors(false);
        tracing_subscriber::registry().with(layer).with(filter(&level)).init();
        Ok(Self { lines, ended })
    }
}

/// What is logged. A level is for the server itself: what its libraries do is of interest only to those
/// who ask for them by name, as in `debug,fjall=info`. What makes no sense changes nothing.
fn filter(said: &str) -> Targets {
    let (level, by_name) = said.split_once(',').unwrap_or((said, ""));
    let level = level.parse().unwrap_or(LevelFilter::INFO);
    let by_name = by_name.split(',').filter_map(|part| part.parse::<Targets>().ok());
    Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("fjall::journal", LevelFilter::OFF)
        .with_target("pushflo", level)
        .with_target("pushflo_engine", level)
        .with_targets(by_name.flatten())
}

impl Drop for Logging {
    fn drop(&mut self) {
        if self.lines.send_timeout(Line::Last, LAST_LINES_PATIENCE).is_ok() {
            let _ = self.ended.recv_timeout(LAST_LINES_PATIENCE);
        }
    }
}

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.try_send(Line::Text(line.to_vec()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn levels_are_for_the_server_and_for_who_is_named() {
        let said = [
            ("info", "pushflo_engine::shard", LevelFilter::INFO),
            ("debug", "pushflo", LevelFilter::DEBUG),
            ("debug", "fjall::keyspace", LevelFilter::WARN),
            ("debug", "fjall::journal::reader", LevelFilter::OFF),
            ("debug,fjall=info", "fjall::keyspace", LevelFilter::INFO),
            ("error,pushflo_engine::auth=trace", "pushflo_engine::auth::clerk", LevelFilter::TRACE),
            ("error,pushflo_engine::auth=trace", "pushflo_engine::shard", LevelFilter::ERROR),
            ("off", "pushflo_engine", LevelFilter::OFF),
            // What makes no sense changes nothing.
            ("loud", "pushflo_engine", LevelFilter::INFO),
            ("debug,fjall=loud,,rustls=info", "rustls", LevelFilter::INFO),
        ];
        for (said, target, level) in said {
            let filter = filter(said);
            for tried in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
                assert_eq!(filter.would_enable(target, &tried), level >= tried, "{said}: {target}");
            }
        }
    }
}
