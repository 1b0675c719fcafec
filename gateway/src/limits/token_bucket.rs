//! So many per second, with at most one second's worth at once.

use std::time::{Duration, Instant};

/// The generic cell rate algorithm: one instant of memory, no timer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    /// When all that was taken up to now has been paid for.
    paid_at: Option<Instant>,
}

const SECOND: Duration = Duration::from_secs(1);

/// Nothing costs more than an hour's worth.
const LONGEST: Duration = Duration::from_secs(3600);

// === impl Rate ===

impl Rate {
    /// Takes one, or says how long to wait for the next one. `per_second` may differ from call to call; 0 allows none.
    pub fn take(&mut self, per_second: u32, now: Instant) -> Result<(), Duration> {
        let Some(price) = SECOND.checked_div(per_second) else { return Err(SECOND) };
        let paid_at = self.paid_at.map_or(now, |at| at.max(now)) + price;
        let debt = paid_at.saturating_duration_since(now);
        if debt > SECOND {
            return Err(debt - SECOND);
        }
        self.paid_at = Some(paid_at);
        Ok(())
    }

    /// Takes `amount` at once, or says how long to wait. What is more than a second's worth passes when nothing is owed,
    /// and is paid for afterwards: else it could never pass.
    pub fn take_many(&mut self, amount: u64, per_second: u64, now: Instant) -> Result<(), Duration> {
        if per_second == 0 {
            return Err(SECOND);
        }
        // In nanoseconds: 584 years of them fit.
        let price = u128::from(amount) * SECOND.as_nanos() / u128::from(per_second);
        let price = Duration::from_nanos(u64::try_from(price).unwrap_or(u64::MAX)).min(LONGEST);
        let owed = self.paid_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        if !owed.is_zero() && owed + price > SECOND {
            return Err((owed + price).saturating_sub(SECOND).min(owed));
        }
        self.paid_at = Some(now + owed + price);
        Ok(())
    }

    /// Whether all that was taken is paid for: then it is as good as new.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.paid_at.is_none_or(|at| at <= now)
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
    fn amounts_are_taken_a_second_s_worth_at_a_time_and_large_ones_are_paid_for_afterwards() {
        let (mut rate, now) = (Rate::default(), Instant::now());
        assert_eq!(rate.take_many(600, 1_000, now), Ok(()));
        assert_eq!(rate.take_many(400, 1_000, now), Ok(()));
        assert_eq!(rate.take_many(100, 1_000, now), Err(Duration::from_millis(100)));
        assert!(!rate.is_idle(now));
        let later = now + Duration::from_secs(1);
        assert!(rate.is_idle(later));
        assert_eq!(rate.take_many(5_000, 1_000, later), Ok(()), "larger than a second's worth");
        assert_eq!(rate.take_many(1, 1_000, later), Err(Duration::from_millis(4_001)));
        assert_eq!(rate.take_many(1, 1_000, later + Duration::from_millis(4_001)), Ok(()));
        assert_eq!(Rate::default().take_many(1, 0, now), Err(Duration::from_secs(1)));
        assert_eq!(Rate::default().take_many(u64::MAX, 1, now), Ok(()));
    }

    #[test]
    fn zero_allows_none_and_a_lowered_limit_counts_at_once() {
        let (mut rate, now) = (Rate::default(), Instant::now());
        assert!(rate.take(0, now).is_err());
        assert_eq!((0..1_000).filter(|_| rate.take(1_000, now).is_ok()).count(), 1_000);
        assert!(rate.take(1, now).is_err());
    }
}
