//! Settings of the Kubernetes front end.

use std::time::Duration;

use tidings_crds::release::Release;

/// The Kubernetes front end.
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    /// This installation.
    pub release: Release,
    /// Which Channels are its own.
    pub class_name: String,
    /// Where Channels are served; empty means everywhere.
    pub watch_namespaces: Vec<String>,
    /// The Service whose endpoints are the gateways.
    pub gateway_service: Option<String>,
    /// What `status.url` begins with, without a slash at its end.
    pub public_url: Option<String>,
    /// Duration of the leader's Lease.
    pub lease: Duration,
    /// The name of the pod.
    pub pod_name: String,
    /// What tells this process from others that may lead.
    pub identity: String,
}
