//! Where a subscriber begins: its position or its wish, checked against the stream.
//!
//! A position is believed if the message at it is the one the subscriber saw (same epoch, same stamp). What this gateway
//! does not know yet is asked for before a subscriber is told that continuity ends. Whether a stream is another one is not
//! decided here: the relay decides that for all, with [`crate::log::identity`], and is waited for.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tidings_crds::channel::Start;
use tidings_crds::position::Position;
use tidings_crds::topic::TopicSet;

use crate::channel::backfill::Source;
use crate::channel::live::LiveChannel;
use crate::channel::snapshot::{FILTERS, Snapshot, Snapshots};
use crate::channel::subscriber::{Beginning, Subscriber, gap};
use crate::log::chunked::Frame;
use crate::log::event_log::{Located, Mark};
use crate::log::frame;
use crate::log::identity::Confirmed;
use crate::metrics::registry::GapReason;
use crate::nats::stream_reader::{ReadError, Reader, TooMuch};

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

/// Where it begins, decided.
struct Begin {
    after: Mark,
    checkpoint: Option<Position>,
    gap: Option<(GapReason, Option<Position>, Option<Position>)>,
    resumes: bool,
    snapshot: Option<Arc<Snapshot>>,
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
    let begin = match (&channel.reader, start) {
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
            Ok(position) => resume(channel, position, discreet.then_some(&topics)).await?,
            Err(_) => {
                let begin = begin(channel, reader, &topics, route.events.from.into(), snapshots).await?;
                let resumed = Some(begin.after.position(channel.fanout().epoch()));
                Begin { gap: Some((GapReason::UnknownPosition, None, resumed)), checkpoint: None, ..begin }
            }
        },
    };
    // Beyond the head nothing could be compared if the stream went back and grew again: it would go on there unnoticed.
    channel.until_reached(generation, begin.after.sequence).await;
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
    let (positions, keeps_all) = (channel.has_positions(), channel.keeps_all());
    // What comes behind a position that the client was told is continuous with it, or it is told otherwise.
    let resumes = begin.resumes || told.is_some();
    let beginning = Beginning { positions, resumes, keeps_all, told };
    Ok(Seated { subscriber: Subscriber::new(cursor, topics, beginning, begin.snapshot), opening })
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
    if from == FromWhere::New {
        // The head is a place that continuity can be promised from.
        let (epoch, head) = {
            let fanout = channel.fanout();
            (fanout.epoch(), fanout.head())
        };
        return Ok(Begin { checkpoint: Some(head.position(epoch)), resumes: true, ..Begin::at(head) });
    }
    let info = caught_up(channel).await;
    let head = channel.fanout().head();
    let before = |sequence: u64| Mark { sequence: sequence.saturating_sub(1), stamp: None };
    let after = match from {
        FromWhere::LastPerTopic => match snapshots.take(channel, topics).await {
            Ok(snapshot) => {
                let after = snapshot.through;
                return Ok(Begin { snapshot: Some(snapshot), resumes: true, ..Begin::at(after) });
            }
            // Too much to be put together; but where each topic has one message only, all messages are the newest ones.
            Err(ReadError::TooMuch(_)) if one_per_topic(channel) => before(info.first.max(1)),
            Err(error) => return Err(error),
        },
        FromWhere::All | FromWhere::New => before(info.first.max(1)),
        FromWhere::Last => last(channel, reader, topics).await?.map_or(head, before),
        FromWhere::Time(time) => since(channel, reader, time).await?.map_or(head, before),
    };
    // Where something may expire before it is sent, there is nothing to come back to yet: the client is told no position.
    Ok(Begin::at(after))
}

