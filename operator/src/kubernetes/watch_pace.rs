//! A pause between watches that end at once: a layer over every request to the API server.
//!
//! kube's watcher begins the next watch as soon as one has ended in order. An API server, or a proxy before it, that answers
//! with 200 and nothing is asked again a hundred thousand times in four seconds that way. Here one watch follows another of
//! the same kind after a second at the soonest; what is not a watch passes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Uri};
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::runtime::metrics::Metrics;

/// Between the beginnings of two watches of one kind. A watch that works lasts fifty of it.
const PAUSE: Duration = Duration::from_secs(1);

/// Paces watches.
#[derive(Clone)]
pub struct WatchPace {
    begun: Arc<Mutex<BTreeMap<String, Instant>>>,
    metrics: Arc<Metrics>,
}

/// A client's service behind a [`WatchPace`].
#[derive(Clone)]
pub struct Paced<S> {
    inner: S,
    pace: WatchPace,
}

// === impl WatchPace ===

impl WatchPace {
    /// Nothing was watched yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { begun: Arc::default(), metrics }
    }

    /// How long a request has to wait from `now` on. The kinds are few: one for each thing that is followed.
    fn wait(&self, uri: &Uri, now: Instant) -> Option<Duration> {
        let kind = kind(uri)?;
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let at = begun.get(&kind).map_or(now, |last| (*last + PAUSE).max(now));
        begun.insert(kind, at);
        (at > now).then(|| at - now)
    }
}

impl<S> Layer<S> for WatchPace {
    type Service = Paced<S>;

    fn layer(&self, inner: S) -> Paced<S> {
        Paced { inner, pace: self.clone() }
    }
}

/// What is watched: the address without the place where the watch begins. `None` for what is no watch.
fn kind(uri: &Uri) -> Option<String> {
    let parts: Vec<&str> = uri.query()?.split('&').collect();
    let watch = parts.iter().any(|part| matches!(*part, "watch=true" | "watch=1"));
    let rest: Vec<&str> = parts.into_iter().filter(|part| !part.starts_with("resourceVersion=")).collect();
    watch.then(|| format!("{}?{}", uri.path(), rest.join("&")))
}

// === impl Paced ===

impl<S, B> Service<Request<B>> for Paced<S>
where
    S: Service<Request<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let wait = self.pace.wait(request.uri(), Instant::now());
        // Nothing is sent before it is polled.
        let answer = self.inner.call(request);
        let Some(wait) = wait else { return Box::pin(answer) };
        self.pace.metrics.watch_paused();
        Box::pin(async move {
            tokio::time::sleep(wait).await;
            answer.await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::watch::{Told, Watch};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::Api;
    use kube::client::{Body, ClientBuilder};
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_brings_nothing_is_repeated_once_a_second() {
        let (asked, metrics) = (Arc::new(AtomicU64::new(0)), Arc::new(Metrics::new()));
        let counted = Arc::clone(&asked);
        let server = tower::service_fn(move |request: Request<Body>| {
            let counted = Arc::clone(&counted);
            async move {
                let list =
                    r#"{"apiVersion":"v1","kind":"ConfigMapList","metadata":{"resourceVersion":"1"},"items":[]}"#;
                let body = if kind(request.uri()).is_some() {
                    counted.fetch_add(1, Ordering::Relaxed);
                    Body::empty()
                } else {
                    Body::from(list.as_bytes().to_vec())
                };
                Ok::<_, Infallible>(http::Response::new(body))
            }
        });
        let client = ClientBuilder::new(server, "default").with_layer(&WatchPace::new(Arc::clone(&metrics))).build();
        let watch = Watch::<ConfigMap> { api: Api::default_namespaced(client), what: "routes", labels: "a=b".into() };
        let (to, mut told) = tokio::sync::mpsc::channel(16);
        let following = tokio::spawn(watch.follow(Arc::clone(&metrics), to, |told: Told<ConfigMap>| told));
        assert!(told.recv().await.is_some());
        tokio::time::sleep(Duration::from_secs(30)).await;
        following.abort();
        let asked = asked.load(Ordering::Relaxed);
        assert!((29..=32).contains(&asked), "{asked} watches in 30 seconds");
        assert!(metrics.text().contains("tidings_operator_watch_pauses_total 3") || asked < 31, "{}", metrics.text());
    }

    #[test]
    fn only_watches_of_one_kind_wait_for_each_other() {
        let (pace, now) = (WatchPace::new(Arc::default()), Instant::now());
        let wait = |uri: &str| pace.wait(&uri.parse().unwrap(), now);
        assert_eq!(wait("/api/v1/configmaps?labelSelector=a&watch=true&resourceVersion=1"), None);
        assert_eq!(wait("/api/v1/configmaps?labelSelector=a&watch=true&resourceVersion=2"), Some(PAUSE));
        assert_eq!(wait("/api/v1/configmaps?labelSelector=b&watch=true&resourceVersion=1"), None);
        assert_eq!(wait("/api/v1/configmaps?labelSelector=a"), None);
        assert_eq!(wait("/api/v1/configmaps"), None);
    }
}
