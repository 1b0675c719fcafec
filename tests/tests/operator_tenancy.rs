//! Who may have what: subjects of others, Routes of others, Channels of other installations.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;
use tidings_crds::key::ChannelKey;
use tidings_crds::route::{Route, RouteState};
use tidings_tests::kube_site::{KubeSite, current};
use tidings_tests::wait::{PATIENCE, eventually};

fn settings(grants: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), format!("subjectGrants:\n{grants}")).expect("the file can be written");
    file
}

#[tokio::test]
async fn a_namespace_cannot_reach_the_subjects_of_another_by_any_road() -> Result<()> {
    let site = KubeSite::start().await?;
    let b = site.cluster.namespace("b").await?;
    let a = site.tenant.name().to_owned();
    let config = settings(&format!(
        "- namespaces: [{a}]\n  subjects: [orders.>]\n- namespaces: [{b}]\n  subjects: [orders.eu.>, parcels.*.new]\n"
    ));
    let path = config.path().to_str().context("a path")?.to_owned();
    let mut operator = site.operator(&["--config", &path]).await?;
    let own = site.key("own");
    site.apply(&own, json!({})).await?;
    let granted = site.key("granted");
    site.apply(&granted, json!({ "subjects": ["orders.>"] })).await?;
    for key in [&own, &granted] {
        site.reason(key, "Programmed", "Programmed").await;
    }

    let roads = [
        ("explicit", format!("tidings.{a}.own"), "SubjectNotGranted"),
        ("below", format!("tidings.{a}.own.>"), "SubjectNotGranted"),
        ("namespace", format!("tidings.{a}.>"), "SubjectNotGranted"),
        ("everybody", "tidings.>".to_owned(), "SubjectNotGranted"),
        ("middle", "tidings.*.own".to_owned(), "SubjectNotGranted"),
        ("not-granted", "orders.new".to_owned(), "SubjectNotGranted"),
        ("wider", "orders.*.new".to_owned(), "SubjectNotGranted"),
        ("wider-still", "parcels.>".to_owned(), "SubjectNotGranted"),
        ("overlap", "orders.eu.new".to_owned(), "SubjectConflict"),
        ("all", ">".to_owned(), ""),
        ("first", format!("*.{a}.own"), ""),
        ("live", format!("tidings-live.TIDINGS_{a}_own.>"), ""),
        ("system", "$JS.API.>".to_owned(), ""),
        ("inbox", "_INBOX.>".to_owned(), ""),
        ("odd", format!("tidings.{a}.own\u{200b}"), ""),
        ("spaces", format!("tidings.{a}.own "), ""),
    ];
    for (name, subject, reason) in &roads {
        let key = ChannelKey::new(b.name(), *name);
        let applied = site.apply(&key, json!({ "subjects": [subject] })).await;
        let Ok(_) = applied else {
            // The API server itself refuses what no grant could ever allow, and says why.
            let refusal = format!("{:#}", applied.expect_err("it was refused"));
            assert!(refusal.contains("spec.subjects"), "{name}: {refusal}");
            continue;
        };
        let channel = eventually(PATIENCE, &format!("{name} is refused"), || async {
            let channel = site.channel(&key).await.ok()??;
            (current(&channel, "Accepted")?.status == "False").then_some(channel)
        })
        .await;
        let accepted = current(&channel, "Accepted").context("no condition")?;
        assert!(reason.is_empty() || accepted.reason == *reason, "{name}: {accepted:?}");
        assert!(!accepted.message.is_empty());
        assert!(site.route(&key).await.is_none(), "{name} has a route");
        let jetstream = site.nats.jetstream().await;
        assert!(site.stream(&jetstream, &key).await.is_none(), "{name} has a stream");
    }

    // A withdrawn grant withdraws the Route; the stream and its events stay.
    let jetstream = site.nats.jetstream().await;
    std::fs::write(config.path(), "subjectGrants: []\n")?;
    operator.kill9();
    operator.launch();
    site.reason(&granted, "Accepted", "SubjectNotGranted").await;
    eventually(PATIENCE, "the route is withdrawn", || async {
        site.route(&granted).await.is_some_and(|route| route.state == RouteState::Removed)
    })
    .await;
    assert!(site.stream(&jetstream, &granted).await.is_some());
    assert_eq!(site.routed(&own).await.state, RouteState::Active);
    Ok(())
}

