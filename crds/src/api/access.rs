//! The parts `access` and `cors` of a Channel: who may subscribe and publish, and from which web pages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may subscribe and publish over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessSpec {
    /// Which of the issuers that the administrator has configured are accepted, by their names. Absent means: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub issuers: Option<Vec<String>>,

    /// Where a token may stand in a request: Header (Authorization: Bearer), Cookie (the cookie that the
    /// installation names) or Query (the parameter access_token; it ends up in the access logs of every proxy, so
    /// only by choice). Default: Header and Cookie.
    #[serde(default = "token_sources")]
    #[schemars(length(min = 1, max = 3), extend("x-kubernetes-list-type" = "atomic"))]
    pub token_sources: Vec<TokenSource>,

    /// Who may subscribe. Default: mode Token.
    #[serde(default = "subscribe")]
    pub subscribe: SubscribeAccess,

    /// Who may publish over HTTP. Publishing through NATS is a matter of NATS permissions. Default: mode Disabled.
    #[serde(default = "publish")]
    pub publish: PublishAccess,
}

/// Who may subscribe, and to which topics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubscribeAccess {
    /// Who may subscribe: Token (clients with a token of an accepted issuer), Public (all clients) or Disabled (no clients). Default: Token.
    #[serde(default = "token")]
    pub mode: AccessMode,

    /// To which topics: literals (all), NATS wildcards (news.*, orders.>), a single dot for the empty topic, and
    /// with mode Token claims in braces (user.{sub}). [">"] is all topics. Absent topics grant nothing by themselves:
    /// then only the token's own grants and RBAC count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 255)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub topics: Vec<String>,
}

/// Who may publish over HTTP, and to which topics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishAccess {
    /// Who may publish over HTTP: Token (clients with a token of an accepted issuer), Public (all clients) or Disabled (no clients). Default: Disabled.
    #[serde(default = "disabled")]
    pub mode: AccessMode,

    /// To which topics: literals (all), NATS wildcards (news.*, orders.>), a single dot for the empty topic, and
    /// with mode Token claims in braces (user.{sub}). [">"] is all topics. Absent topics grant nothing by themselves:
    /// then only the token's own grants and RBAC count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 255)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub topics: Vec<String>,
}

/// Who may use one direction of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessMode {
    /// Clients with an accepted token, within its grants.
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

/// Which web pages may use the channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CorsSpec {
    /// The origins of the pages that may, as browsers send them (https://shop.example, http://localhost:5173).
    /// https://*.shop.example stands for every host with one label more, and the single entry * for all origins.
    /// Absent means: only pages of the gateway's own origin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 255)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub origins: Vec<String>,

    /// Whether browsers may send cookies along. Only with exact origins. Default: false.
    #[serde(default)]
    pub allow_credentials: bool,
}

// === impl AccessSpec ===

impl Default for AccessSpec {
    fn default() -> Self {
        Self { issuers: None, token_sources: token_sources(), subscribe: subscribe(), publish: publish() }
    }
}

fn token_sources() -> Vec<TokenSource> {
    vec![TokenSource::Header, TokenSource::Cookie]
}

fn subscribe() -> SubscribeAccess {
    SubscribeAccess { mode: token(), topics: Vec::new() }
}

fn publish() -> PublishAccess {
    PublishAccess { mode: disabled(), topics: Vec::new() }
}

fn token() -> AccessMode {
    AccessMode::Token
}

fn disabled() -> AccessMode {
    AccessMode::Disabled
}
