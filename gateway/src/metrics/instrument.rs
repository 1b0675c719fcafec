//! What counts: counters, gauges and a latency histogram of relaxed atomics, and how each is written on a scrape.
//!
//! The ones of prometheus-client hide a lock in the histogram and a map lookup in the labels; these cost one or two
//! uncontended additions, so the fan-out may use them.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::metrics::label::ClosedSet;

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

/// One counter for each word of a closed set.
#[derive(Debug)]
pub struct Counters<L> {
    counts: Box<[Counter]>,
    words: PhantomData<fn(L)>,
}

/// One gauge for each word of a closed set.
#[derive(Debug)]
pub struct Gauges<L> {
    values: Box<[Gauge]>,
    words: PhantomData<fn(L)>,
}

/// One counter for each pair of words of two closed sets; pairs that never occurred are not written.
#[derive(Debug)]
pub struct Grid<A, B> {
    rows: Box<[Counters<B>]>,
    words: PhantomData<fn(A)>,
}

/// How long something took, from 0.1 ms to 10 s.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One for each of [`BOUNDS`], and one for what took longer.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
}

/// The upper bounds of the buckets, in microseconds: 1, 2.5, 5 of every power of ten.
const BOUNDS: [u32; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// The labels of one sample, apart from the one that an instrument adds itself.
pub type Labels<'l> = [(&'static str, &'l str)];

/// Something that is written as the samples of one metric.
pub trait Instrument {
    /// What Prometheus takes it for.
    const TYPE: MetricType;

    /// Writes the samples. `label` names the label that holds the words, for instruments with a closed set.
    fn samples(&self, encoder: &mut MetricEncoder, labels: &Labels, label: &'static str) -> fmt::Result;
}

/// Writes one metric with the samples of several owners (channels, or the process alone).
pub fn write<'o, O: 'o, I: Instrument + 'o>(
    encoder: &mut DescriptorEncoder,
    (name, label, help): (&str, &'static str, &str),
    owners: impl IntoIterator<Item = (&'o [(&'static str, &'o str)], &'o O)>,
    pick: impl Fn(&'o O) -> &'o I,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, I::TYPE)?;
    for (labels, owner) in owners {
        pick(owner).samples(&mut metric, labels, label)?;
    }
    Ok(())
}

fn sample(
    encoder: &mut MetricEncoder,
    labels: &Labels,
    encode: impl FnOnce(&mut MetricEncoder) -> fmt::Result,
) -> fmt::Result {
    if labels.is_empty() { encode(encoder) } else { encode(&mut encoder.encode_family(&labels)?) }
}

// === impl Counter ===

impl Counter {
    /// Adds one.
    pub fn one(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// What was counted up to now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Instrument for Counter {
    const TYPE: MetricType = MetricType::Counter;

    fn samples(&self, encoder: &mut MetricEncoder, labels: &Labels, _: &'static str) -> fmt::Result {
        sample(encoder, labels, |one| one.encode_counter::<NoLabelSet, _, f64>(&self.get(), None))
    }
}

// === impl Gauge ===

impl Gauge {
    /// Changes the value by `n`.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Replaces the value.
    pub fn set(&self, value: u64) {
        self.0.store(i64::try_from(value).unwrap_or(i64::MAX), Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

impl Instrument for Gauge {
    const TYPE: MetricType = MetricType::Gauge;

    fn samples(&self, encoder: &mut MetricEncoder, labels: &Labels, _: &'static str) -> fmt::Result {
        sample(encoder, labels, |one| one.encode_gauge(&self.get()))
    }
}

// === impl Counters ===

impl<L: ClosedSet> Counters<L> {
    /// Adds one under this word.
    pub fn one(&self, word: L) {
        self.add(word, 1);
    }

    /// Adds `n` under this word.
    pub fn add(&self, word: L, n: u64) {
        if let Some(counter) = self.counts.get(word.index()) {
            counter.add(n);
        }
    }

    /// What was counted under this word up to now.
    pub fn get(&self, word: L) -> u64 {
        self.counts.get(word.index()).map_or(0, Counter::get)
    }
}

impl<L: ClosedSet> Default for Counters<L> {
    fn default() -> Self {
        Self { counts: L::ALL.iter().map(|_| Counter::default()).collect(), words: PhantomData }
    }
}

impl<L: ClosedSet> Instrument for Counters<L> {
    const TYPE: MetricType = MetricType::Counter;

    /// Words that never occurred are written as 0, so that `increase()` sees their first occurrence.
    fn samples(&self, encoder: &mut MetricEncoder, labels: &Labels, label: &'static str) -> fmt::Result {
        for (word, counter) in L::ALL.iter().zip(&self.counts) {
            let labels: Vec<_> = labels.iter().copied().chain([(label, word.as_str())]).collect();
            counter.samples(encoder, &labels, label)?;
        }
        Ok(())
    }
}

// === impl Gauges ===

impl<L: ClosedSet> Gauges<L> {
    /// Replaces the value under this word.
    pub fn set(&self, word: L, value: u64) {
        if let Some(gauge) = self.values.get(word.index()) {
            gauge.set(value);
        }
    }
}

impl<L: ClosedSet> Default for Gauges<L> {
    fn default() -> Self {
        Self { values: L::ALL.iter().map(|_| Gauge::default()).collect(), words: PhantomData }
    }
}

impl<L: ClosedSet> Instrument for Gauges<L> {
    const TYPE: MetricType = MetricType::Gauge;

    fn samples(&self, encoder: &mut MetricEncoder, labels: &Labels, label: &'static str) -> fmt::Result {
        for (word, gauge) in L::ALL.iter().zip(&self.values) {
            let labels: Vec<_> = labels.iter().copied().chain([(label, word.as_str())]).collect();
            gauge.samples(encoder, &labels, label)?;
        }
        Ok(())
    }
}

// === impl Grid ===

impl<A: ClosedSet, B: ClosedSet> Grid<A, B> {
    /// Adds one under this pair of words.
    pub fn one(&self, a: A, b: B) {
        if let Some(row) = self.rows.get(a.index()) {
            row.one(b);
        }
    }
}

impl<A: ClosedSet, B: ClosedSet> Default for Grid<A, B> {
    fn default() -> Self {
        Self { rows: A::ALL.iter().map(|_| Counters::default()).collect(), words: PhantomData }
    }
}

impl<A: ClosedSet, B: ClosedSet> Instrument for Grid<A, B> {
    const TYPE: MetricType = MetricType::Counter;

    /// `label` names both labels, as in `operation,status`.
    fn samples(&self, encoder: &mut MetricEncoder, labels: &Labels, label: &'static str) -> fmt::Result {
        let (a_label, b_label) = label.split_once(',').unwrap_or((label, label));
        for (a, row) in A::ALL.iter().zip(&self.rows) {
            for b in B::ALL.iter().filter(|b| row.get(**b) > 0) {
                let pair = [(a_label, a.as_str()), (b_label, b.as_str())];
                let labels: Vec<_> = labels.iter().copied().chain(pair).collect();
                sample(encoder, &labels, |one| one.encode_counter::<NoLabelSet, _, f64>(&row.get(*b), None))?;
            }
        }
        Ok(())
    }
}

// === impl Histogram ===

impl Histogram {
    /// Takes a duration in, `times` over.
    pub fn observe(&self, took: Duration, times: u64) {
        let micros = took.as_micros();
        let place = BOUNDS.partition_point(|bound| u128::from(*bound) < micros);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(times, Relaxed);
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos.saturating_mul(times), Relaxed);
    }

    /// How many durations were taken in.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }
}

impl Instrument for Histogram {
    const TYPE: MetricType = MetricType::Histogram;

    fn samples(&self, encoder: &mut MetricEncoder, labels: &Labels, _: &'static str) -> fmt::Result {
        // prometheus-client sums the buckets up and takes `f64::MAX` for the infinite one.
        let bounds = BOUNDS.iter().map(|micros| f64::from(*micros) / 1e6).chain([f64::MAX]);
        let buckets: Vec<_> = bounds.zip(&self.buckets).map(|(bound, count)| (bound, count.load(Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.sum_nanos.load(Relaxed)).as_secs_f64();
        sample(encoder, labels, |one| one.encode_histogram::<NoLabelSet>(sum, count, &buckets, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(micros), 1);
        }
        let counts: Vec<_> = histogram.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(histogram.count(), 5);
    }
}
