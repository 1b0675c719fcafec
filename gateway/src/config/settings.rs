//! The settings file (`--config`): issuers, the deny list and limits, read whole or not at all. Pure.
//!
//! `docs/reference/settings.md` describes it; a test reads the example there.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use serde::Deserialize;
use tidings_crds::fault::Fault;
use tidings_crds::locate;

use crate::auth::denylist::{Denied, DeniedDocument};
use crate::auth::issuer::{Issuer, IssuerDocument};
use crate::limits::quota::{Quotas, QuotasDocument};

/// What the administrator has set.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whose tokens are accepted.
    pub issuers: Vec<Arc<Issuer>>,
    /// The cookie that a token may stand in.
    pub cookie: String,
    /// Whether, and for which audience, tokens of the cluster's service accounts are accepted.
    pub kubernetes: Option<Kubernetes>,
    /// Whose tokens are refused all the same.
    pub denied: Denied,
    /// Limits for every client and every channel.
    pub limits: Quotas,
}

/// How identities of the cluster are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// A token has to be made for one of these.
    pub audiences: Vec<String>,
}

/// Why a text is no settings file. All faults, each with its line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError(Vec<String>);

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(default)]
    issuers: Vec<IssuerDocument>,
    cookie: Option<String>,
    kubernetes: Option<KubernetesDocument>,
    #[serde(default)]
    denied: Vec<DeniedDocument>,
    #[serde(default)]
    limits: QuotasDocument,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KubernetesDocument {
    #[serde(default)]
    enabled: bool,
    audiences: Option<Vec<String>>,
}

/// The cookie that a token stands in if nothing else is set.
pub const DEFAULT_COOKIE: &str = "tidings_token";

/// The audience that tokens of service accounts are made for if nothing else is set.
pub const DEFAULT_AUDIENCE: &str = "tidings";

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            issuers: Vec::new(),
            cookie: DEFAULT_COOKIE.to_owned(),
            kubernetes: None,
            denied: Denied::default(),
            limits: Quotas::default(),
        }
    }
}

impl Settings {
    /// Reads a settings file.
    pub fn from_yaml(text: &str) -> Result<Self, SettingsError> {
        // An empty file sets nothing.
        let document: Option<Document> =
            serde_yaml::from_str(text).map_err(|error| SettingsError(vec![told(&error, text)]))?;
        Self::read(document.unwrap_or_default()).map_err(|faults| {
            let told = faults.iter().map(|fault| match locate::line(text, &fault.path) {
                Some(line) => format!("line {line}: {fault}"),
                None => fault.to_string(),
            });
            SettingsError(told.collect())
        })
    }

    /// The issuer that writes this as `iss`.
    pub fn issuer(&self, iss: &str) -> Option<&Arc<Issuer>> {
        self.issuers.iter().find(|issuer| issuer.issuer == iss)
    }

    /// The issuer that would write this as `iss`, but for final slashes.
    pub fn nearly(&self, iss: &str) -> Option<&Arc<Issuer>> {
        let without = |text: &str| text.trim_end_matches('/').to_owned();
        self.issuers.iter().find(|issuer| issuer.issuer != iss && without(&issuer.issuer) == without(iss))
    }

    fn read(document: Document) -> Result<Self, Vec<Fault>> {
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
        let limits = Quotas::read(document.limits).map_err(|found| faults.extend(found)).unwrap_or_default();
        if faults.is_empty() { Ok(Self { issuers, cookie, kubernetes, denied, limits }) } else { Err(faults) }
    }
}

/// An error with its line. Of an unknown field serde tells where the object begins that it is in, or nothing.
fn told(error: &serde_yaml::Error, text: &str) -> String {
    let message = error.to_string();
    let begins = error.location().map_or(0, |at| at.line().saturating_sub(1));
    let unknown = message.split_once("unknown field `").and_then(|(_, rest)| rest.split_once('`'));
    let is_there = |line: &str| unknown.is_some_and(|(name, _)| line.contains(&format!("{name}:")));
    match text.lines().enumerate().skip(begins).find(|(_, line)| is_there(line)) {
        Some((at, _)) => format!("line {}: {message}", at + 1),
        None if message.contains("line ") => message,
        None => format!("line {}: {message}", begins + 1),
    }
}

// === impl SettingsError ===

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        Settings::from_yaml(text).unwrap_err().to_string()
    }

    const MAIN: &str = "\
issuers:
  - name: main
    issuer: https://id.example
    audience: tidings
    algorithms: [RS256]
    jwks: { url: https://id.example/keys }
";

    #[test]
    fn an_empty_file_sets_nothing() {
        for text in ["", "# nothing\n", "{}", "issuers: []\n", "kubernetes: {}\n"] {
            assert_eq!(Settings::from_yaml(text), Ok(Settings::default()), "{text:?}");
        }
        assert!(Settings::default().kubernetes.is_none(), "off unless it is turned on");
    }

    #[test]
    fn the_example_in_the_reference_is_a_settings_file() {
        let reference = include_str!("../../../docs/reference/settings.md");
        let (_, rest) = reference.split_once("```yaml\n").unwrap();
        let (example, _) = rest.split_once("```").unwrap();
        let settings = Settings::from_yaml(example).unwrap();
        assert_eq!(settings.issuers.len(), 3);
        assert!(settings.kubernetes.is_some() && settings.limits.client.connections.is_some());
    }

    #[test]
    fn the_file_is_read_whole() {
        let text = format!("{MAIN}cookie: __Host-t\nkubernetes: {{enabled: true}}\ndenied: [{{subject: ann}}]\n");
        let settings = Settings::from_yaml(&text).unwrap();
        assert_eq!(settings.issuer("https://id.example").map(|issuer| &*issuer.name), Some("main"));
        assert_eq!(settings.issuer("https://id.example/"), None);
        assert_eq!(settings.nearly("https://id.example/").map(|issuer| &*issuer.name), Some("main"));
        assert_eq!((settings.nearly("https://id.example"), settings.nearly("https://id.example/x")), (None, None));
        assert_eq!(settings.cookie, "__Host-t");
        assert_eq!(settings.kubernetes, Some(Kubernetes { audiences: vec!["tidings".into()] }));
        assert!(settings.denied.contains("main", Some("ann"), None));
    }

    #[test]
    fn a_fault_is_told_with_its_line() {
        for (text, line, hint) in [
            (MAIN.replace("issuers", "isuers"), 1, "unknown field `isuers`"),
            (MAIN.replace("audience", "audiance"), 4, "unknown field `audiance`"),
            (MAIN.replace("[RS256]", "[none]"), 5, "issuers[0].algorithms"),
            (MAIN.replace("https://id.example/keys", "http://id.example/keys"), 6, "over https"),
            (format!("{MAIN}{}", MAIN.replace("issuers:\n", "")), 8, "another issuer has this name"),
            (format!("{MAIN}denied:\n  - {{subject: a}}\n  - {{}}\n"), 9, "denied[1]"),
            (format!("{MAIN}cookie: 'a b'\n"), 7, "name of a cookie"),
            (format!("{MAIN}kubernetes: {{enabled: true, audiences: []}}\n"), 7, "every pod's default"),
            (format!("{MAIN}\t"), 7, ""),
        ] {
            let told = fault(&text);
            assert!(told.contains(&format!("line {line}")) && told.contains(hint), "{told}");
        }
        let two = MAIN.replace("[RS256]", "[]").replace("tidings", "''");
        assert!(fault(&two).contains("; "), "all faults at once: {}", fault(&two));
    }
}
