//! One open stream, independent of what carries its bytes: what is to be written next, and when it has to be looked at again. No io.
//!
//! Two carriers ask: [`crate::delivery::h2_body`], a streaming body for hyper, and [`crate::delivery::shard`], which owns sockets. A
//! carrier takes a [`Stream::turn`] whenever it can write and something may have changed, and one no later than [`Stream::due`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::channel::drain_schedule::jittered;
use crate::channel::live::{Behind, LiveChannel, Share};
use crate::channel::subscriber::{Step, Subscriber};
use crate::limits::usage::Place;
use crate::log::chunk::Chunk;
use crate::log::chunked::Frame;
use crate::log::end_reason::EndReason;
use crate::log::fanout::Fanout;
use crate::log::feed::Batch;
use crate::log::frame;
use crate::metrics::registry::GapReason;

/// What leaves in one piece, beyond the first frame: some hundred small events, four TLS records.
const BUDGET: usize = 64 << 10;

/// One open stream. Dropping it takes its subscriber away and counts its end.
#[derive(Debug)]
pub struct Stream {
    share: Share,
    subscriber: Subscriber,
    /// The place it takes of the channel's limits.
    _place: Option<Place>,
    /// Whether the stream behind the Log is being read for it.
    reading: bool,
    /// Whether everything so far was sent: what comes next is live.
    live: bool,
    written: Instant,
    /// Draws when it ends once the gateway leaves.
    lot: f32,
    /// Why it has ended.
    end: Option<EndReason>,
}

/// What a carrier is to do.
#[derive(Debug)]
pub enum Turn {
    /// Write these events.
    Events(Events),
    /// Write this: a gap, a heartbeat, or the last words.
    Control(Frame),
    /// Read the stream behind the Log, and bring what was read with [`Stream::take`].
    Read(Behind),
    /// Nothing, before the channel changes or [`Stream::due`].
    Wait,
    /// Close: the last words were handed out.
    Over,
}

/// Events on their way out.
#[derive(Debug)]
pub struct Events {
    /// What to write.
    pub batch: Batch,
    /// Whether they were sent as soon as they came: their age is a latency.
    pub live: bool,
    /// Whether there are more behind them already.
    pub more: bool,
}

// === impl Stream ===

impl Stream {
    /// Opens the stream of a subscriber; `lot`, between 0 and 1, draws when it ends once the gateway leaves.
    pub fn new(share: Share, subscriber: Subscriber, place: Option<Place>, now: Instant, lot: f32) -> Self {
        share.channel().metrics.stream_opened();
        Self { share, subscriber, _place: place, reading: false, live: false, written: now, lot, end: None }
    }

    /// Its channel.
    pub fn channel(&self) -> &Arc<LiveChannel> {
        self.share.channel()
    }

    /// Its subscriber.
    pub fn subscriber(&self) -> &Subscriber {
        &self.subscriber
    }

    /// Whether the last words were handed out.
    pub fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Whether the response is to look complete: it has ended, and the client is not expected to come back as it is.
    pub fn is_complete(&self) -> bool {
        self.end.is_some_and(|reason| !reason.invites_back())
    }

    /// It ends without last words: there is no way to tell them.
    pub fn cut(&mut self, reason: EndReason) {
        self.end.get_or_insert(reason);
    }

    /// What to do now. `fanout` is the channel's; heartbeats are due when the silence would reach its limit at `quiet_at`.
    pub fn turn(&mut self, fanout: &Fanout, now: Instant, quiet_at: Instant) -> Turn {
        if self.end.is_some() {
            return Turn::Over;
        }
        if let Some(reason) = self.ending(now) {
            return self.last_words(reason);
        }
        let step = match (self.reading, fanout.ended()) {
            (true, Some(reason)) => Step::End(reason),
            (true, None) => Step::Wait,
            (false, _) => self.subscriber.next(fanout, BUDGET),
        };
        match step {
            Step::Events(batch) => {
                self.written = now;
                let more = !self.subscriber.is_at_end(fanout);
                let live = self.live;
                self.live |= !more;
                Turn::Events(Events { batch, live, more })
            }
            Step::Gap(reason, bytes) => self.gap(reason, bytes, now),
            Step::End(reason) => self.last_words(reason),
            Step::Read { after, floor } => {
                if std::mem::take(&mut self.live) {
                    self.channel().metrics.fell_behind();
                }
                self.reading = true;
                let generation = self.subscriber.cursor().generation();
                Turn::Read(Behind { generation, topics: self.subscriber.topics().clone(), after, floor })
            }
            Step::Wait => {
                self.live = !self.reading;
                if self.written + self.channel().heartbeat() > quiet_at {
                    return Turn::Wait;
                }
                self.written = now;
                Turn::Control(self.subscriber.heartbeat())
            }
        }
    }

    /// Takes what was read of the stream behind the Log; `None` if another stream is served by now. The next turn says what
    /// comes of it.
    pub fn take(&mut self, chunk: Option<Arc<Chunk>>) {
        self.reading = false;
        if let Some(chunk) = chunk {
            self.subscriber.take(chunk);
        }
    }

    /// When it has to be looked at again, whatever happens.
    pub fn due(&self) -> Instant {
        let heartbeat = self.written + self.channel().heartbeat();
        [self.leaves_at(), self.subscriber.ends_at()].into_iter().flatten().fold(heartbeat, Instant::min)
    }

    /// Why it has to end by now: the gateway leaves, or the right to the stream is gone. Asked before anything is sent.
    fn ending(&mut self, now: Instant) -> Option<EndReason> {
        if self.leaves_at().is_some_and(|at| at <= now) {
            return Some(EndReason::Shutdown);
        }
        let channel = self.share.channel();
        self.subscriber.check(now, channel.version(), || channel.route())
    }

    fn leaves_at(&self) -> Option<Instant> {
        self.channel().farewell().at(self.lot.into())
    }

    fn gap(&mut self, reason: GapReason, bytes: Frame, now: Instant) -> Turn {
        self.channel().metrics.gap(reason);
        self.written = now;
        Turn::Control(bytes)
    }

    fn last_words(&mut self, reason: EndReason) -> Turn {
        self.end = Some(reason);
        let retry = jittered(self.channel().route().events.retry_milliseconds, rand::random());
        Turn::Control(frame::end(reason.as_str(), retry, self.subscriber.last_position()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let reason = self.end.unwrap_or(EndReason::ClientGone);
        let channel = self.share.channel();
        channel.fanout().leave(self.subscriber.cursor());
        channel.metrics.stream_closed(reason);
        tracing::debug!(channel = channel.key, reason = reason.as_str(), "Stream ended.");
    }
}

/// How old events are at `wall`, in milliseconds since 1970.
pub fn age(batch: &Batch, wall: u64) -> Duration {
    Duration::from_millis(wall.saturating_sub(batch.newest))
}
