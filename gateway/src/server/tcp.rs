//! A TCP connection that the runtime is told of only once it has to be waited for.
//!
//! A client that connects sends its request in the same breath. By the time a connection is accepted the request is usually
//! there, and the answer is a handful of bytes that fit any socket: a connection that is handed over then has never waited
//! for it. Telling the runtime's epoll of it, and telling it again to forget it, would be a tenth of all that a connect costs.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP connection.
#[derive(Debug)]
pub struct Tcp {
    /// What was read to see what the client speaks, and was not handed on yet.
    begun: Vec<u8>,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    /// Nobody waits for it.
    Alone(OwnedFd),
    /// The runtime tells when it is ready.
    Registered(TcpStream),
    /// It could not be registered.
    Lost,
}

/// What is read at once of a request that has just come. Most are far smaller; the rest is read by the code that speaks the
/// protocol.
const FIRST: usize = 2 << 10;

// === impl Tcp ===

impl Tcp {
    /// A connection that was just accepted, and does not block.
    pub fn new(socket: OwnedFd) -> Self {
        Self { begun: Vec::new(), socket: Socket::Alone(socket) }
    }

    /// What the client has begun to say. It stays to be read.
    pub fn begun(&self) -> &[u8] {
        &self.begun
    }

    /// Waits for more of what the client begins with; `false` if there will be no more. Cancel safe.
    pub async fn hear(&mut self) -> io::Result<bool> {
        std::future::poll_fn(|cx| self.poll_hear(cx)).await
    }

    fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut buffer = [MaybeUninit::uninit(); FIRST];
        let mut buffer = ReadBuf::uninit(&mut buffer);
        ready!(self.poll_socket(cx, &mut buffer))?;
        self.begun.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(!buffer.filled().is_empty()))
    }

    fn poll_socket(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Socket::Alone(socket) = &self.socket {
            let mut bytes = [MaybeUninit::uninit(); FIRST];
            let room = buffer.remaining().min(FIRST);
            match recv(socket, bytes.get_mut(..room).unwrap_or_default(), RecvFlags::DONTWAIT) {
                Ok(((read, _), _)) => {
                    buffer.put_slice(read);
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        Pin::new(self.registered()?).poll_read(cx, buffer)
    }

    /// The connection as the runtime knows it; from now on it does.
    fn registered(&mut self) -> io::Result<&mut TcpStream> {
        if let Socket::Alone(_) = &self.socket
            && let Socket::Alone(socket) = std::mem::replace(&mut self.socket, Socket::Lost)
        {
            self.socket = Socket::Registered(TcpStream::from_std(std::net::TcpStream::from(socket))?);
        }
        match &mut self.socket {
            Socket::Registered(stream) => Ok(stream),
            Socket::Alone(_) | Socket::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The connection as the runtime has it. What it has begun to say must not have been asked for.
    pub fn into_stream(mut self) -> io::Result<TcpStream> {
        self.registered()?;
        match self.socket {
            Socket::Registered(stream) => Ok(stream),
            Socket::Alone(_) | Socket::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The socket alone; the runtime forgets it.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        match self.socket {
            Socket::Alone(socket) => Ok(socket),
            Socket::Registered(stream) => Ok(stream.into_std()?.into()),
            Socket::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.begun.is_empty() {
            return self.poll_socket(cx, buffer);
        }
        let length = self.begun.len().min(buffer.remaining());
        buffer.put_slice(self.begun.get(..length).unwrap_or_default());
        self.begun.drain(..length);
        if self.begun.is_empty() {
            self.begun = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Socket::Alone(socket) = &self.socket {
            match send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                written => return Poll::Ready(Ok(written?)),
            }
        }
        Pin::new(self.registered()?).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.registered()?).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing is kept back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.registered()?).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A listener, and a client that has connected and said this.
    async fn met(said: &[u8]) -> (Tcp, TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(said).await.unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        (Tcp::new(accepted.into()), client)
    }

    fn is_alone(tcp: &Tcp) -> bool {
        matches!(tcp.socket, Socket::Alone(_))
    }

    #[tokio::test]
    async fn whoever_speaks_at_once_is_heard_and_answered_without_the_runtime() {
        let (mut tcp, mut client) = met(b"GET / HTTP/1.1\r\n").await;
        assert!(tcp.hear().await.unwrap());
        assert_eq!(tcp.begun(), b"GET / HTTP/1.1\r\n");
        let mut four = [0; 4];
        tcp.read_exact(&mut four).await.unwrap();
        assert_eq!((&four, tcp.begun()), (b"GET ", &b"/ HTTP/1.1\r\n"[..]));
        tcp.write_all(b"200").await.unwrap();
        assert!(is_alone(&tcp));
        let fd = tcp.into_fd().unwrap();
        rustix::net::send(&fd, b" OK", SendFlags::empty()).unwrap();
        drop(fd);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "200 OK");
    }

    #[tokio::test]
    async fn whoever_speaks_later_is_waited_for() {
        let (mut tcp, mut client) = met(b"P").await;
        assert!(tcp.hear().await.unwrap() && is_alone(&tcp));
        let (heard, sent) = tokio::join!(tcp.hear(), client.write_all(b"RI"));
        sent.unwrap();
        assert!(heard.unwrap());
        assert!(!is_alone(&tcp));
        client.shutdown().await.unwrap();
        assert!(!tcp.hear().await.unwrap());
        let mut all = Vec::new();
        tcp.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"PRI");
    }

    #[tokio::test]
    async fn a_socket_that_is_full_is_waited_for() {
        let (mut tcp, mut client) = met(b"").await;
        let much = vec![b'x'; 16 << 20];
        let read = tokio::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.map(|_| all.len())
        });
        tcp.write_all(&much).await.unwrap();
        assert!(!is_alone(&tcp));
        tcp.shutdown().await.unwrap();
        assert_eq!(read.await.unwrap().unwrap(), much.len());
    }
}
