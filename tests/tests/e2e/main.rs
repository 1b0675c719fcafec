//! The chart on real nodes, used as its users use it: helm, kubectl, NATS, browsers.
//!
//! Needs root, containerd and a few minutes, or a cluster of one's own, so it runs only when asked for: `make e2e`.

mod access;
mod failures;
mod install;
mod neighbours;
mod upgrade;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidings_tests::chart_release::ChartRelease;
use tidings_tests::chart_site::{Site, Way};
use tidings_tests::event_source::EventSource;
use tidings_tests::manifest::Manifest;
use tidings_tests::publisher::Publisher;
use tidings_tests::wait::eventually;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::interval;

/// Pods start, drain and are replaced; on two processors that are busy with more.
const PATIENCE: Duration = Duration::from_secs(240);

/// Runs a story, and says what was there when it went wrong.
async fn told(site: &Site, story: impl Future<Output = Result<()>>) -> Result<()> {
    let outcome = story.await;
    if outcome.is_err() {
        eprintln!("{}", site.report().await);
    }
    outcome
}

/// A release's gateway and NATS as this machine reaches them.
struct Doors {
    gateway: Way,
    nats: Way,
}

impl Doors {
    async fn of(release: &ChartRelease<'_>) -> Result<Doors> {
        Ok(Doors { gateway: release.way("gateway", 80).await?, nats: release.way("nats", 4222).await? })
    }

    fn url(&self) -> String {
        format!("http://{}", self.gateway.address())
    }
}

/// A client of a channel that knows where it stands: nothing published from here on escapes it.
async fn subscribe(gateway: &str, channel: &Manifest) -> EventSource {
    let mut client = EventSource::open(format!("{gateway}{}", channel.path()));
    client.next_open().await;
    client.wait_for("the head of the stream", |record| (record.len() > 2).then_some(())).await;
    client
}

/// Publishes 0, 1, 2, … until it is told to stop; returns how many. NATS may be away meanwhile.
fn publish_numbers(publisher: Publisher, per_second: u64) -> (oneshot::Sender<()>, JoinHandle<u64>) {
    let (stop, mut stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(1000 / per_second));
        let mut number = 0;
        loop {
            tokio::select! {
                _ = &mut stopped => return number,
                _ = ticks.tick() => {}
            }
            publisher.publish_within(PATIENCE, "", number.to_string()).await;
            number += 1;
        }
    });
    (stop, task)
}

async fn wait_ready(site: &Site, namespace: &str) -> Result<()> {
    let ready = "wait channels.tidings.dev --all --for=condition=Ready --timeout=120s -n";
    site.kubectl(&format!("{ready} {namespace}")).await?;
    Ok(())
}

/// A channel that everybody may read, and publish to over HTTP.
async fn open_channel(site: &Site, namespace: &str, name: &str, class: &str) -> Result<Manifest> {
    let manifest = Manifest::new(namespace, name)
        .with("className", class)
        .with("access/subscribe", json!({"mode": "Public", "topics": [">"]}))
        .with("access/publish", json!({"mode": "Public", "topics": [">"]}));
    site.kubectl.run_with(&["apply", "-f", "-"], &manifest.to_string()).await?;
    wait_ready(site, namespace).await?;
    Ok(manifest)
}

/// The gateways that are ready, by name.
async fn ready_gateways(site: &Site, namespace: &str) -> Result<Vec<Value>> {
    let pods = site.get(&format!("pods -n {namespace} -l app.kubernetes.io/component=gateway")).await?;
    let is_ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        pod["metadata"]["deletionTimestamp"].is_null()
            && conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    Ok(pods["items"].as_array().context("no list")?.iter().filter(is_ready).cloned().collect())
}

/// Puts an older definition of Channels in the place of the live one: without a field, and with a lower revision.
async fn age_definition(site: &Site) -> Result<String> {
    let mut definition = site.get("crd channels.tidings.dev").await?;
    let limits = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/limits/properties";
    let limits = definition.pointer_mut(limits).and_then(Value::as_object_mut).context("no limits in the schema")?;
    limits.remove("connectsPerSecond").context("there is no such limit")?;
    let revision = &mut definition["metadata"]["annotations"]["tidings.dev/schema-revision"];
    let current = revision.as_str().context("the definition has no revision")?.to_owned();
    *revision = json!("0");
    site.kubectl.run_with(&["replace", "-f", "-"], &definition.to_string()).await?;
    Ok(current)
}

async fn revision(site: &Site) -> Result<String> {
    let definition = site.get("crd channels.tidings.dev").await?;
    let revision = definition["metadata"]["annotations"]["tidings.dev/schema-revision"].as_str();
    Ok(revision.context("the definition has no revision")?.to_owned())
}

/// The last thing that a crowd in a pod has said of itself.
async fn tally(site: &Site, namespace: &str, pod: &str) -> Result<tidings_tests::crowd::Tally> {
    // A request that hangs is made again: the wait has a deadline, one answer of the kubelet has none.
    let line = site.kubectl(&format!("logs {pod} -n {namespace} --tail=1 --request-timeout=10s")).await?;
    serde_json::from_str(line.trim()).with_context(|| format!("not a tally: {line}"))
}

/// Waits until every client of a crowd has all that was published, and checks that each got it once, in order, without a gap,
/// and always found somebody who answered.
async fn complete(site: &Site, namespace: &str, pod: &str, published: u64) -> Result<()> {
    let what = format!("every client of {pod} has all {published} events");
    let tally = eventually(PATIENCE, &what, || async {
        let tally = tally(site, namespace, pod).await.map_err(|error| format!("{error:#}"))?;
        if tally.complete >= published && tally.open == tally.clients { Ok(tally) } else { Err(format!("{tally:?}")) }
    })
    .await;
    eprintln!("{published} events: {tally:?}");
    let faults = [tally.lost, tally.duplicated, tally.reordered, tally.gaps, tally.failed];
    ensure!(faults == [0; 5] && tally.refused.is_empty() && tally.complete == published, "{tally:?}");
    Ok(())
}
