//! A helper process that cleans up after a test process, however that ends.
//!
//! A value in a `static` is never dropped, and a killed process drops nothing at all. So whoever shares a server between
//! the tests of a binary tells a reaper about it: a shell that waits for the end of its standard input, which the kernel
//! closes when the test process is gone, then kills the processes it was told about and removes their directory.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Reads "+ pid" and "- pid" lines until the end of its input. `rm` is tried twice: a killed process may still be on its way out.
const SCRIPT: &str = r#"
pids=
while read -r verb pid; do
    left=
    for known in $pids; do [ "$known" = "$pid" ] || left="$left $known"; done
    [ "$verb" = - ] || left="$left $pid"
    pids=$left
done
[ -z "$pids" ] || kill -KILL $pids 2>/dev/null
[ -z "$1" ] || rm -rf "$1" 2>/dev/null || { sleep 1; rm -rf "$1"; }
"#;

/// Kills what it knows and removes its directory when it is dropped, or when this process ends without dropping it.
#[derive(Debug)]
pub struct Reaper {
    shell: Child,
}

impl Reaper {
    /// Starts a reaper that will remove `directory`. With `TIDINGS_TEST_KEEP` set, directories (and the logs in them) stay.
    pub fn start(directory: Option<&Path>) -> Result<Reaper> {
        let directory = directory.filter(|_| std::env::var_os("TIDINGS_TEST_KEEP").is_none());
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "reaper"]).arg(directory.unwrap_or(Path::new("")));
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        // Out of the terminal's foreground group: Ctrl-C ends the tests, and then the reaper does its work.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Ok(Reaper { shell: command.spawn().context("failed to start the reaper")? })
    }

    /// From now on the process dies with this one.
    pub fn watch(&mut self, pid: u32) -> Result<()> {
        self.tell('+', pid)
    }

    /// The process has been waited for; its id may belong to another one from now on.
    pub fn forget(&mut self, pid: u32) -> Result<()> {
        self.tell('-', pid)
    }

    fn tell(&mut self, verb: char, pid: u32) -> Result<()> {
        let input = self.shell.stdin.as_mut().context("the reaper has no input")?;
        writeln!(input, "{verb} {pid}").context("failed to write to the reaper")
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
