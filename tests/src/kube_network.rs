//! The network of a cluster with nodes: 10.99.0.0/24 between the nodes and this machine, pods in `10.244.<node>.0/24`,
//! Services in 10.96.0.0/16, all of them reachable from this machine.
//!
//! A bridge in a namespace of its own connects everybody. What is visible outside is one interface and a few routes over
//! it; they vanish with the bridge's namespace, which ends with the process that holds it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{Process, Program};

/// This machine's address in the network.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 254);
/// This machine's interface. There is one cluster with nodes on a machine at a time.
const INTERFACE: &str = "tidings0";

/// The bridge and this machine's way to it.
#[derive(Debug)]
pub(crate) struct KubeNetwork {
    _switch: Process,
    switch_pid: String,
}

/// The address of a node; nodes count from 1.
pub(crate) fn node_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, number)
}

impl KubeNetwork {
    /// Makes the bridge, and this machine's interface with its address.
    pub(crate) async fn start() -> Result<KubeNetwork> {
        ensure!(
            !Path::new("/sys/class/net").join(INTERFACE).exists(),
            "the interface {INTERFACE} exists: another test cluster is running"
        );
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/switch.sh");
        let switch = Program::new("switch", "unshare").args(["--net", "--fork", "--kill-child"]).arg(script).start();
        let switch_pid = child_of(&switch).await;
        let network = KubeNetwork { _switch: switch, switch_pid };
        let bridge = || std::future::ready(network.inside(&["ip", "link", "show", "switch0", "up"]));
        network._switch.ready(bridge).await;
        ip(&["link", "add", INTERFACE, "type", "veth", "peer", "name", "host0", "netns", &network.switch_pid])?;
        network.plug("host0")?;
        ip(&["addr", "add", &format!("{HOST}/24"), "dev", INTERFACE])?;
        ip(&["link", "set", INTERFACE, "up"])?;
        Ok(network)
    }

    /// Connects a node: its first process gets the interface `eth0` into its namespace.
    pub(crate) fn connect(&self, number: u8, pid: &str) -> Result<()> {
        let port = format!("node{number}");
        self.inside(&["ip", "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", pid])?;
        self.plug(&port)?;
        ip(&["route", "add", &format!("10.244.{number}.0/24"), "via", &node_address(number).to_string()])
    }

    /// Sends what goes to Services from this machine through a node, whose kube-proxy answers for them.
    pub(crate) fn route_services(&self, through: u8) -> Result<()> {
        ip(&["route", "replace", "10.96.0.0/16", "via", &node_address(through).to_string()])
    }

    fn plug(&self, port: &str) -> Result<()> {
        self.inside(&["ip", "link", "set", port, "master", "switch0", "up"])
    }

    fn inside(&self, command: &[&str]) -> Result<()> {
        run("nsenter", &[&["--target", &self.switch_pid, "--net"], command].concat())
    }
}

/// The process that `unshare --fork` runs in the new namespaces.
pub(crate) async fn child_of(unshare: &Process) -> String {
    let pid = unshare.id();
    let children = format!("/proc/{pid}/task/{pid}/children");
    let first = || std::fs::read_to_string(&children).ok()?.split_whitespace().next().map(str::to_owned);
    unshare.ready(|| std::future::ready(first())).await
}

fn ip(arguments: &[&str]) -> Result<()> {
    run("ip", arguments)
}

/// Runs a short command to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("failed to run {program}"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} failed: {}", arguments.join(" "), complaint.trim());
    }
    Ok(())
}
