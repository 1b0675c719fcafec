//! The settings file (`--config`): issuers, the deny list and limits, read whole or not at all. Pure.
//!
//! `docs/reference/settings.md` describes it; a test reads the example there.

use std::fmt;

use serde::Deserialize;
use tidings_crds::fault::Fault;
use tidings_crds::locate;

use crate::auth::denylist::DeniedDocument;
use crate::auth::issuer::IssuerDocument;
use crate::auth::settings::{AuthDocument, AuthSettings, KubernetesDocument};
use crate::limits::quota::{Quotas, QuotasDocument};

/// What the administrator has set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Whose tokens are accepted.
    pub auth: AuthSettings,
    /// Limits for every client and every channel.
    pub limits: Quotas,
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

// === impl Settings ===

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

    fn read(document: Document) -> Result<Self, Vec<Fault>> {
        let Document { issuers, cookie, kubernetes, denied, limits } = document;
        let mut faults = Vec::new();
        let auth = AuthDocument { issuers, cookie, kubernetes, denied };
        let auth = AuthSettings::read(auth).map_err(|found| faults.extend(found)).unwrap_or_default();
        let limits = Quotas::read(limits).map_err(|found| faults.extend(found)).unwrap_or_default();
        if faults.is_empty() { Ok(Self { auth, limits }) } else { Err(faults) }
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
    use crate::auth::settings::Kubernetes;

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
        assert!(Settings::default().auth.kubernetes.is_none(), "off unless it is turned on");
    }

    #[test]
    fn the_example_in_the_reference_is_a_settings_file() {
        let reference = include_str!("../../../docs/reference/settings.md");
        let (_, rest) = reference.split_once("```yaml\n").unwrap();
        let (example, _) = rest.split_once("```").unwrap();
        let settings = Settings::from_yaml(example).unwrap();
        assert_eq!(settings.auth.issuers.len(), 3);
        assert!(settings.auth.kubernetes.is_some() && settings.limits.client.connections.is_some());
    }

    #[test]
    fn the_file_is_read_whole() {
        let text = format!("{MAIN}cookie: __Host-t\nkubernetes: {{enabled: true}}\ndenied: [{{subject: ann}}]\n");
        let settings = Settings::from_yaml(&text).unwrap();
        assert_eq!(settings.auth.issuer("https://id.example").map(|issuer| &*issuer.name), Some("main"));
        assert_eq!(settings.auth.issuer("https://id.example/"), None);
        assert_eq!(settings.auth.nearly("https://id.example/").map(|issuer| &*issuer.name), Some("main"));
        assert_eq!(
            (settings.auth.nearly("https://id.example"), settings.auth.nearly("https://id.example/x")),
            (None, None)
        );
        assert_eq!(settings.auth.cookie, "__Host-t");
        assert_eq!(settings.auth.kubernetes, Some(Kubernetes { audiences: vec!["tidings".into()] }));
        assert!(settings.auth.denied.contains("main", Some("ann"), None));
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
