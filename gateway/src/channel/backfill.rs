//! Reads the stream behind the Log, once for everybody who needs the same range.
//!
//! Ranges begin at multiples of `ALIGN`, so that thousands of clients that come back at slightly different positions
//! share them, and go on where the one before ended. What is read is kept for a moment, within a bound in bytes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidings_crds::position::Epoch;
use tidings_crds::subject::Pattern;
use tidings_crds::topic::TopicSet;
use tokio::sync::OnceCell;

use crate::channel::concurrency_limit::{Gate, Pass};
use crate::limits::quota::DEFAULT_BACKFILLS;
use crate::log::chunk::Chunk;
use crate::log::event_log::{Entry, Kind, Mark};
use crate::log::extent::{Extent, Reached};
use crate::log::frame::Framing;
use crate::log::publication::Publication;
use crate::metrics::registry::{Backfill as For, Metrics};
use crate::nats::stream_reader::{BATCH, ReadError, Reader};

/// Where shared ranges begin.
const ALIGN: u64 = BATCH as u64;

/// From this distance on a filter is given to the server instead of being applied here.
const FAR: u64 = 8 * ALIGN;

/// More filters than this are not read one by one.
const FILTERS: usize = 4;

/// Messages read from the leader one by one when a batch has broken the connection.
const SINGLES: usize = 64;

/// Chunks kept: 32 MiB hold 10,000 clients' worth of the last thousand events of a few channels.
const KEPT_BYTES: usize = 32 << 20;

/// How many ranges are remembered that broke the connection; behind that, each may do so once more.
const BROKEN: usize = 1024;

/// How long a chunk is kept: as long as a wave of reconnects takes.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// The chunks of all channels.
#[derive(Debug)]
pub struct Backfill {
    kept: Mutex<Kept>,
    gate: Gate,
    metrics: Arc<Metrics>,
}

/// Something that is being read for a subscriber.
#[derive(Debug)]
pub struct Reading<'b> {
    metrics: &'b Metrics,
    _pass: Pass<'b>,
}

/// Which stream is read, and how.
#[derive(Clone, Debug)]
pub struct Source {
    /// Tells channels apart, and the same channel opened again.
    pub channel: u64,
    /// Tells apart what was read before and after the stream went back in time.
    pub generation: u32,
    /// The incarnation that is expected.
    pub epoch: Epoch,
    /// Who reads.
    pub reader: Reader,
    /// How frames are made.
    pub framing: Framing,
    /// Whether the channel keeps all messages of a topic.
    pub keeps_all: bool,
    /// How often the reader's connection had been made when the stream was certain to be the expected one; `None` while that
    /// is in doubt.
    pub connects: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    channel: u64,
    generation: u32,
    /// `None`: everything.
    topics: Option<TopicSet>,
    from: u64,
}

/// What has been read lately, and what is being read.
#[derive(Debug, Default)]
struct Kept {
    flights: HashMap<Key, Flight>,
    order: VecDeque<Key>,
    bytes: usize,
    /// Where ranges begin, by channel, whose batches broke the connection: they are read message by message.
    broken: HashSet<(u64, u64)>,
}

#[derive(Debug)]
struct Flight {
    chunk: Arc<OnceCell<Arc<Chunk>>>,
    born: Instant,
    cost: usize,
}

// === impl Backfill ===

