//! A release of the chart in a cluster with real nodes: installed by helm, run by kubelets.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use base64::Engine;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::helm::{Helm, chart};
use crate::kubectl::Kubectl;
use crate::node_cluster::NodeCluster;
use crate::oci_image::OciImage;
use crate::process::repository;
use crate::wait::eventually;

/// Pods start, pull nothing, and wait for each other; on two processors that are busy with more.
const PATIENCE: Duration = Duration::from_secs(240);

/// A cluster with nodes, the images on them, and who may do everything there.
#[derive(Debug)]
pub struct Site {
    /// The cluster.
    pub nodes: NodeCluster,
    /// Its helm.
    pub helm: Helm,
    /// Its kubectl.
    pub kubectl: Kubectl,
}

/// The tag of an image that holds the same programs under another version.
pub const NEXT: &str = "99.0.0-next";
/// An image with the `nats` command line.
pub const NATS_CLIENT: &str = "tidings.test/nats:latest";

/// An installed release.
#[derive(Clone, Debug)]
pub struct ChartRelease<'a> {
    site: &'a Site,
    name: String,
    namespace: String,
}

// === impl Site ===

impl Site {
    /// Starts nodes and imports what the chart's pods need: images of the programs in `PROGRAMS`, else of this build's own.
    pub async fn start(nodes: u8) -> Result<Site> {
        let cluster = NodeCluster::start(nodes).await?;
        let helm = Helm::find().await?.with(cluster.cluster().kubeconfig());
        let kubectl = cluster.cluster().kubectl();
        let site = Site { nodes: cluster, helm, kubectl };
        for archive in IMAGES.get_or_try_init(images).await? {
            site.nodes.import(archive)?;
        }
        Ok(site)
    }

    /// Runs kubectl; words are separated by spaces.
    pub async fn kubectl(&self, words: &str) -> Result<String> {
        self.kubectl.run(&words.split_whitespace().collect::<Vec<_>>()).await
    }

    /// An object as it is now.
    pub async fn get(&self, words: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&format!("get {words} -o json")).await?)?)
    }

    /// A namespace in which only pods run that Pod Security "restricted" allows.
    pub async fn restricted_namespace(&self, name: &str) -> Result<()> {
        self.kubectl(&format!("create namespace {name}")).await?;
        self.kubectl(&format!("label namespace {name} pod-security.kubernetes.io/enforce=restricted")).await?;
        Ok(())
    }

    /// Installs the chart and waits until everything in it is ready. Returns it, and helm's notes.
    pub async fn install(&self, name: &str, namespace: &str, arguments: &[&str]) -> Result<(ChartRelease<'_>, String)> {
        let release = ChartRelease::of(self, name, namespace);
        let notes = release.helm(&["install"], arguments).await?;
        Ok((release, notes))
    }

    /// Runs the `nats` command line in a pod of `namespace` to its end. Returns whether it succeeded and what it printed.
    pub async fn nats(&self, namespace: &str, name: &str, server: &str, arguments: &[&str]) -> Result<(bool, String)> {
        let arguments = [&["--server", server], arguments].concat();
        let pod = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "restartPolicy": "Never",
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "nats",
                    "image": NATS_CLIENT,
                    "imagePullPolicy": "Never",
                    "args": arguments,
                    "env": [{"name": "HOME", "value": "/tmp"}, {"name": "USER", "value": "nats"}],
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }],
            },
        });
        self.kubectl.run_with(&["create", "-f", "-"], &pod.to_string()).await?;
        let phase = eventually(PATIENCE, &format!("the pod {name} ends"), || async {
            let pod = self.get(&format!("pod {name} -n {namespace}")).await.ok()?;
            let phase = pod["status"]["phase"].as_str()?.to_owned();
            ["Succeeded", "Failed"].contains(&phase.as_str()).then_some(phase)
        })
        .await;
        Ok((phase == "Succeeded", self.kubectl(&format!("logs {name} -n {namespace}")).await?))
    }

    /// What to read when something did not work: every pod, and the end of every log.
    pub async fn report(&self) -> String {
        let mut text = self.kubectl("get pods,tch,events -A -o wide").await.unwrap_or_default();
        let pods = self.get("pods -A").await.unwrap_or_default();
        for pod in pods["items"].as_array().into_iter().flatten() {
            let field = |name: &str| pod["metadata"][name].as_str().unwrap_or_default().to_owned();
            let (name, namespace) = (field("name"), field("namespace"));
            if namespace == "kube-system" {
                continue;
            }
            for words in ["", " --previous"] {
                let log = self.kubectl(&format!("logs {name} -n {namespace} --tail=30{words}")).await;
                text.push_str(&format!("\n--- {namespace}/{name}{words}\n{}", log.unwrap_or_default()));
            }
        }
        text
    }
}

