//! The program `pushflo`: what the user typed, and which part of the program does it.
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[cfg(not(target_os = "linux"))]
compile_error!("PushFlo runs on Linux only: it is built on io_uring");

mod api;
mod apps;
mod cluster;
mod connect;
mod control;
mod directory;
mod keys;
mod log_filter;
mod logging;
mod output;
mod publish;
mod serve;
mod subscribe;
mod upgrade;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use pushflo_engine::accounts::Role;
use pushflo_engine::config::{Config, ConfigError, Overrides};
use pushflo_engine::settings;

use self::api::Api;
use self::output::{OutputError, complain, say};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Holds WebSockets open for web apps that cannot: backends publish with one HTTP POST, every
/// subscriber gets the message at once.
#[derive(Debug, Parser)]
#[command(name = "pushflo", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServerArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server (the default)
    Serve(ServerArguments),
    /// Have the program as it is now take the place of the running server, without closing a connection
    Upgrade(upgrade::Arguments),
    /// Publish one message
    Publish(publish::Arguments),
    /// Print the messages of channels as they come
    Subscribe(subscribe::Arguments),
    /// Manage apps: each has its own keys, channels, limits and history
    Apps(apps::Arguments),
    /// Manage keys
    Keys(keys::Arguments),
    /// See how a cluster of several nodes is, or begin one with what a server has
    Cluster(cluster::Arguments),
    /// Repair the directory of apps and keys of a stopped server
    Directory(directory::Arguments),
    /// Print all limits and time-outs that can be configured, with defaults and ranges
    Limits,
    /// Check the configuration and say what is wrong with it
    CheckConfig(ServerArguments),
}

#[derive(Debug, Args)]
struct ServerArguments {
    /// Configuration file (TOML)
    #[arg(long, env = "PUSHFLO_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port for HTTP and WebSocket [default: 127.0.0.1:7070]
    #[arg(long, env = "PUSHFLO_LISTEN", value_name = "ADDRESS")]
    listen: Option<String>,
    /// Folder for keys and history [default: ./pushflo-data]
    #[arg(long, env = "PUSHFLO_DATA_DIR", value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Number of shards, each a thread with a core of its own [default: one for each core]
    #[arg(long, env = "PUSHFLO_SHARDS", value_name = "COUNT")]
    shards: Option<usize>,
    /// Cores that the shards are pinned to, in turn, such as 2,3; more shards than cores share them
    /// [default: all]
    #[arg(long, env = "PUSHFLO_CORES", value_name = "LIST", value_delimiter = ',')]
    cores: Option<Vec<usize>>,
    /// What an answered publish has survived: nothing (memory), the end of the process (os), or a
    /// power loss (disk) [default: os]
    #[arg(long, env = "PUSHFLO_DURABILITY", value_name = "memory|os|disk")]
    durability: Option<String>,
    /// Addresses of NATS servers, separated by commas: this is a node of a cluster [default: none]
    #[arg(long, env = "PUSHFLO_CLUSTER_NATS", value_name = "ADDRESSES")]
    cluster_nats: Option<String>,
    /// The name of this node, each of a cluster another
    #[arg(long, env = "PUSHFLO_CLUSTER_NODE", value_name = "NAME")]
    cluster_node: Option<String>,
    /// What is logged: a level (off, error, warn, info, debug, trace), levels of parts of the server,
    /// or both, such as edge=debug,warn [default: info]
    ///
    /// Parts are the modules of the server, also below each other, as in log::writer=debug, and the
    /// libraries async_nats, fjall and lsm_tree. A level without a part is for all others; libraries tell of
    /// warnings at most unless they are named.
    #[arg(long, env = "PUSHFLO_LOG", value_name = "FILTER")]
    log: Option<String>,
}

/// Where a client command finds its server.
#[derive(Debug, Args)]
struct ServerAddress {
    /// Address of the server
    #[arg(long, env = "PUSHFLO_URL", default_value = "http://127.0.0.1:7070")]
    url: String,
}

/// A running server whose apps and keys are managed.
#[derive(Debug, Args)]
struct ManagedServer {
    /// An mgmt_ key
    #[arg(long, env = "PUSHFLO_MGMT_KEY", hide_env_values = true)]
    key: String,
    #[command(flatten)]
    server: ServerAddress,
}

impl ManagedServer {
    fn api(&self) -> Api<'_> {
        Api { url: &self.server.url, key: &self.key }
    }
}

impl ServerArguments {
    fn load(&self) -> Result<Config, ConfigError> {
        let key = |role: Role| {
            let name = format!("PUSHFLO_{}_KEY", role.name().to_uppercase());
            std::env::var(name).ok().filter(|key| !key.is_empty()).map(|key| (role, key))
        };
        let overrides = Overrides {
            listen: self.listen.clone(),
            data_dir: self.data_dir.clone(),
            shards: self.shards,
            cores: self.cores.clone(),
            durability: self.durability.clone(),
            cluster_nats: self.cluster_nats.clone(),
            cluster_node: self.cluster_node.clone(),
            keys: Role::ALL.into_iter().filter_map(key).collect(),
        };
        Config::load(self.config.as_deref(), overrides)
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and the version, or what is wrong with the command line.
        Err(said) => {
            let printed = said.print().map_err(OutputError::from);
            return match (said.use_stderr(), printed) {
                (false, Err(error)) => error.end(),
                _ => ExitCode::from(said.exit_code() as u8),
            };
        }
    };
    let result = match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(arguments)) => serve::run(&arguments),
        Some(Command::Upgrade(arguments)) => upgrade::run(&arguments),
        Some(Command::Publish(arguments)) => publish::run(&arguments),
        Some(Command::Subscribe(arguments)) => subscribe::run(&arguments),
        Some(Command::Apps(arguments)) => apps::run(&arguments),
        Some(Command::Keys(arguments)) => keys::run(&arguments),
        Some(Command::Cluster(arguments)) => cluster::run(&arguments),
        Some(Command::Directory(arguments)) => directory::run(&arguments),
        Some(Command::Limits) => say(settings::table()).map_err(Into::into),
        Some(Command::CheckConfig(arguments)) => check_config(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<OutputError>() {
            Some(error) => error.end(),
            None => {
                complain(error);
                ExitCode::FAILURE
            }
        },
    }
}

fn check_config(arguments: &ServerArguments) -> Result<(), Box<dyn std::error::Error>> {
    let config = arguments.load()?;
    log_filter::parse(arguments.log.as_deref())?;
    let mib = config.memory_bytes >> 20;
    let mut text = format!(
        "The configuration is good. PushFlo would listen on {} and may use {mib} MiB of memory.",
        config.listen
    );
    if !config.fitted.is_empty() {
        text += "\n\nWith more memory these defaults would be higher:\n";
    }
    for (key, default) in &config.fitted {
        text += &format!("\n  {key} = {default}");
    }
    say(text)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn every_command_is_one_that_the_parser_takes() {
        Cli::command().debug_assert();
    }
}
