//! What is counted for each channel.
//!
//! The Hub and the HTTP side look the handle of a channel up once and keep it; from then on counting is a relaxed
//! addition. On a scrape all handles are written, each under its `channel` label.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::log::end_reason::EndReason;
use crate::metrics::instrument::{Counter, Counters, Gauge, Histogram, write};
use crate::metrics::label::{ClosedSet, closed_set};

/// The counts of one channel; or of several, when the label is switched off or used up.
#[derive(Debug, Default)]
pub struct ChannelMetrics {
    subscribers: Gauge,
    opened: Counter,
    closed: Counters<EndReason>,
    turned_away: Counters<TurnedAway>,
    publications: Counter,
    publication_bytes: Counter,
    deliveries: Counter,
    delivered_bytes: Counter,
    delivery_latency: Histogram,
    gaps: Counters<GapReason>,
    holes: Counter,
    backfills: Counters<Backfill>,
    backfilled: Counters<Backfill>,
    invalid: Counters<InvalidMessage>,
    oversize: Counter,
    fell_behind: Counter,
    log_events: Gauge,
    log_bytes: Gauge,
    posts: Counters<PostOutcome>,
}

/// Hands the channels' counts out, and writes them on a scrape.
#[derive(Debug)]
pub struct ChannelLabels {
    /// How many channels get a label of their own.
    limit: usize,
    named: Mutex<BTreeMap<String, Named>>,
    /// What the channels without a label of their own count.
    others: Arc<ChannelMetrics>,
    /// Whether there was such a channel: a series that comes and goes would look like a restart.
    overflowed: AtomicBool,
}

#[derive(Debug, Default)]
struct Named {
    metrics: Arc<ChannelMetrics>,
    retired: Option<Instant>,
}

/// How long the counts of a deleted channel stay: some scrapes, so that its last stream's end is seen.
const RETIRED_FOR: Duration = Duration::from_secs(300);

/// The label of all channels that have none of their own. No channel is called so: a key has a slash.
const OTHERS: &str = "other";

closed_set! {
    /// Why a subscriber was told of a gap.
    pub enum GapReason {
        /// Retention has removed what follows its position.
        Expired = "expired",
        /// The stream is another one, or went back in time.
        Reset = "reset",
        /// Its position cannot be read.
        UnknownPosition = "unknown-position",
        /// Events were lost on the way: an ephemeral channel, or a subscriber that nothing can be fetched for.
        Dropped = "dropped",
    }
}

closed_set! {
    /// How, or what for, messages were fetched from the stream.
    pub enum Backfill {
        /// To open the channel, or to catch up after a reconnect.
        Open = "open",
        /// For subscribers whose position lies behind the Log.
        Direct = "direct",
        /// To fill a hole in what came live.
        Hole = "hole",
        /// Asked of the stream's leader, because a replica's answer proved nothing or could not be read.
        Leader = "leader",
        /// A tail check: whether there is more than what came live.
        TailCheck = "tail-check",
        /// The newest message of every topic, or of the channel.
        LastPerTopic = "last-per-topic",
    }
}

closed_set! {
    /// Why a live message was dropped instead of believed; the hole that it leaves is filled from the stream.
    pub enum InvalidMessage {
        /// `Nats-Stream` is missing or names another stream.
        Stream = "stream",
        /// `Nats-Subject` is missing, or is not the subject it was republished under.
        Subject = "subject",
        /// `Nats-Sequence` is missing or not a number.
        Sequence = "sequence",
        /// `Nats-Time-Stamp` is missing or not a time.
        Time = "time",
        /// The header block is not one; the event is delivered without headers.
        Headers = "headers",
        /// `Tidings-Event` is not a name that may stand in a stream; the event is delivered without it.
        EventName = "event-name",
    }
}

closed_set! {
    /// Why a subscriber was sent away on the 200 path, to come back later.
    pub enum TurnedAway {
        /// A limit on open streams is reached.
        Connections = "connections",
        /// A limit on new streams per second is reached.
        ConnectRate = "connect-rate",
        /// One client has as many streams as it may.
        Client = "client",
        /// One client opens streams faster than it may.
        ClientRate = "client-rate",
        /// The gateway shuts down.
        Draining = "draining",
        /// NATS is away, or did not answer in time.
        Broker = "broker",
        /// The Channel was removed a moment ago, and may come back.
        Removed = "removed",
    }
}

closed_set! {
    /// What became of a POST.
    pub enum PostOutcome {
        /// Acknowledged, and new.
        Stored = "stored",
        /// Acknowledged, but known by its idempotency key.
        Duplicate = "duplicate",
        /// Handed to core NATS, which acknowledges nothing (ephemeral channels).
        Sent = "sent",
        /// Refused as the client wrote it: topic, size, headers.
        Invalid = "invalid",
        /// Above a limit per second, of the channel or of the client.
        Limited = "limited",
        /// Refused by NATS for good.
        Refused = "refused",
        /// Refused by NATS for the moment: the same publication may be stored later.
        Busy = "busy",
        /// NATS has no room for it.
        Full = "full",
        /// NATS is away, or did not acknowledge in time: it may be stored or not.
        Unavailable = "unavailable",
    }
}

