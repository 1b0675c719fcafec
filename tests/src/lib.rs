//! Real processes under test.

pub mod api_audit;
pub mod control_plane;
pub mod kube_assets;
pub mod kube_authority;
pub mod kube_cluster;
pub mod kube_namespace;
pub mod kube_pod;
pub mod kube_release;
pub mod kube_server;
pub mod kubectl;
pub mod reaper;
