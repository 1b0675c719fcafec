//! Where Routes go in Kubernetes: one ConfigMap for each Channel, in the release's own namespace.
//!
//! What stands there is known from a watch by label, so that looking costs no request, and writing what stands there
//! already costs none either. Written is by server-side apply with a field manager of our own: what others add (keys,
//! labels) stays, what others change of ours is set right. A ConfigMap that lost its label is gone for the watch, and comes
//! back with the next write. There is no owner reference: across namespaces the garbage collector would delete the Route.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher;
use serde_json::json;
use tidings_crds::key::ChannelKey;
use tidings_crds::label::is_label;
use tidings_crds::release::{
    CHANNEL_NAME_LABEL, CHANNEL_NAMESPACE_LABEL, MANAGED_BY, MANAGED_BY_LABEL, RELEASE_LABEL, ROUTE_KEY, Release,
};
use tidings_crds::route::{Route, RouteState};

use crate::leader::elector::Leadership;
use crate::leader::fenced_api::{self, ApiError};
use crate::reconcile::routes::{Found, found};
use crate::reconcile::store::RouteStore;
use crate::runtime::metrics::Metrics;

/// Whose fields are ours, on every object.
pub const FIELD_MANAGER: &str = "tidings-operator";

/// The Routes of one installation.
#[derive(Clone)]
pub struct RouteMaps {
    maps: Api<ConfigMap>,
    release: Release,
    known: Arc<Mutex<Known>>,
    leadership: Leadership,
    metrics: Arc<Metrics>,
}

/// What the watch and our own writes have told.
#[derive(Debug, Default)]
struct Known {
    maps: BTreeMap<ChannelKey, RouteMap>,
    /// While everything is listed again: what was there before and was not listed yet.
    unlisted: Option<BTreeSet<ChannelKey>>,
}

/// One ConfigMap, as far as it is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RouteMap {
    uid: String,
    version: String,
    text: Option<String>,
    labels: BTreeMap<String, String>,
}

// === impl RouteMaps ===

impl RouteMaps {
    /// Nothing is known until the watch has told.
    pub fn new(client: &Client, release: &Release, leadership: Leadership, metrics: Arc<Metrics>) -> Self {
        let maps = Api::namespaced(client.clone(), release.namespace());
        Self { maps, release: release.clone(), known: Arc::default(), leadership, metrics }
    }

    /// What to watch for: every ConfigMap that is a Route of this release.
    pub fn selector(release: &Release) -> String {
        format!("{RELEASE_LABEL}={}", release.name())
    }

    /// Takes up what the watch tells, and returns the Channels whose Route others have changed.
    pub fn take(&self, event: watcher::Event<ConfigMap>) -> BTreeSet<ChannelKey> {
        self.known().take(event, &self.release)
    }

    /// The Channels that have a ConfigMap, whatever it says.
    pub fn keys(&self) -> BTreeSet<ChannelKey> {
        self.known().maps.keys().cloned().collect()
    }

    /// The state of a Channel's Route; `None` if there is none that can be read.
    pub fn state(&self, key: &ChannelKey) -> Option<RouteState> {
        match self.look(key) {
            Found::Route(route) => Some(route.state),
            Found::Garbage | Found::Nothing => None,
        }
    }

    /// The Route of a Channel that gateways serve.
    pub fn served(&self, key: &ChannelKey) -> Option<Route> {
        match self.look(key) {
            Found::Route(route) if route.state == RouteState::Active => Some(*route),
            Found::Route(_) | Found::Garbage | Found::Nothing => None,
        }
    }

