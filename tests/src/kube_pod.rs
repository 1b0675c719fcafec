//! The record of a pod that no node runs: it stands for a process that a test runs itself.
//!
//! A gateway under test is a local process, but the operator learns from EndpointSlices which gateways to expect. So the
//! test creates the pod's record and says whether it is ready, and the real controllers make the EndpointSlice from it.
//! Only in a control plane of our own.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::kube_cluster::KubeCluster;

/// A pod's record.
#[derive(Clone, Debug)]
pub struct KubePod {
    pods: Api<Pod>,
    name: String,
    uid: String,
    address: Ipv4Addr,
}

/// The record of a node, without a kubelet.
const NODE: &str = "nowhere";

static ADDRESSES: AtomicU16 = AtomicU16::new(1);

impl KubePod {
    /// Creates the record of a pod with one label `app.kubernetes.io/name: <app>` that is not ready yet. Its address is
    /// one that nobody listens on: an EndpointSlice refuses loopback addresses.
    pub async fn create(cluster: &KubeCluster, namespace: &str, app: &str, account: &str) -> Result<KubePod> {
        ensure!(!cluster.is_given(), "a record without a pod has no place in a cluster with real nodes");
        let client = cluster.client().await?;
        // Controllers leave out pods of nodes that do not exist.
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
        let nodes: Api<Node> = Api::all(client.clone());
        nodes.patch(NODE, &PatchParams::apply("tidings-tests").force(), &Patch::Apply(node)).await?;
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let pod = serde_json::from_value(json!({
            "metadata": {"generateName": format!("{app}-"), "labels": {"app.kubernetes.io/name": app}},
            "spec": {
                "serviceAccountName": account,
                "nodeName": NODE,
                "containers": [{"name": app, "image": "tidings.dev/stand-in"}],
            },
        }))?;
        let created = pods.create(&PostParams::default(), &pod).await.context("failed to create a pod")?;
        let [high, low] = ADDRESSES.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let name = created.metadata.name.context("the pod has no name")?;
        let uid = created.metadata.uid.context("the pod has no uid")?;
        Ok(KubePod { pods, name, uid, address: Ipv4Addr::new(10, 244, high, low) })
    }

    /// Its name, as the gateway's `POD_NAME` would be.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its uid, by which gateways are known.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Says whether it is ready, as a kubelet would after its probe.
    pub async fn set_ready(&self, ready: bool) -> Result<()> {
        let ready = if ready { "True" } else { "False" };
        let address = self.address.to_string();
        let status = json!({"status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": ready}],
        }});
        let patched = self.pods.patch_status(&self.name, &PatchParams::default(), &Patch::Merge(status)).await;
        patched.with_context(|| format!("failed to report on the pod {}", self.name))?;
        Ok(())
    }

    /// Deletes it at once, as after the loss of its node.
    pub async fn delete(&self) -> Result<()> {
        let at_once = DeleteParams::default().grace_period(0);
        self.pods.delete(&self.name, &at_once).await.with_context(|| format!("failed to delete {}", self.name))?;
        Ok(())
    }
}
