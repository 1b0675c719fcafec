//! Programs pinned to a core, and what the kernel says they have used.

use std::ffi::OsStr;
use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};

/// What processes have used up to now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) cpu: Duration,
    /// Resident, in bytes.
    pub(crate) memory: u64,
}

/// Those of a server have it to themselves.
pub(crate) const SERVER_CORE: &str = "0";
/// The load, and what feeds the server.
pub(crate) const LOAD_CORE: &str = "1";

// === impl Used ===

impl Used {
    /// What a process and its children have used.
    pub(crate) fn by(pid: u32) -> Result<Self> {
        let mut used = Self::default();
        for pid in family(pid) {
            used.cpu += cpu(pid)?;
            used.memory += status(pid, "VmRSS:")?;
        }
        Ok(used)
    }
}

/// The most memory since [`forget_peak`].
pub(crate) fn peak(pid: u32) -> Result<u64> {
    family(pid).into_iter().map(|pid| status(pid, "VmHWM:")).sum()
}

/// Starts to look for the peak anew.
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    family(pid).into_iter().try_for_each(|pid| Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?))
}

/// A program on one core, that is asked to end when we do: killed, it could not end the children that it has.
pub(crate) fn pinned(core: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "taskset", "--cpu-list", core]).arg(program);
    command
}

/// Kills a process and its children, and waits for it.
pub(crate) fn end(child: &mut Child) {
    let family = family(child.id());
    let _ = child.kill();
    for pid in family.into_iter().skip(1).filter_map(|pid| Pid::from_raw(pid as i32)) {
        // Without it nginx' worker would outlive its master, with every file that it has inherited.
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = child.wait();
}

/// What this process, the load, has used.
pub(crate) fn own_cpu() -> Result<Duration> {
    cpu(std::process::id())
}

/// A process and its children: nginx has a worker.
fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    std::iter::once(pid).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
}

/// On the processor, to the nanosecond, over all threads that still live.
fn cpu(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        nanos += text.split_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(Duration::from_nanos(nanos))
}

/// A field of `/proc/PID/status` in bytes.
fn status(pid: u32, name: &str) -> Result<u64> {
    Ok(field(&format!("/proc/{pid}/status"), name)? << 10)
}

fn field(file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
}
