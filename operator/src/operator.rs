//! Puts the parts together: admin port, NATS and a front end.

use std::sync::Arc;

use tidings_crds::desired::Installation;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::admin::Admin;
use crate::config::{Config, Front};
use crate::files::Files;
use crate::metrics::Metrics;
use crate::ready::Ready;
use crate::reconcile::Context;
use crate::routes::{RouteFileError, RouteFiles};
use crate::settings::{Settings, SettingsError};
use crate::streams::{ConnectError, Streams};

/// Why the operator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings file.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The admin port.
    #[error("failed to open the admin port {address}")]
    Admin {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// NATS cannot even be tried.
    #[error(transparent)]
    Nats(#[from] ConnectError),
    /// The directory of Routes.
    #[error(transparent)]
    Routes(#[from] RouteFileError),
}

/// Runs until shutdown.
///
/// # Errors
/// Only at the start, for what no waiting repairs.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), StartError> {
    let settings = Settings::read(config.settings.as_deref())?;
    let metrics = Arc::new(Metrics::new());
    let ready = Arc::new(Ready::default());
    let admin = Admin::bind(&config.admin, Arc::clone(&metrics), Arc::clone(&ready))
        .await
        .map_err(|source| StartError::Admin { address: config.admin.to_string(), source })?;
    let tasks = TaskTracker::new();
    tasks.spawn(admin.serve(shutdown.clone()));
    let streams = Streams::connect(&config.nats, Arc::clone(&metrics), Arc::clone(&ready)).await?;
    let installation = Arc::new(Installation { cluster: config.cluster, grants: settings.grants });
    info!(cluster = installation.cluster, "Operator started.");
    match config.front {
        Front::Files(files) => {
            let routes = RouteFiles::open(&files.routes, &installation.cluster, Arc::clone(&metrics))?;
            let ctx = Context { streams, routes, installation, metrics };
            Files::new(files, ctx, config.resync, ready).serve(shutdown).await;
        }
    }
    tasks.close();
    tasks.wait().await;
    info!("Operator ended.");
    Ok(())
}
