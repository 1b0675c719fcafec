//! What is shown of each case, and what Tidings has to reach.

use crate::case::Case;
use crate::server::Kind;

/// A row of the table.
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) figure: &'static str,
    /// What it is, for people.
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    /// Larger is better.
    pub(crate) more: bool,
    pub(crate) limits: &'static [Limit],
}

/// What a figure has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// The figure itself.
    Is(f64),
    /// Its ratio to another server's.
    Of(Kind, f64),
}

use Limit::{Is, Of};

const fn row(
    case: Case,
    figure: &'static str,
    what: &'static str,
    unit: &'static str,
    limits: &'static [Limit],
) -> Row {
    Row { case, figure, what, unit, more: false, limits }
}

/// In the order of the table.
pub(crate) const ROWS: &[Row] = &[
    row(Case::Idle, "bytes_per_subscriber", "memory per idle subscriber", "B", &[Is(1024.0), Of(Kind::Nchan, 0.1)]),
    row(Case::IdleTls, "bytes_per_subscriber", "memory per idle subscriber over TLS", "B", &[Is(12.0 * 1024.0)]),
    row(Case::IdleHttp2, "bytes_per_subscriber", "memory per idle stream on HTTP/2", "B", &[Is(6.0 * 1024.0)]),
    row(Case::Idle, "memory_kept_mb", "memory kept after all have left", "MB", &[Is(10.0)]),
    row(Case::IdleTls, "memory_kept_mb", "memory kept after all have left, TLS", "MB", &[Is(10.0)]),
    row(Case::IdleHttp2, "memory_kept_mb", "memory kept after all have left, HTTP/2", "MB", &[Is(10.0)]),
    row(
        Case::Steady1k,
        "cpu_us",
        "CPU per delivery, 1,000 × 50/s",
        "µs",
        &[Of(Kind::Floor, 1.15), Of(Kind::Nchan, 0.65)],
    ),
    row(Case::Steady1k, "p50_ms", "latency p50, 1,000 × 50/s", "ms", &[]),
    row(Case::Steady1k, "p99_ms", "latency p99, 1,000 × 50/s", "ms", &[Of(Kind::Nchan, 0.8)]),
    row(Case::Steady1kTls, "cpu_us", "CPU per delivery over TLS, 1,000 × 50/s", "µs", &[]),
    row(Case::Steady1kHttp2, "cpu_us", "CPU per delivery on HTTP/2, 1,000 × 50/s", "µs", &[]),
    row(
        Case::Steady10k,
        "cpu_us",
        "CPU per delivery, 10,000 × 10/s",
        "µs",
        &[Of(Kind::Floor, 1.2), Of(Kind::Nchan, 0.65)],
    ),
    row(Case::Steady10k, "p50_ms", "latency p50, 10,000 × 10/s", "ms", &[]),
    row(Case::Steady10k, "p99_ms", "latency p99, 10,000 × 10/s", "ms", &[Of(Kind::Nchan, 0.8)]),
    row(Case::Steady10k, "head_max_ms", "head of a new connection meanwhile, maximum", "ms", &[Is(10.0)]),
    Row {
        case: Case::OneInFlight,
        figure: "deliveries_per_s",
        what: "deliveries/s, one publication in flight",
        unit: "",
        more: true,
        limits: &[Of(Kind::Nchan, 1.25)],
    },
    row(Case::OneInFlight, "cpu_us", "CPU per delivery, one in flight", "µs", &[]),
    Row {
        case: Case::SixteenInFlight,
        figure: "deliveries_per_s",
        what: "deliveries/s, sixteen in flight",
        unit: "",
        more: true,
        // Three times Centrifugo on NATS, on the machine that the targets were measured on.
        limits: &[Is(2_223_000.0)],
    },
    row(Case::SixteenInFlight, "cpu_us", "CPU per delivery, sixteen in flight", "µs", &[]),
    row(Case::Idle, "cpu_us_per_connect", "CPU per connect", "µs", &[Of(Kind::Nchan, 1.2)]),
    row(Case::IdleTls, "cpu_us_per_connect", "CPU per connect over TLS", "µs", &[]),
    row(Case::IdleHttp2, "cpu_us_per_connect", "CPU per stream opened on HTTP/2", "µs", &[]),
    row(Case::ConnectEs256, "cpu_us_per_connect", "CPU per connect, token with ES256", "µs", &[]),
    row(Case::ConnectEs256, "signature_us", "check of one such signature", "µs", &[]),
    row(
        Case::ConnectEs256,
        "cpu_us_beyond_signature",
        "connect with it, less that check",
        "µs",
        &[Of(Kind::Nchan, 1.2)],
    ),
    row(Case::ConnectRs256, "cpu_us_per_connect", "CPU per connect, token with RS256", "µs", &[]),
    row(Case::ConnectRs256, "signature_us", "check of one such signature", "µs", &[]),
    row(
        Case::ConnectRs256,
        "cpu_us_beyond_signature",
        "connect with it, less that check",
        "µs",
        &[Of(Kind::Nchan, 1.2)],
    ),
    row(Case::ConnectHs256, "cpu_us_per_connect", "CPU per connect, token with HS256", "µs", &[]),
    row(Case::ConnectHs256, "signature_us", "check of one such signature", "µs", &[]),
    row(
        Case::ConnectHs256,
        "cpu_us_beyond_signature",
        "connect with it, less that check",
        "µs",
        &[Of(Kind::Nchan, 1.2)],
    ),
    row(Case::Topics, "cpu_us", "CPU per delivery, 10,000 topics, 5,000/s", "µs", &[Of(Kind::Nchan, 1.2)]),
    row(Case::Topics, "p99_ms", "latency p99, 10,000 topics", "ms", &[]),
    row(Case::Bystanders, "growth", "CPU beside 9,000 who match nothing, to CPU without them", "×", &[Is(1.1)]),
    row(Case::Stopped, "p99_ratio", "p99 of the others with 1 % stopped, to p99 before", "×", &[Is(1.1)]),
    row(Case::Stopped, "handed_while_stopped", "events handed to sockets nobody reads", "", &[Is(0.0)]),
    row(Case::Stopped, "missing", "events the stopped lack when they go on", "", &[Is(0.0)]),
    row(Case::Turnover, "lost", "lost, 4 publishers during turnover", "", &[Is(0.0)]),
    row(Case::Turnover, "repeated", "repeated, 4 publishers during turnover", "", &[Is(0.0)]),
    row(Case::Turnover, "reordered", "out of stream order, 4 publishers during turnover", "", &[Is(0.0)]),
    row(Case::Resume, "missing", "lost, 10,000 resume 1,000 events back", "", &[Is(0.0)]),
    row(Case::Resume, "memory_above_steady_mb", "peak of memory above steady, while they resume", "MB", &[Is(64.0)]),
    row(Case::Resume, "asked_of_nats", "times NATS was asked by these 10,000", "", &[Is(16.0)]),
    row(Case::Resume, "cpu_us", "CPU per delivery of the 1,000 events", "µs", &[]),
];

// === impl Row ===

impl Row {
    /// Whether the figure is within a limit, given the ratio to the server that the limit is about.
    pub(crate) fn reached(&self, ours: f64, limit: Limit, ratio: impl Fn(Kind) -> Option<f64>) -> Option<bool> {
        let (value, limit) = match limit {
            Is(limit) => (Some(ours), limit),
            Of(kind, limit) => (ratio(kind), limit),
        };
        value.map(|value| if self.more { value >= limit } else { value <= limit })
    }
}
