//! A release of the chart in a cluster: installed by helm, run by kubelets.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use async_nats::jetstream;
use base64::Engine;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::chart_images::NEXT;
use crate::chart_site::{Site, Way};
use crate::helm::chart;

/// An installed release.
#[derive(Clone, Debug)]
pub struct ChartRelease<'a> {
    site: &'a Site,
    name: String,
    namespace: String,
}

/// The chart that comes next: the same with another version.
static NEXT_CHART: OnceCell<(TempDir, String)> = OnceCell::const_new();

// === impl ChartRelease ===

impl ChartRelease<'_> {
    /// A release that is installed, or will be.
    pub fn of<'a>(site: &'a Site, name: &str, namespace: &str) -> ChartRelease<'a> {
        ChartRelease { site, name: name.to_owned(), namespace: namespace.to_owned() }
    }

    /// `helm install`, and waits until everything is ready. Returns helm's notes.
    pub async fn install(&self, arguments: &[&str]) -> Result<String> {
        self.helm("install", &chart(), false, arguments).await
    }

    /// `helm upgrade` to the next version, and waits until everything is ready.
    pub async fn upgrade(&self, arguments: &[&str]) -> Result<String> {
        let (_, chart) = NEXT_CHART.get_or_try_init(|| async { next_chart() }).await?;
        self.helm("upgrade", chart, true, arguments).await
    }

    /// `helm rollback`, and waits until everything is ready.
    pub async fn rollback(&self, revision: u32) -> Result<()> {
        let revision = revision.to_string();
        let words = ["rollback", &self.name, &revision, "--namespace", &self.namespace, "--wait", "--timeout=4m"];
        self.site.helm.run(&words).await?;
        Ok(())
    }

    /// `helm test`, and what its pod says.
    pub async fn test(&self) -> Result<String> {
        let words = ["test", &self.name, "--namespace", &self.namespace, "--logs", "--timeout=4m"];
        self.site.helm.run(&words).await
    }

    /// `helm uninstall`, and waits until everything is gone.
    pub async fn uninstall(&self) -> Result<()> {
        let words = ["uninstall", &self.name, "--namespace", &self.namespace, "--wait", "--timeout=4m"];
        self.site.helm.run(&words).await?;
        Ok(())
    }

    async fn helm(&self, verb: &str, chart: &str, next: bool, arguments: &[&str]) -> Result<String> {
        let fixed = [verb, &self.name, chart, "--namespace", &self.namespace, "--wait", "--timeout=4m"];
        let images = self.site.images.values(next);
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        self.site.helm.run(&[&fixed[..], &images, arguments].concat()).await
    }

    /// A way to a port of a Service of this release.
    pub async fn way(&self, component: &str, port: u16) -> Result<Way> {
        self.site.way(&self.namespace, &format!("{}-{component}", self.name), port).await
    }

    /// Where pods find its gateways.
    pub fn within(&self) -> String {
        format!("http://{}-gateway.{}.svc:80", self.name, self.namespace)
    }

    /// JetStream of its built-in NATS, for an administrator, at the end of a way to it.
    pub async fn jetstream(&self, nats: &Way) -> Result<jetstream::Context> {
        let secret = self.site.get(&format!("secret {}-nats -n {}", self.name, self.namespace)).await?;
        let password = secret["data"]["admin-password"].as_str().context("no password")?;
        let password = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(password)?)?;
        let options = async_nats::ConnectOptions::with_user_and_password("admin".into(), password);
        let address = nats.address().to_string();
        Ok(jetstream::new(options.retry_on_initial_connect().connect(address).await?))
    }
}

fn next_chart() -> Result<(TempDir, String)> {
    let directory = tempfile::tempdir()?;
    let copy = directory.path().join("tidings");
    copy_tree(&PathBuf::from(chart()), &copy)?;
    let described = copy.join("Chart.yaml");
    let text = std::fs::read_to_string(&described)?.replace(env!("CARGO_PKG_VERSION"), NEXT);
    std::fs::write(described, text)?;
    Ok((directory, copy.display().to_string()))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
