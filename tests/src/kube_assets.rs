//! Where the programs of the test cluster are.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// The programs of a control plane: each one from `KUBEBUILDER_ASSETS` if it is there, else from what
/// `cluster/build.sh` builds once and keeps outside the tree.
#[derive(Clone, Debug)]
pub struct KubeAssets {
    /// The database behind the API server.
    pub etcd: PathBuf,
    /// The API server.
    pub api_server: PathBuf,
    /// The controllers: namespaces, garbage collection, service accounts, endpoints, aggregated roles.
    pub controller_manager: PathBuf,
    /// The command line client.
    pub kubectl: PathBuf,
}

impl KubeAssets {
    /// Finds all programs. The first call on a machine builds them, which takes minutes.
    pub async fn find() -> Result<KubeAssets> {
        let given = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let given = |name: &str| given.as_ref().map(|directory| directory.join(name)).filter(|path| path.exists());
        let found = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"].map(given);
        if let [Some(etcd), Some(api_server), Some(controller_manager), Some(kubectl)] = found {
            return Ok(KubeAssets { etcd, api_server, controller_manager, kubectl });
        }
        let built = build("control-plane").await?;
        let program = |name: &str| given(name).unwrap_or_else(|| built.join(name));
        Ok(KubeAssets {
            etcd: program("etcd"),
            api_server: program("kube-apiserver"),
            controller_manager: program("kube-controller-manager"),
            kubectl: program("kubectl"),
        })
    }
}

/// What a cluster with nodes needs beside the control plane.
#[derive(Clone, Debug)]
pub struct NodeAssets {
    /// The scheduler.
    pub scheduler: PathBuf,
    /// The node agent.
    pub kubelet: PathBuf,
    /// What makes Services work on a node.
    pub kube_proxy: PathBuf,
    /// The cluster's DNS, statically linked.
    pub coredns: PathBuf,
    /// What holds a pod's namespaces open, statically linked.
    pub pause: PathBuf,
    /// The package manager of the same Kubernetes version.
    pub helm: PathBuf,
}

impl NodeAssets {
    /// Builds all programs, unless that has been done.
    pub async fn find() -> Result<NodeAssets> {
        let built = build("nodes").await?;
        Ok(NodeAssets {
            scheduler: built.join("kube-scheduler"),
            kubelet: built.join("kubelet"),
            kube_proxy: built.join("kube-proxy"),
            coredns: built.join("coredns"),
            pause: built.join("pause"),
            helm: built.join("helm"),
        })
    }
}

async fn build(set: &str) -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/build.sh");
    let mut command = Command::new(&script);
    command.arg(set).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().await.with_context(|| format!("failed to run {}", script.display()))?;
    ensure!(output.status.success(), "{} {set} failed", script.display());
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}
