//! What the status of a Channel should say, and whether that is worth writing. Pure: time is passed in.
//!
//! Only our own fields and our own three conditions are looked at and written; those of others stay. Every status is made
//! whole: the first write of a generation has all three conditions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};
use tidings_crds::channel::{ChannelStatus, GatewayCount};
use tidings_crds::condition::{AcceptedReason, ConditionStatus, ProgrammedReason, ReadyReason, Reason, condition};
use tidings_crds::definition::API_VERSION;

use crate::reconcile::report::{Report, STAYS};
use crate::schedule::gateways::View;
use crate::schedule::observed::ObservedChannel;
use crate::schedule::ready::{Answer, Facts, ready};

/// What one visit found out about a Channel.
#[derive(Clone, Debug, PartialEq)]
pub enum Account {
    /// It was reconciled.
    Reconciled(Box<Report>),
    /// It is being deleted, and this is waited for.
    Leaving(String),
}

/// What a status is made from, beside the Channel itself.
#[derive(Clone, Copy, Debug)]
pub struct Outlook<'o> {
    /// What the last visit of this generation found out.
    pub account: &'o Account,
    /// How long NATS has been away.
    pub broker_away: Option<std::time::Duration>,
    /// What the gateways do.
    pub view: &'o View,
    /// Open streams, if that is known and may be written now.
    pub subscribers: Option<u64>,
    /// This installation, as `namespace/release`.
    pub controller: &'o str,
    /// What `url` begins with.
    pub public_url: Option<&'o str>,
}

/// What differs between two statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Nothing.
    None,
    /// Only how many subscribers there are: nobody waits for that.
    Counts,
    /// How many gateways serve it, or the message of a condition: a person may be watching.
    Progress,
    /// A condition, or something that people and programs rely on.
    Transition,
}

/// The status that the Channel should have.
pub fn status(channel: &ObservedChannel, outlook: &Outlook<'_>, now: &Time) -> ChannelStatus {
    let before = &channel.status;
    let generation = Some(channel.generation);
    let said = Said::of(channel, outlook);
    let stands = standing::<ReadyReason>(before, channel.generation);
    let facts = Facts {
        leaving: match outlook.account {
            Account::Leaving(waiting) => Some(waiting),
            Account::Reconciled(_) => None,
        },
        accepted: said.accepted.0.status() == ConditionStatus::True,
        programmed: said.programmed.0.status() == ConditionStatus::True,
        broker_away: outlook.broker_away,
        view: outlook.view,
        stands: stands.map(|condition| condition.status == "True"),
    };
    let ready = match (ready(&facts), stands) {
        (Answer::Is(reason, message), _) => condition(reason, message, generation, &before.conditions, now),
        (Answer::Stands, Some(stands)) => stands.clone(),
        // `Stands` is answered only to what stands.
        (Answer::Stands, None) => condition(ReadyReason::Progressing, "", generation, &before.conditions, now),
    };
    let gateways = GatewayCount { serving: count(outlook.view.serving), expected: count(outlook.view.expected) };
    ChannelStatus {
        observed_generation: generation,
        served_generation: said.served_generation,
        controller_name: Some(outlook.controller.to_owned()),
        url: outlook
            .public_url
            .map(|url| format!("{url}/channels/{}/{}/events", channel.key.namespace, channel.key.name)),
        stream: said.stream,
        subjects: said.subjects,
        epoch: said.epoch,
        subscribers: subscribers(before.subscribers, outlook.subscribers),
        gateways: before.gateways.filter(|_| !outlook.view.is_certain()).or(Some(gateways)),
        conditions: vec![
            condition(said.accepted.0, said.accepted.1, generation, &before.conditions, now),
            condition(said.programmed.0, said.programmed.1, generation, &before.conditions, now),
            ready,
        ],
    }
}

/// How much of a difference there is between what stands and what should.
pub fn change(stands: &ChannelStatus, wanted: &ChannelStatus) -> Change {
    let stands = ours(stands);
    if stands == *wanted {
        return Change::None;
    }
    let subscribers = |status: &ChannelStatus| ChannelStatus { subscribers: None, ..status.clone() };
    let (stands, wanted) = (subscribers(&stands), subscribers(wanted));
    if stands == wanted {
        Change::Counts
    } else if without_progress(stands) == without_progress(wanted) {
        Change::Progress
    } else {
        Change::Transition
    }
}

