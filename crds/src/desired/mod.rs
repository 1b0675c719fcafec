//! The pure step from a Channel to what should exist for it: a stream and a Route, or a refusal.
//!
//! A refusal is a result, not an error: it becomes the condition `Accepted=False`, and the last good Route stays in
//! force. After this step nobody reads the raw specification. What other Channels want comes in as an objection.

pub mod claims;
pub mod grants;
pub mod objection;
pub mod quota;
pub mod rejection;
pub mod stream;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::channel::{Channel, ChannelSpec, Durability, ReclaimPolicy};
use crate::api::condition::AcceptedReason;
use crate::api::history::HistorySpec;
use crate::api::rule::{self, DUPLICATE_WINDOW_SECONDS};
use crate::api::schema;
use crate::desired::grants::{SubjectGrants, own_base};
use crate::desired::quota::Quotas;
use crate::desired::stream::{
    CLUSTER_METADATA, Discard, NAME_METADATA, NAMESPACE_METADATA, Republish, Retention, StreamSpec, UID_METADATA,
};
use crate::name::fault::Fault;
use crate::name::key::ChannelKey;
use crate::name::subject::Pattern;
use crate::name::topic::TopicSpace;
use crate::protocol::route::{
    ROUTE_VERSION, Route, RouteAccess, RouteCors, RouteEvents, RouteGrant, RouteLimits, RouteSource, RouteState,
};

pub use crate::desired::rejection::Rejection;

/// Faults told in one condition; the rest is counted.
const MAX_FAULTS: usize = 8;

/// What the administrator has set for the whole installation, as far as it decides about Channels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installation {
    /// What tells this installation's streams from those of others in the same NATS account.
    pub cluster: String,
    /// The subjects granted beside the Channels' own.
    pub grants: SubjectGrants,
    /// What namespaces may have at most.
    pub quotas: Quotas,
}

/// What becomes of a Channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This should exist.
    Accepted(Box<Desired>),
    /// Nothing changes until the Channel, the grants or the other Channels do.
    Rejected(Rejection),
}

/// What should exist for a Channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Its subjects, as its status shows them.
    pub subjects: Vec<Pattern>,
    /// Its stream; none for an Ephemeral channel.
    pub stream: Option<StreamSpec>,
    /// What becomes of the stream when the Channel goes.
    pub reclaim_policy: ReclaimPolicy,
    /// What gateways are told.
    pub route: Route,
}

/// What should exist for `channel`. `objection` is what [`crate::desired::objection`] found against it.
pub fn desired(channel: &Channel, installation: &Installation, objection: Option<&Rejection>) -> Verdict {
    let subjects = match subjects(channel, &installation.grants) {
        Ok(subjects) => subjects,
        Err(rejection) => return Verdict::Rejected(rejection),
    };
    if let Some(objection) = objection {
        return Verdict::Rejected(objection.clone());
    }
    match build(channel, installation, subjects) {
        Ok(desired) => Verdict::Accepted(Box::new(desired)),
        Err(rejection) => Verdict::Rejected(rejection),
    }
}

/// The subjects that a Channel may have, whatever other Channels want: what it puts into [`crate::desired::claims`].
///
/// # Errors
/// Everything that refuses the Channel by itself, whether it concerns subjects or not: a refused Channel claims nothing.
pub fn subjects(channel: &Channel, grants: &SubjectGrants) -> Result<Vec<Pattern>, Rejection> {
    let key = channel.key();
    let base = own_base(&key).ok_or_else(|| invalid_name(&key))?;
    check(&channel.spec)?;
    let explicit = explicit_subjects(&channel.spec)?;
    let subjects = match explicit.as_slice() {
        [] => {
            let below = base.join(&Pattern::tail());
            vec![base, below]
        }
        _ => explicit,
    };
    let refused: Vec<String> = subjects
        .iter()
        .filter_map(|subject| grants.allow(&key, subject).err())
        .map(|error| error.to_string())
        .collect();
    if refused.is_empty() {
        Ok(subjects)
    } else {
        Err(Rejection { reason: AcceptedReason::SubjectNotGranted, message: refused.join("; ") })
    }
}

/// The checks of the API server once more: an object may have been stored under an older schema, or come from a file.
fn check(spec: &ChannelSpec) -> Result<(), Rejection> {
    let raw = serde_json::to_value(spec).map_err(|error| invalid(AcceptedReason::InvalidSpec, error))?;
    let mut faults = schema::faults("spec", &raw);
    faults.extend(rule::broken_in_spec(spec));
    if faults.is_empty() {
        return Ok(());
    }
    let is_subject = |fault: &Fault| fault.path.starts_with("spec.subjects");
    let reason =
        if faults.iter().all(is_subject) { AcceptedReason::InvalidSubjects } else { AcceptedReason::InvalidSpec };
    let mut message: Vec<String> = faults.iter().take(MAX_FAULTS).map(ToString::to_string).collect();
    if faults.len() > MAX_FAULTS {
        message.push(format!("and {} more", faults.len() - MAX_FAULTS));
    }
    Err(Rejection { reason, message: message.join("; ") })
}

