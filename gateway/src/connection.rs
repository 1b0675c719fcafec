//! Serving one connection: HTTP/1.1 or HTTP/2, whichever the client begins with, within limits of time and size.
//!
//! Generic over the transport: TLS may stand in front of it.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::config::ConnectionLimits;
use crate::credit::Credit;
use crate::metrics::{ConnectionFault, Handshake};
use crate::tls::Tls;

/// How connections are served; one for all connections of a port.
pub struct Protocol {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    header_timeout: Duration,
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

/// How often to look again at a preface that came in pieces: rare, and nothing tells of more bytes that are only peeked at.
const GLANCE: Duration = Duration::from_millis(10);

/// When a port's connections are to end.
#[derive(Clone, Debug, Default)]
pub struct Departure {
    /// From now on every answer is the last one of its connection: what reconnects, reconnects elsewhere.
    pub last: CancellationToken,
    /// No further connection, no further request.
    pub close: CancellationToken,
}

/// Streams on one HTTP/2 connection; proxies open another connection for more.
pub const MAX_STREAMS: u32 = 250;

/// What one HTTP/2 stream may have unsent in memory; a slow reader waits in its cursor, not here.
const MAX_SEND_BYTES: usize = 64 << 10;

/// What a client may send ahead on one HTTP/2 stream, and on all streams of a connection.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;

/// An HTTP/2 peer that does not answer a ping within this time, asked after as long a silence, is gone.
const PING: Duration = Duration::from_secs(20);

// === impl Protocol ===

impl Protocol {
    /// Serves within these limits.
    pub fn new(limits: &ConnectionLimits) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            // hyper starts this clock when the previous response has ended, so it is the idle timeout as well.
            .header_read_timeout(limits.idle_timeout)
            .max_buf_size(limits.header_bytes as usize);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(limits.header_bytes)
            .max_concurrent_streams(MAX_STREAMS)
            .max_send_buf_size(MAX_SEND_BYTES)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        Self { http1, http2, header_timeout: limits.header_timeout }
    }

    /// Serves a TCP connection to its end, with what it begins to speak.
    pub async fn serve_tcp(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        router: Router,
        departure: Departure,
    ) -> Result<(), ConnectionFault> {
        let deadline = Instant::now() + self.header_timeout;
        let version = tokio::select! {
            // Of what is there, the request counts first: in a storm it is we who are late.
            biased;
            version = version(&stream) => version,
            () = tokio::time::sleep_until(deadline) => return Err(ConnectionFault::HeaderTimeout),
            () = departure.close.cancelled() => return Ok(()),
        };
        match version {
            Ok(Some(version)) => self.serve(stream, version, deadline, peer, router, departure).await,
            Ok(None) => Ok(()),
            Err(error) => io_fault(&error),
        }
    }

    /// Serves a TCP connection to its end, with what is agreed on in the TLS handshake (RFC 7301).
    pub async fn serve_tls(
        &self,
        stream: TcpStream,
        tls: &Tls,
        peer: SocketAddr,
        router: Router,
        departure: Departure,
    ) -> Result<(), ConnectionFault> {
        let deadline = Instant::now() + self.header_timeout;
        let stream = tokio::select! {
            shaken = tls.accept(stream, deadline) => match shaken {
                Ok(stream) => stream,
                // A probe that only connects is no fault.
                Err(Handshake::Gone) => return Ok(()),
                Err(_) => return Err(ConnectionFault::Handshake),
            },
            () = departure.close.cancelled() => return Ok(()),
        };
        let version = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Version::Two,
            _ => Version::One,
        };
        self.serve(stream, version, deadline, peer, router, departure).await
    }

    /// Serves a connection to its end.
    ///
    /// The first request head has to be there at the deadline, whatever the protocol: an HTTP/2 preface with nothing
    /// behind it would be waited for for ever otherwise.
    pub async fn serve(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        version: Version,
        deadline: Instant,
        peer: SocketAddr,
        router: Router,
        departure: Departure,
    ) -> Result<(), ConnectionFault> {
        let asked = Arc::new(AtomicBool::new(false));
        let credit = (version == Version::Two).then(Credit::new);
        let service = {
            let (asked, credit) = (asked.clone(), credit.clone());
            service_fn(move |mut request: Request<Incoming>| {
                asked.store(true, Relaxed);
                request.extensions_mut().insert(ConnectInfo(peer));
                let debt = credit.as_ref().map(Credit::ask);
                let answer = router.clone().oneshot(request.map(Body::new));
                // hyper keeps room for this future as long as the connection lives: a pointer instead of 5 kB.
                Box::pin(async move {
                    let answer = answer.await;
                    if let Some(debt) = debt {
                        debt.pay();
                    }
                    answer
                })
            })
        };
        let io = TokioIo::new(io);
        match version {
            Version::One => {
                let connection = std::pin::pin!(self.http1.serve_connection(io, service));
                drive(connection, |one| one.graceful_shutdown(), &asked, deadline, departure).await
            }
            Version::Two => {
                // On the heap, or the many HTTP/1.1 connections would have room for it as well.
                let mut connection = Box::pin(self.http2.serve_connection(io, service));
                let driven = drive(connection.as_mut(), |two| two.graceful_shutdown(), &asked, deadline, departure);
                let Some(credit) = credit else { return driven.await };
                tokio::select! {
                    ended = driven => ended,
                    () = credit.used_up() => Err(ConnectionFault::Resets),
                }
            }
        }
    }
}

/// What the client begins with; `None` if it leaves without a word. The bytes stay where they are: a protocol that is
/// given them a second time would need a buffer of twice the size, on every connection.
async fn version(stream: &TcpStream) -> io::Result<Option<Version>> {
    let mut begin = [0; PREFACE.len()];
    loop {
        let begin = match stream.peek(&mut begin).await? {
            0 => return Ok(None),
            length => begin.get(..length).unwrap_or_default(),
        };
        if begin == PREFACE {
            return Ok(Some(Version::Two));
        }
        if !PREFACE.starts_with(begin) {
            return Ok(Some(Version::One));
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// Polls a connection to its end; `close` asks it to end after the open requests.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut C>,
    close: impl Fn(Pin<&mut C>),
    asked: &AtomicBool,
    deadline: Instant,
    departure: Departure,
) -> Result<(), ConnectionFault> {
    let mut first = std::pin::pin!(tokio::time::sleep_until(deadline));
    let (mut waited, mut last, mut closing) = (false, false, false);
    loop {
        tokio::select! {
            // A head that is there is read before its deadline is looked at.
            biased;
            ended = connection.as_mut() => return fault(ended, asked.load(Relaxed)),
            () = first.as_mut(), if !waited => {
                waited = true;
                if !asked.load(Relaxed) {
                    return Err(ConnectionFault::HeaderTimeout);
                }
            }
            // One that has not asked yet still gets its answer; the handler then closes it.
            () = departure.last.cancelled(), if !last => {
                last = true;
                if asked.load(Relaxed) {
                    close(connection.as_mut());
                }
            }
            () = departure.close.cancelled(), if !closing => {
                closing = true;
                close(connection.as_mut());
            }
        }
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
