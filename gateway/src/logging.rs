//! Where log lines go: standard error, as text or JSON. Panics become log lines too.

use std::backtrace::Backtrace;
use std::io::IsTerminal;

use tracing::error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::args::{Config, LogFormat};

/// Starts logging; once in a process.
pub fn start(config: &Config) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(&config.log)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first.
    let _ = match config.log_format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        // Captured only with RUST_BACKTRACE.
        let backtrace = Backtrace::capture();
        error!(at, what = panic.payload_as_str(), %backtrace, "A task panicked.");
    }));
    Ok(())
}
