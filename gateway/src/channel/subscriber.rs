//! One subscriber: what it is sent next, from a snapshot, the stream behind the Log, or the Log. No io.
//!
//! The task that sends its bytes (a driver: [`super::event_stream`]) owes it three things, or a stream outlives the right to it:
//!
//! 1. [`Subscriber::check`] before every [`Subscriber::next`], also while it waits for the stream behind the Log, and an
//!    end of the stream with the reason that it gives;
//! 2. a timer that goes off no later than [`Subscriber::ends_at`], and a check then;
//! 3. a check whenever it is woken through [`Fanout::wait`]: so it hears of changed rules.

use std::sync::{Arc, Weak};
use std::time::Instant;

use tidings_crds::position::Position;
use tidings_crds::route::Route;
use tidings_crds::topic::TopicSet;

use crate::channel::access_lease::Lease;
use crate::channel::snapshot::Snapshot;
use crate::log::chunk::Chunk;
use crate::log::chunked::Frame;
use crate::log::end_reason::EndReason;
use crate::log::fanout::{Cursor, Fanout, Next};
use crate::log::feed::{Batch, batch};
use crate::log::frame::{self, Gap};
use crate::metrics::registry::GapReason;

/// One open stream.
#[derive(Debug)]
pub struct Subscriber {
    cursor: Cursor,
    topics: TopicSet,
    /// Whether the channel has positions to tell (Ephemeral ones have not).
    positions: bool,
    /// Whether nothing that retention removes in front of the cursor is a loss: it began with what exists, has neither been
    /// sent an event nor told a position, and has not reached the head.
    fresh: bool,
    /// Whether retention by age, count or size is the only way for an event to go.
    keeps_all: bool,
    /// The newest events of some topics, to be sent before anything else.
    snapshot: Option<Arc<Snapshot>>,
    chunk: Option<Held>,
    /// The last sequence the client was told.
    told: Option<u64>,
    /// What its right to the stream stands on.
    lease: Option<Lease>,
}

/// What was read of the stream behind the Log.
#[derive(Debug)]
enum Held {
    /// Just read: at least one batch of it is sent.
    New(Arc<Chunk>),
    /// The cache of what was read lately may let it go, within its bound for all: it is read again then. So a reader that
    /// stops reading holds nothing.
    Kept(Weak<Chunk>),
}

/// What to do for a subscriber.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send these events.
    Events(Batch),
    /// Send this control event.
    Gap(GapReason, Frame),
    /// Wait: nothing to send.
    Wait,
    /// Read the stream behind `after` up to `floor`, and bring it with [`Subscriber::take`].
    Read {
        /// Where to start.
        after: u64,
        /// How far at least.
        floor: u64,
    },
    /// End the stream.
    End(EndReason),
}

/// How a subscriber begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Whether the channel has positions.
    pub positions: bool,
    /// Whether the client comes with a position that continuity is promised from.
    pub resumes: bool,
    /// Whether the channel keeps all messages of a topic.
    pub keeps_all: bool,
    /// The sequence the client knows it stands at, if it was told.
    pub told: Option<u64>,
}

// === impl Subscriber ===

impl Subscriber {
    /// A subscriber at this cursor.
    pub fn new(cursor: Cursor, topics: TopicSet, beginning: Beginning, snapshot: Option<Arc<Snapshot>>) -> Self {
        let Beginning { positions, resumes, keeps_all, told } = beginning;
        Self { cursor, topics, positions, fresh: !resumes, keeps_all, snapshot, chunk: None, told, lease: None }
    }

    /// The same under this lease: the stream ends with it.
    pub fn under(self, lease: Lease) -> Self {
        Self { lease: Some(lease), ..self }
    }

    /// Why the stream is to end by now, if its right to go on has. `version` and `route` are the channel's.
    pub fn check(&mut self, now: Instant, version: u64, route: impl FnOnce() -> Arc<Route>) -> Option<EndReason> {
        self.lease.as_mut()?.check(&self.topics, now, version, route)
    }

    /// When its token expires, and the stream with it.
    pub fn ends_at(&self) -> Option<Instant> {
        self.lease.as_ref()?.ends_at()
    }

    /// What it is shown.
    pub fn topics(&self) -> &TopicSet {
        &self.topics
    }

