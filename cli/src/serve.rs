//! `pushflo serve`: the server, from its greeting to its last connection.

use std::error::Error;
use std::io;
use std::path::Path;

use crossbeam_channel::{Receiver, bounded};
use pushflo_engine::accounts::Role;
use pushflo_engine::config::Config;
use pushflo_engine::host::Host;
use pushflo_engine::startup::{HandedOver, Launch, Predecessor, Server};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::control::{self, Client, Control, Request, Told};
use super::keys::keep_unread;
use super::logging::Logging;
use super::output::say;
use super::{ServerArguments, log_filter};

pub(super) fn run(arguments: &ServerArguments) -> Result<(), Box<dyn Error>> {
    let launch = Launch::of_this()?;
    let mut before = Predecessor::of_environment()?;
    let begun = begin(arguments);
    if let (Err(error), Some(before)) = (&begun, &mut before) {
        before.fail(error);
    }
    let (config, _logging, signals) = begun?;
    let host = Host { give_memory_back };
    let mut server = match before {
        Some(before) => {
            let server = Server::succeed(&config, host, before)?;
            let connections = server.connection_count();
            tracing::info!(connections, "this process has taken the place of the one before");
            server
        }
        None => {
            let server = Server::start(&config, host)?;
            greet(&server, &config);
            server
        }
    };
    tell_of_made_keys(&server, &config)?;
    let events = events(signals, &config.data_dir)?;
    notify(NotifyState::Ready);
    while let Ok(Event::Upgrade(client)) = events.recv() {
        if upgrade(&mut server, &config, &launch, client) {
            // All that it had is another's: nothing is to be ended in good order.
            std::mem::forget(server);
            return Ok(());
        }
    }
    notify(NotifyState::Stopping);
    // While nobody else can have the folder.
    control::leave(&config.data_dir);
    tracing::info!(connections = server.connection_count(), "draining; once more to stop at once");
    server.drain();
    std::thread::Builder::new().name("end".into()).spawn(move || {
        while let Ok(event) = events.recv() {
            if let Event::End = event {
                std::process::exit(130);
            }
        }
    })?;
    server.join();
    tracing::info!("drained");
    Ok(())
}

/// What there must be before a server can start.
fn begin(arguments: &ServerArguments) -> Result<(Config, Logging, Signals), Box<dyn Error>> {
    let config = arguments.load()?;
    let logging = Logging::start(log_filter::parse(arguments.log.as_deref())?)?;
    // Asked for before the server runs, so that no signal falls between.
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2])?;
    Ok((config, logging, signals))
}

/// Tells a person who started the server what there is to know.
fn greet(server: &Server, config: &Config) {
    // A server runs, whether or not anybody reads what it says. (The standard library has SIGPIPE
    // ignored from the start.)
    let said = keep_unread(say(greeting(server)), &config.data_dir, &server.generated);
    if let Err(error) = said {
        tracing::warn!(%error, "the greeting could not be shown");
    }
}

/// Shows keys that are made while the server runs.
fn tell_of_made_keys(server: &Server, config: &Config) -> io::Result<()> {
    if let Some(made) = server.made_keys() {
        let data_dir = config.data_dir.clone();
        std::thread::Builder::new().name("keys".into()).spawn(move || {
            for keys in made {
                let said = keep_unread(say(keys_text(&keys)), &data_dir, &keys);
                if let Err(error) = said {
                    tracing::warn!(%error, "the keys could not be shown");
                }
            }
        })?;
    }
    Ok(())
}

/// What the server is asked for while it runs.
enum Event {
    /// To go.
    End,
    /// To make room for another process.
    Upgrade(Option<Client>),
}

