//! The Hub: the channels that have subscribers here.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tidings_crds::position::Position;
use tidings_crds::route::{Route, RouteSource};
use tidings_crds::topic::{TopicError, TopicSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channel::access_lease::Lease;
use crate::channel::backfill::Backfill;
use crate::channel::drain_schedule::Farewell;
use crate::channel::event_stream::Stream;
use crate::channel::live::{LiveChannel, Parts, Share};
use crate::channel::relay;
use crate::channel::resume::{Seated, seat};
use crate::channel::snapshot::Snapshots;
use crate::channel::stream_epochs::StreamEpochs;
use crate::limits::usage::Place;
use crate::log::chunked::Frame;
use crate::log::end_reason::EndReason;
use crate::log::event_log::LogLimits;
use crate::log::publication::{EventType, EventTypeError};
use crate::metrics::registry::Metrics;
use crate::nats::connections::Broker;
use crate::nats::decode::Wire;
use crate::nats::publisher::{Outgoing, SendError};
use crate::nats::stream_reader::{ReadError, Reader, TooMuch};

pub use crate::channel::resume::{FromWhere, StartAt};

/// How the Hub deals with its channels.
#[derive(Clone, Copy, Debug)]
pub struct HubSettings {
    /// How much of each channel stays in memory.
    pub log: LogLimits,
    /// How long a subscriber waits for its channel to open and its position to be checked.
    pub patience: Duration,
    /// How long a channel stays open after its last subscriber has left.
    pub linger: Duration,
}

/// The channels that have subscribers here. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    broker: Broker,
    metrics: Arc<Metrics>,
    settings: HubSettings,
    channels: Mutex<HashMap<String, Arc<LiveChannel>>>,
    next_id: AtomicU64,
    /// Streams, from the beginning.
    opened: AtomicU64,
    backfill: Arc<Backfill>,
    snapshots: Snapshots,
    farewell: Arc<Farewell>,
    epochs: StreamEpochs,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A subscription asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// What it may see of what it asks for.
    pub topics: TopicSet,
    /// Where it begins.
    pub start: StartAt,
}

/// An open stream, and the blocks that it begins with.
#[derive(Debug)]
pub struct Opened {
    /// The stream.
    pub stream: Stream,
    /// What comes first.
    pub opening: Vec<Frame>,
}

/// Why there is no stream now. The client is to come back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// NATS is away, the stream is missing, or the answer took too long.
    #[error("the channel cannot be read now")]
    Unavailable,
    /// It asks for more than a subscriber gets at once.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
}

/// A publication from an HTTP client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPublication {
    /// Its topic; empty for the channel's base subject.
    pub topic: String,
    /// Its event type.
    pub event: Option<String>,
    /// How long it lives; Durable channels only.
    pub ttl: Option<Duration>,
    /// What makes it the same publication when sent again: `Nats-Msg-Id`.
    pub message_id: Option<String>,
    /// The body.
    pub data: Bytes,
}

/// A publication that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its position, `<epoch>-<sequence>`; none on an Ephemeral channel, and where the epoch is not certain.
    pub id: Option<String>,
    /// Whether its idempotency key was known.
    pub duplicate: bool,
}

