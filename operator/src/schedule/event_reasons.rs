//! Which Events a new status deserves. Pure.
//!
//! An Event is for what a person would want to be told: a Channel is served, it is refused, something keeps it from being
//! served. Each is told once, when it begins; progress alone is not.

use tidings_crds::channel::ChannelStatus;
use tidings_crds::condition::{AcceptedReason, ProgrammedReason, ReadyReason, Reason};

use crate::reconcile::report::Report;

/// What an Event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether it is a warning.
    pub warning: bool,
    /// The reason of the condition: what differs belongs here, since series of Events are counted by it.
    pub reason: String,
    /// The message of the condition.
    pub note: String,
}

/// What is new in `after`.
pub fn notices(before: &ChannelStatus, after: &ChannelStatus) -> Vec<Notice> {
    let mut notices = Vec::new();
    for condition in &after.conditions {
        let was = before.conditions.iter().find(|one| one.type_ == condition.type_);
        if was.is_some_and(|was| was.status == condition.status && was.reason == condition.reason) {
            continue;
        }
        let holds = condition.status == "True";
        let told = match condition.type_.as_str() {
            AcceptedReason::TYPE => !holds,
            ProgrammedReason::TYPE => {
                // What others did to a stream is told each time: see `correction`.
                let quiet = [
                    ProgrammedReason::NotAccepted,
                    ProgrammedReason::Pending,
                    ProgrammedReason::Programmed,
                    ProgrammedReason::StreamRecreated,
                    ProgrammedReason::StreamRepaired,
                ];
                !quiet.iter().any(|reason| reason.as_str() == condition.reason)
            }
            ReadyReason::TYPE => {
                // The others are told by the condition that they follow from.
                let quiet = [ReadyReason::Progressing, ReadyReason::NotAccepted, ReadyReason::NotProgrammed];
                !quiet.iter().any(|reason| reason.as_str() == condition.reason)
            }
            _ => false,
        };
        if told {
            let (reason, note) = (condition.reason.clone(), condition.message.clone());
            notices.push(Notice { warning: !holds && condition.reason != "Deleting", reason, note });
        }
    }
    notices
}

/// What there is to say of a reconcile that set a stream right.
pub fn correction(report: &Report) -> Option<Notice> {
    report.correction()?;
    let (reason, note) = (report.programmed.as_str().to_owned(), report.programmed_message.clone());
    Some(Notice { warning: true, reason, note })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use tidings_crds::condition::condition;

    fn status(accepted: AcceptedReason, programmed: ProgrammedReason, ready: ReadyReason) -> ChannelStatus {
        let now: Time = serde_json::from_value("2026-11-01T00:00:00Z".into()).unwrap();
        let conditions = vec![
            condition(accepted, "a", Some(1), &[], &now),
            condition(programmed, "p", Some(1), &[], &now),
            condition(ready, "r", Some(1), &[], &now),
        ];
        ChannelStatus { conditions, ..ChannelStatus::default() }
    }

    fn told(before: &ChannelStatus, after: &ChannelStatus) -> Vec<(bool, String)> {
        notices(before, after).into_iter().map(|notice| (notice.warning, notice.reason)).collect()
    }

    #[test]
    fn each_state_is_told_once_and_progress_is_not() {
        use AcceptedReason::{Accepted, SubjectConflict};
        use ProgrammedReason::{NotAccepted, Programmed, TookOver};
        let nothing = ChannelStatus::default();
        let progressing = status(Accepted, Programmed, ReadyReason::Progressing);
        assert_eq!(told(&nothing, &progressing), []);
        let serving = status(Accepted, Programmed, ReadyReason::Serving);
        assert_eq!(told(&progressing, &serving), [(false, "Serving".to_owned())]);
        assert_eq!(told(&serving, &serving), []);
        let silent = status(Accepted, Programmed, ReadyReason::GatewaySilent);
        assert_eq!(told(&serving, &silent), [(true, "GatewaySilent".to_owned())]);
        let refused = status(SubjectConflict, NotAccepted, ReadyReason::NotAccepted);
        assert_eq!(told(&serving, &refused), [(true, "SubjectConflict".to_owned())]);
        let took_over = status(Accepted, TookOver, ReadyReason::Progressing);
        assert_eq!(told(&nothing, &took_over), [(false, "TookOver".to_owned())]);
    }
}
