//! The newest event of every topic, for those who begin with it: listed by the leader, read in pages by any replica that knows
//! the stream far enough, once for all who ask at the same time, and within a bound in bytes for the whole process.
//!
//! In a channel that keeps one message per topic, what is too much for this is replayed: there, all that exists is the newest of
//! each, but for values that the Log still has although newer ones came.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tidings_crds::topic::TopicSet;

use crate::channel::backfill::entry;
use crate::channel::live::LiveChannel;
use crate::log::event_log::{Entry, Mark};
use crate::nats::stream_reader::{ReadError, SUBJECTS, TooMuch};
use crate::runtime::byte_budget::{ByteBudget, Reserved};

/// More topics than this are not read as a snapshot: their names alone take some 10 MB while they are listed.
const TOPICS: usize = 100_000;

/// More filters than this are not listed one by one.
pub const FILTERS: usize = 64;

/// The most that one snapshot may take.
const BYTES: usize = 32 << 20;

/// The most that all snapshots may take which subscribers have not finished reading.
const BYTES_IN_ALL: usize = 64 << 20;

/// How long a snapshot is good enough for the next one who asks.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// How long a failure is: those who wait for it need not all try again.
const FAILED_FOR: Duration = Duration::from_millis(250);

/// How long one may take to be read.
const DEADLINE: Duration = Duration::from_secs(30);

/// The newest events of some topics, in stream order.
#[derive(Debug)]
pub struct Snapshot {
    /// The events.
    pub entries: Box<[Arc<Entry>]>,
    /// Where the stream goes on behind them.
    pub through: Mark,
    _reserved: Reserved,
}

/// The snapshots that were asked for lately.
#[derive(Debug)]
pub struct Snapshots {
    flights: Mutex<HashMap<Of, Flight>>,
    budget: Arc<ByteBudget>,
}

/// Which channel, which generation of it, and which topics.
type Of = (u64, u32, TopicSet);

type Reading = Shared<BoxFuture<'static, Result<Arc<Snapshot>, ReadError>>>;

#[derive(Debug)]
struct Flight {
    born: Instant,
    reading: Reading,
}

// === impl Snapshot ===

impl Snapshot {
    /// These events, of which the budget was told.
    pub fn new(entries: Vec<Arc<Entry>>, through: Mark, reserved: Reserved) -> Self {
        Self { entries: entries.into(), through, _reserved: reserved }
    }
}

// === impl Snapshots ===

impl Snapshots {
    /// The newest events of these topics, perhaps as they were a second ago.
    pub async fn take(&self, channel: &Arc<LiveChannel>, topics: &TopicSet) -> Result<Arc<Snapshot>, ReadError> {
        if topics.filters().len() > FILTERS {
            return Err(ReadError::TooMuch(TooMuch::Filters(FILTERS)));
        }
        let generation = channel.fanout().generation();
        self.flight(channel, generation, topics).await
    }

    /// Forgets what is no longer good enough.
    pub fn sweep(&self, now: Instant) {
        self.flights.lock().retain(|_, flight| flight.is_good(now));
    }

    fn flight(&self, channel: &Arc<LiveChannel>, generation: u32, topics: &TopicSet) -> Reading {
        let now = Instant::now();
        let mut flights = self.flights.lock();
        flights.retain(|_, flight| flight.is_good(now));
        let key = (channel.id, generation, topics.clone());
        let flight = flights.entry(key).or_insert_with(|| {
            let reading = read(channel.clone(), topics.clone(), self.budget.reserve());
            let deadline = tokio::time::timeout(DEADLINE, reading);
            let reading = deadline.map(|read| read.unwrap_or(Err(ReadError::Unavailable))).boxed().shared();
            // It goes on if those who asked give up: the next ones find it done.
            tokio::spawn(reading.clone());
            Flight { born: now, reading }
        });
        flight.reading.clone()
    }
}

impl Default for Snapshots {
    fn default() -> Self {
        Self { flights: Mutex::default(), budget: ByteBudget::new(BYTES_IN_ALL) }
    }
}

// === impl Flight ===

impl Flight {
    fn is_good(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.born);
        match self.reading.peek() {
            None => age < DEADLINE,
            Some(Ok(_)) => age < FRESH_FOR,
            // How long it took is no reason to try again at once.
            Some(Err(ReadError::TooMuch(_))) => age < FRESH_FOR * 10,
            Some(Err(_)) => age < FAILED_FOR,
        }
    }
}

async fn read(channel: Arc<LiveChannel>, topics: TopicSet, mut reserved: Reserved) -> Result<Arc<Snapshot>, ReadError> {
    let source = channel.source().ok_or(ReadError::Missing)?;
    // From before the topics are listed: what has its first message later comes behind it.
    let through = channel.fanout().head();
    let mut newest: HashMap<Box<str>, Arc<Entry>> = HashMap::new();
    for filter in topics.filters() {
        for pattern in source.reader.topics().patterns(filter) {
            let _pass = channel.backfill().begin().await;
            for subjects in source.reader.subjects(&pattern, TOPICS).await?.chunks(SUBJECTS) {
                let messages = source.reader.newest(subjects, through.sequence).await?;
                for publication in messages.into_iter().filter(|publication| publication.is_shown()) {
                    let entry = entry(&source, publication);
                    if !reserved.grow(entry.cost()) {
                        return Err(ReadError::Unavailable);
                    }
                    if reserved.bytes() > BYTES {
                        return Err(ReadError::TooMuch(TooMuch::Bytes(BYTES)));
                    }
                    keep_newer(&mut newest, entry);
                }
            }
        }
    }
    let mut entries: Vec<_> = newest.into_values().collect();
    entries.sort_unstable_by_key(|entry| entry.sequence);
    Ok(Arc::new(Snapshot::new(entries, through, reserved)))
}

/// A topic may be in two pages, if it got a message in between.
fn keep_newer(newest: &mut HashMap<Box<str>, Arc<Entry>>, entry: Arc<Entry>) {
    let kept = newest.entry(entry.topic.clone()).or_insert_with(|| entry.clone());
    if kept.sequence < entry.sequence {
        *kept = entry;
    }
}
