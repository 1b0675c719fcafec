//! A helper process that removes the files of a test process, however that ends.
//!
//! A value in a `static` is never dropped, and a killed process drops nothing at all. So whoever shares servers between
//! the tests of a binary starts a reaper: a shell that waits for the end of its standard input, which the kernel closes
//! when the test process is gone, then removes what is left on disk. Processes need no reaper: they die with
//! [`process`](crate::process)'s.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// What killed processes used may be busy for a moment longer, so removing is tried again.
const SCRIPT: &str = r#"
cat >/dev/null
for again in 1 2 3 4 5 6 7 8 9 10; do
    [ -z "$1" ] || rm -rf "$1" 2>/dev/null
    [ -z "$2" ] || find /sys/fs/cgroup -depth -type d -path "*/$2*" -exec rmdir {} + 2>/dev/null
    [ -n "$1" ] && [ -e "$1" ] || [ -n "$2" ] && find /sys/fs/cgroup -type d -name "$2" | grep -q . || break
    sleep 0.5
done
"#;

/// Removes a directory when it is dropped, or when this process ends without dropping it.
#[derive(Debug)]
pub struct Reaper {
    shell: Child,
}

impl Reaper {
    /// Starts a reaper that will remove `directory`. With `TIDINGS_TEST_KEEP` set, it stays, with the logs in it.
    pub fn start(directory: &Path) -> Result<Reaper> {
        Reaper::start_with_cgroup(directory, "")
    }

    /// Starts a reaper that will also remove the control groups of this name.
    pub fn start_with_cgroup(directory: &Path, cgroup: &str) -> Result<Reaper> {
        let keep = std::env::var_os("TIDINGS_TEST_KEEP").is_some();
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "reaper"]).arg(if keep { Path::new("") } else { directory }).arg(cgroup);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        // Out of the terminal's foreground group: Ctrl-C ends the tests, and then the reaper does its work.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Ok(Reaper { shell: command.spawn().context("failed to start the reaper")? })
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
