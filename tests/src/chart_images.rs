//! The images that pods of the end-to-end tests run: those of the chart, and two that only tests need.
//!
//! All have names below one registry and folder. For a cluster of our own they are packed and imported into its nodes; to a
//! cluster of somebody's own they are given through a registry (docs/testing.md).

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::oci_image::OciImage;
use crate::process::repository;

/// The version that upgrades go to.
pub const NEXT: &str = "99.0.0-next";
/// The version of the `nats` command line.
const NATS_CLIENT: &str = "0.5.1";

/// Names of images.
#[derive(Clone, Debug)]
pub struct ChartImages {
    folder: String,
    /// The tag of what is installed first.
    version: String,
    /// The tag of what it is upgraded to.
    next: String,
}

/// Packing takes as long as half a test, so all tests of a process share the archives.
static PACKED: OnceCell<Vec<(String, PathBuf)>> = OnceCell::const_new();

impl ChartImages {
    /// Those that [`ChartImages::packed`] makes.
    pub fn ours() -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { folder: "ghcr.io/tidings-dev".to_owned(), version, next: NEXT.to_owned() }
    }

    /// Those that `IMAGES`, `VERSION` and `NEXT_VERSION` name, as `scripts/images.sh` understands them. Without a next version
    /// there is one set of programs, and upgrades change the chart alone.
    pub fn named() -> Self {
        let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let ours = Self::ours();
        let version = named("VERSION").unwrap_or(ours.version);
        let next = named("NEXT_VERSION").unwrap_or_else(|| version.clone());
        Self { folder: named("IMAGES").unwrap_or(ours.folder), version, next }
    }

    /// What helm is told about them. `next`: the later version.
    pub fn values(&self, next: bool) -> Vec<String> {
        let tag = if next { &self.next } else { &self.version };
        vec![
            format!("--set=image.repository={}/tidings", self.folder),
            format!("--set=image.tag={tag}"),
            format!("--set=nats.builtIn.image.repository={}/nats-server", self.folder),
        ]
    }

    /// The `nats` command line.
    pub fn nats_client(&self) -> String {
        format!("{}/nats:{NATS_CLIENT}", self.folder)
    }

    /// nats-server, in the version of the chart.
    pub async fn nats_server(&self) -> Result<String> {
        let script = tokio::fs::read_to_string(repository().join("scripts/nats-server.sh")).await?;
        let pinned = script.lines().find_map(|line| line.strip_prefix("version="));
        Ok(format!("{}/nats-server:{}", self.folder, pinned.context("no version is pinned")?))
    }

    /// The program `visitor` of the tests.
    pub fn visitor(&self) -> String {
        format!("{}/visitor:{}", self.folder, self.version)
    }

    /// Every image by name, with its archive: of the programs in `PROGRAMS`, else of this build's own. The next version holds
    /// the same programs under another tag and label.
    pub async fn packed() -> Result<&'static [(String, PathBuf)]> {
        Ok(PACKED.get_or_try_init(pack).await?)
    }
}

async fn pack() -> Result<Vec<(String, PathBuf)>> {
    let images = ChartImages::ours();
    let own = std::env::current_exe()?;
    let profile = own.ancestors().find(|path| path.join("tidings-gateway").is_file());
    let profile = profile.context("the programs are not built: cargo build --workspace --bins")?.to_owned();
    let directory = profile.join("archives-for-e2e");
    let programs = std::env::var_os("PROGRAMS").map_or_else(|| profile.clone(), PathBuf::from);
    let mut archives = Vec::new();
    for version in [&images.version, &images.next] {
        let mut command = Command::new(repository().join("scripts/images.sh"));
        command.arg(directory.join(version)).env("PROGRAMS", &programs).env("VERSION", version);
        let printed = output(command.env("IMAGES", &images.folder)).await?;
        let lines = printed.lines().filter_map(|line| line.split_once(' '));
        archives.extend(lines.map(|(name, archive)| (name.to_owned(), PathBuf::from(archive))));
    }
    let mut tool = Command::new(repository().join("scripts/go-tool.sh"));
    let client = output(tool.args(["nats", NATS_CLIENT, "github.com/nats-io/natscli/nats"])).await?;
    let packed = OciImage::new(&images.nats_client(), "/nats")?.program("/nats", Path::new(client.trim()))?;
    packed.write(&directory.join("nats.tar"))?;
    archives.push((images.nats_client(), directory.join("nats.tar")));

    let root = tempfile::tempdir()?;
    let mut fill = Command::new(repository().join("scripts/image-root.sh"));
    output(fill.arg(root.path()).arg(profile.join("visitor"))).await?;
    let packed = OciImage::new(&images.visitor(), "/usr/local/bin/visitor")?.directory(root.path())?;
    packed.write(&directory.join("visitor.tar"))?;
    archives.push((images.visitor(), directory.join("visitor.tar")));
    Ok(archives)
}

async fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().await?;
    ensure!(output.status.success(), "{:?} failed", command.as_std().get_program());
    Ok(String::from_utf8(output.stdout)?)
}
