//! Follows the ConfigMaps that hold Routes, in one namespace of a cluster.
//!
//! The API server can be away, or a connection to it half open. Neither is a reason to stop serving: what is in force stays
//! there until something else has been *read*. A gateway that has never read anything is not ready.
//! A [`RoutePublisher`] puts into force what is seen here; `Listing` adds up what the API server tells.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::client::ClientBuilder;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};
use tidings_crds::release::{RELEASE_LABEL, ROUTE_KEY, Release};
use tidings_process::error_chain::chain;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, sleep_until};

use crate::metrics::registry::Metrics;
use crate::routes::RoutePublisher;
use crate::routes::paced_watch::PacedWatch;
use crate::routes::table::Seen;

/// Reads the ConfigMaps that carry the release's label.
pub struct RouteObjects {
    api: Api<ConfigMap>,
    release: Release,
}

/// Why the API server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Neither in a pod nor with a kubeconfig.
    #[error("failed to find the Kubernetes API: run in a pod, or set KUBECONFIG")]
    Infer(#[from] kube::config::InferConfigError),
    /// What was found cannot be used.
    #[error("failed to make a client of the Kubernetes API")]
    Client(#[from] kube::Error),
}

/// What the API server has told, added up: pure.
#[derive(Debug, Default)]
struct Listing {
    /// The ConfigMaps that are there.
    there: BTreeSet<String>,
    /// What has not been passed on yet.
    news: BTreeMap<String, Seen>,
    /// The list that is being read.
    listed: BTreeMap<String, Seen>,
    /// Whether there is something to pass on.
    due: bool,
}

/// The API server has failed to answer.
#[derive(Clone, Copy, Debug)]
struct Outage {
    last: Instant,
    failures: u32,
}

/// The server ends a watch after this long, in seconds. It tells nothing in between while nothing changes, so this bounds
/// how long a half-open connection goes unnoticed: kube gives up 5 s later.
const WATCH_SECONDS: u32 = 45;

/// For everything else that is asked over a connection that may be half open. Longer than any watch is silent.
const SILENCE: Duration = Duration::from_secs(60);

/// For a new connection.
const CONNECT: Duration = Duration::from_secs(5);

/// The longest pause before the API server is asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Without an error for this long, the API server is there again: each attempt has failed or told something by then.
const RECOVERED: Duration = Duration::from_secs(70);

/// A ConfigMap holds 1 MiB at most; a Route is a few kilobytes.
const MAX_ROUTE_BYTES: usize = 256 << 10;

// === impl RouteObjects ===

impl RouteObjects {
    /// Asks the cluster that the process runs in, or the one that `KUBECONFIG` names.
    pub async fn connect(release: Release, metrics: Arc<Metrics>) -> Result<Self, ClusterError> {
        let mut config = kube::Config::infer().await?;
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(SILENCE);
        // Counted from the request, not from when its connection fell idle.
        config.reset_reader_on_write = true;
        let client = ClientBuilder::try_from(config)?.with_layer(&PacedWatch::new(metrics)).build();
        Ok(Self { api: Api::namespaced(client, release.namespace()), release })
    }

    /// Follows the ConfigMaps for ever. Returns only after a panic.
    pub async fn follow(self, mut publisher: RoutePublisher) -> JoinError {
        let label = format!("{RELEASE_LABEL}={}", self.release.name());
        let settings = watcher::Config::default().labels(&label).timeout(WATCH_SECONDS);
        let mut events = watcher::watcher(self.api, settings).boxed();
        let (mut listing, mut outage) = (Listing::default(), None::<Outage>);
        loop {
            let recovers = outage.map(|outage| outage.last + RECOVERED);
            // While nothing can be read, what has disappeared may be back.
            let expires = publisher.next_expiry().map(|at| recovers.map_or(at.into(), |back| back.max(at.into())));
            let mut arrived = tokio::select! {
                Some(event) = events.next() => Some(event),
                () = at(recovers) => {
                    outage = None;
                    publisher.recovered();
                    continue;
                }
                () = at(expires) => {
                    listing.pass_on();
                    None
                }
            };
            // Everything that has arrived is taken up at once: an operator writes many Routes at a time.
            let mut pause = None;
            while let Some(event) = arrived.take() {
                match event {
                    Ok(event) => {
                        if listing.would_lose(&event)
                            && let Err(error) = publisher.publish(listing.seen()).await
                        {
                            return error;
                        }
                        listing.take_in(event);
                        outage = None;
                        arrived = events.next().now_or_never().flatten();
                    }
                    Err(error) => {
                        publisher.failed(&chain(&error));
                        let failures = outage.map_or(0, |outage| outage.failures);
                        outage = Some(Outage { last: Instant::now(), failures: failures + 1 });
                        pause = Some(pause_after(failures));
                    }
                }
            }
            if listing.is_due()
                && let Err(error) = publisher.publish(listing.seen()).await
            {
                return error;
            }
            if let Some(pause) = pause {
                sleep(pause).await;
            }
        }
    }
}

// === impl Listing ===

impl Listing {
    /// Takes in what the API server has told.
    fn take_in(&mut self, event: Event<ConfigMap>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => drop(self.listed.insert(object.name_any(), document(object))),
            Event::InitDone => {
                self.news = std::mem::take(&mut self.listed);
                self.there = self.news.keys().cloned().collect();
                self.due = true;
            }
            Event::Apply(object) => {
                self.there.insert(object.name_any());
                self.news.insert(object.name_any(), document(object));
                self.due = true;
            }
            Event::Delete(object) => {
                self.there.remove(&object.name_any());
                self.news.remove(&object.name_any());
                self.due = true;
            }
        }
    }

    /// Whether news of this object would be forgotten before anybody has heard them: that a Route was removed, say, and
    /// that its ConfigMap is gone, are two different things.
    fn would_lose(&self, event: &Event<ConfigMap>) -> bool {
        match event {
            Event::Init | Event::InitApply(_) => false,
            Event::InitDone => !self.news.is_empty(),
            Event::Apply(object) | Event::Delete(object) => self.news.contains_key(&object.name_any()),
        }
    }

    /// Whether there is something to pass on.
    fn is_due(&self) -> bool {
        self.due
    }

    /// Passes on what is there, though nothing of it is new.
    fn pass_on(&mut self) {
        self.due = true;
    }

    /// All ConfigMaps that are there, for [`RoutePublisher::publish`].
    fn seen(&mut self) -> Vec<(String, Seen)> {
        self.due = false;
        let mut news = std::mem::take(&mut self.news);
        self.there.iter().map(|name| (name.clone(), news.remove(name).unwrap_or(Seen::Unchanged))).collect()
    }
}

