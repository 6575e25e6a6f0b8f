//! The kernel's floor: what it costs to send the same bytes to many loopback sockets with plain
//! `send`, and nothing else. No server can be cheaper with the same number of sends.
//!
//! One pinned thread sends; another, on another core and with its own file table, drains. Paced, the
//! receiver sleeps between rounds, as subscribers do; in a tight loop it never does.
#![allow(unsafe_code, reason = "parting file tables and reading a thread's CPU time need it")]
#![allow(clippy::print_stdout, reason = "the figures are the program's output")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod latency;

use std::error::Error;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use pushflo_protocol::dialect::Encoding;
use pushflo_protocol::{ChannelSlug, MessageId, Offset, Parts, Record};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::thread::UnshareFlags;
use serde_json::json;

/// Measures what the kernel takes for sending to many sockets.
#[derive(Debug, Parser)]
struct Options {
    /// Sockets sent to
    #[arg(long, default_value_t = 1_000)]
    sockets: usize,
    /// Bytes of a message's content; the frame around it is a real one
    #[arg(long, default_value_t = 200)]
    payload: usize,
    /// Messages in one send
    #[arg(long, default_value_t = 1)]
    messages_per_send: usize,
    /// Rounds per second, one send to each socket a round; without it, a tight loop
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds of one repetition
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Repetitions
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Core that sends, and core that drains
    #[arg(long, value_delimiter = ',', num_args = 2, default_value = "0,1")]
    cores: Vec<usize>,
    /// Measures latency: from the time of a request to each receipt of what it has sent, `--rate`
    /// requests per second (100), one message a send
    #[arg(long)]
    latency: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let frame = frame(options.payload)?;
    if options.latency {
        tell_latency(&options, &latency::measure(&options, &frame)?);
        return Ok(());
    }
    let burst = frame.repeat(options.messages_per_send);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let stop = Arc::new(AtomicBool::new(false));
    let sink = {
        let (sockets, core, stop) = (options.sockets, core(&options, 1), Arc::clone(&stop));
        std::thread::spawn(move || drain(address, sockets, core, &stop).map_err(|e| e.to_string()))
    };
    part_file_table()?;
    core_affinity::set_for_current(core(&options, 0));
    let mut sockets: Vec<OwnedFd> = Vec::with_capacity(options.sockets);
    for _ in 0..options.sockets {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        sockets.push(stream.into());
    }
    let mut costs = Vec::new();
    for _ in 0..options.repeat.max(1) {
        costs.push(send(&options, &sockets, &burst));
    }
    stop.store(true, Ordering::Relaxed);
    drop(sockets);
    sink.join().map_err(|_| "the sink panicked")??;
    tell(&options, frame.len(), costs);
    Ok(())
}

/// Gives this thread a file table of its own, so that both have room for their sockets.
fn part_file_table() -> std::io::Result<()> {
    // SAFETY: the listener was made before; no other descriptor of either thread is used by the
    // other.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES) }?;
    Ok(())
}

fn core(options: &Options, index: usize) -> core_affinity::CoreId {
    core_affinity::CoreId { id: options.cores.get(index).copied().unwrap_or(index) }
}

