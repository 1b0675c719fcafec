//! The Channel resource.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a client without a position starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Start {
    /// With the next publication.
    #[default]
    New,
    /// With the oldest event that retention still holds.
    All,
    /// With the newest event.
    Last,
    /// With the newest event of every topic.
    LastPerTopic,
}

/// How a publication's bytes become the text of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Encoding {
    /// As UTF-8; what is not UTF-8 is replaced by U+FFFD.
    #[default]
    Text,
    /// As base64 (RFC 4648, section 4), on one line.
    Base64,
}

/// Who may use one direction of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessMode {
    /// Whoever shows an accepted token, within its grants.
    Token,
    /// Everybody.
    Public,
    /// Nobody.
    Disabled,
}

/// Where a token may stand in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TokenSource {
    /// `Authorization: Bearer`.
    Header,
    /// The cookie that the installation names.
    Cookie,
    /// The query parameter `access_token`: it ends up in access logs, so only by choice.
    Query,
}
