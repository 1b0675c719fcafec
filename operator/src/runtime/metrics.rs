//! What the operator counts. One method per fact; nobody else names a metric.

use std::sync::Mutex;
use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tidings_process::log_writer;

/// How one reconcile ended, as the label `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// The Channel is served as its manifest says.
    Programmed,
    /// The Channel is refused; its last good Route stays.
    Rejected,
    /// A step failed; it is tried again.
    Failed,
    /// The Channel is gone and what it owned is dealt with.
    Removed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCategory {
    category: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByAction {
    action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResultName {
    result: &'static str,
}

/// The operator's metrics.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<ByResult, Counter>,
    duration: Histogram,
    errors: Family<ByCategory, Counter>,
    channels: Family<ByState, Gauge>,
    stream_writes: Family<ByAction, Counter>,
    route_writes: Family<ByAction, Counter>,
    status_writes: Family<ByKind, Counter>,
    events: Family<ByResultName, Counter>,
    watch_pauses: Counter,
    stream_corrections: Family<ByKind, Counter>,
    gateways: Family<ByState, Gauge>,
    leading: Gauge<i64, AtomicI64>,
    connected: Gauge<i64, AtomicI64>,
    log_lines_dropped: Counter,
    states: Mutex<Vec<&'static str>>,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("tidings_operator"),
            reconciles: Family::default(),
            // From a comparison that changes nothing (about 1 ms) to the deadline of a JetStream call (5 s).
            duration: Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]),
            errors: Family::default(),
            channels: Family::default(),
            stream_writes: Family::default(),
            route_writes: Family::default(),
            status_writes: Family::default(),
            events: Family::default(),
            watch_pauses: Counter::default(),
            stream_corrections: Family::default(),
            gateways: Family::default(),
            leading: Gauge::default(),
            connected: Gauge::default(),
            log_lines_dropped: Counter::default(),
            states: Mutex::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("reconciles", "Reconciles of one Channel, by result", self.reconciles.clone());
        registry.register("reconcile_seconds", "Duration of one reconcile", self.duration.clone());
        registry.register("errors", "Failed steps, by category", self.errors.clone());
        registry.register("channels", "Channels known, by state", self.channels.clone());
        registry.register("stream_writes", "Streams created, updated, deleted", self.stream_writes.clone());
        registry.register("route_writes", "Routes written, marked removed, deleted", self.route_writes.clone());
        registry.register("status_writes", "Statuses written, by what changed", self.status_writes.clone());
        registry.register("events", "Events for Channels, by what became of them", self.events.clone());
        registry.register("watch_pauses", "Watches that ended at once and were paused", self.watch_pauses.clone());
        registry.register(
            "stream_corrections",
            "Streams that others had deleted or changed, by what was done",
            self.stream_corrections.clone(),
        );
        registry.register("gateways", "Gateways known, by state", self.gateways.clone());
        registry.register("leading", "1 while this operator leads", self.leading.clone());
        registry.register("nats_connected", "1 while NATS is connected", self.connected.clone());
        let help = "Log lines dropped because standard error was blocked or closed";
        registry.register("log_lines_dropped", help, self.log_lines_dropped.clone());
        self
    }

    /// One reconcile of one Channel ended.
    pub fn reconciled(&self, result: Outcome, took: std::time::Duration) {
        self.reconciles.get_or_create(&ByResult { result }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// A step failed; `category` is from the closed set of the error enums.
    pub fn error(&self, category: &'static str) {
        self.errors.get_or_create(&ByCategory { category }).inc();
    }

    /// A stream was created, updated or deleted.
    pub fn stream_written(&self, action: &'static str) {
        self.stream_writes.get_or_create(&ByAction { action }).inc();
    }

    /// A Route was written, marked removed or deleted.
    pub fn route_written(&self, action: &'static str) {
        self.route_writes.get_or_create(&ByAction { action }).inc();
    }

    /// A status was written; `kind` says whether a condition changed or only counts.
    pub fn status_written(&self, kind: &'static str) {
        self.status_writes.get_or_create(&ByKind { kind }).inc();
    }

    /// An Event was published, refused or dropped.
    pub fn event(&self, result: &'static str) {
        self.events.get_or_create(&ByResultName { result }).inc();
    }

    /// A watch ended so early that the next one had to wait.
    pub fn watch_paused(&self) {
        self.watch_pauses.inc();
    }

    /// A stream that others had deleted or changed was made again or set right.
    pub fn stream_corrected(&self, kind: &'static str) {
        self.stream_corrections.get_or_create(&ByKind { kind }).inc();
    }

    /// How many gateways are expected and heard of now.
    pub fn gateways(&self, counts: &[(&'static str, usize)]) {
        for (state, count) in counts {
            self.gateways.get_or_create(&ByState { state }).set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
    }

    /// Leadership was won or lost.
    pub fn leading(&self, leading: bool) {
        self.leading.set(leading.into());
    }

    /// How many Channels are in each state now; states that no longer occur go to zero.
    pub fn channels(&self, counts: &std::collections::BTreeMap<&'static str, i64>) {
        let mut known = self.states.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.extend(counts.keys());
        known.sort_unstable();
        known.dedup();
        for &state in known.iter() {
            self.channels.get_or_create(&ByState { state }).set(counts.get(state).copied().unwrap_or_default());
        }
    }

    /// NATS was connected or lost.
    pub fn broker_connected(&self, connected: bool) {
        self.connected.set(connected.into());
    }

    /// All metrics in the text format of OpenMetrics 1.0.
    pub fn text(&self) -> String {
        // Counted elsewhere, before there are metrics.
        let counted = self.log_lines_dropped.get();
        self.log_lines_dropped.inc_by(log_writer::dropped().saturating_sub(counted));
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_no_longer_occurs_goes_to_zero() {
        let metrics = Metrics::new();
        metrics.channels(&[("Rejected", 2)].into());
        metrics.channels(&[("Programmed", 1)].into());
        let text = metrics.text();
        assert!(text.contains("tidings_operator_channels{state=\"Rejected\"} 0"), "{text}");
        assert!(text.contains("tidings_operator_channels{state=\"Programmed\"} 1"), "{text}");
    }

    #[test]
    fn the_reference_lists_every_metric() {
        const REFERENCE: &str = include_str!("../../../docs/reference/operator.md");
        for line in Metrics::new().text().lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            assert!(REFERENCE.contains(&format!("| `{name}` |")), "{name} is not in the reference");
        }
    }

    #[test]
    fn counters_carry_their_labels() {
        let metrics = Metrics::new();
        metrics.reconciled(Outcome::Rejected, std::time::Duration::from_millis(3));
        metrics.error("broker_unreachable");
        let text = metrics.text();
        assert!(text.contains("tidings_operator_reconciles_total{result=\"Rejected\"} 1"), "{text}");
        assert!(text.contains("tidings_operator_errors_total{category=\"broker_unreachable\"} 1"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
