//! The settings file (`--config`): what is a list and therefore no flag. Validated as a whole, with the line of a fault.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tidings_crds::fault::Fault;
use tidings_crds::grants::{SubjectGrant, SubjectGrants};

/// The settings file, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Which namespaces may have which subjects beside their own.
    pub grants: SubjectGrants,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    subject_grants: Vec<SubjectGrant>,
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
        let raw: Option<Raw> =
            serde_yaml::from_str(text).map_err(|source| SettingsError::Yaml { file: file.to_owned(), source })?;
        let grants = SubjectGrants::new(raw.map(|raw| raw.subject_grants).unwrap_or_default());
        grants.map(|grants| Self { grants }).map_err(|mut faults| {
            for fault in &mut faults {
                fault.path.insert_str(0, "subjectGrants");
            }
            SettingsError::Faults { file: file.to_owned(), faults }
        })
    }
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::chain;
    use tidings_crds::key::ChannelKey;

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
    }
}