/// The document that writes a status by server-side apply: for the very object that was observed, or not at all.
pub fn document(channel: &ObservedChannel, status: &ChannelStatus) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "Channel",
        "metadata": {
            "namespace": channel.key.namespace,
            "name": channel.key.name,
            // A uid alone is accepted when it is wrong; a version is not.
            "resourceVersion": channel.version,
        },
        "status": status,
    })
}

/// The conditions of ours in a status, in our order.
fn ours(status: &ChannelStatus) -> ChannelStatus {
    let types = [AcceptedReason::TYPE, ProgrammedReason::TYPE, ReadyReason::TYPE];
    let conditions = types.iter().filter_map(|wanted| status.conditions.iter().find(|one| one.type_ == *wanted));
    ChannelStatus { conditions: conditions.cloned().collect(), ..status.clone() }
}

fn without_progress(mut status: ChannelStatus) -> ChannelStatus {
    status.gateways = None;
    for condition in &mut status.conditions {
        if condition.type_ == ReadyReason::TYPE {
            condition.message.clear();
        }
    }
    status
}

/// What the status says of this generation already.
fn standing<R: Reason>(status: &ChannelStatus, generation: i64) -> Option<&Condition> {
    status.conditions.iter().find(|one| one.type_ == R::TYPE && one.observed_generation == Some(generation))
}

