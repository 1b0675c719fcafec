//! The CustomResourceDefinition, as it is installed: what the derive makes of the types, and what it cannot say.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
    ValidationRule,
};
use kube::core::CustomResourceExt;
use serde_json::Value;

use crate::api::channel::Channel;
use crate::api::rule;

/// The annotation that tells two schemas apart: an installer never replaces a newer one with an older one.
pub const REVISION_ANNOTATION: &str = "tidings.dev/schema-revision";

/// Goes up with every released change of the schema.
pub const REVISION: u32 = 1;

/// What a manifest says as its `apiVersion`.
pub const API_VERSION: &str = "tidings.dev/v1alpha1";

/// The name of the CustomResourceDefinition.
pub const CRD_NAME: &str = "channels.tidings.dev";

/// One column of `kubectl get tch`.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    kind: &'static str,
    path: &'static str,
    pub(crate) description: &'static str,
    /// Only with `-o wide`.
    pub(crate) wide: bool,
}

pub(crate) const COLUMNS: [Column; 10] = [
    Column {
        name: "Ready",
        kind: "string",
        path: r#".status.conditions[?(@.type=="Ready")].status"#,
        description: "Whether gateways serve the channel as it is written.",
        wide: false,
    },
    Column {
        name: "Reason",
        kind: "string",
        path: r#".status.conditions[?(@.type=="Ready")].reason"#,
        description: "Why it is ready or not.",
        wide: false,
    },
    Column {
        name: "Subscribers",
        kind: "integer",
        path: ".status.subscribers",
        description: "Open streams on all gateways.",
        wide: false,
    },
    Column {
        name: "Age",
        kind: "date",
        path: ".metadata.creationTimestamp",
        description: "Time since the Channel was created.",
        wide: false,
    },
    Column {
        name: "Accepted",
        kind: "string",
        path: r#".status.conditions[?(@.type=="Accepted")].reason"#,
        description: "Why the specification is accepted or refused.",
        wide: true,
    },
    Column {
        name: "Programmed",
        kind: "string",
        path: r#".status.conditions[?(@.type=="Programmed")].reason"#,
        description: "Why stream and route are in place or not.",
        wide: true,
    },
    Column {
        name: "Durability",
        kind: "string",
        path: ".spec.durability",
        description: "Durable or Ephemeral.",
        wide: true,
    },
    Column { name: "Stream", kind: "string", path: ".status.stream", description: "The JetStream stream.", wide: true },
    Column {
        name: "Subject",
        kind: "string",
        path: ".status.subjects[0]",
        description: "The first of the channel's NATS subjects.",
        wide: true,
    },
    Column { name: "URL", kind: "string", path: ".status.url", description: "Where to subscribe.", wide: true },
];

/// The CustomResourceDefinition `channels.tidings.dev`.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = Channel::crd();
    let annotation = (REVISION_ANNOTATION.to_owned(), REVISION.to_string());
    crd.metadata.annotations = Some(BTreeMap::from([annotation]));
    for version in &mut crd.spec.versions {
        version.additional_printer_columns = Some(COLUMNS.iter().map(Column::definition).collect());
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            complete(schema);
        }
    }
    crd
}

/// The schema of a Channel as JSON.
pub fn schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        let version = crd().spec.versions.into_iter().next();
        let schema = version.and_then(|version| version.schema).and_then(|schema| schema.open_api_v3_schema);
        serde_json::to_value(schema).expect("a schema has only string keys")
    });
    &SCHEMA
}

/// The CustomResourceDefinition as YAML, with a head that says where it comes from.
pub fn crd_yaml() -> String {
    let body = serde_yaml::to_string(&crd()).expect("a definition has only string keys");
    format!("# Generated from the types in crds/ by `make generate`. Do not edit.\n{body}")
}

// === impl Column ===

impl Column {
    fn definition(&self) -> CustomResourceColumnDefinition {
        CustomResourceColumnDefinition {
            name: self.name.to_owned(),
            type_: self.kind.to_owned(),
            json_path: self.path.to_owned(),
            description: Some(self.description.to_owned()),
            priority: self.wide.then_some(1),
            format: None,
        }
    }
}

/// What the derive cannot say: `spec` may be left out, the rules over the whole object, and that `null` is the same as
/// absence (a nullable field would keep `null`, and every rule would have to know it).
fn complete(schema: &mut JSONSchemaProps) {
    schema.x_kubernetes_validations = Some(
        rule::of_object()
            .into_iter()
            .map(|rule| serde_json::from_value::<ValidationRule>(rule).expect("the fields are those of a rule"))
            .collect(),
    );
    schema.required = None;
    schema.title = None;
    if let Some(properties) = &mut schema.properties {
        if let Some(spec) = properties.get_mut("spec") {
            spec.default = Some(JSON(Value::Object(serde_json::Map::new())));
        }
        properties.values_mut().for_each(forbid_null);
    }
}

fn forbid_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.properties.iter_mut().flat_map(BTreeMap::values_mut).for_each(forbid_null);
    if let Some(items) = &mut schema.items {
        match items {
            JSONSchemaPropsOrArray::Schema(item) => forbid_null(item),
            JSONSchemaPropsOrArray::Schemas(items) => items.iter_mut().for_each(forbid_null),
        }
    }
}
