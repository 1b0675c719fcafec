//! A connection that is ours alone: a descriptor, and the session on it if there is one. Nothing here waits.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg};
use rustls::ServerConnection;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::server::socket_io::{Heard, Wrote};
use crate::server::tcp::Tcp;
use crate::server::tls_session::Session;

/// A connection that is ours alone.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// On the heap: most connections of a port without TLS have none, and room for a pointer is all they pay.
    session: Option<Box<Session>>,
}

/// A descriptor that is read from and written to.
struct Io<'f>(&'f OwnedFd);

/// At once, and without a signal should the peer be gone.
const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

// === impl Socket ===

impl Socket {
    /// Takes a connection from the runtime.
    pub fn plain(tcp: Tcp) -> io::Result<Self> {
        Ok(Self { fd: tcp.into_fd()?, session: None })
    }

    /// Takes a connection with its session from the runtime, unless the peer has taken leave already.
    pub fn sealed(stream: TlsStream<TcpStream>) -> io::Result<Self> {
        let (stream, tls): (TcpStream, ServerConnection) = stream.into_inner();
        let session = Session::new(tls).ok_or(ErrorKind::ConnectionAborted)?;
        Ok(Self { fd: stream.into_std()?.into(), session: Some(Box::new(session)) })
    }

    /// Whether it is to be told of what comes, while it is written to.
    pub fn listens(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !session.is_deaf())
    }

    /// Writes what the kernel takes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<Wrote> {
        let mut io = Io(&self.fd);
        if let Some(session) = &mut self.session {
            return session.write(&mut io, bytes);
        }
        let taken = match io.write(bytes) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            written => written?,
        };
        Ok(Wrote { taken, full: taken < bytes.len() })
    }

    /// Bytes that the kernel holds because the peer has not acknowledged them (tcp(7), SIOCOUTQ).
    #[expect(unsafe_code, reason = "rustix has no such request")]
    pub fn backlog(&self) -> u32 {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open, and the request writes one int to where it is told.
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if done == 0 { u32::try_from(bytes).unwrap_or(0) } else { 0 }
    }

    /// Reads what has come for the session. Without one it does nothing.
    pub fn hear(&mut self) -> Heard {
        self.session.as_mut().map_or(Heard::Nothing, |session| session.hear(&mut Io(&self.fd)))
    }

    /// Ends the sending half, and says so on the session. False if there is no room for that yet.
    pub fn shut(&mut self) -> io::Result<bool> {
        if let Some(session) = &mut self.session
            && !session.close(&mut Io(&self.fd))?
        {
            return Ok(false);
        }
        rustix::net::shutdown(&self.fd, Shutdown::Write)?;
        Ok(true)
    }

    /// Reads what has come, session or not, and throws it away. `None` if there is more; else whether the peer has closed.
    pub fn drain(&mut self) -> Option<bool> {
        let mut buffer = [0; 4096];
        // Not without end: a peer that keeps sending has to wait for its next turn.
        for _ in 0..16 {
            match Io(&self.fd).read(&mut buffer) {
                Ok(0) => return Some(true),
                Ok(_) => {}
                Err(error) => {
                    return Some(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted));
                }
            }
        }
        None
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

// === impl Io ===

impl Read for Io<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.0, buffer, RecvFlags::DONTWAIT)?.0)
    }
}

/// With send(2) and sendmsg(2): write(2) looks at the file around the socket first, at lines of memory that nobody else has
/// looked at since the last event, and costs a tenth more.
impl Write for Io<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.0, bytes, SEND)?)
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match pieces {
            [piece] => self.write(piece),
            _ => Ok(sendmsg(self.0, pieces, &mut SendAncillaryBuffer::default(), SEND)?),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
