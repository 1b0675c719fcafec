//! The chart on real nodes, used as its users use it: helm, kubectl, NATS, browsers.
//!
//! Needs root, containerd and a few minutes, so it runs only when asked for: `make e2e`.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidings_tests::chart_release::{ChartRelease, NEXT, Site};
use tidings_tests::event_source::{EventSource, Happening, Settings};
use tidings_tests::manifest::Manifest;
use tidings_tests::process::repository;
use tidings_tests::publisher::Publisher;
use tidings_tests::wait::eventually;
use tidings_tests::web::Request;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};

/// Pods start, drain and are replaced; on two processors that are busy with more.
const PATIENCE: Duration = Duration::from_secs(240);
/// Who is subscribed while releases change.
const SUBSCRIBERS: usize = 500;

/// Runs a story, and says what was there when it went wrong.
async fn told(site: &Site, story: impl Future<Output = Result<()>>) -> Result<()> {
    let outcome = story.await;
    if outcome.is_err() {
        eprintln!("{}", site.report().await);
    }
    outcome
}

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

/// A client of a channel that knows where it stands: nothing published from here on escapes it.
async fn subscribe(gateway: &str, channel: &Manifest) -> EventSource {
    let mut client = EventSource::open(format!("{gateway}{}", channel.path()));
    client.next_open().await;
    client.wait_for("the head of the stream", |record| (record.len() > 2).then_some(())).await;
    client
}

/// Publishes 0, 1, 2, … until it is told to stop; returns how many.
fn publish_numbers(publisher: Publisher, per_second: u64) -> (tokio::sync::oneshot::Sender<()>, JoinHandle<usize>) {
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(1000 / per_second));
        let mut number = 0;
        loop {
            tokio::select! {
                _ = &mut stopped => return number,
                _ = ticks.tick() => {}
            }
            publisher.publish("", number.to_string()).await;
            number += 1;
        }
    });
    (stop, task)
}

/// What was published and received. That a stream ends because its gateway leaves is told in an event of its own.
fn numbers(client: &EventSource) -> Vec<String> {
    let events = client.events().into_iter().filter(|event| event.event != "tidings.end");
    events.map(|event| event.data).collect()
}

/// Waits until every client has everything, and checks that each got it once, in order, and without a gap.
async fn complete(clients: Vec<EventSource>, count: usize) -> Result<usize> {
    let expected: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    let mut unreachable = 0;
    for (number, client) in clients.into_iter().enumerate() {
        let what = format!("client {number} has all {count} events");
        eventually(PATIENCE, &what, || {
            let received = numbers(&client).len();
            std::future::ready((received >= count).then_some(()).ok_or(received))
        })
        .await;
        let found = numbers(&client);
        let at = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        let around = found.get(at.unwrap_or(count)..).unwrap_or_default().iter().take(5).collect::<Vec<_>>();
        ensure!(
            at.is_none() && found.len() == count,
            "client {number}: {} events, from {at:?} {around:?}",
            found.len()
        );
        let record = client.close();
        let failed = |entry: &&tidings_tests::event_source::Entry| {
            matches!(entry.what, Happening::Unreachable(_) | Happening::Refused { .. })
        };
        unreachable += record.iter().filter(failed).count();
    }
    Ok(unreachable)
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

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root, containerd, runc and CNI plugins"]
async fn install_publish_subscribe_upgrade_and_uninstall() -> Result<()> {
    let site = Site::start(1).await?;
    told(&site, from_install_to_uninstall(&site)).await
}

async fn from_install_to_uninstall(site: &Site) -> Result<()> {
    site.restricted_namespace("tidings-system").await?;
    let (release, notes) = site.install("tidings", "tidings-system", &[]).await?;
    first_steps(site, &notes).await?;
    let gateway = release.gateway().await?;

    site.restricted_namespace("demo").await?;
    site.kubectl(&format!("apply -f {}", repository().join("docs/examples").display())).await?;
    wait_ready(site, "demo").await?;
    let table = site.kubectl("get tch -n demo -o wide").await?;
    ensure!(table.lines().count() == 5 && table.contains("TIDINGS_demo_orders"), "{table}");

    publishes_and_receives(site, &gateway).await?;
    release.test().await?;
    public_service_has_no_admin_port(&release).await?;
    for component in ["operator", "gateway"] {
        let log = site.kubectl(&format!("logs deploy/tidings-{component} -n tidings-system")).await?;
        ensure!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "not JSON lines: {log}");
        ensure!(!log.contains("\"ERROR\"") && !log.contains("panicked"), "{component}: {log}");
    }
    upgrades_and_rolls_back(site, &release, &gateway).await?;
    leaves_and_comes_back(site, release).await
}

