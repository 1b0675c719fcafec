//! `tidings-operator crd apply`: brings the cluster's definition of Channels up to this version's.
//!
//! Only ever forward: a definition with the same or a newer schema revision is left as it is, so that an older operator
//! (a rollback, a second installation) takes nothing away. Needs `get` and `patch` on that one object, and `create` for
//! the first time.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use tidings_crds::definition::{CRD_NAME, REVISION, crd};

use crate::kubernetes::crd::Installed;
use crate::leader::elector::Leadership;
use crate::leader::fenced_api::{self, ApiError};

/// Whose fields these are; the chart's own apply is another one.
const FIELD_MANAGER: &str = "tidings-crd";

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was none.
    Created,
    /// There was an older one.
    Updated {
        /// Its revision.
        from: u32,
    },
    /// The same or a newer one stays.
    Kept {
        /// Its revision.
        live: u32,
    },
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// The API server.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// It is being deleted.
    #[error("the definition {CRD_NAME} is being deleted: apply it again when it is gone")]
    Leaving,
}

/// Applies the definition if it is newer than what is there.
///
/// # Errors
/// When the API server says no, or the definition is being deleted.
pub async fn apply(client: Client) -> Result<Outcome, CrdError> {
    let nobody_s = Leadership::always();
    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    let live = fenced_api::read(&nobody_s, "read the definition", CRD_NAME, definitions.get_opt(CRD_NAME)).await?;
    let outcome = match Installed::of(live.as_ref()) {
        Installed::Leaving => return Err(CrdError::Leaving),
        Installed::Revision(live) if live >= REVISION => return Ok(Outcome::Kept { live }),
        Installed::Revision(from) => Outcome::Updated { from },
        Installed::Absent => Outcome::Created,
    };
    let (how, what) = (PatchParams::apply(FIELD_MANAGER).force(), crd());
    let what = Patch::Apply(&what);
    fenced_api::write(&nobody_s, "apply the definition", CRD_NAME, definitions.patch(CRD_NAME, &how, &what)).await?;
    Ok(outcome)
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Created => write!(f, "{CRD_NAME} created, with schema revision {REVISION}"),
            Self::Updated { from } => write!(f, "{CRD_NAME} updated from schema revision {from} to {REVISION}"),
            Self::Kept { live } => {
                write!(f, "{CRD_NAME} left as it is: it has schema revision {live}, this is {REVISION}")
            }
        }
    }
}
