//! When a beat is due, and what it says: pure, told what changes and what time it is. [`crate::heartbeat::sender`] sends it.
//!
//! - Nothing is said before all Routes have been read: a gateway that sends beats is expected to serve.
//! - A full beat every [`INTERVAL`], and at once when NATS is back: beats said meanwhile reached nobody.
//! - A partial one after a change: at once, but no sooner than [`SPACING`] after the last beat. What changes meanwhile goes along.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tidings_crds::beat::INTERVAL;

/// Half of the 100 ms in which a change is to be told; at most 20 beats a second while an operator writes thousands.
pub const SPACING: Duration = Duration::from_millis(50);

/// What has been said, and what is due.
#[derive(Debug, Default)]
pub struct Beats {
    number: u64,
    last: Option<Instant>,
    /// Absent until all Routes have been read.
    full: Option<Instant>,
    changed: BTreeSet<String>,
}

/// What a beat speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every Route in force.
    Full,
    /// These channels, `namespace/name`, which may have no Route any more.
    Changed(BTreeSet<String>),
}

// === impl Beats ===

impl Beats {
    /// The Routes of these channels have changed. The first time, all Routes have been read.
    pub fn changed(&mut self, keys: impl IntoIterator<Item = String>, now: Instant) {
        match self.full {
            None => self.full = Some(now),
            Some(_) => self.changed.extend(keys),
        }
    }

    /// NATS is back, or there for the first time.
    pub fn connected(&mut self, now: Instant) {
        if let Some(full) = &mut self.full {
            *full = now;
        }
    }

    /// When the next beat is due.
    pub fn due(&self) -> Option<Instant> {
        let full = self.full?;
        let earliest = self.last.map_or(full, |last| last + SPACING);
        Some(if self.changed.is_empty() { full } else { full.min(earliest) })
    }

    /// The beat that is due, and its number. The caller sends it.
    pub fn take(&mut self, now: Instant) -> Option<(u64, Scope)> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        self.number += 1;
        self.last = Some(now);
        let changed = std::mem::take(&mut self.changed);
        if self.full.is_some_and(|full| full <= now) {
            self.full = Some(now + INTERVAL);
            return Some((self.number, Scope::Full));
        }
        Some((self.number, Scope::Changed(changed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[&str]) -> BTreeSet<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    /// Beats whose first, full one was taken at `now`.
    fn begun(now: Instant) -> Beats {
        let mut beats = Beats::default();
        beats.changed(keys(&["demo/a"]), now);
        assert_eq!(beats.take(now), Some((1, Scope::Full)));
        beats
    }

    #[test]
    fn nothing_is_said_before_the_routes_have_been_read() {
        let (mut beats, now) = (Beats::default(), Instant::now());
        beats.connected(now);
        assert_eq!((beats.due(), beats.take(now)), (None, None));
        beats.changed([], now);
        assert_eq!(beats.take(now), Some((1, Scope::Full)), "no routes are something to say too");
    }

    #[test]
    fn a_full_beat_comes_every_interval() {
        let now = Instant::now();
        let mut beats = begun(now);
        assert_eq!(beats.take(now + INTERVAL - Duration::from_millis(1)), None);
        assert_eq!(beats.take(now + INTERVAL), Some((2, Scope::Full)));
        assert_eq!(beats.due(), Some(now + INTERVAL * 2));
    }

    #[test]
    fn a_change_after_quiet_is_said_at_once() {
        let now = Instant::now();
        let mut beats = begun(now);
        let later = now + SPACING * 3;
        beats.changed(keys(&["demo/b"]), later);
        assert!(beats.due() <= Some(later));
        assert_eq!(beats.take(later), Some((2, Scope::Changed(keys(&["demo/b"])))));
        assert_eq!(beats.take(later), None);
    }

    #[test]
    fn changes_close_to_each_other_share_a_beat() {
        let now = Instant::now();
        let mut beats = begun(now);
        beats.changed(keys(&["demo/b"]), now + SPACING / 4);
        assert_eq!(beats.take(now + SPACING / 4), None);
        beats.changed(keys(&["demo/c"]), now + SPACING / 2);
        beats.changed(keys(&["demo/b"]), now + SPACING / 2);
        assert_eq!(beats.due(), Some(now + SPACING));
        assert_eq!(beats.take(now + SPACING), Some((2, Scope::Changed(keys(&["demo/b", "demo/c"])))));
    }

    #[test]
    fn a_full_beat_takes_the_changes_along() {
        let now = Instant::now();
        let mut beats = begun(now);
        beats.changed(keys(&["demo/b"]), now + INTERVAL);
        assert_eq!(beats.take(now + INTERVAL), Some((2, Scope::Full)));
        assert_eq!(beats.due(), Some(now + INTERVAL * 2));
    }

    #[test]
    fn everything_is_said_again_when_nats_is_back() {
        let now = Instant::now();
        let mut beats = begun(now);
        beats.connected(now + SPACING / 10);
        assert_eq!(beats.take(now + SPACING / 10), Some((2, Scope::Full)));
    }
}
