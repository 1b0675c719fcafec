//! The generated files in the repository are those that the types give, and the schema is one that we can apply ourselves.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by panicking")]

use serde_json::Value;
use tidings_crds::{definition, reference};

/// Compares by lines, so that a difference is readable.
fn assert_current(file: &str, committed: &str, generated: &str) {
    for (number, (left, right)) in committed.lines().zip(generated.lines()).enumerate() {
        assert_eq!(left, right, "{file} is stale from line {}: run make generate", number + 1);
    }
    assert_eq!(committed.len(), generated.len(), "{file} is stale: run make generate");
}

#[test]
fn the_definition_in_the_chart_is_current() {
    let file = "charts/tidings/crds/channels.tidings.dev.yaml";
    let committed = include_str!("../../charts/tidings/crds/channels.tidings.dev.yaml");
    assert_current(file, committed, &definition::crd_yaml());
}

#[test]
fn the_reference_of_the_channel_is_current() {
    let file = "docs/reference/channel.md";
    assert_current(file, include_str!("../../docs/reference/channel.md"), &reference::markdown());
}

/// Everything that `tidings_crds::schema` knows; another keyword would be enforced by the API server alone.
const KEYWORDS: [&str; 19] = [
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-validations",
];

fn walk(path: &str, schema: &Value, seen: &mut dyn FnMut(&str, &Value)) {
    seen(path, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), field, seen);
    }
    if schema["items"].is_object() {
        walk(&format!("{path}[]"), &schema["items"], seen);
    }
}

#[test]
fn the_schema_says_nothing_that_only_an_api_server_understands() {
    walk("", definition::schema(), &mut |path, schema| {
        for keyword in schema.as_object().unwrap().keys() {
            assert!(KEYWORDS.contains(&keyword.as_str()), "{path}: {keyword}");
        }
    });
}

#[test]
fn every_field_is_documented_and_every_list_and_text_is_bounded() {
    let spec = &definition::schema()["properties"]["spec"];
    walk("spec", spec, &mut |path, schema| {
        let is = |name: &str| schema["type"] == name;
        assert!(path.ends_with("[]") || schema["description"].is_string(), "{path} says nothing");
        assert!(!is("array") || schema["maxItems"].is_u64(), "{path} has no maximum");
        assert!(!is("array") || schema["x-kubernetes-list-type"] == "atomic", "{path} is not atomic");
        let bounded = schema["maxLength"].is_u64() || schema["enum"].is_array();
        assert!(!is("string") || bounded, "{path} has no maximum");
        assert!(schema.get("nullable").is_none(), "{path} keeps null");
        let values = [schema, &schema["items"]].into_iter().filter_map(|schema| schema["enum"].as_array()).flatten();
        for value in values.filter(|_| !path.ends_with("[]")) {
            let explained = schema["description"].as_str().unwrap().contains(value.as_str().unwrap());
            assert!(explained, "{path} does not explain {value}");
        }
    });
}
