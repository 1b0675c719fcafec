//! The rules over a Channel: each of them broken, as the API server's CEL sees it and as Rust sees it.
//!
//! `kube::core::cel` evaluates the rules of the generated schema; the operator and `check` use the Rust side.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by panicking")]

mod arbitrary;

use std::collections::BTreeSet;

use kube::core::cel::{CompiledSchema, ValidationError, Validator, compile_schema};
use proptest::prelude::*;
use serde_json::{Value, json};
use tidings_crds::channel::{Channel, ChannelSpec};
use tidings_crds::fault::Fault;
use tidings_crds::{definition, rule};

fn channel(name: &str, spec: &Value) -> Channel {
    let spec: ChannelSpec = serde_json::from_value(spec.clone()).unwrap();
    Channel::new(name, spec)
}

fn faults_by_cel(channel: &Channel, old: Option<&Channel>) -> Vec<Fault> {
    let json = |channel: &Channel| serde_json::to_value(channel).unwrap();
    thread_local!(static RULES: CompiledSchema = compile_schema(definition::schema()));
    let verdict = RULES.with(|rules| Validator::new().validate_compiled(rules, &json(channel), old.map(json).as_ref()));
    match verdict {
        Ok(()) => Vec::new(),
        Err(errors) => sorted(errors.into_vec().into_iter().map(|error| fault(&error)).collect()),
    }
}

/// The schema does not describe the metadata, so a rule over the name cannot name its field.
fn fault(error: &ValidationError) -> Fault {
    let path = if error.field_path.is_empty() { "metadata.name" } else { error.field_path.trim_start_matches('.') };
    Fault::new(path, error.message.clone())
}

fn faults_by_rust(channel: &Channel) -> Vec<Fault> {
    sorted(rule::broken(channel.metadata.name.as_deref().unwrap(), &channel.spec))
}

fn sorted(mut faults: Vec<Fault>) -> Vec<Fault> {
    faults.sort();
    faults
}

/// The paths at which both find a specification broken.
fn broken(name: &str, spec: &Value) -> Vec<String> {
    let channel = channel(name, spec);
    let faults = faults_by_cel(&channel, None);
    assert_eq!(faults, faults_by_rust(&channel), "{spec}");
    faults.into_iter().map(|fault| fault.path).collect()
}

/// Specifications that are in order.
fn sound() -> Vec<Value> {
    vec![
        json!({}),
        json!({ "subjects": ["orders.>", "audit.*.x", "größe.grün"] }),
        json!({ "subjects": ["tidings.shop.orders.>"] }),
        json!({ "subjects": [vec!["a"; 32].join(".")] }),
        json!({ "history": {} }),
        json!({ "history": { "maxBytes": 1, "maxAgeSeconds": 5, "duplicateWindowSeconds": 5, "storage": "Memory" } }),
        json!({ "history": { "maxBytes": "1024Ti", "duplicateWindowSeconds": 600 } }),
        json!({ "durability": "Ephemeral" }),
        json!({ "events": { "from": "LastPerTopic", "maxEventBytes": "64Mi" } }),
        json!({ "events": { "maxEventBytes": 67_108_864 } }),
        json!({ "access": { "subscribe": { "mode": "Public", "topics": [">"] } } }),
        json!({ "access": { "subscribe": { "mode": "Token", "topics": ["all", ".", "user.{sub}", "t-{a.b}.*.>"] } } }),
        json!({ "access": { "subscribe": { "topics": ["{a}.{b}", "x-{a}:{b}-y"] } } }),
        json!({ "access": { "publish": { "mode": "Public", "topics": ["a", "b.*"] } } }),
        json!({ "access": { "publish": { "mode": "Disabled", "topics": ["user.{sub}"] } } }),
        json!({ "cors": { "origins": ["*"] } }),
        json!({ "cors": {
            "origins": ["https://shop.example", "http://localhost:5173", "http://[::1]:8080", "capacitor://localhost"],
            "allowCredentials": true,
        } }),
        json!({ "cors": { "origins": ["https://shop.example:80", "http://shop.example:443"] } }),
        json!({ "cors": { "origins": ["https://*.shop.example", "https://*.shop.example:8443", "https://shop.example"] } }),
        json!({ "access": { "subscribe": { "topics": ["é".repeat(127)] } } }),
    ]
}

