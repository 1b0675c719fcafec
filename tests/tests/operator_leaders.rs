//! Several operators of one release: one leads, and none writes when it should not.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use serde_json::json;
use tidings_tests::cable::Cable;
use tidings_tests::kube_site::{KubeOperator, KubeSite};
use tidings_tests::wait::{PATIENCE, eventually};

/// Three leases of the operators under test.
const THREE_LEASES: Duration = Duration::from_secs(9);

fn api_server(site: &KubeSite) -> Result<SocketAddr> {
    let config = kube::config::Kubeconfig::read_from(site.cluster.kubeconfig())?;
    let server = config.clusters.iter().find_map(|named| named.cluster.as_ref()?.server.clone());
    let server = server.context("no server")?;
    Ok(server.trim_start_matches("https://").parse()?)
}

/// Everything that an operator has written so far, to NATS and to the API server.
async fn written(operator: &KubeOperator) -> f64 {
    let names = ["stream_writes_total", "route_writes_total", "status_writes_total", "events_total"];
    let mut sum = 0.0;
    for name in names {
        sum += operator.metric(&format!("tidings_operator_{name}")).await;
    }
    sum
}

#[tokio::test]
async fn a_leader_that_is_cut_off_writes_nothing_and_another_one_goes_on() -> Result<()> {
    let site = KubeSite::start().await?;
    if site.cluster.is_given() {
        return Ok(());
    }
    let cable = Cable::to(api_server(&site)?).await;
    let first = site.operator_on_cable(cable.address(), &[]).await?;
    first.leads().await;
    let second = site.operator(&[]).await?;
    second.ready().await;
    let key = site.key("orders");
    site.apply(&key, json!({ "history": { "maxMessages": 7 } })).await?;
    site.reason(&key, "Programmed", "Programmed").await;
    assert_eq!((first.metric("tidings_operator_leading").await, written(&second).await), (1.0, 0.0));

    // Its connections stay open, and nobody answers: the worst way to be cut off. NATS it can reach all the time.
    cable.silence();
    second.leads().await;
    assert_eq!(first.metric("tidings_operator_leading").await, 0.0, "never two at a time");
    let before = written(&first).await;
    let jetstream = site.nats.jetstream().await;
    let begun = tokio::time::Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < THREE_LEASES {
        // Something to set right for whoever believes to lead.
        let mut config = site.stream(&jetstream, &key).await.context("no stream")?.config;
        config.max_messages = 100 + rounds;
        rounds += 1;
        jetstream.update_stream(config).await?;
        eventually(PATIENCE, "the second sets it right", || async {
            site.stream(&jetstream, &key).await.is_some_and(|info| info.config.max_messages == 7)
        })
        .await;
    }
    site.apply(&key, json!({ "history": { "maxMessages": 8 } })).await?;
    site.reason(&key, "Programmed", "Programmed").await;
    assert_eq!(written(&first).await, before);

    // It comes back, follows, and takes over when it is its turn.
    cable.mend();
    first.ready().await;
    let mut second = second;
    second.kill9();
    first.leads().await;
    site.apply(&key, json!({ "history": { "maxMessages": 9 } })).await?;
    site.reason(&key, "Programmed", "Programmed").await;
    let stream = site.stream(&jetstream, &key).await.context("no stream")?;
    assert_eq!(stream.config.max_messages, 9);
    Ok(())
}

#[tokio::test]
async fn a_leader_that_ends_in_order_hands_over_at_once() -> Result<()> {
    let site = KubeSite::start().await?;
    let long = ["--lease-seconds", "300"];
    let mut first = site.operator(&long).await?;
    first.leads().await;
    let second = site.operator(&long).await?;
    second.ready().await;
    first.terminate().await;
    second.leads().await;
    let key = site.key("orders");
    site.apply(&key, json!({})).await?;
    site.reason(&key, "Programmed", "Programmed").await;
    Ok(())
}

