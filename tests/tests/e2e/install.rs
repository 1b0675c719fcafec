//! From `helm install` with the default values to the last `helm uninstall`.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tidings_tests::chart_metrics::{metrics_in, used};
use tidings_tests::chart_release::ChartRelease;
use tidings_tests::chart_site::Site;
use tidings_tests::chart_values::everything;
use tidings_tests::event_source::{EventSource, Settings};
use tidings_tests::manifest::Manifest;
use tidings_tests::process::repository;
use tidings_tests::publisher::Publisher;
use tidings_tests::wait::eventually;
use tidings_tests::web::Request;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::upgrade::upgrades_and_rolls_back;
use crate::{Doors, PATIENCE, subscribe, told, wait_ready};

/// Chromium's own EventSource, in a process of its own.
struct Browser {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Browser {
    async fn open(gateway: &str, events: &str, count: usize) -> Result<Browser> {
        let mut command = Command::new("node");
        command.arg(repository().join("tests/browser/receive.js")).args([gateway, events, &count.to_string()]);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let lines = BufReader::new(process.stdout.take().context("no output")?).lines();
        let mut browser = Browser { _process: process, lines };
        assert_eq!(browser.line().await?, "open");
        Ok(browser)
    }

    async fn line(&mut self) -> Result<String> {
        let line = timeout(PATIENCE, self.lines.next_line()).await.context("the browser receives nothing")??;
        line.context("the browser has ended")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "part of make e2e: needs root and containerd, or a cluster of one's own"]
async fn install_publish_subscribe_upgrade_and_uninstall() -> Result<()> {
    let site = Site::start(1).await?;
    told(&site, from_install_to_uninstall(&site)).await
}

async fn from_install_to_uninstall(site: &Site) -> Result<()> {
    site.restricted_namespace("tidings-system").await?;
    let (release, notes) = site.install("tidings", "tidings-system", &[]).await?;
    first_steps(site, &notes).await?;
    let doors = Doors::of(&release).await?;

    site.restricted_namespace("demo").await?;
    site.kubectl(&format!("apply -f {}", repository().join("docs/examples").display())).await?;
    wait_ready(site, "demo").await?;
    let table = site.kubectl("get tch -n demo -o wide").await?;
    ensure!(table.lines().count() == examples()? + 1 && table.contains("TIDINGS_demo_orders"), "{table}");

    publishes_and_receives(site, &doors.url()).await?;
    let said = release.test().await?;
    ensure!(said.contains("What is not allowed was refused."), "helm test --logs shows what was tried: {said}");
    if !Site::is_given()? {
        public_service_has_no_admin_port(&doors).await?;
    }
    for component in ["operator", "gateway"] {
        let log = site.kubectl(&format!("logs deploy/tidings-{component} -n tidings-system")).await?;
        ensure!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "not JSON lines: {log}");
        ensure!(!log.contains("\"ERROR\"") && !log.contains("panicked"), "{component}: {log}");
    }
    metrics_that_are_asked_for_exist(site).await?;
    upgrades_and_rolls_back(site, &release, &doors).await?;
    drop(doors);
    leaves_and_comes_back(site, release).await
}

/// How many Channels are in docs/examples: one a file.
fn examples() -> Result<usize> {
    Ok(std::fs::read_dir(repository().join("docs/examples"))?.count())
}

/// The first commands of helm's notes, as they stand.
async fn first_steps(site: &Site, notes: &str) -> Result<()> {
    let start = notes.find("kubectl apply").context("the notes have no commands")?;
    let end = notes.find("\nCHANNEL\n").context("the notes have no channel")? + "\nCHANNEL\n".len();
    let commands = notes.get(start..end).context("the notes are in disorder")?;
    let path = format!("{}:{}", site.kubectl.directory().display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-ec", commands]).env("PATH", path).env("KUBECONFIG", site.cluster().kubeconfig());
    let output = shell.stdin(Stdio::null()).output().await?;
    ensure!(output.status.success(), "{commands}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// By NATS from a pod and by POST; to a browser and to a client of ours.
async fn publishes_and_receives(site: &Site, gateway: &str) -> Result<()> {
    let hello = Manifest::new("demo", "hello");
    let mut client = subscribe(gateway, &hello).await;
    let mut browser = Browser::open(gateway, &hello.path(), 2).await?;
    // The name of the Service, so that DNS has its part.
    let server = "nats://tidings-nats.tidings-system:4222";
    let (sent, log) = site.nats("demo", "publish", server, &["pub", "tidings.demo.hello", "from a pod"]).await?;
    ensure!(sent, "{log}");
    let reply = Request::post(format!("{gateway}{}", hello.path()), "by POST").send().await;
    ensure!(reply.status == 201, "{}", reply.text());
    for expected in ["from a pod", "by POST"] {
        assert_eq!(client.next_event().await.data, expected);
        assert_eq!(browser.line().await?, expected);
    }
    // Who may publish may not read what others are sent, nor what the gateways are.
    for (name, subject) in [("read", "tidings.demo.hello"), ("listen", "tidings-live.>")] {
        let (succeeded, log) = site.nats("demo", name, server, &["sub", subject, "--count=1", "--wait=10s"]).await?;
        ensure!(log.to_lowercase().contains("permissions violation"), "{succeeded}: {log}");
    }
    Ok(())
}

/// Every name in rules, dashboard and scaling is one that a running gateway or operator has.
async fn metrics_that_are_asked_for_exist(site: &Site) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let everything = everything(directory.path())?;
    let asked = used(&site.helm.objects("tidings", "tidings-system", &[&everything]).await?);
    let mut known = BTreeSet::new();
    for (component, port) in [("operator", 9091), ("gateway", 9090)] {
        let pods = site.get(&format!("pods -n tidings-system -l app.kubernetes.io/component={component}")).await?;
        let pod = pods["items"][0]["metadata"]["name"].as_str().context("no pod")?;
        let path = format!("/api/v1/namespaces/tidings-system/pods/{pod}:{port}/proxy/metrics");
        known.extend(metrics_in(&site.kubectl(&format!("get --raw {path}")).await?));
    }
    let unknown: Vec<_> = asked.difference(&known).collect();
    ensure!(unknown.is_empty() && asked.len() > 15, "no pod has {unknown:?}");
    Ok(())
}

async fn public_service_has_no_admin_port(doors: &Doors) -> Result<()> {
    for port in [9090, 9091] {
        let address = (doors.gateway.address().ip(), port);
        let connected = timeout(Duration::from_secs(3), TcpStream::connect(address)).await;
        ensure!(!connected.is_ok_and(|connected| connected.is_ok()), "port {port} answers on the public Service");
    }
    Ok(())
}

/// What outlives a release: the definition, the Channels and the streams.
async fn leaves_and_comes_back(site: &Site, release: ChartRelease<'_>) -> Result<()> {
    let doors = Doors::of(&release).await?;
    let orders = Manifest::new("demo", "orders");
    let publisher = Publisher::new(&release.jetstream(&doors.nats).await?, &orders);
    let mut client = EventSource::open(format!("{}{}", doors.url(), orders.path_with(&[("topic", "user.42")])));
    client.wait_for("the head of the stream", |record| (record.len() > 2).then_some(())).await;
    publisher.publish("user.42", "before").await;
    let before = client.next_event().await;
    assert_eq!(before.data, "before");
    publisher.publish("user.42", "unseen").await;
    client.next_event().await;
    drop((client, doors));

    release.uninstall().await?;
    let left = site.kubectl("get clusterroles,clusterrolebindings -o name").await?;
    ensure!(!left.contains("tidings-system:tidings"), "the release leaves rights behind: {left}");
    let kept = site.kubectl("get tch -A --no-headers").await?;
    // The one of the notes and the one of the upgrades beside them.
    ensure!(kept.lines().count() == examples()? + 2, "the Channels stay: {kept}");

    let (release, _) = site.install("tidings", "tidings-system", &[]).await?;
    wait_ready(site, "demo").await?;
    let doors = Doors::of(&release).await?;
    let url = format!("{}{}", doors.url(), orders.path_with(&[("topic", "user.42")]));
    let mut client = Settings::new(url).after(before.id).open();
    assert_eq!(client.next_event().await.data, "unseen", "the stream is still there");
    drop((client, doors));
    release.uninstall().await?;

    // Another name, another namespace, another NATS: another owner, who has to be let in.
    site.restricted_namespace("edge").await?;
    let (release, _) = site.install("push", "edge", &[]).await?;
    let names = site.kubectl("get tch -n demo -o name").await?;
    let nobody = r#"{"status":{"controllerName":null}}"#;
    for name in names.lines() {
        let patch = ["patch", name, "-n", "demo", "--subresource=status", "--type=merge", "-p", nobody];
        site.kubectl.run(&patch).await?;
    }
    eventually(PATIENCE, "the Channels are the new release's", || async {
        let channels = site.get("tch -n demo").await.ok()?;
        let owners = channels["items"].as_array()?.iter().map(|channel| &channel["status"]["controllerName"]);
        let owners: Vec<_> = owners.collect();
        (!owners.is_empty() && owners.iter().all(|owner| **owner == "edge/push")).then_some(())
    })
    .await;
    wait_ready(site, "demo").await?;
    release.test().await?;
    release.uninstall().await
}
