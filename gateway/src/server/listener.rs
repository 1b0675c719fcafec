//! A listening socket, with what its connections inherit.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with, getsockname};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tidings_process::listen::Listen;
use tokio::io::unix::AsyncFd;

use crate::server::async_fd;
use crate::server::tcp::Tcp;

/// A listening socket. The connections that it accepts are not the runtime's yet.
#[derive(Debug)]
pub struct Listener(AsyncFd<OwnedFd>);

/// Unsent bytes that the kernel holds for one connection. Its own choice grows to 4 MiB, in which a stopped reader hides
/// for minutes; the kernel doubles this number for its bookkeeping.
const SEND_BUFFER_BYTES: usize = 128 << 10;

/// A connect storm waits here; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {address}")]
pub struct ListenFailed {
    address: SocketAddr,
    source: io::Error,
}

// === impl Listener ===

impl Listener {
    /// Waits for the next connection. Cancel safe: none is lost.
    pub async fn accept(&self) -> io::Result<(Tcp, SocketAddr)> {
        // In a storm there is always another one: others have a turn as well.
        tokio::task::coop::consume_budget().await;
        loop {
            let mut ready = self.0.readable().await?;
            match acceptfrom_with(self.0.get_ref(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, peer)) => return Ok((Tcp::new(socket), known(peer)?)),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        known(Some(getsockname(self.0.get_ref())?))
    }
}

fn known(address: Option<SocketAddrAny>) -> io::Result<SocketAddr> {
    address.and_then(|address| address.try_into().ok()).ok_or(io::ErrorKind::InvalidData.into())
}

/// Listens; of several candidates on the first that this machine has. A peer that acknowledges nothing for as long as
/// `silence` is gone.
pub fn listen(on: Listen, silence: Duration) -> Result<Listener, ListenFailed> {
    let mut failed = None;
    for address in on.candidates() {
        match bind(address, silence) {
            Ok(listener) => return Ok(listener),
            Err(source) => {
                // Anything else may be a machine without IPv6.
                let last = matches!(source.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied);
                failed = Some(ListenFailed { address, source });
                if last {
                    break;
                }
            }
        }
    }
    Err(failed.expect("an address has at least one candidate"))
}

fn bind(address: SocketAddr, silence: Duration) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Linux hands all of these on to accepted sockets.
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_tcp_keepalive(&keepalive(silence))?;
    socket.set_tcp_user_timeout(Some(silence))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(Listener(async_fd::readable(socket.into())?))
}

/// For connections that have nothing to send: three probes in the second half of the time.
fn keepalive(silence: Duration) -> TcpKeepalive {
    TcpKeepalive::new().with_time(silence / 2).with_interval(silence / 6).with_retries(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(60);

    use socket2::SockRef;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn accepted_sockets_inherit_the_options() {
        let listener = listen("127.0.0.1:0".parse().unwrap(), SILENCE).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let accepted = accepted.into_fd().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.send_buffer_size().unwrap(), 2 * SEND_BUFFER_BYTES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(SILENCE));
    }

    #[tokio::test]
    async fn a_port_alone_takes_ipv4_and_a_taken_port_is_named() {
        let listener = listen(":0".parse().unwrap(), SILENCE).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let taken = listen(format!(":{port}").parse().unwrap(), SILENCE).unwrap_err();
        assert!(taken.to_string().contains(&port.to_string()), "{taken}");
        assert_eq!(taken.source.kind(), io::ErrorKind::AddrInUse);
    }
}
