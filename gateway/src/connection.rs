//! Serving one connection: HTTP/1.1 or HTTP/2, whichever the client begins with, within limits of time and size.
//!
//! Generic over the transport, so that TLS can stand in front of it.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::config::ConnectionLimits;
use crate::metrics::ConnectionFault;
use crate::reply::Reply;

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn handle(&self, request: Request<Incoming>, peer: SocketAddr) -> impl Future<Output = Reply> + Send;
}

/// How connections are served; one for all connections of a port.
pub struct Protocol {
    builder: auto::Builder<TokioExecutor>,
    header_timeout: Duration,
}

/// When a port's connections are to end.
#[derive(Clone, Debug, Default)]
pub struct Departure {
    /// From now on every answer is the last one of its connection: what reconnects, reconnects elsewhere.
    pub last: CancellationToken,
    /// No further connection, no further request.
    pub close: CancellationToken,
}

/// Streams on one HTTP/2 connection; proxies open another connection for more.
const MAX_STREAMS: u32 = 250;

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
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // hyper starts this clock when the previous response has ended, so it is the idle timeout as well.
            .header_read_timeout(limits.idle_timeout)
            .max_buf_size(limits.header_bytes as usize);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(limits.header_bytes)
            .max_concurrent_streams(MAX_STREAMS)
            .max_send_buf_size(MAX_SEND_BYTES)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        Self { builder, header_timeout: limits.header_timeout }
    }

    /// Serves a connection to its end.
    ///
    /// The first request head has to arrive in time, whatever the protocol: a connection that sends nothing, or an
    /// HTTP/2 preface and nothing more, would be waited for for ever otherwise.
    pub async fn serve<H: Handler>(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: SocketAddr,
        handler: Arc<H>,
        departure: Departure,
    ) -> Result<(), ConnectionFault> {
        let asked = Arc::new(AtomicBool::new(false));
        let service = {
            let asked = asked.clone();
            service_fn(move |request| {
                asked.store(true, Relaxed);
                let handler = handler.clone();
                async move { Ok::<_, Infallible>(handler.handle(request, peer).await) }
            })
        };
        let mut connection = std::pin::pin!(self.builder.serve_connection(TokioIo::new(io), service));
        let mut first = std::pin::pin!(tokio::time::sleep(self.header_timeout));
        let (mut waited, mut last, mut closing) = (false, false, false);
        loop {
            tokio::select! {
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
                        connection.as_mut().graceful_shutdown();
                    }
                }
                () = departure.close.cancelled(), if !closing => {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Clients come and go in every way; only what is not HTTP, came too late or broke is a fault.
fn fault(ended: Result<(), Box<dyn Error + Send + Sync>>, asked: bool) -> Result<(), ConnectionFault> {
    let Err(error) = ended else { return Ok(()) };
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        if error.is_timeout() {
            return if asked { Ok(()) } else { Err(ConnectionFault::HeaderTimeout) };
        }
        if error.is_parse() {
            return Err(ConnectionFault::Protocol);
        }
        if error.is_incomplete_message() || error.is_canceled() {
            return Ok(());
        }
    }
    let mut cause: Option<&(dyn Error + 'static)> = Some(error.as_ref());
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return match io.kind() {
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::NotConnected
                | io::ErrorKind::Interrupted => Ok(()),
                _ => Err(ConnectionFault::Io),
            };
        }
        cause = error.source();
    }
    Err(ConnectionFault::Protocol)
}