    fn look(&self, key: &ChannelKey) -> Found {
        match self.known().maps.get(key) {
            None => Found::Nothing,
            Some(map) => map.text.as_ref().map_or(Found::Garbage, |text| found(text.as_bytes())),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn labels(&self, key: &ChannelKey) -> BTreeMap<String, String> {
        let labels = [
            (RELEASE_LABEL, self.release.name()),
            (MANAGED_BY_LABEL, MANAGED_BY),
            (CHANNEL_NAMESPACE_LABEL, &key.namespace),
            (CHANNEL_NAME_LABEL, &key.name),
        ];
        labels.into_iter().map(|(label, value)| (label.to_owned(), value.to_owned())).collect()
    }

    async fn put(&self, route: &Route) -> Result<bool, ApiError> {
        let key = ChannelKey::new(&route.namespace, &route.name);
        let (text, labels) = (route.to_yaml(), self.labels(&key));
        if self.known().maps.get(&key).is_some_and(|map| map.says(&text, &labels)) {
            return Ok(false);
        }
        let name = self.release.route_object(&key);
        let applied = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": name, "labels": labels },
            "data": { ROUTE_KEY: text },
        });
        let (how, what) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(applied));
        let call = self.maps.patch(&name, &how, &what);
        let written = fenced_api::write(&self.leadership, "write", format!("the route {name}"), call).await?;
        self.known().set(key, RouteMap::of(&written));
        self.metrics.route_written(match route.state {
            RouteState::Active => "write",
            RouteState::Removed => "mark_removed",
        });
        Ok(true)
    }

    async fn remove(&self, key: &ChannelKey) -> Result<(), ApiError> {
        let Some(map) = self.known().maps.get(key).cloned() else { return Ok(()) };
        let name = self.release.route_object(key);
        // Not one that was written again in between.
        let preconditions = Preconditions { uid: Some(map.uid), resource_version: Some(map.version) };
        let how = DeleteParams::default().preconditions(preconditions);
        let call = self.maps.delete(&name, &how);
        match fenced_api::write(&self.leadership, "delete", format!("the route {name}"), call).await {
            Ok(_) => self.metrics.route_written("delete"),
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
        self.known().maps.remove(key);
        Ok(())
    }
}

impl RouteStore for RouteMaps {
    type Error = ApiError;

    async fn read(&self, key: &ChannelKey) -> Result<Found, ApiError> {
        Ok(self.look(key))
    }

    async fn write(&self, route: &Route) -> Result<bool, ApiError> {
        self.put(route).await
    }

    async fn mark_removed(&self, key: &ChannelKey) -> Result<bool, ApiError> {
        match self.look(key) {
            Found::Route(route) if route.state == RouteState::Active => {
                self.put(&Route { state: RouteState::Removed, ..*route }).await
            }
            Found::Route(_) | Found::Garbage | Found::Nothing => Ok(false),
        }
    }

    async fn delete(&self, key: &ChannelKey) -> Result<(), ApiError> {
        self.remove(key).await
    }

    fn category(error: &ApiError) -> &'static str {
        error.category()
    }
}

// === impl Known ===

impl Known {
    fn take(&mut self, event: watcher::Event<ConfigMap>, release: &Release) -> BTreeSet<ChannelKey> {
        match event {
            watcher::Event::Init => {
                self.unlisted = Some(self.maps.keys().cloned().collect());
                BTreeSet::new()
            }
            watcher::Event::InitApply(map) | watcher::Event::Apply(map) => {
                let Some(key) = key_of(&map, release) else { return BTreeSet::new() };
                if let Some(unlisted) = &mut self.unlisted {
                    unlisted.remove(&key);
                }
                if self.set(key.clone(), RouteMap::of(&map)) { BTreeSet::from([key]) } else { BTreeSet::new() }
            }
            watcher::Event::Delete(map) => {
                let Some(key) = key_of(&map, release) else { return BTreeSet::new() };
                let gone = RouteMap::of(&map);
                if self.maps.get(&key).is_some_and(|known| !known.is_newer_than(&gone)) {
                    self.maps.remove(&key);
                    return BTreeSet::from([key]);
                }
                BTreeSet::new()
            }
            watcher::Event::InitDone => {
                let gone = self.unlisted.take().unwrap_or_default();
                gone.into_iter().filter(|key| self.maps.remove(key).is_some()).collect()
            }
        }
    }