/// A tenth more or less is worth writing, and so is every step from and to 0.
fn subscribers(before: Option<i64>, now: Option<u64>) -> Option<i64> {
    let Some(now) = now.map(|now| i64::try_from(now).unwrap_or(i64::MAX)) else { return before };
    match before {
        Some(before) if before != 0 && now != 0 && before.abs_diff(now) < before.unsigned_abs().div_ceil(10) => {
            Some(before)
        }
        _ => Some(now),
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// What is said of the specification, the stream and the Route.
struct Said {
    accepted: (AcceptedReason, String),
    programmed: (ProgrammedReason, String),
    served_generation: Option<i64>,
    stream: Option<String>,
    subjects: Vec<String>,
    epoch: Option<String>,
}

// === impl Said ===

impl Said {
    fn of(channel: &ObservedChannel, outlook: &Outlook<'_>) -> Self {
        match outlook.account {
            Account::Reconciled(report) => Self::reconciled(channel, report),
            Account::Leaving(_) => Self::leaving(channel),
        }
    }

    fn reconciled(channel: &ObservedChannel, report: &Report) -> Self {
        let before = &channel.status;
        let mut programmed = (report.programmed, report.programmed_message.clone());
        let epoch = report.epoch.map(|epoch| epoch.to_string());
        let earlier = standing::<ProgrammedReason>(before, channel.generation);
        match programmed.0 {
            // NATS being away says nothing about a stream and a Route that were in place; `Ready` says that it is away.
            // That another operator leads or was faster is not worth a message.
            ProgrammedReason::BrokerUnreachable | ProgrammedReason::Pending if report.awaits.is_none() => {
                if let Some(kept) = earlier.and_then(kept) {
                    programmed = kept;
                }
            }
            // That a stream was taken over is worth knowing for as long as it is the same stream.
            ProgrammedReason::Programmed if epoch.is_some() && epoch == before.epoch => {
                let earlier = before.conditions.iter().find(|one| one.type_ == ProgrammedReason::TYPE);
                // What others did to it is for this specification; another one is a new beginning.
                let told = |one: &&Condition| {
                    one.reason == ProgrammedReason::TookOver.as_str()
                        || (one.observed_generation == Some(channel.generation)
                            && STAYS.iter().any(|stays| one.reason == stays.as_str()))
                };
                if let Some(kept) = earlier.filter(told).and_then(kept) {
                    programmed = kept;
                }
            }
            _ => {}
        }
        // What is served goes on being described while something newer is refused or fails.
        let served = report.served.as_ref();
        let goes_on = served.is_some() && !(report.is_accepted() && report.is_programmed());
        let (stream, subjects, epoch) = if goes_on && before.stream.is_some() {
            (before.stream.clone(), before.subjects.clone(), epoch.or_else(|| before.epoch.clone()))
        } else {
            (report.stream.clone(), report.subjects.clone(), epoch)
        };
        Self {
            accepted: (report.accepted, report.accepted_message.clone()),
            programmed,
            served_generation: served.map(|route| route.generation),
            stream,
            subjects,
            epoch,
        }
    }

    fn leaving(channel: &ObservedChannel) -> Self {
        let before = &channel.status;
        let of_type = |wanted: &str| before.conditions.iter().find(|one| one.type_ == wanted);
        let accepted = of_type(AcceptedReason::TYPE).and_then(kept);
        let programmed = of_type(ProgrammedReason::TYPE).and_then(kept);
        Self {
            accepted: accepted.unwrap_or_else(|| (AcceptedReason::Accepted, "The specification is valid.".to_owned())),
            programmed: programmed
                .unwrap_or_else(|| (ProgrammedReason::Pending, "The Channel is being deleted.".to_owned())),
            served_generation: None,
            stream: before.stream.clone(),
            subjects: before.subjects.clone(),
            epoch: before.epoch.clone(),
        }
    }
}

/// A condition as it was written, if this version knows its reason.
fn kept<R: Reason + 'static>(condition: &Condition) -> Option<(R, String)> {
    let reason = R::all().iter().find(|reason| reason.as_str() == condition.reason)?;
    Some((*reason, condition.message.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::observed::tests::read;
    use serde_json::json;
    use tidings_crds::key::ChannelKey;
    use tidings_crds::position::Epoch;

    const CONTROLLER: &str = "tidings-system/tidings";

    fn time(text: &str) -> Time {
        serde_json::from_value(json!(text)).unwrap()
    }

    fn first() -> Time {
        time("2026-11-01T00:00:00Z")
    }

    fn later() -> Time {
        time("2026-11-01T00:01:00Z")
    }

    fn channel(generation: i64, status: &ChannelStatus) -> ObservedChannel {
        read(json!({
            "apiVersion": API_VERSION, "kind": "Channel", "spec": {}, "status": status,
            "metadata": {
                "namespace": "shop", "name": "orders", "uid": "u", "resourceVersion": "5", "generation": generation,
            },
        }))
    }

    fn report(programmed: ProgrammedReason) -> Account {
        let unusable =
            Report::unusable(ChannelKey::new("shop", "orders"), AcceptedReason::Accepted, "Good.".into(), None);
        Account::Reconciled(Box::new(Report {
            programmed,
            programmed_message: format!("{programmed}."),
            stream: Some("TIDINGS_shop_orders".into()),
            epoch: Some(Epoch::from_nanos(36)),
            subjects: vec!["tidings.shop.orders".into()],
            ..unusable
        }))
    }

    fn serving() -> View {
        View { expected: 2, serving: 2, settled: true, listed: true, ..View::default() }
    }

    fn outlook<'o>(account: &'o Account, view: &'o View) -> Outlook<'o> {
        Outlook {
            account,
            broker_away: None,
            view,
            subscribers: None,
            controller: CONTROLLER,
            public_url: Some("https://push.example"),
        }
    }

    fn reasons(status: &ChannelStatus) -> Vec<&str> {
        status.conditions.iter().map(|condition| condition.reason.as_str()).collect()
    }

    #[test]
    fn the_first_status_says_everything() {
        let (account, view) = (report(ProgrammedReason::Programmed), serving());
        let channel = channel(1, &ChannelStatus::default());
        let status = status(&channel, &Outlook { subscribers: Some(3), ..outlook(&account, &view) }, &first());
        assert_eq!(reasons(&status), ["Accepted", "Programmed", "Serving"]);
        assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(1)));
        assert!(status.conditions.iter().all(|condition| !condition.message.is_empty()));
        assert_eq!(status.controller_name.as_deref(), Some(CONTROLLER));
        assert_eq!(status.url.as_deref(), Some("https://push.example/channels/shop/orders/events"));
        assert_eq!((status.epoch.as_deref(), status.subscribers), (Some("10"), Some(3)));
        assert_eq!(status.gateways, Some(GatewayCount { serving: 2, expected: 2 }));
        assert_eq!(change(&channel.status, &status), Change::Transition);
        let written = document(&channel, &status);
        assert_eq!(written["metadata"], json!({ "namespace": "shop", "name": "orders", "resourceVersion": "5" }));
    }

    #[test]
    fn what_stands_is_not_written_again_and_foreign_conditions_are_not_looked_at() {
        let (account, view) = (report(ProgrammedReason::Programmed), serving());
        let written = status(&channel(1, &ChannelStatus::default()), &outlook(&account, &view), &first());
        let foreign = condition(ReadyReason::Serving, "", None, &[], &first());
        let foreign = Condition { type_: "example.com/Approved".into(), ..foreign };
        let mut stands = written.clone();
        stands.conditions.insert(0, foreign);
        let again = status(&channel(1, &stands), &outlook(&account, &view), &later());
        assert_eq!(again, written);
        assert_eq!(change(&stands, &again), Change::None);
    }

    #[test]
    fn counts_are_no_transition() {
        let account = report(ProgrammedReason::Programmed);
        let view = View { serving: 1, behind: 1, ..serving() };
        let before = status(&channel(1, &ChannelStatus::default()), &outlook(&account, &view), &first());
        let view = View { serving: 2, behind: 1, expected: 3, ..serving() };
        let after = status(&channel(1, &before), &outlook(&account, &view), &later());
        assert_eq!(change(&before, &after), Change::Progress);
        let after = ChannelStatus { subscribers: Some(4), ..before.clone() };
        assert_eq!(change(&before, &after), Change::Counts);
        let after = status(&channel(1, &before), &outlook(&account, &serving()), &later());
        assert_eq!(change(&before, &after), Change::Transition);
        assert_eq!(after.conditions[2].last_transition_time, later());
        assert_eq!(after.conditions[0].last_transition_time, first());
    }

    #[test]
    fn subscribers_are_written_by_tenths_and_from_and_to_zero() {
        let table = [
            (None, Some(0), Some(0)),
            (None, None, None),
            (Some(7), None, Some(7)),
            (Some(0), Some(1), Some(1)),
            (Some(1), Some(0), Some(0)),
            (Some(5), Some(6), Some(6)),
            (Some(100), Some(109), Some(100)),
            (Some(100), Some(91), Some(100)),
            (Some(100), Some(110), Some(110)),
            (Some(100), Some(90), Some(90)),
        ];
        for (before, now, expected) in table {
            assert_eq!(subscribers(before, now), expected, "{before:?} {now:?}");
        }
    }

    #[test]
    fn nats_being_away_does_not_take_back_what_was_programmed() {
        let view = serving();
        let before = status(
            &channel(1, &ChannelStatus::default()),
            &outlook(&report(ProgrammedReason::Programmed), &view),
            &first(),
        );
        let account = report(ProgrammedReason::BrokerUnreachable);
        let same = status(&channel(1, &before), &outlook(&account, &view), &later());
        assert_eq!(reasons(&same), ["Accepted", "Programmed", "Serving"]);
        let newer = status(&channel(2, &before), &outlook(&account, &view), &later());
        assert_eq!(reasons(&newer), ["Accepted", "BrokerUnreachable", "NotProgrammed"]);
        let away = Outlook { broker_away: Some(std::time::Duration::from_secs(30)), ..outlook(&account, &view) };
        assert_eq!(reasons(&status(&channel(1, &before), &away, &later()))[2], "BrokerUnreachable");
    }

    #[test]
    fn a_takeover_stays_known_for_as_long_as_it_is_the_same_stream() {
        let view = serving();
        let took_over = report(ProgrammedReason::TookOver);
        let before = status(&channel(1, &ChannelStatus::default()), &outlook(&took_over, &view), &first());
        let programmed = report(ProgrammedReason::Programmed);
        let after = status(&channel(2, &before), &outlook(&programmed, &view), &later());
        assert_eq!(reasons(&after)[1], "TookOver");
        let Account::Reconciled(report) = programmed else { panic!("it was reconciled") };
        let other = Account::Reconciled(Box::new(Report { epoch: Some(Epoch::from_nanos(37)), ..*report }));
        let after = status(&channel(2, &before), &outlook(&other, &view), &later());
        assert_eq!(reasons(&after)[1], "Programmed");
    }

    #[test]
    fn a_channel_that_is_leaving_says_what_it_waits_for() {
        let view = serving();
        let before = status(
            &channel(1, &ChannelStatus::default()),
            &outlook(&report(ProgrammedReason::Programmed), &view),
            &first(),
        );
        let leaving = Account::Leaving("Waiting for NATS.".into());
        let after = status(&channel(2, &before), &outlook(&leaving, &view), &later());
        assert_eq!(reasons(&after), ["Accepted", "Programmed", "Deleting"]);
        assert_eq!(after.conditions[2].message, "Waiting for NATS.");
        assert_eq!(after.conditions[2].observed_generation, Some(2));
        let at_once = status(&channel(1, &ChannelStatus::default()), &outlook(&leaving, &view), &first());
        assert_eq!(reasons(&at_once), ["Accepted", "Pending", "Deleting"]);
    }
}
