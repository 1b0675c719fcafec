//! When a Channel is `Ready`: the rules, in their order; the first that applies is the one given. Pure.
//!
//! 1. being deleted → False/Deleting
//! 2. not accepted → False/NotAccepted
//! 3. NATS away for 30 s → Unknown/BrokerUnreachable
//! 4. not programmed → False/NotProgrammed
//! 5. no expected gateway → False/NoGateways
//! 6. an expected gateway that was heard of serves another Route → False/Progressing
//! 7. an expected gateway silent for 30 s → Unknown/GatewaySilent
//! 8. otherwise → True/Serving
//!
//! Two things come before the last four. An operator that has just started knows neither the gateways nor what they serve:
//! until it does, what stands in the status for this generation stays, unless all that counts was heard already. And
//! a gateway that is new and was not heard of yet speaks neither for nor against: it was ready, so it serves; but a Channel
//! becomes Ready only when every expected gateway has said so.

use std::time::Duration;

use tidings_crds::condition::ReadyReason;

use crate::schedule::gateways::View;

/// How long NATS may be away before anything is said of it.
pub const BROKER_PATIENCE: Duration = Duration::from_secs(30);

/// What decides.
#[derive(Clone, Debug)]
pub struct Facts<'f> {
    /// Being deleted, and what is waited for.
    pub leaving: Option<&'f str>,
    /// Whether the condition `Accepted` holds.
    pub accepted: bool,
    /// Whether the condition `Programmed` holds.
    pub programmed: bool,
    /// How long NATS has been away.
    pub broker_away: Option<Duration>,
    /// What the gateways do.
    pub view: &'f View,
    /// What the status says of this very generation already: whether it is `True`.
    pub stands: Option<bool>,
}

/// What the condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This.
    Is(ReadyReason, String),
    /// What it said before.
    Stands,
}

/// Applies the rules.
pub fn ready(facts: &Facts<'_>) -> Answer {
    let is = |reason, message: &str| Answer::Is(reason, message.to_owned());
    let view = facts.view;
    if let Some(waiting) = facts.leaving {
        return is(ReadyReason::Deleting, waiting);
    }
    if !facts.accepted {
        return is(ReadyReason::NotAccepted, "The specification was rejected; see the condition Accepted.");
    }
    if facts.broker_away.is_some_and(|away| away >= BROKER_PATIENCE) {
        return is(ReadyReason::BrokerUnreachable, "NATS has been unreachable for 30 s.");
    }
    if !facts.programmed {
        return is(
            ReadyReason::NotProgrammed,
            "The stream or the Route is not in place; see the condition Programmed.",
        );
    }
    if !view.is_certain() {
        return match facts.stands {
            Some(_) => Answer::Stands,
            None if view.listed && view.expected == 0 => no_gateways(),
            None => progressing(view),
        };
    }
    if view.expected == 0 {
        return no_gateways();
    }
    if view.behind > 0 {
        return progressing(view);
    }
    if let [first, others @ ..] = view.silent.as_slice() {
        let message = match others.len() {
            0 => format!("No heartbeat from gateway {first} for 30 s."),
            more => format!("No heartbeat from gateway {first} and {more} more for 30 s."),
        };
        return Answer::Is(ReadyReason::GatewaySilent, message);
    }
    if view.unheard > 0 && facts.stands != Some(true) {
        return progressing(view);
    }
    is(ReadyReason::Serving, "All gateways serve the current Route.")
}

fn no_gateways() -> Answer {
    Answer::Is(ReadyReason::NoGateways, "No gateway is ready.".to_owned())
}

