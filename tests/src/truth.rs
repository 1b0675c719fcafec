//! What a channel's stream really held: every message ever stored in it, and what became of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt;
use tidings_crds::position::{Epoch, Position, Stamp};

use crate::manifest::Manifest;
use crate::wait::{PATIENCE, eventually};

/// One message that was stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fact {
    /// Its topic.
    pub topic: String,
    /// Its event type; `message` without one.
    pub event: String,
    /// Its data as a subscriber reads it.
    pub data: String,
    /// Its stamp, where it was read from the stream.
    pub stamp: Option<Stamp>,
    /// When its publisher knew that it was stored.
    pub acknowledged: Option<Instant>,
    /// How and since when it may be gone.
    pub removed: Option<(Removal, Instant)>,
}

/// How a message left its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Alone, by its topic, its own expiry or a later value: this is the channel's contract and no gap.
    Single,
    /// With everything before it, by a purge or a limit: a subscriber who missed it is told.
    Front,
}

/// One incarnation of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Incarnation {
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether it keeps all messages of a topic; else a missing one is never a gap.
    pub keeps_all: bool,
    /// Everything stored, by sequence.
    pub facts: BTreeMap<u64, Fact>,
}

/// All incarnations of a channel's stream, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Truth(pub Vec<Incarnation>);

// === impl Incarnation ===

impl Incarnation {
    /// Nothing stored yet.
    pub fn new(epoch: Epoch) -> Self {
        Self { epoch, keeps_all: true, facts: BTreeMap::new() }
    }

    /// Reads what `manifest`'s stream holds now.
    pub async fn read(stream: &Stream, manifest: &Manifest) -> Self {
        let info = eventually(PATIENCE, "the stream's state", || stream.get_info()).await;
        let nanos = u64::try_from(info.created.unix_timestamp_nanos()).expect("streams are created after 1970");
        let mut truth = Self::new(Epoch::from_nanos(nanos));
        truth.keeps_all = info.config.max_messages_per_subject <= 0;
        if info.state.messages == 0 {
            return truth;
        }
        let config = pull::Config { ack_policy: AckPolicy::None, ..Default::default() };
        let consumer = eventually(PATIENCE, "a consumer", || stream.create_consumer(config.clone())).await;
        while truth.facts.last_key_value().is_none_or(|(last, _)| *last < info.state.last_sequence) {
            let batch = consumer.batch().max_messages(1000).expires(Duration::from_secs(2)).messages();
            let mut batch = batch.await.expect("a batch of messages");
            let before = truth.facts.len();
            while let Some(message) = batch.next().await {
                let message = message.expect("a message");
                let about = message.info().expect("a message of a stream");
                let millis = about.published.unix_timestamp_nanos() / 1_000_000;
                let fact = Fact {
                    topic: topic(manifest, &message.subject).to_owned(),
                    event: event(message.headers.as_ref()),
                    data: as_text(&message.payload),
                    stamp: Some(Stamp::from_millis(u64::try_from(millis).expect("messages are stored after 1970"))),
                    ..Fact::default()
                };
                truth.facts.insert(about.stream_sequence, fact);
            }
            if truth.facts.len() == before {
                break; // What was left at the time of the first look has been deleted since.
            }
        }
        truth
    }

    /// The position of a stored message.
    pub fn position(&self, sequence: u64) -> Position {
        let stamp = self.facts.get(&sequence).and_then(|fact| fact.stamp);
        Position { epoch: self.epoch, sequence, stamp }
    }

    /// The highest sequence that can have been the first still stored at `at`.
    pub fn first_at_most(&self, at: Instant) -> u64 {
        let kept = self.facts.iter().find(|(_, fact)| fact.removed.is_none_or(|(_, since)| since > at));
        kept.map(|(sequence, _)| *sequence)
            .or_else(|| self.facts.last_key_value().map(|(last, _)| last + 1))
            .unwrap_or(1)
    }

    /// The highest sequence acknowledged by `at`.
    pub fn acknowledged_by(&self, at: Instant) -> u64 {
        let known = self.facts.iter().rev().find(|(_, fact)| fact.acknowledged.is_some_and(|known| known <= at));
        known.map_or(0, |(sequence, _)| *sequence)
    }
}

/// What a publication's bytes read as at the other end: UTF-8 with U+FFFD, lines joined by LF.
pub fn as_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n")
}

fn topic<'s>(manifest: &Manifest, subject: &'s str) -> &'s str {
    let rest = subject.strip_prefix(&manifest.subject("")).expect("a channel's stream holds its own subjects");
    rest.strip_prefix('.').unwrap_or(rest)
}

fn event(headers: Option<&async_nats::HeaderMap>) -> String {
    let event = headers.and_then(|headers| headers.get("Tidings-Event"));
    event.map_or_else(|| "message".to_owned(), |event| event.as_str().to_owned())
}
