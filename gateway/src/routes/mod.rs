//! The Routes in force, for all that answer requests, and what puts them there.
//!
//! Where Routes come from is another matter: [`files`] reads a directory, [`config_maps`] ConfigMaps.
//! Both tell a [`RoutePublisher`] what they have seen; what that means is decided in [`table`].
//!
//! May use `auth`, `limits`, `metrics`, `runtime`.

pub mod config_maps;
pub mod files;
pub mod origins;
mod paced_watch;
mod removed;
mod served;
pub mod table;

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::task::JoinError;
use tracing::{info, warn};

use crate::metrics::registry::{Metrics, RouteChange};
use crate::routes::origins::Origins;
use crate::routes::removed::Removed;
use crate::routes::table::{Change, Fault, RouteTable, Seen};

pub use crate::routes::served::Served;

/// The Routes in force, by `namespace/name`.
#[derive(Debug, Default)]
pub struct Routes(ArcSwap<InForce>);

/// The Routes in force at one moment. What is decided about a request is decided with one of these: asked twice, the answers
/// may be of two moments, and a Route that is not read yet looks like one that does not exist.
#[derive(Debug, Default)]
pub struct InForce {
    table: HashMap<String, Arc<Served>>,
    removed: Removed,
    /// Of all of them, and of those that were removed lately.
    origins: Origins,
    loaded: bool,
}

/// Puts into force what a source of Routes has seen.
pub struct RoutePublisher {
    source: String,
    table: RouteTable,
    routes: Arc<Routes>,
    metrics: Arc<Metrics>,
    changed: Listener,
    /// Whether the source failed last: said once, not every time.
    failing: bool,
}

/// Hears of all changes at once.
pub type Listener = Box<dyn Fn(&[Change]) + Send>;

// === impl Routes ===

impl Routes {
    /// The Routes in force now.
    pub fn now(&self) -> Arc<InForce> {
        self.0.load_full()
    }

    /// The Route of a channel.
    pub fn get(&self, key: &str) -> Option<Arc<Served>> {
        self.0.load().get(key)
    }

    /// How many Routes are in force.
    pub fn len(&self) -> usize {
        self.0.load().table.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether all Routes that there are have been seen.
    pub fn is_loaded(&self) -> bool {
        self.0.load().loaded
    }

    /// Takes the changes up, all at once.
    pub fn apply(&self, changes: &[Change], now: Instant) {
        let before = self.now();
        let expires = before.removed.next_expiry().is_some_and(|at| at <= now);
        if changes.is_empty() && before.loaded && !expires {
            return;
        }
        let (mut table, mut removed) = (before.table.clone(), before.removed.clone());
        removed.expire(now);
        for Change { key, route } in changes {
            let before = table.remove(key);
            match route {
                Some(route) => {
                    let usage = before.map(|served| served.usage.clone()).unwrap_or_default();
                    table.insert(key.clone(), Arc::new(Served::new(route.clone(), usage)));
                    removed.forget(key);
                }
                None => {
                    if let Some(served) = before {
                        removed.remember(key, served, now);
                    }
                }
            }
        }
        let cors = table.values().map(|served| &served.route.cors);
        let origins = Origins::of(cors.chain(removed.routes().map(|route| &route.cors)));
        self.0.store(Arc::new(InForce { table, removed, origins, loaded: true }));
    }
}

// === impl InForce ===

impl InForce {
    /// The Route of a channel.
    pub fn get(&self, key: &str) -> Option<Arc<Served>> {
        self.table.get(key).cloned()
    }

    /// The Route that a channel had until a moment ago, if it has none now.
    pub fn removed_lately(&self, key: &str) -> Option<Arc<Served>> {
        self.removed.get(key, Instant::now())
    }

    /// All Routes, by `namespace/name`.
    pub fn all(&self) -> &HashMap<String, Arc<Served>> {
        &self.table
    }

