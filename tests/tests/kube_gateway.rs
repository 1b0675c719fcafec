//! The gateway on Kubernetes, with exactly the rights that are shipped: Routes from ConfigMaps, the API server away, what it
//! tells over NATS. What the operator would write, the tests write, with its rights.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::Subscriber;
use async_nats::jetstream::stream;
use futures_util::StreamExt;
use http::Method;
use serde_json::json;
use tidings_crds::beat::{Beat, Channels};
use tidings_crds::key::ChannelKey;
use tidings_crds::route::{Route, RouteState};
use tidings_tests::cable::Cable;
use tidings_tests::control_plane::ControlPlane;
use tidings_tests::event_source::{EventSource, Happening, Settings as Client};
use tidings_tests::gateway::Gateway;
use tidings_tests::kube_cluster::KubeCluster;
use tidings_tests::kube_release::KubeRelease;
use tidings_tests::kube_routes::{KubeRoutes, desired_of};
use tidings_tests::ledger::{Request as Asked, assert_faultless};
use tidings_tests::manifest::Manifest;
use tidings_tests::nats::Nats;
use tidings_tests::publisher::Publisher;
use tidings_tests::truth::{Incarnation, Truth};
use tidings_tests::wait::{PATIENCE, eventually, throughout, within};
use tidings_tests::web::Request;

/// A release with NATS and gateways, but without an operator.
struct Site {
    routes: KubeRoutes,
    nats: Nats,
    gateways: Vec<Gateway>,
    release: KubeRelease,
}

impl Site {
    async fn start(cluster: &KubeCluster, gateways: usize) -> Result<Site> {
        let release = KubeRelease::install(cluster, "tidings").await?;
        let (routes, nats) = (KubeRoutes::of(&release).await?, Nats::start().await);
        let mut site = Site { routes, nats, gateways: Vec::new(), release };
        for number in 1..=gateways {
            site.add_gateway(number).await?;
        }
        for gateway in &site.gateways {
            gateway.ready().await;
        }
        Ok(site)
    }

    async fn add_gateway(&mut self, number: usize) -> Result<()> {
        let kubeconfig = self.release.gateway_kubeconfig().await?;
        self.add_gateway_with(number, &kubeconfig);
        Ok(())
    }

    fn add_gateway_with(&mut self, number: usize, kubeconfig: &Path) {
        let (name, uid) = (format!("gateway-{number}"), format!("uid-{number}"));
        let arguments = ["--namespace", self.release.namespace(), "--pod-name", &name, "--pod-uid", &uid];
        let arguments = arguments.map(str::to_owned);
        self.gateways.push(Gateway::start_in_cluster(&name, &self.nats.url(), kubeconfig, &arguments));
    }

    /// Makes a channel's stream as the operator does, and returns the Route that it would write.
    async fn channel(&self, manifest: &Manifest) -> Result<Route> {
        let desired = desired_of(manifest);
        let spec = desired.stream.context("a durable channel")?;
        let live = spec.republish.context("it is republished")?;
        let (source, destination) = (live.source, live.destination);
        let config = stream::Config {
            name: spec.name,
            subjects: spec.subjects,
            allow_direct: true,
            republish: Some(stream::Republish { source, destination, headers_only: false }),
            ..stream::Config::default()
        };
        self.nats.jetstream().await.create_stream(config).await?;
        Ok(desired.route)
    }

    async fn serves(&self, gateway: usize, manifest: &Manifest) -> bool {
        let request = Request::new(Method::HEAD, self.gateways[gateway].url() + &manifest.path());
        request.try_send().await.is_ok_and(|reply| reply.status == 200)
    }

    /// A gateway that has not read its Routes answers 200 to everybody: those that ask here have.
    async fn until_served(&self, gateway: usize, manifest: &Manifest) {
        let what = format!("gateway {gateway} serves {}", manifest.key());
        eventually(PATIENCE, &what, || self.serves(gateway, manifest)).await;
    }

    fn client(&self, gateway: usize, manifest: &Manifest) -> Client {
        Client::new(self.gateways[gateway].url() + &manifest.path()).reconnect_after(Duration::from_millis(100))
    }

    async fn subscribe(&self, gateway: usize, manifest: &Manifest) -> EventSource {
        let mut source = self.client(gateway, manifest).open();
        source.next_open().await;
        source.wait_for("the head of the stream", |record| (record.len() > 2).then_some(())).await;
        source
    }

