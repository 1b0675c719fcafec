//! What a real API server says to every object of the chart.

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidings_tests::chart_values::{pods, renderings};
use tidings_tests::kube_cluster::KubeCluster;
use tidings_tests::kube_schemas;
use tidings_tests::process::{Program, repository};
use tidings_tests::wait::{PATIENCE, eventually};

/// Kinds that the API server of the tests does not know: their definitions are others'.
const FOREIGN: [&str; 4] = ["PodMonitor", "ServiceMonitor", "PrometheusRule", "HTTPRoute"];

#[tokio::test]
async fn the_api_server_takes_every_object_to_the_letter() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let kubectl = cluster.kubectl();
    for name in ["tidings-system", "shop", "news"] {
        let namespace = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}");
        kubectl.run_with(&["apply", "-f", "-"], &namespace).await?;
    }
    for (values, objects) in renderings().await? {
        let known = objects.into_iter().filter(|object| !FOREIGN.iter().any(|kind| object["kind"] == *kind));
        let known: Vec<_> = known.filter(|object| object["kind"] != "Pod").collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": known}).to_string();
        let dry = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        kubectl.run_with(&dry, &list).await.with_context(|| format!("with {values} values"))?;
    }
    Ok(())
}

#[tokio::test]
async fn kubeconform_finds_nothing_by_the_api_servers_own_schemas() -> Result<()> {
    let mut tool = tokio::process::Command::new(repository().join("scripts/go-tool.sh"));
    tool.args(["kubeconform", "0.8.0", "github.com/yannh/kubeconform/cmd/kubeconform"]);
    // The first time, it is built.
    let output = tool.stdin(Stdio::null()).stderr(Stdio::inherit()).output().await?;
    ensure!(output.status.success(), "kubeconform is not to be had");
    let kubeconform = String::from_utf8(output.stdout)?.trim().to_owned();
    let cluster = KubeCluster::shared().await?;
    let directory = tempfile::tempdir()?;
    let mut kinds = BTreeSet::new();
    let mut files = Vec::new();
    for (values, objects) in renderings().await? {
        let known: Vec<_> =
            objects.into_iter().filter(|object| !FOREIGN.iter().any(|kind| object["kind"] == *kind)).collect();
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        kinds.extend(known.iter().map(|object| (word(&object["apiVersion"]), word(&object["kind"]))));
        let list = json!({"apiVersion": "v1", "kind": "List", "items": known});
        let file = directory.path().join(format!("{values}.yaml"));
        std::fs::write(&file, list.to_string())?;
        files.push(file);
    }
    kube_schemas::write(&cluster.kubectl(), &kinds, directory.path()).await?;
    let schemas = format!("{}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json", directory.path().display());
    let check = |files: Vec<std::path::PathBuf>| {
        let program =
            Program::new("kubeconform", &kubeconform).args(["-strict", "-summary", "-schema-location", &schemas]);
        async move { program.args(files).run().await }
    };
    let (status, output) = check(files).await;
    assert!(status.success(), "{output}");
    assert!(output.contains("Invalid: 0, Errors: 0, Skipped: 0"), "{output}");

    let faulty = directory.path().join("faulty.yaml");
    std::fs::write(&faulty, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {prots: []}}")?;
    let (status, output) = check(vec![faulty]).await;
    assert!(!status.success() && output.contains("prots"), "a fault is found: {output}");
    Ok(())
}

#[tokio::test]
async fn no_pod_is_refused_where_pod_security_is_restricted() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let kubectl = cluster.kubectl();
    let namespace = cluster.namespace("restricted").await?;
    let enforce = ["label", "namespace", namespace.name(), "pod-security.kubernetes.io/enforce=restricted"];
    kubectl.run(&enforce).await?;
    // Pods need a service account; which one does not matter to Pod Security.
    let account = ["get", "serviceaccount", "default", "-n", namespace.name()];
    eventually(PATIENCE, "the default service account", || kubectl.run(&account)).await;
    let create = ["create", "--dry-run=server", "-n", namespace.name(), "-f", "-"];
    let mut seen = 0;
    for (values, objects) in renderings().await? {
        for (maker, template) in pods(&objects) {
            let mut spec = template["spec"].clone();
            spec["serviceAccountName"] = json!("default");
            // That class does not exist here, and nobody makes a pod's claims.
            spec.as_object_mut().context("no spec")?.remove("priorityClassName");
            if maker.starts_with("StatefulSet/") {
                spec["volumes"].as_array_mut().context("no volumes")?.push(json!({"name": "data", "emptyDir": {}}));
            }
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}).to_string();
            kubectl.run_with(&create, &pod).await.with_context(|| format!("{values}: {maker}"))?;
            seen += 1;
        }
    }
    let careless = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"one"},"spec":{"containers":[{"name":"a","image":"a"}]}}"#;
    assert!(kubectl.refused(&create, careless).await?.contains("violates PodSecurity"), "nothing would be refused");
    assert!(seen >= 15, "only {seen} pods");
    Ok(())
}
