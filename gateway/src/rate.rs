//! So many per second, with at most one second's worth at once.

use std::time::{Duration, Instant};

/// The generic cell rate algorithm: one instant of memory, no timer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    /// When all that was taken up to now has been paid for.
    paid_at: Option<Instant>,
}

// === impl Rate ===

impl Rate {
    /// Takes one, or says how long to wait for the next one. `per_second` may differ from call to call; 0 allows none.
    pub fn take(&mut self, per_second: u32, now: Instant) -> Result<(), Duration> {
        let Some(price) = Duration::from_secs(1).checked_div(per_second) else { return Err(Duration::from_secs(1)) };
        let paid_at = self.paid_at.map_or(now, |at| at.max(now)) + price;
        let debt = paid_at.saturating_duration_since(now);
        if debt > Duration::from_secs(1) {
            return Err(debt - Duration::from_secs(1));
        }
        self.paid_at = Some(paid_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_at_once_then_one_by_one() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        for n in 0..10 {
            assert_eq!(rate.take(10, start), Ok(()), "{n}");
        }
        assert_eq!(rate.take(10, start), Err(Duration::from_millis(100)));
        assert_eq!(rate.take(10, start + Duration::from_millis(100)), Ok(()));
        assert_eq!(rate.take(10, start + Duration::from_millis(100)), Err(Duration::from_millis(100)));
        let later = start + Duration::from_secs(60);
        assert_eq!((0..20).filter(|_| rate.take(10, later).is_ok()).count(), 10);
    }

    #[test]
    fn zero_allows_none_and_a_lowered_limit_counts_at_once() {
        let (mut rate, now) = (Rate::default(), Instant::now());
        assert!(rate.take(0, now).is_err());
        assert_eq!((0..1_000).filter(|_| rate.take(1_000, now).is_ok()).count(), 1_000);
        assert!(rate.take(1, now).is_err());
    }
}