/// Specifications of the Channel `orders`, each with the paths of the rules it breaks.
fn unsound() -> Vec<(Value, Vec<&'static str>)> {
    let topics = |topic: &str| json!({ "access": { "subscribe": { "topics": [topic] } } });
    let origins = |origins: &[&str]| json!({ "cors": { "origins": origins } });
    let mut list = vec![
        (json!({ "subjects": ["tidings.shop.other"] }), vec!["spec.subjects"]),
        (json!({ "subjects": ["tidings.shop"] }), vec!["spec.subjects"]),
        (json!({ "subjects": ["tidings.*.orders"] }), vec!["spec.subjects"]),
        (json!({ "subjects": ["tidings.>"] }), vec!["spec.subjects"]),
        (json!({ "subjects": ["tidings.shop.>"] }), vec!["spec.subjects"]),
        (json!({ "subjects": ["tidings..orders"] }), vec!["spec.subjects", "spec.subjects"]),
        (json!({ "durability": "Ephemeral", "history": {} }), vec!["spec.history"]),
        (
            json!({ "history": { "maxAgeSeconds": 5, "duplicateWindowSeconds": 6 } }),
            vec!["spec.history.duplicateWindowSeconds"],
        ),
        (json!({ "durability": "Ephemeral", "events": { "from": "All" } }), vec!["spec.events.from"]),
        (json!({ "access": { "subscribe": { "mode": "Public" } } }), vec!["spec.access.subscribe.topics"]),
        (json!({ "access": { "publish": { "mode": "Public" } } }), vec!["spec.access.publish.topics"]),
        (
            json!({ "access": { "subscribe": { "mode": "Public", "topics": ["user.{sub}"] } } }),
            vec!["spec.access.subscribe.topics"],
        ),
        (
            json!({ "access": { "publish": { "mode": "Public", "topics": ["user.{sub}"] } } }),
            vec!["spec.access.publish.topics"],
        ),
        (json!({ "access": { "publish": { "topics": ["a b"] } } }), vec!["spec.access.publish.topics"]),
        (json!({ "access": { "publish": { "topics": ["x.{a}-{b}"] } } }), vec!["spec.access.publish.topics"]),
        (origins(&["*", "https://shop.example"]), vec!["spec.cors.origins"]),
        (json!({ "cors": { "allowCredentials": true } }), vec!["spec.cors.allowCredentials"]),
        (
            json!({ "cors": { "allowCredentials": true, "origins": ["https://*.shop.example"] } }),
            vec!["spec.cors.allowCredentials"],
        ),
        (topics(&"é".repeat(128)), vec!["spec.access.subscribe.topics"]),
        (json!({ "access": { "publish": { "topics": ["é".repeat(128)] } } }), vec!["spec.access.publish.topics"]),
        (json!({ "subjects": ["é".repeat(128)] }), vec!["spec.subjects"]),
        (json!({ "cors": { "allowCredentials": true, "origins": ["*"] } }), vec!["spec.cors.allowCredentials"]),
    ];
    for subject in ["a..b", ".a", "a.", "a b", "a.x*", "a.>.b", "a\tb", "a\u{a0}b", "a\u{2028}b", "a\u{7f}b"] {
        list.push((json!({ "subjects": [subject] }), vec!["spec.subjects"]));
    }
    for subject in [">", "*", "*.new", "$JS.API.>", "$", "_INBOX.>", "_INBOXES", "tidings-live", "tidings-live.>"] {
        list.push((json!({ "subjects": [subject] }), vec!["spec.subjects"]));
    }
    list.push((json!({ "subjects": [vec!["a"; 33].join(".")] }), vec!["spec.subjects"]));
    for bytes in [json!(0), json!(-1), json!("0"), json!("1.5Gi"), json!("100m"), json!("1Pi"), json!("1025Ti")] {
        list.push((json!({ "history": { "maxBytes": bytes } }), vec!["spec.history.maxBytes"]));
    }
    for bytes in [json!(0), json!("64MiB"), json!("65Mi"), json!(67_108_865)] {
        list.push((json!({ "events": { "maxEventBytes": bytes } }), vec!["spec.events.maxEventBytes"]));
    }
    for topic in
        ["a..b", "a b", "..", "user.{", "user.}", "user.{}", "user.{a{b}}", "user.{a b}", "{sub}.>.x", "*{sub}"]
    {
        list.push((topics(topic), vec!["spec.access.subscribe.topics"]));
    }
    for origin in [
        "shop.example",
        "https://shop.example/",
        "https://Shop.example",
        "HTTPS://shop.example",
        "https://*.example",
        "https://*shop.example",
        "https://a.*.shop.example",
        "https://*.*.shop.example",
        "https://*.[::1]",
        "https://shop.example:443",
        "http://[::1]:80",
        "https://shop.example:",
        "https://shop.example:0",
        "https://user@shop.example",
        "https://",
        "http://[::1",
        "http://[]",
        "null",
    ] {
        list.push((origins(&[origin]), vec!["spec.cors.origins"]));
    }
    list
}

