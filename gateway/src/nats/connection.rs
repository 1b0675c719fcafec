//! One connection to NATS, and what happens to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use async_nats::connection::State;
use async_nats::{Client, Event, ServerAddr};
use parking_lot::Mutex;
use tidings_process::nats_login::NatsHandshake;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::registry::{BrokerFault, Metrics};
use crate::runtime::pace::Pace;
use crate::runtime::tasks::CoreTasks;

/// A dead peer is noticed after three of these: within the 10 s in which a gateway must turn unready.
const PING: Duration = Duration::from_secs(3);

/// Between connections that end at once, however they end.
const PACE: Pace = Pace::new(Duration::from_millis(50), Duration::from_secs(3), Duration::from_secs(5));

/// How long one request may take.
pub const REQUEST: Duration = Duration::from_secs(3);

/// How long a round trip is worth waiting for.
const ROUND_TRIP: Duration = Duration::from_secs(1);

/// How often the connection's state is looked at, beside its events: an event can be dropped.
const LOOK: Duration = Duration::from_millis(250);

/// Where the replies to our requests go. Permissions name it: see `docs/reference/nats-permissions.md`.
const INBOX: &str = "_INBOX_tidings_gateway";

/// How the server and the client library call a login that was refused, one that has expired, and one that could not be
/// made.
const REFUSALS: [&str; 3] = ["authorization violation", "authentication expired", "failed signing nonce"];

/// A connection to NATS, with what happened to it so far.
///
/// The client library reconnects by itself, with one exception: its task ends for good when NATS refuses our credentials
/// on a reconnect, and when a message's headers make it panic (a CR within a value does). Then a new client takes over.
#[derive(Clone, Debug)]
pub struct Link {
    client: Arc<ArcSwapOption<Current>>,
    health: watch::Receiver<Health>,
}

/// The client that is in use, and how often those before it had connected.
#[derive(Debug)]
struct Current {
    client: Client,
    before: u64,
}

/// Whom to connect to, and as whom.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The servers, in any order.
    pub servers: Vec<ServerAddr>,
    /// What NATS lists the connection as.
    pub name: String,
    /// How a connection begins.
    pub handshake: NatsHandshake,
}

/// Owns the client of a link.
struct Keeper {
    peer: Peer,
    purpose: Arc<str>,
    client: Arc<ArcSwapOption<Current>>,
    health: Arc<watch::Sender<Health>>,
    metrics: Arc<Metrics>,
}

/// What happened to a connection so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether it is up.
    pub connected: bool,
    /// How often it came up.
    pub connects: u64,
    /// How often it broke.
    pub breaks: u64,
    /// How often a subscription's buffer was full.
    pub overflows: u64,
}

// === impl Link ===

impl Link {
    /// Connects in the background, for as long as `stop` allows.
    pub fn open(peer: Peer, purpose: &str, metrics: Arc<Metrics>, stop: CancellationToken, core: &CoreTasks) -> Self {
        let (sender, health) = watch::channel(Health::default());
        let client = Arc::new(ArcSwapOption::empty());
        let keeper =
            Keeper { peer, purpose: purpose.into(), client: client.clone(), health: Arc::new(sender), metrics };
        core.spawn("a NATS connection", stop, keeper.keep());
        Self { client, health }
    }

    /// The client, unless none has come to be yet.
    pub fn client(&self) -> Option<Client> {
        self.client.load().as_ref().map(|current| current.client.clone())
    }

    /// How often it has been made, and made again. The client library counts before it reads anything from a new connection, so
    /// what came over that is never seen with the old count; [`Link::health`] tells of it a little later.
    pub fn connects(&self) -> u64 {
        let current = self.client.load();
        current.as_ref().map_or(0, |current| current.before + current.client.statistics().connects.load(Relaxed))
    }

    /// Waits until the server has read everything that was sent before: a request that nobody answers comes back at once.
    pub async fn round_trip(&self) {
        if let Some(client) = self.client() {
            let nobody = client.new_inbox();
            let _ = tokio::time::timeout(ROUND_TRIP, client.request(nobody, bytes::Bytes::new())).await;
        }
    }

    /// What happens to the connection, to be waited on.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Whether it is up.
    pub fn is_connected(&self) -> bool {
        self.health.borrow().connected
    }
}

/// The pause before the nth attempt to reconnect: none at first, for a server that merely closed on us.
fn pause(attempt: usize) -> Duration {
    match attempt {
        0 | 1 => Duration::ZERO,
        n => Duration::from_millis(50 << n.min(6)).mul_f64(0.5 + rand::random::<f64>() / 2.0),
    }
}

// === impl Keeper ===

impl Keeper {
    /// Sees to it that there is a client that lives.
    async fn keep(self) {
        let mut before = 0;
        for attempt in 0.. {
            tokio::time::sleep(pause(attempt)).await;
            match self.connect().await {
                Ok(client) => {
                    self.client.store(Some(Arc::new(Current { client: client.clone(), before })));
                    before = self.watch(&client, before).await;
                    self.health.send_modify(|health| {
                        health.connected = false;
                        health.breaks += 1;
                    });
                    tracing::warn!(purpose = &*self.purpose, "The NATS client ended; starting another one.");
                }
                Err(error) => {
                    self.metrics.broker_error(BrokerFault::Connect);
                    tracing::warn!(
                        purpose = &*self.purpose,
                        error = &error as &dyn std::error::Error,
                        "NATS rejected the connection."
                    );
                }
            }
        }
    }

