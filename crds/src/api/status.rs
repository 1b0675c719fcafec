//! The status of a Channel: what the operator found and did.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator found and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelStatus {
    /// The metadata.generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The metadata.generation that gateways serve. Older than observedGeneration while a newer specification is
    /// refused; absent while nothing is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_generation: Option<i64>,

    /// Which installation serves the channel, as NAMESPACE/RELEASE. Others leave it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub controller_name: Option<String>,

    /// Where to subscribe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub url: Option<String>,

    /// The JetStream stream that keeps the events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub stream: Option<String>,

    /// The NATS subjects whose messages are the events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(max = 255)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub subjects: Vec<String>,

    /// Which incarnation of the stream is served; the first part of every event id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub epoch: Option<String>,

    /// Open streams on all gateways, rounded: written when it changes by a tenth, or from and to 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribers: Option<i64>,

    /// How many gateways serve the channel as it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateways: Option<GatewayCount>,

    /// Accepted (is the specification in order?), Programmed (are stream and route in place?) and Ready (do the
    /// gateways serve it?), each with a reason and a message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// How many gateways serve a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayCount {
    /// Gateways that have applied the route.
    pub serving: i32,
    /// Gateways that should.
    pub expected: i32,
}
