//! One channel with subscribers here: what is known of it, and who is asked about it.
//!
//! [`super::relay`] keeps it up to date, [`super::resume`] seats subscribers, [`super::event_stream`] sends them what is theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use tidings_crds::position::Epoch;
use tidings_crds::route::{Route, RouteSource};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::channel::backfill::{Backfill, Source};
use crate::channel::drain_schedule::Farewell;
use crate::log::chunk::Chunk;
use crate::log::end_reason::EndReason;
use crate::log::event_log::{LogLimits, Mark};
use crate::log::fanout::Fanout;
use crate::log::frame::Framing;
use crate::log::identity::Confirmed;
use crate::metrics::registry::ChannelMetrics;
use crate::nats::decode::Wire;
use crate::nats::stream_reader::{ReadError, Reader};

/// Between two requests to the relay to ask the leader, where its answer is waited for.
const AGAIN: Duration = Duration::from_millis(500);

/// One channel with subscribers here.
#[derive(Debug)]
pub struct LiveChannel {
    /// Tells it apart from the same channel opened again.
    pub id: u64,
    /// `namespace/name`.
    pub key: String,
    /// Reads its messages.
    pub wire: Arc<Wire>,
    /// Asks its stream; an Ephemeral channel has none.
    pub reader: Option<Reader>,
    /// What is counted for it.
    pub metrics: Arc<ChannelMetrics>,
    /// Ends the relay.
    pub stop: CancellationToken,
    route: ArcSwap<Route>,
    /// How often the Route was replaced.
    version: AtomicU64,
    fanout: Mutex<Fanout>,
    backfill: Arc<Backfill>,
    farewell: Arc<Farewell>,
    open: watch::Sender<bool>,
    /// The generation of the Log, and its head.
    head: watch::Sender<(u32, u64)>,
    known: watch::Sender<Known>,
    look: Notify,
    subscribers: AtomicU64,
    idle_since: Mutex<Instant>,
}

/// What the relay is certain of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// How often the connection for questions had been made when the stream was certain to be the one that is served; `None`
    /// while that is in doubt. What is read over another connection may be of another stream.
    pub connects: Option<u64>,
    /// The newest state of the stream that is certain.
    pub confirmed: Option<Confirmed>,
}

/// One subscriber's share of a channel: while it lives, the channel stays open.
#[derive(Debug)]
pub struct Share {
    channel: Arc<LiveChannel>,
}

/// What a channel is made of.
#[derive(Debug)]
pub struct Parts {
    /// Tells it apart from the same channel opened again.
    pub id: u64,
    /// What it serves.
    pub route: Arc<Route>,
    /// Reads its messages.
    pub wire: Arc<Wire>,
    /// Asks its stream.
    pub reader: Option<Reader>,
    /// What is counted for it.
    pub metrics: Arc<ChannelMetrics>,
    /// How much of it stays in memory.
    pub limits: LogLimits,
    /// Shared by all channels.
    pub backfill: Arc<Backfill>,
    /// Shared by all channels.
    pub farewell: Arc<Farewell>,
    /// Ends the relay.
    pub stop: CancellationToken,
}

// === impl LiveChannel ===

impl LiveChannel {
    /// A channel about to be opened.
    pub fn new(parts: Parts) -> Self {
        let Parts { id, route, wire, reader, metrics, limits, backfill, farewell, stop } = parts;
        // Ephemeral channels have no epoch, and nothing of this one is shown before the relay has opened it.
        let fanout = Fanout::new(Epoch::from_nanos(0), Mark { sequence: 0, stamp: None }, 1, limits);
        Self {
            id,
            key: route.key(),
            wire,
            reader,
            metrics,
            stop,
            route: ArcSwap::new(route),
            version: AtomicU64::new(0),
            fanout: Mutex::new(fanout),
            backfill,
            farewell,
            open: watch::Sender::new(false),
            head: watch::Sender::new((0, 0)),
            known: watch::Sender::default(),
            look: Notify::new(),
            subscribers: AtomicU64::new(0),
            idle_since: Mutex::new(Instant::now()),
        }
    }

    /// The Route in force.
    pub fn route(&self) -> Arc<Route> {
        self.route.load_full()
    }

    /// Puts another version of the Route in force.
    pub fn set_route(&self, route: Arc<Route>) {
        self.route.store(route);
        // After the store: a reader that sees the new version also sees the new Route.
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Grows with every [`LiveChannel::set_route`].
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// How publications become frames.
    pub fn framing(&self) -> Framing {
        let route = self.route.load();
        Framing { encoding: route.events.encoding, max_event_bytes: route.events.max_event_bytes }
    }

    /// Whether its events have positions.
    pub fn has_positions(&self) -> bool {
        self.reader.is_some()
    }

    /// Whether it keeps all messages of a topic.
    pub fn keeps_all(&self) -> bool {
        match &self.route.load().source {
            RouteSource::Durable { max_messages_per_topic, .. } => max_messages_per_topic.is_none(),
            RouteSource::Ephemeral => true,
        }
    }

    /// The longest silence on a stream.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_secs(u64::from(self.route.load().events.heartbeat_seconds.max(1)))
    }

