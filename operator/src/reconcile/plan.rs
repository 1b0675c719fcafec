//! What to do about one Channel, decided from what should be and what is there. Pure: [`mod@crate::reconcile::apply`] does it.

use serde_json::Value;
use tidings_crds::channel::{Channel, ReclaimPolicy};
use tidings_crds::condition::ProgrammedReason;
use tidings_crds::desired::{Desired, Verdict};
use tidings_crds::grants::SubjectGrants;
use tidings_crds::key::ChannelKey;
use tidings_crds::position::Epoch;
use tidings_crds::route::{Route, RouteState};
use tidings_crds::stream::{CLUSTER_METADATA, Difference, Foreign, NAME_METADATA, NAMESPACE_METADATA, StreamSpec};
use tidings_crds::subject::Pattern;
use tidings_crds::topic::{TopicFilter, TopicSpace};

use crate::reconcile::outcome::{Failure, Observed};
use crate::reconcile::rollout::Rollout;
use crate::reconcile::stream_config::{ObservedStream, creation, update};

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
    /// What the stream cannot be given yet.
    pub later: Option<Later>,
}

/// Subjects that enter the stream once gateways have the Route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Later {
    /// Which.
    pub subjects: Vec<String>,
    /// The Route that is waited for.
    pub digest: String,
    /// What there is to say about it.
    pub message: String,
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

/// Decides what to do. `rollout` says how far the Route in place has come.
pub fn plan(
    channel: &Channel,
    verdict: &Verdict,
    observed: &Observed,
    grants: &SubjectGrants,
    rollout: &Rollout,
) -> Plan {
    let key = channel.key();
    let served = observed.route.clone().filter(|route| route.state == RouteState::Active);
    let (stream, route, later) = match verdict {
        Verdict::Rejected(_) if served.as_ref().is_some_and(|route| !is_granted(&key, route, grants)) => {
            (StreamStep::None, RouteStep::Withdraw, None)
        }
        Verdict::Rejected(_) => (StreamStep::None, RouteStep::Keep, None),
        Verdict::Accepted(desired) => {
            let fresh = channel.metadata.uid.is_none() && served.is_none();
            let (now, later) = in_order(desired, observed, served.as_ref(), rollout);
            let stream = stream_step(&key, &now, observed, fresh);
            let later = later.filter(|_| !matches!(stream, StreamStep::Blocked { .. } | StreamStep::Unknown(_)));
            (stream, RouteStep::Write(Box::new(desired.route.clone())), later)
        }
    };
    Plan { key, stream, route, served, later }
}

/// What the stream may be now, and what has to wait. A subject leaves the stream before the Route, and enters it when the
/// Route is in place and gateways have it: at no moment is something stored that a gateway passes over.
fn in_order(
    desired: &Desired,
    observed: &Observed,
    served: Option<&Route>,
    rollout: &Rollout,
) -> (Desired, Option<Later>) {
    let (Some(spec), Ok(there)) = (&desired.stream, &observed.stream) else { return (desired.clone(), None) };
    let digest = desired.route.digest();
    let known: Vec<Pattern> = match (there, served) {
        (Some(_), Some(route)) if route.digest() == digest && rollout.has_reached(&digest) => desired.subjects.clone(),
        (Some(there), _) => there.spec.held(),
        (None, Some(route)) => route.topics.patterns(&TopicFilter::All),
        // No gateway serves it, and nothing is stored.
        (None, None) => desired.subjects.clone(),
    };
    let later: Vec<String> = desired
        .subjects
        .iter()
        .filter(|wanted| !known.iter().any(|known| known.contains(wanted)))
        .map(ToString::to_string)
        .collect();
    if later.is_empty() {
        return (desired.clone(), None);
    }
    let both = |wanted: &Pattern| known.iter().filter_map(|known| wanted.intersect(known)).collect::<Vec<_>>();
    let mut now: Vec<String> = desired.subjects.iter().flat_map(both).map(|subject| subject.to_string()).collect();
    if now.is_empty() {
        // What NATS itself gives to a stream without subjects: a name that nobody publishes to.
        now.push(spec.name.clone());
    }
    let same = |there: &ObservedStream| there.spec.subjects.iter().all(|subject| now.contains(subject));
    if let Some(there) = there.as_ref().filter(|there| there.spec.subjects.len() == now.len() && same(there)) {
        now.clone_from(&there.spec.subjects);
    }
    let message = format!(
        "New subjects are added to the stream once all gateways have the Route ({}): waiting {}.",
        later.join(", "),
        rollout.words(&digest)
    );
    let stream = Some(StreamSpec { subjects: now, ..spec.clone() });
    (Desired { stream, ..desired.clone() }, Some(Later { subjects: later, digest, message }))
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
                            "NATS cannot change these settings of the stream {}: {}. Either change the Channel to match the stream, or delete the stream with its events; the operator then creates it again",
                            spec.name,
                            fields.join(", ")
                        ),
                    }
                }
                Difference::Foreign(foreign) => blocked_by_foreign(&spec.name, &foreign, spec),
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