fn explicit_subjects(spec: &ChannelSpec) -> Result<Vec<Pattern>, Rejection> {
    let mut subjects: Vec<Pattern> = Vec::with_capacity(spec.subjects.len());
    for text in &spec.subjects {
        let subject: Pattern =
            text.parse().map_err(|error| invalid(AcceptedReason::InvalidSubjects, format!("{text}: {error}")))?;
        if let Some(other) = subjects.iter().find(|other| other.overlaps(&subject)) {
            let message = format!("{subject} overlaps {other}, and NATS stores a message once: leave one of them out");
            return Err(invalid(AcceptedReason::InvalidSubjects, message));
        }
        subjects.push(subject);
    }
    Ok(subjects)
}

fn build(channel: &Channel, installation: &Installation, subjects: Vec<Pattern>) -> Result<Desired, Rejection> {
    let spec = &channel.spec;
    let key = channel.key();
    let history = spec.history.clone().unwrap_or_else(HistorySpec::absent);
    let stream = match spec.durability {
        Durability::Durable => Some(stream(channel, installation, &subjects, &history)?),
        Durability::Ephemeral => None,
    };
    let source = match &stream {
        Some(stream) => RouteSource::Durable {
            stream: stream.name.clone(),
            max_messages_per_topic: history.max_messages_per_topic.map(i64::unsigned_abs),
        },
        None => RouteSource::Ephemeral,
    };
    let topics = match (spec.subjects.is_empty(), subjects.first()) {
        (true, Some(base)) => TopicSpace::Below { base: base.clone() },
        _ => TopicSpace::Whole { subjects: subjects.clone() },
    };
    let max_event_bytes =
        spec.events.max_event_bytes.bytes().map_err(|error| invalid(AcceptedReason::InvalidSpec, error))?;
    let route = Route {
        version: ROUTE_VERSION,
        namespace: key.namespace,
        name: key.name,
        generation: channel.metadata.generation.unwrap_or_default(),
        state: RouteState::Active,
        source,
        topics,
        events: RouteEvents {
            from: spec.events.from,
            encoding: spec.events.encoding,
            heartbeat_seconds: spec.events.heartbeat_seconds.unsigned_abs(),
            retry_milliseconds: spec.events.retry_milliseconds.unsigned_abs(),
            max_event_bytes,
        },
        access: RouteAccess {
            issuers: spec.access.issuers.clone(),
            token_sources: spec.access.token_sources.clone(),
            subscribe: RouteGrant { mode: spec.access.subscribe.mode, topics: spec.access.subscribe.topics.clone() },
            publish: RouteGrant { mode: spec.access.publish.mode, topics: spec.access.publish.topics.clone() },
        },
        cors: RouteCors { origins: spec.cors.origins.clone(), allow_credentials: spec.cors.allow_credentials },
        limits: RouteLimits {
            connections: spec.limits.connections.map(i32::unsigned_abs),
            connections_per_client: spec.limits.connections_per_client.map(i32::unsigned_abs),
            publish_per_second: spec.limits.publish_per_second.map(i32::unsigned_abs),
            connects_per_second: spec.limits.connects_per_second.map(i32::unsigned_abs),
        },
    };
    Ok(Desired { subjects, stream, reclaim_policy: history.reclaim_policy, route })
}

fn stream(
    channel: &Channel,
    installation: &Installation,
    subjects: &[Pattern],
    history: &HistorySpec,
) -> Result<StreamSpec, Rejection> {
    let key = channel.key();
    let name = StreamSpec::name_of(&key);
    let max_bytes = match &history.max_bytes {
        Some(quantity) => {
            let bytes = quantity.bytes().map_err(|error| invalid(AcceptedReason::InvalidSpec, error))?;
            Some(i64::try_from(bytes).map_err(|error| invalid(AcceptedReason::InvalidSpec, error))?)
        }
        None => None,
    };
    let seconds = |seconds: i64| Duration::from_secs(seconds.unsigned_abs());
    let max_age = history.max_age_seconds.map(seconds);
    let window = seconds(history.duplicate_window_seconds.unwrap_or(DUPLICATE_WINDOW_SECONDS));
    let marks =
        [(CLUSTER_METADATA, &installation.cluster), (NAMESPACE_METADATA, &key.namespace), (NAME_METADATA, &key.name)];
    let uid = channel.metadata.uid.as_ref().map(|uid| (UID_METADATA, uid));
    let metadata: BTreeMap<String, String> =
        marks.into_iter().chain(uid).map(|(key, value)| (key.to_owned(), value.clone())).collect();
    Ok(StreamSpec {
        subjects: subjects.iter().map(ToString::to_string).collect(),
        max_age,
        max_messages: history.max_messages,
        max_bytes,
        max_messages_per_subject: history.max_messages_per_topic,
        max_message_size: None,
        storage: history.storage,
        replicas: usize::try_from(history.replicas).unwrap_or(1),
        duplicate_window: max_age.map_or(window, |age| window.min(age)),
        retention: Retention::Limits,
        discard: Discard::Old,
        allow_direct: true,
        allow_msg_ttl: true,
        subject_delete_marker_ttl: None,
        republish: Some(Republish::live(&name)),
        no_ack: false,
        sealed: false,
        has_origins: false,
        transforms_subjects: false,
        metadata,
        name,
    })
}

fn invalid_name(key: &ChannelKey) -> Rejection {
    let message = format!(
        "the namespace and the name of a Channel are DNS labels (at most 63 lower case letters, digits and dashes), \
         because they become parts of NATS subjects; {key} is not"
    );
    Rejection { reason: AcceptedReason::InvalidName, message }
}

fn invalid(reason: AcceptedReason, error: impl ToString) -> Rejection {
    Rejection { reason, message: error.to_string() }
}
