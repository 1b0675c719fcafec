//! The conditions of a Channel: a contract, each type with its legal reasons, each reason with its one status.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// It cannot be told at present.
    Unknown,
}

/// One reason, which names its condition and implies its status.
pub trait Reason: Copy + 'static {
    /// `Accepted`, `Programmed` or `Ready`.
    const TYPE: &'static str;

    /// Every reason of the condition.
    fn all() -> &'static [Self];

    /// The reason as it is written.
    fn as_str(self) -> &'static str;

    /// The status that goes with it.
    fn status(self) -> ConditionStatus;

    /// What it means, for the reference.
    fn meaning(self) -> &'static str;
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident of $type:literal { $($variant:ident => $status:ident, $meaning:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = $meaning] $variant,)+
        }

        impl $name {
            /// Every reason, in the order of the reference.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }

        impl Reason for $name {
            const TYPE: &'static str = $type;

            fn all() -> &'static [Self] {
                Self::ALL
            }

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)+
                }
            }

            fn status(self) -> ConditionStatus {
                match self {
                    $(Self::$variant => ConditionStatus::$status,)+
                }
            }

            fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

reasons! {
    /// Is the specification in order, and may the Channel have what it asks for?
    AcceptedReason of "Accepted" {
        Accepted => True, "The specification is valid.";
        InvalidName => False, "The name or the namespace is not a valid DNS label.";
        InvalidSpec => False, "The specification breaks a rule that an older schema let pass; the message names the field and says what to write.";
        InvalidSubjects => False, "A subject is malformed, reserved, or overlaps another subject of the same Channel.";
        SubjectNotGranted => False, "A subject is outside the Channel's own subjects and not covered by a grant of the administrator.";
        SubjectConflict => False, "A subject overlaps a subject of another Channel.";
        QuotaExceeded => False, "The namespace has a quota, and the Channel is above it; the message says which limit, what is used and what to change.";
        ForeignController => False, "Another installation serves the Channel; this one leaves it alone. Told as an Event: the status is the other's.";
    }
}

reasons! {
    /// Are stream and route in place?
    ProgrammedReason of "Programmed" {
        Programmed => True, "The stream and the Route match the specification.";
        TookOver => True, "As Programmed; the stream was there before, kept from an earlier Channel of the same name, and was taken over with its events.";
        NotAccepted => False, "The specification was rejected; the last valid Route stays in force, if there is one.";
        Pending => Unknown, "The specification is accepted and not yet applied; while gateways take a Route with new subjects, the message says which.";
        ForeignStream => False, "A stream of this name exists and does not belong to this Channel. It is never changed or deleted.";
        ImmutableDifference => False, "The stream exists with settings that NATS cannot change. It is never deleted and created again; the message says what to do.";
        StreamRecreated => True, "As Programmed; the stream had been deleted, with all its events, and was created again.";
        StreamRepaired => True, "As Programmed; the stream had been modified externally and was corrected.";
        StorageFull => False, "JetStream has no room for the stream; the message says what to do.";
        BrokerPermission => False, "The operator lacks a NATS permission; the message names it.";
        StreamRefused => False, "NATS refused the stream; the message quotes it.";
        RouteFailed => False, "The Route could not be written.";
        BrokerUnreachable => Unknown, "NATS is unreachable.";
    }
}

reasons! {
    /// Do the gateways serve the channel as it is written? The first reason that applies, in this order, is the one given.
    ReadyReason of "Ready" {
        Deleting => False, "The Channel is being deleted.";
        NotAccepted => False, "The specification was rejected.";
        BrokerUnreachable => Unknown, "NATS has been unreachable for 30 s.";
        NotProgrammed => False, "The stream or the Route is not in place.";
        NoGateways => False, "No gateway is ready.";
        Progressing => False, "Some gateways do not serve the current Route yet; the message counts them.";
        GatewaySilent => Unknown, "No heartbeat from a gateway for 30 s.";
        Serving => True, "All gateways serve the current Route.";
    }
}

// === impl ConditionStatus ===

impl ConditionStatus {
    /// As Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A condition as it is written at `now`: its transition time is that of the condition of the same type among
/// `previous` for as long as the status stays the same.
pub fn condition<R: Reason>(
    reason: R,
    message: impl Into<String>,
    generation: Option<i64>,
    previous: &[Condition],
    now: &Time,
) -> Condition {
    let status = reason.status().as_str();
    let unchanged = previous.iter().find(|old| old.type_ == R::TYPE && old.status == status);
    Condition {
        type_: R::TYPE.to_owned(),
        status: status.to_owned(),
        reason: reason.as_str().to_owned(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: unchanged.map_or_else(|| now.clone(), |old| old.last_transition_time.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Time {
        serde_json::from_value(serde_json::json!(text)).unwrap()
    }

    #[test]
    fn the_transition_time_stays_while_the_status_does() {
        let (first, second) = (at("2026-11-01T00:00:00Z"), at("2026-11-02T00:00:00Z"));
        let progressing = condition(ReadyReason::Progressing, "1 of 3", Some(1), &[], &first);
        assert_eq!(progressing.last_transition_time, first);
        let none = condition(ReadyReason::NoGateways, "", Some(2), std::slice::from_ref(&progressing), &second);
        assert_eq!((none.status.as_str(), &none.last_transition_time), ("False", &first));
        assert_eq!(none.observed_generation, Some(2));
        let serving = condition(ReadyReason::Serving, "", Some(2), &[none], &second);
        assert_eq!((serving.status.as_str(), &serving.last_transition_time), ("True", &second));
        let accepted = condition(AcceptedReason::Accepted, "", Some(2), &[serving], &first);
        assert_eq!((accepted.type_.as_str(), &accepted.last_transition_time), ("Accepted", &first));
    }

    #[test]
    fn reasons_are_written_as_kubernetes_wants_them() {
        fn check<R: Reason>(reasons: &[R]) {
            for reason in reasons {
                assert!(reason.as_str().chars().all(|c| c.is_ascii_alphanumeric()), "{}", reason.as_str());
                assert!(reason.meaning().ends_with('.'), "{}", reason.as_str());
            }
        }
        check(AcceptedReason::ALL);
        check(ProgrammedReason::ALL);
        check(ReadyReason::ALL);
        assert_eq!(AcceptedReason::SubjectConflict.to_string(), "SubjectConflict");
    }
}
