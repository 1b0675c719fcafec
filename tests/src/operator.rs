//! One real `tidings-operator` on directories: Channel manifests in, Routes out.

use std::path::Path;

use crate::evidence;
use crate::ports::Port;
use crate::process::{Process, Program};

/// The binary's name.
pub const BINARY: &str = "tidings-operator";

/// An operator, running or not.
#[derive(Debug)]
pub struct Operator {
    program: Program,
    process: Option<Process>,
    admin: Port,
}

// === impl Operator ===

impl Operator {
    /// Starts an operator. It is at work when Routes appear.
    pub fn start(nats: &str, channels: &Path, routes: &Path, arguments: &[String]) -> Self {
        let admin = Port::free();
        let program = Program::built(BINARY)
            .named("operator")
            .args(["--nats", nats, "--admin", &admin.address().to_string()])
            .arg("--channels")
            .arg(channels)
            .arg("--routes")
            .arg(routes)
            .args(["--removal-delay-seconds", "1"])
            .args(arguments.iter().cloned());
        let process = Some(program.start());
        Self { program, process, admin }
    }

    /// Its process.
    ///
    /// # Panics
    /// While it is not started.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the operator was started")
    }

    /// `kill -9`.
    pub fn kill9(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill9();
        }
    }

    /// Starts it again, without waiting.
    pub fn launch(&mut self) {
        self.process = Some(self.program.start());
    }

    /// Starts it again with one variable more, without waiting.
    pub fn launch_with(&mut self, name: &str, value: &str) {
        self.process = Some(self.program.clone().env(name, value).start());
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if self.process.is_some() {
            evidence::scrape(self.admin.address());
        }
    }
}