    /// The origins that any of them names, or did until a moment ago.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    /// Whether all Routes that there are have been seen: before that, a missing one may just not have been read yet.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }
}

// === impl RoutePublisher ===

impl RoutePublisher {
    /// Nothing is in force yet. `source` is what logs call the source; `changed` is called with all changes at once, after
    /// they are in force, and once when everything has been read for the first time, even if that is nothing.
    pub fn new(
        source: impl Into<String>,
        table: RouteTable,
        routes: Arc<Routes>,
        metrics: Arc<Metrics>,
        changed: Listener,
    ) -> Self {
        Self { source: source.into(), table, routes, metrics, changed, failing: false }
    }

    /// Takes in all documents that there are. Reading thousands takes a while, so it happens on a thread of its own. Fails
    /// if that panics; nothing can be published after that.
    pub async fn publish(&mut self, seen: Vec<(String, Seen)>) -> Result<(), JoinError> {
        let mut table = std::mem::take(&mut self.table);
        let taken = tokio::task::spawn_blocking(move || {
            let outcome = table.update(seen, Instant::now());
            (table, outcome)
        });
        let (changes, faults);
        (self.table, (changes, faults)) = taken.await?;
        self.recovered();
        self.put_into_force(&changes, &faults);
        Ok(())
    }

    /// Whether all Routes have been seen once.
    pub fn is_loaded(&self) -> bool {
        self.routes.is_loaded()
    }

    /// The source cannot be read: what is in force stays there.
    pub fn failed(&mut self, error: &dyn Display) {
        if !std::mem::replace(&mut self.failing, true) {
            let served = self.routes.len();
            warn!(source = %self.source, %error, served, "Failed to read the Routes; those in force stay.");
        }
    }

    /// The source can be read.
    pub fn recovered(&mut self) {
        if std::mem::replace(&mut self.failing, false) {
            info!(source = %self.source, "The Routes are readable again.");
        }
    }

    /// When a Route that has disappeared will be dropped next, or a removed one forgotten; [`publish`](Self::publish) again then.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.table.next_expiry().into_iter().chain(self.routes.now().removed.next_expiry()).min()
    }

    fn put_into_force(&self, changes: &[Change], faults: &[Fault]) {
        let Self { source, table, routes, metrics, .. } = self;
        for Fault { document, message, served } in faults {
            metrics.route_changed(RouteChange::Refused);
            warn!(%document, error = %message, served, "Rejected a Route.");
        }
        let first = !routes.is_loaded();
        routes.apply(changes, Instant::now());
        metrics.routes(routes.len() as u64, table.refused() as u64);
        for Change { key, route } in changes {
            if let Some(route) = route {
                metrics.route_changed(RouteChange::Applied);
                // Thousands at the start; one line below sums them up.
                if !first {
                    info!(channel = %key, generation = route.generation, digest = %route.digest(), "Applied a Route.");
                }
            } else {
                metrics.route_changed(RouteChange::Removed);
                metrics.channel_removed(key, Instant::now());
                info!(channel = %key, "Removed a Route.");
            }
        }
        if first {
            info!(%source, routes = routes.len(), refused = table.refused(), "Loaded the Routes.");
        }
        if first || !changes.is_empty() {
            (self.changed)(changes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidings_crds::route::Route;

    /// A request between the two would be told that no such channel exists, and a browser never comes back then.
    #[test]
    fn a_route_is_never_missing_among_routes_that_were_all_seen() {
        for _ in 0..200 {
            let routes = Routes::default();
            let route = Route::from_yaml(&crate::auth::route_fixture::document("orders", 3000, "Active")).unwrap();
            let change = Change { key: "demo/orders".to_owned(), route: Some(Arc::new(route)) };
            std::thread::scope(|scope| {
                scope.spawn(|| routes.apply(&[change], Instant::now()));
                loop {
                    let now = routes.now();
                    let (route, all_seen) = (now.get("demo/orders"), now.is_loaded());
                    assert_eq!(route.is_some(), all_seen);
                    if all_seen {
                        break;
                    }
                }
            });
        }
    }
}
