//! Pods, nodes and NATS fail; nobody loses an event, and `Ready` says what the rules give, within their bounds.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidings_tests::chart_release::ChartRelease;
use tidings_tests::chart_site::Site;
use tidings_tests::event_source::{Entry, EventSource, Happening};
use tidings_tests::manifest::Manifest;
use tidings_tests::node_cluster::NodeSettings;
use tidings_tests::publisher::Publisher;
use tidings_tests::ready_history::{ReadyHistory, Said};
use tidings_tests::wait::{eventually, within};

use crate::{Doors, PATIENCE, open_channel, publish_numbers, ready_gateways, told, wait_ready};

/// NATS away, or a gateway silent, for this long is told.
const RULE: Duration = Duration::from_secs(30);
/// Gateways beat this often, and turn unready this long after NATS is gone.
const BEAT: Duration = Duration::from_secs(10);
/// What is not ours: a pod's end, probes and endpoints, the API server, all of it on a busy machine.
const SLACK: Duration = Duration::from_secs(15);
/// Long enough that a lost node's gateway is silent before Kubernetes gives it up, as with Kubernetes' own default.
const NODE_GRACE: Duration = Duration::from_secs(60);

/// One Channel under watch, and who listens to it.
struct Scene {
    channel: Manifest,
    ready: ReadyHistory,
    clients: Vec<EventSource>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "part of make e2e: needs root and containerd"]
async fn pods_and_nodes_fail_and_nobody_loses_an_event() -> Result<()> {
    if Site::is_given()? {
        eprintln!("left out: it kills a node, and those of a given cluster are not the tests' own");
        return Ok(());
    }
    let mut site = Site::ours(NodeSettings { nodes: 2, node_grace: NODE_GRACE }).await?;
    site.restricted_namespace("tidings-system").await?;
    site.namespace("demo").await?;
    // A stateful pod of a lost node waits for the node: that is Kubernetes' promise, not ours to test. And where the operator
    // is decides how soon something is told.
    let on_node1 = |component: &str| format!("--set={component}.nodeSelector.kubernetes\\.io/hostname=node1");
    let (nats, operator) = (on_node1("nats.builtIn"), on_node1("operator"));
    site.install("tidings", "tidings-system", &[&nats, &operator, "--set=operator.replicas=2"]).await?;
    let channel = open_channel(&site, "demo", "numbers", "tidings").await?;
    let (doors, jetstream) = {
        let release = ChartRelease::of(&site, "tidings", "tidings-system");
        let doors = Doors::of(&release).await?;
        let jetstream = release.jetstream(&doors.nats).await?;
        (doors, jetstream)
    };
    let ready = ReadyHistory::of(site.cluster().client().await?, "demo", "numbers");
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(crate::subscribe(&doors.url(), &channel).await);
    }
    let scene = Scene { channel: channel.clone(), ready, clients };
    let (stop, publishing) = publish_numbers(Publisher::new(&jetstream, &channel), 5);

    let outcome = failures(&mut site, &scene).await;
    told(&site, async { outcome }).await?;
    let _ = stop.send(());
    complete(scene.clients, publishing.await?).await
}

async fn failures(site: &mut Site, scene: &Scene) -> Result<()> {
    scene.ready.says("Serving", 0, SLACK).await?;
    a_gateway_leaves(site, scene).await?;
    the_leading_operator_is_killed(site, scene).await?;
    nats_restarts(site, scene).await?;
    nats_is_away(site, scene).await?;
    a_gateway_stands_still(site, scene).await?;
    a_node_is_lost(site, scene).await?;
    there_is_no_gateway(site, scene).await
}

/// A pod that is deleted says so: nobody waits for it, and `Ready` never wavers.
async fn a_gateway_leaves(site: &Site, scene: &Scene) -> Result<()> {
    let mark = scene.ready.mark();
    let gateways = "-n tidings-system -l app.kubernetes.io/component=gateway";
    site.kubectl(&format!("delete pod {gateways} --field-selector=spec.nodeName=node2")).await?;
    site.kubectl("rollout status -n tidings-system --timeout=200s deploy/tidings-gateway").await?;
    two_serve(site).await;
    ensure!(scene.ready.reasons(mark).is_empty(), "{:#?}", scene.ready.said());
    Ok(())
}

