//! The administrator's own limits, beside those of each Channel. Pure.
//!
//! [`Limit`] names every limit of the gateway for the metric `tidings_limit`, those of the command line too.

use serde::Deserialize;
use tidings_crds::fault::Fault;
use tidings_crds::route::RouteLimits;

use crate::metrics::label::closed_set;
use crate::runtime::units;

/// Limits for every client and every channel, in one gateway process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// For one client, over all channels.
    pub client: Quota,
    /// For one channel; a Channel's own limits can only be lower.
    pub channel: Quota,
    /// Topics in one request.
    pub topics_per_request: Option<usize>,
    /// Ranges behind the logs that are read at the same time, over all channels.
    pub backfills: Option<usize>,
    /// The bytes of a token.
    pub token_bytes: Option<usize>,
}

closed_set! {
    /// What is limited.
    pub enum Limit {
        /// `--max-connections`, or what the open-file limit and the memory limit allow.
        Connections = "connections",
        /// `--max-connections-per-address`, or half of all.
        AddressConnections = "address-connections",
        /// `--max-subscribers`.
        Subscribers = "subscribers",
        /// `--max-header-bytes`.
        HeaderBytes = "header-bytes",
        /// The address of a request, in bytes.
        UriBytes = "uri-bytes",
        /// `--max-publish-bytes`.
        PublishBytes = "publish-bytes",
        /// `topicsPerRequest`.
        Topics = "topics",
        /// `backfills`.
        Backfills = "backfills",
        /// `tokenBytes`.
        TokenBytes = "token-bytes",
        /// `client.connections`.
        ClientConnections = "client-connections",
        /// `client.connectsPerSecond`.
        ClientConnects = "client-connects",
        /// `client.publishPerSecond`.
        ClientPublications = "client-publications",
        /// `client.publishBytesPerSecond`.
        ClientBytes = "client-bytes",
        /// `channel.connections`.
        ChannelConnections = "channel-connections",
        /// `channel.connectsPerSecond`.
        ChannelConnects = "channel-connects",
        /// `channel.publishPerSecond`.
        ChannelPublications = "channel-publications",
        /// `channel.publishBytesPerSecond`.
        ChannelBytes = "channel-bytes",
    }
}

/// How much one client or one channel may use. What is absent is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Open streams.
    pub connections: Option<u32>,
    /// New streams in a second.
    pub connects_per_second: Option<u32>,
    /// Publications over HTTP in a second.
    pub publish_per_second: Option<u32>,
    /// Bytes of publications over HTTP in a second.
    pub publish_bytes_per_second: Option<u64>,
}

/// The limits as they are written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuotasDocument {
    #[serde(default)]
    client: QuotaDocument,
    #[serde(default)]
    channel: QuotaDocument,
    topics_per_request: Option<usize>,
    backfills: Option<usize>,
    token_bytes: Option<SizeDocument>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct QuotaDocument {
    connections: Option<u32>,
    connects_per_second: Option<u32>,
    publish_per_second: Option<u32>,
    publish_bytes_per_second: Option<SizeDocument>,
}

/// A size with a unit is a text, one without is a number.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum SizeDocument {
    Number(u64),
    Text(String),
}

/// The most topics that a request may ever name.
pub const MAX_TOPICS: usize = 64;

/// The most bytes that a token may have if nothing else is set: tokens with hundreds of groups have 4 KiB, and some providers send more.
pub const DEFAULT_TOKEN_BYTES: usize = 16 << 10;

/// The most that may be set; a request head has at most 32 KiB by default.
pub const MAX_TOKEN_BYTES: usize = 64 << 10;

/// The least that may be set: no token is shorter.
const MIN_TOKEN_BYTES: usize = 1 << 10;

/// Ranges read at the same time, unless the settings say otherwise: 16 × 512 messages of 1 KiB are 8 MiB on their way.
pub const DEFAULT_BACKFILLS: usize = 16;

/// The most ranges that may ever be read at the same time: 1,024 batches of 512 messages are more than any NATS answers at once.
const MAX_BACKFILLS: usize = 1_024;

// === impl Quotas ===

