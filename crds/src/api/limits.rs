//! The part `limits` of a Channel.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits of one channel, each per gateway pod. The administrator's own limits hold as well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitsSpec {
    /// How many streams may be open at a time. Absent means: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub connections: Option<i32>,

    /// How many streams one client may have open at a time. Absent means: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub connections_per_client: Option<i32>,

    /// How many publications over HTTP are taken in a second. Absent means: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub publish_per_second: Option<i32>,

    /// How many streams may be opened in a second. Absent means: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub connects_per_second: Option<i32>,
}
