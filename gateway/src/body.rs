//! How the bytes leave, for now: a streaming body that hyper polls.
//!
//! What is sent next is decided in [`crate::subscriber`]; this only waits, for news, for the stream behind the Log, for the
//! next heartbeat, and hands out what it is given.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::channel::{Behind, LiveChannel, Share};
use crate::chunk::Chunk;
use crate::end::EndReason;
use crate::farewell::jittered;
use crate::frame;
use crate::metrics::GapReason;
use crate::relay::now;
use crate::resume::Seated;
use crate::subscriber::{Step, Subscriber};

/// What leaves in one piece, beyond the first frame: some hundred small events, four TLS records.
const BUDGET: usize = 64 << 10;

/// The body of one event stream.
pub struct EventStream {
    share: Share,
    subscriber: Subscriber,
    opening: VecDeque<Bytes>,
    behind: Option<BoxFuture<'static, Arc<Chunk>>>,
    timer: Pin<Box<Sleep>>,
    written: Instant,
    /// Draws when the stream ends once the gateway leaves.
    lot: f64,
    /// Whether everything so far was sent: what comes next is live.
    live: bool,
    end: Option<EndReason>,
}

// === impl EventStream ===

impl EventStream {
    /// Opens the stream of a subscriber.
    pub fn new(share: Share, seated: Seated) -> Self {
        share.channel().metrics.stream_opened();
        let timer = Box::pin(tokio::time::sleep(share.channel().heartbeat()));
        Self {
            share,
            subscriber: seated.subscriber,
            opening: seated.opening.into(),
            behind: None,
            timer,
            written: Instant::now(),
            lot: rand::random(),
            live: false,
            end: None,
        }
    }

    fn channel(&self) -> &Arc<LiveChannel> {
        self.share.channel()
    }

    /// The next bytes, if there are any now; the end of the stream if it has ended.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(bytes) = self.opening.pop_front() {
            return Poll::Ready(Some(bytes));
        }
        if self.end.is_some() {
            return Poll::Ready(None);
        }
        let instant = Instant::now();
        let leaves_at = self.channel().farewell().at(self.lot);
        if leaves_at.is_some_and(|at| at <= instant) {
            return Poll::Ready(Some(self.last_words(EndReason::Shutdown)));
        }
        let channel = self.share.channel();
        if let Some(reason) = self.subscriber.check(instant, channel.version(), || channel.route()) {
            return Poll::Ready(Some(self.last_words(reason)));
        }
        if let Some(behind) = &mut self.behind
            && let Poll::Ready(chunk) = behind.poll_unpin(cx)
        {
            self.behind = None;
            if let Some(gap) = self.subscriber.take(chunk) {
                self.channel().metrics.gap(GapReason::Expired);
                return Poll::Ready(Some(gap));
            }
        }
        match self.step(cx) {
            Step::Events(batch) => {
                let metrics = &self.channel().metrics;
                metrics.delivered(batch.events, batch.bytes.len() as u64);
                if self.live {
                    metrics.delivery_latency(Duration::from_millis(now().saturating_sub(batch.newest)));
                }
                Poll::Ready(Some(batch.bytes))
            }
            Step::Gap(reason, bytes) => {
                self.channel().metrics.gap(reason);
                Poll::Ready(Some(bytes))
            }
            Step::End(reason) => Poll::Ready(Some(self.last_words(reason))),
            Step::Read { after, floor } => {
                if std::mem::take(&mut self.live) {
                    self.channel().metrics.fell_behind();
                }
                let behind = Behind { topics: self.subscriber.topics().clone(), after, floor };
                self.behind = Some(self.channel().clone().read_behind(behind).boxed());
                self.next(cx)
            }
            Step::Wait => self.rest(cx, leaves_at),
        }
    }

    /// What the Fanout has for us; if that is nothing, it will wake us.
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        let mut fanout = self.share.channel().fanout();
        let step = match (&self.behind, fanout.ended()) {
            (Some(_), Some(reason)) => Step::End(reason),
            (Some(_), None) => Step::Wait,
            (None, _) => self.subscriber.next(&fanout, BUDGET),
        };
        if step == Step::Wait {
            fanout.wait(self.subscriber.cursor(), cx.waker());
        }
        step
    }

    /// Nothing to send: a heartbeat when it is time for one.
    fn rest(&mut self, cx: &mut Context<'_>, leaves_at: Option<Instant>) -> Poll<Option<Bytes>> {
        self.live = self.behind.is_none();
        let heartbeat = self.written + self.channel().heartbeat();
        let due = [leaves_at, self.subscriber.ends_at()].into_iter().flatten().fold(heartbeat, Instant::min);
        // A timer that goes off too early is set anew then: not at every event.
        if self.timer.deadline().into_std() > due {
            self.timer.as_mut().reset(due.into());
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() < due {
                self.timer.as_mut().reset(due.into());
            } else if due == heartbeat {
                return Poll::Ready(Some(self.subscriber.heartbeat()));
            } else {
                // Time to leave, or a token that has expired: both are asked for first of all.
                return self.next(cx);
            }
        }
        Poll::Pending
    }

    fn last_words(&mut self, reason: EndReason) -> Bytes {
        self.end = Some(reason);
        let retry = jittered(self.channel().route().events.retry_milliseconds, rand::random());
        frame::end(reason.as_str(), retry)
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let next = std::task::ready!(self.next(cx));
        if next.is_some() {
            self.written = Instant::now();
        }
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.end.is_some() && self.opening.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let reason = self.end.unwrap_or(EndReason::ClientGone);
        let channel = self.share.channel();
        channel.fanout().leave(self.subscriber.cursor());
        channel.metrics.stream_closed(reason);
        tracing::debug!(channel = channel.key, reason = reason.as_str(), "Stream ended.");
    }
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").field("subscriber", &self.subscriber).finish_non_exhaustive()
    }
}