    /// How many of something a gateway counts now.
    async fn counts(&self, gateway: usize, metric: &str, count: f64) {
        eventually(PATIENCE, &format!("{metric} is {count}"), || async {
            let now = self.gateways[gateway].metrics().await.sum(metric);
            (now == count).then_some(()).ok_or(now)
        })
        .await;
    }
}

fn key(manifest: &Manifest) -> ChannelKey {
    manifest.key().parse().expect("a manifest's key")
}

fn ends(source: &EventSource) -> usize {
    source.record().iter().filter(|entry| matches!(entry.what, Happening::End { .. })).count()
}

#[tokio::test]
async fn routes_come_change_and_go_with_their_config_maps() -> Result<()> {
    let site = Site::start(KubeCluster::shared().await?, 1).await?;
    let orders = Manifest::public("orders");
    let route = site.channel(&orders).await?;
    assert!(!site.serves(0, &orders).await, "nothing was written yet");
    site.routes.apply(&route).await?;
    site.until_served(0, &orders).await;
    let mut source = site.subscribe(0, &orders).await;
    let publisher = Publisher::new(&site.nats.jetstream().await, &orders);
    publisher.publish("a", "one").await;
    assert_eq!(source.next_event().await.data, "one");

    // Garbage leaves the last good version, and another key means nothing.
    site.routes.write(&key(&orders), "version: 1\nnamespace: test\n").await?;
    site.counts(0, "tidings_routes_refused", 1.0).await;
    assert!(site.serves(0, &orders).await);
    let name = site.routes.release().route_object(&key(&orders));
    site.routes.put(&key(&orders), &name, json!({ "routes.yaml": route.to_yaml() })).await?;
    let missing = || std::future::ready(site.gateways[0].process().output().contains("has no key route.yaml"));
    eventually(PATIENCE, "the missing key is told", missing).await;
    let mut changed = route.clone();
    changed.generation += 1;
    site.routes.apply(&changed).await?;
    site.counts(0, "tidings_routes_refused", 0.0).await;

    // A copy under another name, older and first by name, does not take its place.
    site.routes.put(&key(&orders), "a-copy", json!({ "route.yaml": route.to_yaml() })).await?;
    site.counts(0, "tidings_routes_refused", 1.0).await;

    // What merely disappears is served on. The second Route comes after that on the same watch.
    let marker = Manifest::public("marker").with("durability", "Ephemeral");
    site.routes.strip_label(&key(&orders)).await?;
    site.routes.apply(&desired_of(&marker).route).await?;
    site.until_served(0, &marker).await;
    assert!(site.serves(0, &orders).await);
    site.routes.apply(&changed).await?;
    site.routes.delete(&key(&orders)).await?;
    site.routes.delete(&key(&marker)).await?;
    site.counts(0, "tidings_routes", 2.0).await;
    publisher.publish("a", "two").await;
    assert_eq!(source.next_event().await.data, "two");
    assert_eq!(ends(&source), 0, "none of it concerned the stream");

    // A Route that is marked as removed ends at once, even if its ConfigMap goes in the same breath.
    let removed = Route { state: RouteState::Removed, ..changed };
    site.routes.apply(&removed).await?;
    site.routes.delete(&key(&orders)).await?;
    let last = source.next_event().await;
    assert_eq!((last.event.as_str(), last.data.contains("channel-deleted")), ("tidings.end", true), "{last:?}");
    // For a minute its clients are told to come back, on the 200 path; nobody is served.
    site.counts(0, "tidings_routes", 1.0).await;
    assert!(site.serves(0, &marker).await, "that one merely disappeared");
    Ok(())
}

/// Collects beats.
struct Ear {
    subscriber: Subscriber,
}

impl Ear {
    async fn next(&mut self) -> Beat {
        let message = within(PATIENCE, "a beat", self.subscriber.next()).await.expect("NATS runs");
        Beat::from_json(&message.payload).expect("gateways send beats")
    }

    /// The next beat that says something of a channel.
    async fn of(&mut self, channel: &ChannelKey) -> Beat {
        loop {
            let beat = self.next().await;
            if beat.channels.contains_key(channel) {
                return beat;
            }
        }
    }
}

