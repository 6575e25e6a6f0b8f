//! One port, many listeners: each shard has its own in the group that `SO_REUSEPORT` makes, and the
//! kernel spreads new connections over them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections the kernel holds until a shard takes them; the kernel's own limit
/// (`net.core.somaxconn`) may be lower.
const BACKLOG: i32 = 16 * 1024;

/// A port that is ours before any shard listens on it.
#[derive(Debug)]
pub struct PortReservation {
    /// The address, with the port the kernel chose if none was asked for.
    pub address: SocketAddr,
    _socket: Socket,
}

/// How long a port that is in use is waited for: the rings of a server that was killed keep its
/// listeners for a moment longer than the process.
const PORT_PATIENCE: Duration = Duration::from_millis(2_000);

/// Between two looks at a port that is in use.
const PORT_PAUSE: Duration = Duration::from_millis(50);

/// Makes sure that nobody listens on `address`, and keeps others from it. Another server's
/// `SO_REUSEPORT` listener would otherwise share our connections without a word. A port that is in
/// use is waited for, for a moment.
///
/// # Errors
/// `AddrInUse` and the like.
pub fn reserve_port(address: SocketAddr) -> io::Result<PortReservation> {
    let mut waited = Duration::ZERO;
    loop {
        match try_reserve_port(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && waited < PORT_PATIENCE => {
                std::thread::sleep(PORT_PAUSE);
                waited += PORT_PAUSE;
            }
            result => return result,
        }
    }
}

fn try_reserve_port(address: SocketAddr) -> io::Result<PortReservation> {
    if address.port() != 0 {
        // Without SO_REUSEPORT this fails if anyone listens there, whatever their options. It must not
        // listen: whoever connected meanwhile would be cut off.
        let probe = new_socket(address)?;
        probe.set_reuse_address(true)?;
        probe.bind(&address.into())?;
    }
    join_port(address)
}

/// As [`reserve_port`], where the process listens whose place this one takes.
///
/// # Errors
/// `AddrInUse` where somebody else does.
pub fn join_port(address: SocketAddr) -> io::Result<PortReservation> {
    let socket = new_socket(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    let address = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(PortReservation { address, _socket: socket })
}

/// A shard's listener.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit it; each would cost a system call otherwise.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}
