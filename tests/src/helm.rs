//! `helm`, and the chart as it renders.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::kube_assets::NodeAssets;
use crate::process::repository;

/// A helm that speaks to one cluster, or to none.
#[derive(Clone, Debug)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: Option<PathBuf>,
}

impl Helm {
    /// The one in `HELM`, else the one that is built for the test cluster. Without a cluster it can lint and render.
    pub async fn find() -> Result<Helm> {
        let program = match std::env::var_os("HELM").filter(|path| !path.is_empty()) {
            Some(given) => given.into(),
            None => NodeAssets::find().await?.helm,
        };
        Ok(Helm { program, kubeconfig: None })
    }

    /// The same, for the cluster of a kubeconfig.
    pub fn with(&self, kubeconfig: &Path) -> Helm {
        Helm { program: self.program.clone(), kubeconfig: Some(kubeconfig.to_owned()) }
    }

    /// Runs it and returns what it printed. A failure carries what it printed to standard error.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let (succeeded, out, complaint) = self.output(arguments).await?;
        ensure!(succeeded, "helm {} failed: {complaint}", arguments.join(" "));
        Ok(out)
    }

    /// Runs a helm that must fail, and returns its complaint.
    pub async fn refused(&self, arguments: &[&str]) -> Result<String> {
        let (succeeded, out, complaint) = self.output(arguments).await?;
        ensure!(!succeeded, "helm {} should have failed, but printed {out}", arguments.join(" "));
        Ok(complaint)
    }

    /// The chart as a release `release` in `namespace`, rendered without a cluster.
    pub async fn render(&self, release: &str, namespace: &str, arguments: &[&str]) -> Result<String> {
        let chart = chart();
        self.run(&[&["template", release, &chart, "--namespace", namespace], arguments].concat()).await
    }

    /// The objects that [`render`](Self::render) prints.
    pub async fn objects(&self, release: &str, namespace: &str, arguments: &[&str]) -> Result<Vec<Value>> {
        documents(&self.render(release, namespace, arguments).await?)
    }

    async fn output(&self, arguments: &[&str]) -> Result<(bool, String, String)> {
        let mut command = Command::new(&self.program);
        // The user's plugins, repositories and default cluster are none of ours.
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", std::env::temp_dir());
        command.env("KUBECONFIG", self.kubeconfig.as_deref().unwrap_or(Path::new("/nonexistent")));
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.with_context(|| format!("failed to start {}", self.program.display()))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((output.status.success(), text(output.stdout), text(output.stderr)))
    }
}

/// Where the chart is.
pub fn chart() -> String {
    repository().join("charts/tidings").display().to_string()
}

/// The objects of a YAML stream; empty documents are none.
pub fn documents(yaml: &str) -> Result<Vec<Value>> {
    use serde::Deserialize;
    let documents = serde_yaml::Deserializer::from_str(yaml).map(Value::deserialize);
    let objects = documents.filter(|document| !matches!(document, Ok(Value::Null)));
    objects.collect::<Result<_, _>>().context("not YAML")
}

/// `Kind/name` of an object.
pub fn label(object: &Value) -> String {
    let field = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("{}/{}", field("/kind"), field("/metadata/name"))
}

/// The template of the pods that an object makes, or the pod itself.
pub fn pod_of(object: &Value) -> Option<&Value> {
    match object.get("kind").and_then(Value::as_str)? {
        "Pod" => Some(object),
        _ => object.pointer("/spec/template").filter(|template| template.pointer("/spec/containers").is_some()),
    }
}