impl ClosedSet for EndReason {
    const ALL: &'static [Self] = Self::ALL;

    fn as_str(self) -> &'static str {
        self.as_str()
    }

    fn index(self) -> usize {
        self as usize
    }
}

// === impl ChannelMetrics ===

impl ChannelMetrics {
    /// A stream was opened.
    pub fn stream_opened(&self) {
        self.opened.one();
        self.subscribers.add(1);
    }

    /// A stream has ended.
    pub fn stream_closed(&self, reason: EndReason) {
        self.closed.one(reason);
        self.subscribers.add(-1);
    }

    /// The open streams.
    pub fn subscribers(&self) -> i64 {
        self.subscribers.get()
    }

    /// A subscriber was sent away on the 200 path.
    pub fn turned_away(&self, reason: TurnedAway) {
        self.turned_away.one(reason);
    }

    /// A publication came in from NATS, live or fetched, with a payload of `bytes`.
    pub fn publication_in(&self, bytes: u64) {
        self.publications.one();
        self.publication_bytes.add(bytes);
    }

    /// `events` were handed to sockets, in `bytes` with their framing.
    pub fn delivered(&self, events: u64, bytes: u64) {
        self.deliveries.add(events);
        self.delivered_bytes.add(bytes);
    }

    /// Live events reached so many sockets this long after NATS stamped the last of them.
    pub fn delivery_latency(&self, latency: Duration, sockets: u64) {
        self.delivery_latency.observe(latency, sockets);
    }

    /// A subscriber was told of a gap.
    pub fn gap(&self, reason: GapReason) {
        self.gaps.one(reason);
    }

    /// A live message was not the next one.
    pub fn hole(&self) {
        self.holes.one();
    }

    /// Messages were fetched from the stream, in one request.
    pub fn backfill(&self, kind: Backfill, messages: u64) {
        self.backfills.one(kind);
        self.backfilled.add(kind, messages);
    }

    /// A message was not what it should be.
    pub fn invalid_message(&self, reason: InvalidMessage) {
        self.invalid.one(reason);
    }

    /// A publication was too large and became a `tidings.oversize` event.
    pub fn oversize(&self) {
        self.oversize.one();
    }

    /// A subscriber fell off the Log and has to be fed from the stream.
    pub fn fell_behind(&self) {
        self.fell_behind.one();
    }

    /// What the channel's Log holds now.
    pub fn log_holds(&self, events: u64, bytes: u64) {
        self.log_events.set(events);
        self.log_bytes.set(bytes);
    }

    /// What became of a POST.
    pub fn posted(&self, outcome: PostOutcome) {
        self.posts.one(outcome);
    }
}

// === impl ChannelLabels ===

impl ChannelLabels {
    /// Gives the first `limit` channels a label of their own; 0 switches the label off.
    pub fn new(limit: usize) -> Self {
        Self { limit, named: Mutex::default(), others: Arc::default(), overflowed: AtomicBool::new(false) }
    }

    /// The counts of this channel.
    pub fn get(&self, key: &str) -> Arc<ChannelMetrics> {
        let mut named = self.named.lock();
        if let Some(known) = named.get_mut(key) {
            known.retired = None;
            return known.metrics.clone();
        }
        if named.len() >= self.limit {
            self.overflowed.store(true, Relaxed);
            return self.others.clone();
        }
        named.entry(key.to_owned()).or_default().metrics.clone()
    }

    /// The channel is gone: its counts are written for some minutes more.
    pub fn retire(&self, key: &str, now: Instant) {
        if let Some(known) = self.named.lock().get_mut(key) {
            known.retired = Some(now);
        }
    }

    fn sweep(&self, now: Instant) {
        self.named.lock().retain(|_, named| {
            let old = named.retired.is_some_and(|at| now.saturating_duration_since(at) >= RETIRED_FOR);
            !(old && Arc::strong_count(&named.metrics) == 1)
        });
    }

    /// Each with its label, if it has one.
    fn owners(&self) -> Vec<(Option<String>, Arc<ChannelMetrics>)> {
        if self.limit == 0 {
            return vec![(None, self.others.clone())];
        }
        let named = self.named.lock();
        let mut owners: Vec<_> = named.iter().map(|(key, one)| (Some(key.clone()), one.metrics.clone())).collect();
        if self.overflowed.load(Relaxed) {
            owners.push((Some(OTHERS.to_owned()), self.others.clone()));
        }
        owners
    }
}

