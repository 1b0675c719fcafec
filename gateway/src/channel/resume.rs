//! Where a subscriber begins: its position or its wish, checked against the stream.
//!
//! A position is believed if the message at it is the one the subscriber saw (same epoch, same stamp). What this gateway
//! does not know yet is asked for before anybody is told that continuity ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tidings_crds::channel::Start;
use tidings_crds::position::Position;
use tidings_crds::topic::{TopicFilter, TopicSet};
use tokio::sync::OnceCell;

use crate::channel::backfill::{Source, entry};
use crate::channel::live::LiveChannel;
use crate::channel::subscriber::{Beginning, Snapshot, Subscriber, gap};
use crate::log::chunked::Frame;
use crate::log::event_log::{Entry, Located, Mark};
use crate::log::frame;
use crate::log::ingest::Info;
use crate::metrics::registry::GapReason;
use crate::nats::stream_reader::{ReadError, Reader};

/// Where a subscriber wants to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// Behind this position, as the client sent it.
    Position(String),
    /// As it asks.
    From(FromWhere),
    /// As the Channel says.
    ChannelDefault,
}

/// What a client without a position asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromWhere {
    /// The next publication.
    New,
    /// Everything that exists.
    All,
    /// The newest event.
    Last,
    /// The newest event of every topic.
    LastPerTopic,
    /// Everything stored since then.
    Time(SystemTime),
}

/// A subscriber in its seat, and the first bytes it is sent.
#[derive(Debug)]
pub struct Seated {
    /// The subscriber.
    pub subscriber: Subscriber,
    /// `retry:`, the checkpoint, and a gap if there is one.
    pub opening: Vec<Frame>,
}

/// The newest events per topic, read once for those who ask at the same time.
#[derive(Debug, Default)]
pub struct Snapshots {
    flights: Mutex<HashMap<Of, (Instant, Shared)>>,
}

/// Which channel, which generation of it, and which topics.
type Of = (u64, u32, TopicSet);

type Shared = Arc<OnceCell<Taken>>;

/// A snapshot, and where the stream goes on behind it.
#[derive(Clone, Debug)]
struct Taken {
    snapshot: Snapshot,
    head: Mark,
}

/// How long a snapshot is good enough for the next one who asks.
const SNAPSHOT_FOR: Duration = Duration::from_secs(1);

/// More topics than this are not read as a snapshot.
const TOPICS: usize = 100_000;

/// Between two looks whether the gateway has caught up with a position.
const PATIENCE: Duration = Duration::from_millis(250);

/// Where it begins, decided.
struct Begin {
    after: Mark,
    checkpoint: Option<Position>,
    gap: Option<(GapReason, Option<Position>, Option<Position>)>,
    resumes: bool,
    snapshot: Option<Snapshot>,
}

/// Seats a subscriber. Takes as long as NATS needs to answer; the caller sets a deadline. `discreet`: it must not be told
/// when something was stored that it may not see.
pub async fn seat(
    channel: &Arc<LiveChannel>,
    topics: TopicSet,
    start: StartAt,
    discreet: bool,
    snapshots: &Snapshots,
) -> Result<Seated, ReadError> {
    let route = channel.route();
    let generation = channel.fanout().generation();
    let mut begin = match (&channel.reader, start) {
        (None, StartAt::Position(_)) => {
            let unknown = Some((GapReason::UnknownPosition, None, None));
            Begin { gap: unknown, ..Begin::at(Mark { sequence: channel.fanout().head().sequence, stamp: None }) }
        }
        (None, _) => Begin::at(channel.fanout().head()),
        (Some(reader), StartAt::From(from)) => begin(channel, reader, &topics, from, snapshots).await?,
        (Some(reader), StartAt::ChannelDefault) => {
            begin(channel, reader, &topics, route.events.from.into(), snapshots).await?
        }
        (Some(reader), StartAt::Position(text)) => match text.parse::<Position>() {
            Ok(position) => resume(channel, reader, position).await?,
            Err(_) => {
                let begin = begin(channel, reader, &topics, route.events.from.into(), snapshots).await?;
                let resumed = Some(begin.after.position(channel.fanout().epoch()));
                Begin { gap: Some((GapReason::UnknownPosition, None, resumed)), checkpoint: None, ..begin }
            }
        },
    };
    let cursor = {
        let mut fanout = channel.fanout();
        if fanout.generation() != generation {
            // What was just decided is about a stream that is gone.
            return Err(ReadError::Replaced);
        }
        fanout.join(&topics, begin.after)
    };
    let shown = |position: Position| if discreet { Position { stamp: None, ..position } } else { position };
    let mut opening = vec![frame::opening(route.events.retry_milliseconds, begin.checkpoint.map(shown))];
    let mut told = begin.checkpoint.map(|position| position.sequence);
    if let Some((reason, after, resumed)) = begin.gap {
        // A snapshot's events lie before the position behind it: an id there would skip them.
        let resumed = resumed.filter(|_| begin.snapshot.is_none());
        channel.metrics.gap(reason);
        opening.push(gap(reason, after, resumed.map(shown)));
        told = resumed.map(|position| position.sequence);
    }
    if begin.snapshot.is_some() {
        told = None;
    }
    let beginning =
        Beginning { positions: channel.has_positions(), resumes: begin.resumes, keeps_all: channel.keeps_all(), told };
    Ok(Seated { subscriber: Subscriber::new(cursor, topics, beginning, begin.snapshot.take()), opening })
}

