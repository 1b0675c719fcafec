//! Many Channels: what they cost the API server, and that an idle operator costs it nothing but its Lease.
//!
//! 150 Channels and short spans by default. `TIDINGS_SCALE_CHANNELS=2000 TIDINGS_SCALE_IDLE_SECONDS=300` is the full size;
//! run it with `--nocapture` for the figures.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use tidings_tests::control_plane::ControlPlane;
use tidings_tests::kube_site::{KubeOperator, KubeSite, current, writes};
use tidings_tests::wait::eventually;
use tokio::time::{Instant, sleep};

/// How often a gateway beats, in full.
const INTERVAL: Duration = Duration::from_secs(10);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The writes that are not renewals of the Lease.
fn but_the_lease(all: Vec<String>) -> Vec<String> {
    all.into_iter().filter(|write| !write.contains(" leases ")).collect()
}

fn of_kind(all: &[String], what: &str) -> usize {
    all.iter().filter(|write| write.starts_with(what)).count()
}

/// The statuses that were written although nobody waits for them.
async fn unhurried(operator: &KubeOperator) -> f64 {
    let of = |kind| operator.metric_where("tidings_operator_status_writes_total", kind);
    of(&["kind=\"counts\""]).await + of(&["kind=\"progress\""]).await
}

#[tokio::test]
async fn many_channels_cost_a_few_writes_each_and_idle_ones_none() -> Result<()> {
    let count = setting("TIDINGS_SCALE_CHANNELS", 150);
    let idle = Duration::from_secs(setting("TIDINGS_SCALE_IDLE_SECONDS", 20));
    let patience = Duration::from_secs(60 + count / 4);
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start().await?));
    let site = KubeSite::start_in(plane.cluster()).await?;
    let service = site.release.gateway_service().await?;
    // As they are by default, but for the class.
    let usual = ["--gateway-service", service, "--lease-seconds", "15", "--resync-seconds", "30"];
    let mut operator = site.operator(&usual).await?;
    let (first, one) = site.gateway().await?;
    let (second, two) = site.gateway().await?;
    operator.leads().await;
    let (one, two) = (one.keep_following(), two.keep_following());

    // When each was seen to be Ready, by a watch.
    let channels = site.channels(site.tenant.name());
    let ready = tokio::spawn(async move {
        let mut seen = BTreeMap::new();
        let mut states =
            std::pin::pin!(watcher(channels, watcher::Config::default()).default_backoff().applied_objects());
        while let Ok(Some(channel)) = states.try_next().await {
            if current(&channel, "Ready").is_some_and(|ready| ready.status == "True") {
                seen.entry(channel.metadata.name.clone().unwrap_or_default()).or_insert_with(Instant::now);
                if seen.len() as u64 == count {
                    break;
                }
            }
        }
        seen
    });
    let audit = plane.audit();
    let mark = audit.mark()?;
    let begun = Instant::now();
    let applied: Vec<(String, Instant)> = stream::iter(0..count)
        .map(|number| {
            let site = &site;
            async move {
                let key = site.key(&format!("channel-{number}"));
                let at = Instant::now();
                site.apply(&key, json!({ "history": { "storage": "Memory" } })).await?;
                anyhow::Ok((key.name, at))
            }
        })
        .buffer_unordered(8)
        .try_collect()
        .await?;
    let applied_in = begun.elapsed();
    let seen = tokio::time::timeout(patience, ready).await.context("not all are Ready")??;
    let mut took: Vec<Duration> =
        applied.iter().map(|(name, at)| seen.get(name).map_or(patience, |seen| seen.duration_since(*at))).collect();
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!(
        "{count} Channels applied in {applied_in:?}; Ready after: median {:?}, p99 {:?}, last {:?}",
        at(0.5),
        at(0.99),
        at(1.0)
    );

    // What waits (Events, counts) is written too, and counted with the rest.
    let settled = eventually(patience + Duration::from_secs(90), "nothing is written any more", || async {
        let before = but_the_lease(writes(&audit, mark, &site.release).ok()?);
        sleep(INTERVAL + Duration::from_secs(2)).await;
        let after = but_the_lease(writes(&audit, mark, &site.release).ok()?);
        (before.len() == after.len()).then_some(after)
    })
    .await;
    println!(
        "writes to the API: {} = {:.2} a Channel: {} Routes, {} statuses, {} Events; operator: {:?} of CPU, {} MiB",
        settled.len(),
        settled.len() as f64 / count as f64,
        of_kind(&settled, "patch configmaps"),
        of_kind(&settled, "patch channels/status"),
        of_kind(&settled, "create events"),
        operator.process().cpu(),
        operator.process().memory() >> 20,
    );
    assert!(settled.len() as u64 <= 6 * count, "{} writes", settled.len());
    let refused: Vec<_> = settled.iter().filter(|write| write.ends_with(" 403")).collect();
    assert_eq!(refused, Vec::<&String>::new(), "the shipped rights are not enough");

    // Idle: nothing but the Lease, which is renewed.
    let (mark, cpu) = (audit.mark()?, operator.process().cpu());
    sleep(idle).await;
    let written = writes(&audit, mark, &site.release)?;
    let share = (operator.process().cpu() - cpu).as_secs_f64() / idle.as_secs_f64();
    println!("idle for {idle:?}: {} renewals; {:.1} % of a core", written.len(), share * 100.0);
    assert_eq!(but_the_lease(written.clone()), Vec::<String>::new());
    assert!(!written.is_empty(), "the Lease was not renewed");

    // Restarted: nothing but the Lease, until it has heard every gateway, and for a resync after that.
    let mark = audit.mark()?;
    operator.kill9();
    operator.launch();
    operator.leads().await;
    eventually(patience, "every Channel was visited again", || async {
        operator.metric("tidings_operator_reconciles_total").await >= count as f64
    })
    .await;
    sleep(INTERVAL + Duration::from_secs(5)).await;
    assert_eq!(but_the_lease(writes(&audit, mark, &site.release)?), Vec::<String>::new());

    // Busy: the subscribers of every Channel come and go. One gateway that is busy takes the place of the two.
    let (_third, mut busy) = site.gateway().await?;
    busy.follows().await?;
    eventually(patience, "it is heard", || async { operator.metric("tidings_operator_gateways").await == 6.0 }).await;
    first.delete().await?;
    second.delete().await?;
    one.abort();
    two.abort();
    eventually(patience, "only it counts", || async {
        busy.clone().follows().await.is_ok() && operator.metric("tidings_operator_gateways").await == 2.0
    })
    .await;
    // One that has just started does not know when it wrote last: so nobody has to wait for a minute here.
    operator.kill9();
    operator.launch();
    operator.leads().await;
    let keys: Vec<_> = (0..count).map(|number| site.key(&format!("channel-{number}"))).collect();
    let begun = Instant::now();
    let mut round = 0;
    let mut fastest: f64 = 0.0;
    while begun.elapsed() < Duration::from_secs(25).max(Duration::from_millis(count * 60)) {
        round += 1;
        busy.subscribers = keys.iter().map(|key| (key.clone(), round * 100)).collect();
        busy.follows().await?;
        let (at, from) = (Instant::now(), unhurried(&operator).await);
        sleep(Duration::from_secs(2)).await;
        let (written, span) = (unhurried(&operator).await - from, at.elapsed().as_secs_f64());
        // The two writes at the ends of the span.
        assert!(written <= 20.0 * span + 2.0, "{written} statuses in {span} s");
        fastest = fastest.max(written / span);
    }
    let written = unhurried(&operator).await;
    println!("busy: {written} statuses written, at most {fastest:.1} a second");
    assert!(written >= count as f64 * 0.5, "{written}");

    let leases: Api<Lease> = Api::namespaced(site.client.clone(), site.release.namespace());
    assert!(leases.get("tidings-operator").await?.spec.is_some());
    assert_eq!(site.nats.refusals(), Vec::<String>::new());
    Ok(())
}