    /// Where it reads.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// What is to be done next. Everything that is sent is decided here.
    pub fn next(&mut self, fanout: &Fanout, budget: usize) -> Step {
        if self.cursor.generation() != fanout.generation() {
            self.snapshot = None;
            self.chunk = None;
        }
        if let Some(batch) = self.read_snapshot(budget) {
            return Step::Events(batch);
        }
        if let Some(step) = self.read_chunk(budget) {
            return step;
        }
        match fanout.next(&mut self.cursor, budget) {
            Next::Frames(batch) => {
                self.sent(&batch);
                Step::Events(batch)
            }
            Next::Wait => {
                self.fresh = false;
                Step::Wait
            }
            Next::Behind { floor } if !self.positions => {
                self.cursor.move_to(floor);
                Step::Gap(GapReason::Dropped, gap(GapReason::Dropped, None, None))
            }
            Next::Behind { floor } => Step::Read { after: self.cursor.after(), floor },
            // Who has seen nothing yet has lost nothing.
            Next::Expired { .. } if self.fresh => self.next(fanout, budget),
            Next::Expired { after, resumed } => {
                self.told = Some(resumed.sequence);
                Step::Gap(GapReason::Expired, self.gap(GapReason::Expired, after, resumed))
            }
            Next::Reset { after, resumed } => {
                self.fresh = false;
                self.told = Some(resumed.sequence);
                Step::Gap(GapReason::Reset, self.gap(GapReason::Reset, after, resumed))
            }
            Next::End(reason) => Step::End(reason),
        }
    }

    /// Whether [`Subscriber::next`] would have nothing to send.
    pub fn is_at_end(&self, fanout: &Fanout) -> bool {
        self.snapshot.is_none() && self.chunk.is_none() && fanout.is_at_end(&self.cursor)
    }

    /// Takes what was read of the stream; [`Subscriber::next`] decides what becomes of it.
    pub fn take(&mut self, chunk: Arc<Chunk>) {
        self.chunk = Some(Held::New(chunk));
    }

    /// What to send after a long silence: a checkpoint if there is something to move, a comment if not.
    pub fn heartbeat(&mut self) -> Frame {
        let Some(position) = self.position().filter(|position| self.told != Some(position.sequence)) else {
            return frame::COMMENT;
        };
        self.told = Some(position.sequence);
        self.fresh = false;
        frame::checkpoint(position)
    }

    /// The position to end with, if the client can come back with one. It may know it already; then it may know more of it
    /// than it is shown now, and is told nothing.
    pub fn last_position(&self) -> Option<Position> {
        let known = self.told == Some(self.cursor.after());
        let hidden = known && self.lease.as_ref().is_some_and(Lease::is_restricted);
        self.position().filter(|_| !self.fresh && !hidden)
    }

    /// The position that may be told.
    fn position(&self) -> Option<Position> {
        // Within a snapshot the sequence says nothing about what was sent.
        (self.positions && self.snapshot.is_none()).then(|| self.shown(self.cursor.position()))
    }

    fn gap(&self, reason: GapReason, after: Position, resumed: Position) -> Frame {
        gap(reason, Some(self.shown(after)), Some(self.shown(resumed)))
    }

    /// A position that may lie at something that the subscriber may not see: then not when that was stored.
    fn shown(&self, position: Position) -> Position {
        let discreet = self.lease.as_ref().is_some_and(Lease::is_restricted);
        if discreet { Position { stamp: None, ..position } } else { position }
    }

    fn read_snapshot(&mut self, budget: usize) -> Option<Batch> {
        let snapshot = self.snapshot.as_ref()?;
        let sent = self.told.unwrap_or(0);
        let start = snapshot.entries.partition_point(|entry| entry.sequence <= sent);
        match batch(snapshot.entries.get(start..).unwrap_or_default().iter(), budget) {
            Some(batch) => {
                self.told = Some(batch.last);
                Some(batch)
            }
            None => {
                self.snapshot = None;
                None
            }
        }
    }