/// The one key of a ConfigMap that is read.
fn document(object: ConfigMap) -> Seen {
    match object.data.and_then(|mut data| data.remove(ROUTE_KEY)) {
        Some(text) if text.len() <= MAX_ROUTE_BYTES => Seen::Text(text),
        Some(_) => Seen::Unreadable(format!("a route has at most {MAX_ROUTE_BYTES} bytes")),
        None => Seen::Unreadable(format!("the ConfigMap has no key {ROUTE_KEY}")),
    }
}

/// Grows from a tenth of a second, with jitter: after an outage, gateways come back one after the other.
fn pause_after(failures: u32) -> Duration {
    let longest = Duration::from_millis(200 << failures.min(8)).min(LONGEST_PAUSE);
    longest.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

/// Waits until then; without a time for ever.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, text: Option<&str>) -> ConfigMap {
        let data = text.map(|text| BTreeMap::from([(ROUTE_KEY.to_owned(), text.to_owned())]));
        let metadata = kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
        ConfigMap { metadata, data, ..ConfigMap::default() }
    }

    fn text(text: &str) -> Seen {
        Seen::Text(text.to_owned())
    }

    /// What is passed on after these events, and where one had to be passed on first.
    fn told(listing: &mut Listing, events: impl IntoIterator<Item = Event<ConfigMap>>) -> Vec<Vec<(String, Seen)>> {
        let mut told = Vec::new();
        for event in events {
            if listing.would_lose(&event) {
                told.push(listing.seen());
            }
            listing.take_in(event);
        }
        if listing.is_due() {
            told.push(listing.seen());
        }
        told
    }

    fn listed() -> Listing {
        let mut listing = Listing::default();
        let list = [Event::Init, Event::InitApply(object("a", Some("1"))), Event::InitApply(object("b", Some("1")))];
        assert_eq!(told(&mut listing, list), Vec::<Vec<_>>::new(), "half a list says nothing");
        let expected = vec![("a".to_owned(), text("1")), ("b".to_owned(), text("1"))];
        assert_eq!(told(&mut listing, [Event::InitDone]), [expected]);
        listing
    }

    #[test]
    fn what_is_listed_is_passed_on_whole_and_then_only_what_changes_is_news() {
        let mut listing = listed();
        let changes = [Event::Apply(object("b", Some("2"))), Event::Apply(object("c", Some("1")))];
        let expected = [("a", Seen::Unchanged), ("b", text("2")), ("c", text("1"))];
        let expected = expected.map(|(name, seen)| (name.to_owned(), seen)).to_vec();
        assert_eq!(told(&mut listing, changes), [expected]);
        let expected = ["a", "c"].map(|name| (name.to_owned(), Seen::Unchanged)).to_vec();
        assert_eq!(told(&mut listing, [Event::Delete(object("b", None))]), [expected]);
    }

    #[test]
    fn a_list_read_again_replaces_the_first() {
        let mut listing = listed();
        let list = [Event::Init, Event::InitApply(object("b", Some("1"))), Event::InitDone];
        assert_eq!(told(&mut listing, list), [vec![("b".to_owned(), text("1"))]]);
    }

    #[test]
    fn a_route_that_is_removed_and_then_gone_was_seen_removed() {
        let mut listing = listed();
        let events = [Event::Apply(object("a", Some("removed"))), Event::Delete(object("a", Some("removed")))];
        let (a, b) = (("a".to_owned(), text("removed")), ("b".to_owned(), Seen::Unchanged));
        assert_eq!(told(&mut listing, events), [vec![a, b.clone()], vec![b]]);
    }

    #[test]
    fn a_config_map_without_the_key_and_one_that_is_too_long_are_refused() {
        let mut listing = Listing::default();
        let long = "x".repeat(MAX_ROUTE_BYTES + 1);
        let list = [
            Event::Init,
            Event::InitApply(object("a", None)),
            Event::InitApply(object("b", Some(&long))),
            Event::InitDone,
        ];
        let told = told(&mut listing, list);
        let [seen] = told.as_slice() else { panic!("{told:?}") };
        let faults: Vec<_> = seen.iter().map(|(_, seen)| seen.clone()).collect();
        let expected = ["the ConfigMap has no key route.yaml", "a route has at most 262144 bytes"];
        assert_eq!(faults, expected.map(|fault| Seen::Unreadable(fault.to_owned())));
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        assert!(pause_after(0) <= Duration::from_millis(200));
        assert!((0..100).all(|failures| pause_after(failures) <= LONGEST_PAUSE));
        assert!(pause_after(100) >= LONGEST_PAUSE / 2);
    }
}
