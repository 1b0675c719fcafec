//! A control plane of our own: etcd, kube-apiserver and kube-controller-manager on loopback, in a temporary directory.
//!
//! Real programs with real authentication and RBAC, ready in a few seconds, but no node: a Pod object is a record that
//! nobody runs. Tests that only talk to the API share one through [`KubeCluster::shared`]; a test that stops the API
//! server starts a control plane for itself. [`NodeCluster`](crate::node_cluster::NodeCluster) adds nodes.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::Api;
use tokio::time::timeout;

use crate::api_audit::{AUDIT_POLICY, ApiAudit};
use crate::kube_assets::KubeAssets;
use crate::kube_authority::{Identity, KubeAuthority};
use crate::kube_cluster::{KubeCluster, write_private};
use crate::kube_flags::{self, Site};
use crate::ports::Port;
use crate::process::{Process, Program};
use crate::reaper::Reaper;

/// Running servers, killed when this is dropped, and also when the test process ends without dropping it.
#[derive(Debug)]
pub struct ControlPlane {
    // Dropped in this order: the servers first, their directory last.
    _controllers: Process,
    api_server: Option<Process>,
    api_server_program: Program,
    _etcd: Process,
    _port: Port,
    cluster: KubeCluster,
    authority: KubeAuthority,
    site: Site,
    directory: PathBuf,
    _reaper: Option<Reaper>,
}

impl ControlPlane {
    /// Starts a control plane and returns when the API server and the controllers are at work.
    ///
    /// # Panics
    /// When one of the servers ends or does nothing, with the end of its log.
    pub async fn start() -> Result<ControlPlane> {
        let directory = tempfile::Builder::new().prefix("tidings-control-plane-").tempdir()?.keep();
        let reaper = Reaper::start(&directory)?;
        let plane = ControlPlane::start_at(Ipv4Addr::LOCALHOST, None, &directory).await?;
        Ok(ControlPlane { _reaper: Some(reaper), ..plane })
    }

    /// Starts a control plane that listens where nodes can reach it, and takes a node for lost when it has been silent for
    /// this long. Its files in `directory` are the caller's to remove.
    pub(crate) async fn start_for_nodes(
        address: Ipv4Addr,
        node_grace: Duration,
        directory: &Path,
    ) -> Result<ControlPlane> {
        ControlPlane::start_at(address, Some(node_grace), directory).await
    }

    async fn start_at(address: Ipv4Addr, node_grace: Option<Duration>, directory: &Path) -> Result<ControlPlane> {
        let assets = KubeAssets::find().await?;
        let port = Port::free();
        let site = Site { address, port: port.number(), node_grace };
        let authority = KubeAuthority::new()?;
        write_files(directory, &authority, site)?;

        let etcd = kube_flags::server("etcd", &assets.etcd, directory).args(kube_flags::etcd()).start();
        let api_server_program = kube_flags::server("kube-apiserver", &assets.api_server, directory);
        let api_server_program = api_server_program.args(site.api_server());
        let api_server = api_server_program.start();
        let cluster = KubeCluster::started(directory.join("admin.kubeconfig"), directory, assets.kubectl)?;
        answers(&cluster, &api_server).await?;
        let controllers = kube_flags::server("kube-controller-manager", &assets.controller_manager, directory);
        let controllers = controllers.args(site.controllers()).start();
        at_work(&cluster, &controllers).await?;
        Ok(ControlPlane {
            _controllers: controllers,
            api_server: Some(api_server),
            api_server_program,
            _etcd: etcd,
            _port: port,
            cluster,
            authority,
            site,
            directory: directory.to_owned(),
            _reaper: None,
        })
    }

    /// The cluster as its clients see it.
    pub fn cluster(&self) -> &KubeCluster {
        &self.cluster
    }

    /// Where the API server listens, as `https://<address>:<port>`. It stays the same when the API server is started again.
    pub fn address(&self) -> String {
        self.site.url()
    }

    /// What service accounts have asked the API server so far.
    pub fn audit(&self) -> ApiAudit {
        ApiAudit::new(self.directory.join("audit.log"))
    }

