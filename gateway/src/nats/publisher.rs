//! Publishes into streams and to core NATS, over a connection of its own.
//!
//! What goes wrong with a publication (a reply with a malformed header block, a payload above a limit that was lowered) ends
//! the connection that it went over. So nothing else uses that one.

use std::future::pending;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_nats::client::{PublishErrorKind, RequestErrorKind};
use async_nats::{Client, HeaderMap, HeaderName, HeaderValue, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tidings_crds::subject::Pattern;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::metrics::registry::{BrokerFault, Metrics};
use crate::nats::acknowledgement::{self, Answer, Refusal, Stored};
use crate::nats::connection::{Health, Link, Peer};
use crate::nats::decode::EVENT_HEADER;
use crate::runtime::tasks::CoreTasks;

/// How long a publication may wait for its acknowledgement.
const ACKNOWLEDGEMENT: Duration = Duration::from_secs(5);

/// How long a connection may take to come back, where that alone tells what became of a publication.
const RECONNECT: Duration = Duration::from_secs(2);

/// The least time between two looks at a server's limits. nats-server tells its clients nothing when a reload raises
/// `max_payload`; a new connection is told.
const RENEWAL: Duration = Duration::from_secs(3);

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
    pub message_id: Option<String>,
    /// The body.
    pub data: Bytes,
}

/// Why a publication was not stored, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// A header value has a character that headers cannot have.
    #[error("the {0} has a character that a NATS header cannot have")]
    Header(&'static str),
    /// Larger than the server takes.
    #[error("NATS accepts at most {limit} bytes")]
    TooLarge {
        /// In bytes, headers included.
        limit: usize,
    },
    /// NATS is away.
    #[error("NATS is not connected")]
    Disconnected,
    /// No stream has the subject.
    #[error("no stream listens to the subject")]
    NoStream,
    /// No acknowledgement in time: it may be stored or not.
    #[error("NATS did not acknowledge in time")]
    Timeout,
    /// The stream refused.
    #[error("NATS refused: {0}")]
    Refused(Refusal),
}

/// Publishes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Publisher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    peer: Peer,
    metrics: Arc<Metrics>,
    tasks: CoreTasks,
    stop: CancellationToken,
    current: ArcSwap<Current>,
    /// When the connection was last replaced for its limits.
    renewed: Mutex<Option<Instant>>,
}

/// The connection in use, and what ends it.
#[derive(Debug)]
struct Current {
    link: Link,
    stop: CancellationToken,
}

/// What is known while a publication waits.
struct Pending {
    client: Client,
    health: watch::Receiver<Health>,
    breaks: u64,
    deadline: Instant,
    /// Of headers and data together.
    size: usize,
}

// === impl Publisher ===

impl Publisher {
    /// Connects in the background, for as long as `stop` allows.
    pub fn open(peer: Peer, metrics: Arc<Metrics>, tasks: CoreTasks, stop: CancellationToken) -> Self {
        let current = ArcSwap::from_pointee(Current::open(&peer, &metrics, &tasks, &stop));
        Self { inner: Arc::new(Inner { peer, metrics, tasks, stop, current, renewed: Mutex::default() }) }
    }

    /// Publishes into `stream` and waits for its acknowledgement. Replies of others are not the answer.
    pub async fn store(&self, stream: &str, outgoing: Outgoing) -> Result<Stored, SendError> {
        let mut headers = outgoing.headers()?;
        headers.insert(HeaderName::from_static("Nats-Expected-Stream"), value("stream", stream)?);
        let deadline = Instant::now() + ACKNOWLEDGEMENT;
        let mut renewed = false;
        loop {
            let pending = self.pending(&headers, &outgoing.data, deadline)?;
            let inbox = pending.client.new_inbox();
            let replies = pending.client.subscribe(inbox.clone()).await.map_err(|_| SendError::Disconnected)?;
            let subject = outgoing.subject.as_str().to_owned();
            let (headers, data) = (headers.clone(), outgoing.data.clone());
            let sent = pending.client.publish_with_reply_and_headers(subject, inbox, headers, data).await;
            match sent.map_err(|error| error.kind()) {
                Ok(()) => return self.acknowledged(pending, stream, replies).await,
                Err(PublishErrorKind::MaxPayloadExceeded) => {
                    if renewed || !self.renew(&pending).await {
                        return Err(SendError::TooLarge { limit: pending.client.max_payload() });
                    }
                    renewed = true;
                }
                Err(_) => return Err(SendError::Disconnected),
            }
        }
    }

    /// Publishes to core NATS, which acknowledges nothing; waits until the server has read it.
    pub async fn send(&self, outgoing: Outgoing) -> Result<(), SendError> {
        let headers = outgoing.headers()?;
        let deadline = Instant::now() + ACKNOWLEDGEMENT;
        let mut renewed = false;
        loop {
            let mut pending = self.pending(&headers, &outgoing.data, deadline)?;
            let subject = outgoing.subject.as_str().to_owned();
            let sent = pending.client.publish_with_headers(subject, headers.clone(), outgoing.data.clone()).await;
            match sent.map_err(|error| error.kind()) {
                Ok(()) => {
                    // The server answers in order: a request that nothing listens to comes back once all before it is read.
                    let nobody = pending.client.new_inbox();
                    let client = pending.client.clone();
                    return tokio::select! {
                        read = timeout_at(deadline, client.request(nobody, Bytes::new())) => match read {
                            Ok(Ok(_)) => Ok(()),
                            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Ok(()),
                            Ok(Err(_)) | Err(_) => Err(self.unknown()),
                        },
                        () = broken(&mut pending.health, pending.breaks) => Err(self.after_break(&mut pending).await),
                    };
                }
                Err(PublishErrorKind::MaxPayloadExceeded) => {
                    if renewed || !self.renew(&pending).await {
                        return Err(SendError::TooLarge { limit: pending.client.max_payload() });
                    }
                    renewed = true;
                }
                Err(_) => return Err(SendError::Disconnected),
            }
        }
    }

