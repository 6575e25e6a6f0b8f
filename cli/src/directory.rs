//! `pushflo directory`: what an operator decides about apps, keys and history of a stopped server.

use std::error::Error;

use clap::{Args, Subcommand};
use pushflo_engine::ids::AppId;
use pushflo_engine::startup;

use super::ServerArguments;
use super::output::say;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Go on with apps and keys as they are, although part of them is lost: apps may be missing and
    /// revoked keys may work again; every channel that ever was private is private then
    Accept(ServerArguments),
    /// Delete the history of an app that is not known, at the next start
    DeleteHistory {
        /// The app's id, as the server names it at its start
        #[arg(long, value_parser = parse_app)]
        app: AppId,
        #[command(flatten)]
        server: ServerArguments,
    },
}

fn parse_app(text: &str) -> Result<AppId, String> {
    AppId::parse(text).ok_or_else(|| "an app is named like app_7".into())
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    match &arguments.action {
        Action::Accept(server) => {
            let accepted = startup::accept_directory(&server.load()?)?;
            if !accepted.is_needed {
                let apps = accepted.apps;
                say(format!("Nothing is lost: {apps} apps are there, as they were left."))?;
                return Ok(());
            }
            say(format!(
                "The server starts again with {} apps. {} channels were made private, as they may \
                 have been. Look through the keys: revoked ones may work again.",
                accepted.apps, accepted.closed
            ))?;
        }
        Action::DeleteHistory { app, server } => {
            startup::delete_history(&server.load()?, *app)?;
            say(format!("The history of {app} is deleted at the next start."))?;
        }
    }
    Ok(())
}
