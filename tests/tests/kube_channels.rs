//! Tidings on Kubernetes as its users see it: what is applied is served by every gateway once it is Ready, and goes on
//! being served while the API server is away. Operator and gateways run with exactly the rights and NATS permissions that are shipped.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http::Method;
use kube::runtime::wait::{Condition, await_condition};
use serde_json::json;
use tidings_crds::channel::Channel;
use tidings_crds::key::ChannelKey;
use tidings_tests::control_plane::ControlPlane;
use tidings_tests::event_source::{EventSource, Happening, Settings as Client};
use tidings_tests::gateway::Gateway;
use tidings_tests::kube_pod::KubePod;
use tidings_tests::kube_site::{KubeOperator, KubeSite, current};
use tidings_tests::ledger::{Request as Asked, assert_faultless};
use tidings_tests::manifest::Manifest;
use tidings_tests::publisher::Publisher;
use tidings_tests::truth::{Incarnation, Truth};
use tidings_tests::wait::{PATIENCE, eventually, throughout, within};
use tidings_tests::web::Request;

/// A release with its operator and two gateways, each with the record of its pod.
struct Release {
    operator: KubeOperator,
    gateways: Vec<(Gateway, KubePod)>,
    site: KubeSite,
}

impl Release {
    async fn start(site: KubeSite) -> Result<Release> {
        let service = site.release.gateway_service().await?;
        let operator = site.operator(&["--gateway-service", service]).await?;
        let mut gateways = Vec::new();
        for number in [1, 2] {
            let pod = site.release.gateway_pod().await?;
            let arguments =
                [["--namespace", site.release.namespace()], ["--pod-name", pod.name()], ["--pod-uid", pod.uid()]];
            let arguments: Vec<String> = arguments.concat().into_iter().map(str::to_owned).collect();
            let (nats, kubeconfig) = (site.nats.url_of("gateway"), site.release.gateway_kubeconfig().await?);
            let gateway = Gateway::start_in_cluster(&format!("gateway-{number}"), &nats, &kubeconfig, &arguments);
            gateways.push((gateway, pod));
        }
        // As a kubelet would say.
        for (gateway, pod) in &gateways {
            gateway.ready().await;
            pod.set_ready(true).await?;
        }
        operator.ready().await;
        Ok(Release { operator, gateways, site })
    }

    /// A Channel that everybody may read, as a user of this release writes it.
    fn manifest(&self, name: &str) -> Manifest {
        Manifest::new(self.site.tenant.name(), name)
            .with("className", self.site.class())
            .with("access/subscribe", json!({ "mode": "Public", "topics": [">"] }))
    }

    async fn kubectl_apply(&self, manifest: &Manifest) -> Result<()> {
        self.site.cluster.kubectl().run_with(&["apply", "-f", "-"], &manifest.to_string()).await?;
        Ok(())
    }

    async fn kubectl_wait(&self, manifest: &Manifest) -> Result<()> {
        let (namespace, name) =
            manifest.key().split_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).context("a key")?;
        let object = format!("channel.tidings.dev/{name}");
        let wait = ["wait", "-n", &namespace, "--for=condition=Ready", "--timeout=90s", &object];
        self.site.cluster.kubectl().run(&wait).await?;
        Ok(())
    }

    /// What each gateway answers to whoever would subscribe. Both have read their Routes, so 200 means that they serve.
    async fn answers(&self, manifest: &Manifest) -> Vec<u16> {
        let mut answers = Vec::new();
        for (gateway, _) in &self.gateways {
            let reply = Request::new(Method::HEAD, gateway.url() + &manifest.path()).send().await;
            answers.push(reply.status.into());
        }
        answers
    }

    async fn subscribe(&self, gateway: usize, manifest: &Manifest) -> EventSource {
        let url = self.gateways[gateway].0.url() + &manifest.path();
        let mut source = Client::new(url).reconnect_after(Duration::from_millis(100)).open();
        source.next_open().await;
        source.wait_for("the head of the stream", |record| (record.len() > 2).then_some(())).await;
        source
    }
}

fn ends(source: &EventSource) -> usize {
    source.record().iter().filter(|entry| matches!(entry.what, Happening::End { .. })).count()
}

#[tokio::test]
async fn a_channel_that_is_ready_is_served_by_every_gateway() -> Result<()> {
    let release = Release::start(KubeSite::start().await?).await?;
    let orders = release.manifest("orders");
    release.kubectl_apply(&orders).await?;
    release.kubectl_wait(&orders).await?;
    assert_eq!(release.answers(&orders).await, [200, 200]);

    let mut sources = [release.subscribe(0, &orders).await, release.subscribe(1, &orders).await];
    Publisher::new(&release.site.nats.jetstream().await, &orders).publish("user.42", "hello").await;
    for source in &mut sources {
        assert_eq!(source.next_event().await.data, "hello");
    }

    // What was changed is served by both once `kubectl wait` says so, and nobody's stream has ended for it.
    let allowed = orders.clone().with("cors/origins", json!(["https://shop.example"]));
    release.kubectl_apply(&allowed).await?;
    release.kubectl_wait(&allowed).await?;
    for (gateway, _) in &release.gateways {
        let request = Request::new(Method::HEAD, gateway.url() + &orders.path());
        let reply = request.header("origin", "https://shop.example").send().await;
        assert_eq!(reply.header("access-control-allow-origin"), "https://shop.example");
    }
    assert_eq!(sources.iter().map(ends).sum::<usize>(), 0);

    // The operator counts the gateways and, in time, the subscribers.
    let key: ChannelKey = orders.key().parse()?;
    let counted = eventually(PATIENCE, "the subscribers are counted", || async {
        let status = release.site.channel(&key).await.ok()??.status?;
        (status.subscribers == Some(2)).then_some(status.gateways).flatten()
    })
    .await;
    assert_eq!((counted.serving, counted.expected), (2, 2));

    // Deleted: the streams end at once, with the reason.
    release.site.delete(&key).await?;
    for source in &mut sources {
        let last = source.next_event().await;
        assert_eq!((last.event.as_str(), last.data.contains("channel-deleted")), ("tidings.end", true), "{last:?}");
    }
    assert_eq!(release.site.nats.refusals(), Vec::<String>::new());
    Ok(())
}

