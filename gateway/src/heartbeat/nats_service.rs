//! The gateway as a NATS service, for `nats micro`: who is there, and how each is doing.
//!
//! For people, in the tools they have at hand; the operator goes by [beats](super::sender). Totals only: an answer larger than
//! a message may be ends the library's task for good.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::service::ServiceExt;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::channel::hub::Hub;
use crate::nats::connection::{Link, REQUEST};
use crate::routes::Routes;

/// The name of the service, and the first token of its subject.
const NAME: &str = "tidings-gateway";

/// Its only endpoint, `tidings-gateway.status`: one of the gateways answers.
const ENDPOINT: &str = "status";

/// After a registration that failed or ended.
const AGAIN: Duration = Duration::from_secs(5);

/// What the service says about this gateway.
#[derive(Clone)]
pub struct Service {
    /// What does not change, as in `pod: tidings-gateway-0`.
    pub about: HashMap<String, String>,
    /// The Routes in force.
    pub routes: Arc<Routes>,
    /// Who subscribes.
    pub hub: Hub,
}

/// What one gateway has to say of itself.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'s> {
    #[serde(flatten)]
    about: &'s HashMap<String, String>,
    /// Routes in force.
    routes: u64,
    /// Channels that are read from NATS now.
    channels: u64,
    /// Open streams.
    subscribers: u64,
}

// === impl Service ===

impl Service {
    /// Keeps the gateway registered for ever.
    pub async fn keep(self, link: Link) {
        let mut health = link.health();
        loop {
            if health.wait_for(|health| health.connected).await.is_err() {
                // The link has ended, and with it the process.
                return std::future::pending().await;
            }
            if let Some(client) = link.client() {
                match self.serve(&client).await {
                    // The link has another client by now, or will have.
                    Ok(()) => debug!("The NATS service ended; registering again."),
                    Err(error) => warn!(%error, "Failed to register as a NATS service; trying again."),
                }
            }
            sleep(AGAIN).await;
        }
    }

    /// Returns when the client has ended.
    async fn serve(&self, client: &Client) -> Result<(), async_nats::Error> {
        let stats = self.clone();
        let builder = client
            .service_builder()
            .description("Serves Channels to browsers")
            .metadata(self.about.clone())
            .stats_handler(move |_, _| serde_json::to_value(stats.status()).unwrap_or_default());
        let service = timeout(REQUEST, builder.start(NAME, env!("CARGO_PKG_VERSION"))).await??;
        let mut requests = timeout(REQUEST, service.group(NAME).endpoint(ENDPOINT)).await??;
        info!(subject = %format!("{NAME}.{ENDPOINT}"), "Registered as a NATS service.");
        while let Some(request) = requests.next().await {
            let status = serde_json::to_vec(&self.status())?;
            // The client has gone, or may not be answered: no matter.
            let _ = timeout(REQUEST, request.respond(Ok(status.into()))).await;
        }
        service.stop().await
    }

    fn status(&self) -> Status<'_> {
        Status {
            about: &self.about,
            routes: self.routes.len() as u64,
            channels: self.hub.channels(),
            subscribers: self.hub.subscribers(),
        }
    }
}
