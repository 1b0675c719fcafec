//! When each open stream ends while the gateway leaves: evenly over a window, in random order.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The window, once it is known.
#[derive(Debug, Default)]
pub struct Farewell(OnceLock<(Instant, Duration)>);

/// The shortest reconnection time that clients are ever told, in milliseconds.
pub const MIN_RETRY: u32 = 500;

// === impl Farewell ===

impl Farewell {
    /// From now on streams end, the last one after `window`. Only the first call counts.
    pub fn begin(&self, now: Instant, window: Duration) {
        let _ = self.0.set((now, window));
    }

    /// When a stream ends that draws this lot between 0 and 1.
    pub fn at(&self, lot: f64) -> Option<Instant> {
        self.0.get().map(|(start, window)| *start + window.mul_f64(lot.clamp(0.0, 1.0)))
    }
}

/// A reconnection time that many clients can be told at once: from half to one and a half of the usual one.
pub fn jittered(retry_milliseconds: u32, lot: f64) -> u32 {
    let spread = f64::from(retry_milliseconds) * (0.5 + lot.clamp(0.0, 1.0));
    (spread as u32).max(MIN_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_end_within_the_window() {
        let (farewell, now) = (Farewell::default(), Instant::now());
        assert_eq!(farewell.at(0.5), None);
        farewell.begin(now, Duration::from_secs(10));
        farewell.begin(now, Duration::from_secs(99));
        assert_eq!(farewell.at(0.5), Some(now + Duration::from_secs(5)));
        assert_eq!(farewell.at(2.0), Some(now + Duration::from_secs(10)));
    }

    #[test]
    fn a_reconnection_time_is_spread_and_never_too_short() {
        assert_eq!((jittered(3000, 0.0), jittered(3000, 0.5), jittered(3000, 1.0)), (1500, 3000, 4500));
        assert_eq!(jittered(500, 0.0), 500);
    }
}
