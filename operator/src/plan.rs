//! What to do about one Channel, decided from what should be and what is there. Pure: [`crate::apply`] does it.

use serde_json::Value;
use tidings_crds::channel::{Channel, ReclaimPolicy};
use tidings_crds::condition::ProgrammedReason;
use tidings_crds::desired::{Desired, Verdict};
use tidings_crds::grants::SubjectGrants;
use tidings_crds::key::ChannelKey;
use tidings_crds::position::Epoch;
use tidings_crds::route::{Route, RouteState};
use tidings_crds::stream::{Difference, Foreign, StreamSpec};
use tidings_crds::topic::TopicSpace;

use crate::apply::{Failure, Observed};
use crate::document::{ObservedStream, creation, update};

/// The metadata that keeps a stream's reclaim policy where it outlives the manifest, for operators that were away
/// when the manifest went.
pub const RECLAIM_METADATA: &str = "tidings.dev/reclaim-policy";

/// What to do about one Channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Whose it is.
    pub key: ChannelKey,
    /// First the stream.
    pub stream: StreamStep,
    /// Then, unless the stream failed, the Route.
    pub route: RouteStep,
    /// The Route in force before anything is done.
    pub served: Option<Route>,
}

/// What to do about the stream.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamStep {
    /// Nothing: the channel is Ephemeral, or refused.
    None,
    /// It is as it should be.
    Keep {
        /// Which incarnation it is.
        epoch: Epoch,
        /// Whether it was an earlier Channel's.
        took_over: bool,
    },
    /// It does not exist.
    Create {
        /// Its name.
        name: String,
        /// Its whole configuration.
        config: Value,
    },
    /// It differs in what NATS can change.
    Update {
        /// Its name.
        name: String,
        /// Its whole configuration.
        config: Value,
        /// What differs.
        fields: Vec<&'static str>,
        /// Whether it was an earlier Channel's.
        took_over: bool,
    },
    /// It may not or cannot be made what it should be; the Route stays as well.
    Blocked {
        /// Why.
        reason: ProgrammedReason,
        /// What to do.
        message: String,
    },
    /// It is not known what is there.
    Unknown(Failure),
}

/// What to do about the Route.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteStep {
    /// The last good one stays in force.
    Keep,
    /// This one comes into force.
    Write(Box<Route>),
    /// The Channel may no longer have the subjects of the one in force.
    Withdraw,
}

/// Decides what to do.
pub fn plan(channel: &Channel, verdict: &Verdict, observed: &Observed, grants: &SubjectGrants) -> Plan {
    let key = channel.key();
    let served = observed.route.clone().filter(|route| route.state == RouteState::Active);
    let (stream, route) = match verdict {
        Verdict::Rejected(_) if served.as_ref().is_some_and(|route| !is_granted(&key, route, grants)) => {
            (StreamStep::None, RouteStep::Withdraw)
        }
        Verdict::Rejected(_) => (StreamStep::None, RouteStep::Keep),
        Verdict::Accepted(desired) => {
            let fresh = channel.metadata.uid.is_none() && served.is_none();
            (stream_step(&key, desired, observed, fresh), RouteStep::Write(Box::new(desired.route.clone())))
        }
    };
    Plan { key, stream, route, served }
}

/// What a Channel wants of its stream, with the reclaim policy written into it.
fn wanted(stream: &StreamSpec, policy: ReclaimPolicy) -> StreamSpec {
    let mut stream = stream.clone();
    stream.metadata.insert(RECLAIM_METADATA.to_owned(), policy_text(policy).to_owned());
    stream
}

/// As it stands in [`RECLAIM_METADATA`].
pub fn policy_text(policy: ReclaimPolicy) -> &'static str {
    match policy {
        ReclaimPolicy::Retain => "Retain",
        ReclaimPolicy::Delete => "Delete",
    }
}

