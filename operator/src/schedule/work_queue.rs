//! Which Channels are to be looked at, and when. Pure: time and chance are passed in.
//!
//! Each Channel is in the queue once at most, with the earliest moment that anybody asked for; while it is being looked at
//! it is not handed out again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tidings_crds::key::ChannelKey;

/// The first pause before something that failed in passing is tried again; it doubles up to the queue's longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Channels by when they are due.
#[derive(Debug)]
pub struct Queue {
    longest: Duration,
    items: BTreeMap<ChannelKey, Item>,
    due: BTreeSet<(Instant, ChannelKey)>,
}

#[derive(Debug, Default)]
struct Item {
    due: Option<Instant>,
    busy: bool,
    failures: u32,
}

// === impl Queue ===

impl Queue {
    /// Pauses after failures grow up to `longest`.
    pub fn new(longest: Duration) -> Self {
        Self { longest, items: BTreeMap::new(), due: BTreeSet::new() }
    }

    /// Asks for a look at the latest at `at`.
    pub fn add(&mut self, key: &ChannelKey, at: Instant) {
        let item = self.items.entry(key.clone()).or_default();
        if item.due.is_some_and(|due| due <= at) {
            return;
        }
        if let Some(due) = item.due.replace(at) {
            self.due.remove(&(due, key.clone()));
        }
        if !item.busy {
            self.due.insert((at, key.clone()));
        }
    }

    /// The next Channel that is due `now`; nobody else gets it until it is [`done`](Self::done).
    pub fn take(&mut self, now: Instant) -> Option<ChannelKey> {
        let (due, key) = self.due.first()?.clone();
        if due > now {
            return None;
        }
        self.due.pop_first();
        let item = self.items.get_mut(&key)?;
        (item.due, item.busy) = (None, true);
        Some(key)
    }

    /// A look that went as it should; what was asked for meanwhile is due.
    pub fn done(&mut self, key: &ChannelKey) {
        let Some(item) = self.items.get_mut(key) else { return };
        (item.busy, item.failures) = (false, 0);
        match item.due {
            Some(due) => drop(self.due.insert((due, key.clone()))),
            None => drop(self.items.remove(key)),
        }
    }

    /// A look that failed in passing: it is repeated, after a pause that grows with each failure. `chance` is from 0 to 1;
    /// half of the pause is left to it, so that Channels which failed together are not repeated together.
    pub fn failed(&mut self, key: &ChannelKey, now: Instant, chance: f64) {
        let Some(item) = self.items.get_mut(key) else { return };
        let pause = FIRST_PAUSE.saturating_mul(1 << item.failures.min(16)).min(self.longest);
        let failures = item.failures.saturating_add(1);
        self.done(key);
        self.add(key, now + pause.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0));
        if let Some(item) = self.items.get_mut(key) {
            item.failures = failures;
        }
    }

    /// How many are due `now`.
    pub fn backlog(&self, now: Instant) -> usize {
        self.due.iter().take_while(|(due, _)| *due <= now).count()
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ChannelKey {
        ChannelKey::new("shop", name)
    }

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn the_earliest_request_counts_and_each_is_handed_out_once() {
        let (mut queue, start) = (Queue::new(Duration::from_secs(30)), Instant::now());
        queue.add(&key("a"), at(start, 100));
        queue.add(&key("a"), at(start, 50));
        queue.add(&key("a"), at(start, 70));
        queue.add(&key("b"), at(start, 60));
        assert_eq!((queue.next(), queue.take(start)), (Some(at(start, 50)), None));
        assert_eq!(queue.take(at(start, 60)), Some(key("a")));
        assert_eq!(queue.take(at(start, 60)), Some(key("b")));
        assert_eq!(queue.take(at(start, 60)), None);
    }

    #[test]
    fn what_is_asked_for_during_a_look_follows_it() {
        let (mut queue, start) = (Queue::new(Duration::from_secs(30)), Instant::now());
        queue.add(&key("a"), start);
        queue.take(start);
        queue.add(&key("a"), start);
        assert_eq!(queue.take(start), None);
        queue.done(&key("a"));
        assert_eq!(queue.take(start), Some(key("a")));
        queue.done(&key("a"));
        assert_eq!((queue.take(start), queue.next()), (None, None));
    }

    #[test]
    fn pauses_grow_with_failures_to_a_limit_and_end_with_success() {
        let (mut queue, mut now) = (Queue::new(Duration::from_secs(2)), Instant::now());
        queue.add(&key("a"), now);
        for expected in [250, 500, 1000, 2000, 2000] {
            assert_eq!(queue.take(now), Some(key("a")));
            queue.failed(&key("a"), now, 1.0);
            assert_eq!(queue.next(), Some(at(now, expected)));
            now = at(now, expected);
        }
        queue.take(now);
        queue.done(&key("a"));
        queue.add(&key("a"), now);
        queue.take(now);
        queue.failed(&key("a"), now, 0.0);
        assert_eq!(queue.next(), Some(at(now, 125)));
        // A change is not made to wait for the end of a pause.
        queue.add(&key("a"), now);
        assert_eq!(queue.take(now), Some(key("a")));
    }
}
