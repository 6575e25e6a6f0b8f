//! The log: lines to standard error, through a thread of their own, so that no shard waits for a
//! terminal. What cannot be written is dropped; the server goes on.

use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing_subscriber::filter::Targets;
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
    /// Starts the log of what `filter` lets through.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub(super) fn start(filter: Targets) -> io::Result<Self> {
        let (lines, waiting) = bounded(LINES_MAX);
        let (end, ended) = bounded(1);
        std::thread::Builder::new().name("logging".into()).spawn(move || {
            while let Ok(Line::Text(line)) = waiting.recv() {
                let _ = io::stderr().write_all(&line);
            }
            let _ = end.send(());
        })?;
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || LineWriter(writer.clone()))
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            // They would go to standard error by a macro that ends the process where it is closed.
            .log_internal_errors(false);
        tracing_subscriber::registry().with(layer).with(filter).init();
        Ok(Self { lines, ended })
    }
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