    /// Its API server.
    ///
    /// # Panics
    /// While that is killed.
    pub fn api_server(&self) -> &Process {
        self.api_server.as_ref().expect("the API server was started")
    }

    /// Kills the API server. Connections break, and new ones are refused.
    pub fn kill_api_server(&mut self) {
        self.api_server = None;
    }

    /// Starts a killed API server again, with the same data at the same address, and returns when it is ready.
    pub async fn start_api_server(&mut self) -> Result<()> {
        let started = self.api_server.get_or_insert_with(|| self.api_server_program.start());
        answers(&self.cluster, started).await
    }

    /// Freezes the API server: connections stay open and new ones are accepted, but nothing is answered.
    pub async fn freeze_api_server(&self) {
        self.api_server().stop().await;
    }

    /// Lets a frozen API server go on, and returns when it answers again.
    pub async fn thaw_api_server(&self) -> Result<()> {
        self.api_server().cont();
        answers(&self.cluster, self.api_server()).await
    }

    pub(crate) fn authority(&self) -> &KubeAuthority {
        &self.authority
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes `<name>.kubeconfig`, for a component that is known by its certificate.
    pub(crate) fn kubeconfig_of(&self, name: &str, user: &str, group: Option<&str>) -> Result<PathBuf> {
        write_kubeconfig(&self.directory, &self.authority, self.site, name, user, group)
    }
}

async fn answers(cluster: &KubeCluster, api_server: &Process) -> Result<()> {
    let client = cluster.client().await?;
    let attempt = || async {
        let request = http::Request::get("/readyz").body(Vec::new())?;
        // An attempt that went to a frozen server is never answered.
        timeout(Duration::from_secs(5), client.request_text(request)).await??;
        anyhow::Ok(())
    };
    api_server.ready(attempt).await;
    Ok(())
}

/// The controllers are at work once they have made the service account of a namespace.
async fn at_work(cluster: &KubeCluster, controllers: &Process) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client().await?, "default");
    controllers.ready(|| accounts.get("default")).await;
    Ok(())
}

fn write_files(directory: &Path, authority: &KubeAuthority, site: Site) -> Result<()> {
    let write = |name: &str, text: &str| write_private(&directory.join(name), text);
    write("ca.crt", &authority.certificate())?;
    write("audit-policy.yaml", AUDIT_POLICY)?;
    let (signing, checking) = KubeAuthority::token_keys()?;
    write("service-accounts.key", &signing)?;
    write("service-accounts.pub", &checking)?;
    write_identity(directory, "kube-apiserver", &authority.server("kube-apiserver", &[site.address.into()])?)?;
    let as_kubelet_client = authority.client("kube-apiserver-kubelet-client", Some("system:masters"))?;
    write_identity(directory, "kubelet-client", &as_kubelet_client)?;
    write_kubeconfig(directory, authority, site, "admin", "admin", Some("system:masters"))?;
    write_kubeconfig(directory, authority, site, "controllers", "system:kube-controller-manager", None)?;
    Ok(())
}

pub(crate) fn write_identity(directory: &Path, name: &str, identity: &Identity) -> Result<()> {
    write_private(&directory.join(format!("{name}.crt")), &identity.certificate)?;
    write_private(&directory.join(format!("{name}.key")), &identity.key)
}

fn write_kubeconfig(
    directory: &Path,
    authority: &KubeAuthority,
    site: Site,
    name: &str,
    user: &str,
    group: Option<&str>,
) -> Result<PathBuf> {
    write_identity(directory, name, &authority.client(user, group)?)?;
    let path = directory.join(format!("{name}.kubeconfig"));
    let (server, at) = (site.url(), directory.display());
    let text = format!(
        "apiVersion: v1
kind: Config
current-context: tidings-test
contexts: [{{name: tidings-test, context: {{cluster: tidings-test, user: {name}}}}}]
clusters: [{{name: tidings-test, cluster: {{server: '{server}', certificate-authority: '{at}/ca.crt'}}}}]
users: [{{name: {name}, user: {{client-certificate: '{at}/{name}.crt', client-key: '{at}/{name}.key'}}}}]
"
    );
    write_private(&path, &text)?;
    Ok(path)
}
