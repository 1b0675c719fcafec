//! Where log lines go: standard error, as text or JSON, and never at the cost of serving. Panics become log lines too.

use std::backtrace::Backtrace;
use std::io::IsTerminal;

use tracing::error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::args::{Config, LogFormat};
use crate::runtime::log_writer::{Flush, LogWriter};

/// Starts logging; once in a process. What is returned writes the last lines at the end of `main`.
pub fn start(config: &Config) -> Result<Flush, ParseError> {
    let filter = EnvFilter::try_new(&config.log)?;
    let (writer, flush) = LogWriter::to_standard_error();
    // What the subscriber itself has to say, it would write to standard error and wait.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
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
    Ok(flush)
}

#[cfg(test)]
mod tests {
    #[test]
    fn operator_and_gateway_have_the_same_log_writer() {
        assert_eq!(
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/runtime/log_writer.rs")),
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../operator/src/runtime/log_writer.rs"))
        );
    }
}
