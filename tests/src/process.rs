//! One real process under test.
//!
//! Its output goes to a file that is printed when the test fails. It ends with its [`Process`], and with the test
//! process however that ends: the kernel kills a child when the *thread* that started it goes away, so one thread that
//! lives as long as the test process starts them all.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tempfile::NamedTempFile;

use crate::evidence;
use crate::wait::{Outcome, PATIENCE, eventually};

/// How much of a process's output is printed when its test fails.
const PRINTED: usize = 16 * 1024;

/// A program with its arguments, ready to be started any number of times.
#[derive(Clone, Debug)]
pub struct Program {
    name: String,
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
}

/// A started program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Mutex<Child>,
    pid: Pid,
    output: NamedTempFile,
}

// === impl Program ===

impl Program {
    /// The program at `path`, called `name` in messages.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), path: path.into(), arguments: Vec::new(), environment: Vec::new() }
    }

    /// A binary of this workspace, built into the same `target/<profile>` as the running test.
    ///
    /// # Panics
    /// When it has not been built.
    pub fn built(name: &str) -> Self {
        let test = std::env::current_exe().expect("a running program has a path");
        // target/<profile>/deps/<test>-<hash>
        let profile = test.ancestors().nth(2).expect("a test stands in target/<profile>/deps");
        let path = profile.join(name);
        assert!(path.is_file(), "{} is missing: run `cargo build --workspace --bins` first", path.display());
        Self::new(name, path)
    }

    /// With another name in messages.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// With one more argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With more arguments.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// With an environment variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&self) -> Process {
        let output = evidence::output_file(&self.name);
        // One description for both, or each would write from the start of the file.
        let file = output.reopen().expect("the file was just created");
        self.start_with(output, file)
    }

    /// Starts it with a pipe, or whatever else this is, for its output and errors.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_into(&self, output: impl Into<OwnedFd>) -> Process {
        self.start_with(evidence::output_file(&self.name), File::from(output.into()))
    }

    fn start_with(&self, output: NamedTempFile, file: File) -> Process {
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a descriptor is free"))
            .stderr(file);
        let child = spawn(command).unwrap_or_else(|error| panic!("failed to start {}: {error}", self.path.display()));
        let pid = Pid::from_child(&child);
        Process { name: self.name.clone(), child: Mutex::new(child), pid, output }
    }

    /// Runs it to its end, which must come within [`PATIENCE`], and returns how it ended and what it printed.
    pub async fn run(&self) -> (ExitStatus, String) {
        let process = self.start();
        let status = process.exited().await;
        (status, process.output())
    }
}

// === impl Process ===

