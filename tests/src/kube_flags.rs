//! The command lines of the control plane's servers. All files are named relative to the directory they run in.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use crate::process::Program;

/// The controllers that tests without nodes can notice. The others watch everything too and would only cost time.
const CONTROLLERS: &str = "namespace-controller,garbage-collector-controller,serviceaccount-controller,\
                           root-ca-certificate-publisher-controller,clusterrole-aggregation-controller,\
                           endpointslice-controller";

/// Where a control plane listens, and for whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    /// The address of the API server.
    pub(crate) address: Ipv4Addr,
    /// Its port.
    pub(crate) port: u16,
    /// If the cluster has nodes: how long one may be silent. Then all controllers run, and the API server speaks to kubelets.
    pub(crate) node_grace: Option<Duration>,
}

impl Site {
    pub(crate) fn url(&self) -> String {
        format!("https://{}:{}", self.address, self.port)
    }

    pub(crate) fn api_server(&self) -> Vec<OsString> {
        let address = self.address;
        let mut flags = vec![
            format!("--bind-address={address}"),
            format!("--advertise-address={address}"),
            format!("--secure-port={}", self.port),
        ];
        flags.extend(
            [
                "--etcd-servers=unix://etcd.client:0",
                "--tls-cert-file=kube-apiserver.crt",
                "--tls-private-key-file=kube-apiserver.key",
                "--client-ca-file=ca.crt",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-account-key-file=service-accounts.pub",
                "--service-account-signing-key-file=service-accounts.key",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--audit-policy-file=audit-policy.yaml",
                "--audit-log-path=audit.log",
                "--profiling=false",
            ]
            .map(String::from),
        );
        let more: &[&str] = if self.node_grace.is_some() {
            &[
                "--allow-privileged=true",
                "--kubelet-client-certificate=kubelet-client.crt",
                "--kubelet-client-key=kubelet-client.key",
                "--kubelet-certificate-authority=ca.crt",
                "--kubelet-preferred-address-types=InternalIP",
                // Pods of a lost node are replaced after seconds instead of minutes.
                "--default-not-ready-toleration-seconds=3",
                "--default-unreachable-toleration-seconds=3",
            ]
        } else {
            // Nothing answers behind the Service `kubernetes`: a loopback address is no valid endpoint.
            &["--endpoint-reconciler-type=none"]
        };
        flags.extend(more.iter().map(|flag| String::from(*flag)));
        flags.into_iter().map(OsString::from).collect()
    }

    pub(crate) fn controllers(&self) -> Vec<OsString> {
        let mut flags = vec![
            "--kubeconfig=controllers.kubeconfig",
            "--service-account-private-key-file=service-accounts.key",
            "--root-ca-file=ca.crt",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            // It serves nothing that a test would ask.
            "--secure-port=0",
        ];
        let controllers = format!("--controllers={CONTROLLERS}");
        let grace = self.node_grace.map(|grace| format!("--node-monitor-grace-period={}s", grace.as_secs()));
        match &grace {
            Some(grace) => flags.extend([grace, "--enable-hostpath-provisioner=true"]),
            None => flags.push(&controllers),
        }
        flags.into_iter().map(OsString::from).collect()
    }
}

/// A server that runs in `directory`.
pub(crate) fn server(name: &str, program: &Path, directory: &Path) -> Program {
    // `env` becomes the program itself, under the same process id.
    Program::new(name, "env").arg("--chdir").arg(directory).arg(program)
}

/// etcd listens on sockets in its directory, so that it needs no ports.
pub(crate) fn etcd() -> Vec<OsString> {
    let flags = [
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
    ];
    flags.map(OsString::from).to_vec()
}

pub(crate) fn scheduler() -> Vec<OsString> {
    ["--kubeconfig=scheduler.kubeconfig", "--leader-elect=false", "--secure-port=0"].map(OsString::from).to_vec()
}
