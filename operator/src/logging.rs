//! Logs: on standard error, as text or as JSON lines. Called once, by `main`.

use std::backtrace::Backtrace;
use std::io::IsTerminal;

use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Logs};
use crate::runtime::log_writer::{Flush, LogWriter};

/// Starts logging; a second call changes nothing. What is returned writes the last lines when it is dropped.
pub fn start(logs: &Logs) -> Flush {
    let filter = EnvFilter::builder().parse_lossy(&logs.filter);
    let (writer, flush) = LogWriter::to_standard_error();
    // What the subscriber itself has to say, it would write to standard error and wait.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    // Fails only where a subscriber is set already, as in tests.
    let _ = match logs.format {
        LogFormat::Json => builder.json().flatten_event(true).with_target(false).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        error!(at, what = panic.payload_as_str(), backtrace = %Backtrace::capture(), "A task panicked.");
    }));
    flush
}
