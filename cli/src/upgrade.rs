//! `pushflo upgrade`: the running server's place is taken by the program as it is now, with all connections.

use std::error::Error;
use std::io;

use clap::Args;

use super::ServerArguments;
use super::control::{self, Request, Told};
use super::output::say;

/// Which server.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let config = arguments.server.load()?;
    let data_dir = &config.data_dir;
    let mut unsaid = None;
    let told = control::ask(data_dir, Request::Upgrade, |text| {
        unsaid = say(text.to_owned()).err();
    });
    let told = told.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("no server runs with the data folder {}: {error}", data_dir.display())
        }
        _ => format!(
            "the server with the data folder {} does not answer: {error}",
            data_dir.display()
        ),
    })?;
    if let Some(error) = unsaid {
        return Err(error.into());
    }
    match told {
        Told::Failed(reason) => Err(format!("nothing has changed: {reason}").into()),
        Told::Done(text) | Told::Progress(text) => Ok(say(text)?),
    }
}
