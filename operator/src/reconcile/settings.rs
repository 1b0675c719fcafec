//! The settings file (`--config`): what is a list and therefore no flag. Validated as a whole, with the line of a fault.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tidings_crds::fault::Fault;
use tidings_crds::grants::{SubjectGrant, SubjectGrants};
use tidings_crds::manifest::without_byte_order_marks;
use tidings_crds::quota::{Quota, Quotas};

/// The settings file, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Which namespaces may have which subjects beside their own.
    pub grants: SubjectGrants,
    /// What namespaces may have at most.
    pub quotas: Quotas,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    subject_grants: Vec<SubjectGrant>,
    #[serde(default)]
    quotas: Vec<Quota>,
}

/// Why the settings file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read.
    #[error("failed to read the settings {file}")]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not YAML of this shape; the source names the line.
    #[error("failed to understand the settings {file}")]
    Yaml {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: serde_yaml::Error,
    },
    /// It says what may not be.
    #[error("the settings {file} have faults:{}", list(faults))]
    Faults {
        /// Which.
        file: PathBuf,
        /// Every one.
        faults: Vec<Fault>,
    },
}

// === impl Settings ===

impl Settings {
    /// Reads the settings; without a file, there are none.
    ///
    /// # Errors
    /// When any part of the file cannot be used: a grant that is left out by mistake would withdraw Routes.
    pub fn read(file: Option<&Path>) -> Result<Self, SettingsError> {
        let Some(file) = file else { return Ok(Self::default()) };
        let text =
            std::fs::read_to_string(file).map_err(|source| SettingsError::Read { file: file.to_owned(), source })?;
        Self::parse(&text, file)
    }

    fn parse(text: &str, file: &Path) -> Result<Self, SettingsError> {
        let raw: Option<Raw> = serde_yaml::from_str(&without_byte_order_marks(text))
            .map_err(|source| SettingsError::Yaml { file: file.to_owned(), source })?;
        let Raw { subject_grants, quotas } = raw.unwrap_or_default();
        let mut faults = Vec::new();
        let mut within = |part: &str, found: Vec<Fault>| {
            faults.extend(found.into_iter().map(|fault| Fault { path: format!("{part}{}", fault.path), ..fault }));
        };
        let grants = SubjectGrants::new(subject_grants).map_err(|found| within("subjectGrants", found));
        let quotas = Quotas::new(quotas).map_err(|found| within("quotas", found));
        match (grants, quotas) {
            (Ok(grants), Ok(quotas)) => Ok(Self { grants, quotas }),
            _ => Err(SettingsError::Faults { file: file.to_owned(), faults }),
        }
    }
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidings_crds::key::ChannelKey;
    use tidings_process::error_chain::chain;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(text, Path::new("s.yaml")).map_err(|error| chain(&error))
    }

    #[test]
    fn grants_are_read() {
        let settings = parse("subjectGrants: [{ namespaces: [shop], subjects: [orders.>] }]").unwrap();
        let allow = |namespace, subject: &str| {
            settings.grants.allow(&ChannelKey::new(namespace, "x"), &subject.parse().unwrap()).is_ok()
        };
        assert!(allow("shop", "orders.new") && !allow("bank", "orders.new"));
        assert_eq!(parse("# nothing\n"), Ok(Settings::default()));
        let marked = parse("\u{feff}---\n\u{feff}subjectGrants: [{ namespaces: [shop], subjects: [orders.>] }]");
        assert_eq!(marked, Ok(settings));
    }

    #[test]
    fn a_fault_refuses_the_whole_file_and_says_where() {
        let error = parse("subjectGrants:\n- namespaces: [shop]\n  subject: [a]\n").unwrap_err();
        assert!(error.contains("unknown field `subject`") && error.contains("line 3"), "{error}");
        let error = parse("subjectGrants: [{ namespaces: [], subjects: ['>'] }]").unwrap_err();
        assert!(
            error.contains("\n  subjectGrants[0].namespaces: ") && error.contains("\n  subjectGrants[0].subjects[0]: "),
            "{error}"
        );
        let error =
            parse("subjectGrants: [{ namespaces: [], subjects: [a] }]\nquotas: [{ namespaces: [shop] }]").unwrap_err();
        assert!(error.contains("\n  subjectGrants[0].namespaces: ") && error.contains("\n  quotas[0]: "), "{error}");
        let quota =
            "quotas: [{ namespaces: [shop], channels: 3, bytes: 1Gi, messages: 10, replicas: 3, storage: [File] }]";
        assert!(parse(quota).is_ok_and(|settings| !settings.quotas.is_empty()));
    }
}