/// The frame of a message as the server sends it.
fn frame(payload: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let channel = ChannelSlug::parse("load-0")?;
    let content = format!(r#"{{"pad":"{}"}}"#, "x".repeat(payload.saturating_sub(10)));
    let record = Record {
        id: MessageId::new(1_700_000_000_000, 1),
        offset: Offset(1_000),
        prev: Offset(999),
        timestamp_ms: 1_700_000_000_000,
        parts: Parts::new("load", None, &content),
    };
    let mut frame = Vec::new();
    Encoding::PushFlo.push_record(&channel, &record, &mut frame);
    Ok(frame)
}

/// One repetition: microseconds of this thread's CPU for each message, and messages per second.
fn send(options: &Options, sockets: &[OwnedFd], burst: &[u8]) -> (f64, f64) {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let length = Duration::from_secs_f64(options.seconds);
    let (started, cpu) = (Instant::now(), thread_cpu());
    let (mut sent, mut rounds) = (0usize, 0u32);
    while started.elapsed() < length {
        for socket in sockets {
            match rustix::net::send(socket, burst, flags) {
                Ok(bytes) => sent += bytes,
                // Full: the sink needs its time. Nothing is counted for it.
                Err(Errno::AGAIN) => std::thread::yield_now(),
                Err(_) => {}
            }
        }
        rounds += 1;
        if let Some(rate) = options.rate {
            let next = started + Duration::from_secs_f64(f64::from(rounds) / rate);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
    let frame_bytes = burst.len() / options.messages_per_send.max(1);
    let messages = (sent / frame_bytes.max(1)) as f64;
    let cpu_us = (thread_cpu() - cpu).as_secs_f64() * 1e6;
    (cpu_us / messages.max(1.0), messages / started.elapsed().as_secs_f64())
}

/// User and system time of this thread.
fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Connects, then reads and drops everything.
fn drain(
    address: std::net::SocketAddr,
    count: usize,
    core: core_affinity::CoreId,
    stop: &AtomicBool,
) -> Result<(), Box<dyn Error>> {
    part_file_table()?;
    core_affinity::set_for_current(core);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut sockets = Vec::with_capacity(count);
    for index in 0..count {
        let stream = TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&epoll, &stream, data, epoll::EventFlags::IN)?;
        sockets.push(stream);
    }
    let mut buffer = vec![0u8; 512 * 1024];
    let mut events = Vec::with_capacity(512);
    let timeout = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    while !stop.load(Ordering::Relaxed) {
        events.clear();
        let room = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&epoll, room, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            if let Some(socket) = sockets.get_mut(event.data.u64() as usize) {
                let _ = rustix::net::recv(&*socket, &mut buffer, RecvFlags::DONTWAIT);
            }
        }
    }
    for socket in &mut sockets {
        let _ = socket.read(&mut buffer);
    }
    Ok(())
}

fn tell_latency(options: &Options, latency: &hdrhistogram::Histogram<u64>) {
    let at = |percentile| latency.value_at_percentile(percentile) as f64 / 1e6;
    let (p50, p99, max) = (at(50.0), at(99.0), at(100.0));
    if options.json {
        println!("{}", json!({ "sockets": options.sockets, "latencyMs": [p50, p99, max] }));
        return;
    }
    println!(
        "{} sockets, one after the other: latency p50 {p50:.3} ms, p99 {p99:.3} ms, max {max:.3} ms",
        options.sockets
    );
}

fn tell(options: &Options, frame_bytes: usize, costs: Vec<(f64, f64)>) {
    let mut micros: Vec<f64> = costs.iter().map(|(us, _)| *us).collect();
    micros.sort_by(f64::total_cmp);
    let median = micros.get(micros.len() / 2).copied().unwrap_or_default();
    let (least, most) =
        (micros.first().copied().unwrap_or_default(), micros.last().copied().unwrap_or_default());
    let fastest = costs.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    if options.json {
        let value = json!({
            "sockets": options.sockets, "frameBytes": frame_bytes,
            "messagesPerSend": options.messages_per_send, "rate": options.rate,
            "cpuMicrosecondsPerMessage": { "median": median, "least": least, "most": most },
            "messagesPerSecond": fastest,
        });
        println!("{value}");
        return;
    }
    let pace = options.rate.map_or("tight loop".into(), |rate| format!("{rate} rounds/s"));
    println!(
        "{} sockets, frames of {frame_bytes} B, {} a send, {pace}: {median:.3} µs CPU per message \
         ({least:.3} to {most:.3} in {}), {fastest:.0} messages/s",
        options.sockets,
        options.messages_per_send,
        micros.len()
    );
}
