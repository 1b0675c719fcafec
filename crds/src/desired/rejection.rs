//! Why a Channel is refused.

use crate::api::condition::AcceptedReason;
use crate::desired::claims::Conflict;

/// Why a Channel is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The reason of the condition.
    pub reason: AcceptedReason,
    /// What to write instead.
    pub message: String,
}

impl From<&Conflict> for Rejection {
    fn from(conflict: &Conflict) -> Self {
        Self { reason: AcceptedReason::SubjectConflict, message: conflict.to_string() }
    }
}
