//! Puts the parts together: admin port, NATS and a front end.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::client::ClientBuilder;
use tidings_crds::desired::Installation;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::admin::Admin;
use crate::config::{Config, Front};
use crate::files::Files;
use crate::kubernetes::config::KubernetesConfig;
use crate::kubernetes::config_maps::RouteMaps;
use crate::kubernetes::controller::Kubernetes;
use crate::kubernetes::crd::Definition;
use crate::kubernetes::finalizer::Finalizers;
use crate::kubernetes::reconciler::Visits;
use crate::kubernetes::watch_pace::WatchPace;
use crate::leader::elector::Elector;
use crate::nats::streams::{ConnectError, Streams};
use crate::reconcile::context::Context;
use crate::reconcile::routes::{RouteFileError, RouteFiles};
use crate::reconcile::settings::{Settings, SettingsError};
use crate::runtime::metrics::Metrics;
use crate::runtime::readiness::Ready;

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
    /// Nothing says where the cluster is.
    #[error("failed to find the Kubernetes cluster")]
    Cluster(#[source] kube::Error),
    /// A part that should work for ever has ended.
    #[error("a task of the operator ended unexpectedly")]
    Ended,
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
    let installation =
        Arc::new(Installation { cluster: config.cluster, grants: settings.grants, quotas: settings.quotas });
    info!(cluster = installation.cluster, "Operator started.");
    match config.front {
        Front::Files(files) => {
            let routes = RouteFiles::open(&files.routes, &installation.cluster, Arc::clone(&metrics))?;
            let ctx = Context { streams, routes, installation, metrics };
            Files::new(files, ctx, config.resync, ready).serve(shutdown).await;
        }
        Front::Kubernetes(kubernetes) => {
            let parts = Parts { streams, installation, metrics, ready, resync: config.resync };
            on_kubernetes(kubernetes, parts, &tasks, shutdown).await?;
        }
    }
    tasks.close();
    tasks.wait().await;
    info!("Operator ended.");
    Ok(())
}

/// A client of the cluster that the environment names.
async fn client(metrics: &Arc<Metrics>) -> kube::Result<Client> {
    let config = kube::Config::infer().await.map_err(kube::Error::InferConfig)?;
    Ok(ClientBuilder::try_from(config)?.with_layer(&WatchPace::new(Arc::clone(metrics))).build())
}

/// What both front ends work with.
struct Parts {
    streams: Streams,
    installation: Arc<Installation>,
    metrics: Arc<Metrics>,
    ready: Arc<Ready>,
    resync: Duration,
}

async fn on_kubernetes(
    config: KubernetesConfig,
    parts: Parts,
    tasks: &TaskTracker,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    let Parts { streams, installation, metrics, ready, resync } = parts;
    let client = client(&metrics).await.map_err(StartError::Cluster)?;
    let (elector, leadership) =
        Elector::new(&client, &config.release, &config.identity, config.lease, Arc::clone(&metrics));
    let routes = RouteMaps::new(&client, &config.release, leadership.clone(), Arc::clone(&metrics));
    let ctx = Context { streams: streams.led_by(leadership.clone()), routes, installation, metrics };
    let visits = Visits {
        ctx,
        finalizers: Finalizers::new(client.clone(), leadership.clone()),
        definition: Definition::new(client.clone(), leadership.clone()),
    };
    let (front, publisher) = Kubernetes::new(client, config, visits, leadership, resync, ready);
    // Leadership is given up only when nobody works any more.
    let idle = CancellationToken::new();
    let election = tasks.spawn(elector.serve(idle.clone()));
    let publishing = tasks.spawn(publisher.serve());
    let in_order = front.serve(shutdown.clone()).await;
    publishing.abort();
    idle.cancel();
    let _ = election.await;
    if !in_order {
        // A process that does half of its work is worse than one that is started again.
        shutdown.cancel();
        return Err(StartError::Ended);
    }
    Ok(())
}
