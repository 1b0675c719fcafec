//! From Route documents to the Routes in force: pure, told what a directory or a namespace holds and what time it is.
//!
//! - A document counts whole or not at all; one that cannot be read leaves its last good version in force.
//! - `state: Removed` ends a Route now. A Route that merely disappears is served for [`GRACE`] more, because a lost
//!   file or a half-synced volume must not end streams.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_crds::key::ChannelKey;
use tidings_crds::release::Release;
use tidings_crds::route::{Route, RouteState};
use tidings_process::error_chain::chain;

/// How long a Route is served after its document has disappeared.
pub const GRACE: Duration = Duration::from_secs(60);

/// The documents as last seen, and the Routes in force.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// If the documents are objects of a release: each must have the name that its channel gives it.
    release: Option<Release>,
    documents: BTreeMap<String, Document>,
    routes: BTreeMap<String, Entry>,
}

/// What a document holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The same as when it was last seen.
    Unchanged,
    /// This text.
    Text(String),
    /// It cannot be read; why.
    Unreadable(String),
}

/// One Route that has to be taken up, replaced or dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `namespace/name`.
    pub key: String,
    /// The Route in force from now on; `None` if it is gone.
    pub route: Option<Arc<Route>>,
}

/// A document that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The document's name.
    pub document: String,
    /// What is wrong with it.
    pub message: String,
    /// Whether an earlier version of it stays in force.
    pub served: bool,
}

#[derive(Debug, Default)]
struct Document {
    good: Option<Arc<Route>>,
    fault: Option<String>,
    /// That an earlier document holds the same channel.
    duplicate: Option<String>,
}

#[derive(Debug)]
struct Entry {
    route: Arc<Route>,
    missing_since: Option<Instant>,
}

// === impl RouteTable ===

impl RouteTable {
    /// For the ConfigMaps of a release. A Route is read only from the one that is named after its channel: a copy under
    /// another name, labels and all, must not take its place.
    pub fn of_release(release: Release) -> Self {
        Self { release: Some(release), ..Self::default() }
    }

    /// Takes in all documents there are. Returns what changed, and the documents that were fine before and are no more.
    pub fn update(&mut self, seen: Vec<(String, Seen)>, now: Instant) -> (Vec<Change>, Vec<Fault>) {
        let mut faults = Vec::new();
        let names: BTreeSet<_> = seen.iter().map(|(name, _)| name.clone()).collect();
        self.documents.retain(|name, _| names.contains(name));
        for (name, seen) in seen {
            let document = self.documents.entry(name.clone()).or_default();
            let misplaced = |route: &Route| {
                let proper = self.release.as_ref()?.route_object(&ChannelKey::new(&route.namespace, &route.name));
                (proper != name).then(|| format!("the route of {} is read only from {proper}", route.key()))
            };
            if let Some(message) = document.take_in(seen, misplaced) {
                faults.push(Fault { document: name, message, served: document.good.is_some() });
            }
        }
        let wanted = self.wanted(&mut faults);
        (self.changes(wanted, now), faults)
    }

    /// How many documents are refused.
    pub fn refused(&self) -> usize {
        self.documents.values().filter(|d| d.fault.is_some() || d.duplicate.is_some()).count()
    }

    /// When a Route that has disappeared will be dropped next.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.routes.values().filter_map(|entry| entry.missing_since).min().map(|since| since + GRACE)
    }

    /// The documents' Routes by key. Of two documents with one key the first by name counts.
    fn wanted(&mut self, faults: &mut Vec<Fault>) -> BTreeMap<String, Arc<Route>> {
        let mut wanted: BTreeMap<String, (Arc<Route>, String)> = BTreeMap::new();
        for (name, document) in &mut self.documents {
            let Some(good) = &document.good else { continue };
            let Some((_, first)) = wanted.get(&good.key()) else {
                wanted.insert(good.key(), (good.clone(), name.clone()));
                document.duplicate = None;
                continue;
            };
            let message = format!("{first} holds a route for {} already", good.key());
            if document.duplicate.as_ref() != Some(&message) {
                faults.push(Fault { document: name.clone(), message: message.clone(), served: false });
            }
            document.duplicate = Some(message);
        }
        wanted.into_iter().map(|(key, (route, _))| (key, route)).collect()
    }

    fn changes(&mut self, wanted: BTreeMap<String, Arc<Route>>, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        self.routes.retain(|key, entry| {
            let removed = match wanted.get(key) {
                Some(route) => route.state == RouteState::Removed,
                None => now.saturating_duration_since(*entry.missing_since.get_or_insert(now)) >= GRACE,
            };
            if removed {
                changes.push(Change { key: key.clone(), route: None });
            }
            !removed
        });
        for (key, route) in wanted.into_iter().filter(|(_, route)| route.state == RouteState::Active) {
            if let Some(entry) = self.routes.get_mut(&key) {
                entry.missing_since = None;
                if entry.route == route {
                    continue;
                }
            }
            changes.push(Change { key: key.clone(), route: Some(route.clone()) });
            self.routes.insert(key, Entry { route, missing_since: None });
        }
        changes
    }
}

