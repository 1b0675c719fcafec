//! Serving one connection: HTTP/1.1 or HTTP/2, whichever the client begins with, within limits of time and size.
//!
//! Generic over the transport: TLS may stand in front of it.

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::metrics::registry::{ConnectionFault, Handshake};
use crate::server::activity::Activity;
use crate::server::connection_limit::ConnectionLimits;
use crate::server::reset_budget::{Credit, MAX_STREAMS};
use crate::server::stream_progress::StreamExecutor;
use crate::server::tcp::Tcp;
use crate::server::tls::Tls;
use crate::server::upgrade::{Offer, TakeSocket};

/// How connections are served; one for all connections of a port.
pub struct Protocol {
    http1: http1::Builder,
    http2: http2::Builder<StreamExecutor>,
    header_timeout: Duration,
    idle_timeout: Duration,
    /// Whether sockets with an event stream are given away.
    hands_over: bool,
}

/// How a connection ended, if not by a fault.
#[derive(Debug)]
pub enum Served<T> {
    /// It is closed.
    Closed,
    /// It goes on as a socket that something else takes.
    Upgraded(T, TakeSocket),
}

/// A transport that tells an offer whether it takes bytes.
struct Watched<T> {
    inner: T,
    offer: Offer,
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1, or 1.0.
    One,
    /// HTTP/2.
    Two,
}

/// What every HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// When a port's connections are to end.
#[derive(Clone, Debug, Default)]
pub struct Departure {
    /// From now on every answer is the last one of its connection: what reconnects, reconnects elsewhere.
    pub last: CancellationToken,
    /// No further connection, no further request.
    pub close: CancellationToken,
    /// Connections are short: those that are not in use make room.
    pub shed: Arc<Notify>,
}

/// What one HTTP/2 stream may have unsent in memory; a slow reader waits in its cursor, not here.
const MAX_SEND_BYTES: usize = 64 << 10;

/// What a client may send ahead on one HTTP/2 stream, and on all streams of a connection.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;

/// An HTTP/2 peer that does not answer a ping within this time, asked after as long a silence, is gone.
const PING: Duration = Duration::from_secs(20);

/// How long a connection without requests has to be so before it makes room for others.
const SHED_AFTER: Duration = Duration::from_secs(1);

/// How long a connection without requests may take to close. HTTP/2 waits for the peer's acknowledgement.
const CLOSING: Duration = Duration::from_secs(5);

// === impl Protocol ===