impl Collector for ChannelLabels {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.sweep(Instant::now());
        let owned = self.owners();
        let labelled: Vec<_> = owned
            .iter()
            .map(|(key, metrics)| (key.iter().map(|key| ("channel", key.as_str())).collect(), metrics.as_ref()))
            .collect::<Vec<(Vec<_>, _)>>();
        let all = || labelled.iter().map(|(labels, metrics)| (labels.as_slice(), *metrics));
        let e = &mut encoder;
        write(e, ("subscribers", "", "Open streams"), all(), |c: &ChannelMetrics| &c.subscribers)?;
        write(e, ("streams_opened", "", "Streams opened"), all(), |c: &ChannelMetrics| &c.opened)?;
        write(e, ("streams_closed", "reason", "Streams ended"), all(), |c: &ChannelMetrics| &c.closed)?;
        let help = "Subscribers turned away on the 200 path, to retry later";
        write(e, ("turned_away", "reason", help), all(), |c: &ChannelMetrics| &c.turned_away)?;
        let help = "Publications received from NATS";
        write(e, ("publications", "", help), all(), |c: &ChannelMetrics| &c.publications)?;
        let help = "Payload bytes of publications received from NATS";
        write(e, ("publication_bytes", "", help), all(), |c: &ChannelMetrics| &c.publication_bytes)?;
        write(e, ("deliveries", "", "Events handed to sockets"), all(), |c: &ChannelMetrics| &c.deliveries)?;
        let help = "Bytes of event streams handed to sockets";
        write(e, ("delivered_bytes", "", help), all(), |c: &ChannelMetrics| &c.delivered_bytes)?;
        let help = "From the NATS time stamp of a live event to the write to the socket";
        write(e, ("delivery_latency_seconds", "", help), all(), |c: &ChannelMetrics| &c.delivery_latency)?;
        write(e, ("gaps", "reason", "Gaps reported to subscribers"), all(), |c: &ChannelMetrics| &c.gaps)?;
        let help = "Live messages that were not the next in sequence";
        write(e, ("holes", "", help), all(), |c: &ChannelMetrics| &c.holes)?;
        write(e, ("backfills", "kind", "Fetches from the stream"), all(), |c: &ChannelMetrics| &c.backfills)?;
        let help = "Messages fetched from the stream";
        write(e, ("backfilled_messages", "kind", help), all(), |c: &ChannelMetrics| &c.backfilled)?;
        let help = "Invalid messages received from NATS";
        write(e, ("invalid_messages", "reason", help), all(), |c: &ChannelMetrics| &c.invalid)?;
        let help = "Publications that were too large and became tidings.oversize events";
        write(e, ("oversize_events", "", help), all(), |c: &ChannelMetrics| &c.oversize)?;
        let help = "Times that a subscriber fell behind the log and was served from the stream";
        write(e, ("slow_readers", "", help), all(), |c: &ChannelMetrics| &c.fell_behind)?;
        write(e, ("log_events", "", "Events in the log"), all(), |c: &ChannelMetrics| &c.log_events)?;
        write(e, ("log_bytes", "", "Bytes in the log"), all(), |c: &ChannelMetrics| &c.log_bytes)?;
        write(e, ("posts", "outcome", "Publications over HTTP"), all(), |c: &ChannelMetrics| &c.posts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    fn scrape(labels: &Arc<ChannelLabels>) -> Vec<String> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(labels.clone()));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_channel_counts_under_its_own_label() {
        let labels = Arc::new(ChannelLabels::new(2));
        let orders = labels.get("shop/orders");
        orders.stream_opened();
        orders.stream_opened();
        orders.stream_closed(EndReason::ClientGone);
        let lines = scrape(&labels);
        assert!(lines.contains(&r#"subscribers{channel="shop/orders"} 1"#.to_owned()), "{lines:#?}");
        assert!(lines.contains(&r#"streams_opened_total{channel="shop/orders"} 2"#.to_owned()));
        let closed = r#"streams_closed_total{channel="shop/orders",reason="client-gone"} 1"#;
        assert!(lines.contains(&closed.to_owned()), "{lines:#?}");
    }

    #[test]
    fn channels_beyond_the_limit_share_one_label() {
        let labels = Arc::new(ChannelLabels::new(1));
        labels.get("a/a").stream_opened();
        labels.get("b/b").stream_opened();
        labels.get("c/c").stream_opened();
        let lines = scrape(&labels);
        assert!(lines.contains(&r#"subscribers{channel="a/a"} 1"#.to_owned()), "{lines:#?}");
        assert!(lines.contains(&r#"subscribers{channel="other"} 2"#.to_owned()));
    }

    #[test]
    fn without_the_label_all_channels_are_one() {
        let labels = Arc::new(ChannelLabels::new(0));
        labels.get("a/a").stream_opened();
        labels.get("b/b").stream_opened();
        let lines = scrape(&labels);
        assert!(lines.contains(&"subscribers 2".to_owned()), "{lines:#?}");
        assert!(lines.contains(&r#"gaps_total{reason="expired"} 0"#.to_owned()), "{lines:#?}");
    }

    #[test]
    fn a_deleted_channel_stays_for_some_scrapes_and_while_it_is_used() {
        let labels = ChannelLabels::new(2);
        let held = labels.get("a/a");
        let start = Instant::now();
        labels.retire("a/a", start);
        labels.sweep(start + RETIRED_FOR);
        assert_eq!(labels.owners().len(), 1, "a stream still holds it");
        drop(held);
        labels.sweep(start + RETIRED_FOR / 2);
        assert_eq!(labels.owners().len(), 1, "not yet old");
        labels.sweep(start + RETIRED_FOR);
        assert_eq!(labels.owners().len(), 0);
    }
}
