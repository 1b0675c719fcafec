//! The Route: what the operator tells gateways about one Channel, with every default filled in.
//!
//! Written as YAML, into a file (`--routes DIR`) or the key `route.yaml` of a ConfigMap. Gateways take a Route whole or
//! not at all, and tell its [`Route::digest`] back. What could break a gateway is refused when a Route is read: the folder
//! or namespace it lies in may hold anything.

use serde::de::Error;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::channel::{AccessMode, Encoding, Start, TokenSource};
use crate::name::fault::Fault;
use crate::name::label::is_label;
use crate::name::template::TopicTemplate;
use crate::name::topic::TopicSpace;

/// The version of this document; a gateway refuses others.
pub const ROUTE_VERSION: u32 = 1;

/// Everything a gateway needs to serve one Channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// [`ROUTE_VERSION`].
    pub version: u32,
    /// The Channel's namespace.
    pub namespace: String,
    /// The Channel's name.
    pub name: String,
    /// The Channel's `metadata.generation` this Route was made from; 0 for a Channel from a file.
    pub generation: i64,
    /// Whether the Channel is there.
    pub state: RouteState,
    /// Where its events come from.
    pub source: RouteSource,
    /// Which NATS subjects it covers, and how topics and subjects correspond.
    pub topics: TopicSpace,
    /// How events are sent.
    pub events: RouteEvents,
    /// Who may subscribe and publish.
    pub access: RouteAccess,
    /// Which web origins may.
    pub cors: RouteCors,
    /// Limits per gateway process; an absent limit does not limit.
    pub limits: RouteLimits,
}

/// Whether the Channel of a Route is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteState {
    /// Serve it.
    Active,
    /// The Channel was deleted: end its streams now. A Route that merely disappears is served for 60 s more.
    Removed,
}

/// Where a channel's events come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "durability", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum RouteSource {
    /// A JetStream stream, republished below `tidings-live.<stream>.`.
    Durable {
        /// The stream's name.
        stream: String,
        /// How many messages the stream keeps per subject; absent means all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_messages_per_topic: Option<u64>,
    },
    /// Core NATS: at most once, no ids.
    Ephemeral,
}

/// How events are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteEvents {
    /// Where a client without a position starts.
    pub from: Start,
    /// How a publication's bytes become text.
    pub encoding: Encoding,
    /// The longest silence before a heartbeat, in seconds.
    pub heartbeat_seconds: u32,
    /// What clients are told to wait before they reconnect, in milliseconds. The operator writes at
    /// least 500.
    pub retry_milliseconds: u32,
    /// The largest publication sent as it is, in bytes; a larger one becomes a `tidings.oversize` event.
    pub max_event_bytes: u64,
}

/// Who may subscribe and publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteAccess {
    /// Which of the administrator's issuers are accepted; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuers: Option<Vec<String>>,
    /// Where a token may stand in a request.
    pub token_sources: Vec<TokenSource>,
    /// Subscribing.
    pub subscribe: RouteGrant,
    /// Publishing over HTTP.
    pub publish: RouteGrant,
}

/// One direction of access.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteGrant {
    /// Who may.
    pub mode: AccessMode,
    /// For which topics: literals, wildcards or claim templates; `>` is all.
    pub topics: Vec<String>,
}

/// Which web origins may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteCors {
    /// Origins, as in `https://shop.example` or `https://*.shop.example`, or the single entry `*`: see [`crate::name::origin`].
    pub origins: Vec<String>,
    /// Whether cookies may be sent along.
    pub allow_credentials: bool,
}

/// Limits per gateway process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteLimits {
    /// Open streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Open streams of one client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_per_client: Option<u32>,
    /// Publications over HTTP, per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_per_second: Option<u32>,
    /// New streams, per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connects_per_second: Option<u32>,
}

/// Why a text is not a Route.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Not YAML of this shape; the source names the line.
    #[error("failed to read the route")]
    Yaml(#[from] serde_yaml::Error),
    /// Another version of the document.
    #[error("the route has version {0}; this gateway reads version {ROUTE_VERSION}")]
    Version(u32),
}

// === impl Route ===

impl Route {
    /// Whether `other` makes the same events of the same messages: the same stream and topics, written the same way. If not,
    /// what was made by one must not be mixed with what is made by the other.
    pub fn serves_same_events(&self, other: &Self) -> bool {
        let made = |route: &Self| (route.events.encoding, route.events.max_event_bytes);
        self.source == other.source && self.topics == other.topics && made(self) == made(other)
    }

    /// Reads the YAML document.
    pub fn from_yaml(text: &str) -> Result<Self, RouteError> {
        let route: Self = serde_yaml::from_str(text)?;
        if route.version != ROUTE_VERSION {
            return Err(RouteError::Version(route.version));
        }
        match route.fault() {
            Some(fault) => Err(serde_yaml::Error::custom(fault).into()),
            None => Ok(route),
        }
    }

    /// Writes the YAML document. Equal Routes give equal bytes.
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(self).expect("a Route has only string keys and no value that YAML cannot hold")
    }

    /// What tells two Routes apart: the first 16 hexadecimal digits of the SHA-256 of [`Route::to_yaml`].
    pub fn digest(&self) -> String {
        use std::fmt::Write;
        Sha256::digest(self.to_yaml()).iter().take(8).fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// What could break a gateway: parts of subjects that are none, times that never pass, topics that say nothing.
    fn fault(&self) -> Option<Fault> {
        let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        let is_token = |text: &str| (1..=255).contains(&text.len()) && text.bytes().all(sound);
        let stream = match &self.source {
            RouteSource::Durable { stream, .. } => is_token(stream),
            RouteSource::Ephemeral => true,
        };
        let topics = match &self.topics {
            TopicSpace::Below { base } => base.is_literal(),
            TopicSpace::Whole { subjects } => !subjects.is_empty(),
        };
        let templates = |grant: &RouteGrant| grant.topics.iter().all(|topic| topic.parse::<TopicTemplate>().is_ok());
        let checks = [
            (is_label(&self.namespace), "namespace", "write a DNS label"),
            (is_label(&self.name), "name", "write a DNS label"),
            (stream, "source.stream", "write letters, digits, underscores and dashes"),
            (topics, "topics", "write a base without wildcards, or the subjects"),
            (self.events.heartbeat_seconds > 0, "events.heartbeatSeconds", "write at least 1"),
            (self.events.retry_milliseconds > 0, "events.retryMilliseconds", "write at least 1"),
            (self.events.max_event_bytes > 0, "events.maxEventBytes", "write at least 1"),
            (templates(&self.access.subscribe), "access.subscribe.topics", "write topics, with claims in braces"),
            (templates(&self.access.publish), "access.publish.topics", "write topics, with claims in braces"),
        ];
        checks.into_iter().find(|(holds, _, _)| !holds).map(|(_, path, message)| Fault::new(path, message))
    }
}
