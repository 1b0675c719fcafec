//! Operators of one release on a Kubernetes API and NATS, with exactly the rights and permissions that are shipped.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use async_nats::jetstream;
use async_nats::jetstream::stream::Info;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tidings_crds::channel::Channel;
use tidings_crds::key::ChannelKey;
use tidings_crds::release::{ROUTE_KEY, Release};
use tidings_crds::route::{Route, RouteState};

use crate::api_audit::ApiAudit;
use crate::evidence;
use crate::kube_cluster::KubeCluster;
use crate::kube_namespace::KubeNamespace;
use crate::kube_pod::KubePod;
use crate::kube_release::KubeRelease;
use crate::nats::{Nats, NatsSettings, User};
use crate::operator::BINARY;
use crate::ports::Port;
use crate::process::{Process, Program};
use crate::voice::Voice;
use crate::wait::{PATIENCE, eventually};
use crate::web::Request;

/// One release with its NATS, and a namespace of a tenant.
pub struct KubeSite {
    /// The cluster.
    pub cluster: &'static KubeCluster,
    /// The release.
    pub release: KubeRelease,
    /// Where Channels are.
    pub tenant: KubeNamespace,
    /// Its NATS.
    pub nats: Nats,
    /// An administrator's client.
    pub client: Client,
}

/// One operator, running or not.
#[derive(Debug)]
pub struct KubeOperator {
    program: Program,
    process: Option<Process>,
    admin: Port,
}

impl std::fmt::Debug for KubeSite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeSite").field("release", &self.release).field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

// === impl KubeSite ===

impl KubeSite {
    /// In the cluster that the tests share.
    pub async fn start() -> Result<KubeSite> {
        KubeSite::start_in(KubeCluster::shared().await?).await
    }

    /// In a cluster of the test's own.
    pub async fn start_in(cluster: &'static KubeCluster) -> Result<KubeSite> {
        let users = vec![User::administrator(), User::documented("gateway"), User::documented("operator")];
        let settings = NatsSettings { users, ..NatsSettings::default() };
        let (nats, release) = tokio::join!(Nats::start_with(settings), KubeRelease::install(cluster, "release"));
        let tenant = cluster.namespace("tenant").await?;
        let client = cluster.client().await?;
        Ok(KubeSite { cluster, release: release?, tenant, nats, client })
    }

    /// The release by its names.
    pub fn names(&self) -> Release {
        Release::new(self.release.namespace(), "tidings").expect("a namespace and a name")
    }

    /// The key of a Channel in the tenant's namespace.
    pub fn key(&self, name: &str) -> ChannelKey {
        ChannelKey::new(self.tenant.name(), name)
    }

    /// Starts an operator with more arguments.
    pub async fn operator(&self, arguments: &[&str]) -> Result<KubeOperator> {
        let program = self.program(&self.release.operator_kubeconfig().await?, arguments)?;
        Ok(KubeOperator::start(program))
    }

    /// Starts an operator whose way to the API server is a cable's.
    pub async fn operator_on_cable(&self, address: SocketAddr, arguments: &[&str]) -> Result<KubeOperator> {
        let server = format!("https://{address}");
        let kubeconfig =
            self.cluster.kubeconfig_through(Some(&server), self.release.namespace(), self.release.operator_account());
        Ok(KubeOperator::start(self.program(&kubeconfig.await?, arguments)?))
    }

