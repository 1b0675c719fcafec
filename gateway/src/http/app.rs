//! The parts of the public port, and one channel's request to it.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Uri};

use crate::auth::authenticator::Authority;
use crate::channel::hub::Hub;
use crate::delivery::workers::Shards;
use crate::http::lingering::Lingering;
use crate::http::request_limits::RequestLimits;
use crate::limits::client::Client;
use crate::limits::usage::Clients;
use crate::metrics::registry::Metrics;
use crate::routes::{InForce, Routes, Served};
use crate::runtime::drain::Drain;
use crate::server::connection_limit::Room;
use crate::server::upgrade::Offer;

/// The public port.
pub struct App {
    /// The Routes in force.
    pub routes: Arc<Routes>,
    /// Who requests come from.
    pub authority: Arc<Authority>,
    /// Where streams come from and publications go to.
    pub hub: Hub,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether the process is on its way out.
    pub drain: Arc<Drain>,
    /// What every client has in use.
    pub clients: Arc<Clients>,
    /// What writes event streams to sockets that connections offer. Without it hyper writes all of them.
    pub shards: Option<Shards>,
    /// How much room there is for connections.
    pub room: Arc<Room>,
    /// What a request may cost.
    pub limits: RequestLimits,
    /// Whether `/` is the demo page.
    pub demo: bool,
    /// Whether the port speaks TLS.
    pub tls: bool,
    /// What is left of bodies that were refused.
    pub lingering: Lingering,
}

/// One channel's request: all that is known before the channel is looked at.
pub struct Call<'r> {
    /// `namespace/name` of the path.
    pub key: &'r str,
    /// The whole address. It may hold a token.
    pub uri: &'r Uri,
    /// The headers.
    pub headers: &'r HeaderMap,
    /// The Routes that were in force when the request came.
    pub routes: &'r InForce,
    /// The Route, if there is one among them.
    pub served: Option<Arc<Served>>,
    /// When it came.
    pub started: Instant,
    /// Where it comes from.
    pub client: Client,
    /// The connection, if it can be taken over.
    pub offer: Option<Offer>,
}