    /// What subscribers are sent next.
    pub fn fanout(&self) -> MutexGuard<'_, Fanout> {
        self.fanout.lock()
    }

    /// Changes what subscribers are sent next, and wakes those it concerns once the lock is free.
    pub fn change(&self, change: impl FnOnce(&mut Fanout, &mut Vec<Waker>)) {
        let mut woken = Vec::new();
        let head = {
            let mut fanout = self.fanout.lock();
            change(&mut fanout, &mut woken);
            let (events, bytes) = fanout.holds();
            self.metrics.log_holds(events as u64, bytes as u64);
            (fanout.generation(), fanout.head().sequence)
        };
        woken.into_iter().for_each(Waker::wake);
        self.head.send_if_modified(|known| std::mem::replace(known, head) != head);
    }

    /// The relay has found out where the stream ends.
    pub fn opened(&self) {
        self.open.send_replace(true);
    }

    /// Waits until the relay has found out where the stream ends.
    pub async fn until_open(&self) {
        // The sender lives as long as we do.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }

    /// Waits until another stream is served, or this one up to `sequence`.
    pub async fn until_reached(&self, generation: u32, sequence: u64) {
        let _ = self.head.subscribe().wait_for(|head| head.0 != generation || head.1 >= sequence).await;
    }

    /// Waits until another stream is served.
    async fn until_replaced(&self, generation: u32) {
        let _ = self.head.subscribe().wait_for(|head| head.0 != generation).await;
    }

    /// What the relay is certain of.
    pub fn known(&self) -> Known {
        *self.known.borrow()
    }

    /// The relay is certain of this.
    pub fn learn(&self, known: Known) {
        self.known.send_if_modified(|before| std::mem::replace(before, known) != known);
    }

    /// The state of the stream by a leader that was its leader at `moment` or later. Takes as long as NATS needs to answer; the
    /// caller sets a deadline.
    pub async fn confirmed(&self, moment: Instant) -> Confirmed {
        let mut known = self.known.subscribe();
        loop {
            if let Some(confirmed) = known.borrow_and_update().confirmed.filter(|known| known.at >= moment) {
                return confirmed;
            }
            self.look();
            let _ = tokio::time::timeout(AGAIN, known.changed()).await;
        }
    }

    /// Has the relay ask the leader now.
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// Waits for a call of [`LiveChannel::look`].
    pub async fn asked_to_look(&self) {
        self.look.notified().await;
    }

    /// Ends every stream.
    pub fn end(&self, reason: EndReason) {
        self.change(|fanout, woken| fanout.end(reason, woken));
        self.stop.cancel();
    }

    /// Wakes every stream, to look around.
    pub fn wake_all(&self) {
        self.change(|fanout, woken| fanout.wake_all(woken));
    }

    /// The gateway's way to go.
    pub fn farewell(&self) -> &Farewell {
        &self.farewell
    }

    /// What the backfill needs to know of this channel, unless it is Ephemeral.
    pub fn source(&self) -> Option<Source> {
        let reader = self.reader.clone()?;
        let (generation, epoch) = {
            let fanout = self.fanout.lock();
            (fanout.generation(), fanout.epoch())
        };
        let (framing, keeps_all, connects) = (self.framing(), self.keeps_all(), self.known().connects);
        Some(Source { channel: self.id, generation, epoch, reader, framing, keeps_all, connects })
    }

    /// The stream behind the Log.
    pub fn backfill(&self) -> &Backfill {
        &self.backfill
    }

    /// Reads on behind a subscriber's place, for as long as it takes: with NATS away, streams stay open. `None` once another
    /// stream is served: what was wanted is no more.
    pub async fn read_behind(self: Arc<Self>, subscriber: Behind) -> Option<Arc<Chunk>> {
        tokio::select! {
            biased;
            () = self.until_replaced(subscriber.generation) => None,
            chunk = self.read_until_it_works(&subscriber) => Some(chunk),
        }
    }

    async fn read_until_it_works(&self, subscriber: &Behind) -> Arc<Chunk> {
        let Behind { generation, topics, after, floor } = subscriber;
        let mut pause = Duration::from_millis(50);
        loop {
            if let Some(source) = self.source().filter(|source| source.generation == *generation) {
                match self.backfill.read(&source, topics, *after, *floor).await {
                    Ok(chunk) => return chunk,
                    Err(ReadError::Replaced | ReadError::Missing) => self.look(),
                    Err(error) => {
                        tracing::debug!(channel = self.key, %error, "Reading the stream will be tried again.")
                    }
                }
            }
            tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    /// Open streams.
    pub fn subscribers(&self) -> u64 {
        self.subscribers.load(Ordering::Acquire)
    }

    /// How long there have been no subscribers; `None` while there are some.
    pub fn idle_for(&self, now: Instant) -> Option<Duration> {
        (self.subscribers() == 0).then(|| now.saturating_duration_since(*self.idle_since.lock()))
    }
}

/// What a subscriber behind the Log needs.
#[derive(Clone, Debug)]
pub struct Behind {
    /// Which Log it reads.
    pub generation: u32,
    /// What it is shown.
    pub topics: tidings_crds::topic::TopicSet,
    /// Where it stands.
    pub after: u64,
    /// Where the Log begins.
    pub floor: u64,
}

// === impl Share ===

impl Share {
    /// Counts one more subscriber.
    pub fn new(channel: Arc<LiveChannel>) -> Self {
        channel.subscribers.fetch_add(1, Ordering::AcqRel);
        Self { channel }
    }

    /// The channel.
    pub fn channel(&self) -> &Arc<LiveChannel> {
        &self.channel
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.channel.idle_since.lock() = Instant::now();
        self.channel.subscribers.fetch_sub(1, Ordering::AcqRel);
    }
}