#[tokio::test]
async fn a_tenant_cannot_forge_a_route() -> Result<()> {
    let site = KubeSite::start().await?;
    let _operator = site.operator(&[]).await?;
    let key = site.key("orders");
    site.apply(&key, json!({})).await?;
    let route = site.routed(&key).await;
    let (kubectl, tenant) = (site.cluster.kubectl(), site.tenant.name());
    kubectl.run(&["create", "-n", tenant, "serviceaccount", "editor"]).await?;
    let subject = format!("--serviceaccount={tenant}:editor");
    kubectl.run(&["create", "-n", tenant, "rolebinding", "editor", "--clusterrole=edit", &subject]).await?;
    let editor = site.cluster.client_for(tenant, "editor").await?;
    let name = site.names().route_object(&ChannelKey::new(tenant, "forged"));
    let forged = Route { name: "forged".into(), ..route.clone() };
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "tidings.dev/release": "tidings" } },
        "data": { "route.yaml": forged.to_yaml() },
    }))?;
    let there: Api<ConfigMap> = Api::namespaced(editor.clone(), site.release.namespace());
    let error = there.create(&PostParams::default(), &map).await.expect_err("a tenant may not write Routes");
    assert!(matches!(&error, kube::Error::Api(status) if status.code == 403), "{error:?}");
    // In its own namespace it may, and nobody looks there.
    let here: Api<ConfigMap> = Api::namespaced(editor, tenant);
    let create = PostParams::default();
    eventually(PATIENCE, "the role is known", || here.create(&create, &map)).await;
    site.apply(&key, json!({ "events": { "heartbeatSeconds": 20 } })).await?;
    site.reason(&key, "Programmed", "Programmed").await;
    assert!(here.get_opt(&name).await?.is_some(), "what is a tenant's own was touched");
    Ok(())
}

#[tokio::test]
async fn two_installations_leave_each_other_s_channels_alone() -> Result<()> {
    let (one, two) = (KubeSite::start().await?, KubeSite::start().await?);
    let (first, second) = (one.operator(&[]).await?, two.operator(&[]).await?);
    let (ours, theirs) = (one.key("ours"), one.key("theirs"));
    one.apply(&ours, json!({})).await?;
    one.apply(&theirs, json!({ "className": two.class() })).await?;
    let channel = one.reason(&ours, "Programmed", "Programmed").await;
    assert_eq!(channel.status.context("no status")?.controller_name, Some(one.names().to_string()));
    let channel = one.reason(&theirs, "Programmed", "Programmed").await;
    assert_eq!(channel.status.context("no status")?.controller_name, Some(two.names().to_string()));
    let (jet_one, jet_two) = (one.nats.jetstream().await, two.nats.jetstream().await);
    assert!(one.stream(&jet_one, &theirs).await.is_none() && one.stream(&jet_two, &ours).await.is_none());
    assert!(two.route(&theirs).await.is_some() && two.route(&ours).await.is_none());
    assert!(one.route(&ours).await.is_some() && one.route(&theirs).await.is_none());
    drop((first, second));

    // One of the same class: the claim decides, and the other one says that it stays away.
    let rival = two.operator(&["--class-name", one.class()]).await?;
    rival.ready().await;
    rival.leads().await;
    let events: Api<Event> = Api::namespaced(one.client.clone(), one.tenant.name());
    eventually(PATIENCE, "the rival says that it stays away", || async {
        let events = events.list(&ListParams::default()).await.ok()?;
        let about = events.iter().find(|event| event.reason.as_deref() == Some("ForeignController"))?;
        (about.regarding.as_ref()?.name.as_deref() == Some("ours")).then_some(())
    })
    .await;
    let channel = one.channel(&ours).await?.context("no channel")?;
    assert_eq!(channel.status.context("no status")?.controller_name, Some(one.names().to_string()));
    assert!(two.route(&ours).await.is_none());
    Ok(())
}

#[tokio::test]
async fn only_the_namespaces_that_are_watched_are_served() -> Result<()> {
    let site = KubeSite::start().await?;
    let (other, third) = (site.cluster.namespace("other").await?, site.cluster.namespace("third").await?);
    let watched = format!("{},{}", site.tenant.name(), third.name());
    let mut all = site.operator(&[]).await?;
    let elsewhere = ChannelKey::new(other.name(), "elsewhere");
    site.apply(&elsewhere, json!({})).await?;
    site.reason(&elsewhere, "Programmed", "Programmed").await;
    all.kill9();
    let _operator = site.operator(&["--watch-namespaces", &watched]).await?;
    let (here, there) = (site.key("here"), ChannelKey::new(third.name(), "there"));
    let late = ChannelKey::new(other.name(), "late");
    for key in [&late, &here, &there] {
        site.apply(key, json!({})).await?;
    }
    site.reason(&here, "Programmed", "Programmed").await;
    site.reason(&there, "Programmed", "Programmed").await;
    assert_eq!(site.channel(&late).await?.context("no channel")?.status, None);
    // What is not seen is not known to be gone.
    assert_eq!(site.routed(&elsewhere).await.state, RouteState::Active);
    Ok(())
}
