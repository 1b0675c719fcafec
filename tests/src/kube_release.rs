//! An installation of Tidings as far as the API knows it: a namespace, two service accounts and exactly the rights that are
//! shipped. The processes themselves are started by the tests, with the kubeconfigs of these accounts.

use std::path::PathBuf;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, PostParams};
use serde_json::json;
use tidings_crds::definition;

use crate::kube_cluster::KubeCluster;
use crate::kube_namespace::KubeNamespace;
use crate::kube_pod::KubePod;
use crate::kubectl::Kubectl;

const RIGHTS: &str = include_str!("../manifests/release-rights.yaml");
const PEOPLE: &str = include_str!("../manifests/people-roles.yaml");

/// The gateway's Service, service account and label.
const GATEWAY: &str = "tidings-gateway";

/// The release `tidings` in a namespace of its own.
#[derive(Debug)]
pub struct KubeRelease {
    cluster: KubeCluster,
    namespace: KubeNamespace,
    /// In the user's cluster, what is not in the namespace is removed by name.
    remove_with: Option<Kubectl>,
}

impl KubeRelease {
    /// Installs the definition of Channels, and in a namespace `<prefix>-<random>` the service accounts and their rights.
    pub async fn install(cluster: &KubeCluster, prefix: &str) -> Result<KubeRelease> {
        let namespace = cluster.namespace(prefix).await?;
        let kubectl = cluster.kubectl();
        // Several tests install at once. On the server's side, whoever comes second changes what the first has created; a plain
        // `apply` looks, creates, and fails if somebody else was quicker.
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        kubectl.run_with(&apply, &definition::crd_yaml()).await?;
        kubectl.run(&["wait", "--for=condition=Established", "--timeout=60s", "crd/channels.tidings.dev"]).await?;
        kubectl.run_with(&apply, PEOPLE).await?;
        let remove_with = cluster.is_given().then(|| kubectl.clone());
        let release = KubeRelease { cluster: cluster.clone(), namespace, remove_with };
        // The only place where the manifest's namespace stands for another one.
        let rights = RIGHTS.replace("tidings-system", release.namespace());
        kubectl.run_with(&apply, &rights).await?;
        Ok(release)
    }

    /// The cluster it is in.
    pub fn cluster(&self) -> &KubeCluster {
        &self.cluster
    }

    /// Where it is installed.
    pub fn namespace(&self) -> &str {
        self.namespace.name()
    }

    /// The service account of the operator.
    pub fn operator_account(&self) -> &'static str {
        "tidings-operator"
    }

    /// The service account of the gateway.
    pub fn gateway_account(&self) -> &'static str {
        GATEWAY
    }

    /// Creates the Service `tidings-gateway` and returns its name. It selects the pods that [`gateway_pod`](Self::gateway_pod) makes.
    pub async fn gateway_service(&self) -> Result<&'static str> {
        let service = serde_json::from_value(json!({
            "metadata": {"name": GATEWAY},
            "spec": {"selector": {"app.kubernetes.io/name": GATEWAY}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        }))?;
        let services: Api<Service> = Api::namespaced(self.cluster.client().await?, self.namespace());
        services.create(&PostParams::default(), &service).await.context("failed to create the gateway's Service")?;
        Ok(GATEWAY)
    }

    /// Creates the record of a gateway's pod, for a gateway process that the test runs.
    pub async fn gateway_pod(&self) -> Result<KubePod> {
        KubePod::create(&self.cluster, self.namespace(), GATEWAY, self.gateway_account()).await
    }

    /// What an operator of this release connects with.
    pub async fn operator_kubeconfig(&self) -> Result<PathBuf> {
        self.cluster.kubeconfig_for(self.namespace(), self.operator_account()).await
    }

    /// What a gateway of this release connects with.
    pub async fn gateway_kubeconfig(&self) -> Result<PathBuf> {
        self.cluster.kubeconfig_for(self.namespace(), self.gateway_account()).await
    }
}

impl Drop for KubeRelease {
    fn drop(&mut self) {
        let Some(kubectl) = &self.remove_with else { return };
        let prefix = format!("{}:tidings", self.namespace);
        let (operator, reviews) = (format!("{prefix}:operator"), format!("{prefix}:gateway:auth-delegator"));
        kubectl.run_detached(&["delete", "clusterrole", "--ignore-not-found", &operator]);
        kubectl.run_detached(&["delete", "clusterrolebinding", "--ignore-not-found", &operator, &reviews]);
    }
}
