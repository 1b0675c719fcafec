//! Where the chart is installed: a cluster with nodes of our own, or one of somebody's own, and what a test does there beside
//! helm: objects, pods that run to their end or stay, ways to Services.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::task::AbortHandle;

use crate::chart_images::ChartImages;
use crate::chart_release::ChartRelease;
use crate::evidence;
use crate::helm::Helm;
use crate::kube_cluster::KubeCluster;
use crate::kubectl::Kubectl;
use crate::node_cluster::{NodeCluster, NodeSettings};
use crate::ports::Port;
use crate::wait::eventually;

/// Pods start, pull nothing, and wait for each other; on two processors that are busy with more.
const PATIENCE: Duration = Duration::from_secs(240);

/// A cluster, the images that it reaches, and who may do everything there.
#[derive(Debug)]
pub struct Site {
    /// Its helm.
    pub helm: Helm,
    /// Its kubectl.
    pub kubectl: Kubectl,
    /// The images.
    pub images: ChartImages,
    home: Home,
    /// Namespaces that are to go with this.
    made: Mutex<Vec<String>>,
}

#[derive(Debug)]
enum Home {
    Ours(Box<NodeCluster>),
    Given { cluster: Box<KubeCluster>, defined: bool },
}

/// A way to a port of a Service, from this machine. It stays the same while pods come and go.
#[derive(Debug)]
pub struct Way {
    address: SocketAddr,
    forward: Option<(Port, AbortHandle)>,
}

// === impl Site ===

impl Site {
    /// The cluster that the user offers (`TIDINGS_TEST_CLUSTER`), else one of our own with this many nodes.
    pub async fn start(nodes: u8) -> Result<Site> {
        match KubeCluster::offered()? {
            None => Site::ours(NodeSettings { nodes, ..NodeSettings::default() }).await,
            Some(cluster) => {
                let (helm, kubectl) = (Helm::find().await?.with(cluster.kubeconfig()), cluster.kubectl());
                let defined = kubectl.run(&["get", "crd", "channels.tidings.dev"]).await.is_ok();
                ensure!(
                    !defined,
                    "the cluster has Channels; these tests change their definition, so give them a cluster without"
                );
                let home = Home::Given { cluster: Box::new(cluster), defined };
                Ok(Site { helm, kubectl, images: ChartImages::named(), home, made: Mutex::default() })
            }
        }
    }

    /// A cluster of our own, with the images on its nodes.
    pub async fn ours(settings: NodeSettings) -> Result<Site> {
        let cluster = NodeCluster::start_with(settings).await?;
        let helm = Helm::find().await?.with(cluster.cluster().kubeconfig());
        let kubectl = cluster.cluster().kubectl();
        for (_, archive) in ChartImages::packed().await? {
            cluster.import(archive)?;
        }
        let home = Home::Ours(Box::new(cluster));
        Ok(Site { helm, kubectl, images: ChartImages::ours(), home, made: Mutex::default() })
    }

    /// Whether the cluster is somebody's own: its nodes are not ours to stop.
    pub fn is_given() -> Result<bool> {
        Ok(KubeCluster::offered()?.is_some())
    }

    /// The cluster as its clients see it.
    pub fn cluster(&self) -> &KubeCluster {
        match &self.home {
            Home::Ours(nodes) => nodes.cluster(),
            Home::Given { cluster, .. } => cluster,
        }
    }

    /// Ends a node of ours at once, as a power failure would.
    pub fn kill_node(&mut self, number: u8) -> Result<()> {
        match &mut self.home {
            Home::Ours(nodes) => nodes.kill_node(number),
            Home::Given { .. } => anyhow::bail!("these nodes are not ours"),
        }
    }

    /// Runs kubectl; words are separated by spaces.
    pub async fn kubectl(&self, words: &str) -> Result<String> {
        self.kubectl.run(&words.split_whitespace().collect::<Vec<_>>()).await
    }

