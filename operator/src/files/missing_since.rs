//! Which Channels are gone, and for how long. Pure: time is passed in.
//!
//! What exists (streams, Routes) is compared with what is declared, so an operator that was away notices as well. A
//! Channel counts as gone only after it was missing for a while without a break: an editor that saves a file removes it
//! for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tidings_crds::key::ChannelKey;

/// Since when each thing that exists has no Channel.
#[derive(Debug)]
pub struct Absences {
    delay: Duration,
    since: BTreeMap<ChannelKey, Instant>,
}

// === impl Absences ===

impl Absences {
    /// A Channel counts as gone when it was missing for `delay`.
    pub fn new(delay: Duration) -> Self {
        Self { delay, since: BTreeMap::new() }
    }

    /// Takes up which of the Channels that own something are missing `now`, and returns those that are gone.
    pub fn gone(&mut self, missing: BTreeSet<ChannelKey>, now: Instant) -> Vec<ChannelKey> {
        self.since.retain(|key, _| missing.contains(key));
        for key in missing {
            self.since.entry(key).or_insert(now);
        }
        let due = self.since.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= self.delay);
        due.map(|(key, _)| key.clone()).collect()
    }

    /// When the next one that is missing counts as gone.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        self.since.values().map(|since| *since + self.delay).filter(|due| *due > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(3);

    fn keys(names: &[&str]) -> BTreeSet<ChannelKey> {
        names.iter().map(|name| ChannelKey::new("shop", *name)).collect()
    }

    #[test]
    fn what_is_missing_without_a_break_is_gone_after_the_delay() {
        let (mut absences, start) = (Absences::new(DELAY), Instant::now());
        assert_eq!(absences.gone(keys(&["a"]), start), []);
        assert_eq!(absences.next(start), Some(start + DELAY));
        assert_eq!(absences.gone(keys(&["a", "b"]), start + DELAY / 2), []);
        assert_eq!(absences.gone(keys(&["a", "b"]), start + DELAY), [ChannelKey::new("shop", "a")]);
        assert_eq!(absences.next(start + DELAY), Some(start + DELAY / 2 + DELAY));
    }

    #[test]
    fn what_comes_back_starts_anew() {
        let (mut absences, start) = (Absences::new(DELAY), Instant::now());
        absences.gone(keys(&["a"]), start);
        absences.gone(keys(&[]), start + DELAY / 2);
        assert_eq!(absences.next(start + DELAY / 2), None);
        assert_eq!(absences.gone(keys(&["a"]), start + DELAY), []);
    }
}
