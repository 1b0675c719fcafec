//! Keeps watches apart. kube's watcher begins a watch again as soon as one has ended without an error, and an API server, or
//! a proxy in front of it, can end each at once, with 200 and nothing in it.
//!
//! The watcher shows nothing of such a watch, so the pause is where its requests pass.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use http::Request;
use kube::client::Body;
use parking_lot::Mutex;
use tower::{Layer, Service};
use tracing::warn;

use crate::metrics::registry::Metrics;
use crate::runtime::pace::Pace;

/// A watch lasts for [`super::config_maps`]' time; one that lasts a fifth of it is none that ends at once.
const PACE: Pace = Pace::new(Duration::from_millis(100), Duration::from_secs(5), Duration::from_secs(9));

/// Paces the watches of one client; its other requests pass.
#[derive(Clone, Debug)]
pub(super) struct PacedWatch {
    pace: Arc<Mutex<Pace>>,
    metrics: Arc<Metrics>,
}

/// A client's service, paced.
#[derive(Clone, Debug)]
pub(super) struct Paced<S> {
    inner: S,
    by: PacedWatch,
}

// === impl PacedWatch ===

impl PacedWatch {
    /// Counts watches.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { pace: Arc::new(Mutex::new(PACE)), metrics }
    }

    /// How long a watch that would begin now has to wait.
    fn pause(&self) -> Duration {
        let mut pace = self.pace.lock();
        let before = pace.is_slowest();
        let pause = pace.next(Instant::now());
        self.metrics.watch_begins(!pause.is_zero());
        if pace.is_slowest() && !before {
            warn!(?pause, "The API server ends watches of Routes immediately; retrying with pauses.");
        }
        pause
    }
}

impl<S> Layer<S> for PacedWatch {
    type Service = Paced<S>;

    fn layer(&self, inner: S) -> Paced<S> {
        Paced { inner, by: self.clone() }
    }
}

// === impl Paced ===

impl<S> Service<Request<Body>> for Paced<S>
where
    S: Service<Request<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let pause = if is_watch(&request) { self.by.pause() } else { Duration::ZERO };
        // A future does nothing before it is polled.
        let answer = self.inner.call(request);
        Box::pin(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            answer.await
        })
    }
}

fn is_watch(request: &Request<Body>) -> bool {
    request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"))
}