impl Protocol {
    /// Serves within these limits.
    pub fn new(limits: &ConnectionLimits) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            // hyper starts this clock when the previous response has ended, so it is the idle timeout as well.
            .header_read_timeout(limits.idle_timeout)
            // Whoever has asked and says no more still gets an answer. And nobody looks whether there is more to read, while
            // the answer is made: the socket may be given away with it.
            .half_close(true)
            .max_buf_size(limits.header_bytes as usize);
        let mut http2 = http2::Builder::new(StreamExecutor::new(limits.write_timeout));
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(limits.header_bytes)
            .max_concurrent_streams(MAX_STREAMS)
            .max_send_buf_size(MAX_SEND_BYTES)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        Self {
            http1,
            http2,
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            hands_over: false,
        }
    }

    /// The same, but HTTP/1.1 connections are given away once they carry an event stream.
    pub fn handing_over(self) -> Self {
        Self { hands_over: true, ..self }
    }

    /// Serves a TCP connection to its end, with what it begins to speak.
    pub async fn serve_tcp(
        &self,
        mut tcp: Tcp,
        peer: SocketAddr,
        router: Router,
        departure: Departure,
    ) -> Result<Served<Tcp>, ConnectionFault> {
        let deadline = Instant::now() + self.header_timeout;
        let version = tokio::select! {
            // Of what is there, the request counts first: in a storm it is we who are late.
            biased;
            version = version(&mut tcp) => version,
            () = tokio::time::sleep_until(deadline) => return Err(ConnectionFault::HeaderTimeout),
            () = departure.close.cancelled() => return Ok(Served::Closed),
        };
        match version {
            Ok(Some(version)) => self.serve(tcp, version, deadline, peer, router, departure).await,
            Ok(None) => Ok(Served::Closed),
            Err(error) => io_fault(&error).map(|()| Served::Closed),
        }
    }

    /// Serves a TCP connection to its end, with what is agreed on in the TLS handshake (RFC 7301).
    pub async fn serve_tls(
        &self,
        tcp: Tcp,
        tls: &Tls,
        peer: SocketAddr,
        router: Router,
        departure: Departure,
    ) -> Result<Served<TlsStream<TcpStream>>, ConnectionFault> {
        let deadline = Instant::now() + self.header_timeout;
        let stream = tcp.into_stream().map_err(|_| ConnectionFault::Io)?;
        let stream = tokio::select! {
            shaken = tls.accept(stream, deadline) => match shaken {
                Ok(stream) => stream,
                // A probe that only connects is no fault.
                Err(Handshake::Gone) => return Ok(Served::Closed),
                Err(_) => return Err(ConnectionFault::Handshake),
            },
            () = departure.close.cancelled() => return Ok(Served::Closed),
        };
        let version = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Version::Two,
            _ => Version::One,
        };
        self.serve(stream, version, deadline, peer, router, departure).await
    }

    /// Serves a connection to its end, or until it is handed over.
    ///
    /// The first request head has to be there at the deadline, whatever the protocol: an HTTP/2 preface with nothing
    /// behind it would be waited for for ever otherwise.
    pub async fn serve<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        io: T,
        version: Version,
        deadline: Instant,
        peer: SocketAddr,
        router: Router,
        departure: Departure,
    ) -> Result<Served<T>, ConnectionFault> {
        let asked = Arc::new(AtomicBool::new(false));
        let credit = (version == Version::Two).then(Credit::new);
        let activity = Activity::new(Instant::now());
        let offer = Offer::default();
        let service = {
            let (asked, credit, offer, activity) = (asked.clone(), credit.clone(), offer.clone(), activity.clone());
            let offers = self.hands_over && version == Version::One;
            service_fn(move |mut request: Request<Incoming>| {
                asked.store(true, Relaxed);
                request.extensions_mut().insert(ConnectInfo(peer));
                if offers {
                    request.extensions_mut().insert(offer.clone());
                }
                let debt = credit.as_ref().map(Credit::ask);
                let asked = request.version();
                let in_use = activity.begins();
                let answer = router.clone().oneshot(request.map(Body::new));
                let offer = offer.clone();
                // hyper keeps room for this future as long as the connection lives: a pointer instead of 5 kB.
                Box::pin(async move {
                    let answer = answer.await?;
                    if let Some(debt) = debt {
                        debt.pay();
                    }
                    if offer.settle(&answer, asked) {
                        // What was to be written is on its way elsewhere, and this connection about to be taken apart.
                        std::future::pending::<()>().await;
                    }
                    // On HTTP/1.1 hyper reads no further request before this answer is sent, and what streams is given away.
                    Ok::<_, Infallible>(match version {
                        Version::One => answer,
                        Version::Two => answer.map(|body| in_use.until_sent(body)),
                    })
                })
            })
        };
        let limits = Limits {
            asked: &asked,
            activity: &activity,
            deadline,
            // hyper has a clock of its own for HTTP/1.1.
            idle: (version == Version::Two).then_some(self.idle_timeout),
        };
        match version {
            Version::One => {
                let io = TokioIo::new(Watched { inner: io, offer: offer.clone() });
                let mut connection = self.http1.serve_connection(io, service);
                let close = |one: Pin<&mut _>| http1::Connection::graceful_shutdown(one);
                match drive(Pin::new(&mut connection), close, &offer, limits, departure).await? {
                    None => Ok(Served::Closed),
                    Some(take) => Ok(Served::Upgraded(connection.into_parts().io.into_inner().inner, take)),
                }
            }
            Version::Two => {
                // On the heap, or the many HTTP/1.1 connections would have room for it as well.
                let mut connection = Box::pin(self.http2.serve_connection(TokioIo::new(io), service));
                let close = |two: Pin<&mut _>| http2::Connection::graceful_shutdown(two);
                within(drive(connection.as_mut(), close, &offer, limits, departure), credit).await
            }
        }
    }
}

// === impl Served ===

impl<T> Served<T> {
    /// The same, with something else made of the connection.
    pub fn map<U>(self, made: impl FnOnce(T) -> U) -> Served<U> {
        match self {
            Self::Closed => Served::Closed,
            Self::Upgraded(connection, take) => Served::Upgraded(made(connection), take),
        }
    }
}

// === impl Watched ===

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

/// hyper goes on writing and flushing until nothing is left or the transport says "not now": the one that was told so last has
/// something left.
impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.offer.blocked(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.offer.blocked(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.offer.blocked(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// What the client begins with; `None` if it leaves without a word. The bytes stay to be read.
async fn version(tcp: &mut Tcp) -> io::Result<Option<Version>> {
    loop {
        let begun = tcp.begun();
        if begun.starts_with(PREFACE) {
            return Ok(Some(Version::Two));
        }
        if !PREFACE.starts_with(begun) {
            return Ok(Some(Version::One));
        }
        if !tcp.hear().await? {
            return Ok(None);
        }
    }
}

/// What the clock of a connection counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// To the first request head.
    First,
    /// Between requests.
    Later,
    /// Nothing any more.
    Unlimited,
    /// To the end of one that was asked to close.
    Closing,
}

/// What ends a connection that does nothing.
struct Limits<'c> {
    /// Whether it has asked for anything.
    asked: &'c AtomicBool,
    activity: &'c Activity,
    /// For the first request head.
    deadline: Instant,
    /// Between requests, where the protocol's own code does not count it.
    idle: Option<Duration>,
}

// === impl Limits ===

impl Limits<'_> {
    /// When to look next; `None` if the connection has been idle for too long.
    fn next_look(&self, idle: Duration, now: Instant) -> Option<Instant> {
        match self.activity.idle_since() {
            None => Some(now + idle),
            Some(since) => Some(since + idle).filter(|at| *at > now),
        }
    }

    /// Whether it makes room where connections are short. One that has just come or just been answered may be about to ask.
    fn yields(&self) -> bool {
        self.activity.is_idle_for(SHED_AFTER, Instant::now())
    }
}

