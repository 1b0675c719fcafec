//! The definition of Channels, as a real API server takes it: what it fills in, what it refuses and with which words, and
//! that checking without a cluster comes to the same.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::discovery::ApiResource;
use kube::{Client, Resource};
use serde_json::{Value, json};
use tidings_crds::channel::Channel;
use tidings_crds::definition;
use tidings_crds::manifest::{Content, read};
use tidings_tests::kube_cluster::KubeCluster;
use tidings_tests::kube_release::KubeRelease;

/// Specifications that break one rule or bound each, below a Channel called `orders`.
const REFUSED: [&str; 32] = [
    "durability: Sometimes",
    "className: ''",
    "subjects: [tidings.other.channel]",
    "subjects: ['orders..new']",
    "subjects: ['orders.new.']",
    "subjects: ['orders.n*']",
    "subjects: ['>']",
    "subjects: [$JS.API.INFO]",
    "subjects: [_INBOX.x]",
    "subjects: [tidings-live.x]",
    "{durability: Ephemeral, history: {}}",
    "{durability: Ephemeral, events: {from: All}}",
    "history: {maxBytes: 0}",
    "history: {maxBytes: 1.5Gi}",
    "history: {maxBytes: 2048Ti}",
    "history: {maxAgeSeconds: 60, duplicateWindowSeconds: 61}",
    "history: {replicas: 6}",
    "events: {maxEventBytes: 65Mi}",
    "events: {retryMilliseconds: 499}",
    "events: {heartbeatSeconds: 0}",
    "cors: {origins: ['https://shop.example/']}",
    "cors: {origins: ['https://shop.example:443']}",
    "cors: {origins: ['*', 'https://shop.example']}",
    "cors: {origins: ['*'], allowCredentials: true}",
    "cors: {origins: ['https://*.shop.example'], allowCredentials: true}",
    // 128 letters of two bytes.
    "subjects: ['éééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé']",
    "access: {subscribe: {topics: ['éééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé']}}",
    "access: {publish: {topics: ['éééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé']}}",
    "access: {subscribe: {mode: Public}}",
    "access: {subscribe: {mode: Public, topics: ['user.{sub}']}}",
    "access: {subscribe: {topics: ['user.{sub}-{name}']}}",
    "access: {publish: {mode: Token, topics: ['a b']}}",
];

const ACCEPTED: [&str; 10] = [
    "{}",
    "history: {}",
    "subjects: [orders, 'orders.>', 'shop.*.new']",
    "{durability: Ephemeral, events: {from: New}}",
    "history: {maxBytes: 1Gi, maxAgeSeconds: 60, duplicateWindowSeconds: 60}",
    "history: {maxBytes: 1048576}",
    "cors: {origins: ['https://shop.example', 'http://localhost:5173'], allowCredentials: true}",
    "cors: {origins: ['https://*.shop.example', 'https://*.shop.example:8443']}",
    "access: {subscribe: {mode: Token, topics: [all, 'user.{sub}', '.', '>']}}",
    "access: {publish: {mode: Token, topics: ['{namespace}.{name}', 'x-{namespace}:{name}']}}",
];

/// Changes of a stored specification that are refused.
const TRANSITIONS: [(&str, &str, &str); 5] = [
    ("{}", "className: other", "className is immutable"),
    ("{}", "durability: Ephemeral", "durability is immutable"),
    ("history: {storage: Memory}", "history: {}", "history.storage is immutable"),
    // A rule below `history` would not see this one.
    ("history: {storage: Memory}", "{}", "history.storage is immutable"),
    ("{}", "history: {storage: Memory}", "history.storage is immutable"),
];

fn channels(client: Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client, namespace, &ApiResource::erase::<Channel>(&()))
}

fn manifest(namespace: &str, spec: &str) -> Result<String> {
    let spec: Value = serde_yaml::from_str(spec)?;
    Ok(serde_yaml::to_string(&json!({
        "apiVersion": Channel::api_version(&()),
        "kind": "Channel",
        "metadata": {"name": "orders", "namespace": namespace},
        "spec": spec,
    }))?)
}