// === impl Document ===

impl Document {
    /// Returns what is wrong with a new text.
    fn take_in(&mut self, seen: Seen, misplaced: impl Fn(&Route) -> Option<String>) -> Option<String> {
        let fault = match seen {
            Seen::Unchanged => return None,
            Seen::Text(text) => match Route::from_yaml(&text) {
                Ok(route) => match misplaced(&route) {
                    Some(fault) => fault,
                    None => {
                        (self.good, self.fault) = (Some(Arc::new(route)), None);
                        return None;
                    }
                },
                Err(error) => chain(&error),
            },
            Seen::Unreadable(message) => message,
        };
        let new = self.fault.as_ref() != Some(&fault);
        self.fault = Some(fault.clone());
        new.then_some(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::route_fixture::document;

    fn active(name: &str, retry: u32) -> Seen {
        Seen::Text(document(name, retry, "Active"))
    }

    fn keys(changes: &[Change]) -> Vec<(&str, Option<u32>)> {
        changes.iter().map(|c| (c.key.as_str(), c.route.as_ref().map(|r| r.events.retry_milliseconds))).collect()
    }

    fn seen(files: &[(&str, Seen)]) -> Vec<(String, Seen)> {
        files.iter().map(|(name, seen)| ((*name).to_owned(), seen.clone())).collect()
    }

    #[test]
    fn routes_are_taken_up_and_replaced_once() {
        let (mut table, now) = (RouteTable::default(), Instant::now());
        let (changes, faults) = table.update(seen(&[("a.yaml", active("a", 1)), ("b.yaml", active("b", 1))]), now);
        assert_eq!(keys(&changes), [("demo/a", Some(1)), ("demo/b", Some(1))]);
        assert_eq!(faults, []);
        let (changes, _) = table.update(seen(&[("a.yaml", active("a", 2)), ("b.yaml", Seen::Unchanged)]), now);
        assert_eq!(keys(&changes), [("demo/a", Some(2))]);
        let (changes, _) = table.update(seen(&[("a.yaml", active("a", 2)), ("b.yaml", active("b", 1))]), now);
        assert_eq!(keys(&changes), [], "written again, nothing new");
    }

    #[test]
    fn garbage_leaves_the_last_good_version_and_touches_no_other() {
        let (mut table, now) = (RouteTable::default(), Instant::now());
        table.update(seen(&[("a.yaml", active("a", 1))]), now);
        let garbage = document("a", 9, "Active").replace("limits: {}", "limits: {connectoins: 5}");
        let files = [("a.yaml", Seen::Text(garbage)), ("b.yaml", active("b", 1)), ("c.yaml", Seen::Text("{".into()))];
        let (changes, faults) = table.update(seen(&files), now);
        assert_eq!(keys(&changes), [("demo/b", Some(1))]);
        let [a, c] = faults.as_slice() else { panic!("{faults:?}") };
        assert!(a.message.contains("unknown field `connectoins`") && a.message.contains("line"), "{}", a.message);
        assert_eq!((a.document.as_str(), a.served), ("a.yaml", true));
        assert_eq!((c.document.as_str(), c.served), ("c.yaml", false));
        assert_eq!(table.refused(), 2);
        let (_, faults) = table.update(seen(&files), now);
        assert_eq!(faults, [], "the same fault is told once");
        let (changes, _) = table.update(seen(&[("a.yaml", active("a", 3)), ("b.yaml", Seen::Unchanged)]), now);
        assert_eq!((keys(&changes), table.refused()), (vec![("demo/a", Some(3))], 0));
    }

    #[test]
    fn another_version_of_the_document_is_refused() {
        let mut table = RouteTable::default();
        let newer = document("a", 1, "Active").replace("version: 1", "version: 2");
        let (changes, faults) = table.update(seen(&[("a.yaml", Seen::Text(newer))]), Instant::now());
        assert_eq!(changes, []);
        assert!(faults[0].message.contains("version 2"), "{faults:?}");
    }

    #[test]
    fn a_removed_route_ends_now_and_a_missing_one_after_the_grace() {
        let (mut table, now) = (RouteTable::default(), Instant::now());
        table.update(seen(&[("a.yaml", active("a", 1)), ("b.yaml", active("b", 1))]), now);
        let (changes, _) = table.update(seen(&[("a.yaml", Seen::Text(document("a", 1, "Removed")))]), now);
        assert_eq!(keys(&changes), [("demo/a", None)]);
        assert_eq!(table.next_expiry(), Some(now + GRACE));
        let (changes, _) = table.update(vec![], now + GRACE / 2);
        assert_eq!(keys(&changes), []);
        let (changes, _) = table.update(vec![], now + GRACE);
        assert_eq!(keys(&changes), [("demo/b", None)]);
        assert_eq!(table.next_expiry(), None);
    }

    #[test]
    fn a_route_that_comes_back_within_the_grace_was_never_away() {
        let (mut table, now) = (RouteTable::default(), Instant::now());
        table.update(seen(&[("a.yaml", active("a", 1))]), now);
        table.update(vec![], now);
        let (changes, _) = table.update(seen(&[("moved.yaml", active("a", 1))]), now + GRACE / 2);
        assert_eq!(keys(&changes), []);
        let (changes, _) = table.update(seen(&[("moved.yaml", Seen::Unchanged)]), now + GRACE * 2);
        assert_eq!(keys(&changes), []);
    }

    #[test]
    fn of_two_documents_for_one_channel_the_first_by_name_counts() {
        let (mut table, now) = (RouteTable::default(), Instant::now());
        let (changes, faults) = table.update(seen(&[("b.yaml", active("a", 2)), ("a.yaml", active("a", 1))]), now);
        assert_eq!(keys(&changes), [("demo/a", Some(1))]);
        assert_eq!(faults[0].message, "a.yaml holds a route for demo/a already");
        let both = seen(&[("a.yaml", Seen::Unchanged), ("b.yaml", Seen::Unchanged)]);
        assert_eq!(table.update(both, now), (vec![], vec![]));
        let (changes, _) = table.update(seen(&[("b.yaml", Seen::Unchanged)]), now);
        assert_eq!(keys(&changes), [("demo/a", Some(2))]);
        assert_eq!(table.refused(), 0);
    }

    #[test]
    fn an_unreadable_document_is_not_a_missing_one() {
        let (mut table, now) = (RouteTable::default(), Instant::now());
        table.update(seen(&[("a.yaml", active("a", 1))]), now);
        let denied = seen(&[("a.yaml", Seen::Unreadable("permission denied".into()))]);
        let (_, faults) = table.update(denied.clone(), now);
        assert_eq!(faults[0].message, "permission denied");
        assert_eq!(table.update(denied, now + GRACE * 2), (vec![], vec![]));
    }

    #[test]
    fn an_object_of_a_release_is_named_after_its_channel() {
        let mut table = RouteTable::of_release(Release::new("tidings-system", "push").unwrap());
        let (proper, copy) = ("tidings-route.push.demo.a", "a-copy-of.push.demo.a");
        let files = seen(&[(proper, active("a", 2)), (copy, active("a", 1))]);
        let (changes, faults) = table.update(files, Instant::now());
        assert_eq!(keys(&changes), [("demo/a", Some(2))]);
        let message = "the route of demo/a is read only from tidings-route.push.demo.a".to_owned();
        assert_eq!(faults, [Fault { document: copy.to_owned(), message, served: false }]);
    }
}