    fn program(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<Program> {
        let nats = self.nats.url_of("operator");
        let usual = [
            ["--nats", &nats],
            ["--namespace", self.release.namespace()],
            ["--class-name", self.class()],
            // Short, so that tests need not wait for long ones.
            ["--lease-seconds", "3"],
            ["--resync-seconds", "2"],
            ["--public-url", "https://push.example"],
        ];
        let kubeconfig = kubeconfig.to_str().context("a path in UTF-8")?;
        let mut program = Program::built(BINARY).named("operator").env("KUBECONFIG", kubeconfig);
        for [flag, value] in usual.iter().filter(|[flag, _]| !arguments.contains(flag)) {
            program = program.args([*flag, *value]);
        }
        Ok(program.args(arguments.iter().copied()))
    }

    /// The Channels of a namespace.
    pub fn channels(&self, namespace: &str) -> Api<Channel> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The ConfigMaps of the release.
    pub fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), self.release.namespace())
    }

    /// The class of the release: the tests of one binary share a cluster, and not their Channels.
    pub fn class(&self) -> &str {
        self.release.namespace()
    }

    /// Applies a Channel as a user would, and returns it as the API server has it. Its class is the release's, unless the
    /// specification names one.
    pub async fn apply(&self, key: &ChannelKey, mut spec: Value) -> Result<Channel> {
        if spec.get("className").is_none() {
            spec["className"] = json!(self.class());
        }
        let manifest = json!({
            "apiVersion": "tidings.dev/v1alpha1",
            "kind": "Channel",
            "metadata": { "namespace": key.namespace, "name": key.name },
            "spec": spec,
        });
        let how = PatchParams::apply("user").force();
        let channels = self.channels(&key.namespace);
        channels.patch(&key.name, &how, &Patch::Apply(manifest)).await.with_context(|| format!("failed to apply {key}"))
    }

    /// A Channel as it is now.
    pub async fn channel(&self, key: &ChannelKey) -> Result<Option<Channel>> {
        Ok(self.channels(&key.namespace).get_opt(&key.name).await?)
    }

    /// Deletes a Channel without waiting.
    pub async fn delete(&self, key: &ChannelKey) -> Result<()> {
        self.channels(&key.namespace).delete(&key.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Waits until a Channel is gone.
    pub async fn gone(&self, key: &ChannelKey) {
        eventually(PATIENCE, &format!("{key} is gone"), || async { matches!(self.channel(key).await, Ok(None)) }).await;
    }

    /// Waits until a condition has a reason, for the Channel as it is written now. Returns the Channel.
    pub async fn reason(&self, key: &ChannelKey, kind: &str, reason: &str) -> Channel {
        eventually(PATIENCE, &format!("{key} is {kind}/{reason}"), || async {
            let channel = self.channel(key).await.map_err(|error| format!("{error:#}"))?;
            let channel = channel.ok_or("it is not there")?;
            let found = current(&channel, kind);
            match found {
                Some(condition) if condition.reason == reason => Ok(channel.clone()),
                _ => Err(format!("{:?}", channel.status.map(|status| status.conditions))),
            }
        })
        .await
    }

    /// The Route of a Channel.
    pub async fn route(&self, key: &ChannelKey) -> Option<Route> {
        let map = self.maps().get_opt(&self.names().route_object(key)).await.ok()??;
        Route::from_yaml(map.data?.get(ROUTE_KEY)?).ok()
    }

    /// Waits until a Channel's Route is there and in force.
    pub async fn routed(&self, key: &ChannelKey) -> Route {
        eventually(PATIENCE, &format!("{key} has a route"), || async {
            self.route(key).await.filter(|route| route.state == RouteState::Active)
        })
        .await
    }

    /// A Channel's stream.
    pub async fn stream(&self, jetstream: &jetstream::Context, key: &ChannelKey) -> Option<Info> {
        let name = format!("TIDINGS_{}_{}", key.namespace, key.name);
        Some(jetstream.get_stream(name).await.ok()?.cached_info().clone())
    }

    /// A ready pod of the gateways' Service, and what speaks for it.
    pub async fn gateway(&self) -> Result<(KubePod, Voice)> {
        let pod = self.release.gateway_pod().await?;
        pod.set_ready(true).await?;
        let voice = Voice::of(&pod, &self.names(), self.nats.client().await, self.maps());
        Ok((pod, voice))
    }
}

/// A condition, if it is about the Channel as it is written now.
pub fn current<'c>(channel: &'c Channel, kind: &str) -> Option<&'c Condition> {
    let conditions = channel.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions
        .iter()
        .find(|condition| condition.type_ == kind && condition.observed_generation == channel.metadata.generation)
}

/// What the operator of a release asked the API server since a mark, as `verb resource namespace/name` of each write.
pub fn writes(audit: &ApiAudit, mark: usize, release: &KubeRelease) -> Result<Vec<String>> {
    let requests = audit.since(mark, release.namespace(), release.operator_account())?;
    let writes = requests.into_iter().filter(crate::api_audit::ApiRequest::is_write);
    Ok(writes.map(|one| format!("{} {} {}/{} {}", one.verb, one.resource, one.namespace, one.name, one.code)).collect())
}

// === impl KubeOperator ===

impl KubeOperator {
    fn start(program: Program) -> KubeOperator {
        let admin = Port::free();
        // One pod, so that it leads on at once when it is started again.
        let pod = format!("operator-{}", admin.number());
        let program = program.args(["--admin", &admin.address().to_string(), "--pod-name", &pod, "--pod-uid", &pod]);
        let process = Some(program.start());
        KubeOperator { program, process, admin }
    }

    /// Its process.
    ///
    /// # Panics
    /// While it is not started.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the operator was started")
    }

    /// `kill -9`.
    pub fn kill9(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill9();
        }
    }

    /// Starts it again, without waiting.
    pub fn launch(&mut self) {
        self.process = Some(self.program.start());
    }

    /// Starts it again with one variable more, without waiting.
    pub fn launch_with(&mut self, name: &str, value: &str) {
        self.process = Some(self.program.clone().env(name, value).start());
    }

    /// SIGTERM, and its end.
    pub async fn terminate(&mut self) {
        if let Some(process) = self.process.take() {
            process.terminate().await;
        }
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        let ask = Request::get(format!("http://{}/readyz", self.admin.address()));
        self.process().ready(|| async { ask.try_send().await.is_ok_and(|reply| reply.status == 200) }).await;
    }

    /// What `/readyz` says; 0 while nobody answers.
    pub async fn readiness(&self) -> (u16, String) {
        match Request::get(format!("http://{}/readyz", self.admin.address())).try_send().await {
            Ok(reply) => (reply.status.into(), reply.text()),
            Err(error) => (0, format!("{error:?}")),
        }
    }

    /// Waits until it leads.
    pub async fn leads(&self) {
        eventually(PATIENCE, "the operator leads", || async { self.metric("tidings_operator_leading").await == 1.0 })
            .await;
    }

    /// The sum over a metric's series.
    pub async fn metric(&self, name: &str) -> f64 {
        self.metric_where(name, &[]).await
    }

    /// The sum over the series that carry all these labels, each written `label="value"`; -1 while nobody answers.
    pub async fn metric_where(&self, name: &str, labels: &[&str]) -> f64 {
        let ask = Request::get(format!("http://{}/metrics", self.admin.address()));
        match ask.try_send().await {
            Ok(reply) => crate::metrics::Samples::read(&reply.text()).sum_where(name, labels),
            Err(_) => -1.0,
        }
    }
}

impl Drop for KubeOperator {
    fn drop(&mut self) {
        if self.process.is_some() {
            evidence::scrape(self.admin.address());
        }
    }
}
