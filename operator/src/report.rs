//! What became of one Channel, as its front end publishes it. Pure.

use tidings_crds::channel::Channel;
use tidings_crds::condition::{AcceptedReason, ConditionStatus, ProgrammedReason, Reason};
use tidings_crds::desired::Verdict;
use tidings_crds::key::ChannelKey;
use tidings_crds::position::Epoch;
use tidings_crds::route::Route;

use crate::apply::Applied;

/// What became of one Channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Whose it is.
    pub key: ChannelKey,
    /// Whether the specification is in order.
    pub accepted: AcceptedReason,
    /// What there is to say about it.
    pub accepted_message: String,
    /// Whether stream and Route are in place.
    pub programmed: ProgrammedReason,
    /// What there is to say about it.
    pub programmed_message: String,
    /// The stream that keeps its events.
    pub stream: Option<String>,
    /// Which incarnation of it.
    pub epoch: Option<Epoch>,
    /// Its subjects, as far as it was accepted.
    pub subjects: Vec<String>,
    /// The Route in force.
    pub served: Option<Route>,
    /// The digest of the Route that gateways have to take before the stream gets its new subjects.
    pub awaits: Option<String>,
    /// Whether the same attempt can succeed a little later.
    pub again: bool,
}

/// What becomes of the Route while a specification is refused.
pub fn kept(served: Option<&Route>) -> &'static str {
    match served {
        Some(_) => "The last good route stays in force.",
        None => "There is no route yet: nothing is served until the specification is accepted.",
    }
}

// === impl Report ===

impl Report {
    /// What became of `channel`.
    pub fn of(channel: &Channel, verdict: &Verdict, applied: &Applied) -> Self {
        let (accepted, accepted_message, programmed, programmed_message) = match verdict {
            Verdict::Accepted(_) => {
                let message = "The specification is in order.".to_owned();
                (AcceptedReason::Accepted, message, applied.programmed, applied.message.clone())
            }
            Verdict::Rejected(rejection) => {
                let failed = applied.failure.is_some();
                let programmed = if failed { applied.programmed } else { ProgrammedReason::NotAccepted };
                (rejection.reason, rejection.message.clone(), programmed, applied.message.clone())
            }
        };
        let (stream, subjects) = match verdict {
            Verdict::Accepted(desired) => (
                desired.stream.as_ref().map(|stream| stream.name.clone()),
                desired.subjects.iter().map(ToString::to_string).collect(),
            ),
            Verdict::Rejected(_) => (None, Vec::new()),
        };
        Self {
            key: channel.key(),
            accepted,
            accepted_message,
            programmed,
            programmed_message,
            stream,
            epoch: applied.epoch,
            subjects,
            served: applied.served.clone(),
            awaits: applied.awaits.clone(),
            again: applied.failure.as_ref().is_some_and(|failure| failure.passing),
        }
    }

    /// A Channel whose manifest cannot be used at all; what it had stays in force.
    /// `served` is the Route that is in force.
    pub fn unusable(key: ChannelKey, reason: AcceptedReason, message: String, served: Option<Route>) -> Self {
        Self {
            key,
            accepted: reason,
            accepted_message: message,
            programmed: ProgrammedReason::NotAccepted,
            programmed_message: kept(served.as_ref()).to_owned(),
            stream: None,
            epoch: None,
            subjects: Vec::new(),
            served,
            awaits: None,
            again: false,
        }
    }

    /// Keeps saying that the stream was taken over for as long as it is the same stream and the same Route: a report that
    /// says so once only is missed.
    #[must_use]
    pub fn after(mut self, previous: Option<&Self>) -> Self {
        let took_over = previous.filter(|previous| {
            previous.programmed == ProgrammedReason::TookOver
                && self.programmed == ProgrammedReason::Programmed
                && previous.epoch == self.epoch
                && previous.served == self.served
        });
        if let Some(previous) = took_over {
            self.programmed = previous.programmed;
            self.programmed_message.clone_from(&previous.programmed_message);
        }
        self
    }

    /// Whether the specification is in order.
    pub fn is_accepted(&self) -> bool {
        self.accepted.status() == ConditionStatus::True
    }

    /// Whether stream and Route are in place.
    pub fn is_programmed(&self) -> bool {
        self.programmed.status() == ConditionStatus::True
    }

    /// One word for tables and metrics: the reason of the first condition that does not hold, else `Programmed`.
    pub fn state(&self) -> &'static str {
        if self.is_accepted() { self.programmed.as_str() } else { self.accepted.as_str() }
    }

    /// What to read when something is wrong; empty when nothing is.
    pub fn complaint(&self) -> &str {
        match (self.is_accepted(), self.is_programmed()) {
            (false, _) => &self.accepted_message,
            (true, false) => &self.programmed_message,
            (true, true) => "",
        }
    }
}
