//! The part `events` of a Channel: how publications become events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::quantity::ByteQuantity;

/// How publications become events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventsSpec {
    /// Where a client starts that brings no position and asks for no start itself:
    /// New (with the next publication), All (with the oldest event that the history still holds),
    /// Last (with the newest event) or LastPerTopic (with the newest event of every topic).
    /// An Ephemeral channel can only start with New. Default: New.
    #[serde(default)]
    pub from: Start,

    /// How a publication's bytes become the text of an event:
    /// Text (as UTF-8; what is not UTF-8 is replaced by U+FFFD) or Base64 (RFC 4648, on one line). Default: Text.
    #[serde(default)]
    pub encoding: Encoding,

    /// The longest silence on a stream before a heartbeat is sent, in seconds. Keep it below the idle timeout of
    /// every proxy on the way and below the read timeout of clients that have one. Default: 8.
    #[serde(default = "heartbeat_seconds")]
    #[schemars(range(min = 1, max = 300))]
    pub heartbeat_seconds: i32,

    /// How long browsers are told to wait before they reconnect, in milliseconds. Default: 3000.
    #[serde(default = "retry_milliseconds")]
    #[schemars(range(min = 500, max = 600_000))]
    pub retry_milliseconds: i32,

    /// The largest publication that is sent as it is. A larger one becomes a tidings.oversize event, which tells
    /// its size and position. A number of bytes, or a quantity as in 64Ki; at most 64Mi. Several client libraries stop
    /// at a line or an event of 64 KiB. Default: 48k, which is below that in either encoding.
    #[serde(default = "max_event_bytes")]
    pub max_event_bytes: ByteQuantity,
}

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

// === impl EventsSpec ===

impl Default for EventsSpec {
    fn default() -> Self {
        Self {
            from: Start::default(),
            encoding: Encoding::default(),
            heartbeat_seconds: heartbeat_seconds(),
            retry_milliseconds: retry_milliseconds(),
            max_event_bytes: max_event_bytes(),
        }
    }
}

fn heartbeat_seconds() -> i32 {
    // Below the 10 s after which OkHttp gives up reading, by default.
    8
}

fn retry_milliseconds() -> i32 {
    3000
}

fn max_event_bytes() -> ByteQuantity {
    // In base64 64,000 bytes: with its type and id an event stays below 64 KiB, at which Go's bufio.Scanner stops.
    ByteQuantity::Text("48k".to_owned())
}
