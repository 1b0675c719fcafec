//! What every room may use: metrics, readiness, errors as texts, points at which tests end the process.

pub mod chain;
pub mod failpoint;
pub mod log_writer;
pub mod metrics;
pub mod readiness;
