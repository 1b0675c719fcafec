//! A Channel as the API server has it. Pure.
//!
//! Read by hand instead of through the typed client: one object that this version cannot decode (another schema, an enum
//! value of tomorrow) must neither hide the others nor lose what is needed to say so in its own status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::DynamicObject;
use serde_json::Value;
use tidings_crds::channel::{Channel, ChannelSpec, ChannelStatus, DEFAULT_CLASS};
use tidings_crds::key::ChannelKey;
use tidings_crds::schema;

/// What keeps a Channel there until its stream is deleted.
pub const FINALIZER: &str = "tidings.dev/stream";

/// The annotation that lets a Channel go without its stream being deleted.
pub const ABANDON_ANNOTATION: &str = "tidings.dev/abandon-stream";

/// Faults told of an object that cannot be decoded; the rest is counted.
const MOST_FAULTS: usize = 4;

/// One Channel.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedChannel {
    /// Its namespace and name.
    pub key: ChannelKey,
    /// Its `metadata.uid`: another one when it is deleted and made again.
    pub uid: String,
    /// Its `metadata.resourceVersion`.
    pub version: String,
    /// Its `metadata.generation`.
    pub generation: i64,
    /// When it was created, in seconds since 1970.
    pub created: Option<i64>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Everybody's finalizers.
    pub finalizers: Vec<String>,
    /// Whether its owner gives the stream up.
    pub abandoned: bool,
    /// Which installation is to serve it.
    pub class_name: String,
    /// Its specification, without a status; or why it cannot be decoded.
    pub channel: Result<Box<Channel>, String>,
    /// Its status as it stands, as far as it can be decoded.
    pub status: ChannelStatus,
}

// === impl ObservedChannel ===

impl ObservedChannel {
    /// Reads an object; `None` for one without name, namespace or uid, which no API server has.
    pub fn read(object: DynamicObject) -> Option<Self> {
        let DynamicObject { metadata, data, .. } = object;
        let key = ChannelKey::new(metadata.namespace.clone()?, metadata.name.clone()?);
        let part = |name: &str| data.get(name).cloned().unwrap_or(Value::Null);
        let class_name = data.pointer("/spec/className").and_then(Value::as_str).unwrap_or(DEFAULT_CLASS).to_owned();
        let status = match part("status") {
            Value::Null => ChannelStatus::default(),
            status => readable(status),
        };
        let annotations = metadata.annotations.as_ref();
        Some(Self {
            key,
            uid: metadata.uid.clone()?,
            version: metadata.resource_version.clone()?,
            generation: metadata.generation.unwrap_or_default(),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
            deleting: metadata.deletion_timestamp.is_some(),
            finalizers: metadata.finalizers.clone().unwrap_or_default(),
            abandoned: annotations.and_then(|all| all.get(ABANDON_ANNOTATION)).is_some_and(|value| value == "true"),
            class_name,
            channel: decode(metadata, part("spec")),
            status,
        })
    }

    /// Whether our finalizer is set.
    pub fn is_held(&self) -> bool {
        self.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
    }
}

fn decode(metadata: ObjectMeta, spec: Value) -> Result<Box<Channel>, String> {
    let spec = if spec.is_null() { Value::Object(serde_json::Map::new()) } else { spec };
    match serde_json::from_value::<ChannelSpec>(spec.clone()) {
        Ok(spec) => {
            // What the pure step looks at, and nothing that only costs memory.
            let metadata = ObjectMeta {
                namespace: metadata.namespace,
                name: metadata.name,
                uid: metadata.uid,
                generation: metadata.generation,
                ..ObjectMeta::default()
            };
            Ok(Box::new(Channel { metadata, spec, status: None }))
        }
        // The schema names the field; serde alone does not.
        Err(error) => Err(match schema::faults("spec", &spec).as_slice() {
            [] => format!("spec: {error}"),
            faults => {
                let mut words: Vec<String> = faults.iter().take(MOST_FAULTS).map(ToString::to_string).collect();
                if faults.len() > MOST_FAULTS {
                    words.push(format!("and {} more", faults.len() - MOST_FAULTS));
                }
                words.join("; ")
            }
        }),
    }
}

/// A status with something in it that this version does not know counts as far as its conditions: they carry the times.
fn readable(status: Value) -> ChannelStatus {
    let conditions = status.get("conditions").cloned().unwrap_or(Value::Null);
    serde_json::from_value(status).unwrap_or_else(|_| ChannelStatus {
        conditions: serde_json::from_value(conditions).unwrap_or_default(),
        ..ChannelStatus::default()
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn read(object: Value) -> ObservedChannel {
        ObservedChannel::read(serde_json::from_value(object).unwrap()).unwrap()
    }

    fn object(spec: Value) -> Value {
        json!({
            "apiVersion": "tidings.dev/v1alpha1", "kind": "Channel",
            "metadata": {
                "namespace": "shop", "name": "orders", "uid": "u1", "resourceVersion": "7", "generation": 3,
                "creationTimestamp": "2026-11-01T00:00:00Z",
            },
            "spec": spec,
        })
    }

    #[test]
    fn a_channel_is_read_with_what_decides_about_it() {
        let mut object = object(json!({ "className": "other" }));
        object["metadata"]["finalizers"] = json!(["example.com/x", FINALIZER]);
        object["metadata"]["annotations"] = json!({ ABANDON_ANNOTATION: "true" });
        object["metadata"]["deletionTimestamp"] = json!("2026-11-02T00:00:00Z");
        object["status"] = json!({ "controllerName": "a/b" });
        let seen = read(object);
        assert_eq!((seen.key.to_string().as_str(), seen.uid.as_str(), seen.generation), ("shop/orders", "u1", 3));
        assert!(seen.deleting && seen.abandoned && seen.is_held());
        assert_eq!((seen.class_name.as_str(), seen.status.controller_name.as_deref()), ("other", Some("a/b")));
        assert_eq!(seen.channel.unwrap().metadata.uid.as_deref(), Some("u1"));
    }

    #[test]
    fn what_cannot_be_decoded_is_known_by_its_fault() {
        let seen = read(object(json!({ "durability": "Eternal", "className": "tidings" })));
        let fault = seen.channel.unwrap_err();
        assert!(fault.starts_with("spec.durability"), "{fault}");
        let mut object = object(json!({}));
        object["status"] = json!({
            "gateways": "many",
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Serving", "message": "",
                "lastTransitionTime": "2026-11-01T00:00:00Z",
            }],
        });
        assert_eq!(read(object).status.conditions.len(), 1);
    }
}
