//! The part `history` of a Channel: what its stream keeps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::quantity::ByteQuantity;

/// What the stream of a Durable channel keeps, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistorySpec {
    /// How long events are kept, in seconds. Absent means: age does not limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_153_600_000_i64))]
    pub max_age_seconds: Option<i64>,

    /// How many events are kept; the oldest go first. Absent means: their number does not limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_messages: Option<i64>,

    /// How many bytes are kept; the oldest events go first. A number of bytes, or a quantity as in 1Gi; at most
    /// 1024Ti. Absent means: their size does not limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<ByteQuantity>,

    /// How many events of each topic are kept; the oldest go first. 1 makes a last value channel. Absent means: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_messages_per_topic: Option<i64>,

    /// Where the stream is stored: File (on disk) or Memory (lost when NATS restarts without replicas).
    /// Immutable. Default: File.
    #[serde(default)]
    pub storage: Storage,

    /// How many NATS servers keep a copy of the stream. 3 survive the loss of one server. Default: 1.
    #[serde(default = "replicas")]
    #[schemars(range(min = 1, max = 5))]
    pub replicas: i32,

    /// For how long a publication with the same Nats-Msg-Id (Idempotency-Key over HTTP) counts as a duplicate, in
    /// seconds. Never longer than maxAgeSeconds. Default: 120, or maxAgeSeconds where that is shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_153_600_000_i64))]
    pub duplicate_window_seconds: Option<i64>,

    /// What becomes of the stream when the Channel is deleted: Retain (it stays, and a Channel created again under
    /// the same name takes it over) or Delete (it is deleted with all its events). Default: Retain.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
}

/// Where a stream is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Storage {
    /// On disk.
    #[default]
    File,
    /// In memory: faster, and gone when the last server that has it restarts.
    Memory,
}

/// What becomes of a stream when its Channel is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReclaimPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It goes as well.
    Delete,
}

// === impl HistorySpec ===

impl HistorySpec {
    /// What a Durable channel without `history` keeps: a day, a million events, 1 GiB, whichever is reached first.
    pub fn absent() -> Self {
        Self {
            max_age_seconds: Some(86_400),
            max_messages: Some(1_000_000),
            max_bytes: Some("1Gi".into()),
            replicas: replicas(),
            ..Self::default()
        }
    }
}

// === impl Storage ===

impl Storage {
    /// As written in a manifest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "File",
            Self::Memory => "Memory",
        }
    }
}

fn replicas() -> i32 {
    1
}