fn said(channels: &Channels) -> BTreeMap<String, (Option<String>, u64)> {
    channels.iter().map(|(key, said)| (key.to_string(), (said.digest.clone(), said.subscribers))).collect()
}

#[tokio::test]
async fn beats_tell_the_operator_what_is_in_force() -> Result<()> {
    let mut site = Site::start(KubeCluster::shared().await?, 0).await?;
    let subscriber = site.nats.client().await.subscribe(site.routes.release().beat_subject()).await?;
    let mut ear = Ear { subscriber };
    let channel = Manifest::public("pulse").with("durability", "Ephemeral");
    let (key, route) = (key(&channel), desired_of(&channel).route);
    let entry = |digest: Option<String>, subscribers| BTreeMap::from([(key.to_string(), (digest, subscribers))]);
    site.add_gateway(1).await?;
    site.gateways[0].ready().await;

    let first = ear.next().await;
    let who = (first.release.to_string(), first.pod.as_str(), first.name.as_str());
    assert_eq!(who, (site.routes.release().to_string(), "uid-1", "gateway-1"));
    assert_eq!((first.number, first.full, first.channels.len()), (1, true, 0));

    // A change is told by itself, not only with the next full beat.
    site.routes.apply(&route).await?;
    let told = ear.of(&key).await;
    assert_eq!((told.full, said(&told.channels)), (false, entry(Some(route.digest()), 0)));
    let _source = site.subscribe(0, &channel).await;
    let full = loop {
        let beat = ear.of(&key).await;
        if beat.full {
            break beat;
        }
    };
    assert_eq!(said(&full.channels), entry(Some(route.digest()), 1));
    assert!(full.number > told.number && full.run == first.run);

    // Garbage is not in force: the digest stays what it was.
    site.routes.write(&key, "garbage").await?;
    site.counts(0, "tidings_routes_refused", 1.0).await;
    assert_eq!(said(&ear.of(&key).await.channels), entry(Some(route.digest()), 1));

    // Removed: no Route in force, told by itself.
    site.routes.apply(&Route { state: RouteState::Removed, ..route }).await?;
    let gone = loop {
        let beat = ear.of(&key).await;
        if !beat.full {
            break beat;
        }
    };
    assert_eq!(said(&gone.channels).get(&key.to_string()).map(|(digest, _)| digest.clone()), Some(None));

    // Back after NATS was away, and after a restart: everything is said at once.
    site.nats.restart().await;
    let again = ear.next().await;
    assert!(again.full && again.run == first.run && again.number > gone.number, "{again:?}");
    site.gateways[0].kill9();
    site.gateways[0].launch();
    let other = loop {
        let beat = ear.next().await;
        if beat.run != first.run {
            break beat;
        }
    };
    assert_eq!((other.pod.as_str(), other.number, other.full), ("uid-1", 1, true));
    Ok(())
}

#[tokio::test]
async fn gateways_are_a_nats_service_with_totals() -> Result<()> {
    let site = Site::start(KubeCluster::shared().await?, 1).await?;
    let channel = Manifest::public("counted").with("durability", "Ephemeral");
    site.routes.apply(&desired_of(&channel).route).await?;
    site.until_served(0, &channel).await;
    let _source = site.subscribe(0, &channel).await;
    let client = site.nats.client().await;
    let ask = async |subject: &'static str| {
        let answer = eventually(PATIENCE, subject, || client.request(subject, "".into())).await;
        serde_json::from_slice::<serde_json::Value>(&answer.payload)
    };
    let about = json!({ "release": site.routes.release().to_string(), "pod": "gateway-1" });
    let ping = ask("$SRV.PING").await?;
    assert_eq!((&ping["name"], &ping["metadata"]), (&json!("tidings-gateway"), &about));
    let totals = json!({ "routes": 1, "channels": 1, "subscribers": 1 });
    let status = ask("tidings-gateway.status").await?;
    let with_totals = |mut about: serde_json::Value| {
        let (map, totals) = (about.as_object_mut().expect("an object"), totals.as_object().expect("an object"));
        map.extend(totals.clone());
        about
    };
    assert_eq!(status, with_totals(about.clone()));
    let stats = ask("$SRV.STATS.tidings-gateway").await?;
    assert_eq!(stats["endpoints"][0]["data"], with_totals(about));
    assert_eq!(stats["endpoints"][0]["subject"], "tidings-gateway.status");
    Ok(())
}

