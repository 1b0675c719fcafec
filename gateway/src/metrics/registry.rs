//! What the gateway counts, one method a fact, and what rooms above count by themselves and [register](Metrics::register).
//!
//! What belongs to one channel is in [`ChannelMetrics`]; look it up once with [`Metrics::channel`] and keep it.
//! `docs/reference/metrics.md` lists every metric; a test compares the two.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;
use tidings_process::log_writer;
use time::OffsetDateTime;

use crate::metrics::channel::ChannelLabels;
use crate::metrics::instrument::{Counter, Counters, Gauge, Grid, Histogram, write};
use crate::metrics::label::closed_set;
use crate::metrics::process::Process;

pub use crate::metrics::channel::{Backfill, ChannelMetrics, GapReason, InvalidMessage, PostOutcome, TurnedAway};

/// What the gateway counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    channels: Arc<ChannelLabels>,
    totals: Arc<Totals>,
}

/// What belongs to no channel.
#[derive(Debug, Default)]
struct Totals {
    version: Gauge,
    draining: Gauge,
    broker_connected: Gauge,
    broker_connects: Counter,
    broker_errors: Counters<BrokerFault>,
    slow_consumers: Counter,
    channels_open: Gauge,
    routes: Gauge,
    routes_refused: Gauge,
    route_changes: Counters<RouteChange>,
    watches: Counter,
    watches_paused: Counter,
    early_requests: Counter,
    connections: Gauge,
    connections_accepted: Counter,
    accept_pauses: Counter,
    connection_faults: Counters<ConnectionFault>,
    accept_errors: Counter,
    handshakes: Counters<Handshake>,
    certificate_changes: Counters<CertificateChange>,
    certificate_expiry: Gauge,
    requests: Grid<Operation, Answer>,
    subscribe_seconds: Histogram,
    publish_seconds: Histogram,
    settings_changes: Counters<SettingsChange>,
    backfills_running: Gauge,
    backfill_waits: Counter,
}

closed_set! {
    /// What went wrong with NATS.
    pub enum BrokerFault {
        /// No connection could be made.
        Connect = "connect",
        /// The connection broke.
        Disconnected = "disconnected",
        /// No answer within the deadline.
        Timeout = "timeout",
        /// Nobody answers requests for this stream: it is missing, or its server is away.
        NoResponders = "no-responders",
        /// A reply that cannot be read, or that breaks the chain of its batch.
        Reply = "reply",
        /// NATS does not let the gateway do what it needs to.
        Permission = "permission",
        /// NATS does not let the gateway in, or no longer.
        Login = "login",
        /// Any other error that NATS reported.
        Server = "server",
    }
}

closed_set! {
    /// What became of a change below `--routes`, or in the cluster.
    pub enum RouteChange {
        /// A new Route, or a new version of one.
        Applied = "applied",
        /// Not readable; the last good version stays.
        Refused = "refused",
        /// Gone: marked as removed, or missing for longer than the grace.
        Removed = "removed",
    }
}

closed_set! {
    /// What became of a change of the settings file.
    pub enum SettingsChange {
        /// In force.
        Applied = "applied",
        /// Not readable; the last good settings stay.
        Refused = "refused",
    }
}

closed_set! {
    /// Why a connection was closed by the gateway.
    pub enum ConnectionFault {
        /// No TLS session came to be; [`Handshake`] says why.
        Handshake = "handshake",
        /// The request head did not arrive in time.
        HeaderTimeout = "header-timeout",
        /// What arrived is not HTTP, or larger than the limits.
        Protocol = "protocol",
        /// Too many requests were taken back before they were answered.
        Resets = "resets",
        /// Its address has as many connections as allowed.
        Address = "address",
        /// The transport failed.
        Io = "io",
    }
}

closed_set! {
    /// How a TLS handshake ended.
    pub enum Handshake {
        /// In a session.
        Done = "done",
        /// Not in time.
        Timeout = "timeout",
        /// The client left, or the transport failed.
        Gone = "gone",
        /// The client refused, as it does when it does not trust our certificate.
        Refused = "refused",
        /// The client has no certificate, or not one of `--tls-client-ca`.
        ClientCertificate = "client-certificate",
        /// What arrived is not TLS, or has nothing in common with us.
        Protocol = "protocol",
    }
}

