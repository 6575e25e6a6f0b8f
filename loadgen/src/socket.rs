//! Non-blocking sockets to the server, from as many loopback addresses as it takes.
#![allow(unsafe_code, reason = "no library sets IP_BIND_ADDRESS_NO_PORT")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections from one address. The kernel has about 28,000 ports for it, but it searches for a
/// free one at every connect, which with 10,000 of them takes a third of the generator's time.
const CONNECTIONS_PER_ADDRESS: usize = 500;

/// Begins to connect; `index` counts the connections of the run.
pub(crate) fn connect(server: SocketAddr, index: usize) -> io::Result<OwnedFd> {
    let socket = Socket::new(
        Domain::for_address(server),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    if matches!(server.ip(), IpAddr::V4(ip) if ip.is_loopback()) {
        let address = 1 + (index / CONNECTIONS_PER_ADDRESS) as u32;
        // 127.77.0.1, 127.77.0.2 and so on. The port is chosen at connect, when the other end is
        // known, so that it may be used towards others too.
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 77, 0, 0)) + address);
        bind_address_no_port(&socket)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    match socket.connect(&server.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes received; `None` where there are none for the moment, 0 at the end.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT) {
        Ok((bytes, _)) => Ok(Some(bytes)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sends what fits from the front of `out` and takes it off.
pub(crate) fn send(socket: &OwnedFd, out: &mut Vec<u8>) -> io::Result<()> {
    let mut sent = 0;
    while let Some(rest) = out.get(sent..).filter(|rest| !rest.is_empty()) {
        match rustix::net::send(socket, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(bytes) => sent += bytes,
            Err(Errno::AGAIN | Errno::INTR) => break,
            Err(error) => return Err(error.into()),
        }
    }
    out.drain(..sent);
    Ok(())
}
