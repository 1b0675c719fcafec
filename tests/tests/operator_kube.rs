//! The operator on a real API server, with exactly the rights and NATS permissions that are shipped.

use anyhow::{Context, Result};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use tidings_crds::route::RouteState;
use tidings_tests::kube_site::{KubeSite, current};
use tidings_tests::wait::{PATIENCE, eventually};

#[tokio::test]
async fn an_applied_channel_has_its_stream_its_route_and_a_status() -> Result<()> {
    let site = KubeSite::start().await?;
    let operator = site.operator(&[]).await?;
    let key = site.key("orders");
    site.apply(&key, json!({ "history": { "maxMessages": 7 } })).await?;
    let channel = site.reason(&key, "Programmed", "Programmed").await;

    let jetstream = site.nats.jetstream().await;
    let stream = site.stream(&jetstream, &key).await.context("no stream")?;
    assert_eq!(stream.config.max_messages, 7);
    let cluster = format!("{}.tidings", site.release.namespace());
    assert_eq!(stream.config.metadata.get("tidings.dev/cluster"), Some(&cluster));
    let route = site.routed(&key).await;
    assert_eq!((route.namespace.as_str(), route.generation), (site.tenant.name(), 1));
    let map = site.maps().get(&site.names().route_object(&key)).await?;
    let labels = map.metadata.labels.context("no labels")?;
    let expected = [
        ("app.kubernetes.io/managed-by", "tidings-operator"),
        ("tidings.dev/channel-name", "orders"),
        ("tidings.dev/channel-namespace", site.tenant.name()),
        ("tidings.dev/release", "tidings"),
    ];
    assert_eq!(labels, expected.map(|(label, value)| (label.to_owned(), value.to_owned())).into());

    let status = channel.status.clone().context("no status")?;
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(status.served_generation, Some(1));
    assert_eq!(status.controller_name, Some(site.names().to_string()));
    assert_eq!(status.stream, Some(format!("TIDINGS_{}_orders", site.tenant)));
    assert_eq!(status.url, Some(format!("https://push.example/channels/{}/orders/events", site.tenant)));
    assert!(status.epoch.is_some());
    // The first status of a generation says everything.
    for kind in ["Accepted", "Programmed", "Ready"] {
        let condition = current(&channel, kind).with_context(|| format!("no {kind}"))?;
        assert!(!condition.message.is_empty(), "{condition:?}");
    }

    // A newer generation.
    site.apply(&key, json!({ "history": { "maxMessages": 9 } })).await?;
    let channel = site.reason(&key, "Programmed", "Programmed").await;
    assert_eq!(channel.status.and_then(|status| status.served_generation), Some(2));
    assert_eq!(site.stream(&jetstream, &key).await.context("no stream")?.config.max_messages, 9);
    operator.ready().await;
    assert_eq!(site.nats.refusals(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_refused_change_keeps_what_was_served_and_says_so() -> Result<()> {
    let site = KubeSite::start().await?;
    let _operator = site.operator(&[]).await?;
    let key = site.key("orders");
    site.apply(&key, json!({})).await?;
    site.reason(&key, "Programmed", "Programmed").await;
    site.apply(&key, json!({ "subjects": ["bank.>"] })).await?;
    let channel = site.reason(&key, "Accepted", "SubjectNotGranted").await;
    assert_eq!(current(&channel, "Programmed").map(|one| one.reason.as_str()), Some("NotAccepted"));
    assert_eq!(current(&channel, "Ready").map(|one| one.reason.as_str()), Some("NotAccepted"));
    let status = channel.status.context("no status")?;
    assert_eq!((status.observed_generation, status.served_generation), (Some(2), Some(1)));
    assert_eq!(status.stream, Some(format!("TIDINGS_{}_orders", site.tenant)));
    assert_eq!(site.routed(&key).await.generation, 1);
    Ok(())
}

#[tokio::test]
async fn a_removed_channel_takes_its_route_and_leaves_its_stream() -> Result<()> {
    let site = KubeSite::start().await?;
    let _operator = site.operator(&[]).await?;
    let key = site.key("orders");
    site.apply(&key, json!({})).await?;
    site.reason(&key, "Programmed", "Programmed").await;
    let first = site.channel(&key).await?.context("no channel")?;
    assert_eq!(first.metadata.finalizers, None);
    site.delete(&key).await?;
    site.gone(&key).await;
    eventually(PATIENCE, "the route is marked", || async {
        site.route(&key).await.is_some_and(|route| route.state == RouteState::Removed)
    })
    .await;
    eventually(PATIENCE, "the route is gone", || async { site.route(&key).await.is_none() }).await;
    let jetstream = site.nats.jetstream().await;
    let stream = site.stream(&jetstream, &key).await.context("no stream")?;

    // A Channel of the same name goes on with it, says so, and has a status of its own.
    site.apply(&key, json!({})).await?;
    let second = site.reason(&key, "Programmed", "TookOver").await;
    assert_ne!(first.metadata.uid, second.metadata.uid);
    assert_eq!(site.stream(&jetstream, &key).await.context("no stream")?.created, stream.created);
    Ok(())
}

#[tokio::test]
async fn what_was_changed_behind_the_operator_s_back_is_set_right() -> Result<()> {
    let site = KubeSite::start().await?;
    let _operator = site.operator(&[]).await?;
    let key = site.key("orders");
    site.apply(&key, json!({ "history": { "maxMessages": 7 } })).await?;
    site.reason(&key, "Programmed", "Programmed").await;
    let (maps, name) = (site.maps(), site.names().route_object(&key));
    let jetstream = site.nats.jetstream().await;
    let whole = site.routed(&key).await;

    // The stream, changed.
    let mut config = site.stream(&jetstream, &key).await.context("no stream")?.config;
    config.max_messages = 1;
    jetstream.update_stream(config).await?;
    eventually(PATIENCE, "the stream is set right", || async {
        site.stream(&jetstream, &key).await.is_some_and(|info| info.config.max_messages == 7)
    })
    .await;
    let repaired = site.reason(&key, "Programmed", "StreamRepaired").await;
    let programmed = current(&repaired, "Programmed").context("no condition")?;
    assert_eq!(programmed.status, "True");
    assert!(programmed.message.contains("corrected: max_msgs"), "{}", programmed.message);
    // The stream, deleted: the new one has another epoch, and the status says which.
    let old = site.channel(&key).await?.and_then(|channel| channel.status?.epoch);
    jetstream.delete_stream(format!("TIDINGS_{}_orders", site.tenant)).await?;
    eventually(PATIENCE, "the stream is there again, and its epoch is known", || async {
        let status = site.channel(&key).await.ok()??.status?;
        status.epoch.filter(|epoch| Some(epoch) != old.as_ref())
    })
    .await;
    assert!(site.stream(&jetstream, &key).await.is_some());
    site.reason(&key, "Programmed", "StreamRecreated").await;
    let events: Api<Event> = Api::namespaced(site.client.clone(), &key.namespace);
    for reason in ["StreamRepaired", "StreamRecreated"] {
        let event = eventually(PATIENCE, reason, || async {
            let events = events.list(&ListParams::default()).await.ok()?;
            events.items.into_iter().find(|event| event.reason.as_deref() == Some(reason))
        })
        .await;
        assert_eq!(event.type_.as_deref(), Some("Warning"), "{reason}");
    }

    // The Route, edited; what others add stays.
    let edit =
        json!({ "data": { "route.yaml": "nonsense", "note": "theirs" }, "metadata": { "labels": { "theirs": "x" } } });
    maps.patch(&name, &PatchParams::default(), &Patch::Merge(edit)).await?;
    eventually(PATIENCE, "the route is set right", || async { site.route(&key).await.as_ref() == Some(&whole) }).await;
    let map = maps.get(&name).await?;
    assert_eq!(map.data.as_ref().and_then(|data| data.get("note")).map(String::as_str), Some("theirs"));
    assert!(map.metadata.labels.is_some_and(|labels| labels.contains_key("theirs")));
    // Stripped of its label.
    let strip = json!({ "metadata": { "labels": { "tidings.dev/release": null } } });
    maps.patch(&name, &PatchParams::default(), &Patch::Merge(strip)).await?;
    eventually(PATIENCE, "the label is back", || async {
        let labels = maps.get(&name).await.ok()?.metadata.labels?;
        labels.get("tidings.dev/release").cloned()
    })
    .await;
    // Deleted.
    maps.delete(&name, &DeleteParams::default()).await?;
    eventually(PATIENCE, "the route is back", || async { site.route(&key).await.as_ref() == Some(&whole) }).await;

    // The status, edited by hand; the conditions of others stay.
    let foreign = json!({
        "type": "example.com/Approved", "status": "True", "reason": "Yes", "message": "",
        "lastTransitionTime": "2026-11-01T00:00:00Z",
    });
    let edit = json!({
        "apiVersion": "tidings.dev/v1alpha1", "kind": "Channel",
        "status": { "epoch": "wrong", "conditions": [foreign] },
    });
    let channels = site.channels(site.tenant.name());
    let how = PatchParams::apply("approver").force();
    channels.patch_status("orders", &how, &Patch::Apply(edit)).await?;
    let set_right = eventually(PATIENCE, "the status is set right", || async {
        let status = site.channel(&key).await.ok()??.status?;
        (status.epoch.as_deref() != Some("wrong")).then_some(status)
    })
    .await;
    let kinds: Vec<&str> = set_right.conditions.iter().map(|condition| condition.type_.as_str()).collect();
    assert!(kinds.contains(&"example.com/Approved") && kinds.len() == 4, "{kinds:?}");
    Ok(())
}

#[tokio::test]
async fn routes_without_a_channel_are_swept_and_other_things_are_not() -> Result<()> {
    let site = KubeSite::start().await?;
    let mut operator = site.operator(&[]).await?;
    let (key, gone) = (site.key("orders"), site.key("gone"));
    site.apply(&key, json!({})).await?;
    site.apply(&gone, json!({})).await?;
    site.reason(&key, "Programmed", "Programmed").await;
    site.reason(&gone, "Programmed", "Programmed").await;
    operator.kill9();
    site.delete(&gone).await?;
    site.gone(&gone).await;
    let maps = site.maps();
    let label = json!({ "tidings.dev/release": "tidings" });
    for (name, labels) in
        [("tidings-route.other.shop.orders", label.clone()), ("somebody-s", label), ("plain", json!({}))]
    {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "labels": labels }, "data": { "a": "b" },
        });
        maps.patch(name, &PatchParams::apply("somebody"), &Patch::Apply(map)).await?;
    }
    operator.launch();
    eventually(PATIENCE, "the orphan is gone", || async { site.route(&gone).await.is_none() }).await;
    assert_eq!(site.routed(&key).await.state, RouteState::Active);
    for name in ["tidings-route.other.shop.orders", "somebody-s", "plain"] {
        assert!(maps.get_opt(name).await?.is_some(), "{name} was touched");
    }
    Ok(())
}

