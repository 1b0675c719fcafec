//! Where log lines go: standard error, as text or JSON, and never at the cost of serving. Panics become log lines too.

use std::backtrace::Backtrace;
use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::log_writer::{Flush, LogWriter};

/// Text for people, JSON for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging; once in a process. JSON lines have the module that speaks if there are `targets`. What is returned writes
/// the last lines at the end of `main`.
pub fn start(filter: EnvFilter, format: LogFormat, targets: bool) -> Flush {
    let (writer, flush) = LogWriter::to_standard_error();
    // What the subscriber itself has to say, it would write to standard error and wait.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    // A second start in one process (tests) keeps the first.
    let _ = match format {
        LogFormat::Json => builder.json().flatten_event(true).with_target(targets).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        // Captured only with RUST_BACKTRACE.
        let backtrace = Backtrace::capture();
        error!(at, what = panic.payload_as_str(), %backtrace, "A task panicked.");
    }));
    flush
}
