//! One subscriber: what it is sent next, from a snapshot, the stream behind the Log, or the Log. No io.

use std::sync::Arc;

use bytes::Bytes;
use tidings_crds::position::Position;
use tidings_crds::topic::TopicSet;

use crate::chunk::Chunk;
use crate::end::EndReason;
use crate::fanout::{Cursor, Fanout, Next};
use crate::feed::{Batch, batch};
use crate::frame::{self, Gap};
use crate::log::Entry;
use crate::metrics::GapReason;

/// One open stream.
#[derive(Debug)]
pub struct Subscriber {
    cursor: Cursor,
    topics: TopicSet,
    /// Whether the channel has positions to tell (Ephemeral ones have not).
    positions: bool,
    /// Whether nothing that retention removes in front of the cursor is a loss: it has seen no event yet.
    fresh: bool,
    /// Whether retention by age, count or size is the only way for an event to go.
    keeps_all: bool,
    /// The newest events of some topics, to be sent before anything else.
    snapshot: Option<Snapshot>,
    chunk: Option<Arc<Chunk>>,
    /// The last sequence the client was told.
    told: Option<u64>,
}

/// The newest events of some topics, in stream order.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The events. The subscriber's cursor already stands where the stream goes on behind them.
    pub entries: Arc<[Arc<Entry>]>,
}

/// What to do for a subscriber.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send these events.
    Events(Batch),
    /// Send this control event.
    Gap(GapReason, Bytes),
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
    pub fn new(cursor: Cursor, topics: TopicSet, beginning: Beginning, snapshot: Option<Snapshot>) -> Self {
        let Beginning { positions, resumes, keeps_all, told } = beginning;
        Self { cursor, topics, positions, fresh: !resumes, keeps_all, snapshot, chunk: None, told }
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
        if let Some(batch) = self.read_chunk(budget) {
            return Step::Events(batch);
        }
        match fanout.next(&mut self.cursor, budget) {
            Next::Frames(batch) => {
                self.sent(&batch);
                Step::Events(batch)
            }
            Next::Wait => Step::Wait,
            Next::Behind { floor } if !self.positions => {
                self.cursor.move_to(floor);
                Step::Gap(GapReason::Dropped, gap(GapReason::Dropped, None, None))
            }
            Next::Behind { floor } => Step::Read { after: self.cursor.after(), floor },
            Next::Reset { after, resumed } => {
                self.fresh = true;
                self.told = Some(resumed.sequence);
                Step::Gap(GapReason::Reset, gap(GapReason::Reset, Some(after), Some(resumed)))
            }
            Next::End(reason) => Step::End(reason),
        }
    }

    /// Takes what was read of the stream. If retention was faster, continuity ends, and the subscriber is told.
    pub fn take(&mut self, chunk: Arc<Chunk>) -> Option<Bytes> {
        let before = self.cursor.position();
        let expired = chunk.expired(before.sequence).filter(|_| self.keeps_all && !self.fresh);
        self.chunk = Some(if self.topics.is_all() { chunk } else { Arc::new(chunk.filtered(&self.topics)) });
        self.cursor.move_to(expired?.resumed);
        self.told = Some(self.cursor.after());
        Some(gap(GapReason::Expired, Some(before), Some(self.cursor.position())))
    }

    /// What to send after a long silence: a checkpoint if there is something to move, a comment if not.
    pub fn heartbeat(&mut self) -> Bytes {
        let position = self.cursor.position();
        // Within a snapshot the sequence says nothing about what was sent.
        if !self.positions || self.snapshot.is_some() || self.told == Some(position.sequence) {
            return frame::COMMENT;
        }
        self.told = Some(position.sequence);
        frame::checkpoint(position)
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

    fn read_chunk(&mut self, budget: usize) -> Option<Batch> {
        let chunk = self.chunk.as_ref()?;
        match chunk.read(self.cursor.after(), budget) {
            Some(batch) => {
                self.sent(&batch);
                Some(batch)
            }
            None => {
                self.cursor.move_to(chunk.through);
                self.chunk = None;
                None
            }
        }
    }

    fn sent(&mut self, batch: &Batch) {
        self.cursor.pass(batch.last, batch.newest);
        self.told = Some(batch.last);
        self.fresh = false;
    }
}

/// A `tidings.gap`, with the position before the next event as its id.
pub fn gap(reason: GapReason, after: Option<Position>, resumed: Option<Position>) -> Bytes {
    let told = Gap {
        reason: reason.as_str(),
        after: after.map(|position| position.to_string()),
        resumed: resumed.map(|position| position.to_string()),
    };
    frame::gap(&told, resumed)
}