    /// Whether that is news.
    fn set(&mut self, key: ChannelKey, map: RouteMap) -> bool {
        match self.maps.get(&key) {
            // What we wrote ourselves, and the news of what was before it.
            Some(known) if known.version == map.version || known.is_newer_than(&map) => false,
            _ => {
                self.maps.insert(key, map);
                true
            }
        }
    }
}

// === impl RouteMap ===

impl RouteMap {
    fn of(map: &ConfigMap) -> Self {
        Self {
            uid: map.metadata.uid.clone().unwrap_or_default(),
            version: map.metadata.resource_version.clone().unwrap_or_default(),
            text: map.data.as_ref().and_then(|data| data.get(ROUTE_KEY).cloned()),
            labels: map.metadata.labels.clone().unwrap_or_default(),
        }
    }

    fn says(&self, text: &str, labels: &BTreeMap<String, String>) -> bool {
        let labelled = labels.iter().all(|(label, value)| self.labels.get(label) == Some(value));
        labelled && self.text.as_deref() == Some(text)
    }

    /// Versions are numbers that grow, wherever they are numbers at all.
    fn is_newer_than(&self, other: &Self) -> bool {
        matches!((self.version.parse::<u64>(), other.version.parse::<u64>()), (Ok(own), Ok(other)) if own > other)
    }
}

/// Whose Route a ConfigMap is, by its name alone: labels may be edited.
fn key_of(map: &ConfigMap, release: &Release) -> Option<ChannelKey> {
    let name = map.metadata.name.as_deref()?;
    let rest = name.strip_prefix("tidings-route.")?.strip_prefix(release.name())?.strip_prefix('.')?;
    let (namespace, name) = rest.split_once('.')?;
    (is_label(namespace) && is_label(name)).then(|| ChannelKey::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn release() -> Release {
        "tidings-system/tidings".parse().unwrap()
    }

    fn map(name: &str, version: u64) -> ConfigMap {
        let metadata = ObjectMeta {
            name: Some(format!("tidings-route.tidings.shop.{name}")),
            uid: Some(name.to_owned()),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    fn keys(names: &[&str]) -> BTreeSet<ChannelKey> {
        names.iter().map(|name| ChannelKey::new("shop", *name)).collect()
    }

    #[test]
    fn a_route_is_known_by_its_name_alone() {
        let key = |name: &str| {
            let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
            key_of(&ConfigMap { metadata, ..ConfigMap::default() }, &release())
        };
        assert_eq!(key("tidings-route.tidings.shop.orders"), Some(ChannelKey::new("shop", "orders")));
        for other in
            ["tidings-route.push.shop.orders", "tidings-route.tidings.shop", "tidings-route.tidings.a.b.c", "x"]
        {
            assert_eq!(key(other), None, "{other}");
        }
    }

    #[test]
    fn our_own_writes_are_no_news_and_old_news_does_not_undo_them() {
        let mut known = Known::default();
        let mut take = |event| known.take(event, &release());
        assert_eq!(take(watcher::Event::Apply(map("a", 5))), keys(&["a"]));
        assert_eq!(take(watcher::Event::Apply(map("a", 5))), keys(&[]));
        assert_eq!(take(watcher::Event::Apply(map("a", 4))), keys(&[]));
        assert_eq!(take(watcher::Event::Delete(map("a", 4))), keys(&[]));
        assert_eq!(take(watcher::Event::Apply(map("a", 6))), keys(&["a"]));
        assert_eq!(take(watcher::Event::Delete(map("a", 7))), keys(&["a"]));
    }

    #[test]
    fn what_a_new_list_lacks_is_gone_once_it_is_complete() {
        let mut known = Known::default();
        let mut take = |event| known.take(event, &release());
        take(watcher::Event::Apply(map("a", 1)));
        take(watcher::Event::Apply(map("b", 2)));
        assert_eq!(take(watcher::Event::Init), keys(&[]));
        assert_eq!(take(watcher::Event::InitApply(map("b", 2))), keys(&[]));
        assert_eq!(take(watcher::Event::InitApply(map("c", 3))), keys(&["c"]));
        assert_eq!(take(watcher::Event::InitDone), keys(&["a"]));
    }
}
