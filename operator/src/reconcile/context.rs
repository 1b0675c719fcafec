//! What every reconcile works with.

use std::sync::Arc;

use tidings_crds::desired::Installation;

use crate::nats::streams::Streams;
use crate::runtime::metrics::Metrics;

/// What every reconcile works with.
#[derive(Clone)]
pub struct Context<R> {
    /// NATS.
    pub streams: Streams,
    /// Where Routes go.
    pub routes: R,
    /// What the administrator has set.
    pub installation: Arc<Installation>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}