    fn read_chunk(&mut self, budget: usize) -> Option<Step> {
        let chunk = match self.chunk.take()? {
            Held::New(chunk) if chunk.generation != self.cursor.generation() => return None,
            Held::New(chunk) => {
                if let Some(gap) = self.overtaken(&chunk) {
                    self.chunk = Some(Held::New(chunk));
                    return Some(gap);
                }
                chunk
            }
            Held::Kept(chunk) => chunk.upgrade()?,
        };
        let Some(batch) = chunk.read(&self.topics, self.cursor.after(), budget) else {
            self.cursor.move_to(chunk.through);
            return None;
        };
        self.chunk = Some(Held::Kept(Arc::downgrade(&chunk)));
        self.sent(&batch);
        Some(Step::Events(batch))
    }

    /// Moves over what retention removed before it was read; that ends continuity, and the subscriber is told.
    fn overtaken(&mut self, chunk: &Chunk) -> Option<Step> {
        let before = self.cursor.position();
        let expired = chunk.expired(before.sequence).filter(|_| self.keeps_all)?;
        self.cursor.move_to(expired.resumed);
        if self.fresh {
            // Who has seen nothing yet has lost nothing, but has to begin behind the hole: what was read before it and
            // what was read behind it are not continuous.
            return None;
        }
        self.told = Some(self.cursor.after());
        Some(Step::Gap(GapReason::Expired, self.gap(GapReason::Expired, before, self.cursor.position())))
    }

    fn sent(&mut self, batch: &Batch) {
        self.cursor.pass(batch.last, batch.newest);
        self.told = Some(batch.last);
        self.fresh = false;
    }
}

