//! The cluster with real nodes does what the end-to-end tests rely on. Needs root and containerd, so it runs only when asked for.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kube::runtime::conditions::is_deployment_completed;
use kube::runtime::wait::{Condition, await_condition};
use tidings_tests::node_cluster::NodeCluster;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(120);

/// Two servers on two nodes, and a Service before them.
const SERVERS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: { name: servers }
data: { Corefile: ".:1053 {\n ready :8181\n}\n" }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: servers }
spec:
  replicas: 2
  selector: { matchLabels: { app: servers } }
  template:
    metadata: { labels: { app: servers } }
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
        - { maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: { matchLabels: { app: servers } } }
      containers:
        - name: server
          image: tidings.test/coredns:latest
          imagePullPolicy: Never
          args: [-conf, /config/Corefile]
          readinessProbe: { httpGet: { path: /ready, port: 8181 }, periodSeconds: 1 }
          volumeMounts: [{ name: config, mountPath: /config }]
      volumes: [{ name: config, configMap: { name: servers } }]
---
apiVersion: v1
kind: Service
metadata: { name: servers }
spec:
  clusterIP: 10.96.0.80
  selector: { app: servers }
  ports: [{ port: 80, targetPort: 8181 }]
"#;

/// The first line of the answer to a GET.
async fn get(address: Ipv4Addr, port: u16, path: &str) -> Result<String> {
    let answer = timeout(Duration::from_secs(5), async {
        let mut stream = TcpStream::connect((address, port)).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    });
    let answer = answer.await.with_context(|| format!("{address}:{port} does not answer"))??;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

async fn pods(pods: &Api<Pod>) -> Result<Vec<Pod>> {
    let listed = pods.list(&ListParams::default().labels("app=servers")).await?;
    Ok(listed.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
}

fn nodes_of(pods: &[Pod]) -> BTreeSet<&str> {
    pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref()).collect()
}

fn is_lost() -> impl Condition<Node> {
    |node: Option<&Node>| {
        let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status != "True")
    }
}

#[tokio::test]
#[ignore = "part of make e2e: needs root and containerd"]
async fn pods_run_on_both_nodes_and_outlive_one() -> Result<()> {
    let mut nodes = NodeCluster::start(2).await?;
    let client = nodes.cluster().client().await?;
    let kubectl = nodes.cluster().kubectl();
    let namespace = nodes.cluster().namespace("nodes").await?;
    let apply = ["apply", "-n", namespace.name(), "-f", "-"];
    kubectl.run_with(&apply, SERVERS).await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace.name());
    let completed = await_condition(deployments.clone(), "servers", is_deployment_completed());
    timeout(PATIENCE, completed).await.context("the servers are not ready")??;

    let running = Api::<Pod>::namespaced(client.clone(), namespace.name());
    let before = pods(&running).await?;
    assert_eq!(nodes_of(&before), BTreeSet::from(["node1", "node2"]));
    for pod in &before {
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).context("no address")?;
        assert_eq!(get(address.parse()?, 8181, "/ready").await?, "HTTP/1.0 200 OK");
        let log = kubectl.run(&["logs", "-n", namespace.name(), &pod.name_any()]).await?;
        assert!(log.contains("CoreDNS"), "{log}");
    }
    let service = Ipv4Addr::new(10, 96, 0, 80);
    assert_eq!(get(service, 80, "/ready").await?, "HTTP/1.0 200 OK");
    let version = ["exec", "-n", namespace.name(), "deploy/servers", "--", "/coredns", "-version"];
    assert!(kubectl.run(&version).await?.contains("CoreDNS"));

    nodes.kill_node(2)?;
    let lost = await_condition(Api::<Node>::all(client.clone()), "node2", is_lost());
    timeout(PATIENCE, lost).await.context("nobody notices that the node is gone")??;
    // The lost pod is replaced after its toleration of 3 s; until then the Deployment still counts it as available.
    let gone =
        before.iter().find(|pod| nodes_of(std::slice::from_ref(*pod)).contains("node2")).context("no pod there")?;
    let deleting = |pod: Option<&Pod>| pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
    timeout(PATIENCE, await_condition(running.clone(), &gone.name_any(), deleting)).await.context("it stays")??;
    timeout(PATIENCE, await_condition(deployments, "servers", is_deployment_completed()))
        .await
        .context("not replaced")??;
    assert_eq!(nodes_of(&pods(&running).await?), BTreeSet::from(["node1"]));
    assert_eq!(get(service, 80, "/ready").await?, "HTTP/1.0 200 OK");
    Ok(())
}
