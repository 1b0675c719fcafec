//! What a channel's stream really held: every message ever stored in it, and what became of it.

use std::collections::BTreeMap;
use std::time::Instant;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
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
        // One by one from the leader: it takes a while, and it survives whatever the test has just done to the server.
        while let Some(stored) = next(stream, truth.facts.last_key_value().map_or(1, |(last, _)| last + 1)).await {
            let millis = stored.time.unix_timestamp_nanos() / 1_000_000;
            let fact = Fact {
                topic: topic(manifest, &stored.subject).to_owned(),
                event: event(&stored.headers),
                data: as_text(&stored.payload),
                stamp: Some(Stamp::from_millis(u64::try_from(millis).expect("messages are stored after 1970"))),
                removed: None,
            };
            truth.facts.insert(stored.sequence, fact);
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
}

/// The first message stored at or behind a sequence.
async fn next(stream: &Stream, sequence: u64) -> Option<StreamMessage> {
    eventually(PATIENCE, "a stored message", || async {
        match stream.raw_message_builder().sequence(sequence).next_by_subject(">").send().await {
            Ok(stored) => Ok(Some(stored)),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await
}

/// What a publication's bytes read as at the other end: UTF-8 with U+FFFD, lines joined by LF.
pub fn as_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n")
}

fn topic<'s>(manifest: &Manifest, subject: &'s str) -> &'s str {
    let rest = subject.strip_prefix(&manifest.subject("")).expect("a channel's stream holds its own subjects");
    rest.strip_prefix('.').unwrap_or(rest)
}

fn event(headers: &async_nats::HeaderMap) -> String {
    headers.get("Tidings-Event").map_or_else(|| "message".to_owned(), |event| event.as_str().to_owned())
}
