//! One Route in force, with what its channel has in use.

use std::sync::{Arc, OnceLock};

use tidings_crds::route::Route;
use tidings_crds::topic::TopicSet;

use crate::auth::grant::Action;
use crate::auth::policy;
use crate::auth::principal::Caller;
use crate::limits::usage::Usage;
use crate::metrics::registry::{ChannelMetrics, Metrics};

/// One Route in force, with what its channel has in use.
#[derive(Debug)]
pub struct Served {
    /// The Route.
    pub route: Arc<Route>,
    /// What the channel's limits are held against; kept when the Route changes.
    pub usage: Arc<Usage>,
    digest: OnceLock<String>,
    metrics: OnceLock<Arc<ChannelMetrics>>,
    everybody: OnceLock<Option<TopicSet>>,
}

// === impl Served ===

impl Served {
    pub(super) fn new(route: Arc<Route>, usage: Arc<Usage>) -> Self {
        Self { route, usage, digest: OnceLock::new(), metrics: OnceLock::new(), everybody: OnceLock::new() }
    }

    /// [`Route::digest`], computed once: every beat repeats it.
    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| self.route.digest())
    }

    /// The topics that a subscriber may have: [`policy::granted`], computed once if that is everybody's.
    pub fn granted_to_subscribe(&self, caller: Option<&Caller>) -> Option<TopicSet> {
        let granted = || policy::granted(&self.route, Action::Subscribe, caller);
        if policy::is_public(&self.route, Action::Subscribe) {
            return self.everybody.get_or_init(granted).clone();
        }
        granted()
    }

    /// The counts of the channel, looked up with its first use: idle channels get no series.
    pub fn metrics(&self, metrics: &Metrics) -> &Arc<ChannelMetrics> {
        self.metrics.get_or_init(|| metrics.channel(&self.route.key()))
    }
}
