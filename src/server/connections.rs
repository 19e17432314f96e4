//! The connections of this process to its own port, found and cut.
//!
//! tiny_http keeps its sockets to itself. But a process may duplicate its own descriptors
//! (`pidfd_getfd`, Linux 5.6), and a duplicate knows who is at the other end and can be shut down.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{Shutdown, getpeername, getsockname, shutdown};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// One end of a connection to the port. There may be two of one connection.
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    socket: OwnedFd,
}

impl Connection {
    pub(super) fn cut(&self) {
        // One that was closed meanwhile is cut already.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

/// All connections to the port; nothing where the kernel can't tell.
pub(super) fn list(port: SocketAddr) -> Option<Vec<Connection>> {
    sockets(|local, _| local.port() == port.port() && fits(local, port))
}

/// Cuts the connections with these addresses at their other end.
pub(super) fn cut(peers: &[SocketAddr]) {
    for connection in sockets(|_, peer| peers.contains(&peer)).unwrap_or_default() {
        connection.cut();
    }
}

/// Makes reads from this peer end: tiny_http reads the rest of a body that nobody wants, at the
/// pace of its sender. The answer can still be written.
pub(super) fn stop_reading(from: SocketAddr) {
    for connection in sockets(|_, peer| peer == from).unwrap_or_default() {
        let _ = shutdown(&connection.socket, Shutdown::Read);
    }
}

/// Cuts all connections to the port.
pub(super) fn cut_all(port: SocketAddr) {
    for connection in list(port).unwrap_or_default() {
        connection.cut();
    }
}

/// Whether a connection's own address belongs to the port: several nodes may live in a process.
fn fits(local: SocketAddr, port: SocketAddr) -> bool {
    port.ip().is_unspecified() || local.ip().to_canonical() == port.ip().to_canonical()
}

fn sockets(wanted: impl Fn(SocketAddr, SocketAddr) -> bool) -> Option<Vec<Connection>> {
    let process = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").ok()? {
        let Ok(entry) = entry else { continue };
        let is_socket = std::fs::read_link(entry.path())
            .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
        let number = entry.file_name().to_string_lossy().parse();
        let Some(number) = number.ok().filter(|_| is_socket) else {
            continue;
        };
        let Ok(socket) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else {
            continue;
        };
        let local = getsockname(&socket).ok().and_then(|any| SocketAddr::try_from(any).ok());
        let peer = getpeername(&socket).ok().flatten();
        let peer = peer.and_then(|any| SocketAddr::try_from(any).ok());
        if let (Some(local), Some(peer)) = (local, peer)
            && wanted(local, peer)
        {
            found.push(Connection { peer, socket });
        }
    }
    Some(found)
}
