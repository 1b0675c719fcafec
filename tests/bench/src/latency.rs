//! How long deliveries took: buckets that grow with the value, 3 % wide.

/// Counts durations in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    buckets: Vec<u64>,
    count: u64,
    most: u64,
}

/// 2^5 buckets for every power of two.
const BITS: u32 = 5;

// === impl Latency ===

impl Latency {
    pub(crate) fn new() -> Self {
        Self { buckets: vec![0; 64 << BITS], count: 0, most: 0 }
    }

    pub(crate) fn observe(&mut self, nanos: u64) {
        if let Some(bucket) = self.buckets.get_mut(place(nanos)) {
            *bucket += 1;
        }
        self.count += 1;
        self.most = self.most.max(nanos);
    }

    /// The value that `share` of all are not above, in milliseconds.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        let place = self.buckets.iter().position(|bucket| {
            seen += bucket;
            seen >= wanted
        })?;
        (self.count > 0).then(|| floor(place + 1).min(self.most) as f64 / 1e6)
    }

    /// The largest, in milliseconds.
    pub(crate) fn most(&self) -> Option<f64> {
        (self.count > 0).then_some(self.most as f64 / 1e6)
    }
}

fn place(nanos: u64) -> usize {
    let power = 63 - (nanos | 1).leading_zeros();
    match power.checked_sub(BITS) {
        None => nanos as usize,
        Some(shift) => (((shift + 1) as usize) << BITS) + ((nanos >> shift) as usize & ((1 << BITS) - 1)),
    }
}

/// The smallest value of a bucket.
fn floor(place: usize) -> u64 {
    let (power, rest) = (place >> BITS, (place & ((1 << BITS) - 1)) as u64);
    match power.checked_sub(1) {
        None => rest,
        Some(shift) => (rest + (1 << BITS)).checked_shl(shift as u32).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_a_bucket_too_high() {
        let mut latency = Latency::new();
        (1..=1_000u64).for_each(|n| latency.observe(n * 1_000_000));
        let (p50, p99) = (latency.quantile(0.5).unwrap(), latency.quantile(0.99).unwrap());
        assert!((500.0..518.0).contains(&p50) && (990.0..=1_000.0).contains(&p99), "{p50} {p99}");
        assert_eq!((latency.most(), Latency::new().quantile(0.5)), (Some(1_000.0), None));
    }

    #[test]
    fn every_value_lies_in_its_bucket() {
        for nanos in (0..64).map(|power| 1u64 << power).flat_map(|n| [n - 1, n, n + n / 3]) {
            let place = place(nanos);
            assert!(floor(place) <= nanos && (nanos < floor(place + 1) || floor(place + 1) == u64::MAX), "{nanos}");
        }
    }
}