/// The other one takes over, and changes nothing that stands.
async fn the_leading_operator_is_killed(site: &Site, scene: &Scene) -> Result<()> {
    let mark = scene.ready.mark();
    let lease = site.get("lease tidings-operator -n tidings-system").await?;
    let leader = lease["spec"]["holderIdentity"].as_str().context("nobody leads")?.to_owned();
    let pods = site.get("pods -n tidings-system -l app.kubernetes.io/component=operator").await?;
    let names = pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str());
    let pod = names.clone().find(|name| leader.contains(name)).with_context(|| format!("whose pod is {leader}?"))?;
    site.kubectl(&format!("delete pod {pod} -n tidings-system --grace-period=1")).await?;
    eventually(PATIENCE, "another operator leads", || async {
        let lease = site.get("lease tidings-operator -n tidings-system").await.ok()?;
        let holder = lease["spec"]["holderIdentity"].as_str()?.to_owned();
        (!holder.is_empty() && holder != leader).then_some(())
    })
    .await;
    // It knows the gateways after one interval; until then what stands is kept, and after it too.
    let changed = scene.channel.clone().with("limits/connections", 30_000);
    site.kubectl.run_with(&["apply", "-f", "-"], &changed.to_string()).await?;
    wait_ready(site, "demo").await?;
    let reasons = scene.ready.reasons(mark);
    ensure!(reasons.iter().all(|reason| reason == "Progressing" || reason == "Serving"), "{reasons:?}");
    Ok(())
}

/// Gone and back within the time that both gateways and operator bear with.
async fn nats_restarts(site: &Site, scene: &Scene) -> Result<()> {
    let mark = scene.ready.mark();
    site.kubectl("delete pod tidings-nats-0 -n tidings-system --grace-period=1").await?;
    site.kubectl("rollout status -n tidings-system --timeout=200s statefulset/tidings-nats").await?;
    // Everybody is connected again once a change has gone all the way.
    let changed = scene.channel.clone().with("limits/connections", 35_000);
    site.kubectl.run_with(&["apply", "-f", "-"], &changed.to_string()).await?;
    wait_ready(site, "demo").await?;
    two_serve(site).await;
    let reasons = scene.ready.reasons(mark);
    ensure!(!reasons.iter().any(|reason| reason == "BrokerUnreachable"), "{reasons:?}");
    Ok(())
}

/// Nobody hears the gateways then: what was said stands, and after thirty seconds it is NATS that is told.
async fn nats_is_away(site: &Site, scene: &Scene) -> Result<()> {
    let (mark, ends) = (scene.ready.mark(), scene.ends());
    let asked = Instant::now();
    site.kubectl("scale statefulset/tidings-nats -n tidings-system --replicas=0").await?;
    eventually(BEAT + SLACK, "no gateway is ready", || async {
        ready_gateways(site, "tidings-system").await.ok()?.is_empty().then_some(())
    })
    .await;
    let away = scene.ready.says("BrokerUnreachable", mark, RULE + SLACK).await?;
    ensure!(away.status == "Unknown", "{away:?}");
    bounded(asked, &away, RULE, RULE + SLACK)?;
    ensure!(scene.ready.reasons(mark) == ["BrokerUnreachable"], "{:#?}", scene.ready.said());
    site.kubectl("scale statefulset/tidings-nats -n tidings-system --replicas=1").await?;
    site.kubectl("rollout status -n tidings-system --timeout=200s statefulset/tidings-nats").await?;
    two_serve(site).await;
    scene.is_serving().await?;
    ensure!(scene.ends() == ends, "streams stay open while NATS is away");
    Ok(())
}

/// There is none to serve anything.
async fn there_is_no_gateway(site: &Site, scene: &Scene) -> Result<()> {
    let mark = scene.ready.mark();
    let asked = Instant::now();
    site.kubectl("scale deploy/tidings-gateway -n tidings-system --replicas=0").await?;
    let none = scene.ready.says("NoGateways", mark, BEAT + SLACK).await?;
    ensure!(none.status == "False", "{none:?}");
    bounded(asked, &none, Duration::ZERO, BEAT + SLACK)?;
    site.kubectl("scale deploy/tidings-gateway -n tidings-system --replicas=2").await?;
    site.kubectl("rollout status -n tidings-system --timeout=200s deploy/tidings-gateway").await?;
    two_serve(site).await;
    scene.is_serving().await
}

/// A gateway that does not take a change up, and is not yet known to be unwell: one of two.
async fn a_gateway_stands_still(site: &Site, scene: &Scene) -> Result<()> {
    let mark = scene.ready.mark();
    let gateways = ready_gateways(site, "tidings-system").await?;
    let uid = gateways.first().and_then(|pod| pod["metadata"]["uid"].as_str()).context("no gateway")?;
    let process = process_of(uid)?;
    rustix::process::kill_process(process, rustix::process::Signal::STOP)?;
    let changed = scene.channel.clone().with("limits/connections", 40_000);
    let applied = site.kubectl.run_with(&["apply", "-f", "-"], &changed.to_string()).await;
    // Readiness probes find it out after some seconds, and then nobody waits for it any more.
    let progressing = scene.ready.says("Progressing", mark, BEAT).await;
    let without = scene.ready.says("Serving", mark + 1, BEAT + SLACK).await;
    rustix::process::kill_process(process, rustix::process::Signal::CONT)?;
    applied?;
    let progressing = progressing?;
    ensure!(progressing.status == "False", "{progressing:?}");
    without?;
    two_serve(site).await;
    scene.is_serving().await
}

