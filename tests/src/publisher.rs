//! Publishing as an application does, through faults too: a publication counts once it is acknowledged, and one that
//! was not is repeated under its `Nats-Msg-Id`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{
    self,
    context::PublishAckFuture,
    stream::{RawMessageErrorKind, Stream},
};
use bytes::Bytes;

use crate::manifest::Manifest;
use crate::wait::{PATIENCE, eventually};

/// One message to publish.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    topic: String,
    headers: HeaderMap,
    data: Bytes,
}

/// Publishes to one durable channel.
#[derive(Clone, Debug)]
pub struct Publisher {
    jetstream: jetstream::Context,
    manifest: Manifest,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

// === impl Publication ===

impl Publication {
    /// A message to a topic.
    pub fn new(topic: &str, data: impl Into<Bytes>) -> Self {
        Self { topic: topic.to_owned(), headers: HeaderMap::new(), data: data.into() }
    }

    /// With a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// With an event type.
    pub fn event(self, event: &str) -> Self {
        self.header("Tidings-Event", event)
    }
}

// === impl Publisher ===

impl Publisher {
    /// A publisher to `manifest`'s channel.
    pub fn new(jetstream: &jetstream::Context, manifest: &Manifest) -> Self {
        Self { jetstream: jetstream.clone(), manifest: manifest.clone() }
    }

    /// Publishes `data` to a topic and returns its sequence.
    pub async fn publish(&self, topic: &str, data: impl Into<Bytes>) -> u64 {
        self.send(Publication::new(topic, data)).await
    }

    /// [`Publisher::publish`] while NATS may be away for longer.
    pub async fn publish_within(&self, deadline: Duration, topic: &str, data: impl Into<Bytes>) -> u64 {
        self.send_within(deadline, Publication::new(topic, data)).await
    }

    /// Publishes and returns the sequence; repeats itself until the stream has acknowledged.
    pub async fn send(&self, publication: Publication) -> u64 {
        self.send_within(PATIENCE, publication).await
    }

    async fn send_within(&self, deadline: Duration, publication: Publication) -> u64 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", std::process::id());
        let publication = publication.header("Nats-Msg-Id", &id);
        let what = format!("{} acknowledges a publication", self.manifest.stream());
        eventually(deadline, &what, || async {
            let acknowledged = async { self.start(publication.clone()).await?.await.map_err(|e| e.to_string()) };
            tokio::time::timeout(Duration::from_secs(6), acknowledged).await.map_err(|e| e.to_string())?
        })
        .await
        .sequence
    }

    /// Publishes `count` messages, `0`, `1`, … to one topic with many in flight, and returns the last sequence.
    pub async fn fill(&self, topic: &str, count: u64) -> u64 {
        self.fill_with(topic, (0..count).map(|n| n.to_string())).await
    }

    /// [`Publisher::fill`] with given data.
    pub async fn fill_with(&self, topic: &str, data: impl IntoIterator<Item = impl Into<Bytes>>) -> u64 {
        let mut last = 0;
        let mut waiting = Vec::new();
        for data in data {
            waiting.push(self.start(Publication::new(topic, data)).await.expect("connected"));
            // Well below the 256 unacknowledged publications that the client allows.
            if waiting.len() == 100 {
                last = acknowledged(&mut waiting).await;
            }
        }
        acknowledged(&mut waiting).await.max(last)
    }

    /// The channel's stream.
    pub async fn stream(&self) -> Stream {
        let name = self.manifest.stream();
        eventually(PATIENCE, &format!("the stream {name}"), || self.jetstream.get_stream(name.clone())).await
    }

    /// The channel's stream as it is now: first and last sequence and count of messages.
    pub async fn state(&self) -> jetstream::stream::State {
        let stream = self.stream().await;
        eventually(PATIENCE, "the stream's state", || stream.get_info()).await.state
    }

    /// Removes all messages.
    pub async fn purge(&self) {
        let stream = self.stream().await;
        eventually(PATIENCE, "a purge", || async { stream.purge().await }).await;
    }

    /// Removes all messages below a sequence.
    pub async fn purge_below(&self, sequence: u64) {
        let stream = self.stream().await;
        eventually(PATIENCE, "a purge", || async { stream.purge().sequence(sequence).await }).await;
    }

    /// Removes one message; one that is gone already is fine.
    pub async fn delete(&self, sequence: u64) {
        let stream = self.stream().await;
        eventually(PATIENCE, "a deletion", || async {
            let Err(error) = stream.delete_message(sequence).await else { return Ok(()) };
            match stream.get_raw_message(sequence).await {
                Err(gone) if gone.kind() == RawMessageErrorKind::NoMessageFound => Ok(()),
                _ => Err(error),
            }
        })
        .await;
    }

    async fn start(&self, publication: Publication) -> Result<PublishAckFuture, String> {
        let Publication { topic, headers, data } = publication;
        let subject = self.manifest.subject(&topic);
        self.jetstream.publish_with_headers(subject, headers, data).await.map_err(|error| error.to_string())
    }
}

async fn acknowledged(waiting: &mut Vec<PublishAckFuture>) -> u64 {
    let mut last = 0;
    for future in waiting.drain(..) {
        last = future.await.expect("the stream acknowledges").sequence;
    }
    last
}
