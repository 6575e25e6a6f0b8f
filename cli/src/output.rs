//! What the program says, where perhaps nobody reads it: the reader of a pipe is gone, a disk is
//! full, a stream was closed before the start. Only here are the standard streams written to; the
//! macros of the standard library would end the process, and with it a running server.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use rustix::fs::{FileType, fstat, makedev};
use signal_hook::consts::SIGPIPE;
use signal_hook::low_level::emulate_default_handler;

/// Standard output did not take what it was given.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub(super) struct OutputError(#[from] io::Error);

impl OutputError {
    /// How a command ends that cannot say its piece: as other Unix tools do, by `SIGPIPE` where its
    /// reader has left, as `head` does when it has enough; otherwise with an error.
    pub(super) fn end(&self) -> ExitCode {
        if self.0.kind() == io::ErrorKind::BrokenPipe {
            let _ = emulate_default_handler(SIGPIPE);
        } else {
            complain(self);
        }
        ExitCode::FAILURE
    }
}

/// Writes `text` and a line end to standard output, at once.
///
/// # Errors
/// [`OutputError`]; some of it may have been written.
pub(super) fn say(text: impl Display) -> Result<(), OutputError> {
    // In one piece: a reader that takes the first line only must not cost the rest.
    let text = format!("{text}\n");
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Writes a line to standard error, if that can be.
pub(super) fn complain(text: impl Display) {
    let _ = io::stderr().write_all(format!("pushflo: {text}\n").as_bytes());
}

/// Whether standard output goes nowhere: to `/dev/null`, where the standard library also points it if
/// it was closed before the start.
pub(super) fn is_discarded() -> bool {
    let null = makedev(1, 3);
    fstat(io::stdout()).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == null
    })
}