closed_set! {
    /// What became of changed certificate files.
    pub enum CertificateChange {
        /// New connections get what is in them.
        Applied = "applied",
        /// Not usable; the last good ones stay in force.
        Refused = "refused",
    }
}

closed_set! {
    /// What a request asked for.
    pub enum Operation {
        /// `GET …/events`.
        Subscribe = "subscribe",
        /// `POST …/events`.
        Publish = "publish",
        /// A CORS preflight, or any `OPTIONS`.
        Options = "options",
        /// `HEAD …/events`.
        Head = "head",
        /// Anything else.
        Other = "other",
    }
}

closed_set! {
    /// The status of an answer.
    pub enum Answer {
        /// OK: a stream, or an orderly "come back later" on the 200 path.
        Ok = "200",
        /// Created: published.
        Created = "201",
        /// No Content.
        NoContent = "204",
        /// Bad Request.
        BadRequest = "400",
        /// Unauthorized.
        Unauthorized = "401",
        /// Not Found.
        NotFound = "404",
        /// Method Not Allowed.
        MethodNotAllowed = "405",
        /// Request Timeout.
        RequestTimeout = "408",
        /// Content Too Large.
        TooLarge = "413",
        /// URI Too Long.
        UriTooLong = "414",
        /// Unsupported Media Type: an encoded body.
        UnsupportedMediaType = "415",
        /// Too Many Requests.
        TooMany = "429",
        /// Request Header Fields Too Large.
        HeadersTooLarge = "431",
        /// Internal Server Error.
        Internal = "500",
        /// Bad Gateway: NATS refused.
        BadGateway = "502",
        /// Service Unavailable.
        Unavailable = "503",
        /// Gateway Timeout: NATS did not acknowledge.
        GatewayTimeout = "504",
        /// Insufficient Storage: NATS is full.
        Full = "507",
        /// Any other.
        Other = "other",
    }
}

/// What the names of all our metrics begin with.
const PREFIX: &str = "tidings";

// === impl Metrics ===

impl Metrics {
    /// Gives the first `channel_labels` channels a label of their own; 0 switches the `channel` label off.
    pub fn new(channel_labels: usize) -> Arc<Self> {
        let channels = Arc::new(ChannelLabels::new(channel_labels));
        let totals = Arc::<Totals>::default();
        totals.version.set(1);
        let mut registry = Registry::default();
        let ours = registry.sub_registry_with_prefix(PREFIX);
        ours.register_collector(Box::new(totals.clone()));
        ours.register_collector(Box::new(channels.clone()));
        registry.sub_registry_with_prefix("process").register_collector(Box::new(Process));
        Arc::new(Self { registry: Mutex::new(registry), channels, totals })
    }

    /// The counts of the channel `namespace/name`: look them up once and keep them.
    pub fn channel(&self, key: &str) -> Arc<ChannelMetrics> {
        self.channels.get(key)
    }

    /// A Channel is gone; its counts stay for some scrapes more.
    pub fn channel_removed(&self, key: &str, now: Instant) {
        self.channels.retire(key, now);
    }

    /// Exposes what a room above counts by itself, below the prefix of all metrics.
    pub fn register(&self, collector: impl Collector) {
        self.registry.lock().sub_registry_with_prefix(PREFIX).register_collector(Box::new(collector));
    }

    /// All metrics in the OpenMetrics text format.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }

    /// The gateway began to drain.
    pub fn draining(&self) {
        self.totals.draining.set(1);
    }

    /// The NATS connection came up or broke.
    pub fn broker_connected(&self, connected: bool) {
        self.totals.broker_connected.set(connected.into());
        if connected {
            self.totals.broker_connects.one();
        }
    }

    /// Something went wrong with NATS.
    pub fn broker_error(&self, fault: BrokerFault) {
        self.totals.broker_errors.one(fault);
    }