/// `fresh`: nothing tells this Channel from an earlier one of its name, and it was not served until now.
fn stream_step(key: &ChannelKey, desired: &Desired, observed: &Observed, fresh: bool) -> StreamStep {
    let there = match &observed.stream {
        Ok(there) => there,
        Err(failure) => return StreamStep::Unknown(failure.clone()),
    };
    match (&desired.stream, there) {
        (None, None) => StreamStep::None,
        (None, Some(there)) => left_over(key, there),
        (Some(spec), None) => {
            let description = format!("Channel {key} (channels.tidings.dev)");
            let config = creation(&wanted(spec, desired.reclaim_policy), &description);
            StreamStep::Create { name: spec.name.clone(), config }
        }
        (Some(spec), Some(there)) => {
            let wanted = wanted(spec, desired.reclaim_policy);
            match wanted.compare(&there.spec) {
                Difference::Unchanged => StreamStep::Keep { epoch: there.epoch, took_over: fresh },
                Difference::Update { fields, took_over_from } => StreamStep::Update {
                    name: spec.name.clone(),
                    config: update(&wanted, there),
                    fields,
                    took_over: fresh || took_over_from.is_some(),
                },
                Difference::Immutable(fields) => {
                    let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
                    StreamStep::Blocked {
                        reason: ProgrammedReason::ImmutableDifference,
                        message: format!(
                            "NATS cannot change this of the stream {}: {}. Write the Channel as the stream is, or delete \
                             the stream with its events; then it is created anew",
                            spec.name,
                            fields.join(", ")
                        ),
                    }
                }
                Difference::Foreign(foreign) => blocked_by_foreign(&spec.name, &foreign),
            }
        }
    }
}

/// An Ephemeral channel whose name has a stream: that would go on storing what is promised to be kept nowhere.
fn left_over(key: &ChannelKey, there: &ObservedStream) -> StreamStep {
    let name = StreamSpec::name_of(key);
    StreamStep::Blocked {
        reason: ProgrammedReason::ImmutableDifference,
        message: format!(
            "the Channel is Ephemeral, and the stream {name} stores {}: durability is immutable. Delete the stream with \
             its events, or write durability: Durable",
            there.spec.subjects.join(", ")
        ),
    }
}

fn blocked_by_foreign(name: &str, foreign: &Foreign) -> StreamStep {
    let way_out = match foreign {
        Foreign::Cluster(cluster) => format!("; an operator started with --cluster-id {cluster} goes on with it"),
        Foreign::Unmarked { .. } | Foreign::Channel(_) => String::new(),
    };
    StreamStep::Blocked {
        reason: ProgrammedReason::ForeignStream,
        message: format!("the stream {name} exists and is not this Channel's: {foreign}. It is left alone{way_out}"),
    }
}

