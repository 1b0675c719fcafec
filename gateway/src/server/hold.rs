//! What a connection holds for as long as its socket is open, whichever task owns it.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::metrics::registry::Metrics;
use crate::server::address_limit::AddressPlace;

/// What a connection takes up: of all there is room for, and of what its address may have.
pub type Places = (OwnedSemaphorePermit, Option<AddressPlace>);

/// What a connection holds for as long as its socket is open, whichever task owns it.
#[derive(Debug)]
pub struct Held {
    _places: Places,
    _open: Option<Open>,
}

/// Counts one connection for as long as it is there, however it ends.
#[derive(Debug)]
pub struct Open(Arc<Metrics>);

// === impl Held ===

impl Held {
    /// With these places, and counted as open.
    pub fn new(places: Places, open: Option<Open>) -> Self {
        Self { _places: places, _open: open }
    }
}

// === impl Open ===

impl Open {
    /// From now on.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        metrics.connection_opened();
        Self(metrics)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}
