//! Counters, gauges and histograms, and how they are exposed to Prometheus.
//!
//! May use `log` (the reasons for which streams end).

pub mod channel;
pub mod exposition;
pub mod instrument;
pub mod label;
pub mod process;
pub mod registry;
