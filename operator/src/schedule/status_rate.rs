//! How fast statuses are written. Pure: time is passed in.
//!
//! Every write gets a moment of its own, at even distances. What changed only in its counts waits for one of 20 a second,
//! and for a while since the last; a condition that changed waits only if very many do at once. A write costs an API server
//! about 4 ms of CPU.

use std::time::{Duration, Instant};

use crate::schedule::status::Change;

/// 20 a second: 8 % of one core of the API server, however many Channels are busy.
const COUNTS_INTERVAL: Duration = Duration::from_millis(50);

/// 100 a second: 2,000 Channels become Ready within half a minute, and leave the API server more than half a core.
const TRANSITIONS_INTERVAL: Duration = Duration::from_millis(10);

/// The least time between two writes of the subscribers of one Channel.
const COUNTS_PAUSE: Duration = Duration::from_secs(60);

/// The same for what a person may be watching: gateways take up a Route within tenths of a second of each other.
const PROGRESS_PAUSE: Duration = Duration::from_secs(1);

/// How long a Channel's status rests after it was written, before such a change is written.
pub fn pause(change: Change) -> Duration {
    match change {
        Change::None | Change::Counts => COUNTS_PAUSE,
        Change::Progress => PROGRESS_PAUSE,
        Change::Transition => Duration::ZERO,
    }
}

/// When the next writes may be.
#[derive(Debug)]
pub struct Budget {
    counts: Pace,
    transitions: Pace,
}

/// One kind of writes.
#[derive(Debug)]
struct Pace {
    interval: Duration,
    /// The first moment that nobody has reserved.
    free: Instant,
    /// The first moment at which one more write may begin.
    rested: Instant,
}

// === impl Budget ===

impl Budget {
    /// Nothing was written yet.
    pub fn new(now: Instant) -> Self {
        let pace = |interval| Pace { interval, free: now, rested: now };
        Self { counts: pace(COUNTS_INTERVAL), transitions: pace(TRANSITIONS_INTERVAL) }
    }

    /// The moment at which one more change may be written.
    pub fn reserve(&mut self, change: Change, now: Instant) -> Instant {
        let pace = self.pace(change);
        let at = pace.free.max(now);
        pace.free = at + pace.interval;
        at
    }

    /// Begins a write whose moment has come, or reserves another one for it. Moments that came late, since the operator or its
    /// machine was busy, are not made up for all at once where nobody waits: such a write goes to the end of the line.
    ///
    /// # Errors
    /// The other moment.
    pub fn spend(&mut self, change: Change, now: Instant) -> Result<(), Instant> {
        let pace = self.pace(change);
        if change < Change::Transition && now < pace.rested {
            return Err(self.reserve(change, now + Duration::from_nanos(1)));
        }
        pace.rested = now + pace.interval;
        Ok(())
    }

    fn pace(&mut self, change: Change) -> &mut Pace {
        match change {
            Change::Transition => &mut self.transitions,
            Change::Progress | Change::Counts | Change::None => &mut self.counts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_at_most_20_times_a_second() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let last = (0..2000).map(|_| budget.reserve(Change::Counts, start)).max().unwrap();
        assert_eq!(last, start + COUNTS_INTERVAL * 1999);
        // Not by saving up, either.
        let later = start + Duration::from_secs(1000);
        assert_eq!(budget.reserve(Change::Counts, later), later);
        assert_eq!(budget.reserve(Change::Counts, later), later + COUNTS_INTERVAL);
    }

    #[test]
    fn a_condition_does_not_wait_for_counts() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for _ in 0..100 {
            budget.reserve(Change::Counts, start);
        }
        assert_eq!(budget.reserve(Change::Transition, start), start);
    }

    #[test]
    fn moments_that_came_late_are_not_made_up_for_at_once() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for _ in 0..10 {
            budget.reserve(Change::Counts, start);
        }
        let late = start + Duration::from_secs(1);
        assert_eq!(budget.spend(Change::Counts, late), Ok(()));
        let other = budget.spend(Change::Counts, late).unwrap_err();
        assert!(other > late && other <= late + COUNTS_INTERVAL, "{:?}", other - late);
        assert_eq!(budget.spend(Change::Counts, late + COUNTS_INTERVAL), Ok(()));
        // A person may be waiting for these.
        assert_eq!([budget.spend(Change::Transition, late), budget.spend(Change::Transition, late)], [Ok(()), Ok(())]);
    }
}