/// How long the API server stays away: long enough for a restarted gateway to try several times. Minutes by choice.
fn outage() -> Duration {
    let seconds = std::env::var("TIDINGS_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

#[tokio::test]
async fn an_api_server_that_is_away_costs_no_event_and_no_subscriber() -> Result<()> {
    let mut plane = ControlPlane::start().await?;
    let mut site = Site::start(plane.cluster(), 2).await?;
    let orders = Manifest::public("orders");
    site.routes.apply(&site.channel(&orders).await?).await?;
    for gateway in [0, 1] {
        site.until_served(gateway, &orders).await;
    }
    let (steady, moved) = (site.subscribe(0, &orders).await, site.subscribe(1, &orders).await);
    let publisher = Publisher::new(&site.nats.jetstream().await, &orders);
    let load = tokio::spawn({
        let publisher = publisher.clone();
        async move {
            for number in 0_u64.. {
                publisher.publish("a", number.to_string()).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });

    plane.kill_api_server();
    site.gateways[1].kill9();
    site.gateways[1].launch();
    eventually(PATIENCE, "the restarted gateway has asked in vain", || {
        std::future::ready(site.gateways[1].process().output().contains("Failed to read the Routes"))
    })
    .await;
    eventually(PATIENCE, "only its Routes are missing", || async {
        let probe = site.gateways[1].admin("/readyz").await.map(|reply| (reply.status.as_u16(), reply.text()));
        (probe == Some((503, "the routes have not been read\n".to_owned()))).then_some(()).ok_or(probe)
    })
    .await;
    let opened = publisher.state().await.last_sequence;
    throughout(outage(), "the gateways run", || {
        site.gateways.iter().all(|gateway| gateway.process().status().is_none())
    })
    .await;
    assert!(!site.gateways[1].is_ready().await, "it would serve nothing");
    assert!(site.gateways[0].is_ready().await);
    let closed = publisher.state().await.last_sequence;
    assert!(closed > opened, "there was load");
    steady.reaches(closed).await;
    assert_eq!(ends(&steady), 0);

    plane.start_api_server().await?;
    site.gateways[1].ready().await;
    let marker = Manifest::public("marker").with("durability", "Ephemeral");
    site.routes.apply(&desired_of(&marker).route).await?;
    for gateway in [0, 1] {
        site.until_served(gateway, &marker).await;
    }
    load.abort();
    let _ = load.await;
    let last = publisher.state().await.last_sequence;
    for source in [&steady, &moved] {
        source.reaches(last).await;
    }
    let truth = Truth(vec![Incarnation::read(&publisher.stream().await, &orders).await]);
    assert_eq!(ends(&steady), 0, "its stream was open all the time");
    for source in [steady, moved] {
        assert_faultless(&truth, &Asked::new(), &source.close());
    }
    Ok(())
}

/// It takes most of a minute, because nothing but silence tells a dead connection from a quiet one.
#[tokio::test]
async fn a_connection_to_the_api_server_that_has_died_unnoticed_is_given_up() -> Result<()> {
    let plane = ControlPlane::start().await?;
    let mut site = Site::start(plane.cluster(), 0).await?;
    let upstream = plane.address().trim_start_matches("https://").parse()?;
    let cable = Cable::to(upstream).await;
    let (server, release) = (format!("https://{}", cable.address()), &site.release);
    let kubeconfig =
        plane.cluster().kubeconfig_through(Some(&server), release.namespace(), release.gateway_account()).await?;
    site.add_gateway_with(1, &kubeconfig);
    site.gateways[0].ready().await;
    let (before, after) = (Manifest::public("before"), Manifest::public("after"));
    let route = |manifest: &Manifest| desired_of(&manifest.clone().with("durability", "Ephemeral")).route;
    site.routes.apply(&route(&before)).await?;
    site.until_served(0, &before).await;
    let source = site.subscribe(0, &before).await;

    cable.forsake();
    site.routes.apply(&route(&after)).await?;
    eventually(PATIENCE * 2, "the new Route is read over a new connection", || site.serves(0, &after)).await;
    assert_eq!(ends(&source), 0);
    assert!(site.gateways[0].is_ready().await);
    Ok(())
}