/// Where a client with a position begins. One that sees topics `only` is not told when anything else was stored.
async fn resume(channel: &Arc<LiveChannel>, position: Position, only: Option<&TopicSet>) -> Result<Begin, ReadError> {
    let here = Begin {
        checkpoint: Some(position),
        resumes: true,
        ..Begin::at(Mark { sequence: position.sequence, stamp: position.stamp })
    };
    let arrived = Instant::now();
    let mut confirmed: Option<Confirmed> = None;
    loop {
        let (located, generation, epoch, floor) = {
            let fanout = channel.fanout();
            let located = match only {
                Some(topics) => fanout.locate_among(position, topics),
                None => fanout.locate(position),
            };
            (located, fanout.generation(), fanout.epoch(), fanout.floor())
        };
        match (located, confirmed) {
            (Located::Here, _) => return Ok(here),
            (Located::Behind, _) => {
                let source = channel.source().filter(|source| source.generation == generation);
                let source = source.ok_or(ReadError::Replaced)?;
                if is_same(channel, &source, position, floor, only).await? {
                    return Ok(here);
                }
            }
            // The stream was made again after the position was told: there is no doubt about that.
            (Located::OtherEpoch, _) if position.epoch < epoch => {}
            // Another gateway may know more than this one.
            (Located::OtherEpoch | Located::OtherStamp | Located::Ahead, None) => {
                confirmed = Some(channel.confirmed(arrived).await);
                continue;
            }
            (Located::Ahead, Some(known)) if known.last >= position.sequence => {
                channel.until_reached(generation, position.sequence).await;
                continue;
            }
            (Located::OtherEpoch | Located::OtherStamp | Located::Ahead, Some(_)) => {}
        }
        // Continuity ends; it goes on with the earliest event that exists.
        let known = match confirmed {
            Some(known) => known,
            None => channel.confirmed(arrived).await,
        };
        if known.epoch != epoch || channel.fanout().generation() != generation {
            return Err(ReadError::Replaced);
        }
        let after = Mark { sequence: known.first.saturating_sub(1), stamp: None };
        let told = Some((GapReason::Reset, Some(position), Some(after.position(epoch))));
        return Ok(Begin { gap: told, ..Begin::at(after) });
    }
}

/// Whether the stream holds at this position what the subscriber saw there.
async fn is_same(
    channel: &LiveChannel,
    source: &Source,
    position: Position,
    floor: u64,
    only: Option<&TopicSet>,
) -> Result<bool, ReadError> {
    let (Some(seen), true) = (position.stamp, position.sequence > 0) else { return Ok(true) };
    let chunk = channel.backfill().around(source, position.sequence, floor).await?;
    Ok(match chunk.at(position.sequence) {
        // What it does not see does not tell when it was stored.
        Some(entry) if only.is_some_and(|topics| !entry.is_seen_by(topics)) => true,
        Some(entry) if entry.sequence == position.sequence => entry.stamp() == seen,
        Some(next) => next.can_follow(seen),
        None => true,
    })
}

/// The state of the stream now, by its leader; the relay has reached the end that it tells, or the stream is another one.
async fn caught_up(channel: &LiveChannel) -> Confirmed {
    let known = channel.confirmed(Instant::now()).await;
    let generation = channel.fanout().generation();
    channel.until_reached(generation, known.last).await;
    known
}

fn one_per_topic(channel: &LiveChannel) -> bool {
    use tidings_crds::route::RouteSource;
    matches!(channel.route().source, RouteSource::Durable { max_messages_per_topic: Some(1), .. })
}

/// The sequence of the newest event that passes.
async fn last(channel: &LiveChannel, reader: &Reader, topics: &TopicSet) -> Result<Option<u64>, ReadError> {
    if topics.filters().len() > FILTERS {
        return Err(ReadError::TooMuch(TooMuch::Filters(FILTERS)));
    }
    let _pass = channel.backfill().begin().await;
    let mut newest = None;
    for pattern in topics.filters().iter().flat_map(|filter| reader.topics().patterns(filter)) {
        let last = reader.last_of(&pattern).await?.map(|single| single.publication.sequence);
        newest = newest.max(last);
    }
    Ok(newest)
}

/// The sequence of the first event stored at or after `time`.
async fn since(channel: &LiveChannel, reader: &Reader, time: SystemTime) -> Result<Option<u64>, ReadError> {
    let _pass = channel.backfill().begin().await;
    Ok(reader.since(time).await?.map(|first| first.sequence))
}