// === impl Begin ===

impl Begin {
    /// Behind this place, with nothing to tell.
    fn at(after: Mark) -> Self {
        Self { after, checkpoint: None, gap: None, resumes: false, snapshot: None }
    }
}

impl From<Start> for FromWhere {
    fn from(start: Start) -> Self {
        match start {
            Start::New => Self::New,
            Start::All => Self::All,
            Start::Last => Self::Last,
            Start::LastPerTopic => Self::LastPerTopic,
        }
    }
}

/// Where a client without a position begins.
async fn begin(
    channel: &Arc<LiveChannel>,
    reader: &Reader,
    topics: &TopicSet,
    from: FromWhere,
    snapshots: &Snapshots,
) -> Result<Begin, ReadError> {
    let info = match from {
        FromWhere::New => None,
        _ => Some(caught_up(channel, reader).await?),
    };
    let (epoch, head) = {
        let fanout = channel.fanout();
        (fanout.epoch(), fanout.head())
    };
    let before = |sequence: u64| Mark { sequence: sequence.saturating_sub(1), stamp: None };
    let after = match (from, info) {
        (FromWhere::New, _) | (_, None) => head,
        (FromWhere::LastPerTopic, Some(info)) => match snapshots.take(channel, topics).await {
            Ok(taken) => {
                return Ok(Begin { snapshot: Some(taken.snapshot), resumes: true, ..Begin::at(taken.head) });
            }
            // Too many topics to list; but where each has one message only, all messages are the newest ones.
            Err(ReadError::Refused(_)) if one_per_topic(channel) => before(info.first.max(1)),
            Err(error) => return Err(error),
        },
        (FromWhere::All, Some(info)) => before(info.first.max(1)),
        (FromWhere::Last, Some(_)) => last(reader, topics).await?.map_or(head, before),
        (FromWhere::Time(time), Some(info)) => since(reader, time, &info).await?.map_or(head, before),
    };
    // The head is a place that continuity can be promised from; where something may expire before it is sent is none.
    let resumes = matches!(from, FromWhere::New);
    Ok(Begin { checkpoint: Some(after.position(epoch)), resumes, ..Begin::at(after) })
}

/// Where a client with a position begins.
async fn resume(channel: &Arc<LiveChannel>, reader: &Reader, position: Position) -> Result<Begin, ReadError> {
    let here = |resumes| Begin {
        checkpoint: Some(position),
        resumes,
        ..Begin::at(Mark { sequence: position.sequence, stamp: position.stamp })
    };
    let mut asked: Option<Info> = None;
    loop {
        let (located, epoch, floor, head) = {
            let fanout = channel.fanout();
            (fanout.locate(position), fanout.epoch(), fanout.floor(), fanout.head().sequence)
        };
        match located {
            Located::Here => return Ok(here(true)),
            Located::Behind => {
                let Some(source) = channel.source().filter(|source| source.epoch == epoch) else { continue };
                return if is_same(channel, &source, position, floor).await? {
                    Ok(here(true))
                } else {
                    reset(channel, reader, position).await
                };
            }
            Located::OtherStamp => return reset(channel, reader, position).await,
            // Another gateway may know more than we do.
            Located::OtherEpoch | Located::Ahead => match asked {
                None => asked = Some(caught_up(channel, reader).await?),
                Some(info) if info.epoch != epoch || (info.epoch == position.epoch && info.last > head) => {
                    // The relay has yet to find out what we were told.
                    channel.look();
                    let _ = tokio::time::timeout(PATIENCE, channel.until_moved(head)).await;
                    asked = None;
                }
                Some(_) => return reset(channel, reader, position).await,
            },
        }
    }
}

