//! The beat: what a gateway tells the operator about itself, over core NATS.
//!
//! JSON on [`Release::beat_subject`], which nobody acknowledges: a beat may get lost. So a gateway sends a **full** beat every
//! [`INTERVAL`], with every Route in force, and a **partial** one right after a change, with the channels that it concerns.
//! Each beat of a process has the next number. A beat that is too long for one message comes in pieces of one number, one after
//! the other; what is missing in *all* pieces of a full beat has no Route in force, and a piece of a partial beat counts by itself.
//!
//! Readers of beats ignore fields that they do not know: a gateway may be newer than its operator. What would mean something
//! else gets another [`BEAT_VERSION`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::name::fault::Fault;
use crate::name::key::ChannelKey;
use crate::protocol::release::Release;

/// The version of this document; others are refused.
pub const BEAT_VERSION: u32 = 1;

/// How often a gateway sends a full beat.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// A gateway is silent, or gone, once its last beat is older than this: three beats were missed.
pub const SILENCE: Duration = Duration::from_secs(30);

/// The largest piece, as JSON: a quarter of what NATS takes by default. A server that takes less gets smaller ones.
pub const MAX_PIECE_BYTES: usize = 256 << 10;

/// Pods' names are shorter (253), and so are all random ids.
const MAX_ID_BYTES: usize = 255;

/// Which process beats.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sender {
    release: Release,
    pod: String,
    name: String,
    run: String,
}

/// One piece of a beat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Beat {
    /// [`BEAT_VERSION`].
    pub version: u32,
    /// Which installation the gateway belongs to.
    pub release: Release,
    /// The uid of its pod; outside a cluster something random.
    pub pod: String,
    /// The name of its pod; outside a cluster the host's.
    pub name: String,
    /// Random, another one for each process: a restarted container is the same pod, but begins to count again.
    pub run: String,
    /// Counts the beats of a process, from 1. All pieces of one beat have the same.
    pub number: u64,
    /// Whether the pieces together say everything, or only what has changed.
    pub full: bool,
    /// Which piece of the beat this is, from 1.
    pub piece: u32,
    /// How many pieces the beat has.
    pub pieces: u32,
    /// What the gateway says of each channel.
    pub channels: Channels,
}

/// What a gateway says of its channels.
pub type Channels = BTreeMap<ChannelKey, ChannelBeat>;

/// What a gateway says of one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelBeat {
    /// [`crate::protocol::route::Route::digest`] of the Route in force; null if there is none.
    #[serde(deserialize_with = "required")]
    pub digest: Option<String>,
    /// How many streams of the channel are open.
    pub subscribers: u64,
}

/// Why a message is not a beat.
#[derive(Debug, thiserror::Error)]
pub enum BeatError {
    /// Larger than any piece.
    #[error("a beat has at most {MAX_PIECE_BYTES} bytes, this one has {0}")]
    TooLarge(usize),
    /// Not JSON of this shape.
    #[error("failed to read the beat")]
    Json(#[from] serde_json::Error),
    /// Another version of the document.
    #[error("the beat has version {0}; version {BEAT_VERSION} can be read")]
    Version(u32),
    /// A value that no gateway writes.
    #[error("the beat is out of order: {0}")]
    Fault(Fault),
}

/// All that is looked at in a beat of another version.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

// === impl Sender ===

impl Sender {
    /// The process `run` in the pod `name` with the uid `pod`.
    pub fn new(
        release: Release,
        pod: impl Into<String>,
        name: impl Into<String>,
        run: impl Into<String>,
    ) -> Result<Self, Fault> {
        let sender = Self { release, pod: pod.into(), name: name.into(), run: run.into() };
        match faulty_id(&sender.pod, &sender.name, &sender.run) {
            None => Ok(sender),
            Some(fault) => Err(fault),
        }
    }