    /// `kubectl apply` of one object.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        self.kubectl.run_with(&["apply", "-f", "-"], &object.to_string()).await?;
        Ok(())
    }

    /// An object as it is now.
    pub async fn get(&self, words: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&format!("get {words} -o json")).await?)?)
    }

    /// A new namespace.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        self.kubectl(&format!("create namespace {name}")).await?;
        self.made.lock().expect("nobody panics with it").push(name.to_owned());
        Ok(())
    }

    /// A new namespace in which only pods run that Pod Security "restricted" allows.
    pub async fn restricted_namespace(&self, name: &str) -> Result<()> {
        self.namespace(name).await?;
        self.kubectl(&format!("label namespace {name} pod-security.kubernetes.io/enforce=restricted")).await?;
        Ok(())
    }

    /// Installs the chart and waits until everything in it is ready. Returns it, and helm's notes.
    pub async fn install(&self, name: &str, namespace: &str, arguments: &[&str]) -> Result<(ChartRelease<'_>, String)> {
        let release = ChartRelease::of(self, name, namespace);
        let notes = release.install(arguments).await?;
        Ok((release, notes))
    }

    /// Starts a pod of one container, which Pod Security "restricted" allows. `more` is merged into the pod's specification.
    pub async fn start_pod(&self, namespace: &str, name: &str, container: Value, more: Value) -> Result<()> {
        let mut spec = json!({
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "main",
                "imagePullPolicy": "IfNotPresent",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        });
        merge(&mut spec["containers"][0], container);
        merge(&mut spec, more);
        let labels = json!({"app": name});
        let metadata = json!({"name": name, "namespace": namespace, "labels": labels});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        self.kubectl.run_with(&["create", "-f", "-"], &pod.to_string()).await?;
        Ok(())
    }

    /// Waits for a pod's end. Returns whether it succeeded and what it printed.
    pub async fn ended(&self, namespace: &str, name: &str) -> Result<(bool, String)> {
        let phase = eventually(PATIENCE, &format!("the pod {name} ends"), || async {
            let pod = self.get(&format!("pod {name} -n {namespace}")).await.ok()?;
            let phase = pod["status"]["phase"].as_str()?.to_owned();
            ["Succeeded", "Failed"].contains(&phase.as_str()).then_some(phase)
        })
        .await;
        Ok((phase == "Succeeded", self.kubectl(&format!("logs {name} -n {namespace}")).await?))
    }

    /// Runs the `nats` command line in a pod of `namespace` to its end. Returns whether it succeeded and what it printed.
    pub async fn nats(&self, namespace: &str, name: &str, server: &str, arguments: &[&str]) -> Result<(bool, String)> {
        let arguments = [&["--server", server], arguments].concat();
        let env = json!([{"name": "HOME", "value": "/tmp"}, {"name": "USER", "value": "nats"}]);
        let container = json!({"image": self.images.nats_client(), "args": arguments, "env": env});
        self.start_pod(namespace, name, container, json!({})).await?;
        self.ended(namespace, name).await
    }

    /// A way to a port of a Service: straight to its address in a cluster of our own, else through the API server.
    pub async fn way(&self, namespace: &str, service: &str, port: u16) -> Result<Way> {
        let cluster_ip = self.get(&format!("service {service} -n {namespace}")).await?;
        let cluster_ip = cluster_ip["spec"]["clusterIP"].as_str().context("no address")?.to_owned();
        if let Home::Ours(_) = self.home {
            return Ok(Way { address: SocketAddr::new(cluster_ip.parse()?, port), forward: None });
        }
        let local = Port::free();
        let (kubectl, kubeconfig) = (self.kubectl.program().to_owned(), self.cluster().kubeconfig().to_owned());
        let target =
            [format!("service/{service}"), format!("{}:{port}", local.number()), format!("--namespace={namespace}")];
        // It ends with the pod that it goes to, and is started again.
        let task = tokio::spawn(async move {
            loop {
                let mut command = Command::new(&kubectl);
                command.arg("port-forward").args(&target).env("KUBECONFIG", &kubeconfig).kill_on_drop(true);
                let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        let address = SocketAddr::from(([127, 0, 0, 1], local.number()));
        let way = Way { address, forward: Some((local, task.abort_handle())) };
        eventually(PATIENCE, &format!("a way to {service}"), || tokio::net::TcpStream::connect(address)).await;
        Ok(way)
    }

    /// What every container of a namespace has said, whole; the evidence of the run keeps it as well.
    pub async fn logs(&self, namespace: &str) -> Result<Vec<(String, String)>> {
        let pods = self.get(&format!("pods -n {namespace}")).await?;
        let mut logs = Vec::new();
        for pod in pods["items"].as_array().into_iter().flatten() {
            let name = pod["metadata"]["name"].as_str().context("a pod has a name")?;
            let containers = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
            for container in containers.into_iter().flatten().flatten() {
                let container = container["name"].as_str().context("a container has a name")?;
                let log = self.kubectl(&format!("logs {name} -n {namespace} -c {container} --tail=-1")).await?;
                let name = format!("{namespace}-{name}-{container}");
                std::fs::write(evidence::output_file(&name).path(), &log)?;
                logs.push((name, log));
            }
        }
        Ok(logs)
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

/// Puts the fields of one object into another.
fn merge(into: &mut Value, from: Value) {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let Home::Given { defined, .. } = &self.home else { return };
        let names = std::mem::take(self.made.get_mut().expect("nobody panics with it"));
        if !defined {
            self.kubectl.run_detached(&["delete", "crd", "channels.tidings.dev", "--ignore-not-found"]);
        }
        for name in names {
            self.kubectl.run_detached(&["delete", "namespace", &name, "--ignore-not-found"]);
        }
    }
}

// === impl Way ===

impl Way {
    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.forward {
            task.abort();
        }
    }
}
