//! `pushflo serve`: the server, from its greeting to its last connection.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use pushflo_engine::auth::{Role, Usages};
use pushflo_engine::clock::unix_ms;
use pushflo_engine::metrics;
use pushflo_engine::server::Server;
use pushflo_engine::shard::Shared;
use pushflo_protocol::time::Month;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::ServerArguments;
use super::keys::keep_unread;
use super::logging::Logging;
use super::output::say;

pub(super) fn run(arguments: &ServerArguments) -> Result<(), Box<dyn Error>> {
    let config = arguments.load()?;
    let _logging = Logging::start()?;
    // Asked for before the server runs, so that no signal falls between.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2])?;
    let metrics_listener = config.metrics_listen.map(TcpListener::bind).transpose();
    let metrics_listener =
        metrics_listener.map_err(|error| format!("cannot listen for metrics: {error}"))?;
    let server = Server::start(&config)?;
    // A server runs, whether or not anybody reads what it says. (The standard library has SIGPIPE
    // ignored from the start.)
    let said = keep_unread(say(greeting(&server)), &config.data_dir, &server.generated);
    if let Err(error) = said {
        tracing::warn!(%error, "the greeting could not be shown");
    }
    if let Some(listener) = metrics_listener {
        let (shared, usages) = (Arc::clone(server.shared()), server.usages());
        std::thread::Builder::new()
            .name("metrics".into())
            .spawn(move || serve_metrics(&listener, &shared, &usages))?;
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

/// Serves metrics on an address of their own: one request a connection, whatever it asks for.
fn serve_metrics(listener: &TcpListener, shared: &Shared, usages: &Usages) {
    const PATIENCE: Duration = Duration::from_secs(2);
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let mut request = [0u8; 4096];
        let mut filled = 0;
        while let Some(room) = request.get_mut(filled..).filter(|room| !room.is_empty()) {
            match stream.read(room) {
                Ok(bytes) if bytes > 0 => filled += bytes,
                _ => break,
            }
            if request.get(..filled).is_some_and(|head| head.ends_with(b"\r\n\r\n")) {
                break;
            }
        }
        let body = metrics::render(shared, &usages.all(), Month::of(unix_ms()));
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
    }
}
