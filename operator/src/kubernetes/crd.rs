//! The CustomResourceDefinition of Channels as the cluster has it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::Api;
use tidings_crds::definition::{CRD_NAME, REVISION, REVISION_ANNOTATION};

use crate::leader::elector::Leadership;
use crate::leader::fenced_api::{self, ApiError};

/// Where it is looked up.
#[derive(Clone)]
pub struct Definition {
    definitions: Api<CustomResourceDefinition>,
    leadership: Leadership,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// There is none.
    Absent,
    /// It is being deleted, and takes all Channels with it.
    Leaving,
    /// It is there.
    Revision(u32),
}

// === impl Definition ===

impl Definition {
    /// Nothing is looked up yet.
    pub fn new(client: Client, leadership: Leadership) -> Self {
        Self { definitions: Api::all(client), leadership }
    }

    /// Looks it up.
    pub async fn look(&self) -> Result<Installed, ApiError> {
        let call = self.definitions.get_opt(CRD_NAME);
        fenced_api::read(&self.leadership, "read the definition", CRD_NAME, call)
            .await
            .map(|found| Installed::of(found.as_ref()))
    }
}

// === impl Installed ===

impl Installed {
    /// Reads an object.
    pub fn of(found: Option<&CustomResourceDefinition>) -> Self {
        match found {
            None => Self::Absent,
            Some(crd) if crd.metadata.deletion_timestamp.is_some() => Self::Leaving,
            Some(crd) => Self::Revision(revision(crd)),
        }
    }

    /// What is wrong with it for this operator, if anything is.
    pub fn fault(self) -> Option<String> {
        match self {
            Self::Absent => Some(format!("the definition {CRD_NAME} is not installed: run tidings-operator crd apply")),
            Self::Leaving => Some(format!("the definition {CRD_NAME} is being deleted")),
            Self::Revision(live) if live < REVISION => Some(format!(
                "the definition {CRD_NAME} has revision {live}, this operator needs {REVISION}: run tidings-operator crd apply"
            )),
            Self::Revision(_) => None,
        }
    }
}

/// The revision of a definition's schema; 0 where none is written.
pub fn revision(crd: &CustomResourceDefinition) -> u32 {
    let annotation = crd.metadata.annotations.as_ref().and_then(|all| all.get(REVISION_ANNOTATION));
    annotation.and_then(|text| text.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_definition_is_a_fault_and_a_newer_one_is_not() {
        let mut crd = tidings_crds::definition::crd();
        assert_eq!(Installed::of(Some(&crd)), Installed::Revision(REVISION));
        assert_eq!(Installed::of(Some(&crd)).fault(), None);
        assert_eq!(Installed::Revision(REVISION + 1).fault(), None);
        crd.metadata.annotations = None;
        let fault = Installed::of(Some(&crd)).fault().unwrap();
        assert!(fault.contains("revision 0") && fault.contains("crd apply"), "{fault}");
        assert!(Installed::of(None).fault().is_some());
    }
}