fn progressing(view: &View) -> Answer {
    let message = format!("{} of {} gateways serve the current Route.", view.serving, view.expected);
    Answer::Is(ReadyReason::Progressing, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View { expected: 3, serving: 3, settled: true, listed: true, ..View::default() }
    }

    fn facts(view: &View) -> Facts<'_> {
        Facts { leaving: None, accepted: true, programmed: true, broker_away: None, view, stands: None }
    }

    fn reason(facts: &Facts<'_>) -> Option<ReadyReason> {
        match ready(facts) {
            Answer::Is(reason, _) => Some(reason),
            Answer::Stands => None,
        }
    }

    #[test]
    fn the_first_rule_that_applies_is_the_one_given() {
        // Everything is wrong at once; then one thing after the other is set right.
        let silent = vec!["gateway-1".to_owned()];
        let none = View { expected: 0, serving: 0, ..view() };
        let wrong = View { serving: 1, behind: 1, silent: silent.clone(), ..view() };
        let mut all = Facts {
            leaving: Some("…"),
            accepted: false,
            programmed: false,
            broker_away: Some(BROKER_PATIENCE),
            ..facts(&none)
        };
        assert_eq!(reason(&all), Some(ReadyReason::Deleting));
        all.leaving = None;
        assert_eq!(reason(&all), Some(ReadyReason::NotAccepted));
        all.accepted = true;
        assert_eq!(reason(&all), Some(ReadyReason::BrokerUnreachable));
        all.broker_away = Some(BROKER_PATIENCE - Duration::from_millis(1));
        assert_eq!(reason(&all), Some(ReadyReason::NotProgrammed));
        all.programmed = true;
        assert_eq!(reason(&all), Some(ReadyReason::NoGateways));
        let all = facts(&wrong);
        assert_eq!(
            ready(&all),
            Answer::Is(ReadyReason::Progressing, "1 of 3 gateways serve the current Route.".into())
        );
        let wrong = View { serving: 2, silent, ..view() };
        assert_eq!(
            ready(&facts(&wrong)),
            Answer::Is(ReadyReason::GatewaySilent, "No heartbeat from gateway gateway-1 for 30 s.".into())
        );
        assert_eq!(reason(&facts(&view())), Some(ReadyReason::Serving));
    }

    #[test]
    fn a_new_gateway_never_pulls_a_ready_channel_down_and_never_makes_one_ready() {
        let view = View { serving: 2, unheard: 1, ..view() };
        let stood = |stands| Facts { stands, ..facts(&view) };
        assert_eq!(reason(&stood(Some(true))), Some(ReadyReason::Serving));
        assert_eq!(reason(&stood(Some(false))), Some(ReadyReason::Progressing));
        assert_eq!(reason(&stood(None)), Some(ReadyReason::Progressing));
    }

    #[test]
    fn before_the_gateways_are_known_only_what_is_certain_is_said() {
        for known in [
            View { listed: false, ..View::default() },
            View { listed: true, settled: false, expected: 0, ..View::default() },
            View { listed: true, settled: false, expected: 3, serving: 1, unheard: 2, ..View::default() },
            View { listed: true, settled: false, expected: 3, serving: 1, behind: 2, ..View::default() },
        ] {
            for stands in [true, false] {
                assert_eq!(ready(&Facts { stands: Some(stands), ..facts(&known) }), Answer::Stands, "{known:?}");
            }
            let expected =
                if known.listed && known.expected == 0 { ReadyReason::NoGateways } else { ReadyReason::Progressing };
            assert_eq!(reason(&facts(&known)), Some(expected), "{known:?}");
        }
        let all = View { settled: false, ..view() };
        assert_eq!(reason(&Facts { stands: Some(false), ..facts(&all) }), Some(ReadyReason::Serving));
        // Without a list there may be gateways that were not heard of yet.
        let heard = View { settled: false, listed: false, ..view() };
        assert_eq!(reason(&facts(&heard)), Some(ReadyReason::Progressing));
    }

    #[test]
    fn what_does_not_rest_on_gateways_is_said_at_once() {
        let unknown = View::default();
        let stood = Facts { stands: Some(true), ..facts(&unknown) };
        assert_eq!(reason(&Facts { accepted: false, ..stood.clone() }), Some(ReadyReason::NotAccepted));
        assert_eq!(reason(&Facts { programmed: false, ..stood.clone() }), Some(ReadyReason::NotProgrammed));
        let away = Facts { broker_away: Some(BROKER_PATIENCE), ..stood };
        assert_eq!(reason(&away), Some(ReadyReason::BrokerUnreachable));
    }
}
