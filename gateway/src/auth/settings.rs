//! Whose tokens are accepted, as the administrator has set it. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use http::HeaderName;
use serde::Deserialize;
use tidings_crds::fault::Fault;

use crate::auth::denylist::{Denied, DeniedDocument};
use crate::auth::issuer::{Issuer, IssuerDocument};

/// Whose tokens are accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthSettings {
    /// Who makes the tokens.
    pub issuers: Vec<Arc<Issuer>>,
    /// The cookie that a token may stand in.
    pub cookie: String,
    /// Whether, and for which audience, tokens of the cluster's service accounts are accepted.
    pub kubernetes: Option<Kubernetes>,
    /// Whose tokens are refused all the same.
    pub denied: Denied,
}

/// How identities of the cluster are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// A token has to be made for one of these.
    pub audiences: Vec<String>,
}

/// The settings as they are written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthDocument {
    /// Of each issuer.
    #[serde(default)]
    pub issuers: Vec<IssuerDocument>,
    /// The name of the cookie.
    pub cookie: Option<String>,
    /// Of the cluster.
    pub kubernetes: Option<KubernetesDocument>,
    /// Entries of the deny list.
    #[serde(default)]
    pub denied: Vec<DeniedDocument>,
}

/// The settings about the cluster as they are written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesDocument {
    #[serde(default)]
    enabled: bool,
    audiences: Option<Vec<String>>,
}

/// The cookie that a token stands in if nothing else is set.
pub const DEFAULT_COOKIE: &str = "tidings_token";

/// The audience that tokens of service accounts are made for if nothing else is set.
pub const DEFAULT_AUDIENCE: &str = "tidings";

// === impl AuthSettings ===

impl Default for AuthSettings {
    fn default() -> Self {
        Self { issuers: Vec::new(), cookie: DEFAULT_COOKIE.to_owned(), kubernetes: None, denied: Denied::default() }
    }
}

impl AuthSettings {
    /// The issuer that writes this as `iss`.
    pub fn issuer(&self, iss: &str) -> Option<&Arc<Issuer>> {
        self.issuers.iter().find(|issuer| issuer.issuer == iss)
    }

    /// The issuer that would write this as `iss`, but for final slashes.
    pub fn nearly(&self, iss: &str) -> Option<&Arc<Issuer>> {
        let without = |text: &str| text.trim_end_matches('/').to_owned();
        self.issuers.iter().find(|issuer| issuer.issuer != iss && without(&issuer.issuer) == without(iss))
    }

    /// Takes what is written, whole or not at all.
    pub fn read(document: AuthDocument) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let (mut issuers, mut names, mut writes) = (Vec::new(), HashSet::new(), HashSet::new());
        for (at, document) in document.issuers.into_iter().enumerate() {
            let path = format!("issuers[{at}]");
            match Issuer::read(document, &path) {
                Ok(issuer) => {
                    if !names.insert(issuer.name.clone()) {
                        faults.push(Fault::new(format!("{path}.name"), "another issuer has this name already"));
                    }
                    if !writes.insert(issuer.issuer.clone()) {
                        let message = "another entry has this issuer already: list all its audiences in one";
                        faults.push(Fault::new(format!("{path}.issuer"), message));
                    }
                    issuers.push(Arc::new(issuer));
                }
                Err(found) => faults.extend(found),
            }
        }
        let cookie = document.cookie.unwrap_or_else(|| DEFAULT_COOKIE.to_owned());
        // A cookie's name is a token of HTTP (RFC 6265), as a header's name is.
        if HeaderName::from_bytes(cookie.as_bytes()).is_err() {
            faults.push(Fault::new("cookie", "write the name of a cookie, as in __Host-tidings"));
        }
        let kubernetes = document.kubernetes.filter(|kubernetes| kubernetes.enabled).map(|kubernetes| Kubernetes {
            audiences: kubernetes.audiences.unwrap_or_else(|| vec![DEFAULT_AUDIENCE.to_owned()]),
        });
        if kubernetes.as_ref().is_some_and(|on| on.audiences.is_empty() || on.audiences.iter().any(String::is_empty)) {
            let message = "write the audience that tokens are made for, as in [tidings]: without one every pod's default \
                           token would do";
            faults.push(Fault::new("kubernetes.audiences", message));
        }
        let denied = Denied::read(document.denied).map_err(|found| faults.extend(found)).unwrap_or_default();
        if faults.is_empty() { Ok(Self { issuers, cookie, kubernetes, denied }) } else { Err(faults) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The settings of a text.
    pub(crate) fn settings(yaml: &str) -> AuthSettings {
        AuthSettings::read(serde_yaml::from_str(yaml).unwrap()).unwrap()
    }
}