/// Packing takes as long as half a test, so all tests of a process share the archives.
static IMAGES: OnceCell<Vec<PathBuf>> = OnceCell::const_new();

async fn images() -> Result<Vec<PathBuf>> {
    let test = std::env::current_exe()?;
    let own = test.ancestors().nth(2).context("a test stands in target/<profile>/deps")?.to_owned();
    let directory = own.join("e2e-images");
    let programs = std::env::var_os("PROGRAMS").map_or(own, PathBuf::from);
    let mut archives = Vec::new();
    for version in [env!("CARGO_PKG_VERSION"), NEXT] {
        let mut command = Command::new(repository().join("scripts/images.sh"));
        command.arg(directory.join(version)).env("PROGRAMS", &programs).env("VERSION", version);
        archives.extend(output(command).await?.lines().filter_map(|line| Some(PathBuf::from(line.split_once(' ')?.1))));
    }
    let mut tool = Command::new(repository().join("scripts/go-tool.sh"));
    tool.args(["nats", "0.5.1", "github.com/nats-io/natscli/nats"]);
    let client = PathBuf::from(output(tool).await?.trim());
    let archive = directory.join("nats.tar");
    OciImage::new(NATS_CLIENT, "/nats")?.program("/nats", &client)?.write(&archive)?;
    archives.push(archive);
    Ok(archives)
}

async fn output(mut command: Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().await?;
    ensure!(output.status.success(), "{:?} failed", command.as_std().get_program());
    Ok(String::from_utf8(output.stdout)?)
}

// === impl ChartRelease ===

impl ChartRelease<'_> {
    /// A release that is installed.
    pub fn of<'a>(site: &'a Site, name: &str, namespace: &str) -> ChartRelease<'a> {
        ChartRelease { site, name: name.to_owned(), namespace: namespace.to_owned() }
    }

    /// `helm upgrade`, and waits until everything is ready.
    pub async fn upgrade(&self, arguments: &[&str]) -> Result<String> {
        self.helm(&["upgrade"], arguments).await
    }

    /// `helm rollback`, and waits until everything is ready.
    pub async fn rollback(&self, revision: u32) -> Result<()> {
        let revision = revision.to_string();
        let words = ["rollback", &self.name, &revision, "--namespace", &self.namespace, "--wait", "--timeout=4m"];
        self.site.helm.run(&words).await?;
        Ok(())
    }

    /// `helm test`.
    pub async fn test(&self) -> Result<String> {
        let words = ["test", &self.name, "--namespace", &self.namespace, "--timeout=4m"];
        self.site.helm.run(&words).await
    }

    /// `helm uninstall`, and waits until everything is gone.
    pub async fn uninstall(&self) -> Result<()> {
        let words = ["uninstall", &self.name, "--namespace", &self.namespace, "--wait", "--timeout=4m"];
        self.site.helm.run(&words).await?;
        Ok(())
    }

    async fn helm(&self, verb: &[&str], arguments: &[&str]) -> Result<String> {
        let chart = chart();
        let fixed = [&self.name, chart.as_str(), "--namespace", &self.namespace, "--wait", "--timeout=4m"];
        self.site.helm.run(&[verb, &fixed[..], arguments].concat()).await
    }

    /// The address of a Service of this release.
    pub async fn address(&self, component: &str) -> Result<Ipv4Addr> {
        let service = self.site.get(&format!("service {}-{component} -n {}", self.name, self.namespace)).await?;
        Ok(service["spec"]["clusterIP"].as_str().context("no address")?.parse()?)
    }

    /// Where browsers find its gateways, from this machine.
    pub async fn gateway(&self) -> Result<String> {
        Ok(format!("http://{}:80", self.address("gateway").await?))
    }

    /// JetStream of its built-in NATS, for an administrator.
    pub async fn jetstream(&self) -> Result<jetstream::Context> {
        let secret = self.site.get(&format!("secret {}-nats -n {}", self.name, self.namespace)).await?;
        let password = secret["data"]["admin-password"].as_str().context("no password")?;
        let password = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(password)?)?;
        let options = async_nats::ConnectOptions::with_user_and_password("admin".into(), password);
        let address = format!("{}:4222", self.address("nats").await?);
        Ok(jetstream::new(options.retry_on_initial_connect().connect(address).await?))
    }
}
