//! A control plane of our own: etcd, kube-apiserver and kube-controller-manager on loopback, in a temporary directory.
//!
//! Real programs with real authentication and RBAC, ready in a few seconds, but no node: a Pod object is a record that
//! nobody runs. Tests that only talk to the API share one through [`KubeCluster::shared`]; a test that stops the API
//! server starts a control plane for itself.

use std::ffi::OsString;
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
use crate::kube_server::KubeServer;
use crate::reaper::Reaper;

/// How long one server may take to become ready: 3 s on an idle machine, and machines that run tests are not idle.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// The controllers that the tests can notice. The others watch everything too and would only cost time.
const CONTROLLERS: &str = "namespace-controller,garbage-collector-controller,serviceaccount-controller,\
                           root-ca-certificate-publisher-controller,clusterrole-aggregation-controller,\
                           endpointslice-controller";

/// Running servers, killed when this is dropped, and also when the test process ends without dropping it.
#[derive(Debug)]
pub struct ControlPlane {
    // Dropped in this order: the servers, then the reaper, which removes the directory.
    controllers: KubeServer,
    api_server: KubeServer,
    _etcd: KubeServer,
    cluster: KubeCluster,
    address: String,
    directory: PathBuf,
    _reaper: Arc<Mutex<Reaper>>,
}

impl ControlPlane {
    /// Starts a control plane and returns when the API server and the controllers are at work.
    pub async fn start() -> Result<ControlPlane> {
        let assets = KubeAssets::find().await?;
        let directory = tempfile::Builder::new().prefix("tidings-control-plane-").tempdir()?.keep();
        let reaper = Arc::new(Mutex::new(Reaper::start(Some(&directory))?));
        let port = free_port()?;
        let address = format!("https://127.0.0.1:{port}");
        write_files(&directory, &address)?;

        let start = |name, program, arguments| KubeServer::start(name, program, arguments, &directory, reaper.clone());
        let etcd = start("etcd", assets.etcd, etcd_arguments())?;
        let api_server = start("kube-apiserver", assets.api_server, api_server_arguments(port))?;
        let cluster = KubeCluster::started(directory.join("admin.kubeconfig"), &directory, assets.kubectl)?;
        api_server_ready(&cluster, &api_server, &etcd).await?;
        let controllers = start("kube-controller-manager", assets.controller_manager, controller_arguments())?;
        let plane = ControlPlane { controllers, api_server, _etcd: etcd, cluster, address, directory, _reaper: reaper };
        plane.controllers_ready().await?;
        Ok(plane)
    }

    /// The cluster as its clients see it.
    pub fn cluster(&self) -> &KubeCluster {
        &self.cluster
    }

    /// Where the API server listens, as `https://127.0.0.1:<port>`. It stays the same when the API server is started again.
    pub fn address(&self) -> &str {
        &self.address
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
        api_server_ready(&self.cluster, &self.api_server, &self._etcd).await
    }

    /// Freezes the API server: connections stay open and new ones are accepted, but nothing is answered.
    pub fn freeze_api_server(&self) -> Result<()> {
        self.api_server.freeze()
    }

    /// Lets a frozen API server go on, and returns when it answers again.
    pub async fn thaw_api_server(&self) -> Result<()> {
        self.api_server.thaw()?;
        api_server_ready(&self.cluster, &self.api_server, &self._etcd).await
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
fn free_port() -> Result<u16> {
    let mut random = rand::rng();
    for _ in 0..200 {
        let port = random.random_range(20_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("found no free port between 20000 and 32000")
}

fn write_files(directory: &Path, address: &str) -> Result<()> {
    let authority = KubeAuthority::new()?;
    let write = |name: &str, text: &str| write_private(&directory.join(name), text);
    write("ca.crt", &authority.certificate())?;
    write("audit-policy.yaml", AUDIT_POLICY)?;
    let (signing, checking) = KubeAuthority::token_keys()?;
    write("service-accounts.key", &signing)?;
    write("service-accounts.pub", &checking)?;
    let api_server = authority.server(&[])?;
    write("kube-apiserver.crt", &api_server.certificate)?;
    write("kube-apiserver.key", &api_server.key)?;
    let clients = [("admin", "admin", Some("system:masters")), ("controllers", "system:kube-controller-manager", None)];
    for (name, user, group) in clients {
        let Identity { certificate, key } = authority.client(user, group)?;
        write(&format!("{name}.crt"), &certificate)?;
        write(&format!("{name}.key"), &key)?;
        write(&format!("{name}.kubeconfig"), &kubeconfig(directory, address, name))?;
    }
    Ok(())
}

fn kubeconfig(directory: &Path, address: &str, user: &str) -> String {
    let directory = directory.display();
    format!(
        "apiVersion: v1
kind: Config
current-context: tidings-test
contexts: [{{name: tidings-test, context: {{cluster: tidings-test, user: {user}}}}}]
clusters: [{{name: tidings-test, cluster: {{server: '{address}', certificate-authority: '{directory}/ca.crt'}}}}]
users: [{{name: {user}, user: {{client-certificate: '{directory}/{user}.crt', client-key: '{directory}/{user}.key'}}}}]
"
    )
}

/// etcd listens on sockets in its directory, so that it needs no ports.
fn etcd_arguments() -> Vec<OsString> {
    arguments(&[
        "--name=default",
        "--data-dir=etcd",
        "--listen-client-urls=unix://etcd.client:0",
        "--advertise-client-urls=unix://etcd.client:0",
        "--listen-peer-urls=unix://etcd.peer:0",
        "--initial-advertise-peer-urls=unix://etcd.peer:0",
        "--initial-cluster=default=unix://etcd.peer:0",
        // The data need not outlive the machine.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ])
}

fn api_server_arguments(port: u16) -> Vec<OsString> {
    let port = format!("--secure-port={port}");
    arguments(&[
        &port,
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--etcd-servers=unix://etcd.client:0",
        "--tls-cert-file=kube-apiserver.crt",
        "--tls-private-key-file=kube-apiserver.key",
        "--client-ca-file=ca.crt",
        "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-account-key-file=service-accounts.pub",
        "--service-account-signing-key-file=service-accounts.key",
        "--service-cluster-ip-range=10.96.0.0/16",
        // Nothing answers behind the Service `kubernetes`: a loopback address is no valid endpoint.
        "--endpoint-reconciler-type=none",
        "--audit-policy-file=audit-policy.yaml",
        "--audit-log-path=audit.log",
        "--profiling=false",
    ])
}

fn controller_arguments() -> Vec<OsString> {
    let controllers = format!("--controllers={CONTROLLERS}");
    arguments(&[
        &controllers,
        "--kubeconfig=controllers.kubeconfig",
        "--service-account-private-key-file=service-accounts.key",
        "--root-ca-file=ca.crt",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        // It serves nothing that a test would ask.
        "--secure-port=0",
    ])
}

fn arguments(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}
