//! Routes that were removed a moment ago: a Channel that is deleted and made again gets its clients back.
//!
//! Pure: told what time it is. What is answered meanwhile is decided where requests are: [`crate::http::authorize`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_crds::route::Route;

use crate::routes::served::Served;

/// How long a removed Route is remembered: longer than an operator needs to delete a Channel and serve it again.
const REMEMBERED: Duration = Duration::from_secs(60);

/// As documents. A Route of 1 KiB counts 2 KiB: 8,000 Channels that are removed at once.
const MOST_BYTES: usize = 16 << 20;

/// What is remembered, bounded in time and bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Removed {
    routes: HashMap<String, Removal>,
    by_age: BTreeSet<(Instant, String)>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Removal {
    served: Arc<Served>,
    at: Instant,
    cost: usize,
}

// === impl Removed ===

impl Removed {
    /// Remembers a Route; too many push the oldest out.
    pub(super) fn remember(&mut self, key: &str, served: Arc<Served>, now: Instant) {
        self.forget(key);
        let cost = cost(&served.route);
        self.bytes += cost;
        self.by_age.insert((now, key.to_owned()));
        self.routes.insert(key.to_owned(), Removal { served, at: now, cost });
        while self.bytes > MOST_BYTES
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.drop_route(&oldest);
        }
    }

    /// The channel is back.
    pub(super) fn forget(&mut self, key: &str) {
        if let Some(at) = self.drop_route(key) {
            self.by_age.remove(&(at, key.to_owned()));
        }
    }

    /// Forgets what was removed too long ago.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((at, _)) = self.by_age.first()
            && is_over(*at, now)
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.drop_route(&oldest);
        }
    }

    /// A Route that was removed lately.
    pub(super) fn get(&self, key: &str, now: Instant) -> Option<Arc<Served>> {
        self.routes.get(key).filter(|removal| !is_over(removal.at, now)).map(|removal| removal.served.clone())
    }

    /// All of them.
    pub(super) fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values().map(|removal| &*removal.served.route)
    }

    /// When the oldest will be forgotten.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.by_age.first().map(|(at, _)| *at + REMEMBERED)
    }

    fn drop_route(&mut self, key: &str) -> Option<Instant> {
        let removal = self.routes.remove(key)?;
        self.bytes = self.bytes.saturating_sub(removal.cost);
        Some(removal.at)
    }
}

fn is_over(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) >= REMEMBERED
}

fn cost(route: &Route) -> usize {
    1024 + route.to_yaml().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::route_fixture::document;

    fn served(name: &str) -> Arc<Served> {
        Arc::new(Served::new(Arc::new(Route::from_yaml(&document(name, 1000, "Active")).unwrap()), Arc::default()))
    }

    #[test]
    fn a_removed_route_is_remembered_for_a_minute() {
        let (mut removed, start) = (Removed::default(), Instant::now());
        let later = start + Duration::from_secs(1);
        removed.remember("demo/a", served("a"), start);
        removed.remember("demo/b", served("b"), later);
        assert_eq!(removed.get("demo/a", later).unwrap().route.name, "a");
        assert!(removed.get("demo/c", later).is_none());
        assert_eq!(removed.next_expiry(), Some(start + REMEMBERED));
        removed.expire(later);
        assert_eq!(removed.routes().count(), 2);
        assert!(removed.get("demo/a", start + REMEMBERED).is_none(), "whether it was cleared away by then or not");
        removed.expire(start + REMEMBERED);
        assert_eq!(removed.next_expiry(), Some(later + REMEMBERED));
        assert_eq!(removed.routes().map(|route| route.name.as_str()).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn what_is_back_is_forgotten_and_removed_again_it_counts_from_then() {
        let (mut removed, start) = (Removed::default(), Instant::now());
        removed.remember("demo/a", served("a"), start);
        removed.forget("demo/a");
        assert!(removed.get("demo/a", start).is_none());
        removed.remember("demo/a", served("a"), start);
        let again = start + REMEMBERED / 2;
        removed.remember("demo/a", served("a"), again);
        assert_eq!(removed.next_expiry(), Some(again + REMEMBERED));
        assert!(removed.get("demo/a", start + REMEMBERED).is_some());
        removed.expire(again + REMEMBERED);
        assert_eq!((removed.bytes, removed.by_age.len(), removed.next_expiry()), (0, 0, None));
    }

    #[test]
    fn too_many_removals_push_the_oldest_out() {
        let (mut removed, start) = (Removed::default(), Instant::now());
        let (one, most) = (served("a"), MOST_BYTES / cost(&served("a").route));
        for n in 0..most + 10 {
            removed.remember(&format!("demo/{n}"), one.clone(), start + Duration::from_micros(n as u64));
        }
        assert!(removed.bytes <= MOST_BYTES);
        assert_eq!((removed.routes.len(), removed.by_age.len()), (most, most));
        let now = start + Duration::from_secs(1);
        assert!(removed.get("demo/9", now).is_none() && removed.get("demo/10", now).is_some());
    }
}