/// Polls a connection to its end, or until its offer was taken up; `close` asks it to end after the open requests.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut C>,
    close: impl Fn(Pin<&mut C>),
    offer: &Offer,
    limits: Limits<'_>,
    departure: Departure,
) -> Result<Option<TakeSocket>, ConnectionFault> {
    // One clock for all: the first head, then how long it is idle, then how long it may take to close.
    let mut clock = std::pin::pin!(tokio::time::sleep_until(limits.deadline));
    let mut stage = Stage::First;
    let (mut last, mut closing) = (false, false);
    loop {
        tokio::select! {
            // A head that is there is read before its deadline is looked at.
            biased;
            ended = poll_fn(|cx| polled(connection.as_mut(), offer, cx)) => return match ended {
                Ended::Upgraded(take) => Ok(Some(take)),
                Ended::Closed(ended) => fault(ended, limits.asked.load(Relaxed)).map(|()| None),
            },
            () = clock.as_mut(), if stage != Stage::Unlimited => match stage {
                Stage::First if !limits.asked.load(Relaxed) => return Err(ConnectionFault::HeaderTimeout),
                Stage::First | Stage::Later => {
                    let now = Instant::now();
                    stage = Stage::Later;
                    match limits.idle.map(|idle| limits.next_look(idle, now)) {
                        None => stage = Stage::Unlimited,
                        Some(Some(at)) => clock.as_mut().reset(at),
                        Some(None) => {
                            close(connection.as_mut());
                            stage = Stage::Closing;
                            clock.as_mut().reset(now + CLOSING);
                        }
                    }
                }
                // It does not close by itself, and nothing is lost with it.
                Stage::Closing => return Ok(None),
                Stage::Unlimited => {}
            },
            // One that has not asked yet still gets its answer; the handler then closes it.
            () = departure.last.cancelled(), if !last => {
                last = true;
                if limits.asked.load(Relaxed) {
                    close(connection.as_mut());
                }
            }
            () = departure.close.cancelled(), if !closing => {
                closing = true;
                close(connection.as_mut());
            }
            () = departure.shed.notified(), if stage != Stage::Closing => {
                if limits.yields() {
                    close(connection.as_mut());
                    stage = Stage::Closing;
                    clock.as_mut().reset(Instant::now() + CLOSING);
                }
            }
        }
    }
}

/// Drives an HTTP/2 connection to its end, or until it has taken back too much.
async fn within<T>(
    driven: impl Future<Output = Result<Option<TakeSocket>, ConnectionFault>>,
    credit: Option<Arc<Credit>>,
) -> Result<Served<T>, ConnectionFault> {
    let Some(credit) = credit else { return driven.await.map(|_| Served::Closed) };
    tokio::select! {
        ended = driven => ended.map(|_| Served::Closed),
        () = credit.used_up() => Err(ConnectionFault::Resets),
    }
}

/// How polling a connection ends.
enum Ended {
    Closed(hyper::Result<()>),
    Upgraded(TakeSocket),
}

fn polled<C: Future<Output = hyper::Result<()>>>(
    connection: Pin<&mut C>,
    offer: &Offer,
    cx: &mut Context<'_>,
) -> Poll<Ended> {
    match connection.poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Ended::Closed(ended)),
        Poll::Pending => offer.settled().map_or(Poll::Pending, |take| Poll::Ready(Ended::Upgraded(take))),
    }
}

/// Clients come and go in every way; only what is not HTTP, came too late or broke is a fault.
fn fault(ended: hyper::Result<()>, asked: bool) -> Result<(), ConnectionFault> {
    let Err(error) = ended else { return Ok(()) };
    if error.is_timeout() {
        return if asked { Ok(()) } else { Err(ConnectionFault::HeaderTimeout) };
    }
    if error.is_parse() {
        return Err(ConnectionFault::Protocol);
    }
    if error.is_incomplete_message() || error.is_canceled() {
        return Ok(());
    }
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return io_fault(error);
        }
        cause = error.source();
    }
    Err(ConnectionFault::Protocol)
}

fn io_fault(error: &io::Error) -> Result<(), ConnectionFault> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, UnexpectedEof};
    match error.kind() {
        ConnectionReset | BrokenPipe | UnexpectedEof | NotConnected => Ok(()),
        _ => Err(ConnectionFault::Io),
    }
}