    /// Which installation it belongs to.
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// The uid of its pod.
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// The name of its pod.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which process of the pod it is.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Its beat with this number, in as many pieces as it takes, in the order in which they are sent; at least one. No piece
    /// has more bytes than the server takes (`max_payload`) or [`MAX_PIECE_BYTES`]; only a single channel that alone is longer.
    pub fn beat(&self, number: u64, full: bool, channels: Channels, max_payload: usize) -> Vec<Beat> {
        let most = max_payload.min(MAX_PIECE_BYTES);
        let empty = self.piece(number, full, Channels::new());
        // With the longest numbers that a piece can have, so that they need not be known yet.
        let head = length(&Beat { piece: u32::MAX, pieces: u32::MAX, ..empty.clone() });
        let (mut beats, mut bytes) = (vec![empty.clone()], head);
        for (key, said) in channels {
            // A colon and a comma.
            let entry = length(&key) + length(&said) + 2;
            if bytes + entry > most && bytes > head {
                beats.push(empty.clone());
                bytes = head;
            }
            bytes += entry;
            if let Some(last) = beats.last_mut() {
                last.channels.insert(key, said);
            }
        }
        let pieces = u32::try_from(beats.len()).unwrap_or(u32::MAX);
        for (piece, beat) in (1..).zip(&mut beats) {
            (beat.piece, beat.pieces) = (piece, pieces);
        }
        beats
    }

    fn piece(&self, number: u64, full: bool, channels: Channels) -> Beat {
        Beat {
            version: BEAT_VERSION,
            release: self.release.clone(),
            pod: self.pod.clone(),
            name: self.name.clone(),
            run: self.run.clone(),
            number,
            full,
            piece: 1,
            pieces: 1,
            channels,
        }
    }
}

// === impl Beat ===

impl Beat {
    /// Reads a message. Anybody may have sent it, so everything is checked but who did.
    pub fn from_json(message: &[u8]) -> Result<Self, BeatError> {
        if message.len() > MAX_PIECE_BYTES {
            return Err(BeatError::TooLarge(message.len()));
        }
        let beat: Self = serde_json::from_slice(message).map_err(|error| {
            // Another version may have another shape: then the version says more than the shape.
            match serde_json::from_slice(message) {
                Ok(Versioned { version }) if version != BEAT_VERSION => BeatError::Version(version),
                _ => BeatError::Json(error),
            }
        })?;
        if beat.version != BEAT_VERSION {
            return Err(BeatError::Version(beat.version));
        }
        match beat.fault() {
            Some(fault) => Err(BeatError::Fault(fault)),
            None => Ok(beat),
        }
    }

    /// Writes the message.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a beat has only string keys and no value that JSON cannot hold")
    }

    fn fault(&self) -> Option<Fault> {
        if let Some(fault) = faulty_id(&self.pod, &self.name, &self.run) {
            return Some(fault);
        }
        if self.number == 0 {
            return Some(Fault::new("number", "beats are counted from 1"));
        }
        if self.piece == 0 || self.piece > self.pieces {
            return Some(Fault::new("piece", "pieces are counted from 1 to their number"));
        }
        let is_digest = |text: &str| (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        let faulty = |said: &ChannelBeat| said.digest.as_deref().is_some_and(|digest| !is_digest(digest));
        let (key, _) = self.channels.iter().find(|(_, said)| faulty(said))?;
        Some(Fault::new(format!("channels.{key}.digest"), "write hexadecimal digits, or null"))
    }
}

/// The length of the JSON text.
fn length(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(MAX_PIECE_BYTES, |text| text.len())
}

fn faulty_id(pod: &str, name: &str, run: &str) -> Option<Fault> {
    // No quote, no backslash: an id is as long in JSON as it is.
    let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let is_id = |text: &str| (1..=MAX_ID_BYTES).contains(&text.len()) && text.bytes().all(sound);
    let (path, _) = [("pod", pod), ("name", name), ("run", run)].into_iter().find(|(_, text)| !is_id(text))?;
    Some(Fault::new(path, format!("write letters, digits, dashes, underscores and dots, at most {MAX_ID_BYTES}")))
}

/// serde takes an absent `Option` for `None`; here null says something.
fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)
}