/// A `tidings.gap`, with the position before the next event as its id.
pub fn gap(reason: GapReason, after: Option<Position>, resumed: Option<Position>) -> Frame {
    let told = Gap {
        reason: reason.as_str(),
        after: after.map(|position| position.to_string()),
        resumed: resumed.map(|position| position.to_string()),
    };
    frame::gap(&told, resumed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::event_log::{Entry, LogLimits, Mark};
    use crate::runtime::byte_budget::ByteBudget;
    use tidings_crds::position::Epoch;

    const EPOCH: Epoch = Epoch::from_nanos(10);

    fn entry(sequence: u64, topic: &str) -> Arc<Entry> {
        Arc::new(Entry {
            sequence,
            time: sequence,
            topic: topic.into(),
            frame: format!("<{sequence}>").into(),
            kind: crate::log::event_log::Kind::Event,
        })
    }

    fn chunk(first: u64, through: u64, sequences: &[u64]) -> Arc<Chunk> {
        Arc::new(Chunk {
            generation: 0,
            from: 0,
            through,
            first,
            entries: sequences.iter().map(|s| entry(*s, "a")).collect(),
        })
    }

    /// A channel whose Log holds 11 and 12, with floor 10.
    fn fanout() -> Fanout {
        let mut fanout =
            Fanout::new(EPOCH, Mark { sequence: 10, stamp: None }, 1, LogLimits { entries: 9, bytes: 1 << 20 });
        fanout.append(entry(11, "a"), &mut Vec::new());
        fanout.append(entry(12, "b"), &mut Vec::new());
        fanout
    }

    fn subscriber(fanout: &mut Fanout, after: u64, resumes: bool) -> Subscriber {
        let beginning = Beginning { positions: true, resumes, keeps_all: true, told: Some(after) };
        let cursor = fanout.join(&TopicSet::all(), Mark { sequence: after, stamp: None });
        Subscriber::new(cursor, TopicSet::all(), beginning, None)
    }

    fn events(step: Step) -> Frame {
        match step {
            Step::Events(batch) => batch.bytes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_stream_behind_the_log_and_the_log_are_one_sequence() {
        let mut fanout = fanout();
        let mut reader = subscriber(&mut fanout, 7, true);
        assert_eq!(reader.next(&fanout, 100), Step::Read { after: 7, floor: 10 });
        reader.take(chunk(1, 9, &[6, 8, 9]));
        assert_eq!(events(reader.next(&fanout, 100)), "<8><9>");
        assert_eq!(reader.next(&fanout, 100), Step::Read { after: 9, floor: 10 });
        reader.take(chunk(1, 10, &[]));
        assert_eq!(events(reader.next(&fanout, 100)), "<11><12>");
        assert_eq!(reader.next(&fanout, 100), Step::Wait);
    }

    #[test]
    fn what_expired_is_told_to_those_who_come_back() {
        let mut fanout = fanout();
        let mut reader = subscriber(&mut fanout, 3, true);
        let read = chunk(9, 10, &[9, 10]);
        reader.take(read.clone());
        let id = Position { epoch: EPOCH, sequence: 8, stamp: None };
        let told = gap(GapReason::Expired, Some(Position { sequence: 3, ..id }), Some(id));
        assert_eq!(reader.next(&fanout, 100), Step::Gap(GapReason::Expired, told));
        assert_eq!(events(reader.next(&fanout, 100)), "<9><10>");
        let mut new = subscriber(&mut fanout, 3, false);
        new.take(read);
        assert_eq!(events(new.next(&fanout, 100)), "<9><10>", "who asked for all that exists has lost nothing");
    }

    #[test]
    fn who_has_seen_nothing_begins_behind_a_purge_that_came_while_the_stream_was_read() {
        let mut fanout = fanout();
        let mut new = subscriber(&mut fanout, 3, false);
        new.take(chunk(9, 10, &[4, 5, 9, 10]));
        assert_eq!(events(new.next(&fanout, 100)), "<9><10>", "from 5 to 9 would be a loss without a word");
    }

    #[test]
    fn a_slow_reader_that_retention_overtakes_is_told() {
        let mut fanout = fanout();
        let mut reader = subscriber(&mut fanout, 3, false);
        reader.take(chunk(1, 5, &[4, 5]));
        assert_eq!(events(reader.next(&fanout, 100)), "<4><5>");
        reader.take(chunk(9, 10, &[9, 10]));
        assert!(matches!(reader.next(&fanout, 100), Step::Gap(GapReason::Expired, _)));
    }

    #[test]
    fn a_filter_applies_behind_the_log_too() {
        let mut fanout = fanout();
        let topics = TopicSet::new(["b".parse().unwrap()]).unwrap();
        let cursor = fanout.join(&topics, Mark { sequence: 3, stamp: None });
        let beginning = Beginning { positions: true, resumes: true, keeps_all: true, told: None };
        let mut reader = Subscriber::new(cursor, topics, beginning, None);
        reader.take(chunk(1, 10, &[4, 5]));
        assert_eq!(events(reader.next(&fanout, 100)), "<12>");
    }

    #[test]
    fn a_heartbeat_moves_the_checkpoint_once() {
        let mut fanout = fanout();
        let mut reader = subscriber(&mut fanout, 12, true);
        assert_eq!(reader.heartbeat(), frame::COMMENT);
        fanout.skip(Mark { sequence: 14, stamp: None });
        assert_eq!(reader.next(&fanout, 100), Step::Wait);
        assert_eq!(reader.heartbeat(), "event: tidings.position\ndata:\nid: a-14\n\n");
        assert_eq!(reader.heartbeat(), frame::COMMENT);
    }

    #[test]
    fn an_end_tells_the_position_to_come_back_to() {
        let mut fanout = fanout();
        let mut reader = subscriber(&mut fanout, 12, true);
        fanout.skip(Mark { sequence: 14, stamp: None });
        assert_eq!(reader.next(&fanout, 100), Step::Wait);
        assert_eq!(reader.last_position(), Some(Position { epoch: EPOCH, sequence: 14, stamp: None }));
        let new = subscriber(&mut fanout, 12, false);
        assert_eq!(new.last_position(), None, "who has seen nothing of what exists asks for all of it again");
    }

    #[test]
    fn a_snapshot_comes_first_and_moves_no_checkpoint() {
        let mut fanout = fanout();
        let entries = vec![entry(2, "a"), entry(5, "b")];
        let through = Mark { sequence: 11, stamp: None };
        let snapshot = Arc::new(Snapshot::new(entries, through, ByteBudget::new(0).reserve()));
        let cursor = fanout.join(&TopicSet::all(), Mark { sequence: 11, stamp: None });
        let beginning = Beginning { positions: true, resumes: false, keeps_all: true, told: None };
        let mut reader = Subscriber::new(cursor, TopicSet::all(), beginning, Some(snapshot));
        assert_eq!(events(reader.next(&fanout, 0)), "<2>");
        assert_eq!(reader.heartbeat(), frame::COMMENT);
        assert_eq!(events(reader.next(&fanout, 0)), "<5>");
        assert_eq!(events(reader.next(&fanout, 0)), "<12>");
    }

    #[test]
    fn what_a_gateway_gave_up_on_is_told_also_where_older_values_are_dropped() {
        let mut fanout = fanout();
        let beginning = Beginning { positions: true, resumes: true, keeps_all: false, told: None };
        let cursor = fanout.join(&TopicSet::all(), Mark { sequence: 12, stamp: None });
        let mut reader = Subscriber::new(cursor, TopicSet::all(), beginning, None);
        let (topic, frame, kind) = ("".into(), Frame::default(), crate::log::event_log::Kind::Lost);
        fanout.append(Arc::new(Entry { sequence: 13, time: 13, topic, frame, kind }), &mut Vec::new());
        assert!(matches!(reader.next(&fanout, 100), Step::Gap(GapReason::Expired, _)));
    }

    #[test]
    fn a_replaced_stream_cuts_what_was_being_read() {
        let mut fanout = fanout();
        let mut reader = subscriber(&mut fanout, 3, true);
        reader.take(chunk(1, 10, &[4, 5]));
        fanout.reset(Epoch::from_nanos(11), Mark { sequence: 2, stamp: None }, 1, &mut Vec::new());
        assert!(matches!(reader.next(&fanout, 100), Step::Gap(GapReason::Reset, _)));
        assert_eq!(reader.next(&fanout, 100), Step::Read { after: 0, floor: 2 });
    }

    #[test]
    fn what_was_read_of_another_stream_is_not_used() {
        let mut fanout = fanout();
        let mut reader = subscriber(&mut fanout, 3, true);
        assert_eq!(reader.next(&fanout, 100), Step::Read { after: 3, floor: 10 });
        fanout.reset(Epoch::from_nanos(11), Mark { sequence: 20, stamp: None }, 9, &mut Vec::new());
        let other = Chunk { generation: 1, from: 0, through: 20, first: 9, entries: vec![entry(9, "a")] };
        reader.take(Arc::new(other));
        assert!(matches!(reader.next(&fanout, 100), Step::Gap(GapReason::Reset, _)), "one gap, and of this reason");
        assert_eq!(reader.next(&fanout, 100), Step::Read { after: 8, floor: 20 }, "what was read is asked for again");
    }

    #[test]
    fn who_has_reached_the_head_or_was_told_a_position_is_told_of_every_loss() {
        for told in [false, true] {
            let mut fanout = fanout();
            let mut reader = subscriber(&mut fanout, 10, false);
            let filter = TopicSet::new(["x".parse().unwrap()]).unwrap();
            reader.cursor = fanout.join(&filter, Mark { sequence: 10, stamp: None });
            reader.topics = filter;
            if told {
                reader.told = None;
                reader.heartbeat();
            } else {
                assert_eq!(reader.next(&fanout, 100), Step::Wait);
            }
            fanout.jump(Mark { sequence: 40, stamp: None }, &mut Vec::new());
            assert!(matches!(reader.next(&fanout, 100), Step::Read { .. }));
            reader.take(chunk(30, 40, &[]));
            assert!(matches!(reader.next(&fanout, 100), Step::Gap(GapReason::Expired, _)), "told: {told}");
        }
    }

    #[test]
    fn what_the_cache_has_let_go_is_read_again() {
        let mut fanout = fanout();
        let mut reader = subscriber(&mut fanout, 3, true);
        let read = chunk(1, 10, &[4, 5, 6]);
        reader.take(read.clone());
        assert_eq!(events(reader.next(&fanout, 0)), "<4>");
        assert_eq!(events(reader.next(&fanout, 0)), "<5>");
        drop(read);
        assert_eq!(reader.next(&fanout, 0), Step::Read { after: 5, floor: 10 });
    }

    #[test]
    fn without_positions_falling_behind_is_a_gap() {
        let mut fanout = fanout();
        let cursor = fanout.join(&TopicSet::all(), Mark { sequence: 3, stamp: None });
        let beginning = Beginning { positions: false, resumes: false, keeps_all: true, told: None };
        let mut reader = Subscriber::new(cursor, TopicSet::all(), beginning, None);
        assert_eq!(
            reader.next(&fanout, 100),
            Step::Gap(GapReason::Dropped, "event: tidings.gap\ndata: {\"reason\":\"dropped\"}\n\n".into())
        );
        assert_eq!(events(reader.next(&fanout, 100)), "<11><12>");
        assert_eq!(reader.heartbeat(), frame::COMMENT);
    }
}