impl Process {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        std::fs::read(self.output.path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// How it ended, if it has.
    pub fn status(&self) -> Option<ExitStatus> {
        self.child.lock().expect("no holder panics").try_wait().expect("a child can be waited for")
    }

    /// Waits for readiness; a process that ends first fails at once.
    pub async fn ready<F, A>(&self, mut condition: F) -> <A::Output as Outcome>::Value
    where
        F: FnMut() -> A,
        A: Future<Output: Outcome>,
    {
        eventually(PATIENCE, &format!("{} is ready", self.name), || {
            if let Some(status) = self.status() {
                panic!("{} ended before it was ready: {status}\n{}", self.name, tail(&self.output()));
            }
            condition()
        })
        .await
    }

    /// Waits until it has ended by itself.
    pub async fn exited(&self) -> ExitStatus {
        eventually(PATIENCE, &format!("{} ends", self.name), || std::future::ready(self.status())).await
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill9(&self) {
        let mut child = self.child.lock().expect("no holder panics");
        let _ = child.kill();
        let _ = child.wait();
    }

    /// SIGTERM, without waiting for anything.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&self) -> ExitStatus {
        self.ask_to_end();
        self.exited().await
    }

    /// SIGHUP: it reads its configuration again, if it is of that kind.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGSTOP: it stands still, its sockets stay open.
    pub async fn stop(&self) {
        self.signal(Signal::STOP);
        eventually(Duration::from_secs(10), "the process stands still", || std::future::ready(self.is_stopped())).await;
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// Resident memory, in bytes.
    pub fn memory(&self) -> u64 {
        let pages: u64 = self.stat_field("statm", 1);
        pages * rustix::param::page_size() as u64
    }

    /// Processor time used so far, user and system.
    pub fn cpu(&self) -> Duration {
        let ticks: u64 = self.stat_field::<u64>("stat", 13) + self.stat_field::<u64>("stat", 14);
        Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).map(Iterator::count).unwrap_or_default()
    }

    fn is_stopped(&self) -> bool {
        self.stat_field::<String>("stat", 2) == "T"
    }

    /// A field of `/proc/<pid>/<file>`, counted from 0; the command's name, which may hold spaces, is cut out as one.
    fn stat_field<T: std::str::FromStr<Err: std::fmt::Debug>>(&self, file: &str, field: usize) -> T {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.id())).expect("the process is running");
        let text = match text.split_once('(').zip(text.rsplit_once(')')) {
            Some(((pid, _), (_, rest))) => format!("{pid}name {rest}"),
            None => text,
        };
        text.split_whitespace().nth(field).expect("the file has that many fields").parse().expect("its type")
    }

    fn signal(&self, signal: Signal) {
        // Holding the lock keeps the id from being reaped, and so from being given to another process.
        let mut child = self.child.lock().expect("no holder panics");
        if matches!(child.try_wait(), Ok(None)) {
            kill_process(self.pid, signal).expect("a child that was not reaped can be signalled");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.status();
        self.kill9();
        if std::thread::panicking() {
            let how = ended.map_or_else(|| "still running".to_owned(), |status| status.to_string());
            eprintln!("--- {} (pid {}, {how}) printed:\n{}\n---", self.name, self.id(), tail(&self.output()));
        }
    }
}

/// Whether a process was ended by SIGKILL.
pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}

/// The repository's root, where `scripts/` is.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests stand in a folder of the repository")
}

fn tail(text: &str) -> &str {
    let cut = text.len().saturating_sub(PRINTED);
    let start = (cut..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    text.get(start..).unwrap_or_default()
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
    let (orders, inbox) = mpsc::channel::<Order>();
    std::thread::Builder::new()
        .name("spawner".into())
        .spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(start(&mut command));
            }
        })
        .expect("a thread can be started");
    orders
});

fn spawn(command: Command) -> io::Result<Child> {
    let (answer, result) = mpsc::channel();
    SPAWNER.send((command, answer)).expect("the spawner lives as long as the process");
    result.recv().expect("the spawner answers every order")
}

#[allow(unsafe_code, reason = "there is no safe way to set the death signal between fork and exec")]
fn start(command: &mut Command) -> io::Result<Child> {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; this is one system call.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("shell", "/bin/sh").arg("-c").arg(script)
    }

    #[tokio::test]
    async fn both_outputs_are_captured_and_the_status_is_told() {
        let (status, output) = shell("echo out; echo err >&2; exit 3").run().await;
        assert_eq!((status.code(), output.as_str()), (Some(3), "out\nerr\n"));
    }

    #[tokio::test]
    async fn a_process_can_be_stopped_continued_and_ended() {
        let process = shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done").start();
        process.ready(|| std::future::ready(process.output().contains("up"))).await;
        process.stop().await;
        process.cont();
        assert_eq!(process.terminate().await.code(), Some(0));
        assert!(process.output().ends_with("bye\n"));
    }

    #[tokio::test]
    async fn a_killed_process_is_gone_at_once() {
        let process = shell("exec sleep 1000").start();
        assert!(process.status().is_none() && process.memory() > 0);
        process.kill9();
        assert!(was_killed(process.status().expect("it has ended")));
    }

    #[tokio::test]
    #[should_panic(expected = "ended before it was ready: exit status: 7")]
    async fn a_process_that_ends_is_not_waited_for() {
        let process = shell("exit 7").start();
        process.ready(|| std::future::ready(false)).await;
    }
}