fn blocked_by_foreign(name: &str, foreign: &Foreign, wanted: &StreamSpec) -> StreamStep {
    let way_out = match foreign {
        Foreign::Cluster(cluster) => format!("; an operator started with --cluster-id {cluster} goes on with it"),
        Foreign::Unmarked { .. } => {
            let marks = [CLUSTER_METADATA, NAMESPACE_METADATA, NAME_METADATA].map(|mark| {
                let value = wanted.metadata.get(mark).map(String::as_str).unwrap_or_default();
                format!("{mark}={value}")
            });
            format!(
                ". To hand it over to the Channel with its events, set its metadata to {}; or delete it",
                marks.join(", ")
            )
        }
        Foreign::Channel(_) => ". Delete it, or give the Channel another name".to_owned(),
    };
    StreamStep::Blocked {
        reason: ProgrammedReason::ForeignStream,
        message: format!(
            "the stream {name} exists and does not belong to this Channel: {foreign}. It is not changed{way_out}"
        ),
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
    use crate::reconcile::rollout::ON_KUBERNETES;
    use proptest::prelude::*;
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
        Installation { cluster: "c".into(), grants, ..Installation::default() }
    }

    fn decide(channel: &Channel, observed: &Observed, grants: &[&str]) -> Plan {
        roll(channel, observed, grants, &Rollout::default())
    }

    fn roll(channel: &Channel, observed: &Observed, grants: &[&str], rollout: &Rollout) -> Plan {
        let installation = installation(grants);
        plan(channel, &desired(channel, &installation, None), observed, &installation.grants, rollout)
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

    /// Every gateway serves this Route.
    fn reached(route: &Route) -> Rollout {
        let gateways = Some(vec![("gateway-0".to_owned(), Some(route.digest()))]);
        Rollout { gateways, waited: None, patience: ON_KUBERNETES }
    }

    /// The subjects that the stream has after a plan.
    fn stored(plan: &Plan, observed: &Observed) -> Value {
        match &plan.stream {
            StreamStep::Create { config, .. } | StreamStep::Update { config, .. } => config["subjects"].clone(),
            StreamStep::Keep { .. } => {
                let Ok(Some(there)) = &observed.stream else { panic!("{observed:?}") };
                json!(there.spec.subjects)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_added_subject_is_stored_once_gateways_have_the_route() {
        let grants = ["a.>", "b.>"];
        let there = programmed(&channel(json!({ "subjects": ["a.>"] })), &grants);
        let wanted = channel(json!({ "subjects": ["b.>", "a.>"] }));
        let first = decide(&wanted, &there, &grants);
        assert!(matches!(first.stream, StreamStep::Keep { .. }), "{first:?}");
        let RouteStep::Write(route) = &first.route else { panic!("{first:?}") };
        let later = first.later.clone().unwrap();
        assert_eq!((later.subjects, &later.digest), (vec!["b.>".to_owned()], &route.digest()));
        assert!(
            later.message.starts_with("New subjects are added to the stream once all gateways have the Route (b.>): ")
        );
        // A gateway that serves it is no reason while the Route in place is another: it could not be written.
        assert!(roll(&wanted, &there, &grants, &reached(route)).later.is_some());
        let written = Observed { route: Some((**route).clone()), ..there };
        assert!(decide(&wanted, &written, &grants).later.is_some());
        let second = roll(&wanted, &written, &grants, &reached(route));
        assert_eq!((stored(&second, &written), second.later), (json!(["b.>", "a.>"]), None));
    }

    #[test]
    fn a_removed_subject_leaves_the_stream_with_the_route_that_follows() {
        let grants = ["a.>", "b.>", "c.>"];
        let there = programmed(&channel(json!({ "subjects": ["a.>", "b.>"] })), &grants);
        let removed = decide(&channel(json!({ "subjects": ["a.x"] })), &there, &grants);
        assert_eq!((stored(&removed, &there), removed.later), (json!(["a.x"]), None));
        // Both at once: what goes goes, what comes waits.
        let both = decide(&channel(json!({ "subjects": ["a.x", "c.>"] })), &there, &grants);
        assert_eq!(stored(&both, &there), json!(["a.x"]));
        assert_eq!(both.later.unwrap().subjects, ["c.>"]);
        // Nothing of the old is left: a stream has at least one subject.
        let all = decide(&channel(json!({ "subjects": ["c.>"] })), &there, &grants);
        assert_eq!(stored(&all, &there), json!(["TIDINGS_shop_orders"]));
        let own = decide(&channel(json!({})), &there, &grants);
        assert_eq!(stored(&own, &there), json!(["TIDINGS_shop_orders"]));
        assert_eq!(own.later.unwrap().subjects, ["tidings.shop.orders", "tidings.shop.orders.>"]);
    }

    #[test]
    fn a_stream_that_was_deleted_comes_back_with_what_gateways_know() {
        let grants = ["a.>", "b.>"];
        let known = programmed(&channel(json!({ "subjects": ["a.>"] })), &grants);
        let deleted = Observed { stream: Ok(None), ..known };
        let plan = decide(&channel(json!({ "subjects": ["a.>", "b.>"] })), &deleted, &grants);
        assert_eq!((stored(&plan, &deleted), plan.later.is_some()), (json!(["a.>"]), true));
        let plan = decide(&channel(json!({ "subjects": ["a.>"] })), &deleted, &grants);
        assert_eq!((stored(&plan, &deleted), plan.later), (json!(["a.>"]), None));
    }

    #[test]
    fn what_is_blocked_or_unknown_waits_for_nothing() {
        let grants = ["a.>", "b.>"];
        let there = programmed(&channel(json!({ "subjects": ["a.>"], "history": { "storage": "Memory" } })), &grants);
        let wanted = channel(json!({ "subjects": ["a.>", "b.>"] }));
        let plan = decide(&wanted, &there, &grants);
        assert!(matches!(plan.stream, StreamStep::Blocked { .. }) && plan.later.is_none(), "{plan:?}");
    }

    /// One thing that happens.
    #[derive(Clone, Copy, Debug)]
    enum Turn {
        /// The Channel is edited, to these subjects.
        Edit(u8),
        /// The operator works, and is killed after so many steps.
        Work(u8),
        /// The gateway takes the Route that is in place.
        Take,
    }

    fn turn() -> impl Strategy<Value = Turn> {
        prop_oneof![
            2 => any::<u8>().prop_map(Turn::Edit),
            5 => (0..4_u8).prop_map(Turn::Work),
            2 => Just(Turn::Take),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is edited, killed and late: no gateway passes over what a stream stores, and it all ends as it should.
        #[test]
        fn a_stream_never_stores_what_a_gateway_does_not_know(turns in prop::collection::vec(turn(), 1..30)) {
            let grants = ["a.>", "b.>", "c.>"];
            let choices = ["a.>", "b.>", "a.x", "c.*", "c.y"];
            let edited = |bits: u8, generation: i64| {
                let subjects = choices.iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0);
                let subjects: Vec<&str> = subjects.map(|(_, subject)| *subject).collect();
                // Overlaps are refused; the Channel's own subjects are those of an empty list.
                let mut channel = channel(json!({ "subjects": subjects }));
                channel.metadata.generation = Some(generation);
                channel
            };
            let (mut generation, mut wanted, mut there) = (1, edited(1, 1), nothing());
            let mut gateway: Option<Route> = None;
            let end = [Turn::Edit(2), Turn::Take, Turn::Work(3), Turn::Take, Turn::Work(3), Turn::Work(3)];
            for turn in turns.into_iter().chain(end) {
                match turn {
                    Turn::Edit(bits) => {
                        generation += 1;
                        wanted = edited(bits, generation);
                    }
                    Turn::Take => gateway.clone_from(&there.route),
                    Turn::Work(steps) => {
                        let rollout = gateway.as_ref().map_or_else(
                            || Rollout { gateways: Some(vec![("g".into(), None)]), ..Rollout::default() },
                            reached,
                        );
                        let plan = roll(&wanted, &there, &grants, &rollout);
                        if let (1.., StreamStep::Create { config, .. } | StreamStep::Update { config, .. }) = (steps, &plan.stream) {
                            let info = json!({ "config": config, "created": "2026-11-01T00:00:00Z" });
                            there.stream = Ok(Some(ObservedStream::from_info(info).unwrap()));
                        }
                        if let (2.., RouteStep::Write(route)) = (steps, plan.route) {
                            there.route = Some(*route);
                        }
                    }
                }
                // A gateway that never had a Route of the Channel has no subscriber who could miss anything.
                if let (Ok(Some(stream)), Some(gateway)) = (&there.stream, &gateway) {
                    for stored in stream.spec.held().iter().filter(|stored| stored.as_str() != stream.spec.name) {
                        let known = gateway.topics.patterns(&TopicFilter::All);
                        prop_assert!(known.iter().any(|known| known.contains(stored)), "{stored} of {known:?}");
                    }
                }
            }
            let Ok(Some(stream)) = &there.stream else { panic!("{there:?}") };
            prop_assert_eq!(&stream.spec.subjects, &["b.>"]);
        }
    }
}
