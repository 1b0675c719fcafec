//! The JetStream stream of a Durable channel: what it should be, and how that differs from what is there.
//!
//! Plain values: the operator translates them to and from its NATS client. Pure, no io.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::api::history::Storage;
use crate::name::key::ChannelKey;
use crate::name::label::LIVE_PREFIX;
use crate::name::subject::Pattern;

/// Which installation (cluster) a stream belongs to.
pub const CLUSTER_METADATA: &str = "tidings.dev/cluster";
/// The namespace of the Channel that a stream belongs to.
pub const NAMESPACE_METADATA: &str = "tidings.dev/namespace";
/// The name of the Channel that a stream belongs to.
pub const NAME_METADATA: &str = "tidings.dev/name";
/// The uid of that Channel, for information: a Channel created again under its name has another.
pub const UID_METADATA: &str = "tidings.dev/uid";

/// A JetStream stream, as far as Tidings has an opinion about it.
///
/// Everything else (placement, compression, description, …) is the administrator's: an update keeps it as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// `TIDINGS_<namespace>_<name>`.
    pub name: String,
    /// The subjects it stores.
    pub subjects: Vec<String>,
    /// How long messages are kept; `None` is for ever.
    pub max_age: Option<Duration>,
    /// How many messages are kept; `None` is any number.
    pub max_messages: Option<i64>,
    /// How many bytes are kept; `None` is any number.
    pub max_bytes: Option<i64>,
    /// How many messages of each subject are kept; `None` is all.
    pub max_messages_per_subject: Option<i64>,
    /// The largest message that is stored; `None` is what NATS carries. Ours is `None`.
    pub max_message_size: Option<i32>,
    /// Where it is stored.
    pub storage: Storage,
    /// How many servers keep a copy.
    pub replicas: usize,
    /// For how long a `Nats-Msg-Id` is known.
    pub duplicate_window: Duration,
    /// When messages go. Ours go by limits alone: gateways are no consumers.
    pub retention: Retention,
    /// What happens at a limit. Ours drop the oldest message.
    pub discard: Discard,
    /// Whether Direct Get works. Ours do: it is how gateways read.
    pub allow_direct: bool,
    /// Whether a publisher may set `Nats-TTL`. Ours allow it.
    pub allow_msg_ttl: bool,
    /// For how long the server leaves a marker where a message expired. Ours leave none: they would stretch TTLs.
    pub subject_delete_marker_ttl: Option<Duration>,
    /// Where stored messages are repeated for gateways to listen to.
    pub republish: Option<Republish>,
    /// Whether publishers get no acknowledgement. Ours get one.
    pub no_ack: bool,
    /// Whether nothing can be stored any more. Ours are open.
    pub sealed: bool,
    /// Whether it copies other streams. Ours do not.
    pub has_origins: bool,
    /// Whether stored subjects are rewritten. Ours are not.
    pub transforms_subjects: bool,
    /// Free text by key. An update keeps keys that are not ours; `_nats.*` are the server's.
    pub metadata: BTreeMap<String, String>,
}

/// When messages of a stream go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// When a limit is reached.
    Limits,
    /// When every consumer has acknowledged them.
    Interest,
    /// When one consumer has acknowledged them.
    WorkQueue,
}

/// What happens when a stream reaches a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// The oldest message goes.
    Old,
    /// The new message is refused.
    New,
}

/// Where a stream repeats what it has stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Republish {
    /// Which subjects.
    pub source: String,
    /// Where to.
    pub destination: String,
    /// Whether the payload is left out.
    pub headers_only: bool,
}

/// How an observed stream differs from the wanted one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Not at all, as far as we have an opinion.
    Unchanged,
    /// In what NATS can change.
    Update {
        /// The fields that differ, by their names in NATS.
        fields: Vec<&'static str>,
        /// The uid that the stream carries, when it belonged to an earlier Channel of the same name.
        took_over_from: Option<String>,
    },
    /// In what NATS cannot change. Nothing is changed then, not even what could be.
    Immutable(Vec<ImmutableField>),
    /// It is not this Channel's stream: never change or delete it.
    Foreign(Foreign),
}

/// One field that NATS cannot change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImmutableField {
    /// Its name in NATS.
    pub field: &'static str,
    /// What the stream has.
    pub observed: String,
    /// What the Channel wants.
    pub wanted: String,
}

