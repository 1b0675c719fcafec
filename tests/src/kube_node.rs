//! One node: containerd, kubelet and kube-proxy in namespaces of their own (`cluster/node.sh`).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use crate::control_plane::{ControlPlane, write_identity};
use crate::kube_assets::NodeAssets;
use crate::kube_network::{KubeNetwork, child_of, node_address, run};
use crate::process::{Process, Program};

/// The pod sandbox's image, which [`NodeCluster`](crate::node_cluster::NodeCluster) makes.
pub(crate) const PAUSE: &str = "tidings.test/pause:latest";
/// Below this control group each node has its own.
pub(crate) const CGROUP: &str = "tidings-test";

/// A running node.
#[derive(Debug)]
pub(crate) struct KubeNode {
    number: u8,
    pid: String,
    directory: PathBuf,
    process: Process,
}

impl KubeNode {
    /// Starts node `number` of `nodes`. It imports the images in `images` before its kubelet starts.
    pub(crate) async fn start(
        plane: &ControlPlane,
        network: &KubeNetwork,
        assets: &NodeAssets,
        images: &Path,
        number: u8,
        nodes: u8,
    ) -> Result<KubeNode> {
        let directory = plane.directory().join(format!("node{number}"));
        std::fs::create_dir_all(directory.join("cni"))?;
        std::os::unix::fs::symlink(images, directory.join("images"))?;
        make_cgroup(number)?;
        configure(plane, &directory, number)?;

        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/node.sh");
        let namespaces = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"];
        let process = Program::new(format!("node{number}"), "unshare")
            .args(namespaces)
            .args([&script, &directory])
            .args([number, nodes].map(|count| count.to_string()))
            .args([&assets.kubelet, &assets.kube_proxy])
            .start();
        let pid = child_of(&process).await;
        network.connect(number, &pid)?;
        Ok(KubeNode { number, pid, directory, process })
    }

    pub(crate) fn number(&self) -> u8 {
        self.number
    }

    /// Its name in the API.
    pub(crate) fn name(&self) -> String {
        format!("node{}", self.number)
    }

    /// Ends everything on the node at once, as a power failure would.
    pub(crate) fn kill(self) {
        drop(self.process);
    }

    /// Imports an image archive.
    pub(crate) fn import(&self, archive: &Path) -> Result<()> {
        let archive = archive.to_str().context("the archive's path is not UTF-8")?;
        let enter = ["--target", &self.pid, "--mount", "--pid", "--net"];
        run("nsenter", &[&enter[..], &["ctr", "--namespace", "k8s.io", "images", "import", archive]].concat())
    }

    /// What its programs have to say about why it is not ready.
    pub(crate) fn log_end(&self) -> String {
        let mut text = self.process.output();
        for program in ["containerd", "kubelet", "kube-proxy"] {
            let log = std::fs::read(self.directory.join(format!("{program}.log"))).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let end = lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n");
            text.push_str(&format!("\n--- {program}\n{end}"));
        }
        text
    }
}

/// With control groups of version 1, every hierarchy needs the group before the kubelet looks for it, and a new cpuset has no
/// processors.
fn make_cgroup(number: u8) -> Result<()> {
    let mounted = Path::new("/sys/fs/cgroup");
    let group = |hierarchy: &Path| hierarchy.join(CGROUP).join(format!("node{number}"));
    if mounted.join("cgroup.controllers").exists() {
        std::fs::create_dir_all(group(mounted))?;
        for parent in [mounted.to_owned(), mounted.join(CGROUP)] {
            std::fs::write(parent.join("cgroup.subtree_control"), "+cpu +cpuset +memory +pids")?;
        }
        return Ok(());
    }
    for hierarchy in std::fs::read_dir(mounted)? {
        let hierarchy = hierarchy?.path();
        if hierarchy.ends_with("unified") || hierarchy.is_symlink() || !hierarchy.is_dir() {
            continue;
        }
        std::fs::create_dir_all(group(&hierarchy)).with_context(|| format!("failed to use {}", hierarchy.display()))?;
    }
    let cpuset = mounted.join("cpuset");
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let Ok(all) = std::fs::read_to_string(cpuset.join(name)) else { continue };
        for group in [cpuset.join(CGROUP), group(&cpuset)] {
            std::fs::write(group.join(name), all.trim())?;
        }
    }
    Ok(())
}

fn configure(plane: &ControlPlane, directory: &Path, number: u8) -> Result<()> {
    let (name, address) = (format!("node{number}"), node_address(number));
    let write = |file: &str, text: String| {
        std::fs::write(directory.join(file), text).with_context(|| format!("failed to write {file} of {name}"))
    };
    let at = |file: &str| directory.join(file).display().to_string();
    write_identity(directory, "kubelet", &plane.authority().server(&name, &[address.into()])?)?;
    let kubelet = plane.kubeconfig_of(&name, &format!("system:node:{name}"), Some("system:nodes"))?;
    std::fs::rename(kubelet, directory.join("kubelet.kubeconfig"))?;
    let proxy = plane.kubeconfig_of(&format!("{name}-proxy"), "system:kube-proxy", None)?;
    std::fs::rename(proxy, directory.join("kube-proxy.kubeconfig"))?;
    write("resolv.conf", "nameserver 10.96.0.10\n".to_owned())?;

    let plugins = ["/usr/lib/cni", "/opt/cni/bin"].into_iter().find(|path| Path::new(path).join("bridge").exists());
    let plugins = plugins.context("no CNI plugins: install containernetworking-plugins")?;
    let (root, cni) = (at("containerd"), at("cni"));
    write(
        "containerd.toml",
        // `restrict_oom_score_adj`: without the right to lower that score, every sandbox would fail.
        format!(
            r#"version = 2
root = "{root}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{cni}"
"#
        ),
    )?;
    let subnet = format!("10.244.{number}.0/24");
    let network = json!({"cniVersion": "1.0.0", "name": "test", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true, "ipam": {
            "type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}],
        }},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]});
    write("cni/10-test.conflist", network.to_string())?;
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": plane.directory().join("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": at("kubelet.crt"),
        "tlsPrivateKeyFile": at("kubelet.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{CGROUP}/{name}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        "clusterDomain": "cluster.local",
        "clusterDNS": ["10.96.0.10"],
        "resolvConf": at("resolv.conf"),
        "healthzBindAddress": "127.0.0.1",
        "nodeStatusUpdateFrequency": "5s",
        "maxPods": 60,
        // The machine's disk and memory are not the node's: nothing is evicted or collected because others fill them.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "50Mi", "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%",
        },
    });
    write("kubelet.json", kubelet.to_string())?;
    let proxy = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": at("kube-proxy.kubeconfig")},
        "clusterCIDR": "10.244.0.0/16",
        "hostnameOverride": name,
        // The machine's connection table is not the node's to size.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "healthzBindAddress": "127.0.0.1:10256",
    });
    write("kube-proxy.json", proxy.to_string())
}