/// Why a publication was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Not a topic, or none of the channel's.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// Not an event type.
    #[error(transparent)]
    Event(#[from] EventTypeError),
    /// An Ephemeral channel stores nothing, so nothing can live for a time there.
    #[error("an Ephemeral channel has no ttl and no idempotency key")]
    NotStored,
    /// NATS did not take it.
    #[error(transparent)]
    Send(#[from] SendError),
}

// === impl Hub ===

impl Hub {
    /// A Hub without channels.
    pub fn new(broker: Broker, metrics: Arc<Metrics>, settings: HubSettings) -> Self {
        let backfill = Arc::new(Backfill::new(metrics.clone()));
        let inner = Arc::new(Inner {
            broker,
            metrics,
            settings,
            channels: Mutex::default(),
            next_id: AtomicU64::new(1),
            opened: AtomicU64::new(0),
            backfill,
            snapshots: Snapshots::default(),
            farewell: Arc::default(),
            epochs: StreamEpochs::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        let hub = Self { inner };
        let tasks = hub.inner.broker.tasks();
        tasks.spawn("the sweep of idle channels", hub.inner.stop.clone(), hub.clone().sweep());
        hub
    }

    /// Reads so many ranges behind the logs at the same time from now on, over all channels.
    pub fn limit_backfills(&self, most: usize) {
        self.inner.backfill.limit(most);
    }

    /// Opens a stream: the channel first, if nobody here listens to it yet. It lasts as long as its lease.
    pub async fn subscribe(
        &self,
        route: &Arc<Route>,
        request: Subscribe,
        lease: Lease,
        place: Option<Place>,
    ) -> Result<Opened, SubscribeError> {
        let share = self.share(route);
        let discreet = lease.is_restricted();
        let seated = tokio::time::timeout(self.inner.settings.patience, self.seat(&share, request, discreet)).await;
        match seated {
            Ok(Ok(Seated { subscriber, opening })) => {
                let (subscriber, now) = (subscriber.under(lease), Instant::now());
                self.inner.opened.fetch_add(1, Ordering::Relaxed);
                Ok(Opened { stream: Stream::new(share, subscriber, place, now, rand::random()), opening })
            }
            Ok(Err(too_much)) => Err(SubscribeError::TooMuch(too_much)),
            Err(_) => Err(SubscribeError::Unavailable),
        }
    }

    /// Publishes, and waits until the stream has taken it.
    pub async fn publish(&self, route: &Arc<Route>, publication: NewPublication) -> Result<Published, PublishError> {
        let NewPublication { topic, event, ttl, message_id, data } = publication;
        let subject = route.topics.subject(&topic)?;
        let event = event.map(|event| EventType::new(&event)).transpose()?.map(|event| event.as_str().to_owned());
        let outgoing = Outgoing { subject, event, ttl, message_id, data };
        let publisher = self.inner.broker.publisher();
        match &route.source {
            RouteSource::Durable { stream, .. } => {
                let reader = self.reader(route, stream);
                let info = || async { reader.info().await.ok() };
                let before = self.inner.epochs.before(stream, info()).await;
                let stored = publisher.store(stream, outgoing).await?;
                let epoch = before.acknowledged(stored.sequence, info()).await;
                let id = epoch.map(|epoch| Position { epoch, sequence: stored.sequence, stamp: None }.to_string());
                Ok(Published { id, duplicate: stored.duplicate })
            }
            RouteSource::Ephemeral if outgoing.ttl.is_some() || outgoing.message_id.is_some() => {
                Err(PublishError::NotStored)
            }
            RouteSource::Ephemeral => {
                publisher.send(outgoing).await?;
                Ok(Published { id: None, duplicate: false })
            }
        }
    }

    /// A Route was added, changed or removed (`None`). Only streams that the change concerns end.
    pub fn route_changed(&self, key: &str, route: Option<Arc<Route>>) {
        self.follow_route(key, || route);
    }

    /// The same for a Route that may have changed: `current` is asked when no other change can be told before this one is, so that
    /// a later one is never undone.
    pub fn follow_route(&self, key: &str, current: impl FnOnce() -> Option<Arc<Route>>) {
        let mut channels = self.inner.channels.lock();
        let Some(channel) = channels.get(key).cloned() else { return };
        let reason = match current() {
            None => EndReason::ChannelDeleted,
            Some(route) => {
                let before = channel.route();
                if before.serves_same_events(&route) {
                    let access = before.access != route.access || before.cors != route.cors;
                    channel.set_route(route);
                    drop(channels);
                    // Every stream looks for itself whether it is still what its subscriber may have.
                    if access {
                        channel.wake_all();
                    }
                    return;
                }
                EndReason::ChannelChanged
            }
        };
        channels.remove(key);
        self.inner.metrics.channels_open(channels.len() as u64);
        drop(channels);
        channel.end(reason);
    }

    /// The rules have changed: every stream of one channel, or of all, looks whether it may go on.
    pub fn recheck(&self, key: Option<&str>) {
        let concerned = match key {
            Some(key) => self.inner.channels.lock().get(key).cloned().into_iter().collect(),
            None => self.open(),
        };
        concerned.iter().for_each(|channel| channel.wake_all());
    }

    /// Whether NATS is connected.
    pub fn is_connected(&self) -> bool {
        self.inner.broker.is_connected()
    }

    /// Ends all streams, evenly over `window` and in random order.
    pub fn drain(&self, window: Duration) {
        self.inner.farewell.begin(Instant::now(), window);
        self.open().iter().for_each(|channel| channel.wake_all());
    }

    /// Open streams.
    pub fn subscribers(&self) -> u64 {
        self.open().iter().map(|channel| channel.subscribers()).sum()
    }

    /// Streams that were opened since the beginning.
    pub fn opened(&self) -> u64 {
        self.inner.opened.load(Ordering::Relaxed)
    }

    /// Open streams of each channel that is read from NATS now.
    pub fn subscribers_by_channel(&self) -> HashMap<String, u64> {
        self.open().iter().map(|channel| (channel.key.clone(), channel.subscribers())).collect()
    }

    /// Channels that are read from NATS now.
    pub fn channels(&self) -> u64 {
        self.inner.channels.lock().len() as u64
    }

    /// Ends all relays and closes the connections to NATS.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.broker.close().await;
    }

    fn open(&self) -> Vec<Arc<LiveChannel>> {
        self.inner.channels.lock().values().cloned().collect()
    }

    /// Tries until it works; the caller gives up in time.
    async fn seat(&self, share: &Share, request: Subscribe, discreet: bool) -> Result<Seated, TooMuch> {
        let channel = share.channel();
        channel.until_open().await;
        loop {
            let Subscribe { topics, start } = request.clone();
            match seat(channel, topics, start, discreet, &self.inner.snapshots).await {
                Ok(seated) => return Ok(seated),
                Err(ReadError::TooMuch(too_much)) => return Err(too_much),
                Err(ReadError::Replaced) => channel.look(),
                Err(error) => tracing::debug!(channel = channel.key, %error, "A subscriber waits for NATS."),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn share(&self, route: &Arc<Route>) -> Share {
        let mut channels = self.inner.channels.lock();
        let key = route.key();
        if let Some(channel) = channels.get(&key) {
            return Share::new(channel.clone());
        }
        let channel = Arc::new(self.channel(route));
        channels.insert(key, channel.clone());
        self.inner.metrics.channels_open(channels.len() as u64);
        let relay = relay::run(channel.clone(), self.inner.broker.clone(), self.inner.settings.log);
        self.inner.tasks.spawn(self.clone().watch(channel.clone(), relay));
        Share::new(channel)
    }

    /// Runs a channel's relay. Should it end before it is told to, its streams end instead of falling silent, and come back
    /// to a new one.
    async fn watch(self, channel: Arc<LiveChannel>, relay: impl Future<Output = ()>) {
        let panicked = AssertUnwindSafe(relay).catch_unwind().await.is_err();
        if panicked || !channel.stop.is_cancelled() {
            tracing::error!(
                channel = channel.key,
                "The relay of a channel failed; ending its streams so that clients reconnect."
            );
            self.inner.channels.lock().retain(|_, open| open.id != channel.id);
            channel.end(EndReason::BrokerUnavailable);
        }
    }

    fn channel(&self, route: &Arc<Route>) -> LiveChannel {
        let inner = &self.inner;
        let metrics = inner.metrics.channel(&route.key());
        let stream = match &route.source {
            RouteSource::Durable { stream, .. } => Some(stream.as_str()),
            RouteSource::Ephemeral => None,
        };
        let wire = Arc::new(Wire::new(stream.unwrap_or_default(), route.topics.clone()));
        let reader =
            stream.map(|_| Reader::new(inner.broker.ask(), wire.clone(), inner.metrics.clone(), metrics.clone()));
        LiveChannel::new(Parts {
            id: inner.next_id.fetch_add(1, Ordering::Relaxed),
            route: route.clone(),
            wire,
            reader,
            metrics,
            limits: inner.settings.log,
            backfill: inner.backfill.clone(),
            farewell: inner.farewell.clone(),
            stop: inner.stop.child_token(),
        })
    }

    /// Reads the stream of a channel that need not be open.
    fn reader(&self, route: &Route, stream: &str) -> Reader {
        let inner = &self.inner;
        let wire = Arc::new(Wire::new(stream, route.topics.clone()));
        Reader::new(inner.broker.ask(), wire, inner.metrics.clone(), inner.metrics.channel(&route.key()))
    }

    /// Closes channels that nobody has listened to for a while.
    async fn sweep(self) {
        let mut ticks = tokio::time::interval(Duration::from_secs(5));
        loop {
            ticks.tick().await;
            let now = Instant::now();
            self.inner.snapshots.sweep(now);
            let mut channels = self.inner.channels.lock();
            channels.retain(|_, channel| {
                let idle = channel.idle_for(now).is_some_and(|idle| idle >= self.inner.settings.linger);
                if idle {
                    channel.stop.cancel();
                }
                !idle
            });
            self.inner.metrics.channels_open(channels.len() as u64);
        }
    }
}

impl Default for HubSettings {
    /// 4,096 frames of 1 KiB are 4 MiB a channel: 40 s at 100 messages/s, longer than a rolling update's reconnect.
    fn default() -> Self {
        Self {
            log: LogLimits { entries: 4096, bytes: 8 << 20 },
            patience: Duration::from_secs(5),
            linger: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::connections::BrokerOptions;
    use crate::runtime::tasks::CoreTasks;
    use tidings_process::nats_login::{NatsHandshake, NatsSettings};

    /// A Hub with NATS away: port 9 is "discard", and nobody listens there.
    fn hub() -> Hub {
        let metrics = Metrics::new(10);
        let nats = NatsSettings { url: "nats://127.0.0.1:9".to_owned(), handshake: NatsHandshake::default() };
        let options = BrokerOptions { nats, name: "test".to_owned() };
        let broker = Broker::connect(&options, metrics.clone(), CoreTasks::default()).unwrap();
        Hub::new(broker, metrics, HubSettings::default())
    }

    fn route() -> Arc<Route> {
        let yaml = "version: 1\nnamespace: demo\nname: open\ngeneration: 1\nstate: Active\n\
             source: {durability: Durable, stream: TIDINGS_demo_open}\n\
             topics: {kind: Below, base: tidings.demo.open}\n\
             events: {from: New, encoding: Text, heartbeatSeconds: 15, retryMilliseconds: 1000, maxEventBytes: 65536}\n\
             access: {tokenSources: [Header], subscribe: {mode: Public, topics: ['>']}, publish: {mode: Disabled, topics: []}}\n\
             cors: {origins: [], allowCredentials: false}\n\
             limits: {}\n";
        Arc::new(Route::from_yaml(yaml).unwrap())
    }

    #[tokio::test]
    async fn what_the_gateway_cannot_do_without_is_among_the_core_tasks() {
        let hub = hub();
        let keeper = "a NATS connection";
        let expected =
            [keeper, keeper, keeper, keeper, "the monitor of the NATS connections", "the sweep of idle channels"];
        assert_eq!(hub.inner.broker.tasks().running(), expected);
        hub.close().await;
        assert_eq!(hub.inner.broker.tasks().running(), Vec::<&str>::new());
    }

    /// The Route of a channel that is being opened is looked at again in the end, while others may tell of a newer one.
    #[tokio::test]
    async fn a_route_that_is_looked_at_late_never_undoes_a_later_change() {
        let (hub, old) = (hub(), route());
        let share = hub.share(&old);
        let at = |generation| Arc::new(Route { generation, ..Route::clone(&old) });
        let (second, third) = (at(2), at(3));
        let (begun, begins) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            hub.follow_route("demo/open", || {
                scope.spawn(|| {
                    hub.route_changed("demo/open", Some(third.clone()));
                    begun.send(())
                });
                // If that can be told now, it is told before what is read here, which is older.
                let _ = begins.recv_timeout(Duration::from_millis(100));
                Some(second.clone())
            });
        });
        assert_eq!(share.channel().route().generation, 3);
        hub.close().await;
    }

    /// One request has the Route from before a change, and opens the channel when that was told already.
    #[tokio::test]
    async fn a_channel_that_is_opened_with_an_old_route_follows_the_one_in_force() {
        let (hub, old) = (hub(), route());
        let changed = Arc::new(Route {
            events: tidings_crds::route::RouteEvents { max_event_bytes: 10, ..old.events.clone() },
            ..Route::clone(&old)
        });
        hub.route_changed("demo/open", Some(changed.clone()));
        let (first, second) = (hub.share(&old), hub.share(&changed));
        assert_eq!(first.channel().id, second.channel().id);
        hub.follow_route("demo/open", || Some(changed.clone()));
        assert_eq!(first.channel().fanout().ended(), Some(EndReason::ChannelChanged), "both come back");
        assert_eq!(hub.share(&changed).channel().framing().max_event_bytes, 10);
        hub.close().await;
    }

    #[tokio::test]
    async fn when_a_relay_dies_its_streams_end_and_the_next_subscriber_gets_a_new_one() {
        let (hub, route) = (hub(), route());
        let share = hub.share(&route);
        let channel = share.channel().clone();
        hub.clone().watch(channel.clone(), async { panic!("on purpose") }).await;
        assert_eq!(channel.fanout().ended(), Some(EndReason::BrokerUnavailable));
        assert_eq!(hub.channels(), 0);
        let next = hub.share(&route);
        assert_ne!(next.channel().id, channel.id);
        assert_eq!(next.channel().fanout().ended(), None);
        // And a relay that ends because it was told to ends nobody's stream.
        next.channel().stop.cancel();
        hub.clone().watch(next.channel().clone(), async {}).await;
        assert_eq!(next.channel().fanout().ended(), None);
        hub.close().await;
    }
}
