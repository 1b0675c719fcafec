//! A control plane of our own: etcd, kube-apiserver and kube-controller-manager on loopback, in a temporary directory.
//!
//! Real programs with real authentication and RBAC, ready in a few seconds, but no node: a Pod object is a record that
//! nobody runs. Tests that only talk to the API share one through [`KubeCluster::shared`]; a test that stops the API
//! server starts a control plane for itself. [`NodeCluster`](crate::node_cluster::NodeCluster) adds nodes.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::Api;
use rand::Rng;
use tokio::time::{sleep, timeout};

use crate::api_audit::{AUDIT_POLICY, ApiAudit};
use crate::kube_assets::KubeAssets;
use crate::kube_authority::{Identity, KubeAuthority};
use crate::kube_cluster::{KubeCluster, write_private};
use crate::kube_flags::{self, Site};
use crate::kube_server::KubeServer;
use crate::reaper::Reaper;

/// How long one server may take to become ready: 3 s on an idle machine, and machines that run tests are not idle.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Running servers, killed when this is dropped, and also when the test process ends without dropping it.
#[derive(Debug)]
pub struct ControlPlane {
    // Dropped in this order: the servers, then the reaper, which removes the directory.
    controllers: KubeServer,
    api_server: KubeServer,
    etcd: KubeServer,
    cluster: KubeCluster,
    authority: KubeAuthority,
    site: Site,
    directory: PathBuf,
    reaper: Arc<Mutex<Reaper>>,
}

impl ControlPlane {
    /// Starts a control plane and returns when the API server and the controllers are at work.
    pub async fn start() -> Result<ControlPlane> {
        let directory = tempfile::Builder::new().prefix("tidings-control-plane-").tempdir()?.keep();
        let reaper = Arc::new(Mutex::new(Reaper::start(&directory)?));
        ControlPlane::start_at(Ipv4Addr::LOCALHOST, false, &directory, reaper).await
    }

    /// Starts a control plane that listens where nodes can reach it.
    pub(crate) async fn start_for_nodes(
        address: Ipv4Addr,
        directory: &Path,
        reaper: Arc<Mutex<Reaper>>,
    ) -> Result<ControlPlane> {
        ControlPlane::start_at(address, true, directory, reaper).await
    }

    async fn start_at(
        address: Ipv4Addr,
        nodes: bool,
        directory: &Path,
        reaper: Arc<Mutex<Reaper>>,
    ) -> Result<ControlPlane> {
        let assets = KubeAssets::find().await?;
        let site = Site { address, port: free_port(address)?, nodes };
        let authority = KubeAuthority::new()?;
        write_files(directory, &authority, site)?;

        let start = |name, program, flags| KubeServer::start(name, program, flags, directory, reaper.clone());
        let etcd = start("etcd", assets.etcd, kube_flags::etcd())?;
        let api_server = start("kube-apiserver", assets.api_server, site.api_server())?;
        let cluster = KubeCluster::started(directory.join("admin.kubeconfig"), directory, assets.kubectl)?;
        api_server_ready(&cluster, &api_server, &etcd).await?;
        let controllers = start("kube-controller-manager", assets.controller_manager, site.controllers())?;
        let directory = directory.to_owned();
        let plane = ControlPlane { controllers, api_server, etcd, cluster, authority, site, directory, reaper };
        plane.controllers_ready().await?;
        Ok(plane)
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

    /// Kills the API server. Connections break, and new ones are refused.
    pub fn kill_api_server(&self) -> Result<()> {
        self.api_server.kill()
    }

    /// Starts the API server again, with the same data at the same address, and returns when it is ready.
    pub async fn start_api_server(&self) -> Result<()> {
        self.api_server.start_again()?;
        api_server_ready(&self.cluster, &self.api_server, &self.etcd).await
    }

    /// Freezes the API server: connections stay open and new ones are accepted, but nothing is answered.
    pub fn freeze_api_server(&self) -> Result<()> {
        self.api_server.freeze()
    }

    /// Lets a frozen API server go on, and returns when it answers again.
    pub async fn thaw_api_server(&self) -> Result<()> {
        self.api_server.thaw()?;
        api_server_ready(&self.cluster, &self.api_server, &self.etcd).await
    }

    pub(crate) fn authority(&self) -> &KubeAuthority {
        &self.authority
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn reaper(&self) -> Arc<Mutex<Reaper>> {
        self.reaper.clone()
    }

    /// Writes `<name>.kubeconfig`, for a component that is known by its certificate.
    pub(crate) fn kubeconfig_of(&self, name: &str, user: &str, group: Option<&str>) -> Result<PathBuf> {
        write_kubeconfig(&self.directory, &self.authority, self.site, name, user, group)
    }

    /// The controllers are at work once they have made the service account of a namespace.
    async fn controllers_ready(&self) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.cluster.client().await?, "default");
        let deadline = Instant::now() + READY_WITHIN;
        while accounts.get_opt("default").await?.is_none() {
            self.controllers.check()?;
            ensure!(Instant::now() < deadline, "the controllers do nothing; log:\n{}", self.controllers.log_end());
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

async fn api_server_ready(cluster: &KubeCluster, api_server: &KubeServer, etcd: &KubeServer) -> Result<()> {
    let client = cluster.client().await?;
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        match timeout(Duration::from_secs(5), ready(&client)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if Instant::now() >= deadline => {
                return Err(error.context(format!("the API server is not ready; log:\n{}", api_server.log_end())));
            }
            Err(_) if Instant::now() >= deadline => bail!("the API server does not answer"),
            Ok(Err(_)) | Err(_) => {}
        }
        etcd.check()?;
        api_server.check()?;
        sleep(Duration::from_millis(50)).await;
    }
}

async fn ready(client: &Client) -> Result<()> {
    let request = http::Request::get("/readyz").body(Vec::new())?;
    client.request_text(request).await?;
    Ok(())
}

/// A port that nobody listens on, below the range the kernel hands out to connections: it must still be free when the
/// API server comes back after a test has stopped it for minutes.
fn free_port(address: Ipv4Addr) -> Result<u16> {
    let mut random = rand::rng();
    for _ in 0..200 {
        let port = random.random_range(20_000..32_000);
        if TcpListener::bind((address, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("found no free port between 20000 and 32000")
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
