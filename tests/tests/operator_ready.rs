//! `Ready` of a Channel, row by row of its rules, from a real API server's EndpointSlices and from what gateways say.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tidings_crds::beat::{ChannelBeat, Channels};
use tidings_crds::channel::Channel;
use tidings_tests::kube_site::{KubeSite, current};
use tidings_tests::wait::{PATIENCE, eventually};

/// What the rules wait for, and a machine with other work to do.
const LONG: Duration = Duration::from_secs(120);

/// The status, the message and the second of the last transition of `Ready`.
fn ready(channel: &Channel) -> (String, String, i64) {
    let condition = current(channel, "Ready").expect("the condition is there");
    (condition.status.clone(), condition.message.clone(), condition.last_transition_time.0.as_second())
}

fn now() -> i64 {
    k8s_openapi::jiff::Timestamp::now().as_second()
}

#[tokio::test]
async fn gateways_are_added_fall_behind_and_are_removed() -> Result<()> {
    let site = KubeSite::start().await?;
    let service = site.release.gateway_service().await?;
    let _operator = site.operator(&["--gateway-service", service]).await?;
    let key = site.key("orders");
    site.apply(&key, json!({})).await?;
    let channel = site.reason(&key, "Ready", "NoGateways").await;
    assert_eq!(ready(&channel).0, "False");

    // One that is ready and has not been heard of does not make it Ready.
    let (first, mut voice) = site.gateway().await?;
    let channel = site.reason(&key, "Ready", "Progressing").await;
    assert_eq!(ready(&channel).1, "0 of 1 gateways serve the current Route.");
    voice.follows().await?;
    let channel = site.reason(&key, "Ready", "Serving").await;
    let (status, _, since) = ready(&channel);
    assert_eq!(status, "True");

    // Another one does not pull it down, heard of or not.
    let (second, mut other) = site.gateway().await?;
    other.follows().await?;
    let counts = || async {
        voice.clone().follows().await.ok()?;
        other.clone().follows().await.ok()?;
        site.channel(&key).await.ok()??.status?.gateways.filter(|count| (count.serving, count.expected) == (2, 2))
    };
    eventually(LONG, "two gateways are counted", counts).await;
    let channel = site.reason(&key, "Ready", "Serving").await;
    assert_eq!(ready(&channel).2, since, "it was not Ready in between");

    // One stays behind with the newest Route; then with none at all.
    site.apply(&key, json!({ "events": { "heartbeatSeconds": 20 } })).await?;
    let channel = site.reason(&key, "Ready", "Progressing").await;
    assert_eq!(ready(&channel).0, "False");
    site.routed(&key).await;
    eventually(PATIENCE, "one of two follows", || async {
        voice.clone().follows().await.ok()?;
        let channel = site.channel(&key).await.ok()??;
        (ready(&channel).1 == "1 of 2 gateways serve the current Route.").then_some(())
    })
    .await;
    eventually(PATIENCE, "both follow", || async {
        other.clone().follows().await.ok()?;
        let channel = site.channel(&key).await.ok()??;
        current(&channel, "Ready").filter(|ready| ready.reason == "Serving").cloned()
    })
    .await;
    let nothing = Channels::from([(key.clone(), ChannelBeat { digest: None, subscribers: 0 })]);
    other.says(false, nothing).await?;
    site.reason(&key, "Ready", "Progressing").await;

    // The one that stays behind goes; then the other one.
    second.delete().await?;
    site.reason(&key, "Ready", "Serving").await;
    first.set_ready(false).await?;
    site.reason(&key, "Ready", "NoGateways").await;
    first.set_ready(true).await?;
    voice.follows().await?;
    site.reason(&key, "Ready", "Serving").await;
    assert_eq!(site.nats.refusals(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_falls_silent_makes_it_unknown_after_half_a_minute() -> Result<()> {
    let site = KubeSite::start().await?;
    let service = site.release.gateway_service().await?;
    let _operator = site.operator(&["--gateway-service", service]).await?;
    let key = site.key("orders");
    let (pod, mut voice) = site.gateway().await?;
    site.apply(&key, json!({})).await?;
    site.routed(&key).await;
    // Its beat may come before the operator has seen that the Route stands.
    eventually(PATIENCE, "it is Ready", || async {
        voice.clone().follows().await.ok()?;
        let channel = site.channel(&key).await.ok()??;
        current(&channel, "Ready").filter(|ready| ready.reason == "Serving").cloned()
    })
    .await;
    let last = now();
    voice.follows().await?;
    let channel = eventually(LONG, "it is silent", || async {
        let channel = site.channel(&key).await.ok()??;
        (current(&channel, "Ready")?.reason == "GatewaySilent").then_some(channel)
    })
    .await;
    let (status, message, since) = ready(&channel);
    assert_eq!(status, "Unknown");
    assert!(message.contains(pod.name()), "{message}");
    assert!(since - last >= 29, "after {} s already", since - last);
    voice.follows().await?;
    site.reason(&key, "Ready", "Serving").await;
    Ok(())
}

#[tokio::test]
async fn nats_being_away_is_told_after_half_a_minute_and_takes_nothing_back() -> Result<()> {
    let mut site = KubeSite::start().await?;
    let service = site.release.gateway_service().await?;
    let operator = site.operator(&["--gateway-service", service]).await?;
    let key = site.key("orders");
    let (_pod, voice) = site.gateway().await?;
    let following = voice.keep_following();
    site.apply(&key, json!({})).await?;
    site.reason(&key, "Ready", "Serving").await;
    let away = now();
    site.nats.terminate(0).await;
    let channel = eventually(LONG, "NATS is away", || async {
        let channel = site.channel(&key).await.ok()??;
        (current(&channel, "Ready")?.reason == "BrokerUnreachable").then_some(channel)
    })
    .await;
    let (status, _, since) = ready(&channel);
    assert_eq!(status, "Unknown");
    assert!(since - away >= 29, "after {} s already", since - away);
    assert_eq!(current(&channel, "Programmed").map(|one| one.reason.as_str()), Some("Programmed"));

    // A Channel that comes meanwhile is told at once, and refused at once where it should be.
    let (late, bad) = (site.key("late"), site.key("bad"));
    site.apply(&late, json!({})).await?;
    let channel = site.reason(&late, "Programmed", "BrokerUnreachable").await;
    assert_eq!(current(&channel, "Accepted").map(|one| one.status.as_str()), Some("True"));
    site.apply(&bad, json!({ "subjects": ["bank.>"] })).await?;
    site.reason(&bad, "Accepted", "SubjectNotGranted").await;
    assert_eq!(operator.readiness().await.0, 503);

    site.nats.launch(0);
    site.nats.ready().await;
    site.reason(&key, "Ready", "Serving").await;
    site.reason(&late, "Ready", "Serving").await;
    following.abort();
    Ok(())
}

#[tokio::test]
async fn without_a_service_those_gateways_count_that_are_heard_of() -> Result<()> {
    let site = KubeSite::start().await?;
    let _operator = site.operator(&[]).await?;
    let key = site.key("orders");
    site.apply(&key, json!({})).await?;
    let channel = site.reason(&key, "Ready", "Progressing").await;
    assert_eq!(ready(&channel).1, "0 of 0 gateways serve the current Route.");
    // One interval of beats later it is known that there is none.
    site.reason(&key, "Ready", "NoGateways").await;
    let (_pod, voice) = site.gateway().await?;
    let mut last = voice.clone();
    let following = voice.keep_following();
    site.reason(&key, "Ready", "Serving").await;
    following.abort();
    last.follows().await?;
    // Silence is the end of it: nobody else says that it should be there.
    eventually(LONG, "it is no longer counted", || async {
        let channel = site.channel(&key).await.ok()??;
        (current(&channel, "Ready")?.reason == "NoGateways").then_some(())
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_restarted_operator_changes_no_status_before_it_has_listened() -> Result<()> {
    let site = KubeSite::start().await?;
    let service = site.release.gateway_service().await?;
    let mut operator = site.operator(&["--gateway-service", service]).await?;
    let key = site.key("orders");
    let (_pod, mut voice) = site.gateway().await?;
    site.apply(&key, json!({})).await?;
    site.routed(&key).await;
    eventually(PATIENCE, "it is Ready", || async {
        voice.clone().follows().await.ok()?;
        let channel = site.channel(&key).await.ok()??;
        current(&channel, "Ready").filter(|ready| ready.reason == "Serving").cloned()
    })
    .await;
    let before = site.channel(&key).await?.context("no channel")?;
    operator.kill9();
    operator.launch();
    operator.ready().await;
    operator.leads().await;
    // The only gateway beats again some seconds later: the metric tells when the operator has heard it.
    eventually(PATIENCE, "the operator has heard it", || async {
        voice.clone().follows().await.is_ok() && operator.metric("tidings_operator_gateways").await == 2.0
    })
    .await;
    let after = site.channel(&key).await?.context("no channel")?;
    assert_eq!(before.metadata.resource_version, after.metadata.resource_version);
    voice.follows().await?;
    Ok(())
}
