//! A Kubernetes cluster for hand work: `test-cluster [NODES [IMAGE-ARCHIVE…]]` starts it, says how to use it, and ends it on
//! Ctrl-C.

use std::io::Write;

use anyhow::{Context, Result};
use tidings_tests::kube_assets::NodeAssets;
use tidings_tests::node_cluster::NodeCluster;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<()> {
    let nodes = std::env::args().nth(1).map_or(Ok(1), |nodes| nodes.parse()).context("usage: test-cluster [NODES]")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let starting = NodeCluster::start(nodes);
    let cluster = tokio::select! {
        started = starting => started?,
        _ = tokio::signal::ctrl_c() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    for archive in std::env::args_os().skip(2) {
        cluster.import(archive.as_ref())?;
    }
    let programs = NodeAssets::find().await?.helm;
    let programs = programs.parent().context("helm is in no directory")?.display().to_string();
    let mut out = std::io::stdout();
    writeln!(out, "export KUBECONFIG={}", cluster.cluster().kubeconfig().display())?;
    writeln!(out, "export PATH={programs}:{}:$PATH", cluster.cluster().kubectl().directory().display())?;
    writeln!(out, "# {nodes} node(s) ready; pods and Services answer from here. Ctrl-C ends the cluster.")?;
    out.flush()?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