fn is_ready() -> impl Condition<Channel> {
    |channel: Option<&Channel>| {
        channel.and_then(|channel| current(channel, "Ready")).is_some_and(|condition| condition.status == "True")
    }
}

/// From `kubectl apply`, less the start of kubectl, to Ready. It prints, and judges nothing but that what is Ready is served.
#[tokio::test]
async fn the_time_from_apply_to_ready_is_printed() -> Result<()> {
    const CHANNELS: usize = 50;
    let release = Release::start(KubeSite::start().await?).await?;
    let channels = release.site.channels(release.site.tenant.name());
    let spec = json!({ "access": { "subscribe": { "mode": "Public", "topics": [">"] } } });
    let mut took = Vec::new();
    for number in 0..CHANNELS {
        let name = format!("bench-{number}");
        let began = Instant::now();
        release.site.apply(&release.site.key(&name), spec.clone()).await?;
        within(PATIENCE, "the Channel is Ready", await_condition(channels.clone(), &name, is_ready())).await?;
        took.push(began.elapsed());
        assert_eq!(release.answers(&release.manifest(&name)).await, [200, 200], "{name}");
    }
    took.sort_unstable();
    let at = |part: usize| took.get((took.len() - 1) * part / 100).copied().unwrap_or_default();
    eprintln!(
        "apply to Ready, {CHANNELS} Channels, two gateways: median {:.0?}, p90 {:.0?}, slowest {:.0?}",
        at(50),
        at(90),
        at(100)
    );
    Ok(())
}

/// How long the API server stays away: several attempts of everybody's to reach it. `TIDINGS_OUTAGE_SECONDS=120` is the full size.
fn outage() -> Duration {
    let seconds = std::env::var("TIDINGS_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

#[tokio::test]
async fn an_api_server_that_is_away_under_load_loses_nothing_and_changes_are_caught_up_with() -> Result<()> {
    let mut plane = ControlPlane::start().await?;
    // A site wants a cluster for good; this one ends with the plane.
    let site = KubeSite::start_in(Box::leak(Box::new(plane.cluster().clone()))).await?;
    let mut release = Release::start(site).await?;
    let (orders, late) = (release.manifest("orders"), release.manifest("late"));
    release.kubectl_apply(&orders).await?;
    release.kubectl_wait(&orders).await?;
    let (steady, moved) = (release.subscribe(0, &orders).await, release.subscribe(1, &orders).await);
    let publisher = Publisher::new(&release.site.nats.jetstream().await, &orders);
    let load = tokio::spawn({
        let publisher = publisher.clone();
        async move {
            for number in 0_u64.. {
                publisher.publish("a", number.to_string()).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });

    // The last changes that the API server takes are not seen by any operator.
    release.operator.kill9();
    let allowed = orders.clone().with("cors/origins", json!(["https://shop.example"]));
    release.kubectl_apply(&allowed).await?;
    release.kubectl_apply(&late).await?;
    plane.kill_api_server();
    release.operator.launch();
    release.gateways[1].0.kill9();
    release.gateways[1].0.launch();
    let opened = publisher.state().await.last_sequence;
    throughout(outage(), "all of them run", || {
        let gateways = release.gateways.iter().all(|(gateway, _)| gateway.process().status().is_none());
        gateways && release.operator.process().status().is_none()
    })
    .await;
    assert!(release.gateways[0].0.is_ready().await, "it goes on");
    assert!(!release.gateways[1].0.is_ready().await, "it would serve nothing");
    let closed = publisher.state().await.last_sequence;
    assert!(closed > opened, "there was load");
    steady.reaches(closed).await;
    assert_eq!(ends(&steady), 0);

    plane.start_api_server().await?;
    let back = Instant::now();
    release.gateways[1].0.ready().await;
    for manifest in [&allowed, &late] {
        release.kubectl_wait(manifest).await?;
        assert_eq!(release.answers(manifest).await, [200, 200]);
    }
    eprintln!("caught up {:.1?} after the API server was back", back.elapsed());
    let generation =
        release.site.channel(&orders.key().parse()?).await?.and_then(|channel| channel.status?.served_generation);
    assert_eq!(generation, Some(2));
    load.abort();
    let _ = load.await;
    let last = publisher.state().await.last_sequence;
    for source in [&steady, &moved] {
        source.reaches(last).await;
    }
    assert_eq!(ends(&steady), 0, "its stream was open all the time");
    let truth = Truth(vec![Incarnation::read(&publisher.stream().await, &orders).await]);
    for source in [steady, moved] {
        assert_faultless(&truth, &Asked::new(), &source.close());
    }
    Ok(())
}