    fn pending(&self, headers: &HeaderMap, data: &Bytes, deadline: Instant) -> Result<Pending, SendError> {
        let current = self.inner.current.load();
        let mut health = current.link.health();
        let breaks = health.borrow_and_update().breaks;
        let client = current.link.client().filter(|_| current.link.is_connected()).ok_or(SendError::Disconnected)?;
        Ok(Pending { client, health, breaks, deadline, size: wire_bytes(headers) + data.len() })
    }

    async fn acknowledged(
        &self,
        mut pending: Pending,
        stream: &str,
        mut replies: Subscriber,
    ) -> Result<Stored, SendError> {
        loop {
            let reply = tokio::select! {
                reply = timeout_at(pending.deadline, replies.next()) => reply,
                () = broken(&mut pending.health, pending.breaks) => return Err(self.after_break(&mut pending).await),
            };
            let Ok(Some(message)) = reply else { return Err(self.unknown()) };
            match acknowledgement::read(&message, stream) {
                Answer::Stored(stored) => return Ok(stored),
                Answer::Refused(refusal) => return Err(SendError::Refused(refusal)),
                Answer::NoResponders => {
                    self.inner.metrics.broker_error(BrokerFault::NoResponders);
                    return Err(SendError::NoStream);
                }
                Answer::Foreign => self.inner.metrics.broker_error(BrokerFault::Reply),
            }
        }
    }

    /// Stored or not: the deadline has passed, or the answer was lost.
    fn unknown(&self) -> SendError {
        self.inner.metrics.broker_error(BrokerFault::Timeout);
        SendError::Timeout
    }

    /// What became of a publication whose connection broke: nats-server closes a connection that brings more than
    /// `max_payload`, and the next connection is told what that is now.
    async fn after_break(&self, pending: &mut Pending) -> SendError {
        let until = pending.deadline.min(Instant::now() + RECONNECT);
        let back = pending.health.wait_for(|health| health.connected && health.breaks > pending.breaks);
        let back = timeout_at(until, back).await.is_ok_and(|back| back.is_ok());
        let limit = pending.client.max_payload();
        if back && pending.size > limit { SendError::TooLarge { limit } } else { self.unknown() }
    }

    /// Whether there is another connection now that takes more than the one that a publication was too large for.
    async fn renew(&self, pending: &Pending) -> bool {
        let mut renewed = self.inner.renewed.lock().await;
        let takes =
            |current: &Current| current.link.client().is_some_and(|client| pending.size <= client.max_payload());
        if takes(&self.inner.current.load()) {
            return true;
        }
        if renewed.is_some_and(|at| at.elapsed() < RENEWAL) {
            return false;
        }
        *renewed = Some(Instant::now());
        let Inner { peer, metrics, tasks, stop, .. } = &*self.inner;
        let next = Current::open(peer, metrics, tasks, stop);
        let mut health = next.link.health();
        let connected = timeout(RECONNECT, health.wait_for(|health| health.connected)).await;
        if !connected.is_ok_and(|connected| connected.is_ok()) {
            next.stop.cancel();
            return false;
        }
        let larger = takes(&next);
        // Publications that wait keep the old client, and with it its connection, until they have their answers.
        self.inner.current.swap(Arc::new(next)).stop.cancel();
        larger
    }
}

// === impl Current ===

impl Current {
    fn open(peer: &Peer, metrics: &Arc<Metrics>, tasks: &CoreTasks, stop: &CancellationToken) -> Self {
        let stop = stop.child_token();
        Self { link: Link::open(peer.clone(), "publish", metrics.clone(), stop.clone(), tasks), stop }
    }
}

/// Waits until the connection breaks. One that is no longer watched has been replaced, and still brings answers.
async fn broken(health: &mut watch::Receiver<Health>, breaks: u64) {
    if health.wait_for(|health| health.breaks != breaks).await.is_err() {
        pending::<()>().await;
    }
}

// === impl Outgoing ===

impl Outgoing {
    fn headers(&self) -> Result<HeaderMap, SendError> {
        let mut headers = HeaderMap::new();
        if let Some(event) = &self.event {
            headers.insert(HeaderName::from_static(EVENT_HEADER), value("event type", event)?);
        }
        if let Some(id) = &self.message_id {
            headers.insert(HeaderName::from_static("Nats-Msg-Id"), value("idempotency key", id)?);
        }
        if let Some(ttl) = self.ttl {
            headers.insert(HeaderName::from_static("Nats-TTL"), value("ttl", &format!("{}s", ttl.as_secs().max(1)))?);
        }
        Ok(headers)
    }
}

/// `NATS/1.0`, a line for each header, and an empty one.
fn wire_bytes(headers: &HeaderMap) -> usize {
    let line = |name: &HeaderName, value: &HeaderValue| {
        let name: &[u8] = name.as_ref();
        name.len() + value.as_str().len() + ": \r\n".len()
    };
    let lines: usize =
        headers.iter().flat_map(|(name, values)| values.iter().map(move |value| line(name, value))).sum();
    if headers.is_empty() { 0 } else { "NATS/1.0\r\n\r\n".len() + lines }
}

/// `HeaderValue::from` would panic on a line end.
fn value(what: &'static str, text: &str) -> Result<HeaderValue, SendError> {
    HeaderValue::from_str(text).map_err(|_| SendError::Header(what))
}