/// Why a stream is not a Channel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// It carries no mark of Tidings, or not all of them.
    Unmarked {
        /// The metadata key that is missing.
        missing: &'static str,
    },
    /// It belongs to another installation.
    Cluster(String),
    /// It belongs to another Channel.
    Channel(ChannelKey),
}

// === impl StreamSpec ===

impl StreamSpec {
    /// The name of the stream of a Channel. Kubernetes names have no underscore, so no two Channels share one.
    pub fn name_of(key: &ChannelKey) -> String {
        format!("TIDINGS_{}_{}", key.namespace, key.name)
    }

    /// How `observed`, a stream of the same name, differs from this one.
    pub fn compare(&self, observed: &Self) -> Difference {
        if let Some(foreign) = self.foreign(observed) {
            return Difference::Foreign(foreign);
        }
        let immutable = self.immutable(observed);
        if !immutable.is_empty() {
            return Difference::Immutable(immutable);
        }
        let fields = self.updates(observed);
        if fields.is_empty() {
            return Difference::Unchanged;
        }
        let uids = (observed.metadata.get(UID_METADATA), self.metadata.get(UID_METADATA));
        let took_over_from = match uids {
            (Some(theirs), Some(ours)) if theirs != ours => Some(theirs.clone()),
            _ => None,
        };
        Difference::Update { fields, took_over_from }
    }

    /// The metadata that an update writes: what was observed, with our keys on top, without the server's own.
    pub fn metadata_over(&self, observed: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let kept = observed.iter().filter(|(key, _)| !key.starts_with("_nats.")).map(|(k, v)| (k.clone(), v.clone()));
        kept.chain(self.metadata.clone()).collect()
    }

    /// Why this stream, observed on the server, does not belong to the Channel `key` of the installation `cluster`.
    pub fn foreign_to(&self, cluster: &str, key: &ChannelKey) -> Option<Foreign> {
        let mark = |name: &'static str| self.metadata.get(name).ok_or(Foreign::Unmarked { missing: name });
        let marks = || Ok((mark(CLUSTER_METADATA)?, mark(NAMESPACE_METADATA)?, mark(NAME_METADATA)?));
        match marks() {
            Err(unmarked) => Some(unmarked),
            Ok((theirs, _, _)) if theirs != cluster => Some(Foreign::Cluster(theirs.clone())),
            Ok((_, namespace, name)) if *namespace != key.namespace || *name != key.name => {
                Some(Foreign::Channel(ChannelKey { namespace: namespace.clone(), name: name.clone() }))
            }
            Ok(_) => None,
        }
    }

    /// The Channel that this stream, observed on the server, names as its own, if the installation is `cluster`.
    pub fn owner(&self, cluster: &str) -> Option<ChannelKey> {
        let theirs = self.metadata.get(CLUSTER_METADATA)?;
        let key = ChannelKey {
            namespace: self.metadata.get(NAMESPACE_METADATA)?.clone(),
            name: self.metadata.get(NAME_METADATA)?.clone(),
        };
        (theirs == cluster).then_some(key)
    }

    /// The subjects it stores, as [`crate::desired::claims`] wants them. What is no pattern to us is left out.
    pub fn held(&self) -> Vec<Pattern> {
        self.subjects.iter().filter_map(|subject| subject.parse().ok()).collect()
    }

    fn foreign(&self, observed: &Self) -> Option<Foreign> {
        let ours = |key| self.metadata.get(key).cloned().unwrap_or_default();
        let key = ChannelKey { namespace: ours(NAMESPACE_METADATA), name: ours(NAME_METADATA) };
        observed.foreign_to(&ours(CLUSTER_METADATA), &key)
    }

