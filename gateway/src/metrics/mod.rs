//! Counters, gauges and histograms, and how they are exposed to Prometheus.
//!
//! May use nothing else in this crate.

pub mod channel;
pub mod instrument;
pub mod label;
pub mod process;
pub mod registry;
