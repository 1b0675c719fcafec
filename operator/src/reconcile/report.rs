//! What became of one Channel, as its front end publishes it. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use tidings_crds::channel::Channel;
use tidings_crds::condition::{AcceptedReason, ConditionStatus, ProgrammedReason, Reason};
use tidings_crds::desired::Verdict;
use tidings_crds::key::ChannelKey;
use tidings_crds::position::Epoch;
use tidings_crds::route::Route;

use crate::reconcile::outcome::{Applied, Deed, kept};

/// What became of one Channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Whose it is.
    pub key: ChannelKey,
    /// Whether the specification is valid.
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
    /// What was done to the stream.
    pub deed: Deed,
    /// Another one for each stream that a Channel can ask for.
    pub mark: u64,
    /// Whether the same attempt can succeed a little later.
    pub again: bool,
}

/// What was known of a Channel before a reconcile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// Whether it had a stream.
    pub had_stream: bool,
    /// Whether stream and Route were in place for the very specification that it has now.
    pub in_place: bool,
}

/// What is worth knowing for longer than a moment.
pub const STAYS: [ProgrammedReason; 3] =
    [ProgrammedReason::TookOver, ProgrammedReason::StreamRecreated, ProgrammedReason::StreamRepaired];

fn mark(verdict: &Verdict) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Verdict::Accepted(desired) = verdict {
        format!("{:?}{:?}", desired.stream, desired.reclaim_policy).hash(&mut hasher);
    }
    hasher.finish()
}

// === impl Report ===

impl Report {
    /// What became of `channel`.
    pub fn of(channel: &Channel, verdict: &Verdict, applied: &Applied) -> Self {
        let (accepted, accepted_message, programmed, programmed_message) = match verdict {
            Verdict::Accepted(_) => {
                let message = "The specification is valid.".to_owned();
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
            deed: applied.deed.clone(),
            mark: mark(verdict),
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
            deed: Deed::None,
            mark: 0,
            again: false,
        }
    }

    /// Says that others had deleted the stream or changed it, where that is why something was done to it.
    #[must_use]
    pub fn compared_with(mut self, before: Before) -> Self {
        if self.programmed != ProgrammedReason::Programmed {
            return self;
        }
        match &self.deed {
            Deed::Created if before.had_stream => {
                self.programmed = ProgrammedReason::StreamRecreated;
                self.programmed_message =
                    "The stream had been deleted, with all its events; it was created again.".to_owned();
            }
            Deed::Updated(fields) if before.in_place => {
                self.programmed = ProgrammedReason::StreamRepaired;
                self.programmed_message =
                    format!("The stream had been modified externally and was corrected: {}.", fields.join(", "));
            }
            Deed::None | Deed::Created | Deed::Updated(_) => {}
        }
        self
    }

    /// What was set right, as the metrics call it.
    pub fn correction(&self) -> Option<&'static str> {
        match (self.programmed, &self.deed) {
            (ProgrammedReason::StreamRecreated, Deed::Created) => Some("recreated"),
            (ProgrammedReason::StreamRepaired, Deed::Updated(_)) => Some("repaired"),
            _ => None,
        }
    }

    /// Keeps saying that the stream was taken over, created again or set right for as long as it is the same stream and the same Route: a report that
    /// says so once only is missed.
    #[must_use]
    pub fn after(mut self, previous: Option<&Self>) -> Self {
        let took_over = previous.filter(|previous| {
            STAYS.contains(&previous.programmed)
                && self.programmed == ProgrammedReason::Programmed
                && previous.epoch == self.epoch
                && previous.served == self.served
                && previous.mark == self.mark
        });
        if let Some(previous) = took_over {
            self.programmed = previous.programmed;
            self.programmed_message.clone_from(&previous.programmed_message);
        }
        self
    }

    /// What an earlier pass of this process knew of the Channel.
    pub fn before(&self) -> Before {
        Before { had_stream: self.epoch.is_some(), in_place: self.is_programmed() }
    }

    /// Whether the specification is valid.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn report(deed: Deed) -> Report {
        let key = ChannelKey::new("shop", "orders");
        let report = Report::unusable(key, AcceptedReason::Accepted, String::new(), None);
        Report { programmed: ProgrammedReason::Programmed, deed, ..report }
    }

    #[test]
    fn what_others_did_to_the_stream_is_told_apart_from_what_the_channel_asks_for() {
        let updated = || Deed::Updated(vec!["max_age", "republish"]);
        let after = |deed, had_stream, in_place| {
            let report = report(deed).compared_with(Before { had_stream, in_place });
            (report.programmed, report.correction())
        };
        assert_eq!(after(Deed::Created, false, false), (ProgrammedReason::Programmed, None));
        assert_eq!(after(Deed::Created, true, false), (ProgrammedReason::StreamRecreated, Some("recreated")));
        assert_eq!(after(updated(), true, false), (ProgrammedReason::Programmed, None));
        assert_eq!(after(updated(), true, true), (ProgrammedReason::StreamRepaired, Some("repaired")));
        assert_eq!(after(Deed::None, true, true), (ProgrammedReason::Programmed, None));
        let message = report(updated()).compared_with(Before { had_stream: true, in_place: true }).programmed_message;
        assert!(message.ends_with("corrected: max_age, republish."), "{message}");
    }

    #[test]
    fn it_is_said_for_as_long_as_nothing_else_changes_and_counted_once() {
        let before = Before { had_stream: true, in_place: true };
        let first = report(Deed::Created).compared_with(before);
        let later = report(Deed::None).after(Some(&first));
        assert_eq!((later.programmed, later.correction()), (ProgrammedReason::StreamRecreated, None));
        let changed = Report { mark: 7, ..report(Deed::None) }.after(Some(&first));
        assert_eq!(changed.programmed, ProgrammedReason::Programmed);
    }
}