    /// A subscription's buffer was full: its newest messages were dropped and have to be fetched.
    pub fn slow_consumer(&self) {
        self.totals.slow_consumers.one();
    }

    /// How many channels the Hub holds open.
    pub fn channels_open(&self, channels: u64) {
        self.totals.channels_open.set(channels);
    }

    /// How many Routes are served, and how many documents are refused.
    pub fn routes(&self, served: u64, refused: u64) {
        self.totals.routes.set(served);
        self.totals.routes_refused.set(refused);
    }

    /// A Route changed.
    pub fn route_changed(&self, change: RouteChange) {
        self.totals.route_changes.one(change);
    }

    /// A watch of Routes begins, or waits before it does because the one before ended at once.
    pub fn watch_begins(&self, paused: bool) {
        self.totals.watches.one();
        if paused {
            self.totals.watches_paused.one();
        }
    }

    /// A request came before the Routes were read.
    pub fn early_request(&self) {
        self.totals.early_requests.one();
    }

    /// A connection was accepted.
    pub fn connection_opened(&self) {
        self.totals.connections_accepted.one();
        self.totals.connections.add(1);
    }

    /// A connection that was accepted has ended.
    pub fn connection_closed(&self) {
        self.totals.connections.add(-1);
    }

    /// There was no room for another connection; it waits in the kernel's queue.
    pub fn accept_paused(&self) {
        self.totals.accept_pauses.one();
    }

    /// A connection ended in an error.
    pub fn connection_fault(&self, fault: ConnectionFault) {
        self.totals.connection_faults.one(fault);
    }

    /// `accept` failed, as it does when the process has no file descriptors left.
    pub fn accept_error(&self) {
        self.totals.accept_errors.one();
    }

    /// A TLS handshake ended.
    pub fn handshake(&self, outcome: Handshake) {
        self.totals.handshakes.one(outcome);
    }

    /// The certificate's files changed.
    pub fn certificate_changed(&self, change: CertificateChange) {
        self.totals.certificate_changes.one(change);
    }

    /// The certificate in force expires then.
    pub fn certificate(&self, expires: OffsetDateTime) {
        self.totals.certificate_expiry.set(u64::try_from(expires.unix_timestamp()).unwrap_or_default());
    }

    /// A request was answered.
    pub fn request(&self, operation: Operation, status: StatusCode) {
        self.totals.requests.one(operation, Answer::from(status));
    }

    /// A subscribe request was answered with a stream after this long.
    pub fn subscribed_after(&self, took: Duration) {
        self.totals.subscribe_seconds.observe(took, 1);
    }

    /// A range behind a log begins to be read.
    pub fn backfill_begins(&self) {
        self.totals.backfills_running.add(1);
    }

    /// It was read, or given up.
    pub fn backfill_ends(&self) {
        self.totals.backfills_running.add(-1);
    }

    /// A range has to wait, because as many as allowed are being read.
    pub fn backfill_waits(&self) {
        self.totals.backfill_waits.one();
    }

    /// The settings file changed.
    pub fn settings_changed(&self, change: SettingsChange) {
        self.totals.settings_changes.one(change);
    }

    /// A publication was acknowledged after this long.
    pub fn published_after(&self, took: Duration) {
        self.totals.publish_seconds.observe(took, 1);
    }
}

// === impl Totals ===