#[test]
fn what_is_in_order_breaks_no_rule() {
    for spec in sound() {
        assert_eq!(broken("orders", &spec), Vec::<String>::new(), "{spec}");
    }
}

#[test]
fn every_rule_is_broken_by_what_it_is_there_for() {
    let mut seen = BTreeSet::new();
    for (spec, paths) in unsound() {
        assert_eq!(broken("orders", &spec), paths, "{spec}");
        seen.extend(
            rule::broken("orders", &serde_json::from_value(spec).unwrap()).into_iter().map(|fault| fault.message),
        );
    }
    for name in ["", "a.b", "A", "-a", "a-", "a_b", &"a".repeat(64)] {
        assert_eq!(broken(name, &json!({})), ["metadata.name"], "{name}");
        seen.extend(rule::broken(name, &ChannelSpec::default()).into_iter().map(|fault| fault.message));
    }
    let written: BTreeSet<String> = messages(definition::schema())
        .chain(messages(&definition::schema()["properties"]["spec"]))
        .filter(|(rule, _)| !rule.contains("oldSelf"))
        .map(|(_, message)| message)
        .collect();
    assert_eq!(seen, written);
}

fn messages(schema: &Value) -> impl Iterator<Item = (String, String)> {
    let text = |rule: &Value, key: &str| rule[key].as_str().unwrap().to_owned();
    schema["x-kubernetes-validations"]
        .as_array()
        .unwrap()
        .iter()
        .map(move |rule| (text(rule, "rule"), text(rule, "message")))
}

#[test]
fn immutable_fields_are_so_also_where_they_are_absent() {
    let file = json!({ "history": {} });
    let memory = json!({ "history": { "storage": "Memory" } });
    for (old, new, path) in [
        (json!({}), json!({ "className": "other" }), "spec.className"),
        (json!({}), json!({ "durability": "Ephemeral" }), "spec.durability"),
        (json!({}), memory.clone(), "spec.history"),
        (file.clone(), memory.clone(), "spec.history"),
        (memory.clone(), file.clone(), "spec.history"),
        (memory.clone(), json!({}), "spec.history"),
    ] {
        let (old, new) = (channel("orders", &old), channel("orders", &new));
        let by_cel = faults_by_cel(&new, Some(&old));
        assert_eq!(by_cel, sorted(rule::broken_by_change(&new.spec, &old.spec)));
        assert_eq!(by_cel.iter().map(|fault| fault.path.as_str()).collect::<Vec<_>>(), [path]);
    }
    for (old, new) in [
        (json!({}), file.clone()),
        (file, json!({})),
        (memory.clone(), memory),
        (json!({}), json!({ "className": "tidings", "durability": "Durable", "subjects": ["a"] })),
    ] {
        let (old, new) = (channel("orders", &old), channel("orders", &new));
        assert_eq!(faults_by_cel(&new, Some(&old)), []);
        assert_eq!(rule::broken_by_change(&new.spec, &old.spec), []);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cel_and_rust_agree(spec in arbitrary::spec(), name in arbitrary::name()) {
        let channel = Channel::new(&name, spec);
        prop_assert_eq!(faults_by_cel(&channel, None), faults_by_rust(&channel));
    }

    #[test]
    fn cel_and_rust_agree_on_changes(old in arbitrary::spec(), new in arbitrary::spec()) {
        let (old, new) = (Channel::new("orders", old), Channel::new("orders", new));
        let mut faults = faults_by_rust(&new);
        faults.extend(rule::broken_by_change(&new.spec, &old.spec));
        prop_assert_eq!(faults_by_cel(&new, Some(&old)), sorted(faults));
    }
}
