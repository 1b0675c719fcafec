//! The admin port: `/livez`, `/readyz`, `/metrics`. Plain HTTP/1.1, for probes and scrapers.
//!
//! It reports what others decided and changes nothing.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tidings_process::listen::Listen;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::runtime::metrics::Metrics;
use crate::runtime::readiness::Ready;

/// A probe sends its few header bytes at once; who takes longer holds one of [`MOST_CONNECTIONS`].
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest one connection lives, kept alive or not.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);

/// A kubelet, two scrapers and some people at a time; each costs at most some 16 KiB of buffers.
const MOST_CONNECTIONS: usize = 64;

/// The bound admin port.
pub struct Admin {
    listener: TcpListener,
    metrics: Arc<Metrics>,
    ready: Arc<Ready>,
}

// === impl Admin ===

impl Admin {
    /// Binds the port.
    ///
    /// # Errors
    /// When the address is taken or not this machine's.
    pub async fn bind(listen: &Listen, metrics: Arc<Metrics>, ready: Arc<Ready>) -> io::Result<Self> {
        let mut last = io::Error::other("the host has no address to listen on");
        for address in listen.candidates() {
            match TcpListener::bind(address).await {
                Ok(listener) => return Ok(Self { listener, metrics, ready }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until shutdown.
    pub async fn serve(self, shutdown: CancellationToken) {
        if let Ok(address) = self.address() {
            info!(%address, "Listening on the admin port.");
        }
        let free = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "Failed to accept on the admin port.");
                    // Out of file descriptors lasts; a tight loop would only add to it.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&free).try_acquire_owned() else { continue };
            let (metrics, ready, shutdown) = (Arc::clone(&self.metrics), Arc::clone(&self.ready), shutdown.clone());
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let answer = answer(&request, &metrics, &ready);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .max_headers(64)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection) => {}
                    () = shutdown.cancelled() => {}
                }
                drop(permit);
            });
        }
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics, ready: &Ready) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned());
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match ready.missing() {
            missing if missing.is_empty() => text(StatusCode::OK, "ok\n".to_owned()),
            missing => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", "))),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, metrics.text());
            let kind = header::HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        _ => text(StatusCode::NOT_FOUND, "there is /livez, /readyz and /metrics\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
