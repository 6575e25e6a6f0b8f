//! The floor of latency: a request wakes the sender, which sends one frame to each socket with plain
//! `send`; what is measured is the time from the moment the request was to be made to each receipt.
//!
//! The way is a server's: timer, request, wake-up, sends one after the other, wake-up, receipt.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::{Options, core, part_file_table};

/// Measures and returns the latencies in nanoseconds.
pub(super) fn measure(options: &Options, frame: &[u8]) -> Result<Histogram<u64>, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (count, rate) = (options.sockets, options.rate.unwrap_or(100.0));
    let rounds = (options.seconds * rate) as u32;
    let asker = {
        let (core, frame_bytes) = (core(options, 1), frame.len());
        std::thread::spawn(move || {
            ask(address, count, frame_bytes, rounds, rate, core).map_err(|e| e.to_string())
        })
    };
    part_file_table()?;
    core_affinity::set_for_current(core(options, 0));
    let (mut requests, _) = listener.accept()?;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
    }
    let mut request = [0];
    while requests.read(&mut request)? > 0 {
        for socket in &sockets {
            rustix::net::send(socket, frame, SendFlags::NOSIGNAL)?;
        }
    }
    Ok(asker.join().map_err(|_| "the asking thread panicked")??)
}

/// Makes the requests at their times and notes when what they bring arrives.
fn ask(
    address: SocketAddr,
    count: usize,
    frame_bytes: usize,
    rounds: u32,
    rate: f64,
    core: core_affinity::CoreId,
) -> Result<Histogram<u64>, Box<dyn Error>> {
    part_file_table()?;
    core_affinity::set_for_current(core);
    let mut requests = TcpStream::connect(address)?;
    requests.set_nodelay(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut sockets = Vec::with_capacity(count);
    for index in 0..count {
        let socket = TcpStream::connect(address)?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&epoll, &socket, data, epoll::EventFlags::IN)?;
        sockets.push(socket);
    }
    let mut latency = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    let (mut buffer, mut events) = (vec![0u8; 64 * 1024], Vec::with_capacity(512));
    let start = Instant::now();
    for round in 0..rounds {
        let intended = start + Duration::from_secs_f64(f64::from(round) / rate);
        std::thread::sleep(intended.saturating_duration_since(Instant::now()));
        requests.write_all(&[1])?;
        let mut left = count * frame_bytes;
        while left > 0 {
            events.clear();
            let room = rustix::buffer::spare_capacity(&mut events);
            let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
            match epoll::wait(&epoll, room, Some(&patience)) {
                Ok(0) => return Err("a frame did not arrive".into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let Some(socket) = sockets.get(event.data.u64() as usize) else { continue };
                let (bytes, _) = rustix::net::recv(socket, &mut buffer, RecvFlags::DONTWAIT)?;
                latency.saturating_record(intended.elapsed().as_nanos() as u64);
                left = left.saturating_sub(bytes);
            }
        }
    }
    Ok(latency)
}
