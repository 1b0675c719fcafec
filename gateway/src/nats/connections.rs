//! The NATS side of the gateway: which connection is used for what.
//!
//! A malformed header block ends the connection it comes over. So live messages, questions and core NATS have connections
//! of their own: while one of them recovers, the others go on. A channel whose live messages keep breaking the connection
//! is moved to one that it shares with nobody ([`Broker::apart`]).

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, HeaderValue, ServerAddr};
use bytes::Bytes;
use serde::Deserialize;
use tidings_crds::login::LoginError;
use tidings_crds::subject::Pattern;
use tokio_util::sync::CancellationToken;

use crate::metrics::registry::{BrokerFault, Metrics};
use crate::nats::connection::{Link, Peer};
use crate::nats::decode::{ApiError, EVENT_HEADER};
use crate::nats::login::NatsSettings;
use crate::runtime::tasks::CoreTasks;

/// How long a publication may wait for its acknowledgement.
const ACKNOWLEDGEMENT: Duration = Duration::from_secs(5);

/// The connections of this gateway to NATS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Broker {
    peer: Peer,
    live: Link,
    ask: Link,
    core: Link,
    metrics: Arc<Metrics>,
    tasks: CoreTasks,
    stop: CancellationToken,
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// Where, over which TLS and as whom.
    pub nats: NatsSettings,
    /// What NATS lists the connections as.
    pub name: String,
}

/// Why no broker could be made.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Not an address.
    #[error("failed to read the NATS address \"{address}\": write nats://host:4222, several separated by commas")]
    Address {
        /// The part that is none.
        address: String,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// The login's files.
    #[error(transparent)]
    Login(#[from] LoginError),
}

/// A publication as NATS takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where it goes.
    pub subject: Pattern,
    /// Its event type.
    pub event: Option<String>,
    /// How long it lives.
    pub ttl: Option<Duration>,
    /// What makes it the same publication when sent again.
    pub idempotency_key: Option<String>,
    /// The body.
    pub data: Bytes,
}

/// What the stream answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The sequence given to it, or to the publication it repeats.
    pub sequence: u64,
    /// Whether it repeats one.
    pub duplicate: bool,
}

/// Why a publication was not stored, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// A header value has a character that headers cannot have.
    #[error("the {0} has a character that a NATS header cannot have")]
    Header(&'static str),
    /// Larger than the server takes.
    #[error("NATS takes at most {limit} bytes")]
    TooLarge {
        /// In bytes, headers included.
        limit: usize,
    },
    /// NATS is away, or has no such stream.
    #[error("NATS is not available")]
    Unavailable,
    /// No acknowledgement in time: stored or not, nobody knows.
    #[error("NATS did not acknowledge in time")]
    Timeout,
    /// NATS refused.
    #[error("NATS refused: {0}")]
    Refused(String),
}

#[derive(Deserialize)]
struct Acknowledgement {
    error: Option<ApiError>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

// === impl Broker ===

impl Broker {
    /// Connects in the background and goes on trying: a gateway starts with NATS away. What keeps the connections is
    /// among `tasks`.
    pub fn connect(options: &BrokerOptions, metrics: Arc<Metrics>, tasks: CoreTasks) -> Result<Self, BrokerError> {
        let mut servers = Vec::new();
        for address in options.nats.url.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            let server = ServerAddr::from_str(address);
            servers.push(server.map_err(|source| BrokerError::Address { address: address.to_owned(), source })?);
        }
        let handshake = options.nats.handshake.clone();
        // Later they may be broken for a while; now somebody is looking.
        handshake.check()?;
        let peer = Peer { servers, name: options.name.clone(), handshake };
        let stop = CancellationToken::new();
        let link = |purpose| Link::open(peer.clone(), purpose, metrics.clone(), stop.clone(), &tasks);
        let (live, ask, core) = (link("live"), link("ask"), link("core"));
        let broker = Self { peer, live, ask, core, metrics, tasks, stop };
        broker.tasks.spawn("the watch over the NATS connections", broker.stop.clone(), broker.clone().report());
        Ok(broker)
    }

    /// The connection for live messages of Durable channels.
    pub fn live(&self) -> Link {
        self.live.clone()
    }

    /// The connection for questions and publications.
    pub fn ask(&self) -> Link {
        self.ask.clone()
    }

    /// The connection for Ephemeral channels.
    pub fn core(&self) -> Link {
        self.core.clone()
    }