#[tokio::test]
async fn one_channel_that_cannot_be_decoded_stops_no_other() -> Result<()> {
    let site = KubeSite::start().await?;
    let mut operator = site.operator(&[]).await?;
    let (odd, good) = (site.key("odd"), site.key("good"));
    site.apply(&odd, json!({})).await?;
    let served = site.routed(&odd).await;
    site.reason(&odd, "Programmed", "Programmed").await;
    operator.kill9();
    // A value of a schema to come. The definition lets it pass for a moment, as after a rollback of Tidings.
    let kubectl = site.cluster.kubectl();
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/events/properties/from/enum/-";
    let add = json!([{ "op": "add", "path": path, "value": "Tomorrow" }]).to_string();
    kubectl.run(&["patch", "crd", "channels.tidings.dev", "--type=json", "-p", &add]).await?;
    // By kubectl, since nobody here can decode the answer.
    let patch = json!({ "spec": { "events": { "from": "Tomorrow" } } }).to_string();
    let change = ["patch", "-n", site.tenant.name(), "channels.tidings.dev", "odd", "--type=merge", "-p", &patch];
    eventually(PATIENCE, "the value passes", || kubectl.run(&change)).await;
    operator.launch();
    site.apply(&good, json!({})).await?;
    site.reason(&good, "Programmed", "Programmed").await;
    let told = eventually(PATIENCE, "the odd one is told why", || async {
        let raw = kubectl.run(&["get", "-n", site.tenant.name(), "tch", "odd", "-o", "json"]).await.ok()?;
        let raw: serde_json::Value = serde_json::from_str(&raw).ok()?;
        let conditions = raw.pointer("/status/conditions")?.as_array()?.clone();
        conditions.into_iter().find(|one| one["reason"] == "InvalidSpec")
    })
    .await;
    assert!(told["message"].as_str().is_some_and(|message| message.contains("spec.events.from")), "{told}");
    assert_eq!(site.routed(&odd).await, served);
    Ok(())
}
