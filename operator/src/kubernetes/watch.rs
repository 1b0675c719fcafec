//! Follows one kind of objects, and passes on what the API server tells, for as long as the operator runs.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kube::api::Api;
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use serde::de::DeserializeOwned;
use tidings_process::error_chain::chain;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::runtime::metrics::Metrics;

/// A watch ends after so many seconds and begins again: one on a half-open connection costs no more than that.
const WATCH_SECONDS: u32 = 50;

/// The first pause after a failure; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Short enough that work goes on soon after the API server is back, long enough for one that struggles.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is followed.
#[derive(Clone, Debug)]
pub struct Watch<K> {
    /// Where.
    pub api: Api<K>,
    /// What it is called in logs.
    pub what: &'static str,
    /// Which of them; empty means all.
    pub labels: String,
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum Told<K> {
    /// About objects.
    Event(watcher::Event<K>),
    /// That it cannot tell anything at present.
    Blind,
}

// === impl Watch ===

impl<K> Watch<K>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Follows until nobody listens any more. `wrap` makes of it what `to` takes.
    pub async fn follow<N>(self, metrics: Arc<Metrics>, to: mpsc::Sender<N>, wrap: impl Fn(Told<K>) -> N) {
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
        if !self.labels.is_empty() {
            config = config.labels(&self.labels);
        }
        let mut told = watcher(self.api, config).backoff(Pauses::default()).boxed();
        let mut trouble: Option<String> = None;
        while let Some(next) = told.next().await {
            let next = match next {
                Ok(event) => {
                    if trouble.take().is_some() {
                        info!(what = self.what, "The API server responds again.");
                    }
                    Told::Event(event)
                }
                Err(error) => {
                    metrics.error("watch");
                    let words = chain(&error);
                    // Once, not with every attempt.
                    if trouble.is_none() {
                        warn!(what = self.what, error = words, "Failed to watch; trying again.");
                    }
                    trouble = Some(words);
                    Told::Blind
                }
            };
            if to.send(wrap(next)).await.is_err() {
                return;
            }
        }
    }
}

/// Pauses that double, half of each left to chance.
#[derive(Debug, Default)]
struct Pauses {
    failures: u32,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        Some(pause.mul_f64(rand::random_range(0.5..=1.0)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.failures = 0;
    }
}
