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
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;

use super::ServerArguments;

pub(super) fn run(arguments: &ServerArguments) -> Result<(), Box<dyn Error>> {
    let config = arguments.load()?;
    let _logging = start_logging();
    // Asked for before the server runs, so that no signal falls between.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let metrics_listener = config.metrics_listen.map(TcpListener::bind).transpose();
    let metrics_listener =
        metrics_listener.map_err(|error| format!("cannot listen for metrics: {error}"))?;
    let server = Server::start(&config)?;
    greet(&server);
    if let Some(listener) = metrics_listener {
        let (shared, usages) = (Arc::clone(server.shared()), server.usages());
        std::thread::Builder::new()
            .name("metrics".into())
            .spawn(move || serve_metrics(&listener, &shared, &usages))?;
    }
    signals.forever().next();
    tracing::info!(connections = server.connection_count(), "draining; once more to stop at once");
    server.drain();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.forever().next().is_some() {
            std::process::exit(130);
        }
    })?;
    server.join();
    tracing::info!("drained");
    Ok(())
}

/// Logs go to standard error through a thread of their own, so that no shard waits for a terminal.
fn start_logging() -> tracing_appender::non_blocking::WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let level = std::env::var("PUSHFLO_LOG").unwrap_or_else(|_| "info".into());
    // A level is for the server itself: what its libraries do is of interest only to those who ask
    // for them by name, as in `debug,fjall=info`.
    let (level, by_name) = level.split_once(',').unwrap_or((&level, ""));
    let filter =
        format!("warn,fjall::journal=off,pushflo={level},pushflo_engine={level},{by_name}");
    let filter = EnvFilter::new(filter);
    tracing_subscriber::fmt()
        .with_writer(writer)
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    guard
}

fn greet(server: &Server) {
    let Server { address, shards, generated, .. } = server;
    let plural = if *shards == 1 { "shard" } else { "shards" };
    println!(
        "PushFlo {} listens on http://{address} with {shards} {plural}.",
        env!("CARGO_PKG_VERSION")
    );
    let fresh = |role| {
        let mut keys = generated.iter().filter(|(of, _)| *of == role);
        keys.next().map(|(_, key)| key.as_str())
    };
    if Role::ALL.into_iter().all(|role| fresh(role).is_none()) {
        println!("Live page: http://{address}/live");
        let _ = std::io::stdout().flush();
        return;
    }
    println!("\nKeys of the app `default`. They are shown this once:\n");
    for role in Role::ALL {
        if let Some(key) = fresh(role) {
            println!("  {:<8} {key}", role.name());
        }
    }
    if let Some(key) = fresh(Role::Publish) {
        println!("\nOpen this page, it shows messages as they come:\n");
        println!("  http://{address}/live#key={key}&channel=hello");
    }
    if let Some(key) = fresh(Role::Secret) {
        println!("\nand publish one:\n");
        println!("  curl http://{address}/api/v1/publish \\");
        println!("    -H 'Authorization: Bearer {key}' \\");
        println!("    -d '{{\"channel\":\"hello\",\"data\":{{\"text\":\"Hello, world\"}}}}'\n");
    }
    let _ = std::io::stdout().flush();
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
