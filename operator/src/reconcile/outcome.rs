//! What is there for one Channel, and what was done: what the steps of a reconcile hand on.

use tidings_crds::condition::ProgrammedReason;
use tidings_crds::position::Epoch;
use tidings_crds::route::Route;
use tidings_process::error_chain::chain;

use crate::nats::streams::StreamError;
use crate::reconcile::stream_config::{DocumentError, ObservedStream};

/// What is there for one Channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Its stream, or the one that stands in its place.
    pub stream: Result<Option<ObservedStream>, Failure>,
    /// Its Route.
    pub route: Option<Route>,
}

/// What was done.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Whether stream and Route are in place.
    pub programmed: ProgrammedReason,
    /// What there is to say about it.
    pub message: String,
    /// Which incarnation of the stream there is.
    pub epoch: Option<Epoch>,
    /// The Route in force afterwards.
    pub served: Option<Route>,
    /// The digest of the Route that gateways have to take before the stream gets its new subjects.
    pub awaits: Option<String>,
    /// What was done to the stream.
    pub deed: Deed,
    /// What failed.
    pub failure: Option<Failure>,
}

/// A step that failed, with its chain of causes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it means for the Channel.
    pub reason: ProgrammedReason,
    /// The stable name for metrics.
    pub category: &'static str,
    /// The error and its causes, outermost first.
    pub message: String,
    /// Whether the same attempt can succeed a little later; otherwise something has to change.
    pub passing: bool,
}

/// What was done to the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Deed {
    /// Nothing.
    #[default]
    None,
    /// It was created.
    Created,
    /// These fields of it were changed.
    Updated(Vec<&'static str>),
}

/// What becomes of the Route while a specification is refused.
pub fn kept(served: Option<&Route>) -> &'static str {
    match served {
        Some(_) => "The last valid Route stays in force.",
        None => "There is no Route yet: the Channel is not served until its specification is accepted.",
    }
}

// === impl Applied ===

impl Applied {
    /// Nothing but a failure.
    pub fn failed(failure: Failure, epoch: Option<Epoch>, served: Option<Route>) -> Self {
        Self {
            programmed: failure.reason,
            message: failure.message.clone(),
            epoch,
            served,
            awaits: None,
            deed: Deed::None,
            failure: Some(failure),
        }
    }
}

// === impl Failure ===

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        let (reason, passing) = match &error {
            StreamError::Unreachable { .. } => (ProgrammedReason::BrokerUnreachable, true),
            // Another operator was faster: the next look shows its stream.
            StreamError::Refused { .. } if error.is_race() => (ProgrammedReason::Pending, true),
            StreamError::NotLeading { .. } => (ProgrammedReason::Pending, true),
            StreamError::Forbidden { .. } => (ProgrammedReason::BrokerPermission, true),
            StreamError::Refused { .. } if error.is_full() => (ProgrammedReason::StorageFull, true),
            StreamError::Refused { .. } => (ProgrammedReason::StreamRefused, false),
        };
        let mut message = chain(&error);
        if error.is_full() {
            message.push_str(
                ". Make room: lower history.maxBytes or delete a stream, or let NATS or its account have more",
            );
        }
        Self { reason, category: error.category(), message, passing }
    }
}

impl From<DocumentError> for Failure {
    fn from(error: DocumentError) -> Self {
        let reason = ProgrammedReason::StreamRefused;
        Self { reason, category: "stream_unreadable", message: chain(&error), passing: false }
    }
}
