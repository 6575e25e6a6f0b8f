//! `pushflo cluster`: how a cluster is, and what it begins with.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use pushflo_engine::clock::Clock;
use pushflo_engine::cluster::ImportProgress;
use pushflo_engine::startup;
use pushflo_protocol::answer::{ClusterStatus, NodeState, NodeStatus, SlotStatus};

use super::api::data;
use super::keys::keep_unread;
use super::logging::Logging;
use super::output::say;
use super::serve::keys_text;
use super::{ManagedServer, ServerArguments, log_filter};

/// How often it is told how far an import is.
const PROGRESS_MS: u64 = 1_000;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show nodes, slots and streams, and what is not as it should be
    ///
    /// Ends with 1 where something is not.
    Status {
        /// Show each slot with its owner and its stream
        #[arg(long)]
        slots: bool,
        /// Show all of it as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: ManagedServer,
    },
    /// Bring what a server by itself has into a new cluster: apps, keys, channels and history
    ///
    /// The server must be stopped, and no node of the cluster run yet; all else is as it is said to a node.
    /// Its data folder stays good for a server by itself. Offsets are others in the cluster: subscribers who come back are told
    /// of a gap once, and find all messages in history.
    Import {
        /// Data folder of the server
        #[arg(long, value_name = "FOLDER")]
        from: PathBuf,
        #[command(flatten)]
        node: ServerArguments,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    match &arguments.action {
        Action::Status { slots, json, target } => status(*slots, *json, target),
        Action::Import { from, node } => import(from, node),
    }
}

fn import(from: &Path, node: &ServerArguments) -> Result<(), Box<dyn Error>> {
    let config = node.load()?;
    let _logging = Logging::start(log_filter::parse(node.log.as_deref())?)?;
    let (clock, mut next_ms) = (Clock::start(), 0);
    let (done, generated) = startup::import(&config, from, |progress| {
        if clock.elapsed_ms() < next_ms {
            return;
        }
        next_ms = clock.elapsed_ms() + PROGRESS_MS;
        let ImportProgress { channels: (all, done), messages, .. } = progress;
        // Whoever does not read it wants the import all the same.
        let _ = say(format!("{done} of {all} channels, {messages} messages …"));
    })?;
    let ImportProgress { apps, channels: (all, _), metas, messages } = done;
    say(format!(
        "The cluster has {apps} apps, {all} channels with {messages} messages, and metadata of {metas} \
         channels. Start its nodes."
    ))?;
    if !generated.is_empty() {
        keep_unread(say(keys_text(&generated)), from, &generated)?;
    }
    Ok(())
}

fn status(slots: bool, json: bool, target: &ManagedServer) -> Result<(), Box<dyn Error>> {
    let answer = target.api().call("GET", "/api/v1/cluster", None)?;
    if json {
        say(serde_json::to_string_pretty(data(&answer))?)?;
        return Ok(());
    }
    let status: ClusterStatus = serde_json::from_value(data(&answer).clone())?;
    show(&status, slots)?;
    match status.problems.len() {
        0 => Ok(()),
        1 => Err("one thing is not as it should be".into()),
        count => Err(format!("{count} things are not as they should be").into()),
    }
}

fn show(status: &ClusterStatus, with_slots: bool) -> Result<(), Box<dyn Error>> {
    let ClusterStatus { node, prefix, nats, nodes, slots, problems } = status;
    let reached = if nats.is_reached { "" } else { ", which does not answer" };
    say(format!(
        "Cluster {prefix}, as node {node} sees it by the NATS server {} {}{reached}\n",
        nats.server, nats.version
    ))?;
    let width = nodes.iter().map(|node| node.name.len()).max().unwrap_or_default().max(4);
    show_nodes(nodes, width)?;
    show_streams(slots)?;
    if with_slots {
        show_slots(slots, width)?;
    }
    if problems.is_empty() {
        say("\nAll is well.")?;
    } else {
        say("")?;
        for problem in problems {
            say(format!("! {problem}"))?;
        }
    }
    Ok(())
}

fn show_nodes(nodes: &[NodeStatus], width: usize) -> Result<(), Box<dyn Error>> {
    say(format!(
        "{:<width$}  {:<8} {:<9} {:>6} {:>5} {:>11} {:>11} {:>9} {:>10}",
        "NODE",
        "STATE",
        "VERSION",
        "SHARDS",
        "SLOTS",
        "CONNECTIONS",
        "ATTACHMENTS",
        "IN FLIGHT",
        "HEARD"
    ))?;
    for node in nodes {
        let state = match node.state {
            NodeState::Here => "here",
            NodeState::Leaving => "leaving",
            NodeState::Silent => "silent",
        };
        let heard = match node.silent_ms {
            0..2_000 => "now".into(),
            ms => format!("{} s ago", ms / 1000),
        };
        let numbers = &node.numbers;
        say(format!(
            "{:<width$}  {state:<8} {:<9} {:>6} {:>5} {:>11} {:>11} {:>9} {heard:>10}",
            node.name,
            numbers.version,
            numbers.shards,
            numbers.slots,
            numbers.connections,
            numbers.attachments,
            numbers.appends_in_flight,
        ))?;
    }
    Ok(())
}

fn show_streams(slots: &[SlotStatus]) -> Result<(), Box<dyn Error>> {
    let (mut leaders, mut messages, mut bytes) = (BTreeMap::<&str, u64>::new(), 0, 0);
    for stream in slots.iter().filter_map(|slot| slot.stream.as_ref()) {
        *leaders.entry(&stream.leader).or_default() += 1;
        messages += stream.messages;
        bytes += stream.bytes;
    }
    let leaders: Vec<_> =
        leaders.iter().map(|(leader, count)| format!("{leader} {count}")).collect();
    let owned = slots.iter().filter(|slot| slot.owner.is_some()).count();
    say(format!(
        "\nSlots: {owned} of {} owned. Streams: {messages} messages, {} MiB; leaders: {}.",
        slots.len(),
        bytes >> 20,
        if leaders.is_empty() { "none".into() } else { leaders.join(", ") }
    ))?;
    Ok(())
}

fn show_slots(slots: &[SlotStatus], width: usize) -> Result<(), Box<dyn Error>> {
    say(format!(
        "\n{:>4}  {:<width$}  {:<12} {:>12} {:>14}  FOLLOWERS",
        "SLOT", "OWNER", "LEADER", "MESSAGES", "BYTES"
    ))?;
    for slot in slots {
        let owner = slot.owner.as_deref().unwrap_or("-");
        let (mut leader, mut messages, mut bytes, mut followers) = ("-", 0, 0, Vec::new());
        if let Some(stream) = &slot.stream {
            (leader, messages, bytes) = (&stream.leader, stream.messages, stream.bytes);
            followers = stream
                .replicas
                .iter()
                .map(|replica| match replica.is_current {
                    true => replica.server.to_string(),
                    false => format!("{} (behind by {})", replica.server, replica.lag),
                })
                .collect();
        }
        say(format!(
            "{:>4}  {owner:<width$}  {leader:<12} {messages:>12} {bytes:>14}  {}",
            slot.slot,
            followers.join(", ")
        ))?;
    }
    Ok(())
}
