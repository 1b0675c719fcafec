//! What the tasks of the gateway share.

use std::sync::Arc;

use crate::auth::authenticator::Authority;
use crate::channel::hub::Hub;
use crate::metrics::registry::Metrics;
use crate::routes::Routes;
use crate::runtime::drain::Drain;
use crate::server::connection_limit::Room;

/// What the tasks of the gateway share.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) routes: Arc<Routes>,
    pub(super) authority: Arc<Authority>,
    pub(super) hub: Hub,
    pub(super) metrics: Arc<Metrics>,
    pub(super) drain: Arc<Drain>,
    pub(super) room: Arc<Room>,
}