impl Backfill {
    /// Nothing read yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { kept: Mutex::default(), gate: Gate::new(DEFAULT_BACKFILLS), metrics }
    }

    /// Reads so many ranges at the same time from now on.
    pub fn limit(&self, most: usize) {
        self.gate.set(most);
    }

    /// What lies behind `after` and passes `topics`; `floor` is where the Log begins.
    ///
    /// The chunk may begin before `after`, may hold entries that do not pass, and reaches beyond `after`.
    pub async fn read(
        &self,
        source: &Source,
        topics: &TopicSet,
        after: u64,
        floor: u64,
    ) -> Result<Arc<Chunk>, ReadError> {
        let filtered = !topics.is_all() && topics.filters().len() <= FILTERS && floor.saturating_sub(after) > FAR;
        let topics = filtered.then(|| topics.clone());
        // Behind a chunk that ended in between, exactly there; else where others begin as well.
        for from in [after - after % ALIGN, after] {
            let key = Key { channel: source.channel, generation: source.generation, topics: topics.clone(), from };
            let chunk = self.shared(source, key, floor).await?;
            if chunk.through > after {
                return Ok(chunk);
            }
        }
        Err(ReadError::Unavailable)
    }

    /// The unfiltered chunk that holds `sequence`, or proves it gone.
    pub async fn around(&self, source: &Source, sequence: u64, floor: u64) -> Result<Arc<Chunk>, ReadError> {
        self.read(source, &TopicSet::all(), sequence.saturating_sub(1), floor.max(sequence)).await
    }

    async fn shared(&self, source: &Source, key: Key, floor: u64) -> Result<Arc<Chunk>, ReadError> {
        let (flight, careful) = {
            let mut kept = self.kept.lock();
            (kept.flight(&key, Instant::now()), kept.broken.contains(&(key.channel, key.from)))
        };
        let read = flight.get_or_try_init(|| async {
            let _reading = self.begin().await;
            let chunk = Arc::new(fetch(source, key.topics.as_ref(), key.from, floor, careful).await?);
            self.kept.lock().landed(&key, chunk.cost());
            Ok(chunk)
        });
        match read.await {
            Ok(chunk) => Ok(chunk.clone()),
            Err(error) => {
                if error == ReadError::Broken {
                    self.kept.lock().broke(&key);
                }
                Err(error)
            }
        }
    }

    /// Waits for its turn to ask NATS something for a subscriber; the value that it returns counts against the limit until it is dropped.
    pub async fn begin(&self) -> Reading<'_> {
        let pass = match self.gate.try_enter() {
            Some(pass) => pass,
            None => {
                self.metrics.backfill_waits();
                self.gate.enter().await
            }
        };
        self.metrics.backfill_begins();
        Reading { metrics: &self.metrics, _pass: pass }
    }
}

impl Default for Backfill {
    fn default() -> Self {
        Self::new(Metrics::new(0))
    }
}

// === impl Reading ===

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.metrics.backfill_ends();
    }
}

// === impl Kept ===

impl Kept {
    /// The flight for this range, perhaps a new one.
    fn flight(&mut self, key: &Key, now: Instant) -> Arc<OnceCell<Arc<Chunk>>> {
        while let Some(oldest) = self.order.front() {
            let young = self.flights.get(oldest).is_some_and(|f| now.duration_since(f.born) <= KEPT_FOR);
            if young {
                break;
            }
            self.forget_oldest();
        }
        if let Some(flight) = self.flights.get(key) {
            return flight.chunk.clone();
        }
        let chunk = Arc::new(OnceCell::new());
        self.flights.insert(key.clone(), Flight { chunk: chunk.clone(), born: now, cost: 0 });
        self.order.push_back(key.clone());
        chunk
    }

    /// Counts what was read, and makes room for it.
    fn landed(&mut self, key: &Key, cost: usize) {
        if let Some(flight) = self.flights.get_mut(key) {
            flight.cost = cost;
            self.bytes += cost;
        }
        while self.bytes > KEPT_BYTES && !self.order.is_empty() {
            self.forget_oldest();
        }
    }

    fn broke(&mut self, key: &Key) {
        if self.broken.len() >= BROKEN {
            self.broken.clear();
        }
        self.broken.insert((key.channel, key.from));
    }

    fn forget_oldest(&mut self) {
        if let Some(flight) = self.order.pop_front().and_then(|key| self.flights.remove(&key)) {
            self.bytes -= flight.cost;
        }
    }
}