/// The first commands of helm's notes, as they stand.
async fn first_steps(site: &Site, notes: &str) -> Result<()> {
    let start = notes.find("kubectl apply").context("the notes have no commands")?;
    let end = notes.find("\nCHANNEL\n").context("the notes have no channel")? + "\nCHANNEL\n".len();
    let commands = notes.get(start..end).context("the notes are in disorder")?;
    let path = format!("{}:{}", site.kubectl.directory().display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-ec", commands]).env("PATH", path).env("KUBECONFIG", site.nodes.cluster().kubeconfig());
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

async fn public_service_has_no_admin_port(release: &ChartRelease<'_>) -> Result<()> {
    let address = release.address("gateway").await?;
    for port in [9090, 9091] {
        let connected = timeout(Duration::from_secs(3), TcpStream::connect((address, port))).await;
        ensure!(!connected.is_ok_and(|connected| connected.is_ok()), "port {port} answers on the public Service");
    }
    Ok(())
}

/// A new version, a new field of Channels, and back again, while everybody listens.
async fn upgrades_and_rolls_back(site: &Site, release: &ChartRelease<'_>, gateway: &str) -> Result<()> {
    let numbers = open_channel(site, "demo", "numbers", "tidings").await?;
    let jetstream = release.jetstream().await?;
    let mut clients = Vec::new();
    for _ in 0..SUBSCRIBERS {
        clients.push(Settings::new(format!("{gateway}{}", numbers.path())).open());
    }
    for client in &clients {
        client.wait_for("the head of the stream", |record| (record.len() > 2).then_some(())).await;
    }
    let (stop, publishing) = publish_numbers(Publisher::new(&jetstream, &numbers), 5);

    let current = age_definition(site).await?;
    release.upgrade(&[&format!("--set=image.tag={NEXT}")]).await?;
    assert_eq!(revision(site).await?, current, "the hook brings the definition up to the new version");
    let newer = numbers.clone().with("limits/connectsPerSecond", 777);
    site.kubectl.run_with(&["apply", "-f", "-"], &newer.to_string()).await?;

    release.rollback(1).await?;
    assert_eq!(revision(site).await?, current, "no rollback touches the definition");
    wait_ready(site, "demo").await?;
    // The status is written by the older version too; what it does not know stays.
    let again = newer.with("limits/connections", 10_000);
    site.kubectl.run_with(&["apply", "-f", "-"], &again.to_string()).await?;
    wait_ready(site, "demo").await?;
    release.upgrade(&[&format!("--set=image.tag={NEXT}")]).await?;
    let kept = site.get("tch numbers -n demo").await?;
    assert_eq!(kept["spec"]["limits"]["connectsPerSecond"], 777);

    let _ = stop.send(());
    let published = publishing.await?;
    let failed = complete(clients, published).await?;
    eprintln!(
        "{SUBSCRIBERS} subscribers, {published} events each, over two upgrades and a rollback: {failed} failed connects"
    );
    ensure!(failed == 0, "{failed} connects failed");
    Ok(())
}

/// What outlives a release: the definition, the Channels and the streams.
async fn leaves_and_comes_back(site: &Site, release: ChartRelease<'_>) -> Result<()> {
    let gateway = release.gateway().await?;
    let orders = Manifest::new("demo", "orders");
    let publisher = Publisher::new(&release.jetstream().await?, &orders);
    let mut client = EventSource::open(format!("{gateway}{}", orders.path_with(&[("topic", "user.42")])));
    client.wait_for("the head of the stream", |record| (record.len() > 2).then_some(())).await;
    publisher.publish("user.42", "before").await;
    let before = client.next_event().await;
    assert_eq!(before.data, "before");
    publisher.publish("user.42", "unseen").await;
    client.next_event().await;
    drop(client);

    release.uninstall().await?;
    let left = site.kubectl("get clusterroles,clusterrolebindings -o name").await?;
    ensure!(!left.contains("tidings-system:tidings"), "the release leaves rights behind: {left}");
    let kept = site.kubectl("get tch -A --no-headers").await?;
    ensure!(kept.lines().count() == 6, "the Channels stay: {kept}");

    let (release, _) = site.install("tidings", "tidings-system", &[]).await?;
    wait_ready(site, "demo").await?;
    let url = format!("{}{}", release.gateway().await?, orders.path_with(&[("topic", "user.42")]));
    let mut client = Settings::new(url).after(before.id).open();
    assert_eq!(client.next_event().await.data, "unseen", "the stream is still there");
    drop(client);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root, containerd, runc and CNI plugins"]
async fn two_releases_of_one_name_do_not_notice_each_other() -> Result<()> {
    let site = Site::start(1).await?;
    told(&site, side_by_side(&site)).await
}

async fn side_by_side(site: &Site) -> Result<()> {
    let mut releases = Vec::new();
    for class in ["a", "b"] {
        site.restricted_namespace(class).await?;
        let class_name = format!("--set=className={class}");
        releases.push(site.install("tidings", class, &[&class_name, "--set=gateway.replicas=1"]).await?.0);
        site.kubectl(&format!("create namespace shop-{class}")).await?;
    }
    let ours = open_channel(site, "shop-a", "orders", "a").await?;
    let theirs = open_channel(site, "shop-b", "orders", "b").await?;
    let status = async |release: &ChartRelease<'_>, channel: &Manifest| -> Result<u16> {
        let url = format!("{}{}", release.gateway().await?, channel.path());
        Ok(Request::new(http::Method::HEAD, url).send().await.status.as_u16())
    };
    let [a, b] = <[_; 2]>::try_from(releases).ok().context("two releases")?;
    assert_eq!([status(&a, &ours).await?, status(&a, &theirs).await?], [200, 401]);
    assert_eq!([status(&b, &ours).await?, status(&b, &theirs).await?], [401, 200]);

    a.uninstall().await?;
    let current = age_definition(site).await?;
    b.upgrade(&["--set=className=b", "--set=gateway.replicas=1"]).await?;
    assert_eq!(revision(site).await?, current);
    wait_ready(site, "shop-b").await?;
    let mut client = subscribe(&b.gateway().await?, &theirs).await;
    let reply = Request::post(format!("{}{}", b.gateway().await?, theirs.path()), "still here").send().await;
    ensure!(reply.status == 201, "{}", reply.text());
    assert_eq!(client.next_event().await.data, "still here");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root, containerd, runc and CNI plugins"]
async fn pods_and_nodes_fail_and_nobody_loses_an_event() -> Result<()> {
    let mut site = Site::start(2).await?;
    site.restricted_namespace("tidings-system").await?;
    site.kubectl("create namespace demo").await?;
    // A stateful pod of a lost node waits for the node: that is Kubernetes' promise, not ours to test.
    let pin = "--set=nats.builtIn.nodeSelector.kubernetes\\.io/hostname=node1";
    site.install("tidings", "tidings-system", &[pin, "--set=operator.replicas=2"]).await?;
    let numbers = open_channel(&site, "demo", "numbers", "tidings").await?;
    let (gateway, jetstream) = {
        let release = ChartRelease::of(&site, "tidings", "tidings-system");
        (release.gateway().await?, release.jetstream().await?)
    };
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(subscribe(&gateway, &numbers).await);
    }
    let (stop, publishing) = publish_numbers(Publisher::new(&jetstream, &numbers), 5);
    let outcome = failures(&mut site).await;
    let _ = stop.send(());
    let published = publishing.await?;
    if outcome.is_err() {
        eprintln!("{}", site.report().await);
    }
    outcome?;
    let failed = complete(clients, published).await?;
    eprintln!("{published} events; {failed} failed connects");
    Ok(())
}

async fn failures(site: &mut Site) -> Result<()> {
    let rolled_out = "rollout status -n tidings-system --timeout=200s";
    site.kubectl("delete pod -n tidings-system -l app.kubernetes.io/component=gateway --wait=false --field-selector=spec.nodeName=node2").await?;
    site.kubectl(&format!("{rolled_out} deploy/tidings-gateway")).await?;
    site.kubectl("delete pod tidings-nats-0 -n tidings-system --grace-period=1").await?;
    site.kubectl(&format!("{rolled_out} statefulset/tidings-nats")).await?;
    wait_ready(site, "demo").await?;

    site.nodes.kill_node(2)?;
    // Replaced on the node that is left.
    eventually(PATIENCE, "two gateways on the node that is left", || async {
        let pods = site.get("pods -n tidings-system -l app.kubernetes.io/component=gateway").await.ok()?;
        let ready = pods["items"].as_array()?.iter().filter(|pod| {
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            pod["spec"]["nodeName"] == "node1"
                && conditions.iter().any(|it| it["type"] == "Ready" && it["status"] == "True")
        });
        (ready.count() >= 2).then_some(())
    })
    .await;
    eventually(PATIENCE, "the Channel is Ready with the gateways that are left", || async {
        let channel = site.get("tch numbers -n demo").await.ok()?;
        let conditions = channel["status"]["conditions"].as_array()?;
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
        (ready["status"] == "True" && channel["status"]["gateways"] == json!({"serving": 2, "expected": 2}))
            .then_some(())
    })
    .await;
    Ok(())
}
