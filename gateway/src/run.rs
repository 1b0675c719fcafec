//! The whole gateway: binds, connects, serves, and leaves when asked to.
//!
//! Every task is owned here. The tasks of the core never end while the gateway serves; if one does, the process ends
//! with an error, and its supervisor starts a new one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use crate::auth::authenticator::Authority;
use crate::auth::current_settings::Rules;
use crate::channel::hub::{Hub, HubSettings};
use crate::config::args::{Config, Source};
use crate::config::settings::Settings;
use crate::config::settings_file::{self, SettingsFile, SettingsFileError};
use crate::delivery::workers::Shards;
use crate::heartbeat::nats_service::Service;
use crate::heartbeat::sender::Pulse;
use crate::http::admin::Admin;
use crate::http::lingering::Lingering;
use crate::http::router::{App, MAX_URI_BYTES};
use crate::limits::metrics::LimitMetrics;
use crate::limits::quota::Limit;
use crate::memory_trim::{self, Crowd};
use crate::metrics::registry::Metrics;
use crate::nats::connections::{Broker, BrokerError, BrokerOptions};
use crate::routes::config_maps::{ClusterError, RouteObjects};
use crate::routes::files::RouteFiles;
use crate::routes::table::{Change, RouteTable};
use crate::routes::{RoutePublisher, Routes};
use crate::runtime::drain::{Drain, DrainTimes, Phase};
use crate::runtime::tasks::CoreTasks;
use crate::server::accept::Port;
use crate::server::address_limit::AddressLimit;
use crate::server::connection::{Departure, Protocol};
use crate::server::connection_limit::{ConnectionLimits, Room};
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

/// The admin port serves probes and scrapes: few, and never the public's.
const ADMIN_CONNECTIONS: u32 = 64;

/// From the last stream's end to the last connection's.
const CLOSING: Duration = Duration::from_secs(2);

/// Beyond the drain window, for streams that are slow to end.
const LATE: Duration = Duration::from_secs(3);

/// Ctrl-C: no load balancer, and a person who waits.
const QUICK: DrainTimes = DrainTimes { delay: Duration::ZERO, window: Duration::from_secs(1) };

