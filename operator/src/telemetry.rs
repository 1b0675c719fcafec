//! Logs: on standard error, as text or as JSON lines. Called once, by `main`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Logs};

/// Starts logging; a second call changes nothing.
pub fn start(logs: &Logs) {
    let filter = EnvFilter::builder().parse_lossy(&logs.filter);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Fails only where a subscriber is set already, as in tests.
    let _ = match logs.format {
        LogFormat::Json => builder.json().flatten_event(true).with_target(false).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
    };
}