#[tokio::test]
async fn two_that_act_at_once_change_each_stream_once() -> Result<()> {
    let site = KubeSite::start().await?;
    let other = KubeSite::start().await?;
    // Two releases that take each other for themselves: one NATS, one cluster id, one class. Both lead.
    let nats = site.nats.url_of("operator");
    let both = ["--cluster-id", "same", "--class-name", site.class(), "--nats", &nats];
    let (first, second) = (site.operator(&both).await?, other.operator(&both).await?);
    first.leads().await;
    second.leads().await;
    first.ready().await;
    second.ready().await;
    let client = site.nats.client().await;
    let mut advisories = client.subscribe("$JS.EVENT.ADVISORY.STREAM.*.>").await?;
    client.flush().await?;
    let keys: Vec<_> = (0..20).map(|number| site.key(&format!("c{number}"))).collect();
    for key in &keys {
        site.apply(key, json!({})).await?;
    }
    for key in &keys {
        site.reason(key, "Programmed", "Programmed").await;
    }
    // Each Channel is one release's, and the other one has taken its Route back.
    for key in &keys {
        let channel = site.channel(key).await?.context("no channel")?;
        let owner = channel.status.and_then(|status| status.controller_name).context("nobody claims it")?;
        let loser = if owner == site.names().to_string() { &other } else { &site };
        eventually(PATIENCE, "the other release serves it no longer", || async {
            loser.route(key).await.is_none_or(|route| route.state == tidings_crds::route::RouteState::Removed)
        })
        .await;
    }
    let jetstream = site.nats.jetstream().await;
    jetstream.delete_stream(format!("TIDINGS_{}_c0", site.tenant)).await?;
    let mut seen = Vec::new();
    // Its own deletion is the last thing that is told of what was before.
    while let Some(advisory) = advisories.next().await {
        let subject = advisory.subject.to_string();
        let end = subject.contains("DELETED");
        seen.push(subject);
        if end {
            break;
        }
    }
    let created = seen.iter().filter(|subject| subject.contains(".CREATED.")).count();
    let updated: Vec<_> = seen.iter().filter(|subject| subject.contains(".UPDATED.")).collect();
    assert_eq!((created, updated), (20, vec![]), "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn an_operator_that_starts_without_an_api_server_waits_for_it_and_catches_up() -> Result<()> {
    let site = KubeSite::start().await?;
    if site.cluster.is_given() {
        return Ok(());
    }
    let cable = Cable::to(api_server(&site)?).await;
    let mut operator = site.operator_on_cable(cable.address(), &[]).await?;
    let (key, gone) = (site.key("orders"), site.key("gone"));
    for key in [&key, &gone] {
        site.apply(key, json!({ "history": { "maxMessages": 7 } })).await?;
        site.reason(key, "Programmed", "Programmed").await;
    }
    cable.cut();
    operator.kill9();
    operator.launch();
    // Changes that nobody can tell it, and a stream that it could reach.
    site.apply(&key, json!({ "history": { "maxMessages": 8 } })).await?;
    site.delete(&gone).await?;
    site.gone(&gone).await;
    eventually(PATIENCE, "it tries", || async { operator.metric("tidings_operator_errors_total").await > 5.0 }).await;
    assert_eq!(operator.readiness().await.0, 503);
    assert_eq!(site.routed(&gone).await.generation, 1, "what cannot be read is not deleted");
    cable.mend();
    site.reason(&key, "Programmed", "Programmed").await;
    eventually(PATIENCE, "the route of the other one is marked", || async {
        site.route(&gone).await.is_none_or(|route| route.state == tidings_crds::route::RouteState::Removed)
    })
    .await;
    operator.ready().await;
    let jetstream = site.nats.jetstream().await;
    assert_eq!(site.stream(&jetstream, &key).await.context("no stream")?.config.max_messages, 8);
    Ok(())
}
