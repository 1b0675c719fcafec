//! How far a new Route has come: which gateways have taken it, and how long it has been there. Pure.
//!
//! A subject may enter a stream only when gateways know it: one that does not takes its messages for what the channel no
//! longer has, and passes over them. What gateways serve is what their beats say; where there are no beats (Routes as
//! files), and for a gateway that does not answer, time decides: see `docs/decisions/0025-routes-before-subjects.md`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tidings_crds::key::ChannelKey;

/// After this time in place, a Route is not waited for any more. Longer than a watch that has silently died (50 s) and than
/// [`SILENCE`](tidings_crds::beat::SILENCE).
pub const ON_KUBERNETES: Duration = Duration::from_secs(60);

/// The same with Routes as files, where nothing tells what gateways serve: they read the directory every 5 s at least.
pub const ON_FILES: Duration = Duration::from_secs(6);

/// How far the Routes of one Channel have come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// Each gateway's name, and the digest of the Route that it serves; `None` while that is not known.
    pub gateways: Option<Vec<(String, Option<String>)>>,
    /// The Route that was waited for when the Channel was visited last, and for how long it has been in place.
    pub waited: Option<(String, Duration)>,
    /// After how long it is not waited for any more.
    pub patience: Duration,
}

/// The Channels that wait for gateways to take their Route.
#[derive(Debug, Default)]
pub struct Waiting(BTreeMap<ChannelKey, (String, Instant)>);

// === impl Rollout ===

impl Rollout {
    /// Whether every gateway that may matter serves the Route with this digest.
    pub fn has_reached(&self, digest: &str) -> bool {
        let all = self.gateways.is_some() && self.lacking(digest).next().is_none();
        let in_time = self.waited.as_ref().is_some_and(|(waited, time)| waited == digest && *time >= self.patience);
        all || in_time
    }

    /// What is waited for, in words.
    pub fn words(&self, digest: &str) -> String {
        let most = self.patience.as_secs();
        let Some(gateways) = &self.gateways else {
            return format!("until gateways have taken the new route, at most {most} s");
        };
        let mut lacking = self.lacking(digest);
        match (lacking.next(), lacking.count()) {
            (Some(first), 0) => format!("for gateway {first} to take the new route, at most {most} s"),
            (Some(first), more) => {
                let total = gateways.len();
                format!("for gateway {first} and {more} more of {total} to take the new route, at most {most} s")
            }
            (None, _) => "for nothing".to_owned(),
        }
    }

    fn lacking(&self, digest: &str) -> impl Iterator<Item = &str> {
        let gateways = self.gateways.iter().flatten();
        gateways.filter(move |(_, served)| served.as_deref() != Some(digest)).map(|(name, _)| name.as_str())
    }
}

// === impl Waiting ===

impl Waiting {
    /// A visit ended, and the Channel waits for the Route with this digest, or for none.
    pub fn set(&mut self, key: &ChannelKey, digest: Option<&str>, now: Instant) {
        let Some(digest) = digest else {
            self.0.remove(key);
            return;
        };
        let since = self.0.get(key).filter(|(waited, _)| waited == digest).map_or(now, |(_, since)| *since);
        self.0.insert(key.clone(), (digest.to_owned(), since));
    }

    /// What a Channel waits for, and for how long it has.
    pub fn waited(&self, key: &ChannelKey, now: Instant) -> Option<(String, Duration)> {
        let (digest, since) = self.0.get(key)?;
        Some((digest.clone(), now.saturating_duration_since(*since)))
    }

    /// Whether a Channel waits.
    pub fn is_waiting(&self, key: &ChannelKey) -> bool {
        self.0.contains_key(key)
    }

    /// The Channels that wait.
    pub fn keys(&self) -> impl Iterator<Item = &ChannelKey> {
        self.0.keys()
    }

    /// When the first of them has waited so long.
    pub fn next(&self, patience: Duration) -> Option<Instant> {
        self.0.values().map(|(_, since)| *since + patience).min()
    }

    /// Forgets the Channels that are no longer there.
    pub fn retain(&mut self, exists: impl Fn(&ChannelKey) -> bool) {
        self.0.retain(|key, _| exists(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(gateways: Option<&[(&str, Option<&str>)]>, waited: Option<(&str, u64)>) -> Rollout {
        let said = |gateways: &[(&str, Option<&str>)]| {
            gateways.iter().map(|(name, digest)| ((*name).to_owned(), digest.map(str::to_owned))).collect()
        };
        Rollout {
            gateways: gateways.map(said),
            waited: waited.map(|(digest, seconds)| (digest.to_owned(), Duration::from_secs(seconds))),
            patience: ON_KUBERNETES,
        }
    }

    #[test]
    fn a_route_has_come_through_when_every_gateway_says_so_or_after_a_while() {
        assert!(!rollout(None, None).has_reached("new"), "nothing is known");
        assert!(rollout(Some(&[]), None).has_reached("new"), "there is no gateway");
        let half = rollout(Some(&[("a", Some("new")), ("b", Some("old"))]), None);
        assert!(!half.has_reached("new"));
        assert_eq!(half.words("new"), "for gateway b to take the new route, at most 60 s");
        assert!(!rollout(Some(&[("a", None)]), None).has_reached("new"), "not heard of");
        assert!(rollout(Some(&[("a", Some("new"))]), None).has_reached("new"));
        let stuck: [(&str, Option<&str>); 3] = [("a", None), ("b", Some("old")), ("c", Some("new"))];
        assert!(!rollout(Some(&stuck), Some(("new", 59))).has_reached("new"));
        assert!(rollout(Some(&stuck), Some(("new", 60))).has_reached("new"));
        assert!(!rollout(Some(&stuck), Some(("old", 90))).has_reached("new"), "another route was waited for");
        assert_eq!(
            rollout(Some(&stuck), None).words("new"),
            "for gateway a and 1 more of 3 to take the new route, at most 60 s"
        );
    }

    #[test]
    fn the_time_counts_from_the_first_look_at_a_route() {
        let (start, key) = (Instant::now(), ChannelKey::new("shop", "orders"));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut waiting = Waiting::default();
        waiting.set(&key, Some("a"), start);
        waiting.set(&key, Some("a"), at(5));
        assert_eq!(waiting.waited(&key, at(7)), Some(("a".to_owned(), Duration::from_secs(7))));
        assert_eq!(waiting.next(ON_FILES), Some(start + ON_FILES));
        waiting.set(&key, Some("b"), at(7));
        assert_eq!(waiting.waited(&key, at(8)), Some(("b".to_owned(), Duration::from_secs(1))));
        waiting.set(&key, None, at(9));
        assert_eq!((waiting.waited(&key, at(9)), waiting.next(ON_FILES)), (None, None));
    }
}
