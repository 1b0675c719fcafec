//! The limits in force, as a metric.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::limits::quota::Limit;
use crate::metrics::instrument::{Gauges, write};
use crate::metrics::registry::Metrics;

/// The limits in force.
#[derive(Debug, Default)]
pub struct LimitMetrics {
    limits: Gauges<Limit>,
}

// === impl LimitMetrics ===

impl LimitMetrics {
    /// Exposed with the others.
    pub fn registered(metrics: &Metrics) -> Arc<Self> {
        let limits = Arc::<Self>::default();
        metrics.register(limits.clone());
        limits
    }

    /// A limit in force; 0 is none.
    pub fn set(&self, limit: Limit, most: u64) {
        self.limits.set(limit, most);
    }
}

impl Collector for LimitMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let all = || [(&[][..], self)];
        write(&mut encoder, ("limit", "kind", "Limits in force; 0 where there is none"), all(), |t| &t.limits)
    }
}
