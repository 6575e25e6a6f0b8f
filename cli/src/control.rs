//! The way to a running server for whoever may use its data folder: a Unix socket there.
//!
//! A client says in one line what it wants; it is answered line by line, the last of which says what has come of
//! it.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The socket's name in the data folder.
const NAME: &str = "control";

/// How long a client may take to say what it wants, and to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client may want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "camelCase")]
pub(super) enum Request {
    /// Another process in the place of this one.
    Upgrade,
}

/// What it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Told {
    /// How far it is.
    Progress(String),
    /// It is done.
    Done(String),
    /// Nothing has come of it.
    Failed(String),
}

/// A client that has said what it wants.
#[derive(Debug)]
pub(super) struct Client(UnixStream);

impl Client {
    /// Tells it something. One that is gone needs no answer.
    pub(super) fn tell(&mut self, told: &Told) {
        if let Ok(mut line) = serde_json::to_vec(told) {
            line.push(b'\n');
            let _ = self.0.write_all(&line);
        }
    }
}

/// Where clients come to.
#[derive(Debug)]
pub(super) struct Control(UnixListener);

impl Control {
    /// Listens in a data folder, in the place of a server before.
    ///
    /// # Errors
    /// The folder takes no socket.
    pub(super) fn listen(data_dir: &Path) -> io::Result<Self> {
        let folder = File::open(data_dir)?;
        let fresh = path(&folder, "control.new");
        let _ = std::fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh)?;
        std::fs::rename(&fresh, path(&folder, NAME))?;
        Ok(Self(listener))
    }

    /// Waits for the next client that says what it wants.
    ///
    /// # Errors
    /// Nobody can come any more.
    pub(super) fn next(&self) -> io::Result<(Client, Request)> {
        loop {
            let (client, _) = self.0.accept()?;
            client.set_read_timeout(Some(PATIENCE))?;
            client.set_write_timeout(Some(PATIENCE))?;
            let mut line = String::new();
            let read = BufReader::new(io::Read::take(&client, 4096)).read_line(&mut line);
            let mut client = Client(client);
            match read.map(|_| serde_json::from_str(&line)) {
                Ok(Ok(request)) => return Ok((client, request)),
                Ok(Err(error)) => {
                    client.tell(&Told::Failed(format!("it does not know that: {error}")))
                }
                Err(_) => {}
            }
        }
    }
}

/// Has nobody look for a server in this folder any more.
pub(super) fn leave(data_dir: &Path) {
    // One that stays does no harm: nobody answers there.
    let _ = std::fs::remove_file(data_dir.join(NAME));
}

/// Asks the server with this data folder for something; `told` gets how far it is. Returns what has come of it.
///
/// # Errors
/// No server runs there, or it ends in between.
pub(super) fn ask(
    data_dir: &Path,
    request: Request,
    mut told: impl FnMut(&str),
) -> io::Result<Told> {
    let folder = File::open(data_dir)?;
    let mut server = UnixStream::connect(path(&folder, NAME))?;
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    server.write_all(&line)?;
    for line in BufReader::new(server).lines() {
        match serde_json::from_str(&line?)? {
            Told::Progress(text) => told(&text),
            last => return Ok(last),
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended without an answer"))
}

/// A file of a folder by a short name: addresses of sockets have at most 107 bytes, and names of folders may have
/// more.
fn path(folder: &File, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()).into()
}
