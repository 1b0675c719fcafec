//! One server process of a test cluster, which can be frozen, killed and started again with the same arguments.
//!
//! Plain `std` processes: a server outlives the runtime of the test that happened to start it.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::reaper::Reaper;

/// A server of the control plane. It is killed when this is dropped.
#[derive(Debug)]
pub struct KubeServer {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    directory: PathBuf,
    reaper: Arc<Mutex<Reaper>>,
    child: Mutex<Option<Child>>,
}

impl KubeServer {
    /// Starts `program`; it runs in `directory` and logs to `<name>.log` there.
    pub fn start(
        name: &str,
        program: PathBuf,
        arguments: Vec<OsString>,
        directory: &Path,
        reaper: Arc<Mutex<Reaper>>,
    ) -> Result<KubeServer> {
        let child = Mutex::new(None);
        let server =
            KubeServer { name: name.to_owned(), program, arguments, directory: directory.to_owned(), reaper, child };
        server.start_again()?;
        Ok(server)
    }

    /// Starts the server once more, after [`kill`](Self::kill): same arguments, same data, same addresses.
    pub fn start_again(&self) -> Result<()> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(child.is_none(), "{} is already running", self.name);
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.directory);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Out of the terminal's foreground group: Ctrl-C reaches the test alone, whose end then ends the servers.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let started = command.spawn().with_context(|| format!("failed to start {}", self.program.display()))?;
        self.reaper.lock().unwrap_or_else(PoisonError::into_inner).watch(started.id())?;
        *child = Some(started);
        Ok(())
    }

    /// Kills the server as a power failure would (SIGKILL) and waits until it is gone. Nothing happens if it is gone already.
    pub fn kill(&self) -> Result<()> {
        let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        child.kill().with_context(|| format!("failed to kill {}", self.name))?;
        child.wait().with_context(|| format!("failed to wait for {}", self.name))?;
        self.reaper.lock().unwrap_or_else(PoisonError::into_inner).forget(child.id())
    }

    /// Freezes the server (SIGSTOP): its connections stay open and nobody answers.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen server go on (SIGCONT).
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Child::id)
    }

    /// Fails, with the end of its log, if the server has ended by itself.
    pub fn check(&self) -> Result<()> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = child.as_mut() else { bail!("{} was stopped", self.name) };
        match running.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; its log ends with\n{}", self.name, self.log_end()),
        }
    }

    /// The last lines of the log.
    pub fn log_end(&self) -> String {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.name))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let id = child.as_ref().map(Child::id).with_context(|| format!("{} is not running", self.name))?;
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).context("a process id does not fit")?;
        kill_process(pid, signal).with_context(|| format!("failed to signal {}", self.name))
    }
}

impl Drop for KubeServer {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