/// Whether the Channel may still have every subject of the Route that is in force.
fn is_granted(key: &ChannelKey, route: &Route, grants: &SubjectGrants) -> bool {
    match &route.topics {
        TopicSpace::Below { base } => grants.allow(key, base).is_ok(),
        TopicSpace::Whole { subjects } => subjects.iter().all(|subject| grants.allow(key, subject).is_ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tidings_crds::desired::{Installation, desired};
    use tidings_crds::grants::SubjectGrant;

    fn channel(spec: Value) -> Channel {
        let metadata = json!({ "name": "orders", "namespace": "shop" });
        serde_json::from_value(json!({
            "apiVersion": "tidings.dev/v1alpha1", "kind": "Channel", "metadata": metadata, "spec": spec
        }))
        .unwrap()
    }

    fn installation(grants: &[&str]) -> Installation {
        let subjects = grants.iter().map(|subject| subject.parse().unwrap()).collect();
        let grants = SubjectGrants::new(vec![SubjectGrant { namespaces: vec!["shop".into()], subjects }]).unwrap();
        Installation { cluster: "c".into(), grants }
    }

    fn decide(channel: &Channel, observed: &Observed, grants: &[&str]) -> Plan {
        let installation = installation(grants);
        plan(channel, &desired(channel, &installation, None), observed, &installation.grants)
    }

    fn nothing() -> Observed {
        Observed { stream: Ok(None), route: None }
    }

    /// What is there after `channel` was programmed.
    fn programmed(channel: &Channel, grants: &[&str]) -> Observed {
        let plan = decide(channel, &nothing(), grants);
        let RouteStep::Write(route) = plan.route else { panic!("{plan:?}") };
        let stream = match plan.stream {
            StreamStep::Create { config, .. } => {
                let info = json!({ "config": config, "created": "2026-11-01T00:00:00Z" });
                Some(ObservedStream::from_info(info).unwrap())
            }
            StreamStep::None => None,
            other => panic!("{other:?}"),
        };
        Observed { stream: Ok(stream), route: Some(*route) }
    }

    #[test]
    fn a_missing_stream_is_created_with_its_owner_and_policy() {
        let plan = decide(&channel(json!({ "history": { "reclaimPolicy": "Delete" } })), &nothing(), &[]);
        let StreamStep::Create { name, config } = plan.stream else { panic!("{plan:?}") };
        assert_eq!(name, "TIDINGS_shop_orders");
        let marks = json!({
            "tidings.dev/cluster": "c", "tidings.dev/namespace": "shop", "tidings.dev/name": "orders",
            "tidings.dev/reclaim-policy": "Delete",
        });
        assert_eq!(config["metadata"], marks);
        assert!(matches!(plan.route, RouteStep::Write(_)));
    }

    #[test]
    fn what_is_as_it_should_be_is_kept() {
        let channel = channel(json!({}));
        let plan = decide(&channel, &programmed(&channel, &[]), &[]);
        assert!(matches!(plan.stream, StreamStep::Keep { took_over: false, .. }), "{plan:?}");
    }

    #[test]
    fn a_retained_stream_is_taken_over_and_said_so() {
        let channel = channel(json!({}));
        let observed = Observed { route: None, ..programmed(&channel, &[]) };
        let plan = decide(&channel, &observed, &[]);
        assert!(matches!(plan.stream, StreamStep::Keep { took_over: true, .. }), "{plan:?}");
    }

    #[test]
    fn a_changed_policy_reaches_the_stream() {
        let plan = decide(
            &channel(json!({ "history": { "reclaimPolicy": "Delete" } })),
            &programmed(&channel(json!({ "history": {} })), &[]),
            &[],
        );
        let StreamStep::Update { fields, config, .. } = plan.stream else { panic!("{plan:?}") };
        assert_eq!(fields, ["metadata"]);
        assert_eq!(config["metadata"]["tidings.dev/reclaim-policy"], "Delete");
    }

    #[test]
    fn an_immutable_difference_is_reported_and_nothing_changed() {
        let there = programmed(&channel(json!({ "history": { "storage": "Memory" } })), &[]);
        let plan = decide(&channel(json!({ "history": { "maxMessages": 5 } })), &there, &[]);
        let StreamStep::Blocked { reason, message } = plan.stream else { panic!("{plan:?}") };
        assert_eq!(reason, ProgrammedReason::ImmutableDifference);
        assert!(message.contains("storage is Memory and should be File"), "{message}");
    }

    #[test]
    fn a_foreign_stream_is_left_alone() {
        let channel = channel(json!({}));
        let mut observed = programmed(&channel, &[]);
        if let Ok(Some(stream)) = &mut observed.stream {
            stream.spec.metadata.insert("tidings.dev/cluster".into(), "other".into());
        }
        let plan = decide(&channel, &observed, &[]);
        let StreamStep::Blocked { reason, message } = plan.stream else { panic!("{plan:?}") };
        assert_eq!(reason, ProgrammedReason::ForeignStream);
        assert!(message.ends_with("an operator started with --cluster-id other goes on with it"), "{message}");
    }

    #[test]
    fn an_ephemeral_channel_does_not_live_with_a_stream_of_its_name() {
        let there = programmed(&channel(json!({})), &[]);
        let plan = decide(&channel(json!({ "durability": "Ephemeral" })), &there, &[]);
        assert!(matches!(plan.stream, StreamStep::Blocked { reason: ProgrammedReason::ImmutableDifference, .. }));
        let plan = decide(&channel(json!({ "durability": "Ephemeral" })), &nothing(), &[]);
        assert_eq!(plan.stream, StreamStep::None);
    }

    #[test]
    fn a_refused_change_keeps_the_last_good_route() {
        let there = programmed(&channel(json!({})), &[]);
        let plan = decide(&channel(json!({ "subjects": ["bank.>"] })), &there, &[]);
        assert_eq!((plan.stream, plan.route), (StreamStep::None, RouteStep::Keep));
    }

    #[test]
    fn a_withdrawn_grant_withdraws_the_route() {
        let channel = channel(json!({ "subjects": ["bank.>"] }));
        let there = programmed(&channel, &["bank.>"]);
        assert!(matches!(decide(&channel, &there, &["bank.>"]).route, RouteStep::Write(_)));
        let plan = decide(&channel, &there, &["other.>"]);
        assert_eq!((plan.stream, plan.route), (StreamStep::None, RouteStep::Withdraw));
    }
}
