//! A streaming body that hyper polls: how the bytes leave over HTTP/2, and wherever the socket cannot be handed over.
//!
//! What is sent next is decided in [`crate::channel::event_stream`]; this only waits, for news, for the stream behind the Log,
//! for the next heartbeat, and hands out what it is given.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body::{Body, SizeHint};
use tokio::time::Sleep;

use crate::channel::event_stream::{Stream, Turn, age};
use crate::channel::relay::now as wall;
use crate::log::chunk::Chunk;
use crate::log::chunked::Frame;
use crate::log::end_reason::EndReason;
use crate::server::stream_progress;

/// The body of one event stream.
pub struct EventStream {
    stream: Stream,
    opening: VecDeque<Frame>,
    behind: Option<BoxFuture<'static, Option<Arc<Chunk>>>>,
    timer: Pin<Box<Sleep>>,
}

// === impl EventStream ===

impl EventStream {
    /// The body of this stream, which begins with `opening`.
    pub fn new(stream: Stream, opening: Vec<Frame>) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(stream.due().into()));
        Self { stream, opening: opening.into(), behind: None, timer }
    }

    /// The next bytes, if there are any now; the end of the stream if it has ended.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(bytes) = self.opening.pop_front() {
            return Poll::Ready(Some(bytes.text()));
        }
        loop {
            if let Some(behind) = &mut self.behind
                && let Poll::Ready(chunk) = behind.poll_unpin(cx)
            {
                self.behind = None;
                self.stream.take(chunk);
            }
            match self.turn(cx) {
                Turn::Events(events) => {
                    let metrics = &self.stream.channel().metrics;
                    metrics.delivered(events.batch.events, events.batch.bytes.len() as u64);
                    if events.live {
                        metrics.delivery_latency(age(&events.batch, wall()), 1);
                    }
                    return Poll::Ready(Some(events.batch.bytes.text()));
                }
                Turn::Control(bytes) => return Poll::Ready(Some(bytes.text())),
                Turn::Over => return Poll::Ready(None),
                Turn::Read(behind) => self.behind = Some(self.stream.channel().clone().read_behind(behind).boxed()),
                Turn::Wait => std::task::ready!(self.rest(cx)),
            }
        }
    }

    /// What there is to do; if that is nothing, the channel will wake us.
    fn turn(&mut self, cx: &mut Context<'_>) -> Turn {
        let channel = self.stream.channel().clone();
        let mut fanout = channel.fanout();
        let now = Instant::now();
        let turn = self.stream.turn(&fanout, now, now);
        if matches!(turn, Turn::Wait) {
            fanout.wait(self.stream.subscriber().cursor(), cx.waker());
        }
        turn
    }

    /// Ready when it is time to look again.
    fn rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.stream.due().into();
        // A timer that goes off too early is set again then: not at every event.
        if self.timer.deadline() > due {
            self.timer.as_mut().reset(due);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due.into_std() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        self.next(cx).map(|next| next.map(|bytes| Ok(http_body::Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_over() && self.opening.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        if stream_progress::is_slow() {
            self.stream.cut(EndReason::Slow);
        }
    }
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").field("stream", &self.stream).finish_non_exhaustive()
    }
}
