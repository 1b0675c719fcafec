//! Stream configurations as JetStream writes them (JSON), to and from [`StreamSpec`].
//!
//! Pure. Only the fields that Tidings has an opinion about are read and written; everything else in an observed
//! configuration goes back as it came.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tidings_crds::history::Storage;
use tidings_crds::position::Epoch;
use tidings_crds::stream::{Discard, Republish, Retention, StreamSpec, limit};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A stream as it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedStream {
    /// What we have an opinion about.
    pub spec: StreamSpec,
    /// Its whole configuration.
    pub config: Value,
    /// Which incarnation it is.
    pub epoch: Epoch,
}

/// Why an answer of JetStream is not understood.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not the shape that JetStream documents.
    #[error("failed to read the description of a stream")]
    Shape(#[from] serde_json::Error),
    /// `created` is no time.
    #[error("failed to read the creation time of a stream")]
    Created(#[from] time::error::Parse),
    /// `created` lies before 1970 or after 2554.
    #[error("a stream was created at an impossible time")]
    Epoch,
}

#[derive(Deserialize)]
struct Info {
    config: Value,
    created: String,
}

#[derive(Deserialize)]
struct Config {
    name: String,
    #[serde(default)]
    subjects: Vec<String>,
    #[serde(default)]
    max_age: i64,
    #[serde(default)]
    max_msgs: i64,
    #[serde(default)]
    max_bytes: i64,
    #[serde(default)]
    max_msgs_per_subject: i64,
    #[serde(default)]
    max_msg_size: i32,
    storage: RawStorage,
    #[serde(default)]
    num_replicas: usize,
    #[serde(default)]
    duplicate_window: i64,
    retention: RawRetention,
    discard: RawDiscard,
    #[serde(default)]
    allow_direct: bool,
    #[serde(default)]
    allow_msg_ttl: bool,
    #[serde(default)]
    subject_delete_marker_ttl: i64,
    republish: Option<RawRepublish>,
    #[serde(default)]
    no_ack: bool,
    #[serde(default)]
    sealed: bool,
    mirror: Option<Value>,
    sources: Option<Vec<Value>>,
    subject_transform: Option<Value>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawStorage {
    File,
    Memory,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawRetention {
    Limits,
    Interest,
    WorkQueue,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawDiscard {
    Old,
    New,
}

#[derive(Deserialize)]
struct RawRepublish {
    #[serde(default)]
    src: String,
    dest: String,
    #[serde(default)]
    headers_only: bool,
}

// === impl ObservedStream ===

impl ObservedStream {
    /// Reads one stream's information, as `STREAM.INFO` and `STREAM.LIST` give it.
    ///
    /// # Errors
    /// When it is not of the shape that JetStream documents.
    pub fn from_info(info: Value) -> Result<Self, DocumentError> {
        let Info { config, created } = serde_json::from_value(info)?;
        let nanos = OffsetDateTime::parse(&created, &Rfc3339)?.unix_timestamp_nanos();
        let epoch = Epoch::from_nanos(u64::try_from(nanos).map_err(|_| DocumentError::Epoch)?);
        let spec = Config::deserialize(&config)?.into();
        Ok(Self { spec, config, epoch })
    }

    /// A mark of the whole configuration and of the incarnation, to be compared within this process only.
    pub fn mark(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.config, self.epoch).hash(&mut hasher);
        hasher.finish()
    }
}

impl From<Config> for StreamSpec {
    fn from(config: Config) -> Self {
        Self {
            name: config.name,
            subjects: config.subjects,
            max_age: duration(config.max_age),
            max_messages: limit(config.max_msgs),
            max_bytes: limit(config.max_bytes),
            max_messages_per_subject: limit(config.max_msgs_per_subject),
            max_message_size: (config.max_msg_size > 0).then_some(config.max_msg_size),
            storage: match config.storage {
                RawStorage::File => Storage::File,
                RawStorage::Memory => Storage::Memory,
            },
            replicas: config.num_replicas,
            duplicate_window: duration(config.duplicate_window).unwrap_or_default(),
            retention: match config.retention {
                RawRetention::Limits => Retention::Limits,
                RawRetention::Interest => Retention::Interest,
                RawRetention::WorkQueue => Retention::WorkQueue,
            },
            discard: match config.discard {
                RawDiscard::Old => Discard::Old,
                RawDiscard::New => Discard::New,
            },
            allow_direct: config.allow_direct,
            allow_msg_ttl: config.allow_msg_ttl,
            subject_delete_marker_ttl: duration(config.subject_delete_marker_ttl),
            republish: config.republish.map(|raw| Republish {
                // The server may leave out "everything".
                source: if raw.src.is_empty() { ">".to_owned() } else { raw.src },
                destination: raw.dest,
                headers_only: raw.headers_only,
            }),
            no_ack: config.no_ack,
            sealed: config.sealed,
            has_origins: config.mirror.is_some() || config.sources.is_some_and(|sources| !sources.is_empty()),
            transforms_subjects: config.subject_transform.is_some(),
            metadata: config.metadata,
        }
    }
}

/// The configuration that creates a stream.
pub fn creation(spec: &StreamSpec, description: &str) -> Value {
    let mut config = Map::new();
    config.insert("description".to_owned(), description.into());
    write(spec, &mut config);
    Value::Object(config)
}

/// Whether the stream of this information holds no message; one that does not say is taken to hold some.
pub fn is_empty(info: &Value) -> bool {
    info.pointer("/state/messages").and_then(Value::as_u64) == Some(0)
}

/// The configuration that makes `observed` what `spec` says, and leaves the rest as it is.
pub fn update(spec: &StreamSpec, observed: &ObservedStream) -> Value {
    let mut config = observed.config.as_object().cloned().unwrap_or_default();
    write(&StreamSpec { metadata: spec.metadata_over(&observed.spec.metadata), ..spec.clone() }, &mut config);
    Value::Object(config)
}

// long: a line or two for each field; two halves would hide which one is missing.
fn write(spec: &StreamSpec, config: &mut Map<String, Value>) {
    // Without `..`: a new field of the specification does not compile until it is written. What cannot be changed once
    // the stream exists is written as well; it is equal then, or nothing is written at all.
    let StreamSpec {
        name,
        subjects,
        max_age,
        max_messages,
        max_bytes,
        max_messages_per_subject,
        max_message_size,
        storage,
        replicas,
        duplicate_window,
        retention,
        discard,
        allow_direct,
        allow_msg_ttl,
        subject_delete_marker_ttl,
        republish,
        no_ack,
        sealed: _,
        has_origins: _,
        transforms_subjects,
        metadata,
    } = spec;
    let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
    set("name", json!(name));
    set("subjects", json!(subjects));
    set("max_age", json!(max_age.map_or(0, nanos)));
    set("max_msgs", json!(max_messages.unwrap_or(-1)));
    set("max_bytes", json!(max_bytes.unwrap_or(-1)));
    set("max_msgs_per_subject", json!(max_messages_per_subject.unwrap_or(-1)));
    set("max_msg_size", json!(max_message_size.unwrap_or(-1)));
    let storage = match storage {
        Storage::File => "file",
        Storage::Memory => "memory",
    };
    set("storage", json!(storage));
    set("num_replicas", json!(replicas));
    set("duplicate_window", json!(nanos(*duplicate_window)));
    let retention = match retention {
        Retention::Limits => "limits",
        Retention::Interest => "interest",
        Retention::WorkQueue => "workqueue",
    };
    set("retention", json!(retention));
    let policy = match discard {
        Discard::Old => "old",
        Discard::New => "new",
    };
    set("discard", json!(policy));
    set("allow_direct", json!(allow_direct));
    set("allow_msg_ttl", json!(allow_msg_ttl));
    set("no_ack", json!(no_ack));
    set("metadata", json!(metadata));
    match republish {
        Some(Republish { source, destination, headers_only }) => {
            set("republish", json!({ "src": source, "dest": destination, "headers_only": headers_only }))
        }
        None => config.remove("republish"),
    };
    match subject_delete_marker_ttl {
        Some(ttl) => config.insert("subject_delete_marker_ttl".to_owned(), json!(nanos(*ttl))),
        None => config.remove("subject_delete_marker_ttl"),
    };
    if matches!(discard, Discard::Old) {
        // NATS takes it with the other policy only, and would refuse the whole repair.
        config.remove("discard_new_per_subject");
    }
    if !transforms_subjects {
        config.remove("subject_transform");
    }
}

fn duration(nanos: i64) -> Option<Duration> {
    u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos)
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidings_crds::stream::Difference;

    fn info(config: Value) -> Value {
        json!({ "type": "io.nats.jetstream.api.v1.stream_info_response", "config": config, "created": "2026-11-01T00:00:00.000000001Z" })
    }

    fn spec() -> StreamSpec {
        StreamSpec {
            name: "TIDINGS_shop_orders".into(),
            subjects: vec!["tidings.shop.orders".into()],
            max_age: Some(Duration::from_secs(60)),
            max_messages: None,
            max_bytes: Some(1024),
            max_messages_per_subject: Some(1),
            max_message_size: None,
            storage: Storage::Memory,
            replicas: 1,
            duplicate_window: Duration::from_secs(30),
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
            metadata: [
                ("tidings.dev/cluster".to_owned(), "c".to_owned()),
                ("tidings.dev/namespace".to_owned(), "shop".to_owned()),
                ("tidings.dev/name".to_owned(), "orders".to_owned()),
            ]
            .into(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let observed = ObservedStream::from_info(info(creation(&spec(), "a channel"))).unwrap();
        assert_eq!(observed.spec, spec());
        assert_eq!(observed.epoch, Epoch::from_nanos(1_793_491_200_000_000_001));
    }

    #[test]
    fn an_update_repairs_drift_and_keeps_what_is_not_ours() {
        let mut config = creation(&spec(), "a channel");
        let fields = config.as_object_mut().unwrap();
        fields.insert("max_age".into(), json!(1));
        fields.insert("subject_delete_marker_ttl".into(), json!(5_000_000_000_i64));
        fields.insert("compression".into(), json!("s2"));
        fields.insert("placement".into(), json!({ "tags": ["ssd"] }));
        fields["metadata"].as_object_mut().unwrap().insert("team".into(), json!("shop"));
        fields["metadata"].as_object_mut().unwrap().insert("_nats.ver".into(), json!("2.15.2"));
        let observed = ObservedStream::from_info(info(config)).unwrap();
        assert!(matches!(spec().compare(&observed.spec), Difference::Update { .. }));

        let repaired = update(&spec(), &observed);
        assert_eq!(repaired["compression"], "s2");
        assert_eq!(repaired["placement"], json!({ "tags": ["ssd"] }));
        assert_eq!(repaired["metadata"]["team"], "shop");
        assert_eq!(repaired["metadata"].get("_nats.ver"), None);
        let repaired = ObservedStream::from_info(info(repaired)).unwrap();
        assert_eq!(spec().compare(&repaired.spec), Difference::Unchanged);
    }

    #[test]
    fn an_answer_of_another_shape_is_an_error() {
        assert!(matches!(ObservedStream::from_info(json!({})), Err(DocumentError::Shape(_))));
        let mut odd = info(creation(&spec(), ""));
        odd["created"] = json!("yesterday");
        assert!(matches!(ObservedStream::from_info(odd), Err(DocumentError::Created(_))));
    }
}
