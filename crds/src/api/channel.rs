//! The Channel resource (`channels.tidings.dev`) as users write it.
//!
//! The doc comments of the fields are what `kubectl explain channels.tidings.dev` shows. Types here are raw: a value
//! may break a rule of [`crate::api::rule`]; [`crate::desired`] is the step after which nobody reads them any more.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::api::access::{AccessMode, AccessSpec, CorsSpec, PublishAccess, SubscribeAccess, TokenSource};
pub use crate::api::events::{Encoding, EventsSpec, Start};
pub use crate::api::history::{HistorySpec, ReclaimPolicy, Storage};
pub use crate::api::limits::LimitsSpec;
pub use crate::api::status::{ChannelStatus, GatewayCount};
use crate::name::key::ChannelKey;

/// The class of an installation that was given no other.
pub const DEFAULT_CLASS: &str = "tidings";

/// What a channel is and who may use it.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tidings.dev",
    version = "v1alpha1",
    kind = "Channel",
    plural = "channels",
    shortname = "tch",
    category = "tidings",
    namespaced,
    status = "ChannelStatus",
    derive = "PartialEq",
    doc = "A stream of events that browsers subscribe to with EventSource: publications on its NATS subjects are sent to its subscribers."
)]
#[serde(rename_all = "camelCase")]
// circle: the schema of the type carries the rules over it.
#[schemars(transform = crate::api::rule::write)]
pub struct ChannelSpec {
    /// Which installation of Tidings serves the channel. Immutable. Default: tidings.
    #[serde(default = "class_name")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub class_name: String,

    /// The NATS subjects whose messages are the channel's events, with wildcards * and >. Absent or empty means:
    /// tidings.NAMESPACE.NAME and everything below it, which needs no permission. Any other subject needs a grant
    /// from the administrator. With explicit subjects a topic is the whole subject.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 255)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub subjects: Vec<String>,

    /// What subscribers are promised: Durable (events are kept in JetStream; at least once, clients resume where they
    /// stopped) or Ephemeral (core NATS: at most once, no ids, no history). Immutable. Default: Durable.
    #[serde(default)]
    pub durability: Durability,

    /// What the stream keeps. Absent means: events of one day, at most 1,000,000 of them and 1Gi, on disk. Where
    /// history is present, a limit that is left out does not limit. Not allowed with durability Ephemeral.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistorySpec>,

    /// How publications become events.
    #[serde(default)]
    pub events: EventsSpec,

    /// Who may subscribe and publish over HTTP.
    #[serde(default)]
    pub access: AccessSpec,

    /// Which web pages may use the channel (cross-origin resource sharing).
    #[serde(default)]
    pub cors: CorsSpec,

    /// Limits of this channel, each per gateway pod.
    #[serde(default)]
    pub limits: LimitsSpec,
}

/// What subscribers are promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Durability {
    /// At least once, from JetStream.
    #[default]
    Durable,
    /// At most once, from core NATS.
    Ephemeral,
}

// === impl Channel ===

impl Channel {
    /// Its namespace and name; a part that is missing is empty.
    pub fn key(&self) -> ChannelKey {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        ChannelKey { namespace: part(&self.metadata.namespace), name: part(&self.metadata.name) }
    }
}

// === impl ChannelSpec ===

impl Default for ChannelSpec {
    fn default() -> Self {
        Self {
            class_name: class_name(),
            subjects: Vec::new(),
            durability: Durability::default(),
            history: None,
            events: EventsSpec::default(),
            access: AccessSpec::default(),
            cors: CorsSpec::default(),
            limits: LimitsSpec::default(),
        }
    }
}

// === impl Durability ===

impl Durability {
    /// As written in a manifest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Durable => "Durable",
            Self::Ephemeral => "Ephemeral",
        }
    }
}

fn class_name() -> String {
    DEFAULT_CLASS.to_owned()
}