    /// As nats-server's `configUpdateCheck` refuses them (2.15). It would let go of a mirror or of sources, but what they
    /// have brought in would stay among the events.
    fn immutable(&self, observed: &Self) -> Vec<ImmutableField> {
        let mut found = Vec::new();
        let mut check = |field, differs: bool, observed: &dyn fmt::Debug, wanted: &dyn fmt::Debug| {
            if differs {
                found.push(ImmutableField { field, observed: format!("{observed:?}"), wanted: format!("{wanted:?}") });
            }
        };
        check("storage", self.storage != observed.storage, &observed.storage, &self.storage);
        let work_queue = (self.retention == Retention::WorkQueue) != (observed.retention == Retention::WorkQueue);
        check("retention", work_queue, &observed.retention, &self.retention);
        check("sealed", observed.sealed && !self.sealed, &observed.sealed, &self.sealed);
        check("mirror or sources", self.has_origins != observed.has_origins, &observed.has_origins, &self.has_origins);
        let ttl_taken_away = observed.allow_msg_ttl && !self.allow_msg_ttl;
        check("allow_msg_ttl", ttl_taken_away, &observed.allow_msg_ttl, &self.allow_msg_ttl);
        found
    }

    fn updates(&self, observed: &Self) -> Vec<&'static str> {
        let same_marks = self.metadata.iter().all(|(key, value)| observed.metadata.get(key) == Some(value));
        let fields = [
            ("subjects", self.subjects == observed.subjects),
            ("max_age", self.max_age == observed.max_age),
            ("max_msgs", self.max_messages == observed.max_messages),
            ("max_bytes", self.max_bytes == observed.max_bytes),
            ("max_msgs_per_subject", self.max_messages_per_subject == observed.max_messages_per_subject),
            ("max_msg_size", self.max_message_size == observed.max_message_size),
            ("num_replicas", self.replicas == observed.replicas),
            ("duplicate_window", self.duplicate_window == observed.duplicate_window),
            ("retention", self.retention == observed.retention),
            ("discard", self.discard == observed.discard),
            ("allow_direct", self.allow_direct == observed.allow_direct),
            ("allow_msg_ttl", self.allow_msg_ttl == observed.allow_msg_ttl),
            ("subject_delete_marker_ttl", self.subject_delete_marker_ttl == observed.subject_delete_marker_ttl),
            ("republish", self.republish == observed.republish),
            ("no_ack", self.no_ack == observed.no_ack),
            ("subject_transform", self.transforms_subjects == observed.transforms_subjects),
            ("metadata", same_marks),
        ];
        fields.into_iter().filter(|(_, same)| !same).map(|(field, _)| field).collect()
    }
}

/// A limit as NATS writes it (-1, and 0 as well, for none) as we write it.
pub fn limit(raw: i64) -> Option<i64> {
    (raw > 0).then_some(raw)
}

// === impl Republish ===

impl Republish {
    /// Everything, below the live prefix.
    pub fn live(stream: &str) -> Self {
        Self { source: ">".to_owned(), destination: format!("{LIVE_PREFIX}.{stream}.>"), headers_only: false }
    }
}

// === impl Foreign ===

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmarked { missing } => write!(f, "it has no metadata {missing}"),
            Self::Cluster(cluster) => write!(f, "it belongs to the installation {cluster}"),
            Self::Channel(key) => write!(f, "it belongs to the Channel {key}"),
        }
    }
}

// === impl ImmutableField ===

