//! The whole gateway: binds, connects, serves, and leaves when asked to.
//!
//! Every task is owned here. The tasks of the core (`core_tasks`) never end while the gateway serves; if one does, the process ends
//! with an error, and its supervisor starts a new one. `shutdown` is how it leaves.

mod core_tasks;
mod parts;
mod shutdown;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::info;

use crate::auth::authenticator::Authority;
use crate::auth::current_settings::Rules;
use crate::channel::hub::{Hub, HubSettings};
use crate::config::args::Config;
use crate::config::settings::Settings;
use crate::config::settings_file::{self, SettingsFile, SettingsFileError};
use crate::delivery::workers::Shards;
use crate::http::app::App;
use crate::http::lingering::Lingering;
use crate::http::router::MAX_URI_BYTES;
use crate::limits::metrics::LimitMetrics;
use crate::limits::quota::Limit;
use crate::metrics::registry::Metrics;
use crate::nats::connections::{Broker, BrokerError, BrokerOptions};
use crate::routes::config_maps::ClusterError;
use crate::run::parts::Parts;
use crate::run::shutdown::Leaving;
use crate::runtime::drain::{Drain, DrainTimes};
use crate::runtime::tasks::CoreTasks;
use crate::server::accept::Port;
use crate::server::address_limit::AddressLimit;
use crate::server::connection::{Departure, Protocol};
use crate::server::connection_limit::Room;
use crate::server::listener::{ListenFailed, Listener, listen};
use crate::server::memory_limit::memory_limit;
use crate::server::tls::{Tls, TlsError};
use crate::signal::{Ask, Signals};

/// Why the gateway ended in an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A port is taken, or not ours.
    #[error(transparent)]
    Listen(#[from] ListenFailed),
    /// The certificate is not usable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address of NATS is none, or the login cannot be read.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// There is no cluster to read Routes from.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The settings file is none.
    #[error(transparent)]
    Settings(#[from] SettingsFileError),
    /// The kernel refuses what a shard needs.
    #[error("failed to start the shards")]
    Shards(#[source] std::io::Error),
    /// A task that must not end has ended.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}

/// What NATS lists the connections as.
const NAME: &str = "tidings-gateway";

/// Ctrl-C: no load balancer, and a person who waits.
const QUICK: DrainTimes = DrainTimes { delay: Duration::ZERO, window: Duration::from_secs(1) };

/// Runs the gateway until a signal ends it, or a fault.
pub async fn run(config: Config, mut signals: Signals) -> Result<(), RunError> {
    let metrics = Metrics::new(config.metrics_channels);
    let (file, settings) = match &config.settings {
        Some(path) => SettingsFile::open(path.clone()).map(|(file, settings)| (Some(file), settings))?,
        None => (None, Settings::default()),
    };
    let silence = config.connections.peer_timeout;
    // Both ports before anything else: a taken one is the most likely fault.
    let (admin, public) = (listen(config.admin, silence)?, listen(config.listen, silence)?);
    let tls = config.tls.clone().map(|files| Tls::open(files, metrics.clone())).transpose()?;
    let tasks = CoreTasks::default();
    let options = BrokerOptions { nats: config.nats.clone(), name: NAME.to_owned() };
    let broker = Broker::connect(&options, metrics.clone(), tasks.clone())?;
    let core_link = broker.core();
    let hub = Hub::new(broker, metrics.clone(), HubSettings::default());

    let limits = LimitMetrics::registered(&metrics);
    settings_file::enforce(&settings.limits, &hub, &limits);
    let authority = Authority::new(Arc::new(Rules::new(settings.auth, settings.limits)), &metrics);
    let room = Arc::new(Room::within_limits(config.connections.connections, memory_limit(), tls.is_some()));
    let proxies = config.requests.trusted_proxies.clone();
    let addresses = AddressLimit::new(config.connections.per_address, room.most(), proxies);
    expose_limits(&config, &room, &addresses, &limits);
    announce(&public, &admin, tls.is_some(), &room);
    let parts = Parts { routes: Arc::default(), authority, hub, metrics, drain: Arc::new(Drain::new()), room };

    let mut core = JoinSet::new();
    let shards = Shards::start(&mut core, config.connections.write_timeout).map_err(RunError::Shards)?;
    core_tasks::serve_admin(&mut core, &parts, admin, &config.connections);
    let (tls, follower) = tls.unzip();
    if let Some(follower) = follower {
        core_tasks::follow_certificate(&mut core, follower);
    }
    let about = core_tasks::follow_routes(&mut core, &parts, config.source.clone(), core_link.clone()).await?;
    core_tasks::keep(&mut core, &parts, about, core_link);
    if let Some(file) = file {
        core_tasks::follow_settings(&mut core, &parts, file, limits);
    }
    let departure = Departure::default();
    let port = public_port(&config, &parts, public, tls, addresses, &shards);
    let mut public = tokio::spawn(port.serve(departure.clone()));

    let ask = tokio::select! {
        ask = signals.next() => ask,
        ended = core.join_next() => {
            let name = ended.and_then(Result::ok).unwrap_or("a core task that panicked");
            return Err(RunError::Ended(name));
        }
        name = tasks.ended() => return Err(RunError::Ended(name)),
        _ = &mut public => return Err(RunError::Ended("the public port")),
    };
    let times = match ask {
        Ask::Orderly => config.drain,
        Ask::Quick => QUICK,
    };
    Leaving { parts, departure, shards, public, tasks }.leave(times, signals).await;
    Ok(())
}

/// The limits of the command line, as metrics.
fn expose_limits(config: &Config, room: &Room, addresses: &AddressLimit, limits: &LimitMetrics) {
    for (limit, most) in [
        (Limit::Connections, room.most().into()),
        (Limit::AddressConnections, addresses.most().into()),
        (Limit::Subscribers, config.requests.subscribers.unwrap_or_default()),
        (Limit::HeaderBytes, config.connections.header_bytes.into()),
        (Limit::UriBytes, MAX_URI_BYTES as u64),
        (Limit::PublishBytes, config.requests.publish_bytes),
    ] {
        limits.set(limit, most);
    }
}

fn announce(public: &Listener, admin: &Listener, tls: bool, room: &Room) {
    let address = |listener: &Listener| listener.local_addr().map(|at| at.to_string()).unwrap_or_default();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = address(public),
        admin = address(admin),
        tls,
        connections = room.most(),
        "Listening."
    );
}

/// The port that subscribers connect to.
fn public_port(
    config: &Config,
    parts: &Parts,
    listener: Listener,
    tls: Option<Arc<Tls>>,
    addresses: Arc<AddressLimit>,
    shards: &Shards,
) -> Port {
    let Parts { routes, authority, hub, metrics, drain, room } = parts.clone();
    Port {
        name: "public",
        listener,
        protocol: Protocol::new(&config.connections).handing_over(),
        room: room.clone(),
        addresses,
        metrics: Some(metrics.clone()),
        router: App {
            routes,
            authority,
            hub,
            metrics,
            drain,
            clients: Arc::default(),
            shards: Some(shards.clone()),
            room,
            limits: config.requests.clone(),
            demo: config.demo,
            tls: tls.is_some(),
            lingering: Lingering::default(),
        }
        .router(),
        tls,
    }
}
