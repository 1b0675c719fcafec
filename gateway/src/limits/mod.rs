//! Limits per client and per channel: rates, quotas and what is in use.
//!
//! May use `metrics`, `runtime`.

pub mod client;
pub mod forwarded;
pub mod metrics;
pub mod quota;
pub mod token_bucket;
pub mod usage;
