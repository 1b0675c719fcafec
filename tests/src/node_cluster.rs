//! A Kubernetes cluster with real nodes on one machine, without a container engine: pods are scheduled, run by containerd,
//! and reach each other by address, Service and name.
//!
//! Needs root, and containerd, runc, CNI plugins, iproute2, nftables and conntrack installed. Nodes, pods and Services are
//! reachable from this machine under their own addresses. Everything ends, and is removed, with the process.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::runtime::conditions::is_deployment_completed;
use kube::runtime::wait::await_condition;
use serde_json::json;
use tokio::time::timeout;

use crate::control_plane::ControlPlane;
use crate::kube_assets::NodeAssets;
use crate::kube_cluster::KubeCluster;
use crate::kube_flags;
use crate::kube_network::{HOST, KubeNetwork};
use crate::kube_node::{CGROUP, KubeNode, PAUSE};
use crate::oci_image::OciImage;
use crate::process::Process;
use crate::reaper::Reaper;

/// A node is ready after some 8 s on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// How many claims there can be.
const VOLUMES: u8 = 8;

/// How a cluster is made.
#[derive(Clone, Copy, Debug)]
pub struct NodeSettings {
    /// How many nodes it has.
    pub nodes: u8,
    /// How long after a node has fallen silent its pods count as not ready. Kubernetes' own default is 50 s.
    pub node_grace: Duration,
}

/// A running cluster, ended when this is dropped, and also when the process ends without dropping it.
#[derive(Debug)]
pub struct NodeCluster {
    // Dropped in this order.
    nodes: Vec<KubeNode>,
    _scheduler: Process,
    plane: ControlPlane,
    network: KubeNetwork,
    _reaper: Reaper,
}

impl Default for NodeSettings {
    fn default() -> Self {
        // The kubelets report every 5 s; the usual grace is made for networks that stall.
        Self { nodes: 1, node_grace: Duration::from_secs(12) }
    }
}

impl NodeCluster {
    /// Starts a cluster, and returns when its nodes are ready and its DNS answers.
    pub async fn start(nodes: u8) -> Result<NodeCluster> {
        NodeCluster::start_with(NodeSettings { nodes, ..NodeSettings::default() }).await
    }

    /// Starts a cluster as it is told to be.
    pub async fn start_with(settings: NodeSettings) -> Result<NodeCluster> {
        let nodes = settings.nodes;
        ensure!(rustix::process::geteuid().is_root(), "a cluster with nodes needs root");
        for program in ["containerd", "runc", "ctr", "ip", "nft", "conntrack", "unshare", "nsenter"] {
            ensure!(installed(program), "{program} is not installed");
        }
        let assets = NodeAssets::find().await?;
        let directory = tempfile::Builder::new().prefix("tidings-cluster-").tempdir()?.keep();
        let reaper = Reaper::start_with_cgroup(&directory, CGROUP)?;
        let network = KubeNetwork::start().await?;
        let plane = ControlPlane::start_for_nodes(HOST, settings.node_grace, &directory).await?;
        plane.kubeconfig_of("scheduler", "system:kube-scheduler", None)?;
        let scheduler = kube_flags::server("kube-scheduler", &assets.scheduler, &directory);
        let scheduler = scheduler.args(kube_flags::scheduler()).start();

        let images = directory.join("images");
        std::fs::create_dir(&images)?;
        OciImage::new(PAUSE, "/pause")?.program("/pause", &assets.pause)?.write(&images.join("pause.tar"))?;
        let dns = OciImage::new("tidings.test/coredns:latest", "/coredns")?;
        dns.program("/coredns", &assets.coredns)?.write(&images.join("coredns.tar"))?;

        let mut cluster = NodeCluster { nodes: Vec::new(), _scheduler: scheduler, plane, network, _reaper: reaper };
        for number in 1..=nodes {
            let node = KubeNode::start(&cluster.plane, &cluster.network, &assets, &images, number, nodes).await?;
            cluster.nodes.push(node);
        }
        cluster.network.route_services(1)?;
        let apply = ["apply", "-f", "-"];
        cluster.cluster().kubectl().run_with(&apply, include_str!("../cluster/dns.yaml")).await?;
        cluster.cluster().kubectl().run_with(&apply, &volumes(&directory.join("volumes"))?).await?;
        cluster.ready().await?;
        Ok(cluster)
    }

    /// The cluster as its clients see it.
    pub fn cluster(&self) -> &KubeCluster {
        self.plane.cluster()
    }

    /// Its control plane.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// Imports an image archive into every node, under the name that it carries.
    pub fn import(&self, archive: &Path) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.import(archive))
    }

    /// Ends a node (they count from 1) with everything on it at once, as a power failure would.
    pub fn kill_node(&mut self, number: u8) -> Result<()> {
        let position = self.nodes.iter().position(|node| node.number() == number);
        let node = self.nodes.remove(position.with_context(|| format!("there is no node {number}"))?);
        node.kill();
        self.nodes.first().map_or(Ok(()), |left| self.network.route_services(left.number()))
    }

    async fn ready(&self) -> Result<()> {
        let client = self.cluster().client().await?;
        for node in &self.nodes {
            let name = node.name();
            let ready = await_condition(Api::<Node>::all(client.clone()), &name, |node: Option<&Node>| is_ready(node));
            let waited = timeout(READY_WITHIN, ready).await;
            waited.with_context(|| format!("{name} is not ready\n{}", node.log_end()))??;
        }
        let deployments: Api<Deployment> = Api::namespaced(client, "kube-system");
        let answers = await_condition(deployments, "coredns", is_deployment_completed());
        timeout(READY_WITHIN, answers).await.context("the cluster's DNS is not ready")??;
        Ok(())
    }
}

/// Volumes for the claims of pods, as if from a storage that every node reaches: directories of this machine.
fn volumes(directory: &Path) -> Result<String> {
    let class = json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "directory", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    });
    let mut items = vec![class];
    for number in 1..=VOLUMES {
        let path = directory.join(number.to_string());
        std::fs::create_dir_all(&path)?;
        // Nobody sets the group of such a volume, and pods run under users of their own.
        std::fs::set_permissions(&path, Permissions::from_mode(0o777))?;
        items.push(json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": format!("directory-{number}")},
            "spec": {
                "capacity": {"storage": "20Gi"},
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "directory",
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": path},
            },
        }));
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
}

fn is_ready(node: Option<&Node>) -> bool {
    let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
