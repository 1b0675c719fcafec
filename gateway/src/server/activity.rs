//! Whether a connection is in use, and since when it is not: what decides whom an idle timeout concerns, and who is closed first
//! when connections are short.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;

use crate::server::stream_progress::{self, Progress};

/// The requests of one connection.
#[derive(Debug)]
pub struct Activity {
    accepted: Instant,
    open: AtomicU32,
    /// Milliseconds after `accepted`.
    last_ended: AtomicU64,
}

/// One request, from its head until its answer has been sent or given up.
#[derive(Debug)]
pub struct InUse(Arc<Activity>);

/// An answer's body that keeps its connection in use.
#[derive(Debug)]
pub struct BodyInUse {
    body: Body,
    progress: Option<Arc<Progress>>,
    _in_use: InUse,
}

// === impl Activity ===

impl Activity {
    /// A connection without requests.
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self { accepted: now, open: AtomicU32::new(0), last_ended: AtomicU64::new(0) })
    }

    /// A request has come.
    pub fn begins(self: &Arc<Self>) -> InUse {
        self.open.fetch_add(1, Relaxed);
        InUse(self.clone())
    }

    /// Since when there has been no request; `None` while there is one.
    pub fn idle_since(&self) -> Option<Instant> {
        let since = self.accepted + Duration::from_millis(self.last_ended.load(Relaxed));
        (self.open.load(Relaxed) == 0).then_some(since)
    }

    /// Whether there has been no request for this long.
    pub fn is_idle_for(&self, long: Duration, now: Instant) -> bool {
        self.idle_since().is_some_and(|since| now.saturating_duration_since(since) >= long)
    }
}

// === impl InUse ===

impl InUse {
    /// The same body, and in use until it is gone.
    pub fn until_sent(self, body: Body) -> Body {
        let progress = stream_progress::current().filter(|_| !body.is_end_stream());
        if let Some(progress) = &progress {
            progress.begins();
        }
        Body::new(BodyInUse { body, progress, _in_use: self })
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let Self(activity) = self;
        let after = activity.accepted.elapsed().as_millis();
        activity.last_ended.store(u64::try_from(after).unwrap_or(u64::MAX), Relaxed);
        activity.open.fetch_sub(1, Relaxed);
    }
}

// === impl BodyInUse ===

impl http_body::Body for BodyInUse {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(progress) = &self.progress {
            progress.asked(matches!(polled, Poll::Ready(Some(_))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for BodyInUse {
    fn drop(&mut self) {
        if let Some(progress) = &self.progress {
            progress.ends();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_once_its_last_answer_is_gone() {
        let activity = Activity::new(Instant::now());
        let second = Duration::from_secs(1);
        tokio::time::advance(second).await;
        assert!(activity.is_idle_for(second, Instant::now()), "it has not asked for anything yet");
        let (one, two) = (activity.begins(), activity.begins());
        let body = one.until_sent(Body::empty());
        drop(two);
        assert_eq!(activity.idle_since(), None);
        tokio::time::advance(second).await;
        drop(body);
        assert_eq!(activity.idle_since(), Some(Instant::now()));
        assert!(!activity.is_idle_for(second, Instant::now()));
        tokio::time::advance(second).await;
        assert!(activity.is_idle_for(second, Instant::now()));
    }
}
