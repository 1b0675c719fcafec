//! The tasks without which a gateway would only seem to serve. Each says at its end what has ended.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};
use tracing::error;

use crate::channel::hub::Hub;
use crate::config::args::Source;
use crate::config::settings_file::SettingsFile;
use crate::heartbeat::nats_service::Service;
use crate::heartbeat::sender::Pulse;
use crate::http::admin::Admin;
use crate::limits::metrics::LimitMetrics;
use crate::memory_trim::{self, Crowd};
use crate::nats::connection::Link;
use crate::routes::RoutePublisher;
use crate::routes::config_maps::{ClusterError, RouteObjects};
use crate::routes::files::RouteFiles;
use crate::routes::table::{Change, RouteTable};
use crate::run::parts::Parts;
use crate::server::accept::Port;
use crate::server::address_limit::AddressLimit;
use crate::server::connection::{Departure, Protocol};
use crate::server::connection_limit::{ConnectionLimits, Room};
use crate::server::listener::Listener;
use crate::server::tls::TlsFollower;

/// The tasks of the core.
pub(super) type Core = JoinSet<&'static str>;

/// The admin port serves probes and scrapes: few, and never the public's.
const ADMIN_CONNECTIONS: u32 = 64;

/// Serves the admin port.
pub(super) fn serve_admin(core: &mut Core, parts: &Parts, listener: Listener, connections: &ConnectionLimits) {
    let Parts { routes, hub, metrics, drain, .. } = parts.clone();
    let admin = Port {
        name: "admin",
        listener,
        protocol: Protocol::new(&ConnectionLimits { connections: None, ..connections.clone() }),
        tls: None,
        room: Arc::new(Room::new(ADMIN_CONNECTIONS)),
        addresses: AddressLimit::new(Some(0), ADMIN_CONNECTIONS, Vec::new()),
        router: Admin { routes, hub, metrics, drain }.router(),
        metrics: None,
    };
    // The admin port answers to the very end.
    core.spawn(async move {
        admin.serve(Departure::default()).await;
        "the admin port"
    });
}

/// Takes up renewed certificates.
pub(super) fn follow_certificate(core: &mut Core, follower: TlsFollower) {
    core.spawn(async move {
        follower.follow().await;
        "the watcher of the certificate"
    });
}

/// Follows the Routes, and tells the operator of them where they come from a cluster. Gives what `nats micro` shows about this
/// gateway.
pub(super) async fn follow_routes(
    core: &mut Core,
    parts: &Parts,
    source: Source,
    core_link: Link,
) -> Result<HashMap<String, String>, ClusterError> {
    let mut about = HashMap::new();
    let Parts { routes, hub, metrics, .. } = parts.clone();
    let publisher = {
        let (routes, metrics) = (routes.clone(), metrics.clone());
        |source, table, changed| RoutePublisher::new(source, table, routes, metrics, changed)
    };
    match source {
        Source::Files(dir) => {
            let changed = Box::new(move |changes: &[Change]| told(&hub, changes));
            let publisher = publisher(dir.display().to_string(), RouteTable::default(), changed);
            core.spawn(async { ended(RouteFiles::new(dir).follow(publisher).await) });
        }
        Source::Cluster(sender) => {
            let release = sender.release().clone();
            about.insert("release".to_owned(), release.to_string());
            about.insert("pod".to_owned(), sender.name().to_owned());
            let objects = RouteObjects::connect(release.clone(), metrics).await?;
            let pulse = Pulse::new(sender, routes, hub.clone());
            core.spawn({
                let pulse = pulse.clone();
                async {
                    pulse.beat(core_link).await;
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
    Ok(about)
}

/// Answers `nats micro`, gives back memory, and keeps what the cluster says about identities up to date.
pub(super) fn keep(core: &mut Core, parts: &Parts, about: HashMap<String, String>, core_link: Link) {
    let Parts { routes, authority, hub, room, .. } = parts.clone();
    let service = Service { about, routes, hub: hub.clone() };
    core.spawn(async {
        service.keep(core_link).await;
        "the NATS service"
    });
    core.spawn({
        let hub = hub.clone();
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
        let reviews = authority.reviews().clone();
        async move {
            reviews.follow(move |key| hub.recheck(Some(key))).await;
            "the task for token reviews"
        }
    };
    core.spawn(reviewed);
}

/// Takes up changed settings.
pub(super) fn follow_settings(core: &mut Core, parts: &Parts, file: SettingsFile, limits: Arc<LimitMetrics>) {
    let Parts { authority, hub, metrics, .. } = parts.clone();
    core.spawn(async move {
        file.follow(authority, hub, limits, metrics).await;
        "the watcher of the settings"
    });
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