impl Collector for Totals {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let build: &[(&'static str, &str)] = &[("version", env!("CARGO_PKG_VERSION"))];
        let all = || [(&[][..], self)];
        let e = &mut encoder;
        write(e, ("build_info", "", "Version of the gateway"), [(build, self)], |t| &t.version)?;
        write(e, ("draining", "", "1 while the gateway is shutting down"), all(), |t| &t.draining)?;
        let lines = Counter::default();
        lines.add(log_writer::dropped());
        let help = "Log lines dropped because standard error was blocked or closed";
        write(e, ("log_lines_dropped", "", help), [(&[][..], &lines)], |lines| lines)?;
        write(e, ("broker_connected", "", "1 while NATS is connected"), all(), |t| &t.broker_connected)?;
        write(e, ("broker_connects", "", "Connections made to NATS"), all(), |t| &t.broker_connects)?;
        write(e, ("broker_errors", "kind", "Errors of the NATS connections"), all(), |t| &t.broker_errors)?;
        let help =
            "Slow consumer events: full subscription buffers, whose newest messages were dropped and are fetched again";
        write(e, ("broker_slow_consumers", "", help), all(), |t| &t.slow_consumers)?;
        write(e, ("channels_open", "", "Channels read from NATS now"), all(), |t| &t.channels_open)?;
        write(e, ("routes", "", "Routes that are served"), all(), |t| &t.routes)?;
        let help = "Route documents that cannot be read; their last good version is served";
        write(e, ("routes_refused", "", help), all(), |t| &t.routes_refused)?;
        write(e, ("route_changes", "change", "Changes of Routes"), all(), |t| &t.route_changes)?;
        let help = "Watch requests for Routes to the Kubernetes API";
        write(e, ("route_watches", "", help), all(), |t| &t.watches)?;
        let help = "Watch requests for Routes that were delayed because the previous one ended immediately";
        write(e, ("route_watches_paused", "", help), all(), |t| &t.watches_paused)?;
        let help = "Requests for a channel before the routes were read";
        write(e, ("early_requests", "", help), all(), |t| &t.early_requests)?;
        write(e, ("connections", "", "Open connections"), all(), |t| &t.connections)?;
        write(e, ("connections_accepted", "", "Connections accepted"), all(), |t| &t.connections_accepted)?;
        let help = "Times that accepting was paused because the connection limit was reached";
        write(e, ("accept_pauses", "", help), all(), |t| &t.accept_pauses)?;
        let help = "Connections that ended in an error";
        write(e, ("connection_errors", "kind", help), all(), |t| &t.connection_faults)?;
        let help = "Failed accepts, for example for lack of file descriptors";
        write(e, ("accept_errors", "", help), all(), |t| &t.accept_errors)?;
        write(e, ("tls_handshakes", "outcome", "TLS handshakes"), all(), |t| &t.handshakes)?;
        let help = "Changes of the certificate's files";
        write(e, ("tls_certificate_changes", "change", help), all(), |t| &t.certificate_changes)?;
        let help = "When the certificate in force expires, in seconds since 1970; 0 without TLS";
        write(e, ("tls_certificate_expiry_seconds", "", help), all(), |t| &t.certificate_expiry)?;
        write(e, ("requests", "operation,status", "Requests answered"), all(), |t| &t.requests)?;
        let help = "From a subscribe request to the head of its stream";
        write(e, ("subscribe_seconds", "", help), all(), |t| &t.subscribe_seconds)?;
        let help = "From a POST to the acknowledgement of NATS";
        write(e, ("publish_seconds", "", help), all(), |t| &t.publish_seconds)?;
        write(e, ("settings_changes", "change", "Changes of the settings file"), all(), |t| &t.settings_changes)?;
        let help = "Stream ranges being read for subscribers behind the log";
        write(e, ("backfills_running", "", help), all(), |t| &t.backfills_running)?;
        let help = "Stream range reads that waited because limits.backfills was reached";
        write(e, ("backfill_waits", "", help), all(), |t| &t.backfill_waits)
    }
}

// === impl Answer ===

impl From<StatusCode> for Answer {
    fn from(status: StatusCode) -> Self {
        use crate::metrics::label::ClosedSet;
        Self::ALL.iter().copied().find(|answer| answer.as_str() == status.as_str()).unwrap_or(Self::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_nobody_expects_is_counted_as_other() {
        assert_eq!(Answer::from(StatusCode::OK), Answer::Ok);
        assert_eq!(Answer::from(StatusCode::IM_A_TEAPOT), Answer::Other);
    }

    #[test]
    fn the_text_ends_as_openmetrics_demands() {
        assert!(Metrics::new(10).text().unwrap().ends_with("# EOF\n"));
    }
}