    /// A connection shared with nobody, for as long as `stop` allows.
    pub fn apart(&self, channel: &str, stop: CancellationToken) -> Link {
        Link::open(self.peer.clone(), channel, self.metrics.clone(), stop, &self.tasks)
    }

    /// Whether messages can come in and questions go out.
    pub fn is_connected(&self) -> bool {
        self.live.is_connected() && self.ask.is_connected() && self.core.is_connected()
    }

    /// The tasks that the gateway cannot do without.
    pub fn tasks(&self) -> &CoreTasks {
        &self.tasks
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close().await;
    }

    /// Publishes into `stream` and waits for the acknowledgement.
    pub async fn store(&self, stream: &str, outgoing: Outgoing) -> Result<Stored, SendError> {
        let client = self.ask.client().filter(|_| self.ask.is_connected()).ok_or(SendError::Unavailable)?;
        let mut headers = outgoing.headers()?;
        headers.insert(HeaderName::from_static("Nats-Expected-Stream"), value("stream", stream)?);
        check_size(&client, &outgoing)?;
        let request = async_nats::Request::new().headers(headers).payload(outgoing.data).timeout(Some(ACKNOWLEDGEMENT));
        let reply = client.send_request(outgoing.subject.as_str().to_owned(), request).await.map_err(|error| {
            use async_nats::client::RequestErrorKind::{MaxPayloadExceeded, NoResponders, TimedOut};
            match error.kind() {
                TimedOut => {
                    self.metrics.broker_error(BrokerFault::Timeout);
                    SendError::Timeout
                }
                NoResponders => {
                    self.metrics.broker_error(BrokerFault::NoResponders);
                    SendError::Unavailable
                }
                MaxPayloadExceeded => SendError::TooLarge { limit: client.max_payload() },
                _ => SendError::Unavailable,
            }
        })?;
        let reply: Acknowledgement = serde_json::from_slice(&reply.payload).map_err(|error| {
            self.metrics.broker_error(BrokerFault::Reply);
            SendError::Refused(error.to_string())
        })?;
        match reply.error {
            None => Ok(Stored { sequence: reply.seq, duplicate: reply.duplicate }),
            Some(error) => Err(SendError::Refused(error.to_string())),
        }
    }

    /// Publishes to core NATS, which acknowledges nothing.
    pub async fn send(&self, outgoing: Outgoing) -> Result<(), SendError> {
        let client = self.core.client().filter(|_| self.core.is_connected()).ok_or(SendError::Unavailable)?;
        let headers = outgoing.headers()?;
        check_size(&client, &outgoing)?;
        let subject = outgoing.subject.as_str().to_owned();
        client.publish_with_headers(subject, headers, outgoing.data).await.map_err(|_| SendError::Unavailable)?;
        match tokio::time::timeout(ACKNOWLEDGEMENT, client.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(SendError::Unavailable),
            Err(_) => Err(SendError::Timeout),
        }
    }

    /// Keeps the metric of the connection up to date.
    async fn report(self) {
        let mut watched = [self.live.health(), self.ask.health(), self.core.health()];
        let mut before = None;
        loop {
            let now = self.is_connected();
            if before != Some(now) {
                self.metrics.broker_connected(now);
                before = Some(now);
            }
            let [live, ask, core] = &mut watched;
            tokio::select! {
                _ = live.changed() => {}
                _ = ask.changed() => {}
                _ = core.changed() => {}
            }
        }
    }
}

// === impl Outgoing ===

impl Outgoing {
    fn headers(&self) -> Result<HeaderMap, SendError> {
        let mut headers = HeaderMap::new();
        if let Some(event) = &self.event {
            headers.insert(HeaderName::from_static(EVENT_HEADER), value("event type", event)?);
        }
        if let Some(key) = &self.idempotency_key {
            headers.insert(HeaderName::from_static("Nats-Msg-Id"), value("idempotency key", key)?);
        }
        if let Some(ttl) = self.ttl {
            headers.insert(HeaderName::from_static("Nats-TTL"), value("ttl", &format!("{}s", ttl.as_secs().max(1)))?);
        }
        Ok(headers)
    }
}

fn check_size(client: &async_nats::Client, outgoing: &Outgoing) -> Result<(), SendError> {
    let limit = client.max_payload();
    if outgoing.data.len() > limit { Err(SendError::TooLarge { limit }) } else { Ok(()) }
}

/// `HeaderValue::from` would panic on a line end.
fn value(what: &'static str, text: &str) -> Result<HeaderValue, SendError> {
    HeaderValue::from_str(text).map_err(|_| SendError::Header(what))
}