/// Its gateway is expected until Kubernetes gives the node up, and silent before that.
async fn a_node_is_lost(site: &mut Site, scene: &Scene) -> Result<()> {
    let mark = scene.ready.mark();
    let on_node2 =
        ready_gateways(site, "tidings-system").await?.iter().filter(|pod| pod["spec"]["nodeName"] == "node2").count();
    ensure!(on_node2 > 0, "the gateways are spread over the nodes");
    let killed = Instant::now();
    site.kill_node(2)?;
    let silent = scene.ready.says("GatewaySilent", mark, RULE + SLACK).await?;
    ensure!(silent.status == "Unknown" && silent.message.contains("tidings-gateway-"), "{silent:?}");
    // The last beat may have been an interval before the end.
    bounded(killed, &silent, RULE.saturating_sub(BEAT), RULE + SLACK)?;
    scene.ready.says("Serving", mark, NODE_GRACE + BEAT + SLACK).await?;
    // Replaced on the node that is left.
    eventually(PATIENCE, "two gateways on the node that is left", || async {
        let gateways = ready_gateways(site, "tidings-system").await.ok()?;
        (gateways.iter().filter(|pod| pod["spec"]["nodeName"] == "node1").count() >= 2).then_some(())
    })
    .await;
    two_serve(site).await;
    scene.is_serving().await
}

fn bounded(since: Instant, said: &Said, least: Duration, most: Duration) -> Result<()> {
    let after = said.at.saturating_duration_since(since);
    eprintln!("{} after {after:.1?}", said.reason);
    ensure!(after >= least && after <= most, "{} after {after:?}, not between {least:?} and {most:?}", said.reason);
    Ok(())
}

/// The gateway's process, which a pod's uid in its environment tells from all others.
fn process_of(uid: &str) -> Result<rustix::process::Pid> {
    let wanted = format!("TIDINGS_POD_UID={uid}");
    let processes =
        std::fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let has = |id: &i32| {
        let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    let id = processes.into_iter().find(has).context("no process has that pod's uid")?;
    rustix::process::Pid::from_raw(id).context("no process id")
}

async fn two_serve(site: &Site) {
    let all = json!({"serving": 2, "expected": 2});
    eventually(PATIENCE, "two gateways serve the Channel", || async {
        let channel = site.get("tch numbers -n demo").await.ok()?;
        let conditions = channel["status"]["conditions"].as_array()?.clone();
        let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready")?;
        (ready["status"] == "True" && channel["status"]["gateways"] == all).then_some(())
    })
    .await;
}

// === impl Scene ===

impl Scene {
    async fn is_serving(&self) -> Result<()> {
        let last = self.ready.said().pop().context("nothing was said")?;
        ensure!(last.reason == "Serving" && last.status == "True", "{:#?}", self.ready.said());
        Ok(())
    }

    /// How many streams have ended.
    fn ends(&self) -> usize {
        let ended = |entry: &Entry| matches!(entry.what, Happening::End { .. });
        self.clients.iter().map(|client| client.record().iter().filter(|entry| ended(entry)).count()).sum()
    }
}

/// Waits until every client has everything, and checks that each got it once, in order, and without a gap.
async fn complete(clients: Vec<EventSource>, count: u64) -> Result<()> {
    let expected: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    // That a stream ends because its gateway leaves is told in an event of its own.
    let numbers = |client: &EventSource| -> Vec<String> {
        let events = client.events().into_iter().filter(|event| event.event != "tidings.end");
        events.map(|event| event.data).collect()
    };
    for (number, client) in clients.into_iter().enumerate() {
        let has_all = client.wait_for("all events", |record| {
            let events = record.iter().filter(|entry| matches!(entry.what, Happening::Event(_))).count();
            (events >= expected.len() && numbers(&client).len() >= expected.len()).then_some(())
        });
        within(PATIENCE, "every client has everything", has_all).await;
        let found = numbers(&client);
        let at = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        ensure!(at.is_none() && found.len() == expected.len(), "client {number}: {} events, from {at:?}", found.len());
    }
    Ok(())
}