/// What the API server says to a creation that changes nothing.
async fn said_by_server(channels: &Api<DynamicObject>, manifest: &str) -> Result<Result<Value, String>> {
    let object: DynamicObject = serde_yaml::from_str(manifest)?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    match channels.create(&dry, &object).await {
        Ok(created) => Ok(Ok(created.data)),
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(Err(status.message.clone())),
        Err(error) => Err(error.into()),
    }
}

/// What checking without a cluster says.
fn said_offline(manifest: &str) -> Result<Vec<String>> {
    let document = read(manifest).into_iter().next().context("the manifest is empty")?;
    Ok(match document.content {
        Content::Channel(_) => Vec::new(),
        Content::Faulty(located) => located.into_iter().map(|located| located.fault.message).collect(),
        other => anyhow::bail!("not taken for a Channel: {other:?}"),
    })
}

/// The messages of all rules. Types and bounds have none: there the server finds its own words.
fn collect_rules<'s>(schema: &'s Value, messages: &mut BTreeSet<&'s str>) {
    match schema {
        Value::Object(fields) => {
            let rules = fields.get("x-kubernetes-validations").and_then(Value::as_array);
            messages.extend(rules.into_iter().flatten().filter_map(|rule| rule.get("message")?.as_str()));
            fields.values().for_each(|field| collect_rules(field, messages));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_rules(item, messages)),
        _ => {}
    }
}

#[tokio::test]
async fn what_the_server_refuses_is_refused_offline_in_the_same_words() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let release = KubeRelease::install(cluster, "definition").await?;
    let channels = channels(cluster.client().await?, release.namespace());
    let mut rules = BTreeSet::new();
    collect_rules(definition::schema(), &mut rules);
    let mut broken = BTreeSet::new();
    for spec in REFUSED {
        let manifest = manifest(release.namespace(), spec)?;
        let Err(server) = said_by_server(&channels, &manifest).await? else { panic!("the server takes {spec}") };
        let offline = said_offline(&manifest)?;
        assert!(!offline.is_empty(), "{spec} is taken offline, but the server says {server}");
        for message in offline.iter().filter(|message| rules.contains(message.as_str())) {
            assert!(server.contains(message.as_str()), "{spec}: {message:?} is not in {server:?}");
            broken.insert(message.clone());
        }
    }
    // The rule about names and those about changes are all that no specification by itself can break.
    let unbroken: Vec<_> = rules.iter().filter(|rule| !broken.contains(**rule)).collect();
    let elsewhere = |rule: &str| rule.contains("immutable") || rule.starts_with("a Channel's name");
    assert!(unbroken.iter().all(|rule| elsewhere(rule)), "nothing here breaks {unbroken:?}");
    for spec in ACCEPTED {
        let manifest = manifest(release.namespace(), spec)?;
        let server = said_by_server(&channels, &manifest).await?;
        assert!(server.is_ok(), "{spec}: {server:?}");
        assert_eq!(said_offline(&manifest)?, Vec::<String>::new(), "{spec}");
    }
    Ok(())
}

