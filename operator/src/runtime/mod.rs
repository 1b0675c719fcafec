//! What every room may use: metrics, readiness, errors as texts, points at which tests end the process.

pub mod failpoint;
pub mod metrics;
pub mod readiness;
