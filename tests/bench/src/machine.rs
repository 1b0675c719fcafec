//! Where a run took place, and with what: the first line of its record.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::server::nats_server;

/// Facts that figures depend on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_mb: u64,
    pub(crate) kernel: String,
    pub(crate) open_files: u64,
    pub(crate) tidings: String,
    pub(crate) nats_server: String,
    pub(crate) nginx: String,
    pub(crate) nchan: String,
    /// Seconds since 1970.
    pub(crate) began: u64,
    /// How long each case publishes.
    pub(crate) seconds: f64,
    /// How many subscribers stand for 10,000.
    pub(crate) many: usize,
}

// === impl Machine ===

impl Machine {
    /// This one.
    pub(crate) fn look(seconds: f64, many: usize) -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory =
            field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<u64>().unwrap_or_default() >> 10;
        let nats = nats_server().map(|server| said(&server, &["--version"])).unwrap_or_default();
        Self {
            processor: field("/proc/cpuinfo", "model name"),
            // What there is, not what this process has left of it.
            cores: fs::read_to_string("/proc/cpuinfo").unwrap_or_default().matches("processor\t").count(),
            memory_mb: memory,
            kernel: said("uname", &["-sr"]),
            open_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX),
            tidings: said("git", &["describe", "--always", "--dirty"]),
            nats_server: nats.trim_start_matches("nats-server: ").to_owned(),
            nginx: said("nginx", &["-v"]).trim_start_matches("nginx version: ").to_owned(),
            nchan: said("dpkg-query", &["-W", "-f", "${Version}", "libnginx-mod-nchan"]),
            began: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            seconds,
            many,
        }
    }

    /// As one sentence.
    pub(crate) fn sentence(&self) -> String {
        format!(
            "{} cores of {}, {} GiB, {}; Tidings {}, nats-server {}, {} with nchan {}. {} s of publishing a case.",
            self.cores,
            self.processor,
            self.memory_mb.div_ceil(1024),
            self.kernel,
            self.tidings,
            self.nats_server,
            self.nginx,
            self.nchan,
            self.seconds,
        )
    }
}

/// The first line that a program writes, wherever it writes it; nothing if there is no such program.
fn said(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else { return String::new() };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
}