#[tokio::test]
async fn changes_of_what_is_immutable_are_refused() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let release = KubeRelease::install(cluster, "definition").await?;
    let channels = channels(cluster.client().await?, release.namespace());
    for (number, (before, after, message)) in TRANSITIONS.into_iter().enumerate() {
        let name = format!("orders-{number}");
        let named = |spec: &str| -> Result<DynamicObject> {
            let mut object: DynamicObject = serde_yaml::from_str(&manifest(release.namespace(), spec)?)?;
            object.metadata.name = Some(name.clone());
            Ok(object)
        };
        let stored = channels.create(&PostParams::default(), &named(before)?).await?;
        let mut changed = named(after)?;
        changed.metadata.resource_version = stored.metadata.resource_version;
        let error = channels.replace(&name, &PostParams::default(), &changed).await.expect_err("the change is refused");
        assert!(error.to_string().contains(message), "{before} to {after}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn defaults_appear_in_what_is_stored_and_a_specification_may_be_left_out() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let release = KubeRelease::install(cluster, "definition").await?;
    let kubectl = cluster.kubectl();
    let bare = "{apiVersion: tidings.dev/v1alpha1, kind: Channel, metadata: {name: bare}}";
    kubectl.run_with(&["apply", "-n", release.namespace(), "-f", "-"], bare).await?;
    let stored: Channel = Api::namespaced(cluster.client().await?, release.namespace()).get("bare").await?;
    assert_eq!(stored.spec, tidings_crds::channel::ChannelSpec::default());
    let text = kubectl.run(&["get", "tch", "-n", release.namespace(), "bare", "-o", "jsonpath={.spec}"]).await?;
    let seen: Value = serde_json::from_str(&text)?;
    for (field, expected) in [
        ("/className", json!("tidings")),
        ("/durability", json!("Durable")),
        ("/events/heartbeatSeconds", json!(8)),
        ("/events/maxEventBytes", json!("48k")),
        ("/access/subscribe/mode", json!("Token")),
        ("/access/publish/mode", json!("Disabled")),
    ] {
        assert_eq!(seen.pointer(field), Some(&expected), "{field} in {seen}");
    }
    Ok(())
}

#[tokio::test]
async fn the_examples_are_taken() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let _release = KubeRelease::install(cluster, "definition").await?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples");
    let files: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    assert!(!files.is_empty());
    // Their namespace need not exist for a check that stores nothing: it is replaced by one that does.
    for file in files {
        let text = std::fs::read_to_string(file.path())?.replace("namespace: demo", "namespace: default");
        cluster.kubectl().run_with(&["apply", "--dry-run=server", "-f", "-"], &text).await?;
    }
    Ok(())
}

#[tokio::test]
async fn kubectl_explains_every_field_and_shows_and_awaits_conditions() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let release = KubeRelease::install(cluster, "definition").await?;
    let kubectl = cluster.kubectl();
    let explained = kubectl.run(&["explain", "channels.tidings.dev.spec.history"]).await?;
    assert!(explained.contains("How many events are kept") && !explained.contains("<no description>"), "{explained}");
    let all = kubectl.run(&["explain", "channels.tidings.dev", "--recursive"]).await?;
    for field in ["maxMessagesPerTopic", "tokenSources", "heartbeatSeconds", "observedGeneration", "connectsPerSecond"]
    {
        assert!(all.contains(field), "{field} is not in {all}");
    }

    let namespace = release.namespace();
    let manifest = manifest(namespace, "{}")?;
    kubectl.run_with(&["apply", "-f", "-"], &manifest).await?;
    let condition = |kind: &str, reason: &str| {
        json!({
            "type": kind, "status": "True", "reason": reason, "message": "As it should be.",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let status = json!({"apiVersion": "tidings.dev/v1alpha1", "kind": "Channel", "status": {
        "observedGeneration": 1,
        "subscribers": 7,
        "stream": "TIDINGS_shop_orders",
        "conditions": [condition("Accepted", "Accepted"), condition("Ready", "Serving")],
    }});
    let channels = channels(cluster.client().await?, namespace);
    channels.patch_status("orders", &PatchParams::apply("tidings-tests"), &Patch::Apply(status)).await?;
    let wait = ["wait", "-n", namespace, "--for=condition=Ready", "--timeout=10s", "channel.tidings.dev/orders"];
    kubectl.run(&wait).await?;
    let narrow = kubectl.run(&["get", "tch", "-n", namespace]).await?;
    let words: Vec<&str> = narrow.split_whitespace().collect();
    assert_eq!(
        words.get(..9),
        Some(&["NAME", "READY", "REASON", "SUBSCRIBERS", "AGE", "orders", "True", "Serving", "7"][..])
    );
    let wide = kubectl.run(&["get", "tidings", "-n", namespace, "-o", "wide"]).await?;
    for shown in ["DURABILITY", "Durable", "TIDINGS_shop_orders", "ACCEPTED"] {
        assert!(wide.contains(shown), "{shown} is not in {wide}");
    }
    Ok(())
}