/// What comes by signals, and from clients in the data folder. The other signals that would end a process by
/// default, and that other servers know something to do at, must not: connections depend on it.
fn events(mut signals: Signals, data_dir: &Path) -> io::Result<Receiver<Event>> {
    let (sender, events) = bounded(1);
    let asked = sender.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let event = match signal {
                SIGHUP => {
                    tracing::warn!("SIGHUP: nothing is reloaded yet; restart to change settings");
                    continue;
                }
                SIGUSR1 => {
                    tracing::warn!("SIGUSR1 means nothing here");
                    continue;
                }
                SIGUSR2 => Event::Upgrade(None),
                _ => Event::End,
            };
            if sender.send(event).is_err() {
                return;
            }
        }
    })?;
    match Control::listen(data_dir) {
        Ok(control) => {
            std::thread::Builder::new().name("control".into()).spawn(move || {
                while let Ok((client, Request::Upgrade)) = control.next() {
                    if asked.send(Event::Upgrade(Some(client))).is_err() {
                        return;
                    }
                }
            })?;
        }
        Err(error) => {
            tracing::warn!(%error, "the data folder takes no socket, so `pushflo upgrade` finds no server; SIGUSR2 does");
        }
    }
    Ok(events)
}

/// Tells systemd, if it has started the server and wants to know (sd_notify(3)).
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd cannot be told how the server is");
    }
}

/// Has the program as it is now take the place of this process. Returns whether it has; otherwise this one goes on,
/// and says why.
fn upgrade(
    server: &mut Server,
    config: &Config,
    launch: &Launch,
    mut client: Option<Client>,
) -> bool {
    let mut tell = |told: Told| {
        if let Some(client) = &mut client {
            client.tell(&told);
        }
    };
    let handed = server.hand_over(config, launch, |text| {
        tracing::info!("upgrade: {text}");
        tell(Told::Progress(text.into()));
    });
    match handed {
        Ok(HandedOver { connections, pause, process }) => {
            let pause_ms = pause.as_millis();
            tracing::info!(
                connections,
                pause_ms,
                process,
                "another process has taken the place of this one"
            );
            tell(Told::Done(format!(
                "process {process} goes on with {connections} connections; nobody was served for {pause_ms} ms"
            )));
            notify(NotifyState::MainPid(process));
            true
        }
        Err(error) => {
            tracing::error!(%error, "the upgrade has failed, and nothing has changed");
            tell(Told::Failed(error.to_string()));
            false
        }
    }
}

/// See [`Host::give_memory_back`].
#[expect(unsafe_code, reason = "the allocator's crate has no safe name for it")]
fn give_memory_back() {
    // SAFETY: it has no conditions; it looks only at what the calling thread has freed.
    unsafe { libmimalloc_sys::mi_collect(false) }
}

/// Keys that a node has made for its cluster.
pub(super) fn keys_text(keys: &[(Role, String)]) -> String {
    let mut text =
        "\nKeys of the app `default`, made for all nodes of the cluster. They are shown this \
                    once:\n\n"
            .to_string();
    for (role, key) in keys {
        text += &format!("  {:<8} {key}\n", role.name());
    }
    text
}

/// What a person is told who started the server.
fn greeting(server: &Server) -> String {
    let Server { address, shards, generated, .. } = server;
    let plural = if *shards == 1 { "shard" } else { "shards" };
    let version = env!("CARGO_PKG_VERSION");
    let mut text =
        format!("PushFlo {version} listens on http://{address} with {shards} {plural}.\n");
    let fresh = |role| {
        let mut keys = generated.iter().filter(|(of, _)| *of == role);
        keys.next().map(|(_, key)| key.as_str())
    };
    if Role::ALL.into_iter().all(|role| fresh(role).is_none()) {
        text += &format!("Live page: http://{address}/live");
        return text;
    }
    text += "\nKeys of the app `default`. They are shown this once:\n\n";
    for role in Role::ALL {
        if let Some(key) = fresh(role) {
            text += &format!("  {:<8} {key}\n", role.name());
        }
    }
    if let Some(key) = fresh(Role::Publish) {
        text += "\nOpen this page, it shows messages as they come:\n\n";
        text += &format!("  http://{address}/live#key={key}&channel=hello\n");
    }
    if let Some(key) = fresh(Role::Secret) {
        text += "\nand publish one:\n\n";
        text += &format!("  curl http://{address}/api/v1/publish \\\n");
        text += &format!("    -H 'Authorization: Bearer {key}' \\\n");
        text += "    -d '{\"channel\":\"hello\",\"data\":{\"text\":\"Hello, world\"}}'\n";
    }
    text
}
