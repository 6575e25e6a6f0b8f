//! What the user typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::driver::Driver;

/// Puts load on a running PushFlo server, checks order, gaps, duplicates and content of every
/// message that arrives, and measures. A run that lost anything exits with code 2.
#[derive(Debug, Parser)]
#[command(name = "pushflo-loadgen", version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Few channels, many subscribers each
    Fanout(Parameters),
    /// Many channels with one subscriber each
    Personal(Parameters),
    /// Subscribed connections to which nothing is sent: memory and CPU
    Idle(Parameters),
    /// All subscribers drop at once, miss messages, reconnect and recover
    Storm(Parameters),
    /// A gentle rate: how long a message takes
    Latency(Parameters),
    /// Publishes without subscribers
    Ingress(Parameters),
}

/// Named sizes; every parameter can be overridden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Size {
    /// For a look: seconds, a few hundred connections
    Small,
    /// What published figures are made with
    Reference,
    /// For large machines
    Large,
}

#[derive(Debug, Args)]
pub(crate) struct Parameters {
    /// Address of the server
    #[arg(long, env = "PUSHFLO_URL", default_value = "http://127.0.0.1:7070")]
    pub(crate) url: String,
    /// Key that may subscribe
    #[arg(long, env = "PUSHFLO_PUBLISH_KEY", hide_env_values = true, default_value = "")]
    pub(crate) publish_key: String,
    /// Key that may publish
    #[arg(long, env = "PUSHFLO_SECRET_KEY", hide_env_values = true, default_value = "")]
    pub(crate) secret_key: String,
    /// What the server speaks
    #[arg(long, value_enum, default_value = "pushflo")]
    pub(crate) driver: Driver,
    /// Address to publish to, if it is another one
    #[arg(long, value_name = "URL")]
    pub(crate) publish_url: Option<String>,
    /// Path of the WebSocket, with {channel} in it (other drivers)
    #[arg(long, value_name = "PATH")]
    pub(crate) subscribe_path: Option<String>,
    /// Path to post to, with {channel} in it (plain, pusher)
    #[arg(long, value_name = "PATH")]
    pub(crate) publish_path: Option<String>,
    /// Process whose CPU, memory and context switches are measured
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Named size
    #[arg(long, value_enum, default_value = "reference")]
    pub(crate) size: Size,
    /// Subscribed connections
    #[arg(long)]
    pub(crate) subscribers: Option<usize>,
    /// Channels; subscriber n takes channel n modulo this
    #[arg(long)]
    pub(crate) channels: Option<usize>,
    /// Publishes per second over all channels, or `max`
    #[arg(long)]
    pub(crate) rate: Option<Rate>,
    /// Bytes of a message's content
    #[arg(long, value_name = "BYTES")]
    pub(crate) payload: Option<usize>,
    /// Seconds that are measured
    #[arg(long, value_name = "SECONDS")]
    pub(crate) duration: Option<f64>,
    /// Seconds before them
    #[arg(long, value_name = "SECONDS")]
    pub(crate) warm_up: Option<f64>,
    /// Publishing connections
    #[arg(long)]
    pub(crate) publishers: Option<usize>,
    /// Requests in flight on each of them at rate `max`
    #[arg(long)]
    pub(crate) pipeline: Option<usize>,
    /// Messages in each request; more than 1 uses the batch call
    #[arg(long)]
    pub(crate) batch: Option<usize>,
    /// Messages that subscribers miss (storm)
    #[arg(long)]
    pub(crate) missed: Option<u64>,
    /// Shell command that is run while all are away (storm), to restart the server for instance; they
    /// return when it has ended and the server answers
    #[arg(long, value_name = "COMMAND")]
    pub(crate) before_return: Option<String>,
    /// What the names of channels begin with; runs beside each other need different ones
    #[arg(long, value_name = "TEXT", default_value = "load-")]
    pub(crate) channel_prefix: String,
    /// Threads that generate [default: one for each 15,000 connections]
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Cores to pin the threads to, in turn, such as 1 or 2,3
    #[arg(long, value_delimiter = ',')]
    pub(crate) cores: Vec<usize>,
    /// Connections being opened at a time, for each thread
    #[arg(long, default_value_t = 256)]
    pub(crate) connecting: usize,
    /// Writes everything measured to this file as JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes a report with plots to this file; it needs nothing else to be read
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// How fast publishes are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rate {
    /// So many a second, at times fixed beforehand.
    PerSecond(f64),
    /// As fast as they are answered.
    Max,
}

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.parse() {
            Ok(rate) if rate > 0.0 && rate <= 1e9 => Ok(Self::PerSecond(rate)),
            _ => Err("must be a number of publishes per second, or max".into()),
        }
    }
}
