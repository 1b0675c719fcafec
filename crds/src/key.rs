//! What names a Channel: its namespace and its name.

use std::fmt;

/// The namespace and the name of a Channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey {
    /// The namespace.
    pub namespace: String,
    /// The name in it.
    pub name: String,
}

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