/// Runs the gateway until a signal ends it, or a fault.
pub async fn run(config: Config, mut signals: Signals) -> Result<(), RunError> {
    let metrics = Metrics::new(config.metrics_channels);
    let (file, settings) = match config.settings {
        Some(path) => SettingsFile::open(path).map(|(file, settings)| (Some(file), settings))?,
        None => (None, Settings::default()),
    };
    let (drain, routes) = (Arc::new(Drain::new()), Arc::new(Routes::default()));
    let silence = config.connections.peer_timeout;
    // Both ports before anything else: a taken one is the most likely fault.
    let (admin, public) = (listen(config.admin, silence)?, listen(config.listen, silence)?);
    let tls = config.tls.map(|files| Tls::open(files, metrics.clone())).transpose()?;
    let tasks = CoreTasks::default();
    let options = BrokerOptions { nats: config.nats, name: NAME.to_owned() };
    let broker = Broker::connect(&options, metrics.clone(), tasks.clone())?;
    let core_link = broker.core();
    let hub = Hub::new(broker, metrics.clone(), HubSettings::default());

    let limits = LimitMetrics::registered(&metrics);
    settings_file::enforce(&settings.limits, &hub, &limits);
    let authority = Authority::new(Arc::new(Rules::new(settings.auth, settings.limits)), &metrics);
    let departure = Departure::default();
    let room = Arc::new(Room::within_limits(config.connections.connections, memory_limit(), tls.is_some()));
    let proxies = config.requests.trusted_proxies.clone();
    let addresses = AddressLimit::new(config.connections.per_address, room.most(), proxies);
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
    let address = |listener: &Listener| listener.local_addr().map(|at| at.to_string()).unwrap_or_default();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = address(&public),
        admin = address(&admin),
        tls = tls.is_some(),
        connections = room.most(),
        "Listening."
    );

    let mut core = JoinSet::new();
    let shards = Shards::start(&mut core, config.connections.write_timeout).map_err(RunError::Shards)?;
    let admin = Port {
        name: "admin",
        listener: admin,
        protocol: Protocol::new(&ConnectionLimits { connections: None, ..config.connections.clone() }),
        tls: None,
        shards: None,
        room: Arc::new(Room::new(ADMIN_CONNECTIONS)),
        addresses: AddressLimit::new(Some(0), ADMIN_CONNECTIONS, Vec::new()),
        router: Admin { routes: routes.clone(), hub: hub.clone(), metrics: metrics.clone(), drain: drain.clone() }
            .router(),
        metrics: None,
    };
    // The admin port answers to the very end.
    core.spawn(async move {
        admin.serve(Departure::default()).await;
        "the admin port"
    });
    let tls_on = tls.is_some();
    let (tls, follower) = tls.unzip();
    if let Some(follower) = follower {
        core.spawn(async move {
            follower.follow().await;
            "the watcher of the certificate"
        });
    }
    let mut about = HashMap::new();
    let publisher = {
        let (routes, metrics) = (routes.clone(), metrics.clone());
        |source, table, changed| RoutePublisher::new(source, table, routes, metrics, changed)
    };
    match config.source {
        Source::Files(dir) => {
            let hub = hub.clone();
            let changed = Box::new(move |changes: &[Change]| told(&hub, changes));
            let publisher = publisher(dir.display().to_string(), RouteTable::default(), changed);
            core.spawn(async { ended(RouteFiles::new(dir).follow(publisher).await) });
        }
        Source::Cluster(sender) => {
            let release = sender.release().clone();
            about.insert("release".to_owned(), release.to_string());
            about.insert("pod".to_owned(), sender.name().to_owned());
            let objects = RouteObjects::connect(release.clone(), metrics.clone()).await?;
            let pulse = Pulse::new(sender, routes.clone(), hub.clone());
            let (hub, link) = (hub.clone(), core_link.clone());
            core.spawn({
                let pulse = pulse.clone();
                async {
                    pulse.beat(link).await;
                    "the sender of beats"
                }
            });
            let changed = Box::new(move |changes: &[Change]| {
                told(&hub, changes);
                pulse.changed(changes);
            });
            let publisher = publisher(format!("ConfigMaps of {release}"), RouteTable::of_release(release), changed);
            core.spawn(async { ended(objects.follow(publisher).await) });
        }
    }
    let service = Service { about, routes: routes.clone(), hub: hub.clone() };
    core.spawn(async {
        service.keep(core_link).await;
        "the NATS service"
    });
    core.spawn({
        let (room, hub) = (room.clone(), hub.clone());
        async move {
            memory_trim::give_back(|| Crowd {
                came: room.entered() + hub.opened(),
                here: u64::from(room.taken()) + hub.subscribers(),
            })
            .await;
            "the memory trimmer"
        }
    });
    let reviewed = {
        let (reviews, hub) = (authority.reviews().clone(), hub.clone());
        async move {
            reviews.follow(move |key| hub.recheck(Some(key))).await;
            "the task for token reviews"
        }
    };
    core.spawn(reviewed);
    if let Some(file) = file {
        let followed = file.follow(authority.clone(), hub.clone(), limits, metrics.clone());
        core.spawn(async move {
            followed.await;
            "the watcher of the settings"
        });
    }
    let public = Port {
        name: "public",
        listener: public,
        protocol: Protocol::new(&config.connections).handing_over(),
        tls,
        shards: Some(shards.clone()),
        room: room.clone(),
        addresses,
        router: App {
            routes,
            authority,
            hub: hub.clone(),
            metrics: metrics.clone(),
            drain: drain.clone(),
            clients: Arc::default(),
            room,
            limits: config.requests,
            demo: config.demo,
            tls: tls_on,
            lingering: Lingering::default(),
        }
        .router(),
        metrics: Some(metrics.clone()),
    };
    let mut public = tokio::spawn(public.serve(departure.clone()));

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
    tokio::select! {
        () = depart(times, &hub, &drain, &metrics, &departure) => {}
        _ = signals.next() => {
            warn!(subscribers = hub.subscribers(), "Received a second signal; stopping at once.");
            return Ok(());
        }
    }
    departure.close.cancel();
    // The last events are on their way to clients that have yet to close.
    let _ = timeout(CLOSING, shards.until_empty()).await;
    if timeout(CLOSING, public).await.is_err() {
        warn!("Some connections did not close in time.");
    }
    if timeout(CLOSING, hub.close()).await.is_err() {
        warn!(still = ?tasks.running(), "The connections to NATS did not close in time.");
    }
    info!("Ended.");
    Ok(())
}

/// Tells the Hub whose Routes have changed.
fn told(hub: &Hub, changes: &[Change]) {
    for Change { key, route } in changes {
        hub.route_changed(key, route.clone());
    }
}

/// The reader of Routes has panicked.
fn ended(error: JoinError) -> &'static str {
    error!(%error, "Failed to watch the Routes.");
    "the watcher of the Routes"
}

/// From the signal to the last stream's end.
async fn depart(times: DrainTimes, hub: &Hub, drain: &Drain, metrics: &Metrics, departure: &Departure) {
    info!(subscribers = hub.subscribers(), delay = ?times.delay, window = ?times.window, "Shutting down.");
    metrics.draining();
    drain.enter(Phase::Leaving);
    sleep(times.delay).await;
    drain.enter(Phase::Draining);
    departure.last.cancel();
    info!(subscribers = hub.subscribers(), "Draining.");
    hub.drain(times.window);
    let deadline = Instant::now() + times.window + LATE;
    while hub.subscribers() > 0 {
        if Instant::now() >= deadline {
            warn!(subscribers = hub.subscribers(), "Some streams did not end in time.");
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
}
