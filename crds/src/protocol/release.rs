//! One installation of Tidings in a cluster, and what is named after it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::key::ChannelKey;
use crate::name::label::is_label;

/// The key of a Route's ConfigMap that holds the document; gateways read no other.
pub const ROUTE_KEY: &str = "route.yaml";

/// The label of a Route's ConfigMap that names its release: gateways watch for it.
pub const RELEASE_LABEL: &str = "tidings.dev/release";

/// The label of a Route's ConfigMap that names the Channel's namespace.
pub const CHANNEL_NAMESPACE_LABEL: &str = "tidings.dev/channel-namespace";

/// The label of a Route's ConfigMap that names the Channel.
pub const CHANNEL_NAME_LABEL: &str = "tidings.dev/channel-name";

/// The label that says who writes an object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// What [`MANAGED_BY_LABEL`] says of a Route's ConfigMap.
pub const MANAGED_BY: &str = "tidings-operator";

/// The longest name of a release: Helm's limit.
pub const MAX_RELEASE_NAME_BYTES: usize = 53;

/// One installation of Tidings: the namespace it is in and its name there, written `namespace/name`.
///
/// Both are what Kubernetes takes: a label, and labels with dots between them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Release {
    namespace: String,
    name: String,
}

/// Why a text does not name a release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Not `namespace/name`.
    #[error("a release reads <namespace>/<name>, as in tidings-system/tidings")]
    Shape,
    /// The namespace is none.
    #[error("the release's namespace \"{0}\" is not a DNS label: write small letters, digits and dashes")]
    Namespace(String),
    /// The name is none.
    #[error(
        "the release's name \"{0}\" is not a DNS name of at most {MAX_RELEASE_NAME_BYTES} characters: write small letters, digits, dashes and dots"
    )]
    Name(String),
}

// === impl Release ===

impl Release {
    /// The release `name` in `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Result<Self, ReleaseError> {
        let (namespace, name) = (namespace.into(), name.into());
        if !is_label(&namespace) {
            return Err(ReleaseError::Namespace(namespace));
        }
        if name.len() > MAX_RELEASE_NAME_BYTES || !name.split('.').all(is_label) {
            return Err(ReleaseError::Name(name));
        }
        Ok(Self { namespace, name })
    }

    /// The namespace it is in: where its Routes are.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name there.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The core NATS subject of its gateways' beats: `tidings-beat.<namespace>.<name>`. Dots of the name become
    /// underscores, which names cannot have, so no two releases share a subject.
    pub fn beat_subject(&self) -> String {
        format!("tidings-beat.{}.{}", self.namespace, self.name.replace('.', "_"))
    }

    /// The name of the ConfigMap that holds a Channel's Route: at most 195 characters.
    pub fn route_object(&self, channel: &ChannelKey) -> String {
        format!("tidings-route.{}.{}.{}", self.name, channel.namespace, channel.name)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for Release {
    type Err = ReleaseError;

    fn from_str(text: &str) -> Result<Self, ReleaseError> {
        let (namespace, name) = text.split_once('/').ok_or(ReleaseError::Shape)?;
        Self::new(namespace, name)
    }
}

impl TryFrom<String> for Release {
    type Error = ReleaseError;

    fn try_from(text: String) -> Result<Self, ReleaseError> {
        text.parse()
    }
}

impl From<Release> for String {
    fn from(release: Release) -> Self {
        release.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test says what it expects by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_release_reads_back_and_names_what_belongs_to_it() {
        let release: Release = "tidings-system/push.v2".parse().unwrap();
        assert_eq!((release.namespace(), release.name()), ("tidings-system", "push.v2"));
        assert_eq!(release.to_string(), "tidings-system/push.v2");
        assert_eq!(release.beat_subject(), "tidings-beat.tidings-system.push_v2");
        assert_eq!(release.route_object(&ChannelKey::new("shop", "orders")), "tidings-route.push.v2.shop.orders");
    }

    #[test]
    fn what_is_no_release_is_refused_with_what_to_write() {
        let long = format!("a/{}", "x".repeat(54));
        for (text, message) in [
            ("tidings", "<namespace>/<name>"),
            ("", "<namespace>/<name>"),
            ("/tidings", "namespace \"\" is not"),
            ("a.b/tidings", "namespace \"a.b\" is not"),
            ("a/b/c", "name \"b/c\" is not"),
            ("a/Tidings", "name \"Tidings\" is not"),
            ("a/x.", "name \"x.\" is not"),
            ("a/x_y", "name \"x_y\" is not"),
            ("a/>", "name \">\" is not"),
            (&long, "at most 53"),
        ] {
            let error = text.parse::<Release>().unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
