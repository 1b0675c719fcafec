//! What names a Channel: its namespace and its name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::label::is_label;

/// The namespace and the name of a Channel, written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ChannelKey {
    /// The namespace.
    pub namespace: String,
    /// The name in it.
    pub name: String,
}

/// Why a text does not name a Channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" does not name a Channel: write <namespace>/<name>, both DNS labels")]
pub struct ChannelKeyError(String);

// === impl ChannelKey ===

impl ChannelKey {
    /// Neither is checked; [`crate::desired`] refuses Channels whose names are not DNS labels.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for ChannelKey {
    type Err = ChannelKeyError;

    fn from_str(text: &str) -> Result<Self, ChannelKeyError> {
        match text.split_once('/') {
            Some((namespace, name)) if is_label(namespace) && is_label(name) => Ok(Self::new(namespace, name)),
            _ => Err(ChannelKeyError(text.chars().take(256).collect())),
        }
    }
}

impl TryFrom<String> for ChannelKey {
    type Error = ChannelKeyError;

    fn try_from(text: String) -> Result<Self, ChannelKeyError> {
        text.parse()
    }
}

impl From<ChannelKey> for String {
    fn from(key: ChannelKey) -> Self {
        key.to_string()
    }
}
