//! A Channel from its creation to its end: killed operators in between, reclaim policies, the ways out, and the definition.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;
use tidings_crds::beat::{ChannelBeat, Channels};
use tidings_crds::definition::{CRD_NAME, REVISION, REVISION_ANNOTATION};
use tidings_crds::key::ChannelKey;
use tidings_crds::route::RouteState;
use tidings_tests::control_plane::ControlPlane;
use tidings_tests::kube_site::{KubeSite, current};
use tidings_tests::operator::BINARY;
use tidings_tests::process::Program;
use tidings_tests::wait::{PATIENCE, eventually};

const FAILPOINT: &str = "TIDINGS_FAILPOINT";

/// A stream of somebody else, in the very place of a Channel's.
async fn foreign_stream(site: &KubeSite, key: &ChannelKey) -> Result<()> {
    let config = async_nats::jetstream::stream::Config {
        name: format!("TIDINGS_{}_{}", key.namespace, key.name),
        subjects: vec!["somebody.else".into()],
        ..Default::default()
    };
    site.nats.jetstream().await.create_stream(config).await?;
    Ok(())
}

#[tokio::test]
async fn killed_after_any_step_the_next_operator_finishes() -> Result<()> {
    let site = KubeSite::start().await?;
    let mut operator = site.operator(&[]).await?;
    let jetstream = site.nats.jetstream().await;
    let foreign = site.key("foreign");
    foreign_stream(&site, &foreign).await?;
    site.apply(&foreign, json!({ "history": { "reclaimPolicy": "Delete" } })).await?;
    site.reason(&foreign, "Programmed", "ForeignStream").await;
    let theirs = site.stream(&jetstream, &foreign).await.context("no stream")?;
    let spec = json!({ "history": { "reclaimPolicy": "Delete", "maxMessages": 7 } });

    for point in ["stream-applied", "route-applied", "finalizer-set", "status-written"] {
        operator.kill9();
        operator.launch_with(FAILPOINT, point);
        let key = site.key(&format!("made-{point}"));
        site.apply(&key, spec.clone()).await?;
        let status = operator.process().exited().await;
        assert!(!status.success(), "{point}: {status}");
        operator.launch();
        site.reason(&key, "Programmed", "Programmed").await;
        let channel = eventually(PATIENCE, "the finalizer is set", || async {
            let channel = site.channel(&key).await.ok()??;
            channel.metadata.finalizers.as_ref().is_some_and(|all| all == &["tidings.dev/stream"]).then_some(channel)
        })
        .await;
        assert!(current(&channel, "Ready").is_some());
        let stream = site.stream(&jetstream, &key).await.with_context(|| format!("{point}: no stream"))?;
        assert_eq!(stream.config.max_messages, 7, "{point}");
        assert_eq!(site.routed(&key).await.generation, 1, "{point}");
    }
    for point in ["route-removed", "stream-deleted", "finalizer-removed"] {
        let key = site.key(&format!("unmade-{point}"));
        site.apply(&key, spec.clone()).await?;
        eventually(PATIENCE, "the finalizer is set", || async {
            site.channel(&key).await.ok()??.metadata.finalizers.filter(|all| !all.is_empty())
        })
        .await;
        jetstream.publish(format!("tidings.{}.{}", key.namespace, key.name), "event".into()).await?.await?;
        operator.kill9();
        operator.launch_with(FAILPOINT, point);
        site.delete(&key).await?;
        let status = operator.process().exited().await;
        assert!(!status.success(), "{point}: {status}");
        operator.launch();
        site.gone(&key).await;
        eventually(PATIENCE, "the stream is gone", || async { site.stream(&jetstream, &key).await.is_none() }).await;
        eventually(PATIENCE, "the route is not in force", || async {
            site.route(&key).await.is_none_or(|route| route.state == RouteState::Removed)
        })
        .await;
    }
    // Nothing is left over, and nothing of others was touched.
    for point in ["route-removed", "stream-deleted", "finalizer-removed"] {
        let key = site.key(&format!("unmade-{point}"));
        eventually(PATIENCE, "the route is gone", || async { site.route(&key).await.is_none() }).await;
    }
    let after = site.stream(&jetstream, &foreign).await.context("no stream")?;
    assert_eq!((after.created, after.config), (theirs.created, theirs.config));
    assert_eq!(site.nats.refusals(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_subject_is_stored_when_every_gateway_has_the_route_wherever_the_operator_is_killed() -> Result<()> {
    let site = KubeSite::start().await?;
    let service = site.release.gateway_service().await?;
    let mut operator = site.operator(&["--gateway-service", service]).await?;
    let (_pod, mut voice) = site.gateway().await?;
    let (key, jetstream) = (site.key("orders"), site.nats.jetstream().await);
    let subject = |name: &str| format!("tidings.{}.orders.{name}.>", key.namespace);
    let stored = || async { site.stream(&jetstream, &key).await.map(|stream| stream.config.subjects) };
    site.apply(&key, json!({ "subjects": [subject("a")] })).await?;
    site.reason(&key, "Programmed", "Programmed").await;
    voice.follows().await?;

    // One is added and one is removed, and whoever does it dies after every step.
    site.apply(&key, json!({ "subjects": [subject("a"), subject("b")] })).await?;
    eventually(PATIENCE, "the new subject is stored", || async {
        voice.clone().follows().await.ok()?;
        stored().await.filter(|all| all.contains(&subject("b")))
    })
    .await;
    operator.kill9();
    site.apply(&key, json!({ "subjects": [subject("b"), subject("c")] })).await?;
    for point in ["stream-applied", "route-applied", "status-written"] {
        operator.launch_with(FAILPOINT, point);
        let status = operator.process().exited().await;
        assert!(!status.success(), "{point}: {status}");
        assert_eq!(stored().await, Some(vec![subject("b")]), "{point}");
    }
    assert_eq!(site.routed(&key).await.generation, 3);
    operator.launch();
    let channel = site.reason(&key, "Programmed", "Pending").await;
    let programmed = current(&channel, "Programmed").context("no condition")?;
    assert_eq!(programmed.status, "Unknown");
    assert!(programmed.message.contains(&subject("c")), "{}", programmed.message);
    assert!(programmed.message.contains("at most 60 s"), "{}", programmed.message);
    // The gateway lives, and says that it has the Route from before.
    let old = Channels::from([(key.clone(), ChannelBeat { digest: Some("0123456789abcdef".into()), subscribers: 1 })]);
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(15) {
        voice.says(true, old.clone()).await?;
        assert_eq!(stored().await, Some(vec![subject("b")]));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    voice.follows().await?;
    site.reason(&key, "Programmed", "Programmed").await;
    assert_eq!(stored().await, Some(vec![subject("b"), subject("c")]));
    Ok(())
}

#[tokio::test]
async fn a_channel_that_keeps_its_stream_goes_at_once_even_without_an_operator() -> Result<()> {
    let site = KubeSite::start().await?;
    let mut operator = site.operator(&[]).await?;
    let (key, changed) = (site.key("orders"), site.key("changed"));
    site.apply(&key, json!({})).await?;
    site.reason(&key, "Programmed", "Programmed").await;
    // One that was to be deleted, and is to be kept after all, is let go of.
    site.apply(&changed, json!({ "history": { "reclaimPolicy": "Delete" } })).await?;
    eventually(PATIENCE, "the finalizer is set", || async {
        site.channel(&changed).await.ok()??.metadata.finalizers.filter(|all| !all.is_empty())
    })
    .await;
    site.apply(&changed, json!({ "history": { "reclaimPolicy": "Retain" } })).await?;
    eventually(PATIENCE, "the finalizer is gone", || async {
        site.channel(&changed).await.is_ok_and(|channel| {
            channel.is_some_and(|channel| channel.metadata.finalizers.is_none_or(|all| all.is_empty()))
        })
    })
    .await;
    operator.kill9();
    for key in [&key, &changed] {
        site.delete(key).await?;
        assert!(site.channel(key).await?.is_none(), "{key} is still there");
    }
    operator.launch();
    eventually(PATIENCE, "the routes are gone", || async {
        site.route(&key).await.is_none() && site.route(&changed).await.is_none()
    })
    .await;
    let jetstream = site.nats.jetstream().await;
    assert!(site.stream(&jetstream, &key).await.is_some() && site.stream(&jetstream, &changed).await.is_some());
    Ok(())
}

#[tokio::test]
async fn a_deletion_waits_for_nats_says_so_and_has_a_way_out() -> Result<()> {
    let mut site = KubeSite::start().await?;
    let _operator = site.operator(&[]).await?;
    let other = site.cluster.namespace("ending").await?;
    let (waits, abandoned) = (site.key("waits"), site.key("abandoned"));
    let ending = ChannelKey::new(other.name(), "ending");
    let jetstream = site.nats.jetstream().await;
    for key in [&waits, &abandoned, &ending] {
        site.apply(key, json!({ "history": { "reclaimPolicy": "Delete" } })).await?;
        eventually(PATIENCE, "the finalizer is set", || async {
            site.channel(key).await.ok()??.metadata.finalizers.filter(|all| !all.is_empty())
        })
        .await;
        jetstream.publish(format!("tidings.{}.{}", key.namespace, key.name), "event".into()).await?.await?;
    }
    site.nats.terminate(0).await;
    site.delete(&waits).await?;
    site.delete(&abandoned).await?;
    let namespaces: Api<Namespace> = Api::all(site.client.clone());
    namespaces.delete(other.name(), &DeleteParams::default()).await?;
    for key in [&waits, &abandoned, &ending] {
        let channel = site.reason(key, "Ready", "Deleting").await;
        let ready = current(&channel, "Ready").context("no condition")?;
        assert_eq!(ready.status, "False");
        assert!(ready.message.contains("NATS cannot be reached"), "{}", ready.message);
        assert!(ready.message.contains("tidings.dev/abandon-stream"), "{}", ready.message);
    }
    let annotate = json!({ "metadata": { "annotations": { "tidings.dev/abandon-stream": "true" } } });
    let channels = site.channels(site.tenant.name());
    channels.patch("abandoned", &PatchParams::default(), &Patch::Merge(annotate)).await?;
    site.gone(&abandoned).await;
    site.nats.launch(0);
    site.nats.ready().await;
    site.gone(&waits).await;
    site.gone(&ending).await;
    eventually(PATIENCE, "the namespace is gone", || async {
        matches!(namespaces.get_opt(other.name()).await, Ok(None))
    })
    .await;
    for key in [&waits, &ending] {
        eventually(PATIENCE, "the stream is gone", || async { site.stream(&jetstream, key).await.is_none() }).await;
    }
    assert!(site.stream(&jetstream, &abandoned).await.is_some(), "the abandoned stream is kept");
    Ok(())
}

#[tokio::test]
async fn a_channel_made_again_never_has_its_predecessor_s_status() -> Result<()> {
    use futures_util::TryStreamExt;
    use kube::runtime::{WatchStreamExt, watcher};
    let site = KubeSite::start().await?;
    let _operator = site.operator(&[]).await?;
    let key = site.key("orders");
    // Every state that the API server ever tells of.
    let (told, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let channels = site.channels(&key.namespace);
    let watching = tokio::spawn(async move {
        let mut states = std::pin::pin!(watcher(channels, watcher::Config::default()).touched_objects());
        while let Ok(Some(channel)) = states.try_next().await {
            let _ = told.send(channel);
        }
    });
    for round in 0..10 {
        // Its generation counts up to 3, and each spec is different: a status of the wrong one would show.
        for change in 0..3 {
            site.apply(&key, json!({ "history": { "maxMessages": 1000 + round * 10 + change } })).await?;
        }
        if round % 2 == 0 {
            // Either reason: whether it is said that the stream was taken over depends on which generation is seen first.
            eventually(PATIENCE, "the Channel is programmed", || async {
                let channel = site.channel(&key).await.ok()??;
                (current(&channel, "Programmed")?.status == "True").then_some(())
            })
            .await;
        }
        site.delete(&key).await?;
    }
    site.apply(&key, json!({ "history": { "maxMessages": 5 } })).await?;
    let last = site.reason(&key, "Programmed", "TookOver").await;
    let mut statuses = 0;
    while let Some(channel) = seen.recv().await {
        let (generation, status) = (channel.metadata.generation, channel.status.unwrap_or_default());
        assert!(status.observed_generation <= generation, "{generation:?}: {status:?}");
        for condition in &status.conditions {
            assert!(condition.observed_generation <= generation, "{generation:?}: {condition:?}");
        }
        statuses += usize::from(!status.conditions.is_empty());
        if channel.metadata.resource_version == last.metadata.resource_version {
            break;
        }
    }
    watching.abort();
    assert!(statuses > 5, "{statuses}");
    Ok(())
}

#[tokio::test]
async fn a_deleted_definition_keeps_every_stream() -> Result<()> {
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start().await?));
    let site = KubeSite::start_in(plane.cluster()).await?;
    let operator = site.operator(&[]).await?;
    let key = site.key("orders");
    site.apply(&key, json!({ "history": { "reclaimPolicy": "Delete" } })).await?;
    eventually(PATIENCE, "the finalizer is set", || async {
        site.channel(&key).await.ok()??.metadata.finalizers.filter(|all| !all.is_empty())
    })
    .await;
    let jetstream = site.nats.jetstream().await;
    jetstream.publish(format!("tidings.{}.orders", site.tenant), "event".into()).await?.await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(site.client.clone());
    definitions.delete(CRD_NAME, &DeleteParams::default()).await?;
    eventually(PATIENCE, "the definition is gone", || async {
        matches!(definitions.get_opt(CRD_NAME).await, Ok(None))
    })
    .await;
    eventually(PATIENCE, "the operator says so", || async { operator.readiness().await.1.contains("not installed") })
        .await;
    assert!(site.stream(&jetstream, &key).await.is_some());

    // It comes back through the operator's own command, and the Channel goes on with its stream.
    let kubeconfig = site.cluster.kubeconfig().to_str().context("a path")?;
    let crd = |command: &str| Program::built(BINARY).env("KUBECONFIG", kubeconfig).args(["crd", command]);
    let (status, said) = crd("apply").run().await;
    assert!(status.success() && said.contains("created"), "{said}");
    let (status, said) = crd("apply").run().await;
    assert!(status.success() && said.contains("left as it is"), "{said}");
    eventually(PATIENCE, "Channels can be applied", || site.apply(&key, json!({}))).await;
    site.reason(&key, "Programmed", "TookOver").await;
    operator.ready().await;

    // Forward only; and an operator whose definition is too old is not ready, but works.
    let set = |revision: String| json!({ "metadata": { "annotations": { REVISION_ANNOTATION: revision } } });
    let patch = |revision: u32| Patch::Merge(set(revision.to_string()));
    definitions.patch(CRD_NAME, &PatchParams::default(), &patch(REVISION + 1)).await?;
    let (status, said) = crd("apply").run().await;
    assert!(status.success() && said.contains("left as it is"), "{said}");
    definitions.patch(CRD_NAME, &PatchParams::default(), &patch(0)).await?;
    let mut operator = operator;
    operator.kill9();
    operator.launch();
    eventually(PATIENCE, "the operator says so", || async { operator.readiness().await.1.contains("has revision 0") })
        .await;
    let other = site.key("other");
    site.apply(&other, json!({})).await?;
    site.reason(&other, "Programmed", "Programmed").await;
    let (status, said) = crd("apply").run().await;
    assert!(status.success() && said.contains("updated from schema revision 0"), "{said}");
    operator.ready().await;
    Ok(())
}