impl fmt::Display for ImmutableField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {} and should be {}", self.field, self.observed, self.wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> StreamSpec {
        let marks =
            [(CLUSTER_METADATA, "c"), (NAMESPACE_METADATA, "shop"), (NAME_METADATA, "orders"), (UID_METADATA, "1")];
        StreamSpec {
            name: "TIDINGS_shop_orders".into(),
            subjects: vec!["tidings.shop.orders".into(), "tidings.shop.orders.>".into()],
            max_age: Some(Duration::from_secs(60)),
            max_messages: None,
            max_bytes: Some(1 << 20),
            max_messages_per_subject: None,
            max_message_size: None,
            storage: Storage::File,
            replicas: 1,
            duplicate_window: Duration::from_secs(60),
            retention: Retention::Limits,
            discard: Discard::Old,
            allow_direct: true,
            allow_msg_ttl: true,
            subject_delete_marker_ttl: None,
            republish: Some(Republish::live("TIDINGS_shop_orders")),
            no_ack: false,
            sealed: false,
            has_origins: false,
            transforms_subjects: false,
            metadata: marks.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        }
    }

    fn observed(change: impl FnOnce(&mut StreamSpec)) -> Difference {
        let mut observed = wanted();
        observed.metadata.insert("_nats.level".into(), "2".into());
        observed.metadata.insert("team".into(), "shop".into());
        change(&mut observed);
        wanted().compare(&observed)
    }

    fn update(fields: &[&'static str]) -> Difference {
        Difference::Update { fields: fields.to_vec(), took_over_from: None }
    }

    #[test]
    fn what_is_not_ours_is_no_difference() {
        assert_eq!(observed(|_| {}), Difference::Unchanged);
    }

    #[test]
    fn drift_is_named() {
        assert_eq!(observed(|s| s.max_age = None), update(&["max_age"]));
        assert_eq!(observed(|s| s.republish = None), update(&["republish"]));
        assert_eq!(observed(|s| s.allow_msg_ttl = false), update(&["allow_msg_ttl"]));
        assert_eq!(observed(|s| s.retention = Retention::Interest), update(&["retention"]));
        assert_eq!(
            observed(|s| {
                s.replicas = 3;
                s.subjects.pop();
            }),
            update(&["subjects", "num_replicas"])
        );
    }

    #[test]
    fn an_immutable_difference_forbids_every_update() {
        let difference = observed(|s| {
            s.storage = Storage::Memory;
            s.max_age = None;
        });
        let Difference::Immutable(fields) = difference else { panic!("{difference:?}") };
        let written: Vec<_> = fields.iter().map(ToString::to_string).collect();
        assert_eq!(written, ["storage is Memory and should be File"]);
        for change in [
            |s: &mut StreamSpec| s.retention = Retention::WorkQueue,
            |s: &mut StreamSpec| s.sealed = true,
            |s: &mut StreamSpec| s.has_origins = true,
        ] {
            assert!(matches!(observed(change), Difference::Immutable(_)));
        }
    }

    #[test]
    fn a_stream_without_our_marks_is_foreign_whatever_else_differs() {
        let foreign = |change: fn(&mut StreamSpec)| {
            let difference = observed(|s| {
                s.storage = Storage::Memory;
                change(s);
            });
            let Difference::Foreign(foreign) = difference else { panic!("{difference:?}") };
            foreign.to_string()
        };
        for key in [CLUSTER_METADATA, NAMESPACE_METADATA, NAME_METADATA] {
            let mut stream = wanted();
            stream.metadata.remove(key);
            assert_eq!(wanted().compare(&stream), Difference::Foreign(Foreign::Unmarked { missing: key }));
        }
        let set = |s: &mut StreamSpec, key: &str, value: &str| s.metadata.insert(key.into(), value.into());
        assert_eq!(foreign(|s| s.metadata.clear()), "it has no metadata tidings.dev/cluster");
        assert_eq!(
            observed(|s| drop(set(s, CLUSTER_METADATA, "other"))),
            Difference::Foreign(Foreign::Cluster("other".into()))
        );
        assert_eq!(
            observed(|s| drop(set(s, NAMESPACE_METADATA, "bank"))),
            Difference::Foreign(Foreign::Channel(ChannelKey::new("bank", "orders")))
        );
    }

    #[test]
    fn an_earlier_channels_stream_is_taken_over_and_says_so() {
        let difference = observed(|s| drop(s.metadata.insert(UID_METADATA.into(), "0".into())));
        assert_eq!(difference, Difference::Update { fields: vec!["metadata"], took_over_from: Some("0".into()) });
        assert_eq!(observed(|s| drop(s.metadata.remove(UID_METADATA))), update(&["metadata"]));
    }

    #[test]
    fn an_update_keeps_foreign_metadata_and_drops_the_servers() {
        let observed = [("team", "shop"), ("_nats.level", "2"), (UID_METADATA, "0")];
        let merged = wanted().metadata_over(&observed.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(merged.get("team").map(String::as_str), Some("shop"));
        assert_eq!(merged.get(UID_METADATA).map(String::as_str), Some("1"));
        assert_eq!(merged.len(), 5);
    }

    #[test]
    fn the_owner_is_told_only_within_the_installation() {
        assert_eq!(wanted().owner("c"), Some(ChannelKey::new("shop", "orders")));
        assert_eq!(wanted().owner("d"), None);
        assert_eq!((limit(-1), limit(0), limit(5)), (None, None, Some(5)));
    }
}
