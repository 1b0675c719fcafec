//! The pause between two rounds of a loop against the outside: none where a round lasts, growing where rounds end at once,
//! whether by an error or by a success that brings nothing. Pure.

use std::time::{Duration, Instant};

/// The pace of one loop.
#[derive(Clone, Debug)]
pub struct Pace {
    shortest: Duration,
    longest: Duration,
    lasts: Duration,
    begun: Option<Instant>,
    pause: Duration,
}

// === impl Pace ===

impl Pace {
    /// Pauses that double from `shortest` to `longest`, as long as no round lasts for `lasts`.
    pub const fn new(shortest: Duration, longest: Duration, lasts: Duration) -> Self {
        Self { shortest, longest, lasts, begun: None, pause: Duration::ZERO }
    }

    /// How long to wait before the next round may begin, asked when it would begin.
    pub fn next(&mut self, now: Instant) -> Duration {
        let at_once = self.begun.is_some_and(|begun| now.saturating_duration_since(begun) < self.lasts);
        self.pause = if at_once { (self.pause * 2).clamp(self.shortest, self.longest) } else { Duration::ZERO };
        self.begun = Some(now + self.pause);
        self.pause
    }

    /// Whether rounds end at once for so long that the pause no longer grows.
    pub fn is_slowest(&self) -> bool {
        self.pause == self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn rounds_that_end_at_once_are_paced_and_one_that_lasts_resets_it() {
        let mut pace = Pace::new(ms(100), ms(1_000), ms(10_000));
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let pause = pace.next(now);
            pauses.push(pause.as_millis());
            now += pause + ms(1);
        }
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1_000, 1_000]);
        assert!(pace.is_slowest());
        now += ms(10_000);
        assert_eq!((pace.next(now), pace.is_slowest()), (ms(0), false));
        assert_eq!(pace.next(now + ms(9_999)), ms(100));
    }
}