    async fn connect(&self) -> Result<Client, async_nats::ConnectError> {
        let (health, metrics, purpose) = (self.health.clone(), self.metrics.clone(), self.purpose.clone());
        let told = Arc::new(Told::default());
        // A server that lets us in and closes at once begins the attempts again each time.
        let pace = Mutex::new(PACE);
        self.peer
            .handshake
            .options()
            .name(format!("{} {}", self.peer.name, self.purpose))
            .custom_inbox_prefix(INBOX)
            .retry_on_initial_connect()
            .ping_interval(PING)
            .connection_timeout(REQUEST)
            .request_timeout(Some(REQUEST))
            .subscription_capacity(65_536)
            .reconnect_delay_callback(move |attempt| pause(attempt).max(pace.lock().next(Instant::now())))
            .event_callback(move |event| {
                let (health, metrics, purpose) = (health.clone(), metrics.clone(), purpose.clone());
                let told = told.clone();
                async move { happened(&event, &health, &metrics, &purpose, &told) }
            })
            .connect(&self.peer.servers[..])
            .await
    }

    /// Compares the connection itself with what its events said, until the client is dead. Counts connections from `before`.
    async fn watch(&self, client: &Client, before: u64) -> u64 {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            let connects = before + client.statistics().connects.load(Relaxed);
            let connected = client.connection_state() == State::Connected;
            self.health.send_if_modified(|health| {
                let changed = health.connects != connects || health.connected != connected;
                health.breaks = health.breaks.max(connects.saturating_sub(1));
                health.connects = connects;
                health.connected = connected;
                changed
            });
            // Waits while the connection is away; fails only when nobody takes commands any more.
            if matches!(tokio::time::timeout(LOOK, client.flush()).await, Ok(Err(_))) {
                return connects;
            }
        }
    }
}

/// What was said about a connection: one that breaks again and again, as over malformed headers, is told of once a while.
#[derive(Debug, Default)]
struct Told {
    /// Whether it was said that NATS cannot be reached, since it last could.
    unreachable: AtomicBool,
    broken: Mutex<Option<Instant>>,
}

/// How soon after a warning a connection that is back belongs to it.
const PAIRED: Duration = Duration::from_secs(1);

/// The least time between two warnings of one connection's breaks.
const QUIET: Duration = Duration::from_secs(10);

// === impl Told ===

impl Told {
    /// Whether a break is to be told of now.
    fn is_news(&self, now: Instant) -> bool {
        let mut broken = self.broken.lock();
        let news = broken.is_none_or(|last| now.saturating_duration_since(last) >= QUIET);
        if news {
            *broken = Some(now);
        }
        news
    }
}

fn happened(event: &Event, health: &watch::Sender<Health>, metrics: &Metrics, purpose: &str, told: &Told) {
    match event {
        Event::Connected => {
            // After a break that was not told of, neither is its end.
            if told.unreachable.swap(false, Relaxed) || told.broken.lock().is_none_or(|last| last.elapsed() < PAIRED) {
                tracing::info!(purpose, "Connected to NATS.");
            } else {
                tracing::debug!(purpose, "Connected to NATS.");
            }
        }
        Event::Disconnected => {
            metrics.broker_error(BrokerFault::Disconnected);
            health.send_modify(|health| {
                health.connected = false;
                health.breaks += 1;
            });
            if told.is_news(Instant::now()) {
                tracing::warn!(purpose, "Lost the connection to NATS; reconnecting.");
            } else {
                tracing::debug!(purpose, "Lost the connection to NATS again; reconnecting.");
            }
        }
        Event::SlowConsumer(_) => {
            metrics.slow_consumer();
            health.send_modify(|health| health.overflows += 1);
        }
        Event::ServerError(error) => {
            let text = error.to_string().to_ascii_lowercase();
            metrics.broker_error(match () {
                () if text.contains("permissions") => BrokerFault::Permission,
                () if REFUSALS.iter().any(|refusal| text.contains(refusal)) => BrokerFault::Login,
                () => BrokerFault::Server,
            });
            tracing::warn!(purpose, %error, "NATS reported an error.");
        }
        Event::ClientError(error) => {
            let refused = REFUSALS.iter().any(|refusal| error.to_string().contains(refusal));
            metrics.broker_error(if refused { BrokerFault::Login } else { BrokerFault::Connect });
            if told.unreachable.swap(true, Relaxed) {
                tracing::debug!(purpose, %error, "Failed to reach NATS.");
            } else if refused {
                tracing::warn!(purpose, %error, "NATS rejected the credentials; re-reading the files and retrying.");
            } else {
                tracing::warn!(purpose, %error, "Failed to reach NATS; retrying. Use --log async_nats=debug for the cause.");
            }
        }
        Event::LameDuckMode | Event::Draining | Event::Closed => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_breaks_again_and_again_is_told_of_once_a_while() {
        let (told, begin) = (Told::default(), Instant::now());
        let news = |after: Duration| told.is_news(begin + after);
        assert!(news(Duration::ZERO));
        assert!(!news(QUIET / 2) && !news(QUIET - Duration::from_millis(1)));
        assert!(news(QUIET) && !news(QUIET + Duration::from_secs(1)));
        assert!(news(QUIET * 3));
    }
}
