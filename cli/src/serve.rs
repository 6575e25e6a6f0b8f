//! `pushflo serve`: the server, from its greeting to its last connection.

use std::error::Error;

use pushflo_engine::accounts::Role;
use pushflo_engine::host::Host;
use pushflo_engine::startup::Server;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::keys::keep_unread;
use super::logging::Logging;
use super::output::say;
use super::{ServerArguments, log_filter};

pub(super) fn run(arguments: &ServerArguments) -> Result<(), Box<dyn Error>> {
    let config = arguments.load()?;
    let _logging = Logging::start(log_filter::parse(arguments.log.as_deref())?)?;
    // Asked for before the server runs, so that no signal falls between.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2])?;
    let server = Server::start(&config, Host { give_memory_back })?;
    // A server runs, whether or not anybody reads what it says. (The standard library has SIGPIPE
    // ignored from the start.)
    let said = keep_unread(say(greeting(&server)), &config.data_dir, &server.generated);
    if let Err(error) = said {
        tracing::warn!(%error, "the greeting could not be shown");
    }
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
    wait_for_end(&mut signals);
    tracing::info!(connections = server.connection_count(), "draining; once more to stop at once");
    server.drain();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        wait_for_end(&mut signals);
        std::process::exit(130);
    })?;
    server.join();
    tracing::info!("drained");
    Ok(())
}

/// See [`Host::give_memory_back`].
#[expect(unsafe_code, reason = "the allocator's crate has no safe name for it")]
fn give_memory_back() {
    // SAFETY: it has no conditions; it looks only at what the calling thread has freed.
    unsafe { libmimalloc_sys::mi_collect(false) }
}

/// Waits until the server is asked to go. The other signals that would end a process by default, and
/// that other servers know something to do at, must not: connections depend on it.
fn wait_for_end(signals: &mut Signals) {
    for signal in signals.forever() {
        match signal {
            SIGHUP => tracing::warn!("SIGHUP: nothing is reloaded yet; restart to change settings"),
            SIGUSR1 | SIGUSR2 => tracing::warn!("SIGUSR1 and SIGUSR2 mean nothing here"),
            _ => return,
        }
    }
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
