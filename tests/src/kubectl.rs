//! `kubectl`, as a user types it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context, Result, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A kubectl that speaks to one cluster as one user.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    /// `cache` is where it keeps what it has discovered: by address, so two clusters must not share it.
    pub fn new(program: PathBuf, kubeconfig: PathBuf, cache: PathBuf) -> Kubectl {
        Kubectl { program, kubeconfig, cache }
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Where the program is; in the user's cluster it is the one on the search path.
    pub fn directory(&self) -> &Path {
        self.program.parent().unwrap_or(Path::new(""))
    }

    /// Runs kubectl and returns what it printed. A failure carries what it printed to standard error.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with(arguments, "").await
    }

    /// Like [`run`](Self::run), with something to read: `run_with(&["apply", "-f", "-"], manifest)`.
    pub async fn run_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.output(arguments, input).await?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {} failed: {complaint}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a kubectl that must fail, and returns its complaint.
    pub async fn refused(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.output(arguments, input).await?;
        let printed = String::from_utf8_lossy(&output.stdout);
        ensure!(!output.status.success(), "kubectl {} should have failed, but printed {printed}", arguments.join(" "));
        Ok(String::from_utf8(output.stderr)?)
    }

    /// Runs kubectl to its end without a runtime and without a result: for what a test leaves behind.
    pub fn run_detached(&self, arguments: &[&str]) {
        let mut command = std::process::Command::new(&self.program);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig).env("KUBECACHEDIR", &self.cache);
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }

    async fn output(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig).env("KUBECACHEDIR", &self.cache);
        // A user's preferences (aliases, default flags) are none of ours.
        command.env("KUBERC", "off");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("failed to start {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        // Manifests are smaller than what kubectl reads before it answers; one that ends early closes the pipe, which is
        // no failure of its own.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        Ok(child.wait_with_output().await?)
    }
}