/// Reads what lies behind `from`, at least one batch or up to `floor`; an error if it is not certain that this is more than
/// nothing, and of the expected stream. `careful`: message by message from the leader, as a batch broke the connection.
async fn fetch(
    source: &Source,
    topics: Option<&TopicSet>,
    from: u64,
    floor: u64,
    careful: bool,
) -> Result<Chunk, ReadError> {
    if source.connects != Some(source.reader.connects()) {
        // Over this connection the stream may be another one; the relay is finding out.
        return Err(ReadError::Unavailable);
    }
    let patterns: Vec<Option<Pattern>> = match topics {
        None => vec![None],
        Some(topics) => {
            let space = source.reader.topics();
            let patterns: Vec<_> =
                topics.filters().iter().flat_map(|filter| space.patterns(filter)).map(Some).collect();
            // No pattern at all would read nothing, which does not prove that nothing matches.
            if patterns.is_empty() { vec![None] } else { patterns }
        }
    };
    let mut through = floor;
    let mut messages = Vec::new();
    let mut by_leader = false;
    for pattern in &patterns {
        let extent = extent(source, pattern.as_ref(), (from, floor), careful, &mut by_leader).await?;
        through = through.min(extent.through());
        messages.extend(extent.into_messages());
    }
    if through <= from {
        // A range that reaches nowhere is of no use to those who would share it.
        return Err(ReadError::Unavailable);
    }
    if patterns.len() > 1 {
        messages.sort_by_key(|publication| publication.sequence);
        messages.dedup_by_key(|publication| publication.sequence);
    }
    let info = source.reader.info().await?;
    if info.epoch != source.epoch {
        return Err(ReadError::Replaced);
    }
    let other_connection = source.connects != Some(source.reader.connects());
    // The leader that saw nothing does not know of the floor: its word proves nothing.
    let leader_lags = by_leader && info.last < floor;
    // The Route has yet to learn of a subject: its events must not be passed over.
    let route_is_old = info.unrouted && messages.iter().any(|publication| publication.unrouted);
    if other_connection || leader_lags || route_is_old {
        return Err(ReadError::Unavailable);
    }
    let entries = messages
        .into_iter()
        .filter(|publication| publication.is_shown() && publication.sequence <= through)
        .map(|publication| entry(source, publication))
        .collect();
    Ok(Chunk { generation: source.generation, from, through, first: info.first, entries })
}

/// Reads one pattern: what replicas answer, and where that proves nothing, what the leader does.
async fn extent(
    source: &Source,
    pattern: Option<&Pattern>,
    (from, floor): (u64, u64),
    careful: bool,
    by_leader: &mut bool,
) -> Result<Extent, ReadError> {
    let mut extent = Extent::behind(from);
    let mut singles = 0;
    while extent.through() < floor && singles < SINGLES && extent.count() < BATCH {
        let mut rest = None;
        if !careful {
            let batch = source.reader.batch(extent.through() + 1, pattern, For::Direct).await?;
            match extent.replica(batch.messages, source.keeps_all) {
                Reached::Further if batch.more => break,
                Reached::Further if extent.through() >= floor => break,
                Reached::Further | Reached::Nothing => {}
                Reached::Open(messages) => rest = Some(messages),
            }
        }
        // The replica has no more, does not say what came before, or cannot be read: the leader tells.
        *by_leader = true;
        singles += 1;
        let single = source.reader.leader(extent.through() + 1, pattern).await?;
        extent.leader(single.map(|single| single.publication), floor, rest.unwrap_or_default());
    }
    extent.cut(floor);
    Ok(extent)
}

/// Encodes a publication that was read from the stream.
pub fn entry(source: &Source, publication: Publication) -> Arc<Entry> {
    let mark = Mark { sequence: publication.sequence, stamp: Some(publication.stamp()) };
    let frame = source.framing.publication(&publication, Some(mark.position(source.epoch)));
    Arc::new(Entry {
        sequence: publication.sequence,
        time: publication.time,
        topic: publication.topic,
        frame,
        kind: Kind::Event,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(from: u64) -> Key {
        Key { channel: 1, generation: 0, topics: None, from }
    }

    #[test]
    fn the_same_range_is_one_flight() {
        let (mut kept, now) = (Kept::default(), Instant::now());
        let first = kept.flight(&key(0), now);
        assert!(Arc::ptr_eq(&first, &kept.flight(&key(0), now)));
        assert!(!Arc::ptr_eq(&first, &kept.flight(&key(512), now)));
        let later = now + KEPT_FOR + Duration::from_millis(1);
        assert!(!Arc::ptr_eq(&first, &kept.flight(&key(0), later)));
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes() {
        let (mut kept, now) = (Kept::default(), Instant::now());
        for n in 0..40 {
            kept.flight(&key(n), now);
            kept.landed(&key(n), 1 << 20);
        }
        assert!(kept.bytes <= KEPT_BYTES);
        assert_eq!((kept.flights.len(), kept.order.len()), (32, 32));
        // One that was forgotten while it was in the air counts for nothing.
        kept.landed(&key(0), 1 << 20);
        assert_eq!(kept.bytes, 32 << 20);
    }
}