/// Whether the stream holds at this position what the subscriber saw there.
async fn is_same(channel: &LiveChannel, source: &Source, position: Position, floor: u64) -> Result<bool, ReadError> {
    let (Some(seen), true) = (position.stamp, position.sequence > 0) else { return Ok(true) };
    let chunk = channel.backfill().around(source, position.sequence, floor).await?;
    Ok(match chunk.at(position.sequence) {
        Some(entry) if entry.sequence == position.sequence => entry.stamp() == seen,
        // It is gone. What comes after it cannot be older.
        Some(next) => !next.stamp().is_before(seen),
        None => true,
    })
}

/// Continuity ends; goes on with the earliest event that exists.
async fn reset(channel: &LiveChannel, reader: &Reader, position: Position) -> Result<Begin, ReadError> {
    let info = reader.info().await?;
    let epoch = channel.fanout().epoch();
    if info.epoch != epoch {
        channel.look();
        return Err(ReadError::Replaced);
    }
    let after = Mark { sequence: info.first.saturating_sub(1), stamp: None };
    let told = Some((GapReason::Reset, Some(position), Some(after.position(epoch))));
    Ok(Begin { gap: told, ..Begin::at(after) })
}

/// Asks the leader for the end of the stream, and waits until the relay has reached it.
async fn caught_up(channel: &LiveChannel, reader: &Reader) -> Result<Info, ReadError> {
    let info = reader.info().await?;
    loop {
        let (epoch, head) = {
            let fanout = channel.fanout();
            (fanout.epoch(), fanout.head().sequence)
        };
        if epoch == info.epoch && head >= info.last {
            return Ok(info);
        }
        channel.look();
        // Not for ever: with a replica that lags, or another stream under the name, the relay takes its time.
        if tokio::time::timeout(PATIENCE, channel.until_moved(head)).await.is_err() {
            return Ok(info);
        }
    }
}

fn one_per_topic(channel: &LiveChannel) -> bool {
    use tidings_crds::route::RouteSource;
    matches!(channel.route().source, RouteSource::Durable { max_messages_per_topic: Some(1), .. })
}

/// The sequence of the newest event that passes.
async fn last(reader: &Reader, topics: &TopicSet) -> Result<Option<u64>, ReadError> {
    let mut newest = None;
    for pattern in topics.filters().iter().flat_map(|filter| reader.topics().patterns(filter)) {
        let last = reader.last_of(&pattern).await?.map(|single| single.publication.sequence);
        newest = newest.max(last);
    }
    Ok(newest)
}

/// The sequence of the first event stored at or after `time`.
async fn since(reader: &Reader, time: SystemTime, info: &Info) -> Result<Option<u64>, ReadError> {
    let wanted = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    // A server that restarted after its newest message was deleted no longer knows when that was stored.
    let known = (info.last_time > 0).then_some(u128::from(info.last_time));
    if info.last == 0 || known.is_some_and(|newest| newest < wanted) {
        return Ok(None);
    }
    // A replica that lags may not know of it yet.
    for _ in 0..5 {
        if let Some(first) = reader.since(time).await? {
            return Ok(Some(first.sequence));
        }
        tokio::time::sleep(PATIENCE).await;
    }
    // The newest messages are deleted, or no replica catches up: what is certain is the end.
    Ok(None)
}

// === impl Snapshots ===

impl Snapshots {
    async fn take(&self, channel: &LiveChannel, topics: &TopicSet) -> Result<Taken, ReadError> {
        let generation = channel.fanout().generation();
        let flight = self.flight((channel.id, generation, topics.clone()));
        let taken = flight.get_or_try_init(|| read_snapshot(channel, topics)).await?;
        Ok(taken.clone())
    }

    fn flight(&self, key: Of) -> Shared {
        let now = Instant::now();
        let mut flights = self.flights.lock();
        flights.retain(|_, (born, _)| now.duration_since(*born) < SNAPSHOT_FOR);
        flights.entry(key).or_insert_with(|| (now, Shared::default())).1.clone()
    }
}

async fn read_snapshot(channel: &LiveChannel, topics: &TopicSet) -> Result<Taken, ReadError> {
    let source = channel.source().ok_or(ReadError::Missing)?;
    let head = channel.fanout().head();
    let mut newest = Vec::new();
    for pattern in topics.filters().iter().flat_map(|filter: &TopicFilter| source.reader.topics().patterns(filter)) {
        newest.extend(source.reader.last_per_subject(&pattern, head.sequence, TOPICS).await?);
    }
    newest.sort_by_key(|publication| publication.sequence);
    newest.dedup_by_key(|publication| publication.sequence);
    let shown = newest.into_iter().filter(|publication| !publication.marker && publication.sequence <= head.sequence);
    let entries: Arc<[Arc<Entry>]> = shown.map(|publication| entry(&source, publication)).collect();
    Ok(Taken { snapshot: Snapshot { entries }, head })
}