impl Quotas {
    /// Reads the limits.
    pub fn read(document: QuotasDocument) -> Result<Self, Vec<Fault>> {
        let QuotasDocument { client, channel, topics_per_request, backfills, token_bytes } = document;
        let mut faults = Vec::new();
        let client = client.read("limits.client", &mut faults);
        let channel = channel.read("limits.channel", &mut faults);
        if topics_per_request.is_some_and(|most| !(1..=MAX_TOPICS).contains(&most)) {
            faults.push(Fault::new("limits.topicsPerRequest", "write 1 to 64"));
        }
        if backfills.is_some_and(|most| !(1..=MAX_BACKFILLS).contains(&most)) {
            faults.push(Fault::new("limits.backfills", "write 1 to 1024"));
        }
        let token_bytes = token_bytes.map(|size| size.bytes().ok().and_then(|bytes| usize::try_from(bytes).ok()));
        let allowed = MIN_TOKEN_BYTES..=MAX_TOKEN_BYTES;
        if token_bytes.is_some_and(|most| most.is_none_or(|most| !allowed.contains(&most))) {
            faults.push(Fault::new("limits.tokenBytes", "write 1Ki to 64Ki"));
        }
        let token_bytes = token_bytes.flatten();
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self { client, channel, topics_per_request, backfills, token_bytes })
    }

    /// The most bytes that a token may have.
    pub fn token_bytes(&self) -> usize {
        self.token_bytes.unwrap_or(DEFAULT_TOKEN_BYTES)
    }

    /// Every limit of the settings, with 0 for none.
    pub fn each(&self) -> [(Limit, u64); 11] {
        let number = |most: Option<u32>| most.unwrap_or_default().into();
        let size = |most: usize| u64::try_from(most).unwrap_or(u64::MAX);
        let Self { client, channel, topics_per_request, backfills, token_bytes: _ } = self;
        [
            (Limit::Topics, size(topics_per_request.unwrap_or(MAX_TOPICS))),
            (Limit::Backfills, size(backfills.unwrap_or(DEFAULT_BACKFILLS))),
            (Limit::TokenBytes, size(self.token_bytes())),
            (Limit::ClientConnections, number(client.connections)),
            (Limit::ClientConnects, number(client.connects_per_second)),
            (Limit::ClientPublications, number(client.publish_per_second)),
            (Limit::ClientBytes, client.publish_bytes_per_second.unwrap_or_default()),
            (Limit::ChannelConnections, number(channel.connections)),
            (Limit::ChannelConnects, number(channel.connects_per_second)),
            (Limit::ChannelPublications, number(channel.publish_per_second)),
            (Limit::ChannelBytes, channel.publish_bytes_per_second.unwrap_or_default()),
        ]
    }

    /// What holds for one channel: the lower of its own limits and ours.
    pub fn over(&self, own: &RouteLimits) -> RouteLimits {
        let lower = |own: Option<u32>, ours: Option<u32>| own.into_iter().chain(ours).min();
        RouteLimits {
            connections: lower(own.connections, self.channel.connections),
            connections_per_client: own.connections_per_client,
            publish_per_second: lower(own.publish_per_second, self.channel.publish_per_second),
            connects_per_second: lower(own.connects_per_second, self.channel.connects_per_second),
        }
    }
}

// === impl SizeDocument ===

impl SizeDocument {
    fn bytes(self) -> Result<u64, units::UnitError> {
        match self {
            Self::Number(bytes) => Ok(bytes),
            Self::Text(text) => units::bytes(&text),
        }
    }
}

// === impl QuotaDocument ===

impl QuotaDocument {
    fn read(self, at: &str, faults: &mut Vec<Fault>) -> Quota {
        let bytes = self.publish_bytes_per_second.map(SizeDocument::bytes);
        let publish_bytes_per_second = bytes.and_then(|bytes| {
            let told = |error: units::UnitError| Fault::new(format!("{at}.publishBytesPerSecond"), error.to_string());
            bytes.map_err(|error| faults.push(told(error))).ok()
        });
        Quota {
            connections: self.connections,
            connects_per_second: self.connects_per_second,
            publish_per_second: self.publish_per_second,
            publish_bytes_per_second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<Quotas, Vec<Fault>> {
        Quotas::read(serde_yaml::from_str(yaml).unwrap())
    }

    #[test]
    fn limits_are_read_with_units() {
        let quotas = read("{client: {connections: 5, publishBytesPerSecond: 1Mi}, topicsPerRequest: 8}").unwrap();
        assert_eq!(quotas.client.connections, Some(5));
        assert_eq!(quotas.client.publish_bytes_per_second, Some(1 << 20));
        assert_eq!((quotas.channel, quotas.topics_per_request), (Quota::default(), Some(8)));
        assert_eq!(quotas.token_bytes(), 16 << 10);
        assert_eq!(read("{tokenBytes: 8Ki}").unwrap().token_bytes(), 8 << 10);
        assert_eq!(read("{channel: {publishBytesPerSecond: 7}}").unwrap().channel.publish_bytes_per_second, Some(7));
        for (yaml, path) in [
            ("{client: {publishBytesPerSecond: much}}", "limits.client.publishBytesPerSecond"),
            ("{topicsPerRequest: 65}", "limits.topicsPerRequest"),
            ("{topicsPerRequest: 0}", "limits.topicsPerRequest"),
            ("{tokenBytes: 1000}", "limits.tokenBytes"),
            ("{tokenBytes: 65Ki}", "limits.tokenBytes"),
            ("{tokenBytes: long}", "limits.tokenBytes"),
            ("{backfills: 0}", "limits.backfills"),
            ("{backfills: 1025}", "limits.backfills"),
        ] {
            assert_eq!(read(yaml).unwrap_err().first().map(|fault| fault.path.as_str()), Some(path), "{yaml}");
        }
    }

    #[test]
    fn every_limit_is_told() {
        let quotas = read("{channel: {connectsPerSecond: 3}, backfills: 4}").unwrap();
        let told = |limit| quotas.each().into_iter().find(|(name, _)| *name == limit).map(|(_, most)| most);
        assert_eq!((told(Limit::Backfills), told(Limit::ChannelConnects)), (Some(4), Some(3)));
        assert_eq!((told(Limit::Topics), told(Limit::ClientBytes)), (Some(64), Some(0)));
    }

    #[test]
    fn a_channel_can_only_lower_a_limit() {
        let quotas = read("{channel: {connections: 10, publishPerSecond: 5}}").unwrap();
        let own = RouteLimits { connections: Some(20), publish_per_second: Some(2), ..RouteLimits::default() };
        let over = quotas.over(&own);
        assert_eq!((over.connections, over.publish_per_second, over.connects_per_second), (Some(10), Some(2), None));
        assert_eq!(Quotas::default().over(&own), own);
    }
}
